"""CLIP with OpenAI's weights and others': every kind of file, the right activation, and what is said when there are none.

The real weights are not here: a tiny architecture under a name of its own takes their place, in each of their layouts."""
import argparse
import copy
import json
import os
import warnings
from functools import partial
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import torch
from open_clip import pretrained as tags
from safetensors.torch import save_file

from glscl import GLSCL, evaluate, load_model, save_model, training
from glscl import clip_weights as weights
from glscl.clip_models import build_clip, image_size, load_clip
from glscl.config import Config
from glscl.data.tokens import tokenize
from glscl.encoders import Clip, TemporalTransformer

TINY = dict(embed_dim=64, vision_cfg=dict(image_size=32, layers=2, width=64, patch_size=16, head_width=32),
            text_cfg=dict(context_length=77, vocab_size=49408, width=64, heads=2, layers=2))
CAPTIONS = ['a red star moves left', 'two tiny golden hoops fall in the dark, then one box stays still']


@pytest.fixture(scope='module', autouse=True)
def tiny(tmp_path_factory):
    """open_clip knows the architectures `tiny` and `tiny-quickgelu`."""
    folder = tmp_path_factory.mktemp('architectures')
    (folder / 'tiny.json').write_text(json.dumps(TINY))
    (folder / 'tiny-quickgelu.json').write_text(json.dumps({**TINY, 'quick_gelu': True}))
    open_clip.add_model_config(folder)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Neither the weights on this machine nor a network."""
    monkeypatch.setattr(Path, 'home', lambda: tmp_path / 'home')
    monkeypatch.setattr(huggingface_hub, 'try_to_load_from_cache', lambda *_: None)

    def unreachable(*_, **__):
        raise OSError('no route to host')
    monkeypatch.setattr(huggingface_hub, 'model_info', unreachable)
    monkeypatch.setattr(weights, 'download_pretrained', unreachable)
    return tmp_path / 'home'


@pytest.fixture
def tag(monkeypatch):
    """A tag `openai` (QuickGELU) and a tag `laion2b` (plain) for the tiny architecture."""
    cfgs = {name: {**tags.get_pretrained_cfg('ViT-B-32', 'openai'), 'url': f'https://example.com/a/{name}.pt',
                   'hf_hub': f'none/{name}/', 'quick_gelu': name == 'openai'} for name in ('openai', 'laion2b')}
    for name in ('tiny', 'tiny-quickgelu'):
        monkeypatch.setitem(tags._PRETRAINED, name, cfgs)
    return cfgs


def source(quick_gelu=True):
    """Untrained weights as OpenAI published theirs: matrices of float16 numbers."""
    clip = open_clip.CLIP(**TINY, quick_gelu=quick_gelu).eval()
    with torch.no_grad():
        for p in clip.parameters():
            if p.ndim > 1:
                p.copy_((4 * p).half())  # larger than at the start, so that the two activations differ
    return clip


def archive(clip, path):
    """OpenAI's kind of file: a TorchScript archive with three numbers beside the weights, its matrices in float16."""
    clip = copy.deepcopy(clip)
    for name, value in dict(input_resolution=32, context_length=77, vocab_size=49408).items():
        clip.__dict__.pop(name, None)
        clip.register_buffer(name, torch.tensor(value))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        traced = torch.jit.trace(clip, (torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.long)), check_trace=False)
        for p in traced.parameters():
            if p.ndim > 1:
                p.data = p.data.half()
        torch.jit.save(traced, path)


WRITE = dict(
    archive=archive,
    half=lambda clip, path: torch.save({k: v.half() for k, v in clip.state_dict().items()}, path),
    plain=lambda clip, path: torch.save(clip.state_dict(), path),
    training=lambda clip, path: torch.save(
        dict(epoch=3, name='x', state_dict={f'module.{k}': v for k, v in clip.state_dict().items()}), path),
    legacy=lambda clip, path: torch.save(clip.state_dict(), path, _use_new_zipfile_serialization=False),
    safetensors=lambda clip, path: save_file({k: v.contiguous() for k, v in clip.state_dict().items()}, path))


