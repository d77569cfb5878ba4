"""Making and changing a gallery: which videos, decoding in workers, encoding, adding and removing.

    glscl index VIDEOS/ --out gallery/
"""
import contextlib
import datetime
import json
import os
import time
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout

from ..data.sampling import VideoError, pixels
from ..data.video import frame_seconds, read_frames
from ..data.workers import KILLED, Workers
from ..datasets.readers.own import own
from ..interaction import gram
from ..model import Videos
from ..runtime.devices import autocast
from ..runtime.files import remove_halves
from . import shards
from . import shortlist as shortlists
from .gallery import Gallery
from .page import show

SAVE_AFTER = 300   # seconds after which rows are written that fill no shard: what a kill can cost
LOCK_TIMEOUT = 2   # seconds; the workers of a killed indexer have ended by then
LOG_EVERY = 10     # seconds between lines of progress
LISTED = 20        # unreadable videos that `report` names


class ClipKey(NamedTuple):
    """What tells a clip from others: a file, and the part of it in seconds (None: no limit)."""
    path: str
    start: float | None
    end: float | None


@dataclass
class Unreadable:
    """Why a clip has no frames; final: until its file changes, else the next run tries it again."""
    reason: str
    final: bool


def find_clips(sources):
    """The clips of folders and tables: {ClipKey: video_id}, sorted by path and start.

    sources: a list of folders, and of tables as `datasets.readers.own` takes them (their split
    "test"). No file comes twice: where links lead to it as well, its own path is taken."""
    rows = [dict(row, path=os.path.abspath(row['path']))
            for source in sources for row in own(source, 'test', 'test')]
    rows.sort(key=lambda row: os.path.islink(row['path']))  # so that files come before links
    clips = {}
    for row in rows:
        file = os.path.realpath(row['path'])
        clips.setdefault((file, row['start'], row['end']), row)
    rows = sorted(clips.values(), key=lambda row: (row['path'], row['start'] or 0, row['end'] or 0))
    return {_key(row): row['video_id'] for row in rows}


def _key(row):
    """The ClipKey of a row of a table, or of a JSON object in a gallery."""
    return ClipKey(row['path'], row['start'], row['end'])


def _decode(clip, settings):
    """(frames uint8 [F, S, S, 3], indices, seconds [F]) of a clip, or Unreadable.

    settings: max_frames, framerate, size, sampling, reader."""
    max_frames, framerate, size, sampling, reader = settings
    try:
        frames, indices = read_frames(clip.path, max_frames, framerate, size, clip.start, clip.end,
                                      sampling, reader)
        return frames, indices, frame_seconds(clip.path, indices)
    except VideoError as error:
        return Unreadable(str(error), error.final)
    except Exception as error:  # a disk that fails, a permission that lacks: perhaps not next time
        return Unreadable(f'{clip.path}: {type(error).__name__} ({error})', final=False)


def _decode_all(clips, settings, workers, ahead):
    """Yields (clip, what `_decode` returns) in the order of the clips, while the next `ahead` are
    decoded. A file that kills its decoder is one unreadable file."""
    pool = Workers(workers)
    try:
        for clip, call in pool.map(partial(_decode, settings=settings), clips, ahead):
            try:
                result = call.result()
            except BrokenExecutor:
                result = Unreadable(f'{clip.path}: {KILLED}', final=False)
            yield clip, result
    finally:
        pool.shutdown()


@torch.no_grad()
def _encode(model, clips):
    """Videos in half precision on the CPU of n clips: a list of frames, uint8 [F, S, S, 3] each."""
    max_frames, device = model.config.max_frames, next(model.parameters()).device
    frames = np.zeros((len(clips), max_frames, *clips[0].shape[1:]), np.uint8)  # [n, F, S, S, 3]
    mask = np.zeros((len(clips), max_frames), bool)                             # [n, F]
    for n, clip in enumerate(clips):
        frames[n, :len(clip)] = clip
        mask[n, :len(clip)] = True
    with autocast(device):
        videos = model.encode_videos(*pixels(frames, mask, device))
    y = videos.frames.half().cpu()
    concepts = None if videos.concepts is None else videos.concepts.half().cpu()
    return Videos(y, videos.mask.cpu(), gram(y), concepts)  # gram of the frames as they are stored


