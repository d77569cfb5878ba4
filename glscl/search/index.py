"""Making and changing a gallery: which videos, decoding in workers, encoding, adding and removing (`glscl.shards`: on disk).

    glscl index VIDEOS/ --out gallery/
"""
import argparse
import contextlib
import datetime
import json
import multiprocessing
import os
import threading
import time
from collections import deque
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from itertools import islice
from pathlib import Path

import av
import numpy as np
import torch
from filelock import FileLock, Timeout

from ..interaction import gram
from ..model import Videos
from ..data.readers.own import own
from ..runtime.devices import autocast
from .shards import ROWS, ShardError, Writer, clip_lines, features, fingerprint, opened, pick_model, put, read_manifest, stat_of
from ..data.video import VideoError, pixels, read_frames

SAVE = 300      # seconds after which a shard is written though it is not full: what a kill can cost
PATIENCE = 2    # seconds to wait for another indexer: a killed one's workers are gone by then
TELL = 10       # seconds between lines of progress
LISTED = 20     # unreadable videos that the command line names


# ---- which videos

def find_clips(sources):
    """{(path, start, end): video_id} of folders, and of tables as `readers.own` takes them. No file twice, whatever its links."""
    rows = [row for source in sources for row in own(source, 'test', 'test')]
    paths = {row['path']: os.path.abspath(row['path']) for row in rows}
    links = {path for path in paths.values() if os.path.islink(path)}
    folders = {folder: os.path.realpath(folder) for folder in map(os.path.dirname, paths.values())}
    clips = {}
    for row in sorted(rows, key=lambda row: paths[row['path']] in links):  # a link gives way to the file itself
        path = paths[row['path']]
        real = os.path.realpath(path) if path in links else os.path.join(folders[os.path.dirname(path)], os.path.basename(path))
        clips.setdefault((real, row['start'], row['end']), ((path, row['start'], row['end']), row['video_id']))
    return dict(sorted(clips.values(), key=lambda clip: (clip[0][0], clip[0][1] or 0, clip[0][2] or 0)))


def _key(clip):
    return clip['path'], clip['start'], clip['end']


# ---- decoding in workers

def _with_parent():
    """A worker ends with its parent, also if that is killed: it would keep the gallery's lock."""
    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)
    threading.Thread(target=wait, daemon=True).start()


def _decode(path, start, end, max_frames, framerate, size, sampling):
    """(frames uint8 [F, size, size, 3], indices, frames a second), or the reason why not and whether that is final."""
    try:
        frames, indices = read_frames(path, max_frames, framerate, size, start, end, sampling)
        with av.open(path) as container:
            stream = container.streams.best('video')
            return frames, indices, float(stream.average_rate or stream.guessed_rate or 1)
    except VideoError as error:
        return str(error), True
    except Exception as error:  # a disk that fails, rights that lack: perhaps not the next time
        return f'{path}: {type(error).__name__} ({error})', False


def _result(future):
    """What a worker found; None if it died."""
    try:
        return future and future.result()
    except BrokenExecutor:
        return None


def _decoded(keys, how, workers, ahead):
    """(key, what `_decode` says of it) in turn, while the next are read. A file that kills its decoder is one bad file."""
    def start():
        return ProcessPoolExecutor(workers, initializer=_with_parent)

    def ask(key):
        with contextlib.suppress(BrokenExecutor):
            return key, pool.submit(_decode, *key, *how)
        return key, None
    pool, keys = start(), iter(keys)
    waiting = deque(map(ask, islice(keys, ahead)))
    try:
        while waiting:
            key, future = waiting.popleft()
            read = _result(future)
            if read is None:  # a worker died of this file, or of one of those behind it: try it alone
                with ProcessPoolExecutor(1, initializer=_with_parent) as alone:
                    read = _result(alone.submit(_decode, *key, *how)) or (f'{key[0]}: the decoder crashed on it. Take it out '
                                                                          f'of the folder', True)
                pool = start()
                waiting = deque(ask(other) for other, _ in waiting)
            waiting.extend(map(ask, islice(keys, 1)))
            yield key, read
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@torch.no_grad()
def _encode(model, read):
    """Frames uint8 [f, S, S, 3] of n videos -> Videos in half precision on the CPU; the Gram matrix in float32, of just these."""
    c, device = model.config, next(model.parameters()).device
    frames = np.zeros((len(read), c.max_frames, *read[0].shape[1:]), np.uint8)
    mask = np.zeros(frames.shape[:2], bool)
    for v, seen in enumerate(read):
        frames[v, :len(seen)], mask[v, :len(seen)] = seen, True
    with autocast(device):
        videos = model.encode_videos(*pixels(frames, mask, device))
    y, concepts = (x if x is None else x.half().cpu() for x in (videos.frames, videos.concepts))
    return Videos(y, videos.mask.cpu(), gram(y), concepts)


