"""Frames of many videos: decoded once, kept on disk one file a video, read ahead while the ones
before are used."""
import contextlib
import hashlib
import json
import math
import os
import threading
from collections import deque
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from functools import cached_property, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from ..config import cache_dir
from ..runtime.files import atomic_write
from ..runtime.progress import told
from .errors import VideoError
from .sampling import span
from .video import frame_indices, read_frames
from .workers import KILLED, Workers

MEMORY = 2 ** 30  # bytes: a split up to this size is held in memory, a larger one read by files
AHEAD = 2         # blocks that are read while the one before is used
POOL = 100        # videos: for fewer, worker processes are not worth their start
# NumPy has Python parse the header of a file, and two threads at that can end in a SystemError
# ("AST constructor recursion depth mismatch", seen in Python 3.11.7).
HEADER = threading.Lock()


class FrameStore:
    """Arrays of V videos as one, [V, F, …], each video's rows filled up with zeros. Index it like
    an array: decoded frames uint8 [V, F, S, S, 3], or CLIP's features of them [V, F, D].

    In memory where that takes up to MEMORY bytes, else read from one file a video whenever it is
    indexed. With keep=False each is made anew at every use, in worker processes. A video that can
    no longer be read gives zeros, and is named in `lost` ({row: why}).

    files: where each array is; makers: functions without arguments that make it; counts [V]: how
    many of its F rows are real; shape: (F, …)."""

    def __init__(self, files, makers, counts, shape, dtype, keep=True, workers=None):
        self.files, self.makers = files, makers
        self.counts = np.asarray(counts, int)
        self.shape, self.dtype = (len(files), *shape), np.dtype(dtype)
        self.keep, self.workers = keep, workers
        self.lost = {}

    def __len__(self):
        return len(self.files)

    def take(self, rows):
        """Some of the videos, as a store of their own."""
        return FrameStore([self.files[v] for v in rows], [self.makers[v] for v in rows],
                          self.counts[rows], self.shape[1:], self.dtype, self.keep, self.workers)

    @cached_property
    def memory(self):
        """(the whole array, mask), or None where it is too large or not to be kept."""
        if not self.keep or math.prod(self.shape) * self.dtype.itemsize > MEMORY:
            return None
        return self._join(self._submit(np.arange(len(self))))

    @cached_property
    def _pool(self):
        kind = ThreadPoolExecutor if self.keep else Workers
        return kind(self.workers or min(8, os.cpu_count() or 1))

    def _submit(self, rows):
        """Begin to read these rows, each video once: (videos, where each row has its own, jobs)."""
        rows = np.asarray(rows)
        videos, where = np.unique(rows, return_inverse=True)
        where = where.reshape(rows.shape)  # NumPy before 2.1 gives it flat
        jobs = [self._pool.submit(_fetch, self.files[v] if self.keep else None, self.makers[v])
                for v in videos]
        return videos, where, jobs

    def _join(self, submitted):
        """Wait for what `_submit` began: (array [n, F, …], mask bool [n, F])."""
        videos, where, jobs = submitted
        out = np.zeros((len(videos), *self.shape[1:]), self.dtype)
        mask = np.zeros((len(videos), self.shape[1]), bool)
        for i, (video, job) in enumerate(zip(videos, jobs)):
            try:
                array = job.result()
            except (VideoError, OSError, BrokenExecutor) as error:
                self.lost[int(video)] = _why(error, self.makers[video])
                continue
            out[i, :len(array)] = array
            mask[i, :len(array)] = True
        if np.array_equal(where, np.arange(len(videos))):  # as asked for: no copy
            return out, mask
        return out[where], mask[where]

    def blocks(self, blocks):
        """(array [n, F, …], mask bool [n, F]) of each block of rows in turn, while the next ones
        are read."""
        if self.memory:
            array, mask = self.memory
            for rows in blocks:
                yield array[np.asarray(rows)], mask[np.asarray(rows)]
            return
        blocks = iter(blocks)
        waiting = deque(self._submit(rows) for rows in islice(blocks, AHEAD))
        while waiting:
            block = waiting.popleft()
            waiting.extend(self._submit(rows) for rows in islice(blocks, 1))
            yield self._join(block)

    def __getitem__(self, index):
        if self.memory:
            return self.memory[0][index]
        rows, *rest = index if isinstance(index, tuple) else (index,)
        rows = np.arange(len(self))[rows if isinstance(rows, slice) else np.asarray(rows)]
        array, _ = next(self.blocks([np.atleast_1d(rows)]))
        if not rows.ndim:
            return array[0][tuple(rest)]
        return array[(*[slice(None)] * rows.ndim, *rest)]

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self[:], dtype)


