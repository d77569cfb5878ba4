"""Search is exact, and says what it could not search."""
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from safetensors.torch import save_file
from search.galleries import (
    TEXTS,
    everything,
    index,
    open_gallery,
    paths_in,
    shard_files,
    videos_below,
)

import glscl
from glscl.search import shards
from glscl.search.gallery import search_command


@pytest.mark.parametrize('chunk', [1, 3, 4, 1024])
@pytest.mark.parametrize('k', [1, 5, 30])
def test_search_is_the_models_similarity_and_topk(shared_gallery, chunk, k):
    found = open_gallery(shared_gallery)
    paths, videos = everything(shared_gallery)
    with torch.no_grad():
        S = found.model.similarity(found.encode_texts(TEXTS), videos)
    scores, places = S.topk(min(k, len(paths)))
    results = found.search(TEXTS, k, chunk)
    assert [[r.path for r in row] for row in results] == [[paths[v] for v in row] for row in places]
    found_scores = torch.tensor([[r.score for r in row] for row in results])
    torch.testing.assert_close(found_scores, scores, atol=1e-6, rtol=0)
    assert [r.path for r in found.search(TEXTS[1], k, chunk)] == [r.path for r in results[1]]
    assert found.search([], k) == []


def test_equal_videos_come_in_the_gallerys_order(films, checkpoint, tmp_path, small_shards):
    for n in range(6):
        shutil.copy(films / 'test0005.mp4', films / f'test0005 copy {n}.mp4')
    index(films, tmp_path / 'g', checkpoint, batch=1)  # one by one: equal to the last bit
    paths = everything(tmp_path / 'g')[0]
    results = open_gallery(tmp_path / 'g').search(TEXTS[0], 18, 1)
    places = [paths.index(r.path) for r in results if 'test0005' in r.path]
    assert len(places) == 7 and places == sorted(places)


def test_frames_come_by_the_weight_the_text_gave_them(shared_gallery):
    found = open_gallery(shared_gallery)
    result = found.search(TEXTS[0], 1)[0]
    paths, videos = everything(shared_gallery)
    v = paths.index(result.path)
    sentence = found.encode_texts(TEXTS[:1]).sentence
    weights = glscl.interaction.frame_weights(sentence, videos.frames[v:v + 1].float(),
                                              videos.mask[v:v + 1],
                                              found.model.config.temperature)[0, 0]
    falling = sorted(weights.tolist(), reverse=True)
    assert [f['weight'] for f in result.frames] == pytest.approx(falling, abs=1e-4)
    for frame in result.frames:  # films of 3 frames a second
        assert frame['seconds'] == pytest.approx(frame['index'] / 3, abs=0.01)
    assert result.state == 'ok' and len({f['index'] for f in result.frames}) == 4


def test_with_mean_pooling_all_frames_weigh_the_same(films, config, tmp_path):
    model = glscl.GLSCL(config.replace(pooling='mean'))
    index(films, tmp_path / 'g', model)
    result = open_gallery(tmp_path / 'g', model=model).search(TEXTS[0], 1)[0]
    assert [frame['weight'] for frame in result.frames] == [0.25] * 4


def _search_as(rank, world, folder, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{out}/meeting', rank=rank,
                                         world_size=world)
    results = open_gallery(folder).search(TEXTS, 7)
    Path(f'{out}/{rank}').write_text(repr(results))
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_same_answer(shared_gallery, tmp_path):
    torch.multiprocessing.start_processes(_search_as, (2, shared_gallery, tmp_path), 2,
                                          start_method='fork')
    alone = repr(open_gallery(shared_gallery).search(TEXTS, 7))
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [alone, alone]


# ---- galleries made before

def test_a_gallery_made_before_opens(checkpoint, tmp_path):
    """Written here by hand, key by key: the files that `glscl index` has always made."""
    model = glscl.load_model(checkpoint)
    videos, mark = 3, shards.fingerprint(model)
    D, Q = model.clip.width, model.config.num_queries
    frames = torch.randn(videos, 4, D).half()
    tensors = {
        'frames': frames,
        'mask': torch.ones(videos, 4, dtype=torch.bool),
        'gram': frames.float() @ frames.float().mT,
        'concepts': torch.nn.functional.normalize(torch.randn(videos, Q, D), dim=-1).half(),
    }
    clips = '\n'.join(f'{{"id": "v{v}", "path": "/films/{v}.mp4", "start": null, "end": 2.5, '
                      f'"size": 7, "mtime": 8, "fps": 25.0, "indices": [0, 25, 50, 75]}}'
                      for v in range(videos))
    save_file(tensors, tmp_path / 'a.safetensors', {'fingerprint': mark, 'clips': clips})
    size = (tmp_path / 'a.safetensors').stat().st_size
    (tmp_path / 'gallery.json').write_text(
        f'{{"fingerprint": "{mark}", "shards": {{"a.safetensors": {{"bytes": {size}, "rows": 3}}}},'
        f' "unreadable": [{{"id": "b", "path": "/films/b.mp4", "start": null, "end": null, '
        f'"stat": [0, 1], "reason": "/films/b.mp4: the file is empty", "final": true}}], '
        f'"model": {json.dumps(str(checkpoint))}}}')
    found = open_gallery(tmp_path)
    with torch.no_grad():
        texts = found.encode_texts(TEXTS[:1])
        S = model.similarity(texts, glscl.Videos(**tensors))
    results = found.search(TEXTS[0], 3)
    assert [r.id for r in results] == [f'v{v}' for v in S[0].argsort(descending=True)]
    assert results[0].end == 2.5 and results[0].state == 'missing'
    assert sorted(f['seconds'] for f in results[0].frames) == [0, 1, 2, 3]


