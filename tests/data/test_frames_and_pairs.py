"""Tables, the store of decoded frames, and what happens to a bad video among good ones."""
import errno
import multiprocessing
import os
import shutil
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import av
import numpy as np
import pandas as pd
import pytest
import torch

from glscl.data import frames as store
from glscl.data import workers
from glscl.data.errors import VideoError
from glscl.data.frames import load_frames
from glscl.data.pairs import load_pairs
from glscl.data.pixels import CLIP_MEAN, CLIP_STD
from glscl.data.video import read_frames
from glscl.datasets.splits import load_shapes, shapes_scenes, shapes_table


@pytest.fixture
def table(world_folder, tmp_path):
    """Seven captions of the test split with a copy of each video, to be damaged."""
    table = shapes_table(world_folder).head(7)
    for path in table['path']:
        shutil.copy(path, tmp_path)
    return table.assign(path=[str(tmp_path / os.path.basename(p)) for p in table['path']])


@pytest.fixture
def paths(table):
    return table['path'].tolist()


def load(paths, cache, **settings):
    return load_frames(paths, **{**dict(max_frames=4, size=16, cache=cache), **settings})


def test_tables_hold_the_captions_they_say(world_folder):
    tables = {captions: shapes_table(world_folder, 'test', captions) for captions in ('one', 'scene', 'order', 'all')}
    assert {k: len(t) for k, t in tables.items()} == dict(one=12, scene=12, order=12, all=48)
    assert tables['one']['kind'].value_counts().to_dict() == dict(scene=6, order=6)
    for kind in ('scene', 'order'):
        assert set(tables[kind]['kind']) == {kind} and tables[kind]['video_id'].is_unique
    train = shapes_table(world_folder, 'train')
    assert (train.groupby('video_id').size() == 6).all() and len(train) == 6 * 24
    assert list(train) == ['video_id', 'path', 'caption', 'start', 'end', 'kind']
    said = {row['caption'] for row in shapes_scenes(world_folder, 'test')[3]['captions']}
    assert set(tables['all'].query('video_id == "test0003"')['caption']) == said
    with pytest.raises(FileNotFoundError, match='no such split'):
        shapes_table(world_folder, 'holdout')


def test_pairs_bring_each_caption_its_own_video(world_folder, config, tmp_path):
    table = shapes_table(world_folder, 'test', 'all').sample(frac=1, random_state=0)
    pairs = load_pairs(table, config, cache=tmp_path)
    assert len(pairs) == 48 and len(pairs.frames) == 12 and pairs.skipped == {}
    for t in (0, 17, 47):
        row = table.iloc[t]
        expected = read_frames(row['path'], config.max_frames, 1, 32)[0]
        assert np.array_equal(pairs.frames[pairs.text_to_video[t]][:len(expected)], expected)
        assert pairs.table['caption'][t] == row['caption']
    pixels, mask = pairs.videos([5, 2])
    assert pixels.shape == (2, 4, 3, 32, 32) and torch.equal(mask, pairs.frame_mask[[5, 2]])
    back = (pixels[1, 0] * torch.tensor(CLIP_STD)[:, None, None] + torch.tensor(CLIP_MEAN)[:, None, None]) * 255
    torch.testing.assert_close(back, torch.tensor(pairs.frames[2][0]).permute(2, 0, 1).float(), atol=1e-3, rtol=0)


def test_padding_beyond_the_longest_caption_is_left_out(splits):
    pairs = splits['train']
    rows = [3, 1, 4]
    ids, mask = pairs.texts(rows)
    assert ids.shape == mask.shape == (3, int(pairs.token_mask[rows].sum(1).max())) and ids.shape[1] < 32
    assert torch.equal(ids * mask, pairs.token_ids[rows, :ids.shape[1]]) and (pairs.token_ids[rows, ids.shape[1]:] == 0).all()


# ---- bad videos

def test_bad_videos_are_skipped_counted_and_listed_and_the_others_are_as_ever(table, paths, config, tmp_path):
    table = pd.concat([table, table.assign(caption='the same again')], ignore_index=True)
    good = load_pairs(table, config, cache=tmp_path / 'before')
    os.remove(paths[1])
    with open(paths[4], 'wb') as file:
        file.write(b'noise' * 1000)
    told = []
    pairs = load_pairs(table, config, cache=tmp_path / 'after', log=told.append)
    assert {k: why.split(':')[0] for k, why in pairs.skipped.items()} == {'test0001': paths[1], 'test0004': paths[4]}
    assert len(told) == 1 and 'skipped 2 of 7 videos' in told[0] and paths[1] in told[0]
    kept = [t for t in range(14) if t % 7 not in (1, 4)]
    assert pairs.table['caption'].tolist() == table['caption'][kept].tolist() and len(pairs.frames) == 5
    assert torch.equal(pairs.token_ids, good.token_ids[kept])
    for t, before in enumerate(kept):
        a, b = pairs.text_to_video[t], good.text_to_video[before]
        assert np.array_equal(pairs.frames[a], good.frames[b]) and torch.equal(pairs.frame_mask[a], good.frame_mask[b])