def load_frames(paths, max_frames=12, size=32, framerate=1, cache=None, workers=None,
                spans=None, sampling='stride', keep=True, reader='auto'):
    """Decode and resize the sampled frames of many videos once, and keep them on disk.

    paths: V files; size: pixels of the square side; spans: (start, end) of each in seconds;
    keep=False: find out only which frames there are, and decode at every use; the rest as in
    `video.read_frames`. Returns (frames: FrameStore uint8 [V, F, size, size, 3], mask bool [V, F],
    unreadable {row: why}). A video that cannot be read is all padding; the run goes on.

    There is one file a video in `cache`, named after the video's path, size and time and the
    sampling: a run that was broken off goes on, and splits and processes share. Raises OSError,
    with the room that is needed, where the cache cannot be written."""
    cache = Path(cache) if cache else cache_dir() / 'frames'
    how = [(max_frames, framerate, *span(*part), sampling)
           for part in spans or [(None, None)] * len(paths)]
    if reader == 'decord':  # the files of PyAV keep the names that they have
        how = [(*h, reader) for h in how]
    files = [cache_file(cache, path, size if keep else 'indices', *h)
             for path, h in zip(paths, how)]
    makers = [partial(_frames, path, size, *h) for path, h in zip(paths, how)]
    first = makers if keep else [partial(frame_indices, path, *h) for path, h in zip(paths, how)]
    try:
        counts, unreadable = _prepare(files, first, workers)
    except OSError as error:
        megabytes = len(paths) * max_frames * size * size * 3 / 1e6
        raise OSError(f'cannot keep decoded frames in {cache}: {error}. Up to {megabytes:.0f} MB '
                      f'are needed; name a folder with that much room (data_dir, or the variable '
                      f'GLSCL_CACHE), or set cache_frames to false.') from error
    for v, why in unreadable.items():
        makers[v] = partial(_refuse, why)  # never tried in this process, which it might end
    mask = torch.arange(max_frames)[None] < torch.tensor(counts)[:, None]
    shape = (max_frames, size, size, 3)
    store = FrameStore(files, makers, counts, shape, np.uint8, keep, workers)
    return store, mask, unreadable


def _frames(path, size, max_frames, framerate, start, end, sampling, *reader):
    return read_frames(path, max_frames, framerate, size, start, end, sampling, *reader)[0]


def _refuse(why):
    raise VideoError(why)


def _prepare(files, makers, workers):
    """Make what is not there, in worker processes where it is much: (number of frames of each
    video, {row: why it cannot be read})."""
    counts, unreadable, todo = [0] * len(files), {}, []
    for v, file in enumerate(files):
        kept = load_array(file, 'r')
        if kept is None:
            todo.append(v)
        else:
            counts[v] = len(kept)
    workers = workers or min(8, os.cpu_count() or 1)
    items = ((files[v], makers[v]) for v in todo)
    with contextlib.ExitStack() as stack:
        if workers > 1 and len(todo) > POOL:
            pool = Workers(workers)
            stack.callback(pool.shutdown)
            results = (job.result for _, job in pool.map(_ready, items, 16 * workers))
        else:
            results = (partial(_ready, item) for item in items)
        for v, result in zip(todo, told(results, 'decoding', 'videos', len(todo))):
            try:
                counts[v] = result()
            except (VideoError, BrokenExecutor) as error:
                unreadable[v] = _why(error, makers[v])
    return counts, unreadable


def _why(error, make):
    """Why there is no array, in words that name the video: the first argument of its maker."""
    return f'{make.args[0]}: {KILLED}' if isinstance(error, BrokenExecutor) else str(error)


def _ready(item):
    """Make and keep an array, item (file, maker): its length."""
    file, make = item
    array = make()
    save_array(file, array)
    return len(array)


def _fetch(file, make):
    """What `file` holds, else what make() gives, kept there. file None: made, and not kept."""
    array = load_array(file) if file else None
    if array is None:
        array = make()
        if file:
            save_array(file, array)
    return array


# one array a file

def cache_file(folder, path, *settings):
    """Where the array that comes of a video under these settings is kept.

    Its name depends on the video's path, size and time."""
    path = os.path.abspath(path)
    with contextlib.suppress(OSError):
        stat = os.stat(path)
        settings = (stat.st_size, stat.st_mtime_ns, *settings)
    key = hashlib.sha256(json.dumps([path, *settings]).encode()).hexdigest()[:32]
    return Path(folder) / key[:2] / f'{key}.npy'


def load_array(file, mmap_mode=None):
    """A kept array; None where there is none, or a damaged one."""
    try:
        with HEADER:
            array = np.load(file, 'r')
        return array if mmap_mode else np.array(array)
    except (OSError, ValueError, EOFError):
        return None


def save_array(file, array):
    """Keep an array: the file appears whole or not at all."""
    with atomic_write(file, durable=False) as half:
        with open(half, 'wb') as opened:
            np.save(opened, array)