def index_videos(sources, out, model=None, device='auto', batch=16, workers=None, log=print):
    """Make the gallery `out` hold exactly these videos; only new and changed ones are encoded.

    sources: a folder, a table of paths (`datasets.readers.own`; its split "test"), or a list of
    such. model: a GLSCL, a checkpoint, a run's folder, or None for the one that made the
    gallery (at first the shipped one). batch: videos encoded at once; workers: processes that
    decode. Size and time tell whether a file has changed. A video that cannot be read is
    listed, and tried again once it has changed. A run that was broken off goes on. Returns
    {videos, added, changed, removed: numbers; unreadable: {path: why}}. Raises ValueError if
    another model made the gallery or another process is at it, OSError if it cannot be written."""
    out, log = Path(out), log or (lambda line: None)
    workers = workers or min(8, os.cpu_count() or 1)
    wanted = find_clips([sources] if isinstance(sources, (str, os.PathLike)) else sources)
    try:
        out.mkdir(parents=True, exist_ok=True)
        # The system's own lock: it ends with the process that holds it.
        with FileLock(out / 'lock', timeout=LOCK_TIMEOUT):
            manifest, model = _begin(out, model, device)
            return _update(shards.Writer(out, manifest), model, wanted, batch, workers, log)
    except Timeout:
        raise ValueError(f'{out}: another process is indexing into this gallery; wait for its end, '
                         f'or name another folder') from None
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(f'cannot write the gallery {out}: {error}. What it held before is intact; '
                      f'make room, or name another folder') from error


def _begin(out, model, device):
    """(manifest of an old or a new gallery, model); what a killed run left is swept away."""
    old = shards.read_manifest(out) if (out / 'gallery.json').exists() else None
    files = list(out.glob('*.safetensors'))
    if files and not old:
        raise ValueError(f'{out} holds {files[0].name} but no gallery.json, which says what '
                         f'counts. Delete the folder, or name another')
    model, path = shards.pick_model(model, old and old['model'], device)
    mark = shards.fingerprint(model)
    manifest = {'fingerprint': mark, 'shards': {}, 'unreadable': []}
    if old:
        manifest = shards.read_manifest(out, mark)
    manifest['model'] = path
    shards.write_manifest(out, manifest)
    with contextlib.suppress(OSError):  # (on Windows) being read: the next run takes it away
        remove_halves(out)
        for file in files:
            if file.name not in manifest['shards']:
                file.unlink()
    return manifest, model


def _update(writer, model, wanted, batch, workers, log):
    """Make the gallery hold `wanted`, {ClipKey: video_id}; returns what `index_videos` does."""
    out, manifest = writer.folder, writer.manifest
    stats = {clip: shards.stat_of(clip.path) for clip in wanted}
    stored = {name: _stored_clips(writer, name, log) for name in manifest['shards']}
    before = {clip for rows in stored.values() for clip, _ in rows}
    if before and before.isdisjoint(wanted):
        raise ValueError(f'{out} holds {len(before)} videos, none of which is among the '
                         f'{len(wanted)} given here. Name all folders in one go, or another '
                         f'gallery for these')
    keep, unchanged = {}, set()
    for name, rows in stored.items():
        keep[name] = [row for row, (clip, stat) in enumerate(rows) if stats.get(clip) == stat]
        unchanged.update(rows[row][0] for row in keep[name])
    writer.repack(keep)
    manifest['unreadable'] = [bad for bad in manifest['unreadable'] if bad['final']
                              and _key(bad) not in unchanged
                              and stats.get(_key(bad), 'not wanted') == bad['stat']]
    settled = unchanged | {_key(bad) for bad in manifest['unreadable']}
    todo = {clip: (video_id, stats[clip]) for clip, video_id in wanted.items()
            if clip not in settled}
    removed, changed = len(before - wanted.keys()), len(before & wanted.keys() - unchanged)
    log(f'{out}: {len(unchanged)} videos stay, {removed} go, {changed} have changed, {len(todo)} '
        f'are to be encoded')
    added = _add(writer, model, todo, batch, workers, log)
    reasons = {bad['path']: bad['reason'] for bad in manifest['unreadable']}
    return {'videos': len(unchanged) + added, 'added': added, 'changed': changed,
            'removed': removed, 'unreadable': reasons}


