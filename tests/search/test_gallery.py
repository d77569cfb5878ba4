"""Search is exact, and says what it could not search."""
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
from safetensors import safe_open
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


def test_a_gallery_that_may_not_be_read_says_so(shared_gallery, monkeypatch):
    def refused(path):
        raise PermissionError(13, 'Permission denied', str(path))
    monkeypatch.setattr(Path, 'read_bytes', refused)
    with pytest.raises(OSError, match=r'gallery.json: cannot be read \(Permission denied\). Is it yours to read'):
        open_gallery(shared_gallery)


@pytest.mark.parametrize('content', ['', '{"fingerprint": "x", "mod', '[]', '[' * 100_000, '\xff',
                                     '{"fingerprint": "x", "shards": [], "unreadable": []}'])
def test_a_damaged_manifest_is_named(tmp_path, content):
    (tmp_path / 'gallery.json').write_text(content, 'latin-1')
    with pytest.raises(ValueError, match='gallery.json is damaged: .*Delete the folder|gallery.json is damaged: .*not UTF-8'):
        glscl.Gallery(tmp_path)


def rewritten(path, clips=None, metadata=None, **tensors):
    """A shard as somebody else would write it: another clip, other numbers, no checksum."""
    with safe_open(path, 'pt') as shard:
        said, held = shard.metadata(), {name: shard.get_tensor(name) for name in shard.keys()}
    if clips is not None:
        lines = said['clips'].split('\n')
        said['clips'] = '\n'.join([clips, *lines[1:]])
    held.update(tensors)
    save_file({name: x for name, x in held.items() if x is not None}, path, {**said, **(metadata or {})})


CLIP = {'id': 'a', 'path': '/a.mp4', 'start': None, 'end': None, 'size': 1, 'mtime': 1, 'fps': 25.0,
        'indices': [0, 1, 2, 3]}
FORGED = {
    'clips: no JSON': dict(clips='{'), 'clips: a list': dict(clips='[]'),
    'clips: nested': dict(clips='[' * 100_000),
    **{f'clips: {name}={value}': dict(clips=json.dumps({**CLIP, name: value}))
       for name, value in [('path', None), ('path', 'a\0b'), ('id', 3), ('caption', 3), ('fps', 0), ('fps', 'x'), ('fps', float('nan')),
                           ('size', '1'), ('start', 'x'), ('indices', None), ('indices', ['x']), ('indices', [0] * 99),
                           ('seconds', [0]), ('seconds', 'x'), ('seconds', [0, 1, None, 2]), ('seconds', [0, 1, float('nan'), 2])]},
    'clips: no path': dict(clips='{}'), 'clips: one more': dict(clips='{}\n{}'),
    'no fingerprint': dict(metadata=dict(fingerprint='')),
    'frames: NaN': dict(frames=torch.full((5, 4, 128), torch.nan).half()),
    'frames: missing': dict(frames=None), 'frames: float32': dict(frames=torch.zeros(5, 4, 128)),
    'frames: wider': dict(frames=torch.zeros(5, 4, 64).half()), 'frames: fewer': dict(frames=torch.zeros(4, 4, 128).half()),
    'gram: a scalar': dict(gram=torch.tensor(1.)), 'mask: numbers': dict(mask=torch.ones(5, 4)),
    'concepts: missing': dict(concepts=None), 'foreign': dict(foreign=torch.zeros(5))}


def entry_of(gallery, shard, **changes):
    manifest = json.loads((gallery / 'gallery.json').read_text())
    entry = manifest['shards'].pop(shard)
    manifest['shards'][changes.pop('name', shard)] = changes.pop('entry', {**entry, **changes})
    (gallery / 'gallery.json').write_text(json.dumps(manifest))


def flip(path, at=-1000):
    data = bytearray(path.read_bytes())
    for n in range(64):
        data[at + n] ^= 0x55
    path.write_bytes(data)


def damaged_gallery(shared_gallery, folder, how):
    """A copy of the gallery, its second shard damaged; returns its three files."""
    shutil.copytree(shared_gallery, folder)
    files = shard_files(folder)
    name = files[1].name
    if isinstance(how, dict):
        rewritten(files[1], **how)
        entry_of(folder, name, entry=dict(bytes=files[1].stat().st_size, rows=5))
    else:
        how(folder, files[1])
    return files


