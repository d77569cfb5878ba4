"""Search with a CLIP as it is: what a user types, and that the gallery finds the same CLIP again.

The weights are untrained ones of a tiny architecture, in a file; see tests/core/test_real_clip.py."""
import json
import shlex
import warnings
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import torch
from data.films import encode, numbered
from safetensors.torch import save_file
from search.galleries import TEXTS, index, open_gallery

import glscl
from glscl import clip_weights
from glscl.__main__ import main
from glscl.interaction import global_similarity_printed
from glscl.score import encode_captions, encode_files
from glscl.search.zero_shot import SHARPNESS

TINY = dict(embed_dim=64, vision_cfg=dict(image_size=32, layers=2, width=64, patch_size=16, head_width=32),
            text_cfg=dict(context_length=77, vocab_size=49408, width=64, heads=2, layers=2))


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """A file of weights for the architecture `tiny-quickgelu`; QuickGELU is in the name, so no guess is made."""
    folder = tmp_path_factory.mktemp('tiny')
    (folder / 'tiny-quickgelu.json').write_text(json.dumps({**TINY, 'quick_gelu': True}))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    clip = open_clip.CLIP(**TINY, quick_gelu=True)
    save_file({k: v.contiguous() for k, v in clip.state_dict().items()}, folder / 'tiny.safetensors')
    return folder / 'tiny.safetensors'


def typed(line, capsys):
    """(exit status, stdout, stderr) of a line."""
    status = main(shlex.split(line))
    return status, *capsys.readouterr()


@pytest.fixture
def zero_shot_gallery(films, weights, tmp_path, capsys):
    status, out, err = typed(f'index "{films}" --out {tmp_path}/g --clip tiny-quickgelu --pretrained {weights} '
                             f'--workers 1 --device cpu', capsys)
    assert status == 0 and '12 videos: 12 added' in out and err == ''
    return tmp_path / 'g'


def test_index_and_search_as_typed_with_a_clip_of_a_file(zero_shot_gallery, weights, capsys):
    status, out, err = typed(f'search {zero_shot_gallery} "a cat playing the piano" -k 3 --json --device cpu', capsys)
    assert status == 0 and err == ''
    found = json.loads(out)[0]['results']
    model = glscl.ZeroShot('tiny-quickgelu', weights)
    texts = encode_captions(model, ['a cat playing the piano'])
    videos = encode_files(model, [row['path'] for row in found])
    tau = json.loads((zero_shot_gallery / 'gallery.json').read_text())['clip']['temperature']
    expected = global_similarity_printed(texts.sentence, videos.frames, videos.mask, tau)
    assert [row['score'] for row in found] == pytest.approx(expected[0].tolist(), abs=2e-3)
    assert model.local is None and model.temporal is None


def test_the_gallery_tells_which_clip_and_a_later_index_goes_on_with_it(zero_shot_gallery, films, weights, tmp_path, capsys):
    recorded = json.loads((zero_shot_gallery / 'gallery.json').read_text())
    assert recorded['model'] is None
    assert recorded['clip']['name'] == 'tiny-quickgelu' and recorded['clip']['pretrained'] == str(weights)
    encode(tmp_path / 'new.mp4', numbered(30))
    status, out, err = typed(f'index {tmp_path}/new.mp4 --out {zero_shot_gallery} --workers 1 --device cpu', capsys)
    assert status == 0 and '1 added' in out and err == ''
    after = json.loads((zero_shot_gallery / 'gallery.json').read_text())
    assert {k: after[k] for k in ('model', 'clip', 'fingerprint')} == {k: recorded[k] for k in ('model', 'clip', 'fingerprint')}
    assert len(open_gallery(zero_shot_gallery)) == 13
    line = f'index "{films}" --out {zero_shot_gallery} --clip tiny-quickgelu --pretrained {weights} --workers 1 --device cpu'
    assert typed(line, capsys)[0] == 0
    assert json.loads((zero_shot_gallery / 'gallery.json').read_text())['clip'] == recorded['clip']


