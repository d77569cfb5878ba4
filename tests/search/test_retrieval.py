"""A gallery on disk: what is in it, what survives, and that its search is exact."""
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy
import pytest
import torch
import torch.multiprocessing

import glscl
from glscl.bench import search as bench_retrieval
from glscl.search import index, gallery as retrieval, shards, shortlist
from glscl.__main__ import main
from glscl.search.index import find_clips, index_videos
from glscl.model import Videos

TEXTS = ['a red ring shrinks', 'a blue square moves left, then a green circle grows', 'a yellow star']


@pytest.fixture(scope='module')
def checkpoint(config, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('model') / 'best.safetensors'
    glscl.save_model(glscl.GLSCL(config), path)
    return path


@pytest.fixture
def films(world_folder, tmp_path):
    """A folder with copies of the twelve test videos, a few of them under odd names."""
    folder = tmp_path / 'my films'
    shutil.copytree(world_folder / 'test', folder)
    (folder / 'sub').mkdir()
    for n, name in enumerate(['a name with spaces & <tags>.mp4', 'Кіно 映画 ü.mp4', 'sub/UPPER.MP4']):
        (folder / f'test000{n}.mp4').rename(folder / name)
    return folder


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of five videos, so that twelve make three."""
    monkeypatch.setattr(shards, 'ROWS', 5)
    monkeypatch.setattr(index, 'ROWS', 5)


@pytest.fixture
def gallery(films, checkpoint, tmp_path, small_shards):
    """The folder of a gallery of the films."""
    index_videos(films, tmp_path / 'gallery', checkpoint, 'cpu', batch=4, workers=1, log=None)
    return tmp_path / 'gallery'


def open_gallery(folder, **kwargs):
    return glscl.Gallery(folder, device='cpu', **kwargs)


def everything(folder):
    """(paths, Videos) of a whole gallery in its order, read at once and without its own code for searching."""
    manifest, paths, parts = json.loads((folder / 'gallery.json').read_text()), [], []
    for name in manifest['shards']:
        with shards.safe_open(folder / name, 'pt') as shard:
            paths += [json.loads(line)['path'] for line in shard.metadata()['clips'].split('\n')]
            parts.append(Videos(*(shard.get_tensor(f) for f in ('frames', 'mask', 'gram', 'concepts'))))
    return paths, Videos.cat(parts)


def paths_in(folder):
    return sorted(everything(folder)[0])


def videos_below(folder):
    return sorted(str(p) for p in folder.rglob('*') if p.suffix.lower() == '.mp4')


# ---- exactness

@pytest.mark.parametrize('chunk', [1, 3, 4, 1024])
@pytest.mark.parametrize('k', [1, 5, 30])
def test_search_is_the_models_similarity_and_topk(gallery, chunk, k):
    found = open_gallery(gallery)
    paths, videos = everything(gallery)
    with torch.no_grad():
        S = found.model.similarity(found.encode_texts(TEXTS), videos)
    scores, places = S.topk(min(k, len(paths)))
    results = found.search(TEXTS, k, chunk)
    assert [[r.path for r in row] for row in results] == [[paths[v] for v in row] for row in places]
    torch.testing.assert_close(torch.tensor([[r.score for r in row] for row in results]), scores, atol=1e-6, rtol=0)
    assert [r.path for r in found.search(TEXTS[1], k, chunk)] == [r.path for r in results[1]]
    assert found.search([], k) == []


def test_stored_features_are_the_models_in_half_precision(gallery, films, splits, checkpoint):
    paths, videos = everything(gallery)
    _, expected = glscl.encode(glscl.load_model(checkpoint), splits['test'])
    names = splits['test'].table['video_id'].tolist()
    row = paths.index(str(films / 'test0005.mp4'))
    of_row = splits['test'].table['video'].tolist()[names.index('test0005')]
    assert videos.frames.dtype == videos.concepts.dtype == torch.float16
    for name in ('frames', 'concepts'):
        torch.testing.assert_close(getattr(videos, name)[row].float(), getattr(expected, name)[of_row], atol=4e-3, rtol=2e-3)


def test_ordered_keys_sort_by_score_then_by_place():
    scores = torch.tensor([[0.5, -0.0, 0.0, -1.5, float('nan'), 0.5, 3e38, -3e38, -1e-40, float('inf'), 1e-40]])
    parts = [retrieval.ordered(part, places) for part, places in zip(scores.split([4, 7], 1), torch.arange(10, 21).split([4, 7]))]
    keys = torch.cat(parts, 1)
    back, places = retrieval.undo(retrieval.best_of(keys, 11))
    assert places[0].sub(10).tolist() == [9, 6, 0, 5, 10, 1, 2, 8, 3, 7, 4]
    assert torch.equal(back[0][:5], scores[0][[9, 6, 0, 5, 10]])


def test_equal_videos_come_in_the_gallerys_order(films, checkpoint, tmp_path, small_shards):
    for n in range(6):
        shutil.copy(films / 'test0005.mp4', films / f'test0005 copy {n}.mp4')
    index_videos(films, tmp_path / 'g', checkpoint, 'cpu', batch=1, workers=1, log=None)  # one by one: equal to the last bit
    paths = everything(tmp_path / 'g')[0]
    found = [paths.index(r.path) for r in open_gallery(tmp_path / 'g').search(TEXTS[0], 18, 1) if 'test0005' in r.path]
    assert len(found) == 7 and found == sorted(found)


def test_progress_tells_how_many_and_how_long(films, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(index, 'TELL', 0)
    lines = []
    index_videos(films, tmp_path / 'g', checkpoint, 'cpu', workers=1, log=lines.append)
    assert '12 are to be encoded' in lines[0] and len(lines) == 13
    assert re.fullmatch(r'12 of 12 videos, 0 unreadable, [\d.]+ a second, 0:00:00 left', lines[-1])


def test_what_is_done_counts_after_a_while_though_a_shard_is_not_full(films, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(index, 'SAVE', 0)
    encode_as_ever, left = index._encode, [1, 1]
    monkeypatch.setattr(index, '_encode', lambda *batch: left.pop() and encode_as_ever(*batch))
    with pytest.raises(IndexError):
        index_videos(films, tmp_path / 'g', checkpoint, 'cpu', batch=4, workers=1, log=None)
    assert len(paths_in(tmp_path / 'g')) == 8


def test_frames_are_told_by_the_weight_the_text_gave_them(gallery):
    found = open_gallery(gallery)
    result = found.search(TEXTS[0], 1)[0]
    paths, videos = everything(gallery)
    v = paths.index(result.path)
    weights = glscl.interaction.frame_weights(found.encode_texts(TEXTS[:1]).sentence, videos.frames[v:v + 1].float(),
                                              videos.mask[v:v + 1], found.model.config.temperature)[0, 0]
    assert [f['weight'] for f in result.frames] == pytest.approx(sorted(weights.tolist(), reverse=True), abs=1e-4)
    assert all(f['seconds'] == pytest.approx(f['index'] / 3, abs=0.01) for f in result.frames)  # films of 3 frames a second
    assert result.state == 'ok' and len({f['index'] for f in result.frames}) == 4


def _search_as(rank, world, folder, out):
    torch.set_num_threads(1)
    torch.distributed.init_process_group('gloo', f'file://{out}/meeting', rank=rank, world_size=world)
    results = open_gallery(folder).search(TEXTS, 7)
    Path(f'{out}/{rank}').write_text(repr(results))
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_same_answer(gallery, tmp_path):
    torch.multiprocessing.start_processes(_search_as, (2, gallery, tmp_path), 2, start_method='fork')
    alone = repr(open_gallery(gallery).search(TEXTS, 7))
    assert [(tmp_path / str(rank)).read_text() for rank in range(2)] == [alone, alone]


# ---- what a gallery holds

def test_a_second_run_encodes_only_what_is_new_or_changed(gallery, films, checkpoint):
    def again():
        done = index_videos(films, gallery, None, 'cpu', workers=1, log=None)
        assert paths_in(gallery) == videos_below(films)
        files = {p.name for p in gallery.glob('*.safetensors')}
        assert files == json.loads((gallery / 'gallery.json').read_text())['shards'].keys()
        return [done[key] for key in ('videos', 'added', 'changed', 'removed')]

    assert again() == [12, 0, 0, 0]
    shutil.copy(films / 'test0003.mp4', films / 'sub' / 'new.mp4')
    assert again() == [13, 1, 0, 0]
    (films / 'test0004.mp4').unlink()
    (films / 'test0011.mp4').unlink()
    assert again() == [11, 0, 0, 2]
    shutil.copy(films / 'test0006.mp4', films / 'test0007.mp4')
    assert again() == [11, 1, 1, 0]
    paths, videos = everything(gallery)
    same = videos.frames[[paths.index(str(films / f'test000{n}.mp4')) for n in (6, 7)]]
    torch.testing.assert_close(*same, atol=4e-3, rtol=2e-3)


def test_many_small_runs_leave_few_shards(films, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, 'ROWS', 6)
    monkeypatch.setattr(index, 'ROWS', 6)
    away = tmp_path / 'away'
    shutil.copytree(films, away)
    for path in sorted(films.glob('test*')):
        path.unlink()
    for path in sorted(away.glob('test*')):
        shutil.copy(path, films)
        index_videos(films, tmp_path / 'g', checkpoint, 'cpu', workers=1, log=None)
    assert paths_in(tmp_path / 'g') == videos_below(films)
    assert len(list((tmp_path / 'g').glob('*.safetensors'))) <= 4


def test_unreadable_videos_are_listed_and_tried_again_once_changed(films, checkpoint, tmp_path, capsys):
    (films / 'cut.mp4').write_bytes((films / 'test0003.mp4').read_bytes()[:300])
    (films / 'empty.avi').touch()
    (films / 'text.mkv').write_text('no video')
    (films / 'broken link.mov').symlink_to(films / 'nowhere.mov')
    (films / '._hidden.mp4').touch()
    assert index.main([str(films), '--out', str(tmp_path / 'g'), '--model', str(checkpoint), '--workers', '1']) == 0
    said = capsys.readouterr().out
    for name in ('cut.mp4', 'empty.avi', 'text.mkv', 'broken link.mov'):
        assert f'unreadable: {films / name}: ' in said
    assert 'hidden' not in said and '12 videos: 12 added' in said and '4 unreadable' in said
    manifest = json.loads((tmp_path / 'g/gallery.json').read_text())
    assert {Path(bad['path']).name for bad in manifest['unreadable']} == {'cut.mp4', 'empty.avi', 'text.mkv', 'broken link.mov'}

    read = []
    original, index._decoded = index._decoded, lambda keys, *rest: original(read.extend(keys) or keys, *rest)
    try:
        assert index_videos(films, tmp_path / 'g', log=None)['added'] == 0 and read == []
        shutil.copy(films / 'test0003.mp4', films / 'cut.mp4')
        done = index_videos(films, tmp_path / 'g', workers=1, log=None)
    finally:
        index._decoded = original
    assert done['added'] == 1 and len(done['unreadable']) == 3 and [key[0] for key in read] == [str(films / 'cut.mp4')]


def _crash(path, *how):
    if 'test0004' in path:
        os.kill(os.getpid(), signal.SIGKILL)
    return read_frames(path, *how)


read_frames = index.read_frames


@pytest.mark.skipif(sys.platform == 'win32' or sys.version_info >= (3, 14), reason='the patch reaches forked workers only')
def test_a_video_that_kills_its_decoder_is_one_bad_video(films, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(index, 'read_frames', _crash)
    done = index_videos(films, tmp_path / 'g', checkpoint, 'cpu', batch=4, workers=2, log=None)
    assert done['videos'] == 11 and list(done['unreadable']) == [str(films / 'test0004.mp4')]
    assert 'crashed' in done['unreadable'][str(films / 'test0004.mp4')]


def test_links_loops_and_tables(films, tmp_path):
    (films / 'loop').symlink_to(films, target_is_directory=True)
    (films / '0 link.mp4').symlink_to(films / 'test0003.mp4')
    (tmp_path / 'elsewhere.mp4').write_bytes((films / 'test0003.mp4').read_bytes())
    (films / 'outside.mp4').symlink_to(tmp_path / 'elsewhere.mp4')
    found = find_clips([films, films / 'sub'])
    assert len(found) == 13 and (str(films / 'outside.mp4'), None, None) in found
    assert (str(films / '0 link.mp4'), None, None) not in found
    (films / 'table.csv').write_text('path,caption,video_id,start,end\ntest0003.mp4,one,a,0,2\ntest0003.mp4,two,b,2,4\n')
    film = str(films / 'test0003.mp4')
    assert find_clips([films / 'table.csv']) == {(film, 0.0, 2.0): 'a', (film, 2.0, 4.0): 'b'}


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems have no such names')
def test_names_that_are_not_text(films, checkpoint, tmp_path, capsys, monkeypatch):
    name = os.fsdecode(b'caf\xe9.mp4')
    shutil.copy(films / 'test0003.mp4', films / name)
    done = index_videos(films, tmp_path / 'g', checkpoint, 'cpu', workers=1, log=None)
    assert done['videos'] == 13
    page = tmp_path / 'page.html'
    monkeypatch.setattr(sys, 'argv', ['glscl', 'search', str(tmp_path / 'g'), TEXTS[0], '-k', '13', '--html', str(page)])
    main()
    assert 'caf\\udce9.mp4' in capsys.readouterr().out
    assert 'caf\\udce9.mp4' in page.read_text('utf-8') and 'caf%E9.mp4' in page.read_text('utf-8')


def test_a_folder_without_the_old_videos_does_not_empty_the_gallery(gallery, films, tmp_path):
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='empty'):
        index_videos(tmp_path / 'empty', gallery, log=None)
    shutil.copytree(films, tmp_path / 'moved')
    with pytest.raises(ValueError, match='12 videos, none of which'):
        index_videos(tmp_path / 'moved', gallery, log=None)
    assert paths_in(gallery) == videos_below(films)


# ---- damage

def shard_files(gallery):
    return [gallery / name for name in json.loads((gallery / 'gallery.json').read_text())['shards']]


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def overwrite(path):
    path.write_bytes(os.urandom(path.stat().st_size))


def foreign(path):
    data = path.read_bytes()
    at = data.index(b'"fingerprint":"') + len(b'"fingerprint":"')
    path.write_bytes(data[:at] + b'0' * 32 + data[at + 32:])


@pytest.mark.parametrize('damage', [cut, overwrite, foreign, Path.unlink])
def test_a_bad_shard_is_named_and_the_rest_searched_and_the_next_run_mends_it(gallery, films, damage):
    before = [r.path for r in open_gallery(gallery).search(TEXTS[0], 12)]
    paths = everything(gallery)[0]
    damage(shard_files(gallery)[1])
    found = open_gallery(gallery)
    with pytest.warns(UserWarning, match=shard_files(gallery)[1].name):
        results = found.search(TEXTS[0], 12)
    assert [r.path for r in results] == [path for path in before if path not in paths[5:10]]
    assert len(found.problems) == 1
    lines = []
    assert index_videos(films, gallery, device='cpu', workers=1, log=lines.append)['added'] == 5
    assert any(shard_files(gallery)[1].name not in line and 'encoded again' in line for line in lines)
    assert sorted(r.path for r in open_gallery(gallery).search(TEXTS[0], 12)) == sorted(before)


def test_the_command_fails_only_when_nothing_is_left(gallery, capsys):
    files = shard_files(gallery)
    cut(files[0])
    assert retrieval.main([str(gallery), TEXTS[0], '--json']) == 0
    said = capsys.readouterr()
    assert files[0].name in said.err and len(json.loads(said.out)[0]['results']) == 5
    for path in files[1:]:
        path.unlink()
    with pytest.raises(SystemExit) as left:
        retrieval.main([str(gallery), TEXTS[0]])
    assert left.value.code == 1 and 'none of the 3 shards' in capsys.readouterr().err


def test_another_models_gallery_is_refused(gallery, films, config, tmp_path):
    other = glscl.GLSCL(config)
    with pytest.raises(ValueError, match='another model'):
        glscl.Gallery(gallery, model=other)
    with pytest.raises(ValueError, match='another model'):
        index_videos(films, gallery, other, log=None)
    same = open_gallery(gallery).model
    same.config = same.config.replace(framerate=2)
    with pytest.raises(ValueError, match='another model'):
        glscl.Gallery(gallery, model=same)
    assert paths_in(gallery) == videos_below(films)


@pytest.mark.parametrize('content', ['', '{"fingerprint": "x", "mod', '[]', '{"fingerprint": "x", "model": null, '
                                     '"unreadable": [], "shards": {"../../x.safetensors": {"bytes": 1, "rows": 1}}}'])
def test_a_damaged_manifest_is_named(gallery, content):
    (gallery / 'gallery.json').write_text(content)
    with pytest.raises(ValueError, match='gallery.json is damaged'):
        glscl.Gallery(gallery)


def test_folders_that_are_no_gallery(films, tmp_path, gallery):
    with pytest.raises(FileNotFoundError, match='glscl index'):
        glscl.Gallery(films)
    (gallery / 'gallery.json').unlink()
    with pytest.raises(ValueError, match='no gallery.json'):
        index_videos(films, gallery, log=None)
    assert len(list(gallery.glob('*.safetensors'))) == 3


def test_a_search_follows_an_indexer(gallery, films):
    found = open_gallery(gallery)
    (films / 'test0003.mp4').unlink()
    index_videos(films, gallery, device='cpu', workers=1, log=None)  # puts other shards in place of those `found` knows
    assert len(found.search(TEXTS[0], 12)) == 11 and found.problems == []


# ---- kills and company

def _index_slowly(told, films, gallery, checkpoint, slow, rows):
    """Index, dawdling in the middle of each write, which is told of."""
    put = shards.put

    def slowly(path, data):
        told.send(path.name)
        path.with_name(f'.{path.name}.half').write_bytes(data[:len(data) // 2])
        time.sleep(slow)
        put(path, data)
    shards.put = index.put = slowly
    shards.ROWS = index.ROWS = rows
    index_videos(films, gallery, checkpoint, 'cpu', batch=3, workers=1, log=None)


def start(*arguments):
    """`_index_slowly` in a process of its own: (process, what tells of its writes)"""
    fork = multiprocessing.get_context('fork')
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=_index_slowly, args=(there, *arguments))
    process.start()
    return process, here


@pytest.mark.skipif(sys.platform == 'win32', reason='no fork')
@pytest.mark.parametrize('writes', range(1, 9))
def test_killed_at_any_point_the_gallery_is_whole_and_the_next_run_goes_on(films, checkpoint, tmp_path, writes):
    gallery, chance = tmp_path / 'g', random.Random(writes)
    process, told = start(films, gallery, checkpoint, 0.1, 3)
    for _ in range(writes):
        told.recv()
    time.sleep(chance.uniform(0, 0.15))
    process.kill()
    process.join()
    manifest = gallery / 'gallery.json'
    held = paths_in(gallery) if manifest.exists() and json.loads(manifest.read_text())['shards'] else []
    assert set(held) <= set(videos_below(films)) and len(held) == len(set(held))
    assert writes < 4 or held
    if held:
        assert len(open_gallery(gallery).search(TEXTS[0], 12)) == len(held)
    done = index_videos(films, gallery, checkpoint, 'cpu', workers=1, log=None)
    assert done['added'] == 12 - len(held) and paths_in(gallery) == videos_below(films)
    assert {p.name for p in gallery.iterdir()} == {'gallery.json', 'lock', *(p.name for p in shard_files(gallery))}


@pytest.mark.skipif(sys.platform == 'win32', reason='no fork')
def test_two_indexers_at_once(films, checkpoint, tmp_path, monkeypatch):
    process, told = start(films, tmp_path / 'g', checkpoint, 1, 1024)
    told.recv()
    monkeypatch.setattr(index, 'PATIENCE', 0.1)
    with pytest.raises(ValueError, match='another process is indexing'):
        index_videos(films, tmp_path / 'g', checkpoint, 'cpu', log=None)
    process.join()
    assert process.exitcode == 0 and paths_in(tmp_path / 'g') == videos_below(films)


def test_a_full_disk_leaves_what_was_there(gallery, films, monkeypatch):
    shutil.copy(films / 'test0003.mp4', films / 'new.mp4')
    (films / 'test0004.mp4').unlink()  # so that a shard is written anew
    before = sorted(p.name for p in shard_files(gallery))

    def full(fd):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(shards.os, 'fsync', full)
    with pytest.raises(OSError, match='intact'):
        index_videos(films, gallery, device='cpu', workers=1, log=None)
    monkeypatch.undo()
    assert sorted(p.name for p in shard_files(gallery)) == before and len(open_gallery(gallery).search(TEXTS[0], 20)) == 12


# ---- what one sees

def test_page_shows_the_frames_that_weigh_most(gallery, films):
    found = open_gallery(gallery)
    results = found.search(TEXTS[:1], 12)
    changed, missing = results[0][0].path, results[0][1].path
    os.utime(changed, (0, 0))
    os.unlink(missing)
    results = found.search(TEXTS[:1], 12)
    assert [r.state for r in results[0][:3]] == ['changed', 'missing', 'ok']
    page = retrieval.page(['<b>'], results, found.model.config)
    assert page.count('data:image/jpeg;base64,') == 3 * 10 and '&lt;b&gt;' in page and '<b>' not in page
    assert 'is no longer there' in page and 'has changed since' in page and '&amp; &lt;tags&gt;.mp4' in page
    uri, frame = retrieval.thumbnails(results[0][2], found.model.config)[0]
    assert frame == results[0][2].frames[0] and len(uri) > 500


def test_search_command(gallery, films, tmp_path, capsys):
    assert retrieval.main([str(gallery), *TEXTS, '-k', '2', '--html', str(tmp_path / 'page.html')]) == 0
    said = capsys.readouterr().out
    assert all(text in said for text in TEXTS) and said.count('.mp4') + said.count('.MP4') == 6
    assert (tmp_path / 'page.html').read_text('utf-8').count('<li>') == 6


@pytest.mark.parametrize('arguments, message', [(['x', '-k', '0'], 'k must be'), ([' '], 'empty')])
def test_senseless_questions(gallery, capsys, arguments, message):
    with pytest.raises(SystemExit):
        retrieval.main([str(gallery), *arguments])
    assert message in capsys.readouterr().err


# ---- the approximate first stage

def test_shortlist_vectors_give_the_score_with_mean_pooling(gallery):
    found = open_gallery(gallery)
    videos, texts, weight = everything(gallery)[1], found.encode_texts(TEXTS), found.model.config.local_weight
    products = shortlist.text_vectors(texts, weight) @ shortlist.video_vectors(videos, weight).T
    for t in range(len(TEXTS)):
        for v in range(len(videos)):
            y = videos.frames[v][videos.mask[v]].float().mean(0)
            cosine = torch.cosine_similarity(texts.sentence[t], y, dim=0)
            local = sum(texts.concepts[t, q] @ videos.concepts[v, q].float() for q in range(3)) / 3
            assert products[t, v] == pytest.approx(float(cosine + weight * local), abs=1e-4)


def test_what_is_on_the_shortlist_has_its_exact_score(gallery, monkeypatch):
    found = open_gallery(gallery)
    exact = found.search(TEXTS, 12)
    monkeypatch.setattr(shortlist, 'candidates', lambda *_: numpy.array([[7, 0, 11], [0, 5, -1], [4, 7, 0]]))
    paths = everything(gallery)[0]
    for some, of_all in zip(found.search(TEXTS, 12, shortlist=5), exact):
        expected = [r for r in of_all if paths.index(r.path) in (0, 4, 5, 7, 11)]
        assert [r.path for r in some] == [r.path for r in expected]
        assert [r.score for r in some] == pytest.approx([r.score for r in expected], abs=1e-6)


def test_a_shortlist_as_long_as_the_gallery_is_exact_and_one_of_another_state_is_refused(gallery, films):
    pytest.importorskip('faiss')
    found = open_gallery(gallery)
    shortlist.build(found)
    assert found.search(TEXTS, 5, shortlist=12) == found.search(TEXTS, 5)
    near = found.search(TEXTS[0], 2, shortlist=3)
    assert len(near) == 2 and {r.path for r in near} <= {r.path for r in found.search(TEXTS[0], 12)}
    (films / 'test0003.mp4').unlink()
    index_videos(films, gallery, device='cpu', workers=1, log=None)
    with pytest.raises(ValueError, match='has changed since'):
        open_gallery(gallery).search(TEXTS, 5, shortlist=12)
    assert index.main([str(films), '--out', str(gallery), '--shortlist']) == 0
    assert len(open_gallery(gallery).search(TEXTS[0], 20, shortlist=12)) == 11


def test_without_faiss_a_shortlist_says_how_to_get_it(gallery, monkeypatch):
    monkeypatch.setitem(sys.modules, 'faiss', None)
    with pytest.raises(ImportError, match='pip install'):
        shortlist.build(open_gallery(gallery))


def test_bench_finds_what_it_generated(tmp_path, model, capsys):
    made = bench_retrieval.Generated(model)
    bench_retrieval.generate(tmp_path, model, 50)
    found = glscl.Gallery(tmp_path, model).search(made.texts(50, 50), 1)
    assert sum(f'/generated/{v}.mp4' == row[0].path for v, row in enumerate(found)) > 40
    places = torch.tensor([[int(row[0].id), 99] for row in found])
    assert bench_retrieval.recall(found, places) == 1
    places[:25] = 98
    assert bench_retrieval.recall(found, places) == 0.5