def test_only_bad_videos_is_an_error_that_shows_the_first(table, config, tmp_path):
    with pytest.raises(VideoError, match='none of the 7 videos.*no such file'):
        load_pairs(table.assign(path='nowhere.mp4'), config, cache=tmp_path)


@pytest.mark.parametrize('column', ['video_id', 'path', 'caption'])
def test_a_missing_column_is_named_with_those_there(table, config, column):
    with pytest.raises(ValueError, match=f"lacks the column '{column}'; it has .*kind"):
        load_pairs(table.drop(columns=column), config)


def test_an_empty_caption_is_named_by_its_row(table, config, tmp_path):
    for empty in ('', '  ', float('nan')):
        with pytest.raises(ValueError, match='row 2 is empty'):
            load_pairs(table.assign(caption=[*table['caption'][:2], empty, *table['caption'][3:]]), config, cache=tmp_path)


@pytest.mark.parametrize('column, value', [('path', 'elsewhere.mp4'), ('start', 4), ('end', 9)])
def test_an_id_for_two_things_is_refused(table, config, column, value):
    twice = pd.concat([table, table.head(1).assign(**{column: value})])
    with pytest.raises(ValueError, match="'test0000' stands for two things"):
        load_pairs(twice, config)


def test_the_annotated_part_is_read_and_the_way_of_sampling(table, config, tmp_path):
    table = table.assign(start=[1, 2, None, 0, 0, 900, float('nan')], end=[3, 4, None, 31, 2, 905, float('nan')])
    for sampling in ('stride', 'seconds'):
        pairs = load_pairs(table, config.replace(sampling=sampling), cache=tmp_path)
        assert list(pairs.skipped) == ['test0005'] and 'ends before its annotated start' in pairs.skipped['test0005']
        for v, row in enumerate(r for r in table.itertuples() if r.video_id != 'test0005'):
            expected = read_frames(row.path, config.max_frames, 1, 32, row.start, row.end, sampling)[0]
            assert np.array_equal(pairs.frames[v][pairs.frame_mask[v].numpy()], expected)
    assert not np.array_equal(pairs.frames[0], load_pairs(table.assign(start=None, end=None), config, cache=tmp_path).frames[0])


# ---- the store

def counted(monkeypatch):
    """A list that grows by the path of each video decoded."""
    decoded, read = [], store.read_frames
    monkeypatch.setattr(store, 'read_frames', lambda path, *a: decoded.append(path) or read(path, *a))
    return decoded


def files(cache):
    return sorted(p for p in cache.rglob('*') if p.is_file())


def test_decoded_frames_are_kept_until_a_file_or_the_sampling_changes(paths, tmp_path, monkeypatch):
    decoded, cache = counted(monkeypatch), tmp_path / 'cache'
    first = load(paths, cache)
    assert decoded == paths and len(files(cache)) == 7
    again = load(paths, cache)
    assert decoded == paths  # nothing was decoded twice
    assert np.array_equal(first[0], again[0]) and torch.equal(first[1], again[1]) and first[2] == again[2] == {}
    load(paths[4:1:-1], cache), load([os.path.relpath(p) for p in paths], cache)
    assert decoded == paths  # splits share, whatever their order
    for change in (dict(max_frames=3), dict(size=8), dict(framerate=3), dict(sampling='seconds'), dict(spans=[(0, 5)] * 7)):
        decoded.clear()
        load(paths, cache, **change)
        assert decoded == paths, change
    decoded.clear()
    os.utime(paths[2], ns=(5, 5))
    shutil.copy(paths[1], paths[0])
    after = load(paths, cache)
    assert decoded == [paths[0], paths[2]]
    assert np.array_equal(after[0][0], first[0][1])  # the copy's frames, not the old ones


