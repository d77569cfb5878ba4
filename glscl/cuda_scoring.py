"""`GLSCL.similarity` on CUDA, in two stages, exact: sums in float32, no number of size T x V x D.

(1) The library's matrix products write dots d[v,f,t] = <y[v,f], e[t]> and local scores of a block
of videos, texts innermost. (2) One pass over them, `kernels.score_pass`, holds the F dots of a pair
in registers: masked softmax, a^T G a, score. Compared with `interaction.global_similarity` nothing
but the dots is ever written. Measured on a card was an outline of this form (one H200, 2026-11-26,
bfloat16, 10,000 x 10,000: 4.95 ms, the products alone 2.94), not yet this code."""
import functools
import importlib.util
import math
import warnings

import torch

from .data.batch import Items
from .interaction import HIDDEN, norm_floor

MAX_FRAMES = 64
DOTS = 2 ** 30  # at most, in a block (4 GB): 8,192 videos of 12 frames with 10,000 texts


def can_score(texts, videos):
    """Whether `similarity` takes these Texts and Videos: no gradient is asked for, float32 at most,
    at most MAX_FRAMES frames, an NVIDIA GPU of compute capability 8.0 or more, and triton."""
    if not texts.sentence.is_cuda or videos.frames.shape[1] > MAX_FRAMES:
        return False
    tensors = [x for items in (texts, videos) for x in vars(items).values() if x is not None]
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    double = any(x.dtype == torch.float64 for x in tensors)
    return not learns and not double and _works(texts.sentence.device)


@functools.cache
def _works(device):
    """Whether one pair is scored on this GPU. Triton needs a C compiler, which may be missing."""
    if (torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0)
            or not importlib.util.find_spec('triton')):
        return False
    x = torch.ones(1, 1, device=device)
    try:
        similarity(Items(sentence=x, concepts=None),
                   Items(frames=x[None], mask=x > 0, gram=x[None], concepts=None))
    except Exception as error:  # whatever it is, the plain form gives the same scores
        warnings.warn(f'triton does not work on this machine, so scoring takes the plain form, '
                      f'which is slower: {type(error).__name__}: {error}')
        return False
    return True


def similarity(texts, videos, **weights):
    """S of Texts and Videos: [T, V] in float32. weights: those of `score`."""
    T, V = len(texts), len(videos)
    S = torch.empty(V, T, device=texts.sentence.device)
    n = block_size(texts, videos)
    for start in range(0, V, n):
        score(texts, videos[start:start + n], S[start:start + n], **weights)
    return S.T


def block_size(texts, videos):
    """How many videos are scored at once, so that their dots take DOTS numbers at most, or an
    eighth of a smaller GPU's memory."""
    most, device = DOTS, texts.sentence.device
    if device.type == 'cuda':
        most = min(most, torch.cuda.get_device_properties(device).total_memory // 32)
    return max(1, most // max(1, len(texts) * videos.frames.shape[1]))


def score(texts, videos, out=None, lists=None, temperature=3.0, local_weight=0.5,
          global_weight=1.0):
    """One block of videos: write S^T to out [V, T], or extend `lists`.

    lists: (least [T], count int32 [T], scores [T, n], places int32 [T, n]): a score greater than
    its text's `least` goes to the next free place of that text's list, with the number of its video
    in the block. count goes on where a list is full."""
    from .kernels import score_pass
    T, V, F = len(texts), len(videos), videos.frames.shape[1]
    dots = _products(videos.frames.flatten(0, 1), texts.sentence)           # [V F, T]
    if texts.concepts is None:
        local = dots.new_zeros(V, T)
    else:
        local = _products(videos.concepts.flatten(1), texts.concepts.flatten(1))  # [V, T]
        local_weight /= texts.concepts.shape[1]
    G, mask = videos.gram.float(), videos.mask.bool()
    hidden = torch.zeros_like(mask, dtype=torch.float32).masked_fill_(~mask, HIDDEN)
    f, g = torch.tril_indices(F, F, device=G.device)
    triangle = (G[:, f, g] * torch.where(f == g, 1.0, 2.0)).contiguous()    # [V, F (F + 1) / 2]
    length = texts.sentence.float().norm(dim=-1).clamp_min(1e-12)
    TB, WALK = 32 if T <= 32 else 256, 8
    least, count, scores, places = lists or (None,) * 4
    with torch.cuda.device_of(dots):
        score_pass[(math.ceil(T / TB) * math.ceil(V / WALK),)](
            dots, local, hidden, triangle, norm_floor(G, mask), global_weight / length, out,
            least, count, scores, places, T, V, 1 / (temperature * math.log(2)),
            float(local_weight), F=F, TB=TB, WALK=WALK, PLACES=scores.shape[1] if lists else 0,
            num_warps=max(1, TB // 64))


def _products(a, b):
    """a [n, D], b [m, D] -> a b^T in float32, whatever their type."""
    with torch.autocast(a.device.type, enabled=False):
        half = a.dtype == b.dtype != torch.float32
        if half and a.is_cuda and torch.__version__ >= (2, 8):
            return torch.mm(a, b.T, out_dtype=torch.float32)
        return a.float() @ b.float().T