def assert_same(ours, theirs, atol=2e-5):
    """Our pooled features are those of open_clip's CLIP."""
    ids, mask = tokenize(CAPTIONS, 32)
    side = theirs.visual.image_size[0]
    pixels = torch.randn(2, 3, side, side)
    with torch.no_grad():
        sentence, words = ours.eval().encode_words(ids, mask)
        torch.testing.assert_close(sentence, theirs.encode_text(torch.nn.functional.pad(ids, (0, 45))), atol=atol, rtol=1e-4)
        torch.testing.assert_close(ours.encode_frames(pixels), theirs.encode_image(pixels), atol=atol, rtol=1e-4)
    assert words.shape == (2, 32, ours.width) and torch.equal(words[[0, 1], mask.sum(1) - 1], sentence)


# ---- files

@pytest.mark.parametrize('kind, name', [
    ('archive', 'ViT.pt'), ('half', 'ViT.pt'), ('plain', 'ViT.pt'), ('legacy', 'ViT.bin'),
    ('training', 'open_clip_pytorch_model.bin'), ('safetensors', 'open_clip_model.safetensors')])
def test_openais_weights_are_read_from_every_kind_of_file_in_float32_with_quick_gelu(tmp_path, kind, name):
    theirs = source()
    WRITE[kind](theirs, tmp_path / name)
    for architecture in ('tiny', 'tiny-quickgelu'):
        ours = load_clip(architecture, tmp_path / name)
        assert ours.quick_gelu and {p.dtype for p in ours.parameters()} == {torch.float32}
        assert_same(ours, theirs, atol=2e-2 if kind == 'half' else 2e-5)  # half: positions and norms too
    with torch.no_grad():  # the other activation would be seen
        plain = open_clip.CLIP(**TINY).eval()
        plain.load_state_dict(theirs.state_dict(), strict=False)
        pixels = torch.randn(2, 3, 32, 32)
        assert (plain.encode_image(pixels) - theirs.encode_image(pixels)).abs().max() > 1e-2


def test_a_file_of_other_origin_follows_the_name_and_says_so(tmp_path):
    theirs = open_clip.CLIP(**TINY).eval()
    save_file(theirs.state_dict(), tmp_path / 'laion.safetensors')
    with pytest.warns(UserWarning, match='plain GELU, as tiny says.*tiny-quickgelu'):
        ours = load_clip('tiny', tmp_path / 'laion.safetensors')
    assert not ours.quick_gelu
    assert_same(ours, theirs)
    assert load_clip('tiny-quickgelu', tmp_path / 'laion.safetensors').quick_gelu


def test_random_weights_follow_the_name():
    assert load_clip('tiny-quickgelu').quick_gelu and not load_clip('tiny').quick_gelu


@pytest.mark.parametrize('kind', ['archive', 'safetensors'])  # either may be fetched, and is saved under one name
@pytest.mark.parametrize('name, which, quick_gelu', [('tiny', 'openai', True), ('tiny-quickgelu', 'openai', True),
                                                     ('tiny', 'laion2b', False)])
def test_a_tag_knows_its_activation_and_is_found_where_the_message_says(tag, home, kind, name, which, quick_gelu):
    theirs = source(quick_gelu)
    with pytest.raises(FileNotFoundError) as told:
        load_clip(name, which)
    place = next(word.rstrip(',') for word in str(told.value).split() if word.startswith(str(home)))
    Path(place).parent.mkdir(parents=True)
    WRITE[kind](theirs, place)
    assert weights.find_weights(name, which) == Path(place)
    ours = load_clip(name, which)
    assert ours.quick_gelu == quick_gelu
    assert_same(ours, theirs)


def test_a_tag_is_found_in_hugging_faces_cache(tag, tmp_path, monkeypatch):
    WRITE['safetensors'](source(), tmp_path / 'cached.safetensors')
    monkeypatch.setattr(huggingface_hub, 'try_to_load_from_cache', lambda repository, file: (
        str(tmp_path / 'cached.safetensors') if (repository, file) == ('none/openai', 'open_clip_model.safetensors') else None))
    assert load_clip('tiny', 'openai').quick_gelu
    with pytest.raises(FileNotFoundError):
        load_clip('tiny', 'laion2b')