@pytest.mark.parametrize('memory', [0, 2 ** 30])
@pytest.mark.parametrize('keep', [True, False])
def test_the_store_is_indexed_like_an_array_in_memory_or_not_kept_or_not(paths, tmp_path, monkeypatch, memory, keep):
    monkeypatch.setattr(store, 'MEMORY', memory)
    frames, mask, bad = load(paths, tmp_path / 'cache', keep=keep, workers=2)
    assert (frames.memory is not None) == (keep and memory > 0)
    whole = np.zeros((7, 4, 16, 16, 3), np.uint8)
    for v, path in enumerate(paths):
        one = read_frames(path, 4, 1, 16)[0]
        whole[v, :len(one)] = one
    assert len(frames) == 7 and frames.shape == whole.shape and np.array_equal(frames, whole) and bad == {}
    for index in (3, -1, np.int64(2), torch.tensor(4), [5, 1, 5], np.array([[0, 1], [2, 3]]), torch.tensor([6, 0]),
                  slice(1, None, 2), np.arange(7) > 4, (2, slice(0, 2)), ([4, 2], slice(1, 3)), (slice(None), 0)):
        assert np.array_equal(frames[index], whole[index if not isinstance(index, torch.Tensor) else index.numpy()]), index
    blocks = [[6, 6, 0], [1], [2, 3], [4], [5, 1]]
    for rows, (block, there) in zip(blocks, frames.blocks(blocks)):
        assert np.array_equal(block, whole[rows]) and np.array_equal(there, mask[rows])


def test_without_a_store_only_indices_are_kept_and_bad_videos_are_found(paths, tmp_path):
    with open(paths[3], 'wb') as file:
        file.write(b'noise' * 1000)
    frames, mask, bad = load(paths, tmp_path / 'cache', keep=False)
    assert list(bad) == [3] and sum(p.stat().st_size for p in files(tmp_path / 'cache')) < 6 * 200
    assert torch.equal(mask, load(paths, tmp_path / 'other')[1])


def test_workers_may_be_spawned_as_on_a_mac(paths, tmp_path, monkeypatch):
    spawned = partial(ProcessPoolExecutor, mp_context=multiprocessing.get_context('spawn'))
    monkeypatch.setattr(workers, 'ProcessPoolExecutor', spawned)
    frames = load(paths[:2], tmp_path, keep=False, workers=1)[0]
    assert np.array_equal(frames[1][:1], read_frames(paths[1], 4, 1, 16)[0][:1])


def test_a_video_lost_on_the_way_gives_zeros_and_is_named(paths, tmp_path, monkeypatch):
    monkeypatch.setattr(store, 'MEMORY', 0)
    for keep in (True, False):
        frames, _, bad = load(paths, tmp_path / 'cache', keep=keep)
        os.remove(paths[2 + keep])
        frames.files[2 + keep].unlink()
        [(block, mask)] = frames.blocks([[1, 2 + keep]])
        assert bad == {} and list(frames.lost) == [2 + keep] and 'no such file' in frames.lost[2 + keep]
        assert block[0].any() and mask[0].any() and not block[1].any() and not mask[1].any()
        shutil.copy(paths[0], paths[2 + keep])


def test_many_workers_decode_as_one_does(paths, tmp_path):
    many = [shutil.copy(paths[i % 7], tmp_path / f'{i}.mp4') for i in range(105)]  # more than a hundred: the pool comes in
    many[50] = 'nowhere.mp4'
    one, two = (load(many, tmp_path / str(n), workers=n) for n in (1, 2))
    assert np.array_equal(one[0], two[0]) and torch.equal(one[1], two[1])
    assert list(two[2]) == [50] and not two[1][50].any() and two[1].any(1).sum() == len(many) - 1


def in_child(target, *args):
    child = multiprocessing.get_context('fork').Process(target=target, args=args)
    child.start()
    return child


def slow_load(paths, cache, kill_at=None):
    """Load in this (child) process, slowly, and perhaps die on the way."""
    read, seen = store.read_frames, []

    def slow(path, *args):
        seen.append(path)
        time.sleep(0.05)
        if len(seen) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path, *args)
    store.read_frames = slow
    load(paths, cache)


needs_fork = pytest.mark.skipif(sys.platform == 'win32' or sys.version_info >= (3, 14), reason='the patch reaches forked workers only')


def killing(monkeypatch, *names):
    """Let a worker die of the videos of these names."""
    read = store.read_frames

    def deadly(path, *args):
        if os.path.basename(path) in names:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path, *args)
    monkeypatch.setattr(store, 'read_frames', deadly)