ENTRIES = {f'entry: {changes}': (lambda folder, file, changes=changes: entry_of(folder, file.name, **changes))
           for changes in [dict(entry=None), dict(entry=[]), dict(rows='5'), dict(rows=10 ** 12), dict(rows=-1), dict(rows=4),
                           dict(bytes=None), dict(bytes=7), dict(crc32='x'), dict(crc32=1), dict(name='../x.safetensors'),
                           dict(name='a/../x.safetensors'), dict(name='x')]}
BYTES = {'data flipped': lambda folder, file: flip(file), 'header flipped': lambda folder, file: flip(file, 30),
         'length flipped': lambda folder, file: flip(file, 0)}


@pytest.mark.parametrize('how', [*FORGED, *ENTRIES, *BYTES])
def test_whatever_breaks_a_shard_the_rest_is_searched_and_it_is_said_once(shared_gallery, tmp_path, how):
    before = [r.path for r in open_gallery(shared_gallery).search(TEXTS[0], 12)]
    files = damaged_gallery(shared_gallery, tmp_path / 'g', {**FORGED, **ENTRIES, **BYTES}[how])
    lost = everything(shared_gallery)[0][5:10]
    lines = []
    found = open_gallery(tmp_path / 'g', log=lines.append)
    for _ in range(2):
        assert [r.path for r in found.search(TEXTS[0], 12)] == [path for path in before if path not in lost]
    assert len(found.problems) == len(lines) == 1 and (files[1].name in lines[0] or 'its entry of' in lines[0])
    assert found.search(TEXTS[0], 2) and len(lines) == 1
    told = []
    done = index(Path(before[0]).parents[0], tmp_path / 'g', log=told.append)
    assert done['added'] >= 1 and any(('its entry of' in line or files[1].name in line) and 'encoded again' in line for line in told)
    assert open_gallery(tmp_path / 'g', log=pytest.fail).search(TEXTS[0], 12)


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
    index(films, gallery, sync=True)  # puts other shards in place of those that `found` knows
    assert len(found.search(TEXTS[0], 12)) == 11 and found.problems == []


@pytest.mark.parametrize('text, k, message', [('x', 0, 'k must be'), (' ', 5, 'empty')])
def test_senseless_questions(shared_gallery, text, k, message):
    with pytest.raises(ValueError, match=message):
        search_command(shared_gallery, [text], k, device='cpu')


@pytest.mark.parametrize('queries, k, message', [
    (5, 5, 'takes a text or a list'), (None, 5, 'takes a text or a list'), ([5], 5, 'takes a text or a list'), (TEXTS, 2.5, 'k must be'),
    (TEXTS, '5', 'k must be'), (TEXTS, -1, 'k must be'), (TEXTS, None, 'k must be')])
def test_senseless_arguments(shared_gallery, queries, k, message):
    with pytest.raises(ValueError, match=message):
        open_gallery(shared_gallery).search(queries, k)


def test_more_than_there_is(shared_gallery):
    found = open_gallery(shared_gallery)
    assert len(found.search(TEXTS[0], 10 ** 12)) == 12 and found.search([]) == []
    assert [len(row) for row in found.search(TEXTS, 10 ** 12)] == [12] * 3


def test_a_device_and_a_checkpoint_that_are_not_there(shared_gallery, tmp_path):
    with pytest.raises(ValueError, match="device 'abacus' cannot be used here"):
        glscl.Gallery(shared_gallery, device='abacus')
    shutil.copytree(shared_gallery, tmp_path / 'g')
    manifest = json.loads((tmp_path / 'g' / 'gallery.json').read_text())
    (tmp_path / 'g' / 'gallery.json').write_text(json.dumps({**manifest, 'model': str(tmp_path / 'gone.safetensors')}))
    with pytest.raises(FileNotFoundError, match='gone.safetensors, the checkpoint that made the gallery.*--model'):
        open_gallery(tmp_path / 'g')
