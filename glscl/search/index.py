"""Making and changing a gallery: which videos, decoding in workers, encoding, adding and removing.

    glscl index VIDEOS/ --out gallery/
"""
import contextlib
import datetime
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ..data.sampling import VideoError, pixels
from ..data.video import frame_seconds, read_frames
from ..data.workers import KILLED, Workers
from ..datasets.readers.own import listed
from ..interaction import gram
from ..model import GLSCL, Videos
from ..runtime.devices import autocast, pick_device
from ..runtime.files import remove_halves
from ..runtime.locks import one_writer
from ..runtime.signals import stop_noted, stopped
from ..runtime.terminal import shown
from ..score import beyond_shapes
from . import shards
from . import shortlist as shortlists
from .gallery import ANOTHER, Gallery
from .page import show, warned, warnings_as_lines
from .zero_shot import ZeroShot

SAVE_AFTER = 300   # seconds after which rows are written that fill no shard: what a kill can cost
LOCK_TIMEOUT = 2   # seconds; the workers of a killed indexer have ended by then
LOG_EVERY = 10     # seconds between lines of progress
LISTED = 20        # unreadable videos that `report` names
LARGE = 10         # videos that a sync removes unasked, where they are more than half of all

Source = str | os.PathLike


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


def find_clips(sources: Sequence[Source],
               log: Callable[[str], None] | None = None) -> dict[ClipKey, dict]:
    """The clips of folders, tables and single files: {ClipKey: {id, and caption where a table gives
    one}}, sorted by path and start.

    sources: a list of what `datasets.readers.own.listed` takes. No file comes twice: where links
    lead to it as well, its own path is taken; of several captions the first."""
    rows = [dict(row, path=os.path.abspath(row['path']))
            for source in sources for row in listed(source, log)]
    rows.sort(key=lambda row: os.path.islink(row['path']))  # so that files come before links
    clips = {}
    for row in rows:
        file = os.path.realpath(row['path'])
        clips.setdefault((file, row['start'], row['end']), row)
    rows = sorted(clips.values(), key=lambda row: (row['path'], row['start'] or 0, row['end'] or 0))
    return {_key(row): _label(row) for row in rows}


def _label(row):
    """What a gallery keeps of a row besides its ClipKey."""
    label = {'id': row['video_id']}
    if row['caption']:
        label['caption'] = row['caption']
    return label


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


def index_videos(sources: Source | list[Source], out: str | os.PathLike,
                 model: GLSCL | str | os.PathLike | None = None, device: str = 'auto',
                 batch: int = 16, workers: int | None = None,
                 log: Callable[[str], None] | None = print, sync: bool = False,
                 confirm: Callable[[int, int], bool] | None = None,
                 warn: Callable[[str], None] = warnings.warn) -> dict:
    """Add videos to the gallery `out`, which is made; only new and changed ones are encoded.

    sources: a folder, a video, a table of paths (`datasets.readers.own.listed`), or a list of
    such. model: a GLSCL (`ZeroShot`: a CLIP without training), a checkpoint, a run's folder, or
    None for the one that made the gallery (at first the shipped one, which knows moving shapes
    only: `warn` is told where the first videos are others). batch: videos encoded at once;
    workers: processes that decode. Size and time tell whether a file has changed. A video that
    cannot be read is listed, and tried again once it has changed. A run that was broken off goes
    on; after SIGTERM or Ctrl-C it keeps what it has encoded, says so, and raises SystemExit(143) or
    KeyboardInterrupt.

    sync: also remove what `sources` do not name. More than half of the gallery, and LARGE at least,
    only if confirm(how many, of how many) says so; else ValueError. Returns {videos, added,
    changed, removed: numbers; unreadable: {path: why}}. Raises ValueError if a source has no video,
    another model made the gallery or another process is at it, before anything is changed; OSError
    if it cannot be written."""
    out, log = Path(out), log or (lambda line: None)
    workers = workers or min(8, os.cpu_count() or 1)
    for name, n in dict(batch=batch, workers=workers).items():
        if not hasattr(n, '__index__') or n < 1:
            raise ValueError(f'{name} must be a whole number of 1 or more, not {n}')
    wanted = find_clips([sources] if isinstance(sources, (str, os.PathLike)) else sources, log)
    if not wanted:
        raise ValueError('no video is named')
    model, made_by = _same_model(out, model, device)
    line = beyond_shapes(model, [clip.path for clip in wanted])
    if line:
        warn(f'{line} {ANOTHER}')
    try:
        with one_writer(out, LOCK_TIMEOUT):
            manifest = _begin(out, model, made_by)
            writer = shards.Writer(out, manifest)
            return _update(writer, model, wanted, batch, workers, log, sync, confirm)
    except (FileNotFoundError, BrokenPipeError):  # the latter: whoever read the lines has gone
        raise
    except OSError as error:
        raise OSError(f'cannot write the gallery {out}: {error}. What it held before is intact; '
                      f'make room, or name another folder') from error