@needs_fork
def test_a_video_that_kills_its_decoder_is_one_bad_video(paths, tmp_path, monkeypatch, table, config):
    expected = load(paths, tmp_path / 'other')
    killing(monkeypatch, 'test0001.mp4', 'test0004.mp4')
    monkeypatch.setattr(store, 'POOL', 0)
    frames, mask, bad = load(paths, tmp_path / 'cache', workers=2)
    assert list(bad) == [1, 4] and all(f'{paths[v]}: the decoder crashed' in why for v, why in bad.items())
    good = [0, 2, 3, 5, 6]
    assert np.array_equal(frames[good], expected[0][good]) and torch.equal(mask[good], expected[1][good])
    monkeypatch.setattr(os, 'cpu_count', lambda: 2)
    assert list(load_pairs(table, config, cache=tmp_path / 'pairs').skipped) == ['test0001', 'test0004']


@needs_fork
def test_a_video_that_kills_its_decoder_when_it_is_used_is_lost_alone(paths, tmp_path, monkeypatch):
    frames = load(paths, tmp_path, keep=False, workers=2)[0]
    expected = load(paths, tmp_path)[0]
    killing(monkeypatch, 'test0003.mp4')
    blocks = [[0, 1, 2], [3, 4], [5, 6, 0], [3, 1]]
    for rows, (block, there) in zip(blocks, frames.blocks(blocks)):
        for row, got, is_there in zip(rows, block, there.any(1)):
            assert is_there == (row != 3) and (not is_there or np.array_equal(got, expected[row]))
    assert list(frames.lost) == [3] and 'crashed' in frames.lost[3]


def test_a_video_that_may_not_be_read_is_no_full_disk(paths, tmp_path, monkeypatch):
    read = av.open

    def locked(name, *args, **settings):
        if name.endswith('test0002.mp4'):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return read(name, *args, **settings)
    monkeypatch.setattr(av, 'open', locked)
    _, mask, bad = load(paths, tmp_path)
    assert list(bad) == [2] and 'permission denied' in bad[2].lower() and 'chmod' in bad[2]
    monkeypatch.setattr(av, 'open', read)
    assert load(paths, tmp_path)[2] == {}


def test_a_killed_run_leaves_whole_files_and_the_next_goes_on(paths, tmp_path, monkeypatch):
    cache, expected = tmp_path / 'cache', load(paths, tmp_path / 'other')
    child = in_child(slow_load, paths, cache, 4)
    child.join(60)
    assert child.exitcode == -signal.SIGKILL and len(files(cache)) == 3
    decoded = counted(monkeypatch)
    frames, mask, bad = load(paths, cache)
    assert decoded == paths[3:]
    assert np.array_equal(frames, expected[0]) and torch.equal(mask, expected[1]) and bad == {}


def test_a_write_broken_off_is_never_read(paths, tmp_path, monkeypatch):
    def half(file, array):
        file.write(b'half')
        raise KeyboardInterrupt
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(np, 'save', half)
        load(paths, tmp_path / 'cache')
    assert files(tmp_path / 'cache') == []


def test_two_processes_may_fill_one_store_at_once(paths, tmp_path):
    cache, expected = tmp_path / 'cache', load(paths, tmp_path / 'other')
    children = [in_child(slow_load, paths, cache) for _ in range(2)]
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert [p.suffix for p in files(cache)] == ['.npy'] * 7 and not [p for p in files(cache) if p.name.startswith('.')]
    assert np.array_equal(load(paths, cache)[0], expected[0])


@pytest.mark.parametrize('damage', [b'', b'\x93NUMPY', 200, b'a letter, not an array' * 9])
def test_a_damaged_file_is_made_anew(paths, tmp_path, damage):
    cache, expected = tmp_path / 'cache', np.array(load(paths, tmp_path / 'cache')[0])
    one = files(cache)[3]
    one.write_bytes(one.read_bytes()[:damage] if isinstance(damage, int) else damage)
    assert np.array_equal(load(paths, cache)[0], expected)


def test_a_full_disk_and_a_folder_not_to_be_written_are_named(paths, tmp_path, monkeypatch):
    with pytest.raises(OSError, match='cannot keep decoded frames in .*data_dir'):
        load(paths, tmp_path / 'test0000.mp4' / 'below')  # below a file: root cannot write there either

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(np, 'save', full)
    with pytest.raises(OSError, match='(?s)cannot keep.*No space left.*MB.*needed'):
        load(paths, tmp_path / 'cache')


def test_load_shapes_takes_a_folder_and_a_size(world, config):
    pairs = load_shapes(config, 'val', data_dir=world, videos=dict(train=24, val=8, test=12))
    assert len(pairs) == len(pairs.frames) == 8
    assert pairs.skipped == {} and len(files(world / 'frames')) >= 8
