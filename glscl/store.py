"""What is computed once and kept: one file a video, of its decoded frames or of CLIP's features of them."""
import contextlib
import hashlib
import json
import math
import os
import threading
from collections import deque
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from . import distributed
from .runtime import autocast, precision
from .video import VideoError, pixels

MEMORY = 2 ** 30  # bytes: a split up to this size is held in memory, a larger one is read file by file


def file_of(folder, path, *settings):
    """Where the array that comes of a video under these settings is kept: its name depends on the video's path, size and time."""
    path = os.path.abspath(path)
    with contextlib.suppress(OSError):
        settings = (os.stat(path).st_size, os.stat(path).st_mtime_ns, *settings)
    key = hashlib.sha256(json.dumps([path, *settings]).encode()).hexdigest()[:32]
    return Path(folder) / key[:2] / f'{key}.npy'


def load(file, mmap_mode=None):
    """A kept array, or None where there is none or a damaged one."""
    try:
        return np.load(file, mmap_mode)
    except (OSError, ValueError, EOFError):
        return None


def save(file, array):
    """Write beside the place and move there: a reader never meets half a file, and of two writers either may win."""
    half = file.with_name(f'.{file.name}.{os.getpid()}.{threading.get_ident()}')
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(half, 'wb') as opened:
            np.save(opened, array)
        try:
            os.replace(half, file)
        except PermissionError:  # Windows, while another process reads the same file
            if load(file, 'r') is None:
                raise
    finally:
        with contextlib.suppress(OSError):
            half.unlink()


def count(file, make):
    """The length of what `file` holds, made and kept where it does not exist; or the reason why it cannot be made."""
    try:
        if (array := load(file, 'r')) is None:
            save(file, array := make())
        return len(array)
    except VideoError as error:
        return str(error)


def fetch(file, make):
    """What `file` holds, else what make() gives, kept there (file None: not kept); or the reason why there is nothing."""
    try:
        array = load(file) if file else None
        if array is None:
            array = make()
            if file:
                save(file, array)
        return array
    except (VideoError, OSError) as error:
        return str(error)


class Kept:
    """Arrays of V videos as one, [V, F, ...], each video's rows filled up with zeros; index it like an array.

    In memory where that takes up to MEMORY bytes, else read from one file a video whenever it is indexed. With
    keep=False each is made anew at every use, in worker processes. A video that can no longer be read gives zeros and is
    named in `lost` ({row: why}).
    files: where each array is; makes: functions without arguments that make it; counts: how many of its F rows are real."""

    def __init__(self, files, makes, counts, shape, dtype, keep=True, workers=None):
        self.files, self.makes, self.counts, self.keep, self.workers = files, makes, np.asarray(counts, int), keep, workers
        self.shape, self.dtype, self.lost = (len(files), *shape), np.dtype(dtype), {}

    def __len__(self):
        return len(self.files)

    def take(self, rows):
        """Some of the videos."""
        return Kept([self.files[v] for v in rows], [self.makes[v] for v in rows], self.counts[rows], self.shape[1:], self.dtype,
                    self.keep, self.workers)

    @cached_property
    def memory(self):
        """(the whole array, mask), or None where it is too large or not to be kept"""
        if not self.keep or math.prod(self.shape) * self.dtype.itemsize > MEMORY:
            return None
        return self._join(*self._submit(np.arange(len(self))))

    @cached_property
    def _pool(self):
        kind = ThreadPoolExecutor if self.keep else ProcessPoolExecutor
        return kind(self.workers or min(8, os.cpu_count() or 1))

    def _submit(self, rows):
        once, where = np.unique(np.asarray(rows), return_inverse=True)
        return once, where, [self._pool.submit(fetch, self.files[v] if self.keep else None, self.makes[v]) for v in once]

    def _join(self, once, where, parts):
        out, mask = np.zeros((len(once), *self.shape[1:]), self.dtype), np.zeros((len(once), self.shape[1]), bool)
        for i, part in enumerate(parts):
            array = part.result()
            if isinstance(array, str):
                self.lost[int(once[i])] = array
            else:
                out[i, :len(array)], mask[i, :len(array)] = array, True
        return (out, mask) if np.array_equal(where, np.arange(len(once))) else (out[where], mask[where])

    def blocks(self, blocks, ahead=2):
        """(array [n, F, ...], mask bool [n, F]) of each block of rows in turn, while the next ones are read."""
        if self.memory:
            yield from ((self.memory[0][rows], self.memory[1][rows]) for rows in map(np.asarray, blocks))
            return
        blocks = iter(blocks)
        waiting = deque(map(self._submit, islice(blocks, ahead)))
        while waiting:
            block = waiting.popleft()
            waiting.extend(map(self._submit, islice(blocks, 1)))
            yield self._join(*block)

    def __getitem__(self, index):
        if self.memory:
            return self.memory[0][index]
        rows, *rest = index if isinstance(index, tuple) else (index,)
        rows = np.arange(len(self))[rows if isinstance(rows, slice) else np.asarray(rows)]
        [(block, _)] = self.blocks([np.atleast_1d(rows)])
        return (block if rows.ndim else block[0])[(*[slice(None)] * rows.ndim, *rest)]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)


@torch.no_grad()
def clip_features(model, pairs, batch=50):
    """The frame features x [V, F, D] of a model whose CLIP is frozen, float32, computed once and kept beside the frames.

    Their files depend on the video, the sampling, the image tower's weights and the precision it runs in: another CLIP has
    features of its own, and every head on the same CLIP shares them."""
    device, clip = next(model.parameters()).device, model.clip
    mark = hashlib.sha256(str(precision(device)).encode())
    for name, value in sorted(clip.clip.visual.state_dict().items()):
        mark.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    files = [file.with_name(f'{file.stem}-{mark.hexdigest()[:16]}.npy') for file in pairs.frames.files]
    todo = [v for v in distributed.part_here(range(len(files))) if load(files[v], 'r') is None]
    blocks = [todo[i:i + batch] for i in range(0, len(todo), batch)]
    for rows, (frames, mask) in zip(blocks, pairs.frames.blocks(blocks)):
        seen, mask = pixels(frames, mask, device)
        with autocast(device):
            x = clip.encode_frames(seen[mask]).float().cpu().numpy() if mask.any() else ()
        for v, of_video in zip(rows, np.split(x, mask.sum(1).cumsum(0).cpu()[:-1])):
            if len(of_video):
                save(files[v], of_video)
    distributed.objects('done')  # the others read what each has made
    gone = [partial(_gone, file) for file in files]
    return Kept(files, gone, pairs.frames.counts, (pairs.frames.shape[1], clip.width), np.float32)


def encode_read(model, read, mask):
    """What a store gives of n videos -> Videos: frames uint8 [n, F, S, S, 3] or `clip_features` [n, F, D], mask [n, F]."""
    device = next(model.parameters()).device
    if read.dtype == np.uint8:
        return model.encode_videos(*pixels(read, mask, device))
    x, mask = torch.from_numpy(read).to(device), torch.from_numpy(mask).to(device)
    if not model.config.mask_padding:  # as released: padding, an all-zero frame, has features too
        size = model.clip.image_size
        x[~mask] = model.clip.encode_frames(x.new_zeros(1, 3, size, size)).detach().to(x.dtype)
    return model.encode_features(x.to(precision(device) or x.dtype), mask)


def _gone(file):
    raise VideoError(f'{file}: the features of a video that could not be read, or taken away since')
