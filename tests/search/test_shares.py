"""A gallery made in shares, by torchrun's processes or by runs of their own: it is that of one process."""
import contextlib
import json
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors import safe_open
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
from glscl.runtime import distributed
from glscl.search import encoding, shards, shares
from glscl.search import index as index_module
from glscl.search.index import index_command

needs_fork = pytest.mark.skipif(sys.platform == 'win32', reason='no fork')


@pytest.fixture(autouse=True)
def quick(monkeypatch, small_shards):
    monkeypatch.setattr(index_module, 'LOCK_TIMEOUT', 0.2)


def clips_in(folder):
    """All that a gallery says of its clips, in its order."""
    lines = []
    for file in shard_files(folder):
        with safe_open(file, 'pt') as shard:
            lines += shard.metadata()['clips'].split('\n')
    return [json.loads(line) for line in lines]


def rows_in(folder):
    """(a clip, its features) of each row."""
    videos = everything(folder)[1]
    return [(clip, {name: x[n] for name, x in vars(videos).items()}) for n, clip in enumerate(clips_in(folder))]


def assert_same(folder, other, ordered=True):
    """Rows and every bit of their features, what is unreadable, and no file too many; ordered: rows in the same order."""
    rows, others = rows_in(folder), rows_in(other)
    if not ordered:
        rows, others = (sorted(of, key=lambda row: row[0]['path']) for of in (rows, others))
    assert [clip for clip, _ in rows] == [clip for clip, _ in others]
    assert all(torch.equal(a[name], b[name]) for (_, a), (_, b) in zip(rows, others) for name in a)
    one, two = (json.loads((f / 'gallery.json').read_text()) for f in (folder, other))
    assert sorted(bad['path'] for bad in one['unreadable']) == sorted(bad['path'] for bad in two['unreadable'])
    assert one['fingerprint'] == two['fingerprint'] and one['clip'] == two['clip']
    assert {path.name for path in folder.iterdir()} == {'gallery.json', 'lock', *(path.name for path in shard_files(folder))}


def in_shares(films, folder, model=None, order=(3, 1, 2), **kwargs):
    """Each share in turn, as a job array might run them: what the last of them returns."""
    for k in order:
        done = index(films, folder, model, batch=2, share=(k, len(order)), **kwargs)
        assert bool(done['left']) == (k != order[-1])
    return done


def test_shares_in_any_order_make_the_gallery_of_one_process(films, checkpoint, tmp_path):
    """At first, and again after videos have come, changed and gone bad: then short shards have been packed together, which in
    shares are others, so that the order is another."""
    (films / 'cut.mp4').write_bytes((films / 'test0003.mp4').read_bytes()[:300])
    one, many = tmp_path / 'one', tmp_path / 'many'
    for again in (False, True):
        if again:
            change_some(films)
        alone = index(films, one, checkpoint, batch=2)
        done = in_shares(films, many, checkpoint)
        assert_same(many, one, ordered=not again)
        for name in ('videos', 'changed', 'removed', 'unreadable'):
            assert done[name] == alone[name]
    assert len(open_gallery(many).search(TEXTS[0], 20)) == done['videos'] == 15


def change_some(films):
    for n in range(4):
        shutil.copy(films / 'test0003.mp4', films / f'new{n}.mp4')
    shutil.copy(films / 'test0006.mp4', films / 'test0007.mp4')
    (films / 'test0008.mp4').write_text('no video')