# ---- changing a gallery

def index_videos(sources, out, model=None, device='auto', batch=16, workers=None, log=print):
    """Make the gallery `out` hold exactly these videos; only what is new or changed (size, time) is encoded.

    sources: a folder, a table of paths (`readers.own`; its split "test"), or a list of such. model: a GLSCL, a checkpoint, a
    run's folder, or None for the one that made the gallery (at first the shipped one). A video that cannot be read is
    listed, and tried again once it has changed. A run that was broken off goes on.
    Returns {videos, added, changed, removed: numbers; unreadable: {path: why}}. Raises ValueError if another model made the
    gallery or another process is at it, OSError where it cannot be written."""
    out, log = Path(out), log or (lambda *_: None)
    wanted = find_clips([sources] if isinstance(sources, (str, os.PathLike)) else sources)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with FileLock(out / 'lock', timeout=PATIENCE):  # the system's own: it ends with the process that holds it
            manifest, model = _begin(out, model, device)
            return _update(out, manifest, model, wanted, batch, workers or min(8, os.cpu_count() or 1), log)
    except Timeout:
        raise ValueError(f'{out}: another process is indexing into this gallery; wait for its end, or name another '
                         f'folder') from None
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise OSError(f'cannot write the gallery {out}: {error}. What it held before is intact; make room, or name another '
                      f'folder') from error


def _begin(out, model, device):
    """(manifest of an old or a new gallery, model); what a killed run left behind is swept away."""
    old = read_manifest(out) if (out / 'gallery.json').exists() else None
    shards = list(out.glob('*.safetensors'))
    if shards and not old:
        raise ValueError(f'{out} holds {shards[0].name} but no gallery.json, which says what counts. Delete the folder, or name '
                         f'another')
    model, path = pick_model(model, old and old['model'], device)
    mark = fingerprint(model)
    manifest = read_manifest(out, mark) if old else dict(fingerprint=mark, shards={}, unreadable=[])
    manifest['model'] = path
    put(out / 'gallery.json', json.dumps(manifest, indent=0).encode())
    for file in [*(shard for shard in shards if shard.name not in manifest['shards']), *out.glob('.*.half')]:
        with contextlib.suppress(OSError):
            file.unlink()
    return manifest, model


def _update(out, manifest, model, wanted, batch, workers, log):
    stats = {key: stat_of(key[0]) for key in wanted}
    held = {name: _held(out, name, entry, manifest['fingerprint'], log) for name, entry in manifest['shards'].items()}
    before = {key for rows in held.values() for key, _ in rows}
    if before and not before & wanted.keys():
        raise ValueError(f'{out} holds {len(before)} videos, none of which is among the {len(wanted)} given here. Name all '
                         f'folders in one go, or another gallery for these')
    keep = {name: [row for row, (key, stat) in enumerate(rows) if stats.get(key) == stat] for name, rows in held.items()}
    known = {held[name][row][0] for name, rows in keep.items() for row in rows}
    writer = Writer(out, manifest)
    _repack(writer, keep)
    manifest['unreadable'] = [bad for bad in manifest['unreadable'] if bad['final'] and _key(bad) not in known
                              and stats.get(_key(bad), False) == bad['stat']]
    settled = known | {_key(bad) for bad in manifest['unreadable']}
    todo = [key for key in wanted if key not in settled]
    removed, changed = len(before - wanted.keys()), len(before & wanted.keys() - known)
    log(f'{out}: {len(known)} videos stay, {removed} go, {changed} have changed, {len(todo)} are to be encoded')
    added = _add(writer, model, {key: (wanted[key], stats[key]) for key in todo}, batch, workers, log)
    return dict(videos=len(known) + added, added=added, changed=changed, removed=removed,
                unreadable={bad['path']: bad['reason'] for bad in manifest['unreadable']})