def test_the_shipped_models_fingerprint_stays():
    """Another one would refuse every gallery that was made with it. It changes with its weights."""
    assert shards.fingerprint(glscl.load_model()) == '6d6fe6225c91335f8761ed8cbd25899b'


# ---- damage

def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def overwrite(path):
    path.write_bytes(os.urandom(path.stat().st_size))


def foreign(path):
    data = path.read_bytes()
    at = data.index(b'"fingerprint":"') + len(b'"fingerprint":"')
    path.write_bytes(data[:at] + b'0' * 32 + data[at + 32:])


@pytest.mark.parametrize('damage', [cut, overwrite, foreign, Path.unlink])
def test_a_bad_shard_is_named_and_the_next_run_mends_it(gallery, films, damage):
    before = [r.path for r in open_gallery(gallery).search(TEXTS[0], 12)]
    paths = everything(gallery)[0]
    bad = shard_files(gallery)[1]
    damage(bad)
    found = open_gallery(gallery)
    with pytest.warns(UserWarning, match=bad.name):
        results = found.search(TEXTS[0], 12)
    assert [r.path for r in results] == [path for path in before if path not in paths[5:10]]
    assert len(found.problems) == 1
    lines = []
    assert index(films, gallery, log=lines.append)['added'] == 5
    assert bad not in shard_files(gallery)
    assert any(bad.name in line and 'encoded again' in line for line in lines)
    assert sorted(r.path for r in open_gallery(gallery).search(TEXTS[0], 12)) == sorted(before)


def test_the_command_fails_only_when_nothing_is_left(gallery, capsys):
    files = shard_files(gallery)
    cut(files[0])
    search_command(gallery, TEXTS[:1], as_json=True, device='cpu')
    printed = capsys.readouterr()
    assert f'warning: {files[0]}' in printed.err
    assert len(json.loads(printed.out)[0]['results']) == 5
    for path in files[1:]:
        path.unlink()
    with pytest.raises(ValueError, match='none of the 3 shards'):
        search_command(gallery, TEXTS[:1], device='cpu')


def test_another_models_gallery_is_refused(gallery, films, config):
    other = glscl.GLSCL(config)
    with pytest.raises(ValueError, match='another model'):
        glscl.Gallery(gallery, model=other)
    with pytest.raises(ValueError, match='another model'):
        index(films, gallery, other)
    same = open_gallery(gallery).model
    same.config = same.config.replace(framerate=2)
    with pytest.raises(ValueError, match='another model'):
        glscl.Gallery(gallery, model=same)
    assert paths_in(gallery) == videos_below(films)


OUTSIDE = {'fingerprint': 'x', 'model': None, 'unreadable': [],
           'shards': {'../../x.safetensors': {'bytes': 1, 'rows': 1}}}


@pytest.mark.parametrize('content', ['', '{"fingerprint": "x", "mod', '[]', json.dumps(OUTSIDE)])
def test_a_damaged_manifest_is_named(tmp_path, content):
    (tmp_path / 'gallery.json').write_text(content)
    with pytest.raises(ValueError, match='gallery.json is damaged'):
        glscl.Gallery(tmp_path)


def test_folders_that_are_no_gallery(films, gallery):
    with pytest.raises(FileNotFoundError, match='glscl index'):
        glscl.Gallery(films)
    (gallery / 'gallery.json').unlink()
    with pytest.raises(ValueError, match='no gallery.json'):
        index(films, gallery)
    assert len(list(gallery.glob('*.safetensors'))) == 3


def test_a_search_follows_an_indexer(gallery, films):
    found = open_gallery(gallery)
    (films / 'test0003.mp4').unlink()
    index(films, gallery)  # puts other shards in place of those that `found` knows
    assert len(found.search(TEXTS[0], 12)) == 11 and found.problems == []


@pytest.mark.parametrize('text, k, message', [('x', 0, 'k must be'), (' ', 5, 'empty')])
def test_senseless_questions(shared_gallery, text, k, message):
    with pytest.raises(ValueError, match=message):
        search_command(shared_gallery, [text], k, device='cpu')