def test_a_tag_is_downloaded_where_there_is_a_network(tag, tmp_path, monkeypatch):
    WRITE['safetensors'](source(), tmp_path / 'new.safetensors')
    monkeypatch.setattr(huggingface_hub, 'model_info', lambda repository, timeout: None)
    files = {'none/openai/': str(tmp_path / 'new.safetensors')}
    monkeypatch.setattr(weights, 'download_pretrained', lambda cfg: files[cfg['hf_hub']])
    assert load_clip('tiny', 'openai').quick_gelu


@pytest.mark.parametrize('name', ['ViT-B-32', 'ViT-B/32', 'ViT-B-16', 'ViT-B-16-quickgelu'])
def test_the_papers_weights_are_tags_with_quick_gelu(name, monkeypatch):
    asked = []
    monkeypatch.setattr(weights, '_download', lambda name, tag, cfg: asked.append(cfg['hf_hub']))
    monkeypatch.setattr(weights, 'read_weights', lambda path: ({}, False))
    assert weights.load_weights(name, 'openai') == ({}, True)
    assert asked == [f'timm/vit_base_patch{16 if "16" in name else 32}_clip_224.openai/']
    assert weights.load_weights('ViT-B-32', 'laion2b_s34b_b79k') == ({}, False)
    assert weights.load_weights('ViT-B-32', 'laion400m_e32') == ({}, True)


# ---- what cannot be had

def test_weights_out_of_reach_are_one_message_with_where_to_get_and_put_them(home):
    with pytest.raises(FileNotFoundError) as told:
        load_clip('ViT-B-32', 'openai')
    message = str(told.value)
    for part in ('the weights of ViT-B-32 (openai)', 'no route to host', 'https://openaipublic.azureedge.net/',
                 'https://huggingface.co/timm/vit_base_patch32_clip_224.openai',
                 str(home / '.cache' / 'clip' / 'ViT-B-32.pt'), 'clip_pretrained', 'clip="small"'):
        assert part in message
    assert '\n' not in message and told.value.__suppress_context__ and told.value.__cause__ is None


def test_offline_mode_is_respected(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    monkeypatch.setattr(weights, 'find_weights', lambda *_: None)
    monkeypatch.setattr(weights, 'download_pretrained', lambda _: pytest.fail('went to the network'))
    with pytest.raises(FileNotFoundError, match='cannot be downloaded .*offline mode'):
        load_clip('ViT-B-16', 'openai')


@pytest.mark.parametrize('pretrained', ['laion9b', '/none/ViT-B-32.pt'])
def test_neither_a_tag_nor_a_file(pretrained):
    with pytest.raises(FileNotFoundError, match=rf"clip_pretrained='{pretrained}' is neither a file .* nor one of .*: openai, "):
        load_clip('ViT-B-32', pretrained)


@pytest.mark.parametrize('name, said', [('ViT-B-33', "did you mean 'ViT-B-32'"), ('ViT-B-16-SigLIP', 'not built as OpenAI'),
                                        ('RN50', 'not built as OpenAI'), ('ViT-H-14-CLIPA', 'not built as OpenAI'),
                                        ('roberta-ViT-B-32', 'not built as OpenAI'), ('coca_ViT-B-32', 'not built as OpenAI')])
def test_an_architecture_of_another_kind_is_refused(name, said):
    for build in (load_clip, image_size):
        with pytest.raises(ValueError, match=said):
            build(name)


def test_weights_for_other_pixels_are_refused():
    with pytest.raises(ValueError, match='ViT-L-14 .*laion2b_s32b_b82k.* normalised in another way'):
        load_clip('ViT-L-14', 'laion2b_s32b_b82k')


class Trap:
    def __reduce__(self):
        return os.mkdir, (self.path,)


class Writes(torch.nn.Module):
    """Scripted, it writes a file while it is loaded."""

    def __init__(self, path):
        super().__init__()
        self.path: str = path

    def forward(self, x):
        return x

    @torch.jit.export
    def __getstate__(self):
        return self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]):
        self.path = state[0]
        self.training = state[1]
        torch.save(torch.zeros(1), self.path)


def refused(path, reason):
    """What is said of a file is one ValueError with its name."""
    with pytest.raises(ValueError, match=f'{path.name}.*{reason}') as error:
        load_clip('tiny', path)
    assert error.value.__cause__ is None and '\n' not in str(error.value)
    assert 'weights_only' not in str(error.value) and 'add_safe_globals' not in str(error.value)