def test_until_the_last_has_ended_the_gallery_is_as_it_was(gallery, films, tmp_path, capsys):
    before = clips_in(gallery)
    shutil.copytree(films, tmp_path / 'more')
    line = ['index', str(tmp_path / 'more'), '--out', str(gallery), '--device', 'cpu', '--batch', '4', '--workers', '1', '--share']
    assert main([*line, '2/2']) == 0
    assert clips_in(gallery) == before and len(open_gallery(gallery).search(TEXTS[0], 30)) == 12
    printed = capsys.readouterr().out
    assert f'this share of {gallery} holds 4 videos: 4 added' in printed
    assert f'not ended yet: share 1. The last to end joins them all in {gallery}' in printed
    assert main([*line, '1/2']) == 0
    printed = capsys.readouterr().out
    assert f'12 videos are to be encoded in 2 shares, as listed on {"20"}' in printed
    assert f'{gallery} holds 24 videos: 8 added' in printed and 'not ended' not in printed
    assert paths_in(gallery) == sorted(videos_below(films) + videos_below(tmp_path / 'more'))
    assert main([*line, '1/2']) == 0  # one that comes late finds nothing to do
    assert f'{gallery} holds 24 videos: 0 added' in capsys.readouterr().out and not (gallery / 'shares').exists()


def test_the_plan_holds_for_shares_that_begin_later(films, checkpoint, tmp_path):
    """What comes after it was made is for the next run, and no share moves."""
    index(films, tmp_path / 'g', checkpoint, batch=2, share=(1, 2))
    with pytest.raises(ValueError, match='holds no videos yet: its shares are joined when the last one has ended'):
        open_gallery(tmp_path / 'g').search(TEXTS[0])
    shutil.copy(films / 'test0003.mp4', films / '0 new.mp4')
    (films / 'test0011.mp4').unlink()
    done = index(films, tmp_path / 'g', checkpoint, batch=2, share=(2, 2))
    assert done['videos'] == 11 and len(paths_in(tmp_path / 'g')) == 11
    assert list(done['unreadable']) == [str(films / 'test0011.mp4')]
    assert index(films, tmp_path / 'g')['added'] == 1
    assert paths_in(tmp_path / 'g') == videos_below(films)


def test_more_shares_than_videos(films, checkpoint, tmp_path):
    index(films, tmp_path / 'one', checkpoint, batch=2)
    in_shares(films, tmp_path / 'g', checkpoint, order=range(1, 10))
    assert_same(tmp_path / 'g', tmp_path / 'one')


def test_sharpness_of_an_untrained_clip_is_that_of_one_process(films, clip_file, tmp_path):
    for folder, shares_of in (('one', None), ('g', (1, 2)), ('h', (2, 1))):
        model = glscl.ZeroShot('small', str(clip_file))
        if shares_of:  # each a process of its own, that begins without one
            for k in (shares_of[0], *shares_of):  # one again, that has ended
                index(films, tmp_path / folder, glscl.ZeroShot('small', str(clip_file)), batch=2, share=(k, 2))
        else:
            index(films, tmp_path / folder, model, batch=2)
    one, *others = (json.loads((tmp_path / name / 'gallery.json').read_text())['clip'] for name in ('one', 'g', 'h'))
    assert others == [one, one] and one['temperature'] > 0


@pytest.mark.parametrize('text', ['3', '0/2', '3/2', '-1/2', 'a/b', '1/2/3', '/'])
def test_a_share_that_is_none_is_refused(films, tmp_path, text):
    with pytest.raises(ValueError, match=f'--share must be K/N with K from 1 to N, as in 3/16, not {text}'):
        index_command([films], tmp_path / 'g', device='cpu', share=text)
    assert not (tmp_path / 'g').exists()


# ---- the guards hold

def test_shares_of_another_command_are_told(films, checkpoint, tmp_path):
    gallery = tmp_path / 'g'
    index(films, gallery, checkpoint, batch=2, share=(1, 3))
    for other in (dict(share=(1, 2)), dict(batch=4), dict(sync=True), dict(films=films / 'sub')):
        other = {**dict(films=films, batch=2, share=(2, 3)), **other}
        with pytest.raises(ValueError, match='is being made in shares by another command .*without --share'):
            index(other.pop('films'), gallery, checkpoint, **other)
    torch.manual_seed(1)
    with pytest.raises(ValueError, match='was made by another model'):
        index(films, gallery, glscl.GLSCL(glscl.load_model(checkpoint).config), batch=2, share=(2, 3))
    (gallery / 'shares/plan.json').write_text('{')
    with pytest.raises(ValueError, match='plan.json, line 1: broken JSON .*without --share'):
        index(films, gallery, checkpoint, batch=2, share=(2, 3))
    done = index(films, gallery, checkpoint)  # alone: what the share has encoded stays
    assert done['added'] == 8 and paths_in(gallery) == videos_below(films) and not (gallery / 'shares').exists()


