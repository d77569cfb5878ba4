"""Decoding clips in worker processes, and encoding them into a gallery."""
import datetime
import json
import time
from concurrent.futures import BrokenExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ..data.errors import VideoError
from ..data.pixels import pixels
from ..data.video import frame_seconds, read_frames
from ..data.workers import KILLED, Workers
from ..interaction import gram
from ..model import Videos
from ..runtime.devices import autocast
from ..runtime.signals import stop_noted, stopped
from .zero_shot import ZeroShot

SAVE_AFTER = 300  # seconds after which rows are written that fill no shard: what a kill can cost
LOG_EVERY = 10    # seconds between lines of progress


@dataclass
class Unreadable:
    """Why a clip has no frames; final: until its file changes, else the next run tries it again."""
    reason: str
    final: bool


@dataclass
class Pace:
    """How quickly a process encoded: frames, seconds in all, and those spent waiting for frames."""
    frames: int = 0
    seconds: float = 0
    waiting: float = 0


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
def encode(model, clips):
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


def add(writer, model, todo, batch, workers, log):
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
            videos = encode(model, frames)
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
