"""What is computed once and kept: one file a video, of its decoded frames or of CLIP's features of them; one of all words."""
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

from ..runtime import distributed
from ..runtime.devices import autocast, precision
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


@contextlib.contextmanager
def placed(file):
    """A path to write to; what is written there moves to its place at the end: a reader never meets half a file, and of two
    writers either may win."""
    half = file.with_name(f'.{file.name}.{os.getpid()}.{threading.get_ident()}')
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield half
        try:
            os.replace(half, file)
        except PermissionError:  # Windows, while another process reads the same file
            if load(file, 'r') is None:
                raise
    finally:
        with contextlib.suppress(OSError):
            half.unlink()


def save(file, array):
    """Keep an array."""
    with placed(file) as half:
        with open(half, 'wb') as opened:
            np.save(opened, array)


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
    mark = _mark(clip, device, visual=True)
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


def _mark(clip, device, visual):
    """What the features of a tower depend on besides the item, as a hash: its weights, its activation, the precision."""
    mark = hashlib.sha256(f'{precision(device)} {clip.quick_gelu}'.encode())
    for name, value in sorted(clip.clip.state_dict().items()):
        if name.startswith('visual.') == visual and name != 'logit_scale':
            mark.update(name.encode() + value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return mark


class KeptWords:
    """CLIP's word features of N captions: array [tokens of all captions, D], mask [N, L]."""

    def __init__(self, array, mask):
        self.array, self.mask, self.lengths = array, mask, mask.sum(1)
        self.starts = self.lengths.cumsum(0) - self.lengths

    def texts(self, rows, device='cpu', length=None):
        """w [n, L, D], mask [n, L] of these captions, as `Pairs.texts` gives their ids; zeros at padding."""
        mask = self.mask[rows]
        mask = mask[:, :length or int(mask.sum(1).max())]
        at = torch.cat([torch.arange(a, a + n) for a, n in zip(self.starts[rows].tolist(), self.lengths[rows].tolist())])
        words = torch.zeros(*mask.shape, self.array.shape[1])
        words[mask] = torch.from_numpy(np.asarray(self.array[at.numpy()]))
        return words.to(device), mask.to(device)


@torch.no_grad()
def word_features(model, pairs, batch=200):
    """The word features w of a model whose CLIP is frozen: KeptWords, computed once and kept in one file beside the frames.

    Not for a model that attends to padded words (as released), whose features depend on the padding beside them."""
    device, clip = next(model.parameters()).device, model.clip
    mark, tokens = _mark(clip, device, visual=False), int(pairs.words_mask.sum())
    for x in (pairs.ids, pairs.words_mask, *(() if clip.rows is None else (clip.rows.cpu(),))):
        mark.update(x.numpy().tobytes())
    file = pairs.frames.files[0].parents[1] / f'words-{mark.hexdigest()[:32]}.npy'
    with distributed.first_here():
        if load(file, 'r') is None:
            with placed(file) as half:
                out, at = np.lib.format.open_memmap(half, 'w+', np.float32, (tokens, clip.width)), 0
                for rows in torch.arange(len(pairs)).split(batch):
                    ids, mask = pairs.texts(rows, device)
                    with autocast(device):
                        words = clip.encode_words(ids, mask)[1][mask]
                    out[at:at + len(words)] = words.float().cpu().numpy()
                    at += len(words)
                out.flush()
                del out  # Windows moves no file that is open
    return KeptWords(load(file, 'r' if tokens * clip.width * 4 > MEMORY else None), pairs.words_mask)


def encode_said(model, said, mask):
    """Texts of n captions: ids int64 [n, L] or `word_features` [n, L, D], mask [n, L] -> Texts."""
    if not said.is_floating_point():
        return model.encode_texts(said, mask)
    said = said.to(precision(said.device) or said.dtype)
    return model.encode_words(said[torch.arange(len(said), device=said.device), mask.sum(1) - 1], said, mask)


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