def test_the_temperature_keeps_the_sharpness_that_the_paper_has(zero_shot_gallery, films):
    found = open_gallery(zero_shot_gallery)
    _, videos = everything_without_concepts(zero_shot_gallery)
    e = encode_captions(found.model, ['a dog runs', 'the sea']).sentence.norm(dim=-1).mean()
    y = videos.frames.float()[videos.mask].norm(dim=-1).mean()
    assert float(e * y) / found.model.config.temperature == pytest.approx(SHARPNESS, rel=0.1)
    openai = glscl.Config.temperature
    assert 10 * 10 / openai == SHARPNESS
    model = glscl.ZeroShot('small', temperature=7)
    assert model.fitted and model.config.temperature == 7


def everything_without_concepts(folder):
    found = open_gallery(folder)
    name, entry = found.shards[0]
    return found.read(name, entry)


def test_another_clip_is_refused(zero_shot_gallery, films, weights, checkpoint, tmp_path, capsys):
    before = (zero_shot_gallery / 'gallery.json').read_bytes()
    clip = open_clip.CLIP(**TINY, quick_gelu=True)
    save_file({k: v.contiguous() for k, v in clip.state_dict().items()}, tmp_path / 'other.safetensors')
    for flags in (f'--model {checkpoint}', '--clip small', f'--clip tiny-quickgelu --pretrained {tmp_path}/other.safetensors'):
        status, _, err = typed(f'index "{films}" --out {zero_shot_gallery} --device cpu {flags}', capsys)
        assert status == 1 and f'was made by another model (tiny-quickgelu {weights}' in err, flags
    assert (zero_shot_gallery / 'gallery.json').read_bytes() == before


def test_weights_that_moved_are_named_and_index_takes_their_new_place(zero_shot_gallery, films, weights, tmp_path, capsys):
    recorded = json.loads((zero_shot_gallery / 'gallery.json').read_text())
    moved = tmp_path / 'moved.safetensors'
    moved.write_bytes(weights.read_bytes())
    gone = {**recorded, 'clip': {**recorded['clip'], 'pretrained': str(tmp_path / 'gone.safetensors')}}
    (zero_shot_gallery / 'gallery.json').write_text(json.dumps(gone))
    status, _, err = typed(f'search {zero_shot_gallery} x --device cpu', capsys)
    assert status == 1 and 'gone.safetensors, the weights of tiny-quickgelu' in err and '--pretrained FILE' in err
    line = f'index "{films}" --out {zero_shot_gallery} --clip tiny-quickgelu --pretrained {moved} --workers 1 --device cpu'
    assert typed(line, capsys)[0] == 0
    assert json.loads((zero_shot_gallery / 'gallery.json').read_text())['clip'] == {**recorded['clip'], 'pretrained': str(moved)}
    assert typed(f'search {zero_shot_gallery} x --device cpu', capsys)[0] == 0


@pytest.mark.parametrize('flags, said', [
    ('--clip ViT-B-32', 'ViT-B-32 needs --pretrained: a file of weights, or a tag of open_clip (openai, '),
    ('--clip ViT-B-23 --pretrained openai', "unknown CLIP 'ViT-B-23', did you mean"),
    ('--clip ViT-B-32 --pretrained opena', "'opena' is neither a file on this machine nor one of open_clip's tags"),
    ('--pretrained openai', '--pretrained openai are the weights of which architecture?'),
    ('--clip small --model runs/x', '--model names a trained model and --clip one without'),
    ('--clip ViT-B-32 --pretrained openai', 'the weights of ViT-B-32 (openai) are not on this machine and cannot be downloaded'),
    ('--clip ViT-B-32 --pretrained openai', 'For `glscl index` the path is named as --pretrained.')])
def test_what_is_wrong_with_a_clip_is_one_line(flags, said, films, tmp_path, capsys, monkeypatch):
    def unreachable(*_, **__):
        raise OSError('no route to host')
    monkeypatch.setattr(Path, 'home', lambda: tmp_path)
    monkeypatch.setattr(huggingface_hub, 'try_to_load_from_cache', lambda *_: None)
    monkeypatch.setattr(huggingface_hub, 'model_info', unreachable)
    monkeypatch.setattr(clip_weights, 'download_pretrained', unreachable)
    status, _, err = typed(f'index "{films}" --out {tmp_path}/g --device cpu {flags}', capsys)
    assert status == 1 and said in err and err.count('\n') == 1
    assert not (tmp_path / 'g').exists()


