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
from functools import cached_property, partial
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
from ..runtime import distributed, turns
from ..runtime.devices import autocast, pick_device
from ..runtime.files import remove_halves
from ..runtime.locks import in_turn, locked, one_writer
from ..runtime.signals import stop_noted, stopped
from ..runtime.terminal import shown
from ..score import beyond_shapes
from . import shards, shares
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
                 warn: Callable[[str], None] = warnings.warn,
                 share: tuple[int, int] | None = None) -> dict:
    """Add videos to the gallery `out`, which is made; only new and changed ones are encoded.

    sources: a folder, a video, a table of paths (`datasets.readers.own.listed`), or a list of
    such. model: a GLSCL (`ZeroShot`: a CLIP without training), a checkpoint, a run's folder, or
    None for the one that made the gallery (at first the shipped one, which knows moving shapes
    only: `warn` is told where the first videos are others). batch: videos encoded at once;
    workers: processes that decode. Size and time tell whether a file has changed. A video that
    cannot be read is listed, and tried again once it has changed. A run that was broken off goes
    on; after SIGTERM or Ctrl-C it keeps what it has encoded, says so, and raises SystemExit(143) or
    KeyboardInterrupt.

    Several processes (torchrun's) divide the videos among them; so do runs that know nothing of
    each other, of which each is told its share, (K, N) with K from 1 (`shares`). Rows and their
    order are those of one process.

    sync: also remove what `sources` do not name. More than half of the gallery, and LARGE at least,
    only if confirm(how many, of how many) says so; else ValueError. Returns {videos, added,
    changed, removed: numbers; unreadable: {path: why}; pace: a `Pace` a process; left: the shares
    that have not ended, before which videos and unreadable are those of this share alone}. Raises
    ValueError if a source has no video, another model made the gallery or another process is at
    it, before anything is changed; OSError if it cannot be written."""
    out, log = Path(out), log or (lambda line: None)
    workers = workers or max(1, min(8, (os.cpu_count() or 1) // turns.on_this_machine()))
    for name, n in dict(batch=batch, workers=workers).items():
        if not hasattr(n, '__index__') or n < 1:
            raise ValueError(f'{name} must be a whole number of 1 or more, not {n}')
    if share and distributed.world() > 1:
        raise ValueError('torchrun divides the videos among its processes: leave out the share')
    sources = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    run = _Run(sources, out, batch, workers, log, sync, confirm, warn)
    if not share:  # which mostly finds the list in the plan of another
        turns.by_first(lambda: run.wanted and None)
    run.model, run.made_by = _same_model(out, model, device)
    try:
        if share:
            return run.share(*share)
        with one_writer(out, LOCK_TIMEOUT):
            return run.alone() if distributed.world() == 1 else run.together()
    except (FileNotFoundError, BrokenPipeError):  # the latter: whoever read the lines has gone
        raise
    except OSError as error:
        raise OSError(f'cannot write the gallery {out}: {error}. What it held before is intact; '
                      f'make room, or name another folder') from error


@dataclass
class _Run:
    """One call of `index_videos`, with its arguments."""
    sources: list
    out: Path
    batch: int
    workers: int
    log: Callable
    sync: bool
    confirm: Callable | None
    warn: Callable
    model: GLSCL | None = None
    made_by: dict | None = None

    @cached_property
    def wanted(self):
        clips = find_clips(self.sources, self.log)
        if not clips:
            raise ValueError('no video is named')
        return clips

    @cached_property
    def mark(self):
        return shards.fingerprint(self.model)

    def alone(self):
        """All of it in this process, which has the gallery's lock."""
        writer, todo, counts = self._compare()
        added, pace = self._add(writer, todo)
        return _told(writer.manifest, counts, added, [pace])

    def together(self):
        """A share in each of torchrun's processes; the first has the gallery's lock for all."""
        plan = turns.by_first(lambda: self._plan(distributed.world(), alone=True))
        if not plan['todo']:
            return _told(shards.read_manifest(self.out), plan, 0, [])
        k = distributed.rank() + 1
        with locked(shares.folder(self.out, k), LOCK_TIMEOUT):
            _, added, pace = self._encode(k)
        added, paces = zip(*distributed.objects((added, pace)))
        turns.by_first(lambda: shares.join(self.out, self.mark, LOCK_TIMEOUT))
        return _told(shards.read_manifest(self.out), plan, sum(added), list(paces))

    def share(self, k, n):
        """Share k of n, whose other shares are runs of their own; the last one joins them."""
        with contextlib.ExitStack() as stack:
            with in_turn(self.out, LOCK_TIMEOUT, self.log):
                plan = self._plan(n)
                if not plan['todo']:
                    return _told(shards.read_manifest(self.out), plan, 0, [])
                # from here on nobody else joins this share
                stack.enter_context(locked(shares.folder(self.out, k), LOCK_TIMEOUT))
            manifest, added, pace = self._encode(k)
        with in_turn(self.out, LOCK_TIMEOUT, self.log):
            left = shares.not_ended(self.out)
            if not left:
                shares.join(self.out, self.mark, LOCK_TIMEOUT)
                manifest = shards.read_manifest(self.out)
        return dict(_told(manifest, plan, added, [pace]), left=left)

    def _compare(self):
        """(Writer of the gallery, what is to be encoded, counts); the gallery's lock is held."""
        line = beyond_shapes(self.model, [clip.path for clip in self.wanted])
        if line:
            self.warn(f'{line} {ANOTHER}')
        shares.join(self.out, self.mark, LOCK_TIMEOUT)  # what was broken off
        writer = shards.Writer(self.out, _begin(self.out, self.model, self.made_by))
        return writer, *_compare(writer, self.model, self.wanted, self.log, self.sync, self.confirm)

    def _plan(self, n, alone=False):
        """What `shares.read_plan` gives but for the clips, of the plan that is there or of a new
        one, which is written if there is something to do; the gallery's lock is held.

        alone: nobody else will come for a share of another plan."""
        asked = dict(sources=[os.path.abspath(source) for source in self.sources], shares=n,
                     batch=self.batch, sync=self.sync)
        try:
            plan = shares.read_plan(self.out, **asked)
        except ValueError:
            if not alone:
                raise
            plan = None
        if plan:
            shards.read_manifest(self.out, self.mark)
            self.log(f'{self.out}: {plan["todo"]} videos are to be encoded in {n} shares, as '
                     f'listed on {plan["made"]}')
        else:
            writer, todo, counts = self._compare()
            writer.commit()
            clips = [{**clip._asdict(), **label} for clip, (label, _) in todo.items()]
            plan = shares.make_plan(self.out, clips, **asked, **counts)
        return {name: value for name, value in plan.items() if name != 'clips'}

    def _encode(self, k):
        """Encode share k of the plan, whose lock is held, and say that it has ended: (its
        gallery.json, how many were encoded, a Pace)."""
        plan, place = shares.read_plan(self.out), shares.folder(self.out, k)
        if not plan:
            raise FileNotFoundError(f'{shares.plan_file(self.out)}, which another process has '
                                    f'written, is not seen by this one: name a folder on a disk '
                                    f'that all share')
        _, made_by = _same_model(place, self.model, self.model.device)
        writer = shards.Writer(place, _begin(place, self.model, made_by))
        mine = {_key(row): {name: row[name] for name in ('id', 'caption') if name in row}
                for row in shares.clips_of(plan, k)}
        todo, _ = _compare(writer, self.model, mine, self.log)
        added, pace = self._add(writer, todo)
        shares.end(place, writer.manifest)
        return writer.manifest, added, pace

    def _add(self, writer, todo):
        return _add(writer, self.model, todo, self.batch, self.workers, self.log)


@dataclass
class Pace:
    """How quickly a process encoded: frames, seconds in all, and those spent waiting for frames."""
    frames: int = 0
    seconds: float = 0
    waiting: float = 0


def _told(manifest, counts, added, paces):
    """What `index_videos` returns."""
    return {'videos': sum(entry['rows'] for entry in manifest['shards'].values()), 'added': added,
            'changed': counts['changed'], 'removed': counts['removed'],
            'unreadable': {bad['path']: bad['reason'] for bad in manifest['unreadable']},
            'pace': paces, 'left': []}


def _same_model(out, model, device):
    """What `shards.pick_model` returns; ValueError unless it can go on with what is in `out`."""
    old = shards.read_manifest(out) if (out / 'gallery.json').exists() else None
    stray = next(out.glob('*.safetensors'), next(out.glob('shares/*/*.safetensors'), None))
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


def _compare(writer, model, wanted, log, sync=False, confirm=None):
    """Remove from a gallery what has changed, and with sync what is not `wanted`, as `find_clips`
    returns it: (what is to be encoded, {ClipKey: (label, stat)}; numbers {todo, changed, removed}).
    """
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
    return todo, dict(todo=len(todo), changed=changed, removed=removed)


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
    """Decode and encode `todo`, {ClipKey: (label, stat)}: (how many could be, a Pace)."""
    with stop_noted() as noted:
        added, done, pace = _encode_all(writer, model, todo, batch, workers, log, noted)
    if done < len(todo):
        raise stopped(noted[0], f'stopped after {done} of {len(todo)} videos, which are kept; the '
                                f'same command goes on')
    return added, pace


def _encode_all(writer, model, todo, batch, workers, log, noted):
    """(how many of `todo` were encoded, how many tried, a Pace); at the first clip after a signal
    is `noted` what there is counts, and no more is done."""
    c, unreadable = model.config, writer.manifest['unreadable']
    settings = (c.max_frames, c.framerate, model.clip.image_size, c.sampling, c.reader)
    began = logged = time.monotonic()
    lines, frames, added, done, pace = [], [], 0, 0, Pace()
    results = _decode_all(todo, settings, workers, batch + workers)
    for done in range(1, len(todo) + 1):
        asked = time.monotonic()
        clip, result = next(results)
        pace.waiting += time.monotonic() - asked
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
            pace.frames += len(images)
        # By places in the list, so that however it is shared, the same videos go together.
        if lines and (done % batch == 0 or done == len(todo) or stop):
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
    pace.seconds = time.monotonic() - began
    return added, done, pace


@warnings_as_lines()
def index_command(videos: Sequence[Source], out: str | os.PathLike, model: str | None = None,
                  device: str = 'auto', batch: int = 16, workers: int | None = None,
                  shortlist: bool = False, sync: bool = False, yes: bool = False,
                  clip: str | None = None, pretrained: str | None = None,
                  share: str | None = None) -> int:
    """Encode videos into a gallery that `glscl search` searches.

    A later run adds and goes on. videos: folders, files and tables; clip, pretrained: of a
    `ZeroShot` in place of `model`; shortlist: also build what `glscl search --shortlist` needs
    (with faiss); sync: remove what is not among the videos, where it is much only with `yes` or
    when the terminal says so; share: "K/N"; the rest as for `index_videos`. Started by torchrun,
    all processes share the videos. Prints progress and a report, and warnings on stderr; returns 0,
    or 1 if the gallery holds no video. Raises ValueError, OSError or ImportError with a message for
    the user."""
    if shortlist:
        shortlists.faiss()
    if model and (clip or pretrained):
        raise ValueError('--model names a trained model and --clip one without training: name one '
                         'of the two')
    if pretrained and not clip:
        raise ValueError(f'--pretrained {pretrained} are the weights of which architecture? Name '
                         f'it too, as in --clip ViT-B-32')
    share = shares.parse(share) if share else None
    with distributed.processes(device) as device:
        if clip:
            device = pick_device(device)
            with turns.first_here():  # downloads the weights
                model = ZeroShot(clip, pretrained).to(device)
        first = distributed.rank() == 0
        log = (lambda line: show(shown(line))) if first else None
        done = index_videos(videos, out, model, device, batch, workers, log, sync,
                            lambda *n: yes or _ask(*n), warned, share)
        if first and shortlist and done['videos'] and not done['left']:
            shortlists.build(Gallery(out, model, device))
        if first:
            report(done, out)
    return 0 if done['videos'] or done['left'] else 1


def _ask(removed, total):
    """Whether whoever sits at the terminal wants it; nobody there does not."""
    if not sys.stdin or not sys.stdin.isatty():
        return False
    answer = input(f'Remove {removed} of the {total} videos from the gallery? [y/N] ')
    return answer.strip().lower() in ('y', 'yes')


def report(done: dict, out: Source) -> None:
    """Print what `index_videos` returned for the gallery `out`."""
    unreadable, left = list(done['unreadable'].values()), done['left']
    whole = f'this share of {shown(out)}' if left else shown(out)
    show(f'{whole} holds {done["videos"]} videos: {done["added"]} added or encoded again, '
         f'{done["removed"]} removed, {len(unreadable)} unreadable')
    for reason in unreadable[:LISTED]:
        show(f'  unreadable: {shown(reason)}')
    if len(unreadable) > LISTED:
        show(f'  … and {len(unreadable) - LISTED} more, all in '
             f'{shown(Path(out) / "gallery.json")}')
    if any(pace.frames for pace in done['pace']):
        show(_bottleneck(done['pace']))
    if left:
        show(f'not ended yet: share {", ".join(map(str, left[:LISTED]))}'
             f'{", …" if left[LISTED:] else ""}. The last to end joins them all in {shown(out)}')


def _bottleneck(paces):
    """A line on what a run's time went into, from the Pace of each process."""
    frames, seconds = sum(pace.frames for pace in paces), sum(pace.seconds for pace in paces)
    longest, waiting = max(pace.seconds for pace in paces), sum(pace.waiting for pace in paces)
    slower = 'decoding' if waiting > seconds / 2 else 'encoding'
    return (f'{frames:,} frames in {longest:.0f} s, {frames / longest:,.1f} a second; '
            f'{waiting / seconds:.0%} of the time was spent waiting for frames: {slower} is the '
            f'bottleneck')
