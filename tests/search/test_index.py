"""A gallery on disk: what is in it, and that it survives."""
import contextlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import Future
from pathlib import Path

import pytest
import torch
from data.films import encode, numbered
from PIL import Image
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
from glscl.__main__ import main
from glscl.bench import search as bench_search
from glscl.data import workers
from glscl.search import encoding, shards
from glscl.search import index as index_module
from glscl.search.clips import find_clips
from glscl.search.index import index_command, index_videos

needs_fork = pytest.mark.skipif(sys.platform == 'win32', reason='no fork')


def test_stored_features_are_the_models_in_half_precision(shared_gallery, splits, checkpoint):
    paths, videos = everything(shared_gallery)
    _, expected = glscl.encode(glscl.load_model(checkpoint), splits['test'])
    names = splits['test'].table['video_id'].tolist()
    row = [Path(path).name for path in paths].index('test0005.mp4')
    of_row = splits['test'].table['video'].tolist()[names.index('test0005')]
    assert videos.frames.dtype == videos.concepts.dtype == torch.float16
    for name in ('frames', 'concepts'):
        stored, whole = getattr(videos, name)[row].float(), getattr(expected, name)[of_row]
        torch.testing.assert_close(stored, whole, atol=4e-3, rtol=2e-3)


def test_progress_says_how_many_and_how_long(films, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, 'LOG_EVERY', 0)
    lines = []
    index(films, tmp_path / 'g', checkpoint, log=lines.append)
    assert '12 are to be encoded' in lines[0] and len(lines) == 13
    assert re.fullmatch(r'12 of 12 videos, 0 unreadable, [\d.]+ a second, 0:00:00 left', lines[-1])


def test_after_a_while_rows_count_though_they_fill_no_shard(films, checkpoint, tmp_path,
                                                            monkeypatch):
    monkeypatch.setattr(encoding, 'SAVE_AFTER', 0)
    encode, left = encoding.encode, [1, 1]
    monkeypatch.setattr(encoding, 'encode', lambda *batch: left.pop() and encode(*batch))
    with pytest.raises(IndexError):
        index(films, tmp_path / 'g', checkpoint, batch=4)
    assert len(paths_in(tmp_path / 'g')) == 8


def test_a_second_run_encodes_only_what_is_new_or_changed(gallery, films):
    def again():
        done = index(films, gallery, sync=True)
        assert paths_in(gallery) == videos_below(films)
        assert set(gallery.glob('*.safetensors')) == set(shard_files(gallery))
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
    monkeypatch.setattr(shards, 'ROWS', 4)
    model = glscl.load_model(checkpoint)
    away = tmp_path / 'away'
    away.mkdir()
    later = sorted(films.glob('test*'))
    for path in later:
        path.rename(away / path.name)
    for path in later[:6]:  # with those that are there, nine videos in six runs
        shutil.copy(away / path.name, films)
        index(films, tmp_path / 'g', model)
    assert paths_in(tmp_path / 'g') == videos_below(films)
    assert len(list((tmp_path / 'g').glob('*.safetensors'))) <= 4


def test_unreadable_videos_are_listed_and_tried_again_once_changed(films, checkpoint, tmp_path,
                                                                   capsys, monkeypatch):
    bad = {'cut.mp4', 'empty.avi', 'text.mkv', 'broken link.mov'}
    (films / 'cut.mp4').write_bytes((films / 'test0003.mp4').read_bytes()[:300])
    (films / 'empty.avi').touch()
    (films / 'text.mkv').write_text('no video')
    (films / 'broken link.mov').symlink_to(films / 'nowhere.mov')
    (films / '._hidden.mp4').touch()
    assert index_command([films], tmp_path / 'g', checkpoint, 'cpu', workers=1) == 0
    printed = capsys.readouterr().out
    for name in bad:
        assert f'unreadable: {films / name}: ' in printed
    assert 'hidden' not in printed
    assert '12 videos: 12 added' in printed and '4 unreadable' in printed
    manifest = json.loads((tmp_path / 'g/gallery.json').read_text())
    assert {Path(row['path']).name for row in manifest['unreadable']} == bad

    decoded, decode_all = [], encoding._decode_all

    def noted(clips, *rest):
        decoded.extend(clip.path for clip in clips)
        return decode_all(clips, *rest)
    monkeypatch.setattr(encoding, '_decode_all', noted)
    assert index(films, tmp_path / 'g')['added'] == 0 and decoded == []
    shutil.copy(films / 'test0003.mp4', films / 'cut.mp4')
    done = index(films, tmp_path / 'g')
    assert done['added'] == 1 and len(done['unreadable']) == 3
    assert decoded == [str(films / 'cut.mp4')]