def test_sync_removes_once_and_asks_for_much(gallery, films):
    for name in videos_below(films)[:10]:
        os.unlink(name)
    with pytest.raises(ValueError, match='would remove 10 of the 12 videos'):
        index(films, gallery, sync=True, share=(1, 2))
    assert len(paths_in(gallery)) == 12
    shutil.copy(videos_below(films)[0], films / 'new.mp4')
    removed = [index(films, gallery, sync=True, share=(k, 2), batch=1, confirm=lambda *n: True)['removed'] for k in (1, 2)]
    assert removed == [10, 10] and paths_in(gallery) == videos_below(films)  # both say what their plan has removed


def _stopping_at(pipe, films, gallery, checkpoint, share):
    """Index, and stop in the first shard that is written until told to go on."""
    write = shards.Writer._write_shard

    def stopping(writer):
        pipe.send('writing')
        pipe.recv()
        write(writer)
    shards.Writer._write_shard = stopping
    index(films, gallery, checkpoint, batch=2, share=share)


@contextlib.contextmanager
def at_work(*arguments):
    """A process in the midst of a share, killed at the end if it has not ended: yields a function that ends it."""
    fork = multiprocessing.get_context('fork')
    here, there = fork.Pipe()
    process = fork.Process(target=_stopping_at, args=(there, *arguments))
    process.start()
    there.close()
    assert here.recv() == 'writing'

    def finish():
        with contextlib.suppress(EOFError, BrokenPipeError):
            while True:
                here.send('go on')
                here.recv()
        process.join()
        assert process.exitcode == 0
    try:
        yield finish
    finally:
        process.kill()
        process.join()


@needs_fork
def test_shares_work_beside_each_other_and_nobody_else(films, checkpoint, tmp_path):
    index(films, tmp_path / 'one', checkpoint, batch=2)
    gallery = tmp_path / 'g'
    with at_work(films, gallery, checkpoint, (2, 3)) as finish:
        assert index(films, gallery, checkpoint, batch=2, share=(1, 3))['left'] == [2, 3]
        with pytest.raises(ValueError, match=r'process \d+ on .* is writing to .*shares.2'):
            index(films, gallery, checkpoint, batch=2)  # who is not one of them is told
        with pytest.raises(ValueError, match=r'process \d+ on .* is writing to .*shares.2'):
            index(films, gallery, checkpoint, batch=2, share=(2, 3))  # and so is a second one
        finish()
    assert index(films, gallery, checkpoint, batch=2, share=(3, 3))['left'] == []
    assert_same(gallery, tmp_path / 'one')


@needs_fork
def test_a_share_waits_for_one_that_writes_alone_and_says_so(films, checkpoint, tmp_path):
    lines = []
    with at_work(films, tmp_path / 'g', checkpoint, None) as finish:
        def log(line):
            lines.append(line)
            if 'waits' in line:
                finish()
        done = index(films, tmp_path / 'g', checkpoint, share=(1, 2), log=log)
    assert 'is writing to' in lines[0] and lines[0].endswith('This process waits')
    assert done['added'] == 0 and done['left'] == [] and paths_in(tmp_path / 'g') == videos_below(films)


# ---- kills

@needs_fork
def test_a_killed_share_goes_on_where_it_was(films, checkpoint, tmp_path):
    index(films, tmp_path / 'one', checkpoint, batch=2)
    gallery = tmp_path / 'g'
    with at_work(films, gallery, checkpoint, (1, 2)):
        pass
    assert index(films, gallery, checkpoint, batch=2, share=(2, 2))['left'] == [1]
    assert index(films, gallery, checkpoint, batch=2, share=(1, 2))['added'] == 6
    assert_same(gallery, tmp_path / 'one')


