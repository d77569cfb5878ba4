"""Encode a split once, score all pairs, and measure."""
import numpy as np
import torch

from . import distributed
from .metrics import retrieval_metrics
from .model import Texts, Videos
from .runtime import autocast
from .store import clip_features, encode_read
from .video import VideoError


@torch.no_grad()
def encode(model, pairs, batch=50):
    """Every caption and every video once: (Texts, Videos) on the model's device; several processes share the work."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    with autocast(device):
        source = clip_features(model, pairs) if model.config.freeze_clip else pairs.frames
        videos = [encode_read(model, *block) for block in source.blocks(distributed.share(_blocks(len(pairs.frames), batch)))]
    model.train(training)
    return encode_texts(model, pairs, batch=4 * batch), Videos.cat(distributed.joined(videos)).to(device)


@torch.no_grad()
def encode_texts(model, pairs, rows=None, batch=200):
    """The captions in these rows (default: all) once: Texts on the model's device."""
    device, training = next(model.parameters()).device, model.training
    rows = slice(None) if rows is None else torch.tensor(rows)
    ids, mask = pairs.ids[rows], pairs.words_mask[rows]
    longest = int(mask.sum(1).max())
    model.eval()
    with autocast(device):
        parts = [model.encode_texts(ids[r, :longest].to(device), mask[r, :longest].to(device))
                 for r in distributed.share(_blocks(len(ids), batch))]
    model.train(training)
    return Texts.cat(distributed.joined(parts)).to(device)


def _blocks(n, size):
    return [np.arange(i, min(i + size, n)) for i in range(0, n, size)]


@torch.no_grad()
def evaluate(model, pairs, batch=50):
    """(S [T, V] on the CPU, retrieval_metrics of it) for a split.

    A video that can no longer be read, and its captions, stay in S and are left out of the metrics."""
    texts, videos = encode(model, pairs, batch)
    S, seen, owner = model.similarity(texts, videos).float().cpu(), videos.mask.any(1).cpu(), pairs.text_to_video
    if not seen.any():
        raise VideoError(f'none of the {len(seen)} videos can be read any more: is the disk still there?')
    told = seen[owner]
    return S, retrieval_metrics(S[told][:, seen], (seen.cumsum(0) - 1)[owner[told]])
