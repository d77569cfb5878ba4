"""Encode a split once, score all pairs, and measure."""
import numpy as np
import torch

from .runtime import distributed
from .metrics import retrieval_metrics
from .runtime.devices import autocast
from .data.feature_cache import clip_features, encode_read, encode_said, word_features
from .data.video import VideoError


@torch.no_grad()
def encode(model, pairs, batch=50):
    """Every caption and every video once: (Texts, Videos) on the model's device; several processes share the work."""
    device, training = next(model.parameters()).device, model.training
    model.eval()
    with autocast(device):
        source = clip_features(model, pairs) if model.takes_features else pairs.frames
        videos = [encode_read(model, *block) for block in source.blocks(distributed.share(_blocks(len(pairs.frames), batch)))]
    model.train(training)
    return encode_texts(model, pairs, batch=4 * batch), joined(videos).to(device)


@torch.no_grad()
def encode_texts(model, pairs, rows=None, batch=200):
    """The captions in these rows (default: all) once: Texts on the model's device."""
    device, training = next(model.parameters()).device, model.training
    rows = torch.arange(len(pairs)) if rows is None else torch.tensor(rows)
    longest = int(pairs.words_mask[rows].sum(1).max())
    model.eval()
    with autocast(device):
        source = word_features(model, pairs) if model.takes_features and model.config.mask_padding else pairs
        parts = [encode_said(model, *source.texts(rows[r], device, longest)) for r in distributed.share(_blocks(len(rows), batch))]
    model.train(training)
    return joined(parts).to(device)


def joined(parts):
    """The items of all processes as one."""
    parts = distributed.joined(parts)
    return parts[0].cat(parts)


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