def test_what_the_workers_warn_of_is_counted(films, checkpoint, tmp_path, capsys):
    """Copies that broke off are indexed as far as they go."""
    data = encode(tmp_path / 'whole.mpg', numbered(100), 'mpeg2video').read_bytes()
    for n in range(5):
        (films / f'cut{n}.mpg').write_bytes(data[:len(data) // 2 + 17 + n])
    assert main(['index', str(films), '--out', str(tmp_path / 'g'), '--model', str(checkpoint), '--workers', '2', '--device', 'cpu']) == 0
    printed = capsys.readouterr()
    assert 'holds 17 videos' in printed.out
    assert printed.err.count('cut0.mpg: ends in the midst of its container') == 2 and '4 more of the kind: ' in printed.err


def test_what_may_be_readable_next_time_is_tried_again(gallery, films, monkeypatch):
    def failing(path, *how):
        raise PermissionError(13, 'Permission denied')
    shutil.copy(films / 'test0003.mp4', films / 'new.mp4')
    with monkeypatch.context() as patch:
        patch.setattr(encoding, 'read_frames', failing)
        patch.setattr(workers, 'start_pool', InThisProcess)
        done = index(films, gallery)
    assert 'PermissionError' in done['unreadable'][str(films / 'new.mp4')]
    assert index(films, gallery)['added'] == 1


class InThisProcess:
    """An executor without processes, so that what a test puts in a function's place is called."""

    def __init__(self, workers):
        pass

    def submit(self, function, *arguments):
        future = Future()
        future.set_result(function(*arguments))
        return future

    def shutdown(self, **how):
        pass


def _crash(path, *how):
    if 'test0004' in path:
        os.kill(os.getpid(), signal.SIGKILL)
    return read_frames(path, *how)


read_frames = encoding.read_frames


@pytest.mark.skipif(sys.platform == 'win32' or sys.version_info >= (3, 14),
                    reason='the patch reaches forked workers only')
def test_a_video_that_kills_its_decoder_is_one_bad_video(films, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(encoding, 'read_frames', _crash)
    done = index(films, tmp_path / 'g', checkpoint, batch=4, workers=2)
    bad = str(films / 'test0004.mp4')
    assert done['videos'] == 11 and list(done['unreadable']) == [bad]
    assert 'crashed' in done['unreadable'][bad]


def test_moments_are_those_of_the_time_stamps(checkpoint, tmp_path):
    times = [*range(0, 2000, 40), *range(2000, 12000, 500)]  # the second part is slow
    (tmp_path / 'films').mkdir()
    encode(tmp_path / 'films/varying.mkv', numbered(70), times=times)
    index(tmp_path / 'films', tmp_path / 'g', checkpoint)
    with pytest.warns(UserWarning, match='knows moving shapes only'):
        frames = open_gallery(tmp_path / 'g').search(TEXTS[0], 1)[0].frames
    assert len(frames) > 2
    for frame in frames:
        assert frame['seconds'] == pytest.approx(times[frame['index']] / 1000, abs=0.01)


def test_a_gallery_of_old_tells_moments_by_the_rate(gallery, monkeypatch):
    found = open_gallery(gallery).search(TEXTS[0], 3)
    read_shard = shards.read_shard

    def old(*args):
        lines, videos = read_shard(*args)
        clips = [json.loads(line) for line in lines]
        return [json.dumps({**{k: v for k, v in clip.items() if k != 'seconds'}, 'fps': 3.0}) for clip in clips], videos
    monkeypatch.setattr(shards, 'read_shard', old)
    assert open_gallery(gallery).search(TEXTS[0], 3) == found


def test_names_of_videos_of_every_kind_are_found_and_tried(checkpoint, tmp_path):
    films = tmp_path / 'films'
    films.mkdir()
    for suffix, codec in dict(m4v='libx264', mpg='mpeg2video', mpeg='mpeg2video', ts='libx264', flv='flv', wmv='wmv2', vob='mpeg2video',
                                     f4v='libx264', mts='libx264', m2ts='libx264', asf='wmv2').items():
        encode(films / f'a.{suffix}', numbered(30), codec)
    encode(films / 'b.3gp', numbered(30))
    encode(films / 'b.divx', numbered(30), 'mpeg4', format='avi')
    encode(films / 'b.rm', numbered(30), 'rv10', format='rm')
    encode(films / 'b.mxf', numbered(30), 'mpeg2video', format='mxf')
    first, *others = map(Image.fromarray, numbered(30))
    first.save(films / 'moving.GIF', save_all=True, append_images=others, duration=100)
    first.save(films / 'still.gif')
    done = index(films, tmp_path / 'g', checkpoint)
    assert done['videos'] == 16
    assert 'is a picture (GIF)' in done['unreadable'][str(films / 'still.gif')]


def test_links_loops_and_tables(films, tmp_path):
    (films / 'loop').symlink_to(films, target_is_directory=True)
    (films / '0 link.mp4').symlink_to(films / 'test0003.mp4')
    (tmp_path / 'elsewhere.mp4').write_bytes((films / 'test0003.mp4').read_bytes())
    (films / 'outside.mp4').symlink_to(tmp_path / 'elsewhere.mp4')
    found = find_clips([films, films / 'sub'])
    assert len(found) == 13 and (str(films / 'outside.mp4'), None, None) in found
    assert (str(films / '0 link.mp4'), None, None) not in found
    rows = ['path,caption,video_id,start,end', 'test0003.mp4,one,a,0,2', 'test0003.mp4,two,b,2,4']
    (films / 'table.csv').write_text('\n'.join(rows) + '\n')
    film = str(films / 'test0003.mp4')
    assert find_clips([films / 'table.csv']) == {
        (film, 0.0, 2.0): {'id': 'a', 'caption': 'one'}, (film, 2.0, 4.0): {'id': 'b', 'caption': 'two'}}


def test_single_files_as_sources(films, checkpoint, tmp_path, capsys):
    other = encode(tmp_path / 'b.webm', numbered(30), 'libvpx')
    line = ['index', str(films / 'test0003.mp4'), str(other), '--out', str(tmp_path / 'g'), '--model', str(checkpoint),
            '--workers', '1', '--device', 'cpu']
    assert main(line) == 0
    assert paths_in(tmp_path / 'g') == sorted(map(str, (films / 'test0003.mp4', other)))
    (tmp_path / 'notes.txt').write_text('no video')
    line[2] = str(tmp_path / 'notes.txt')
    assert main(line) == 1
    assert 'notes.txt: expected a folder, a .csv or .jsonl file, or a video (.mp4, ' in capsys.readouterr().err


def test_a_table_needs_paths_alone_and_uses_all_its_rows(films, tmp_path):
    """Absolute or relative, outside the table's folder too: whoever indexes has named the table."""
    tables = tmp_path / 'tables'
    tables.mkdir()
    inside = Path(shutil.copy(films / 'test0005.mp4', tables))
    paths = [films / 'test0003.mp4', films / 'test0004.mp4', inside]
    (tables / 'a.csv').write_text(f'path,split\n{paths[0]},train\n../{films.name}/test0004.mp4,whatever\ntest0005.mp4,\n')
    (tables / 'a.jsonl').write_text('\n'.join([json.dumps({'path': str(paths[0]), 'caption': None}),
                                               json.dumps({'path': f'../{films.name}/test0004.mp4', 'split': 'val'}),
                                               json.dumps({'path': 'test0005.mp4', 'split': 'train'})]))
    for name in ('a.csv', 'a.jsonl'):
        found = find_clips([tables / name])
        assert sorted(clip.path for clip in found) == sorted(map(str, paths))
        assert not any('caption' in label for label in found.values())
    (tables / 'b.csv').write_text('file\na.mp4\n')
    with pytest.raises(ValueError, match="b.csv, row 1: the column 'path' is missing; it has file"):
        find_clips([tables / 'b.csv'])
    (tables / 'c.jsonl').write_text('{"path": "a.mp4", "caption": 3}')
    with pytest.raises(ValueError, match='c.jsonl, row 1, field caption: expected text, found 3'):
        find_clips([tables / 'c.jsonl'])
    (tables / 'd.csv').write_text('path\n')
    with pytest.raises(ValueError, match='d.csv: holds no row'):
        find_clips([tables / 'd.csv'])


def test_what_is_passed_over_is_counted(films, checkpoint, tmp_path, capsys):
    for name in ('notes.txt', 'cover.jpg', 'README'):
        (films / name).write_text('no video')
    (films / '.hidden.mp4').write_text('hidden')
    assert main(['index', str(films), '--out', str(tmp_path / 'g'), '--model', str(checkpoint), '--workers', '1', '--device', 'cpu']) == 0
    assert '3 files are passed over, whose names are not those of videos (.jpg, .txt, no suffix)' in capsys.readouterr().out


def unread_pipe():
    """The end to write to of a pipe that nobody reads any more, as `glscl … | head -0` has it."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_whoever_reads_the_lines_of_an_index_may_leave(films, checkpoint, tmp_path):
    writer = unread_pipe()
    done = subprocess.run([sys.executable, '-m', 'glscl', 'index', str(films), '--out', str(tmp_path / 'g'), '--model', str(checkpoint),
                           '--workers', '1', '--device', 'cpu'], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, '')
    index(films, tmp_path / 'g', checkpoint)
    assert len(paths_in(tmp_path / 'g')) == 12  # the next run goes on


@pytest.mark.parametrize('flags', [[], ['--json']])
def test_whoever_reads_the_lines_of_a_search_may_leave(shared_gallery, monkeypatch, capsys, flags):
    with monkeypatch.context() as patch, open(unread_pipe(), 'w') as out:  # closing it writes what is left, as leaving Python does
        patch.setattr(sys, 'stdout', out)
        assert main(['search', str(shared_gallery), TEXTS[0], *flags, '--device', 'cpu']) == 1
    assert capsys.readouterr().err == ''


def test_another_folder_adds_and_only_sync_removes(gallery, films, tmp_path):
    (tmp_path / 'empty').mkdir()
    shutil.copytree(films, tmp_path / 'moved')
    for wrong in ({'sources': tmp_path / 'empty'}, {'sources': tmp_path / 'nowhere'}, {'sources': []},
                  {'model': tmp_path / 'none.safetensors'}, {'device': 'no such device'},
                  {'batch': 0}, {'workers': -1}):
        before = (gallery / 'gallery.json').read_bytes()
        sources = wrong.pop('sources', tmp_path / 'moved')
        with pytest.raises((OSError, ValueError)):
            index_videos(sources, gallery, log=None, sync=True, confirm=lambda *n: True,
                         **{'device': 'cpu', **wrong})
        assert (gallery / 'gallery.json').read_bytes() == before
    done = index(tmp_path / 'moved', gallery)
    assert done['removed'] == 0 and paths_in(gallery) == sorted(videos_below(films) + videos_below(tmp_path / 'moved'))
    for name in videos_below(films)[:9]:
        os.unlink(name)
    assert index([films, tmp_path / 'moved'], gallery, sync=True)['removed'] == 9
    asked = []
    with pytest.raises(ValueError, match='would remove 12 of the 15 videos .*--yes'):
        index(films, gallery, sync=True, confirm=lambda *n: asked.append(n))
    assert asked == [(12, 15)] and len(paths_in(gallery)) == 15
    assert index(films, gallery, sync=True, confirm=lambda *n: True)['removed'] == 12
    assert paths_in(gallery) == videos_below(films)


def test_the_command_asks_at_a_terminal_or_for_a_flag(gallery, films, tmp_path, monkeypatch, capsys):
    (tmp_path / 'one').mkdir()
    shutil.copy(films / 'test0003.mp4', tmp_path / 'one')

    def sync(*flags):
        return main(['index', str(tmp_path / 'one'), '--out', str(gallery), '--device', 'cpu',
                     '--workers', '1', '--sync', *flags])
    for terminal, answer in ((False, 'y'), (True, 'n')):
        monkeypatch.setattr(sys.stdin, 'isatty', lambda: terminal, raising=False)
        monkeypatch.setattr('builtins.input', lambda question: answer)
        assert sync() == 1 and paths_in(gallery) == videos_below(films)
        assert 'would remove 12 of the 12 videos' in capsys.readouterr().err
    assert sync('--yes') == 0
    assert '12 removed' in capsys.readouterr().out
    assert paths_in(gallery) == videos_below(tmp_path / 'one')


def test_videos_in_a_folder_that_cannot_be_read_are_not_gone(gallery, films, monkeypatch):
    scandir = os.scandir

    def locked(path):
        if os.path.basename(path) == 'sub':
            raise PermissionError(13, 'Permission denied', path)
        return scandir(path)
    monkeypatch.setattr(os, 'scandir', locked)
    with pytest.warns(UserWarning, match='sub is passed over: it cannot be read'), \
            pytest.raises(OSError, match='sub cannot be read .*--sync cannot tell'):
        index(films, gallery, sync=True)
    with pytest.warns(UserWarning, match='sub is passed over'):
        index(films, gallery)
    monkeypatch.undo()
    assert paths_in(gallery) == videos_below(films)


@needs_fork
@pytest.mark.parametrize('kind, status', [('SIGTERM', 143), ('SIGINT', 130)])
def test_a_stopped_indexer_keeps_what_it_has_and_says_how_to_go_on(films, checkpoint, tmp_path, kind,
                                                                   status):
    code = ('import os, signal, sys\nfrom glscl.search import encoding\nfrom glscl.__main__ import main\n'
            'whole, seen = encoding._decode_all, []\n'
            'def stopping(*arguments):\n    for pair in whole(*arguments):\n        seen.append(pair)\n'
            f'        if len(seen) == 7: os.kill(os.getpid(), signal.{kind})\n        yield pair\n'
            'encoding._decode_all = stopping\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n'
            'sys.exit(main(sys.argv[1:]))')
    command = ['index', str(films), '--out', str(tmp_path / 'g'), '--model', str(checkpoint),
               '--device', 'cpu', '--workers', '1', '--batch', '4']
    done = subprocess.run([sys.executable, '-c', code, *command], capture_output=True, text=True)
    assert done.returncode == status and 'Traceback' not in done.stderr
    assert 'stopped after 7 of 12 videos, which are kept; the same command goes on' in done.stdout + done.stderr
    assert len(paths_in(tmp_path / 'g')) == 7
    assert index(films, tmp_path / 'g', checkpoint)['added'] == 5


# ---- kills and company

def _index_stopping(pipe, films, gallery, checkpoint, rows):
    """Index, and at each write stop twice until told to go on: with half of the file written, and
    with the file in its place."""
    atomic_write = shards.atomic_write

    @contextlib.contextmanager
    def stopping(path):
        with atomic_write(path) as half:
            yield half
            data = half.read_bytes()
            half.write_bytes(data[:len(data) // 2])
            stop('half')
            half.write_bytes(data)
        stop('whole')

    def stop(stage):
        pipe.send(stage)
        pipe.recv()
    shards.atomic_write, shards.ROWS = stopping, rows
    index(films, gallery, checkpoint, batch=3)


def start(*arguments):
    """`_index_stopping` in a process of its own: (process, pipe)."""
    fork = multiprocessing.get_context('fork')
    here, there = fork.Pipe()
    process = fork.Process(target=_index_stopping, args=(there, *arguments))
    process.start()
    there.close()  # so that the end of the process ends the pipe
    return process, here


@needs_fork
@pytest.mark.parametrize('write, stage', [(1, 'half'), (2, 'half'), (2, 'whole'), (3, 'half'),
                                          (3, 'whole'), (5, 'half')])
def test_killed_in_any_write_the_gallery_is_whole_and_the_next_run_goes_on(films, checkpoint,
                                                                           tmp_path, write, stage):
    """Writes: gallery.json, a shard of three, gallery.json, a shard, gallery.json, …"""
    gallery = tmp_path / 'g'
    process, pipe = start(films, gallery, checkpoint, 3)
    stops = 2 * write - (stage == 'half')
    for n in range(stops):
        stopped_at = pipe.recv()
        if n < stops - 1:
            pipe.send('go on')
    assert stopped_at == stage
    process.kill()
    process.join()
    whole = write if stage == 'whole' else write - 1
    held = paths_in(gallery) if whole > 2 else []
    assert len(held) == 3 * max(0, (whole - 1) // 2) and set(held) <= set(videos_below(films))
    assert len(list(gallery.glob('.*.half'))) == (stage == 'half')
    if held:
        assert len(open_gallery(gallery).search(TEXTS[0], 12)) == len(held)
    done = index(films, gallery, checkpoint)
    assert done['added'] == 12 - len(held) and paths_in(gallery) == videos_below(films)
    names = {'gallery.json', 'lock', *(path.name for path in shard_files(gallery))}
    assert {path.name for path in gallery.iterdir()} == names


@needs_fork
def test_two_indexers_at_once(films, checkpoint, tmp_path, monkeypatch):
    process, pipe = start(films, tmp_path / 'g', checkpoint, 1024)
    pipe.recv()
    monkeypatch.setattr(index_module, 'LOCK_TIMEOUT', 0.1)
    with pytest.raises(ValueError, match=f'process {process.pid} on .* is writing to'):
        index(films, tmp_path / 'g', checkpoint)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            pipe.send('go on')
            pipe.recv()
    process.join()
    assert process.exitcode == 0 and paths_in(tmp_path / 'g') == videos_below(films)


def test_a_full_disk_leaves_what_was_there(gallery, films, monkeypatch):
    shutil.copy(films / 'test0003.mp4', films / 'new.mp4')
    (films / 'test0004.mp4').unlink()  # so that a shard is written anew
    before = sorted(shard_files(gallery))

    def full(fd):
        raise OSError(28, 'No space left on device')
    with monkeypatch.context() as patch:
        patch.setattr(os, 'fsync', full)
        with pytest.raises(OSError, match='intact'):
            index(films, gallery)
    assert sorted(shard_files(gallery)) == before
    assert len(open_gallery(gallery).search(TEXTS[0], 20)) == 12


def test_bench_finds_what_it_generated(tmp_path, model):
    made = bench_search.Generated(model)
    bench_search.generate(tmp_path, model, 50)
    found = glscl.Gallery(tmp_path, model).search(made.texts(50, 50), 1)
    assert sum(f'/generated/{v}.mp4' == row[0].path for v, row in enumerate(found)) > 40
    places = torch.tensor([[int(row[0].id), 99] for row in found])
    assert bench_search.recall(found, places) == 1
    places[:25] = 98
    assert bench_search.recall(found, places) == 0.5