def _same_model(out, model, device):
    """What `shards.pick_model` returns; ValueError unless it can go on with what is in `out`."""
    old = shards.read_manifest(out) if (out / 'gallery.json').exists() else None
    stray = next(out.glob('*.safetensors'), None)
    if stray and not old:
        raise ValueError(f'{out} holds {stray.name} but no gallery.json, which says what '
                         f'counts. Delete the folder, or name another')
    model, made_by = shards.pick_model(model, old, device)
    if old:
        shards.read_manifest(out, shards.fingerprint(model))
    return model, made_by


def _begin(out, model, made_by):
    """The manifest of an old or a new gallery; what a killed run left is swept away."""
    mark = shards.fingerprint(model)
    manifest = {'fingerprint': mark, 'shards': {}, 'unreadable': [], 'damaged': []}
    if (out / 'gallery.json').exists():
        manifest = shards.read_manifest(out, mark)
    manifest.update(made_by)
    shards.write_manifest(out, manifest)
    with contextlib.suppress(OSError):  # (on Windows) being read: the next run takes it away
        remove_halves(out)
        for file in out.glob('*.safetensors'):
            if file.name not in manifest['shards']:
                file.unlink()
    return manifest


def _update(writer, model, wanted, batch, workers, log, sync, confirm):
    """Add `wanted`, as `find_clips` returns it; sync: remove all others. Returns what
    `index_videos` does."""
    out, manifest = writer.folder, writer.manifest
    for problem in manifest['damaged']:
        log(f'{problem}. Its videos are encoded again, as far as they are here')
    stats = {clip: shards.stat_of(clip.path) for clip in wanted}
    stored = {name: _stored_clips(writer, name, model, log) for name in manifest['shards']}
    before = {clip for rows in stored.values() for clip, _ in rows}
    gone = before - wanted.keys() if sync else set()
    for folder in sorted({os.path.dirname(clip.path) for clip in gone}):
        _look_into(folder)
    if len(gone) >= LARGE and 2 * len(gone) > len(before) and not (
            confirm and confirm(len(gone), len(before))):
        raise ValueError(f'sync would remove {len(gone)} of the {len(before)} videos in {out}, '
                         f'since they are not named. Say --yes if that is meant; without --sync '
                         f'videos are only added')
    keep, unchanged = {}, set()
    for name, rows in stored.items():
        keep[name] = [row for row, (clip, stat) in enumerate(rows)
                      if clip not in gone and stats.get(clip, stat) == stat]
        unchanged.update(rows[row][0] for row in keep[name])
    writer.repack(keep)
    manifest['unreadable'] = [bad for bad in manifest['unreadable'] if _still(bad, stats, sync)
                              and _key(bad) not in unchanged]
    settled = unchanged | {_key(bad) for bad in manifest['unreadable']}
    todo = {clip: (label, stats[clip]) for clip, label in wanted.items() if clip not in settled}
    removed, changed = len(gone), len(before & wanted.keys() - unchanged)
    log(f'{out}: {len(unchanged)} videos stay, {removed} go, {changed} have changed, {len(todo)} '
        f'are to be encoded')
    added = _add(writer, model, todo, batch, workers, log)
    reasons = {bad['path']: bad['reason'] for bad in manifest['unreadable']}
    return {'videos': len(unchanged) + added, 'added': added, 'changed': changed,
            'removed': removed, 'unreadable': reasons}


def _look_into(folder):
    """OSError where a folder is there and cannot be read: its videos are not gone."""
    try:
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise OSError(f'{folder} cannot be read ({error.strerror}), so --sync cannot tell whether '
                      f'its videos are gone') from None


def _still(bad, stats, sync):
    """Whether a video that could not be read is left as it is: not tried now."""
    if _key(bad) not in stats:
        return not sync
    return bad['final'] and stats[_key(bad)] == bad['stat']


def _stored_clips(writer, name, model, log):
    """[(ClipKey, stat)] of a shard's rows; none of a damaged one: its videos are encoded again."""
    entry, mark = writer.manifest['shards'][name], writer.manifest['fingerprint']
    try:
        clips = shards.check_shard(writer.folder, name, entry, mark, model)
    except shards.ShardError as error:
        log(f'{error}. Its {entry["rows"]} videos are encoded again, as far as they are here')
        return []
    return [(_key(clip), [clip['size'], clip['mtime']]) for clip in clips]