def test_files_that_are_no_weights_are_named(tmp_path):
    torch.save([torch.zeros(2)], tmp_path / 'list.pt')
    refused(tmp_path / 'list.pt', 'holds no state_dict')
    torch.save({'state_dict': {}}, tmp_path / 'empty.pt')
    refused(tmp_path / 'empty.pt', 'holds no state_dict')
    (tmp_path / 'half.safetensors').write_bytes(b'\x10\0\0\0\0\0\0\0{"a": {')
    refused(tmp_path / 'half.safetensors', 'cannot be read .* Is the download complete')
    (tmp_path / 'page.pt').write_text('<html>404</html>')
    refused(tmp_path / 'page.pt', 'cannot be read .* Is the download complete')
    save_file({'text_model.embeddings.position_ids': torch.zeros(1)}, tmp_path / 'hf.safetensors')
    refused(tmp_path / 'hf.safetensors', "layout of Hugging Face's transformers")


@pytest.mark.parametrize('kind', ['archive', 'plain', 'legacy', 'safetensors'])
@pytest.mark.parametrize('share', [0.0, 0.3, 0.99])
def test_a_cut_file_is_named(tmp_path, kind, share):
    WRITE[kind](source(), tmp_path / 'whole')
    whole = (tmp_path / 'whole').read_bytes()
    (tmp_path / 'cut.pt').write_bytes(whole[:int(share * len(whole))])
    refused(tmp_path / 'cut.pt', 'cannot be read')


@pytest.mark.parametrize('zipped', [True, False])
def test_a_file_that_could_run_code_is_refused_and_runs_none(tmp_path, zipped):
    trap = Trap()
    trap.path = str(tmp_path / 'sprung')
    torch.save({'state_dict': trap}, tmp_path / 'trap.pt', _use_new_zipfile_serialization=zipped)
    refused(tmp_path / 'trap.pt', r'could run code \(\w+.mkdir\)')
    assert not (tmp_path / 'sprung').exists()


@pytest.mark.filterwarnings('ignore::FutureWarning')
def test_an_archive_whose_code_would_run_while_it_is_loaded_is_refused(tmp_path):
    scripted = torch.jit.script(Writes(str(tmp_path / 'sprung')))
    scripted.save(tmp_path / 'trap.pt')
    torch.jit.load(tmp_path / 'trap.pt')  # so that much is possible
    (tmp_path / 'sprung').unlink()
    refused(tmp_path / 'trap.pt', r'could run code \(__setstate__\)')
    assert not (tmp_path / 'sprung').exists()


def test_numpy_numbers_beside_the_weights_are_read_and_other_types_named_whole(tmp_path):
    clip = source()
    checkpoint = {'state_dict': clip.state_dict(), 'optimizer': {'lr': np.float64(1e-4)},
                  'epoch': np.int64(3)}
    torch.save(checkpoint, tmp_path / 'epoch_1.pt')
    assert_same(load_clip('tiny-quickgelu', tmp_path / 'epoch_1.pt'), clip)
    torch.save({**checkpoint, 'args': argparse.Namespace(lr=1e-4)}, tmp_path / 'epoch_2.pt')
    refused(tmp_path / 'epoch_2.pt', r'could run code \(argparse.Namespace\)')


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='a system without named pipes')
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe.pt')
    with pytest.raises(FileNotFoundError, match='pipe.pt.*is neither a file'):
        load_clip('tiny', tmp_path / 'pipe.pt')
    for path in (tmp_path / 'pipe.pt', '/dev/zero'):
        with pytest.raises(FileNotFoundError, match=f'{path} is not a regular file'):
            weights.read_weights(path)


def test_another_architectures_file_is_refused_by_what_differs(tmp_path):
    other = open_clip.CLIP(**{**TINY, 'vision_cfg': {**TINY['vision_cfg'], 'patch_size': 8, 'layers': 3}})
    save_file(other.state_dict(), tmp_path / 'other.safetensors')
    with pytest.raises(ValueError, match=r'other.safetensors does not hold the weights of tiny-quickgelu: .*blocks.2.* unknown'):
        load_clip('tiny-quickgelu', tmp_path / 'other.safetensors')
    state = source().state_dict()
    del state['ln_final.bias']
    state['visual.conv1.weight'] = torch.zeros(64, 3, 8, 8)
    save_file(state, tmp_path / 'cut.safetensors')
    with pytest.raises(ValueError, match=r'ln_final.bias is missing; visual.conv1.weight is \[64, 3, 8, 8\], not \[64, 3, 16'):
        load_clip('tiny-quickgelu', tmp_path / 'cut.safetensors')


