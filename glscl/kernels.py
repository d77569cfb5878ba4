"""Scoring in one pass on CUDA (Triton): the logits <e, y> live in registers only, and are never written to memory.

The exact Gram form of `interaction.global_similarity`, tile by tile: half-precision features, float32 sums. Importing this
module needs triton, which comes with torch on Linux. With TRITON_INTERPRET=1 in the environment it runs on the CPU too."""
import torch
import triton
import triton.language as tl

from .interaction import local_similarity, norm_floor

MAX_FRAMES = 64  # a tile holds the whole Gram matrix of its videos


@triton.jit
def _tile(T, TB: tl.constexpr):
    """This program's tile of texts and of videos. All texts of one video tile come first: they stay in the cache, and each
    video is read once. One grid axis, since the second ends at 65535."""
    across = tl.cdiv(T, TB)
    return tl.program_id(0) % across, tl.program_id(0) // across


@triton.jit
def _products(x, y, rows, cols, rows_end, cols_end, width, BLOCK: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    """x[rows] @ y[cols]^T in float32: [R, C]; x and y are row-major and `width` wide, rows from their end on count as zeros."""
    total = tl.zeros((R, C), dtype=tl.float32)
    k = tl.arange(0, BLOCK)
    for start in range(0, width, BLOCK):
        inside = start + k < width
        a = tl.load(x + rows[:, None].to(tl.int64) * width + (start + k)[None, :],
                    mask=(rows < rows_end)[:, None] & inside[None, :], other=0.0)
        b = tl.load(y + cols[None, :].to(tl.int64) * width + (start + k)[:, None],
                    mask=(cols < cols_end)[None, :] & inside[:, None], other=0.0)
        total = tl.dot(a, b, total, input_precision='ieee')
    return total


@triton.jit
def _local(video_concepts, text_concepts, out, T, V, width, weight, VB: tl.constexpr, TB: tl.constexpr, BLOCK: tl.constexpr):
    """out[v, t] = weight <c_v[v], c_t[t]>"""
    text_tile, video_tile = _tile(T, TB)
    t = text_tile * TB + tl.arange(0, TB)
    v = video_tile * VB + tl.arange(0, VB)
    s = weight * _products(video_concepts, text_concepts, v, t, V, T, width, BLOCK, VB, TB)
    tl.store(out + v[:, None].to(tl.int64) * T + t[None, :], s, mask=(v < V)[:, None] & (t < T)[None, :])


@triton.jit
def _global(sentence, length, frames, mask, gram, floor, out, T, V, D, temperature, F: tl.constexpr,
            VB: tl.constexpr, FB: tl.constexpr, TB: tl.constexpr, BLOCK: tl.constexpr):
    """out[v, t] += sum_f a_f d_f / ( |e| sqrt(a^T G a) ); F frames are padded to FB, a power of two, inside the tile."""
    text_tile, video_tile = _tile(T, TB)
    t = text_tile * TB + tl.arange(0, TB)
    first = video_tile * VB
    row = tl.arange(0, VB * FB)
    video, frame = first + row // FB, row % FB
    flat = tl.where(frame < F, video * F + frame, V * F)                             # padding reads as zeros
    d = _products(frames, sentence, flat, t, V * F, T, D, BLOCK, VB * FB, TB)
    d = tl.reshape(d, (VB, FB, TB))

    v, f = first + tl.arange(0, VB), tl.arange(0, FB)
    real = (v < V)[:, None] & (f < F)[None, :]                                       # [VB, FB]
    valid = tl.load(mask + v[:, None] * F + f[None, :], mask=real, other=0) != 0
    G = tl.load(gram + v.to(tl.int64)[:, None, None] * (F * F) + f[None, :, None] * F + f[None, None, :],
                mask=real[:, :, None] & (f < F)[None, None, :], other=0.0)           # [VB, FB, FB]
    logits = tl.where(valid[:, :, None], d / temperature, -float('inf'))
    top = tl.max(logits, axis=1)
    top = tl.where(top == -float('inf'), 0.0, top)                                   # -inf - -inf is NaN
    a = tl.exp(logits - top[:, None, :])                                             # [VB, FB, TB], denominator left out
    # Three TF32 products make one of float32 precision; a single one would cost 1e-4 in the score.
    norm2 = tl.sum(a * tl.dot(G, a, input_precision='tf32x3'), axis=1)               # [VB, TB] a^T G a
    norm2 = tl.maximum(norm2, tl.load(floor + v, mask=v < V, other=1.0)[:, None])
    s = tl.sum(a * d, axis=1) / (tl.sqrt(norm2) * tl.load(length + t, mask=t < T, other=1.0)[None, :])
    where = out + v[:, None].to(tl.int64) * T + t[None, :]
    inside = (v < V)[:, None] & (t < T)[None, :]
    tl.store(where, s + tl.load(where, mask=inside, other=0.0), mask=inside)


def can_score(texts, videos):
    """Whether the kernel takes these items: half precision, one type, at most MAX_FRAMES frames, an NVIDIA GPU from 8.0 on."""
    return (torch.version.cuda is not None and texts.sentence.dtype == videos.frames.dtype in (torch.float16, torch.bfloat16)
            and videos.frames.shape[1] <= MAX_FRAMES and torch.cuda.get_device_capability(texts.sentence.device) >= (8, 0))


def similarity(texts, videos, temperature=3.0, local_weight=0.5):
    """S = S_g + lambda S_l of Texts and Videos in half precision: [T, V] in float32; without concepts S_g alone."""
    e, y = _readable(texts.sentence), _readable(videos.frames)
    T, (V, F, D) = len(e), y.shape
    if texts.concepts is None:
        out = torch.zeros(V, T, device=e.device)
    elif texts.concepts.dtype == torch.float32:                                      # autocast leaves them so
        out = local_weight * local_similarity(texts.concepts, videos.concepts).T.contiguous()
    else:
        out = torch.empty(V, T, device=e.device)
        c_t, c_v = _readable(texts.concepts).flatten(1), _readable(videos.concepts).flatten(1)
        _local[(triton.cdiv(T, 128) * triton.cdiv(V, 128),)](
            c_v, c_t, out, T, V, c_t.shape[1], local_weight / texts.concepts.shape[1],
            VB=128, TB=128, BLOCK=32, num_warps=8, num_stages=4)
    FB = max(16, triton.next_power_of_2(F))                                          # a tensor core wants 16 at least
    VB = 128 // FB
    G = videos.gram.float().contiguous()
    length = texts.sentence.float().norm(dim=-1).clamp_min(1e-12)
    _global[(triton.cdiv(T, 128) * triton.cdiv(V, VB),)](
        e, length, y, videos.mask.to(torch.int8).contiguous(), G, norm_floor(G, videos.mask).contiguous(), out, T, V, D,
        temperature, F=F, VB=VB, FB=FB, TB=128, BLOCK=32, num_warps=8, num_stages=4)
    return out.T


def top_k(texts, videos, k, score=similarity, block=65536):
    """The k best videos of each text without the [T, V] matrix: scores and indices [T, k], best first.

    `score(texts, videos)` takes `block` videos at a time; only a block's scores and the k best so far exist. Exact:
    whatever is among the k best of all is among the k best of its block."""
    best = index = None
    for start in range(0, len(videos), block):
        S = score(texts, videos[start:start + block])
        scores, at = S.topk(min(k, S.shape[1]), dim=1)
        at = at + start
        if best is not None:
            scores, at = torch.cat([best, scores], 1), torch.cat([index, at], 1)
        best, order = scores.topk(min(k, scores.shape[1]), dim=1)
        index = at.gather(1, order)
    return best, index


def _readable(x):
    """Row-major; in interpreter mode (on the CPU) as float32, exactly: it multiplies the bit patterns of bfloat16."""
    return (x if x.is_cuda else x.float()).contiguous()