@pytest.mark.parametrize('what, where', [('unlink', 1), ('replace', 1), ('replace', 2), ('write', 1), ('rmtree', 1)])
@pytest.mark.parametrize('then', ['share', 'alone'])
def test_broken_off_while_it_joins_it_is_joined_by_the_next(films, checkpoint, tmp_path, monkeypatch, what, where, then):
    index(films, tmp_path / 'one', checkpoint, batch=2)
    gallery, calls = tmp_path / 'g', []

    def broken(function):
        def call(*arguments, **options):
            calls.append(1)
            if len(calls) == where:
                raise KeyboardInterrupt
            return function(*arguments, **options)
        return call
    join = shares.join

    def joining(*arguments):
        with monkeypatch.context() as patch:
            owner, name = dict(unlink=(Path, 'unlink'), replace=(shares.os, 'replace'), rmtree=(shares.shutil, 'rmtree'),
                               write=(shares.shards, 'write_manifest'))[what]
            if (gallery / 'shares/2/gallery.json').exists():
                patch.setattr(owner, name, broken(getattr(owner, name)))
            join(*arguments)
    index(films, gallery, checkpoint, batch=2, share=(1, 2))
    monkeypatch.setattr(shares, 'join', joining)
    with pytest.raises(KeyboardInterrupt):
        index(films, gallery, checkpoint, batch=2, share=(2, 2))
    monkeypatch.setattr(shares, 'join', join)
    done = index(films, gallery, checkpoint, batch=2, share=(1, 2) if then == 'share' else None)
    assert done['added'] == 0 and done['videos'] == 12 and done['left'] == []
    assert paths_in(gallery) == videos_below(films) and not (gallery / 'shares').exists()


def test_a_full_disk_ends_a_share_and_leaves_the_rest(films, checkpoint, tmp_path, monkeypatch):
    index(films, tmp_path / 'g', checkpoint, batch=2, share=(1, 2))

    def full(*_):
        raise OSError(28, 'No space left on device')
    with monkeypatch.context() as patch:
        patch.setattr(shards.Writer, '_write_shard', full)
        with pytest.raises(OSError, match='intact'):
            index(films, tmp_path / 'g', checkpoint, batch=2, share=(2, 2))
    assert index(films, tmp_path / 'g', checkpoint, batch=2, share=(2, 2))['added'] == 6
    assert paths_in(tmp_path / 'g') == videos_below(films)


# ---- torchrun

def _together(rank, world, port, films, folder, checkpoint):
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
                      MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    with distributed.processes('cpu'):
        results = [index(films, folder / f'g{world}', checkpoint, batch=2)]
        if world == 2:
            distributed.barrier()
            if rank == 0:
                change_some(films)
            distributed.barrier()
            results += [index(films, folder / f'g{world}', batch=2), index(films, folder / f'g{world}', batch=2)]
            for wrong in (dict(sources=folder / 'nowhere'), dict(share=(1, 2)), dict(sync=True, sources=films / 'sub')):
                sources = wrong.pop('sources', films)
                with pytest.raises((ValueError, OSError)) as error:  # in every process
                    index(sources, folder / f'g{world}', batch=2, **wrong)
                results.append(str(error.value))
        (folder / f'{world}-{rank}.json').write_text(json.dumps(results, default=vars))