def test_the_small_clip_asks_for_its_own_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='openai: no such file. With clip="small", clip_pretrained is null'):
        load_clip('small', 'openai')
    WRITE['safetensors'](source(), tmp_path / 'big.safetensors')
    with pytest.raises(ValueError, match='big.safetensors is not a small CLIP'):
        load_clip('small', tmp_path / 'big.safetensors')


# ---- frozen, recomputed, kept

def settings(**changes):
    return Config(clip='tiny-quickgelu', clip_pretrained=None, max_frames=3, temporal_layers=1, num_queries=2,
                  decoder_layers=1).replace(**changes)


def backward(model):
    """Gradients by name of a batch of two pairs that is always the same, without dropout elsewhere."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(2, 3, 3, 32, 32, generator=generator)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    losses = model.losses(model.encode_texts(*tokenize(CAPTIONS)), model.encode_videos(pixels, torch.ones(2, 3)))
    losses.total.backward()
    return losses, {name: p.grad for name, p in model.named_parameters()}


def test_a_frozen_clip_takes_no_gradient_and_stays_in_eval_mode_but_the_scale_learns():
    model = GLSCL(settings(freeze_clip=True)).train()
    assert model.training and model.local.training and not any(m.training for m in model.clip.modules())
    grads = backward(model)[1]
    assert [n for n, g in grads.items() if n.startswith('clip.') and g is not None] == ['clip.clip.logit_scale']
    assert all(g is not None for n, g in grads.items() if not n.startswith('clip.'))
    learning = {id(p) for group in model.parameter_groups() for p in group['params']}
    assert learning == {id(p) for n, p in model.named_parameters() if not n.startswith('clip.') or n.endswith('logit_scale')}
    assert all(m.training for m in GLSCL(settings()).train().clip.modules())


def test_a_frozen_clip_is_the_same_after_training(splits, config):
    trainer = training.Trainer(GLSCL(config.replace(freeze_clip=True)), splits['train'], splits['val'], steps=2)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    trainer.run(log=None)
    moved = [k for k, v in trainer.model.state_dict().items() if not torch.equal(v, before[k])]
    assert 'local.video_queries' in moved and [k for k in moved if k.startswith('clip.')] == ['clip.clip.logit_scale']


@pytest.mark.parametrize('frozen', [False, True])
def test_checkpointing_recomputes_both_towers_and_gives_the_same_gradients(frozen):
    torch.manual_seed(3)
    plain = GLSCL(settings(freeze_clip=frozen)).train()
    model = GLSCL(settings(freeze_clip=frozen, grad_checkpointing=True)).train()
    model.load_state_dict(plain.state_dict())
    calls = {'text': 0, 'image': 0}
    for tower, blocks in dict(text=model.clip.clip.transformer, image=model.clip.clip.visual.transformer).items():
        blocks.resblocks[1].ln_1.register_forward_hook(lambda *_, tower=tower: calls.update({tower: calls[tower] + 1}))
    (losses, grads), (theirs, expected) = backward(model), backward(plain)
    torch.testing.assert_close(losses.total, theirs.total)
    for name, grad in expected.items():
        assert (grads[name] is None) == (grad is None), name
        if grad is not None:
            torch.testing.assert_close(grads[name], grad, msg=name)
    if not frozen:
        assert calls == dict(text=2, image=2)
    with torch.no_grad():
        model.encode_texts(*tokenize(CAPTIONS))
    assert calls['text'] == (2 if frozen else 3)


@pytest.mark.parametrize('name', ['tiny', 'tiny-quickgelu'])
def test_a_checkpoint_keeps_its_activation_and_asks_for_no_pretrained_weights(name, tmp_path, monkeypatch):
    WRITE['archive'](source(), tmp_path / 'ViT.pt')
    model = GLSCL(settings(clip=name, clip_pretrained=str(tmp_path / 'ViT.pt'))).eval()
    (tmp_path / 'ViT.pt').unlink()
    save_model(model, tmp_path / 'model.safetensors')
    back = load_model(tmp_path / 'model.safetensors', config=model.config)
    assert back.clip.quick_gelu and back.config == model.config
    assert_same(back.clip, model.clip.clip)
    back.clip.clip.visual.conv1 = torch.nn.Conv2d(3, 64, 8, 8, bias=False)
    save_model(back, tmp_path / 'odd.safetensors')
    with pytest.raises(ValueError, match='odd.safetensors: its weights do not fit its configuration .*conv1'):
        load_model(tmp_path / 'odd.safetensors')


def test_frames_in_float16_as_older_gpus_make_them_pass_the_temporal_transformer():
    temporal, x = TemporalTransformer(build_clip('tiny', True), 1), torch.randn(2, 3, 64)
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    with torch.no_grad(), torch.autocast('cpu', torch.float16):
        y = temporal(x.half(), mask)
    assert y.isfinite().all()
    torch.testing.assert_close(y[0], temporal(x, mask)[0].detach(), atol=2e-2, rtol=2e-2, check_dtype=False)


# ---- full size

@pytest.fixture(scope='module')
def full():
    """ViT-B/32 at full size with random weights."""
    torch.manual_seed(0)
    return open_clip.create_model('ViT-B-32-quickgelu').eval()


def test_the_full_clip_gives_open_clips_own_features_and_64_words(full):
    clip = Clip(full)
    assert_same(clip, full)
    assert (clip.width, clip.image_size, image_size('ViT-B/16')) == (512, 224, 224)
    ids, mask = tokenize([' '.join(['word'] * 62), 'a paragraph'], 64)
    with torch.no_grad():
        sentence, words = clip.encode_words(ids, mask)
        torch.testing.assert_close(sentence, full.encode_text(torch.nn.functional.pad(ids, (0, 13))), atol=2e-5, rtol=1e-4)
    assert words.shape == (2, 64, 512)


@pytest.mark.slow
@pytest.mark.parametrize('name, words, frames', [('ViT-B-32-quickgelu', 32, 12), ('ViT-B-32-quickgelu', 64, 64),
                                                 ('ViT-B-16', 32, 2)])
def test_a_full_model_trains_evaluates_saves_and_loads(name, words, frames, tmp_path):
    """Settings of MSR-VTT, of DiDeMo and ActivityNet, and a ViT-B/16: random pixels of 224, D = 512."""
    import pandas as pd

    from glscl.data.frames import FrameStore
    from glscl.data.pairs import Pairs
    config = Config(clip=name, clip_pretrained=None, max_words=words, max_frames=frames, grad_checkpointing=frames == 64,
                    batch_size=2)
    ids, words_mask = tokenize([' '.join(['tall'] * (words - 2)), 'a cat'], words)
    frame_mask = torch.ones(2, frames, dtype=torch.bool)
    frame_mask[1, frames // 2:] = False
    pixels = torch.randint(0, 256, (2, frames, 224, 224, 3), dtype=torch.uint8).numpy()
    counts = frame_mask.sum(1).tolist()
    videos = [partial(np.asarray, video[:count]) for video, count in zip(pixels, counts)]
    store = FrameStore([tmp_path / f'{v}.npy' for v in range(2)], videos, counts, pixels.shape[1:], np.uint8)
    pairs = Pairs(pd.DataFrame(dict(video=[0, 1])), ids, words_mask, store, frame_mask, {})
    trainer = training.Trainer(GLSCL(config), pairs, pairs, tmp_path, steps=1)
    before = trainer.model.clip.clip.visual.conv1.weight.detach().clone()
    losses = trainer.train_step()
    assert all(v == v for v in losses.values()) and not torch.equal(trainer.model.clip.clip.visual.conv1.weight, before)
    S, metrics = evaluate(trainer.model, pairs)
    assert S.shape == (2, 2) and S.isfinite().all() and metrics['t2v']['R@5'] == 100
    save_model(trainer.model, tmp_path / 'model.safetensors')
    back = load_model(tmp_path / 'model.safetensors')
    torch.testing.assert_close(evaluate(back, pairs)[0], S)
