"""Tables, the store of decoded frames, and what happens to a bad video among good ones."""
import errno
import json
import multiprocessing
import os
import shutil
import signal
import time

import numpy as np
import pandas as pd
import pytest
import torch

from glscl import datasets
from glscl.datasets import load_frames, load_pairs, load_shapes, shapes_scenes, shapes_table
from glscl.video import CLIP_MEAN, CLIP_STD, VideoError, read_frames


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
    assert ids.shape == mask.shape == (3, int(pairs.words_mask[rows].sum(1).max())) and ids.shape[1] < 32
    assert torch.equal(ids * mask, pairs.ids[rows, :ids.shape[1]]) and (pairs.ids[rows, ids.shape[1]:] == 0).all()


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
    assert torch.equal(pairs.ids, good.ids[kept])
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


# ---- the store

def test_decoded_frames_are_kept_until_a_file_or_the_sampling_changes(paths, tmp_path, monkeypatch):
    decoded, read = [], datasets.read_frames
    monkeypatch.setattr(datasets, 'read_frames', lambda path, *a: decoded.append(path) or read(path, *a))
    first = load(paths, tmp_path / 'cache')
    assert decoded == paths
    again = load(paths, tmp_path / 'cache')
    assert decoded == paths  # nothing was decoded twice
    assert np.array_equal(first[0], again[0]) and torch.equal(first[1], again[1]) and first[2] == again[2] == {}
    for change in (lambda: load(paths, tmp_path / 'cache', max_frames=3), lambda: load(paths, tmp_path / 'cache', size=8),
                   lambda: load(paths, tmp_path / 'cache', framerate=3), lambda: load(paths[::-1], tmp_path / 'cache'),
                   lambda: os.utime(paths[2], ns=(5, 5)) or load(paths, tmp_path / 'cache'),
                   lambda: shutil.copy(paths[1], paths[0]) and load(paths, tmp_path / 'cache')):
        decoded.clear()
        change()
        assert len(decoded) == 7
    assert np.array_equal(load(paths, tmp_path / 'cache')[0][0], first[0][1])  # the copy's frames, not the old ones


def test_many_workers_decode_as_one_does(paths, tmp_path):
    many = paths * 15  # more than a hundred: the pool comes in
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
    read, seen = datasets.read_frames, []

    def slow(path, *args):
        seen.append(path)
        time.sleep(0.05)
        if len(seen) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(path, *args)
    datasets.read_frames = slow
    load(paths, cache)


def test_a_killed_write_leaves_no_half_store(paths, tmp_path):
    cache, expected = tmp_path / 'cache', load(paths, tmp_path / 'other')
    child = in_child(slow_load, paths, cache, 4)
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert not [p for p in cache.iterdir() if not p.name.startswith('.')]
    frames, mask, bad = load(paths, cache)
    assert np.array_equal(frames, expected[0]) and torch.equal(mask, expected[1]) and bad == {}


def test_two_processes_may_fill_one_store_at_once(paths, tmp_path):
    cache, expected = tmp_path / 'cache', load(paths, tmp_path / 'other')
    children = [in_child(slow_load, paths, cache) for _ in range(2)]
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    assert sorted(p.suffix for p in cache.iterdir()) == ['.json', '.npy']
    assert np.array_equal(load(paths, cache)[0], expected[0])


def test_a_lost_or_damaged_store_is_made_anew(paths, tmp_path):
    expected = np.array(load(paths, tmp_path)[0])
    for damage in (lambda p: p.unlink(), lambda p: p.write_bytes(b'')):
        damage(next(tmp_path.glob('*.npy')))
        assert np.array_equal(load(paths, tmp_path)[0], expected)
    next(tmp_path.glob('*[0-9a-f].json')).write_text('{"counts": [4')
    assert np.array_equal(load(paths, tmp_path)[0], expected)


def test_a_full_disk_and_a_folder_not_to_be_written_are_named(paths, tmp_path, monkeypatch):
    with pytest.raises(OSError, match='cannot keep decoded frames in .*data_dir'):
        load(paths, tmp_path / 'test0000.mp4' / 'below')  # below a file: root cannot write there either

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(np.lib.format, 'open_memmap', full)
    with pytest.raises(OSError, match='(?s)cannot keep.*No space left.*MB.*needed'):
        load(paths, tmp_path / 'cache')


@pytest.mark.skipif(not hasattr(os, 'posix_fallocate'), reason='this system cannot claim blocks')
def test_room_is_claimed_before_the_first_frame_is_stored(paths, tmp_path, monkeypatch):
    """A hole in a file on a full disk kills the process (SIGBUS) when it is written to, so there must be no hole."""
    blocks, fill = [], datasets._fill

    def look(*args):
        [half] = tmp_path.glob('.*.npy')
        blocks.append(half.stat().st_blocks * 512 >= half.stat().st_size)
        return fill(*args)
    monkeypatch.setattr(datasets, '_fill', look)
    load(paths, tmp_path, size=64)
    assert blocks == [True]


def test_load_shapes_takes_a_folder_and_a_size(world, config):
    pairs = load_shapes(config, 'val', data_dir=world, videos=dict(train=24, val=8, test=12))
    assert len(pairs) == len(pairs.frames) == 8
    assert json.loads(next((world / 'frames').glob('*.json')).read_text())['bad'] == {}