def _held(out, name, entry, mark, log):
    """[(key, stat)] of a shard's rows; none of one that is damaged: its videos are encoded again."""
    try:
        with opened(out, name, entry, mark) as shard:
            return [(_key(clip), [clip['size'], clip['mtime']]) for clip in map(json.loads, clip_lines(shard))]
    except ShardError as error:
        log(f'{error}. Its {entry["rows"]} videos are encoded again, as far as they are here')
        return []


def _repack(writer, keep):
    """Shards that lose rows are written anew without them, together with short ones, so that many small runs leave few files."""
    shards, mark = writer.manifest['shards'], writer.manifest['fingerprint']
    short = [name for name, rows in keep.items() if len(rows) <= ROWS // 2]
    touched = [name for name, rows in keep.items() if len(rows) < shards[name]['rows'] or name in short and len(short) > 1]
    for name in touched:
        if keep[name]:
            with opened(writer.folder, name, shards[name], mark) as shard:
                lines, videos = clip_lines(shard), features(shard)[keep[name]]
            writer.add([lines[row] for row in keep[name]], videos)
    if touched:
        writer.commit(without=touched)


def _add(writer, model, todo, batch, workers, log):
    """Decode and encode `todo` {key: (id, stat)} into the gallery; returns how many could be."""
    c, began, told, added, block = model.config, time.monotonic(), time.monotonic(), 0, []
    bad = writer.manifest['unreadable']
    how = c.max_frames, c.framerate, model.clip.image_size, c.sampling
    for n, (key, read) in enumerate(_decoded(todo, how, workers, batch + workers), 1):
        video_id, stat = todo[key]
        clip = dict(id=video_id, path=key[0], start=key[1], end=key[2])
        if isinstance(read[0], str):
            bad.append(dict(clip, stat=stat, reason=read[0], final=read[1]))
        else:
            size, mtime = stat or (0, 0)  # came into being meanwhile: encoded again next time
            clip.update(size=size, mtime=mtime, fps=read[2], indices=[int(i) for i in read[1]])
            block.append((json.dumps(clip), read[0]))
        if len(block) == batch or block and n == len(todo):
            lines, frames = zip(*block)
            writer.add(lines, _encode(model, frames))
            added, block = added + len(lines), []
        now = time.monotonic()
        if writer.shards or now - writer.saved > SAVE:
            writer.commit(rest=now - writer.saved > SAVE)
        if now - told > TELL or n == len(todo):
            rate, told = n / (now - began), now
            log(f'{n} of {len(todo)} videos, {len(bad)} unreadable, {rate:.1f} a second, '
                f'{datetime.timedelta(seconds=round((len(todo) - n) / rate))} left')
    writer.commit()
    return added


def main(argv=None):
    """Encode the videos of folders into a gallery that `glscl search` searches; a later run adds, removes and goes on."""
    parser = argparse.ArgumentParser(prog='glscl index', description=main.__doc__)
    parser.add_argument('videos', nargs='+', help='folders (mp4, webm, avi, mkv, mov at any depth), or tables of paths')
    parser.add_argument('--out', required=True, help='the folder of the gallery; it comes to hold exactly these videos')
    parser.add_argument('--model', help="a checkpoint or a run's folder (default: the gallery's own, else the shipped one)")
    parser.add_argument('--device', default='auto')
    parser.add_argument('--batch', type=int, default=16, help='videos encoded at once')
    parser.add_argument('--workers', type=int, help='processes that decode')
    parser.add_argument('--shortlist', action='store_true', help='also the index (faiss) for `glscl search --shortlist`')
    args = parser.parse_args(argv)
    try:
        done = index_videos(args.videos, args.out, args.model, args.device, args.batch, args.workers,
                            lambda line: print(line, flush=True))
        if args.shortlist and done['videos']:
            from . import gallery as retrieval, shortlist
            shortlist.build(retrieval.Gallery(args.out, args.model, args.device))
    except (ValueError, OSError, ImportError) as error:
        parser.exit(1, f'glscl index: {error}\n')
    print(f'{args.out} holds {done["videos"]} videos: {done["added"]} added or encoded again, {done["removed"]} removed, '
          f'{len(done["unreadable"])} unreadable')
    for why in list(done['unreadable'].values())[:LISTED]:
        print(f'  unreadable: {why}')
    if len(done['unreadable']) > LISTED:
        print(f'  … and {len(done["unreadable"]) - LISTED} more, all in {Path(args.out) / "gallery.json"}')
    return 0 if done['videos'] else 1