def _stored_clips(writer, name, log):
    """[(ClipKey, stat)] of a shard's rows; none of a damaged one: its videos are encoded again."""
    entry, mark = writer.manifest['shards'][name], writer.manifest['fingerprint']
    try:
        lines, _ = shards.read_shard(writer.folder, name, entry, mark, rows=[])
    except shards.ShardError as error:
        log(f'{error}. Its {entry["rows"]} videos are encoded again, as far as they are here')
        return []
    return [(_key(clip), [clip['size'], clip['mtime']]) for clip in map(json.loads, lines)]


def _add(writer, model, todo, batch, workers, log):
    """Decode and encode `todo`, {ClipKey: (video_id, stat)}; returns how many could be."""
    c, unreadable = model.config, writer.manifest['unreadable']
    settings = (c.max_frames, c.framerate, model.clip.image_size, c.sampling, c.reader)
    began = logged = time.monotonic()
    lines, frames, added = [], [], 0
    results = _decode_all(todo, settings, workers, batch + workers)
    for done, (clip, result) in enumerate(results, 1):
        video_id, stat = todo[clip]
        record = dict(id=video_id, **clip._asdict())
        if isinstance(result, Unreadable):
            unreadable.append(dict(record, stat=stat, reason=result.reason, final=result.final))
        else:
            # Without a stat the file came into being meanwhile: the next run encodes it again.
            size, mtime = stat or (0, 0)
            images, indices, seconds = result
            record.update(size=size, mtime=mtime, indices=[int(index) for index in indices],
                          seconds=[round(float(second), 3) for second in seconds])
            lines.append(json.dumps(record))
            frames.append(images)
        if lines and (len(lines) == batch or done == len(todo)):
            writer.add(lines, _encode(model, frames))
            added += len(lines)
            lines, frames = [], []
        now = time.monotonic()
        overdue = now - writer.saved > SAVE_AFTER
        if writer.uncommitted or overdue:
            writer.commit(rest=overdue)
        if now - logged > LOG_EVERY or done == len(todo):
            logged, rate = now, done / (now - began)
            left = datetime.timedelta(seconds=round((len(todo) - done) / rate))
            log(f'{done} of {len(todo)} videos, {len(unreadable)} unreadable, {rate:.1f} a second, '
                f'{left} left')
    writer.commit()
    return added


def index_command(videos, out, model=None, device='auto', batch=16, workers=None, shortlist=False):
    """Encode the videos of folders into a gallery that `glscl search` searches.

    A later run adds, removes and goes on. videos: folders and tables; shortlist: also build what
    `glscl search --shortlist` needs (with faiss); the rest as for `index_videos`. Prints progress
    and a report; returns 0, or 1 if the gallery holds no video. Raises ValueError, OSError or
    ImportError with a message for the user."""
    done = index_videos(videos, out, model, device, batch, workers, show)
    if shortlist and done['videos']:
        shortlists.build(Gallery(out, model, device))
    report(done, out)
    return 0 if done['videos'] else 1


def report(done, out):
    """Print what `index_videos` returned for the gallery `out`."""
    unreadable = list(done['unreadable'].values())
    show(f'{out} holds {done["videos"]} videos: {done["added"]} added or encoded again, '
         f'{done["removed"]} removed, {len(unreadable)} unreadable')
    for reason in unreadable[:LISTED]:
        show(f'  unreadable: {reason}')
    if len(unreadable) > LISTED:
        show(f'  … and {len(unreadable) - LISTED} more, all in {Path(out) / "gallery.json"}')
