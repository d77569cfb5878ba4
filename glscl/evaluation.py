"""Encode a split once, score all pairs, and measure."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from .clip_models import ClipModel, evaluating
from .data.batch import Items
from .data.errors import VideoError
from .metrics import retrieval_metrics
from .runtime import distributed
from .runtime.devices import autocast

if TYPE_CHECKING:
    from .data.pairs import Pairs


@torch.no_grad()
def evaluate(model: ClipModel, pairs: Pairs, batch: int = 50) -> tuple[torch.Tensor, dict]:
    """(S [T, V] on the CPU, `retrieval_metrics` of it) of a split.

    A video that can no longer be read, and its captions, stay in S and are left out of the
    metrics; VideoError where none can."""
    return measure(model, *encode(model, pairs, batch), pairs)


@torch.no_grad()
def measure(model, texts, videos, pairs):
    """`evaluate` of a split that is encoded already."""
    S = model.similarity(texts, videos).float().cpu()                       # [T, V]
    readable = videos.mask.any(1).cpu()                                     # [V]
    if not readable.any():
        raise VideoError(f'none of the {len(readable)} videos can be read any more: is the disk '
                         f'still there?')
    owner = pairs.text_to_video
    asked = readable[owner]                                                 # [T]
    new_row = readable.cumsum(0) - 1  # of each video, among the readable ones
    return S, retrieval_metrics(S[asked][:, readable], new_row[owner[asked]])


def encode(model: ClipModel, pairs: Pairs, batch: int = 50) -> tuple[Items, Items]:
    """Every caption and every video of a split once: (Texts, Videos) on the model's device.

    Several processes share the work, and all get the whole."""
    pairs = frozen_features(model, pairs)
    # Whole blocks go to each process, so that every number is computed as one process would.
    blocks = _blocks(range(len(pairs.frames)), batch)
    videos = _encoded(model, pairs.video_batches(distributed.share(blocks)), side=1)
    return encode_texts(model, pairs, batch=4 * batch), videos


def encode_texts(model: ClipModel, pairs: Pairs, rows: Sequence[int] | None = None,
                 batch: int = 200) -> Items:
    """The captions in these rows (default: all) once: Texts on the model's device."""
    pairs = frozen_features(model, pairs)
    rows = list(range(len(pairs)) if rows is None else rows)
    length = int(pairs.token_mask[rows].sum(1).max())
    blocks = distributed.share(_blocks(rows, batch))
    return _encoded(model, pairs.text_batches(blocks, length), side=0)


def frozen_features(model, pairs):
    """The Pairs, with features in place of frames and tokens where the model can take them."""
    if not model.takes_features:
        return pairs
    from .data.feature_cache import with_features
    return with_features(model, pairs)


@torch.no_grad()
def _encoded(model, batches, side):
    """The texts (side 0) or videos (side 1) of all processes' batches, as one."""
    with evaluating(model), autocast(model.device):
        parts = [model.encode(batch.to(model.device))[side] for batch in batches]
    parts = distributed.joined(parts)
    return parts[0].cat(parts).to(model.device)


def _blocks(rows, size):
    return [list(rows[i:i + size]) for i in range(0, len(rows), size)]