def _add(writer, model, todo, batch, workers, log):
    """Decode and encode `todo`, {ClipKey: (label, stat)}; returns how many could be."""
    with stop_noted() as noted:
        added, done = _encode_all(writer, model, todo, batch, workers, log, noted)
    if done < len(todo):
        raise stopped(noted[0], f'stopped after {done} of {len(todo)} videos, which are kept; the '
                                f'same command goes on')
    return added


def _encode_all(writer, model, todo, batch, workers, log, noted):
    """(how many of `todo` were encoded, how many tried); at the first clip after a signal is
    `noted` what there is counts, and no more is done."""
    c, unreadable = model.config, writer.manifest['unreadable']
    settings = (c.max_frames, c.framerate, model.clip.image_size, c.sampling, c.reader)
    began = logged = time.monotonic()
    lines, frames, added, done = [], [], 0, 0
    results = _decode_all(todo, settings, workers, batch + workers)
    for done, (clip, result) in enumerate(results, 1):
        stop = bool(noted)
        label, stat = todo[clip]
        record = {**label, **clip._asdict()}
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
        if lines and (len(lines) == batch or done == len(todo) or stop):
            videos = _encode(model, frames)
            if isinstance(model, ZeroShot) and not model.fitted:
                model.fit(videos.to(model.device))
                writer.manifest['clip'] = model.record
            writer.add(lines, videos)
            added += len(lines)
            lines, frames = [], []
        if stop:
            break
        now = time.monotonic()
        overdue = now - writer.saved > SAVE_AFTER
        if writer.uncommitted or overdue:
            writer.commit(rest=overdue)
        if now - logged > LOG_EVERY or done == len(todo):
            logged, rate = now, done / (now - began)
            left = datetime.timedelta(seconds=round((len(todo) - done) / rate))
            log(f'{done} of {len(todo)} videos, {len(unreadable)} unreadable, {rate:.1f} a second, '
                f'{left} left')
    results.close()
    writer.commit()
    return added, done


@warnings_as_lines()
def index_command(videos: Sequence[Source], out: str | os.PathLike, model: str | None = None,
                  device: str = 'auto', batch: int = 16, workers: int | None = None,
                  shortlist: bool = False, sync: bool = False, yes: bool = False,
                  clip: str | None = None, pretrained: str | None = None) -> int:
    """Encode videos into a gallery that `glscl search` searches.

    A later run adds and goes on. videos: folders, files and tables; clip, pretrained: of a
    `ZeroShot` in place of `model`; shortlist: also build what `glscl search --shortlist` needs
    (with faiss); sync: remove what is not among the videos, where it is much only with `yes` or
    when the terminal says so; the rest as for `index_videos`. Prints progress and a report, and
    warnings on stderr; returns 0, or 1 if the gallery holds no video. Raises ValueError, OSError or
    ImportError with a message for the user."""
    if shortlist:
        shortlists.faiss()
    if model and (clip or pretrained):
        raise ValueError('--model names a trained model and --clip one without training: name one '
                         'of the two')
    if pretrained and not clip:
        raise ValueError(f'--pretrained {pretrained} are the weights of which architecture? Name '
                         f'it too, as in --clip ViT-B-32')
    if clip:
        device = pick_device(device)
        model = ZeroShot(clip, pretrained).to(device)
    done = index_videos(videos, out, model, device, batch, workers,
                        lambda line: show(shown(line)), sync, lambda *n: yes or _ask(*n), warned)
    if shortlist and done['videos']:
        shortlists.build(Gallery(out, model, device))
    report(done, out)
    return 0 if done['videos'] else 1


def _ask(removed, total):
    """Whether whoever sits at the terminal wants it; nobody there does not."""
    if not sys.stdin or not sys.stdin.isatty():
        return False
    answer = input(f'Remove {removed} of the {total} videos from the gallery? [y/N] ')
    return answer.strip().lower() in ('y', 'yes')


def report(done: dict, out: Source) -> None:
    """Print what `index_videos` returned for the gallery `out`."""
    unreadable = list(done['unreadable'].values())
    show(f'{shown(out)} holds {done["videos"]} videos: {done["added"]} added or encoded again, '
         f'{done["removed"]} removed, {len(unreadable)} unreadable')
    for reason in unreadable[:LISTED]:
        show(f'  unreadable: {shown(reason)}')
    if len(unreadable) > LISTED:
        show(f'  … and {len(unreadable) - LISTED} more, all in '
             f'{shown(Path(out) / "gallery.json")}')
