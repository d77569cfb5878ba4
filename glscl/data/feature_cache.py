"""Features of a frozen CLIP, computed once and kept on disk beside the decoded frames."""
import dataclasses
import hashlib
from functools import partial

import numpy as np
import torch

from ..runtime import distributed, turns
from ..runtime.devices import autocast, precision
from ..runtime.files import atomic_write
from ..runtime.progress import told
from . import frames as store
from .errors import VideoError
from .frames import FrameStore, load_array, save_array
from .pixels import pixels


def with_features(model, pairs):
    """The same Pairs, giving features of the model's frozen CLIP in place of frames and tokens.

    Words are kept only where padding is masked: as released, a word's feature depends on the
    padding beside it. Pairs that have features already stay as they are."""
    if pairs.features is not None:
        return pairs
    words = word_features(model, pairs) if model.config.mask_padding else None
    return dataclasses.replace(pairs, features=clip_features(model, pairs), words=words)


@torch.no_grad()
def clip_features(model, pairs, batch=50):
    """The frame features x of the model's CLIP: FrameStore float32 [V, F, D].

    Their files depend on the video, the sampling, the image tower's weights and the precision it
    runs in: another CLIP has features of its own, and every head on the same CLIP shares them. Of
    several processes each computes its share; what a machine does not find then, since its disk is
    its own, its processes compute among them. A killed one loses the block that it was at."""
    mark = _fingerprint(model.clip, model.device, visual=True).hexdigest()[:16]
    files = [file.with_name(f'{file.stem}-{mark}.npy') for file in pairs.frames.files]
    for mine in distributed.share, turns.part_here:
        _write_features(files, mine(range(len(files))), model, pairs.frames, batch)
        distributed.barrier()  # the others read what each has made
    makers = [partial(_gone, file) for file in files]
    shape = (pairs.frames.shape[1], model.clip.width)
    return FrameStore(files, makers, pairs.frames.counts, shape, np.float32)


def _write_features(files, rows, model, frames, batch):
    """The features of these rows of a FrameStore, where they are not there yet, to their files."""
    todo = [v for v in rows if load_array(files[v], 'r') is None]
    blocks = [todo[i:i + batch] for i in range(0, len(todo), batch)]
    read = told(frames.blocks(blocks), "CLIP's features", f'blocks of {batch} videos', len(blocks))
    for videos, (images, mask) in zip(blocks, read):
        images, mask = pixels(images, mask, model.device)
        if not mask.any():
            continue
        with autocast(model.device):
            x = model.clip.encode_frames(images[mask]).float().cpu().numpy()  # [valid frames, D]
        ends = mask.sum(1).cumsum(0).cpu()
        for v, of_video in zip(videos, np.split(x, ends[:-1])):
            if len(of_video):
                save_array(files[v], of_video)


def _gone(file):
    raise VideoError(f'{file}: the features of a video that could not be read, or taken away '
                     f'since')


@torch.no_grad()
def word_features(model, pairs, batch=200):
    """The word features w of all captions: WordStore, in one file beside the frames."""
    device, clip = model.device, model.clip
    mark = _fingerprint(clip, device, visual=False)
    for x in (pairs.token_ids, pairs.token_mask):
        mark.update(x.numpy().tobytes())
    if clip.rows is not None:
        mark.update(clip.rows.cpu().numpy().tobytes())
    file = pairs.frames.files[0].parents[1] / f'words-{mark.hexdigest()[:32]}.npy'
    tokens = int(pairs.token_mask.sum())
    with turns.first_here():
        if load_array(file, 'r') is None:
            with atomic_write(file) as half:
                _write_words(half, clip, pairs, (tokens, clip.width), batch)
    too_large = tokens * clip.width * 4 > store.MEMORY
    return WordStore(load_array(file, 'r' if too_large else None), pairs.token_mask)


def _write_words(path, clip, pairs, shape, batch):
    out = np.lib.format.open_memmap(path, 'w+', np.float32, shape)
    device, at = clip.logit_scale.device, 0
    for rows in torch.arange(len(pairs)).split(batch):
        token_ids, mask = pairs.texts(rows, device)
        with autocast(device):
            words = clip.encode_words(token_ids, mask)[1][mask]             # [valid tokens, D]
        out[at:at + len(words)] = words.float().cpu().numpy()
        at += len(words)
    out.flush()  # and out is closed on return: Windows moves no file that is open


class WordStore:
    """Word features of N captions: array [valid tokens of all captions, D], mask [N, L]."""

    def __init__(self, array, mask):
        self.array, self.mask = array, mask
        self.lengths = mask.sum(1)
        self.starts = self.lengths.cumsum(0) - self.lengths

    def texts(self, rows, length=None):
        """words w [n, L, D], mask [n, L] of these captions, zeros at padding; L is `length`, else
        that of the longest."""
        mask = self.mask[rows]
        mask = mask[:, :length or int(mask.sum(1).max())]
        ranges = zip(self.starts[rows].tolist(), self.lengths[rows].tolist())
        at = torch.cat([torch.arange(start, start + n) for start, n in ranges])
        words = torch.zeros(*mask.shape, self.array.shape[1])
        words[mask] = torch.from_numpy(np.asarray(self.array[at.numpy()]))
        return words, mask


def _fingerprint(clip, device, visual):
    """What the features of a tower depend on besides the item, as a hash: its weights, its
    activation, the precision that it runs in."""
    mark = hashlib.sha256(f'{precision(device)} {clip.quick_gelu}'.encode())
    for name, value in sorted(clip.clip.state_dict().items()):
        if name.startswith('visual.') == visual and name != 'logit_scale':
            raw = value.detach().cpu().contiguous().flatten().view(torch.uint8)
            mark.update(name.encode() + raw.numpy().tobytes())
    return mark