@needs_fork
@pytest.mark.parametrize('n', [2, 3])
def test_processes_of_torchrun_make_the_gallery_of_one(films, checkpoint, tmp_path, n):
    (films / 'cut.mp4').write_bytes((films / 'test0003.mp4').read_bytes()[:300])
    index(films, tmp_path / 'one', checkpoint, batch=2)
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    torch.multiprocessing.start_processes(_together, (n, port, films, tmp_path, checkpoint), nprocs=n, start_method='fork')
    if n == 2:  # the same two steps
        index(films, tmp_path / 'one', batch=2)
    assert_same(tmp_path / f'g{n}', tmp_path / 'one', ordered=n == 3)
    first, *others = (json.loads((tmp_path / f'{n}-{rank}.json').read_text()) for rank in range(n))
    assert all(other == first for other in others)  # all return the same
    assert first[0]['added'] == 12 and len(first[0]['pace']) == n and first[0]['left'] == []
    if n == 2:
        assert first[1]['added'] == 5 and first[1]['changed'] == 2 and first[2]['added'] == 0
        assert 'nowhere' in first[3] and 'leave out the share' in first[4] and 'would remove 14 of the 15' in first[5]


@pytest.mark.skipif(sys.platform == 'win32', reason='torch for Windows comes without libuv')
def test_the_command_under_torchrun(films, checkpoint, tmp_path):
    run = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', '-m', 'glscl', 'index', str(films),
           '--out', str(tmp_path / 'g'), '--model', str(checkpoint), '--device', 'cpu', '--workers', '1', '--batch', '2']
    done = subprocess.run(run, capture_output=True, text=True, timeout=240, env={**os.environ, 'OMP_NUM_THREADS': '1'},
                          cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('holds 12 videos: 12 added') == 1 and done.stdout.count('bottleneck') == 1
    index(films, tmp_path / 'one', checkpoint, batch=2)
    assert_same(tmp_path / 'g', tmp_path / 'one')


def test_what_took_the_time_is_said(films, checkpoint, tmp_path, capsys):
    assert index_command([films], tmp_path / 'g', str(checkpoint), 'cpu', workers=1) == 0
    assert '48 frames in ' in capsys.readouterr().out
    pace = encoding.Pace
    for waiting, slower in ((8, 'decoding'), (2, 'encoding')):
        line = index_module._bottleneck([pace(400, 10, waiting), pace(600, 8, waiting)])
        assert line == f'1,000 frames in 10 s, 100.0 a second; {2 * waiting / 18:.0%} of the time was spent waiting for frames: {slower} is the bottleneck'


# ---- what a cluster is given

ROOT = Path(__file__).parents[2]
needs_bash = pytest.mark.skipif(sys.platform == 'win32' or not shutil.which('bash'), reason='no bash')


@needs_bash
@pytest.mark.parametrize('script', sorted(ROOT.glob('data/*.sh')), ids=lambda path: path.name)
def test_scripts_for_slurm_are_bash(script):
    done = subprocess.run(['bash', '-n', script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '')


@needs_bash
def test_the_array_job_gives_each_task_its_share(tmp_path):
    """Run as Slurm would, with an `srun` that prints."""
    text = (ROOT / 'data/slurm_array.sh').read_text()
    (tasks,) = {int(n) for n in re.findall(r'--array=1-(\d+)%', text)}
    (tmp_path / 'srun').write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / 'srun').chmod(0o755)
    given = []
    for task in range(1, tasks + 1):
        names = dict(PATH=f'{tmp_path}:{os.environ["PATH"]}', SLURM_ARRAY_TASK_ID=str(task), SLURM_CPUS_PER_TASK='8',
                     VIDEOS='/my films', GALLERY='/a gallery')
        typed = subprocess.run(['bash', ROOT / 'data/slurm_array.sh'], capture_output=True, text=True, env=names).stdout.splitlines()
        with mock.patch('glscl.search.index.index_command', lambda *arguments: given.append(arguments)):
            main(typed[3:])
        assert typed[:3] == ['python', '-m', 'glscl'] and shares.parse(given[-1][-1]) == (task, tasks)
    assert {tuple(arguments[:-1]) for arguments in given} == {
        (('/my films',), '/a gallery', None, 'auto', 16, 8, False, False, False, 'ViT-B-32', 'openai')}