@pytest.mark.parametrize('clip', [3, 'x', {}, {'name': 'x', 'pretrained': 3, 'temperature': 1}, {'name': 'x', 'pretrained': 'y', 'temperature': -1}])
def test_a_damaged_record_is_named(zero_shot_gallery, clip):
    recorded = json.loads((zero_shot_gallery / 'gallery.json').read_text())
    (zero_shot_gallery / 'gallery.json').write_text(json.dumps({**recorded, 'clip': clip}))
    with pytest.raises(ValueError, match='gallery.json is damaged: .*clip is not as it was written'):
        open_gallery(zero_shot_gallery)


# ---- the shipped small model, which knows moving shapes only

LOUD = 'is no video of `shapes`, and this model knows moving shapes only'


def test_the_shipped_model_says_once_that_it_knows_shapes_only(tmp_path, capsys):
    encode(tmp_path / 'cat.mp4', numbered(30))
    status, out, err = typed(f'index {tmp_path}/cat.mp4 --out {tmp_path}/g --workers 1 --device cpu', capsys)
    assert status == 0 and LOUD not in out
    assert err.count(LOUD) == 1 and err.startswith('warning: ') and '--clip ViT-B-32 --pretrained openai' in err and '--model' in err
    status, out, err = typed(f'search {tmp_path}/g "a red ring" "a blue star" --device cpu', capsys)
    assert status == 0 and LOUD not in out and err.count(LOUD) == 1
    with pytest.warns(UserWarning, match=LOUD) as told:
        glscl.load_model().score('a red ring shrinks', tmp_path / 'cat.mp4')
    assert len(told) == 1 and told[0].filename == __file__
    with pytest.warns(UserWarning, match=LOUD) as told:
        found = glscl.Gallery(tmp_path / 'g', device='cpu')
        found.search('a red ring')
        found.search('a blue star')
    assert len(told) == 1


def test_words_that_the_small_clip_does_not_know_are_named_in_one_line(shared_gallery, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter('default')
        status, _, err = typed(f'search {shared_gallery} "a cat playing the piano" "a cat" --device cpu', capsys)
    assert status == 0 and err.count('\n') == 1 and err.startswith("warning: words that are not in the small CLIP's vocabulary")
    assert 'count as one unknown word: cat, playing, piano. Say it in other words' in err


def test_each_call_with_unknown_words_warns_once_at_its_line(shared_gallery, films, model):
    """Python alone would show the second of two searches none, and of two hundred texts each batch of its own."""
    gallery, film = open_gallery(shared_gallery, model=None), films / 'test0003.mp4'
    calls = [lambda: gallery.search('a cat'), lambda: gallery.search('a cat'), lambda: gallery.search(['a cat', 'a cat, a dog']),
             lambda: gallery.encode_texts(['a cat', *['a ring'] * 200, 'two dogs', 'a dog']), lambda: model.score('a dog', film),
             lambda: model.score(['a dog', 'a ring'], [film, film])]
    for call, words in zip(calls, ['cat', 'cat', 'cat, dog', 'cat, dogs, dog', 'dog', 'dog']):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter('default')
            call()
        assert [str(warning.message).split(': ')[1].split('.')[0] for warning in told] == [words]
        assert told[0].filename == __file__ and told[0].lineno == call.__code__.co_firstlineno
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        gallery.search('a red ring shrinks')
    with pytest.warns(UserWarning, match='word: w0, .*, w7 and 3 more'):
        gallery.search(' '.join(f'w{n}' for n in range(11)))


def test_it_says_nothing_of_videos_of_shapes_and_another_clip_says_nothing_at_all(films, weights, tmp_path, capsys):
    status, _, err = typed(f'index "{films}" --out {tmp_path}/g --workers 1 --device cpu', capsys)
    assert status == 0 and err == ''
    assert typed(f'search {tmp_path}/g "a red ring" --device cpu', capsys)[2] == ''
    encode(tmp_path / 'cat.mp4', numbered(30))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        glscl.load_model().score('a red ring shrinks', films / 'test0005.mp4')
        glscl.ZeroShot('tiny-quickgelu', weights).score('a cat', tmp_path / 'cat.mp4')


def test_in_python_a_zero_shot_model_makes_a_gallery_that_finds_it_again(films, weights, tmp_path):
    index(films, tmp_path / 'g', glscl.ZeroShot('tiny-quickgelu', weights))
    found = open_gallery(tmp_path / 'g')
    assert isinstance(found.model, glscl.ZeroShot) and len(found.search(TEXTS[0], 3)) == 3
