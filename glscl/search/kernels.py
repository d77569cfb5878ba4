"""Scoring in one pass on CUDA (Triton): the logits <e, y> live in registers and never in memory.

The exact Gram form of `interaction.global_similarity`, tile by tile: half-precision features,
float32 sums. `similarity` gives S, `top_k` the best videos of each text without S being written
either. Importing this module needs triton, which comes with torch on Linux. With TRITON_INTERPRET=1
in the environment it runs on the CPU too.
"""
import torch
import triton
import triton.language as tl

from ..interaction import local_similarity, norm_floor
from .topk import EMPTY, merge_top_k, scores_and_places

MAX_FRAMES = 64  # a tile holds the whole Gram matrix of its videos
MAX_K = 32       # the best of 128 texts are held in registers
STRIPE = 512     # videos of which one program of `_top_k_kernel` keeps the best
INFINITY = tl.constexpr(float('inf'))
LOWEST = tl.constexpr(EMPTY)


@triton.jit
def _tile_numbers(T, TB: tl.constexpr):
    """This program's tile of texts and of videos. All texts of one video tile come first: they stay
    in the cache, and each video is read once. One grid axis, since the second ends at 65535."""
    across = tl.cdiv(T, TB)
    return tl.program_id(0) % across, tl.program_id(0) // across


@triton.jit
def _dot_products(x, y, rows, cols, rows_end, cols_end, width, BLOCK: tl.constexpr,
                  R: tl.constexpr, C: tl.constexpr):
    """x[rows] @ y[cols]^T in float32: [R, C]. x and y are row-major and `width` wide; rows from
    their end on count as zeros."""
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
def _local_kernel(video_concepts, text_concepts, out, T, V, width, weight,
                  VB: tl.constexpr, TB: tl.constexpr, BLOCK: tl.constexpr):
    """out[v, t] = weight <c_v[v], c_t[t]>"""
    text_tile, video_tile = _tile_numbers(T, TB)
    t = text_tile * TB + tl.arange(0, TB)
    v = video_tile * VB + tl.arange(0, VB)
    dots = _dot_products(video_concepts, text_concepts, v, t, V, T, width, BLOCK, VB, TB)
    tl.store(out + v[:, None].to(tl.int64) * T + t[None, :], weight * dots,
             mask=(v < V)[:, None] & (t < T)[None, :])


@triton.jit
def _projection(d, valid, G, floor, temperature):
    """<e, p> / |p| = sum_f a_f d_f / sqrt(a^T G a) of dots d [VB, FB, n], valid [VB, FB],
    G [VB, FB, FB]: [VB, n]"""
    logits = tl.where(valid[:, :, None], d / temperature, -INFINITY)
    top = tl.max(logits, axis=1)
    top = tl.where(top == -INFINITY, 0.0, top)  # -inf - -inf is NaN
    a = tl.exp(logits - top[:, None, :])        # the softmax's denominator cancels
    # Three TF32 products make one of float32 precision; a single one would cost 1e-4 in the score.
    # A batch is spread over the warps: one video alone would be multiplied by each of them.
    if G.shape[0] == 1:
        Ga = tl.dot(tl.reshape(G, G.shape[1:]), tl.reshape(a, a.shape[1:]),
                    input_precision='tf32x3')[None]
    else:
        Ga = tl.dot(G, a, input_precision='tf32x3')
    norm2 = tl.sum(a * Ga, axis=1)              # a^T G a
    return tl.sum(a * d, axis=1) / tl.sqrt(tl.maximum(norm2, floor))


@triton.jit
def _tile_scores(sentence, length, frames, mask, gram, floor, local, text_tile, video_tile,
                 T, V, D, temperature, F: tl.constexpr, VB: tl.constexpr, FB: tl.constexpr,
                 TB: tl.constexpr, BLOCK: tl.constexpr):
    """One tile of local[v, t] + sum_f a_f d_f / ( |e| sqrt(a^T G a) ): scores [VB, TB], the videos
    v [VB], the texts t [TB], where they are within V and T [VB, TB]. F frames are padded to FB, a
    power of two, inside the tile."""
    t = text_tile * TB + tl.arange(0, TB)
    first = video_tile * VB
    row = tl.arange(0, VB * FB)
    video, frame = first + row // FB, row % FB
    flat = tl.where(frame < F, video * F + frame, V * F)                 # padding reads as zeros
    d = _dot_products(frames, sentence, flat, t, V * F, T, D, BLOCK, VB * FB, TB)

    v, f = first + tl.arange(0, VB), tl.arange(0, FB)
    real = (v < V)[:, None] & (f < F)[None, :]                           # [VB, FB]
    valid = tl.load(mask + v[:, None] * F + f[None, :], mask=real, other=0) != 0
    of_video = v.to(tl.int64)[:, None, None] * (F * F)
    G = tl.load(gram + of_video + f[None, :, None] * F + f[None, None, :],
                mask=real[:, :, None] & (f < F)[None, None, :], other=0.0)  # [VB, FB, FB]
    least = tl.load(floor + v, mask=v < V, other=1.0)[:, None]
    # Every other text at a time: a thread holds neighbours, so the halves cost no exchange, and
    # half the registers are enough.
    even, odd = tl.split(tl.reshape(d, (VB, FB, TB // 2, 2)))
    s = tl.join(_projection(even, valid, G, least, temperature),
                _projection(odd, valid, G, least, temperature))
    s = tl.reshape(s, (VB, TB)) / tl.load(length + t, mask=t < T, other=1.0)[None, :]
    inside = (v < V)[:, None] & (t < T)[None, :]
    at = v[:, None].to(tl.int64) * T + t[None, :]
    return s + tl.load(local + at, mask=inside, other=0.0), v, t, inside


@triton.jit
def _global_kernel(sentence, length, frames, mask, gram, floor, out, T, V, D, temperature,
                   F: tl.constexpr, VB: tl.constexpr, FB: tl.constexpr, TB: tl.constexpr,
                   BLOCK: tl.constexpr):
    """out[v, t] += S_g"""
    text_tile, video_tile = _tile_numbers(T, TB)
    s, v, t, inside = _tile_scores(sentence, length, frames, mask, gram, floor, out, text_tile,
                                   video_tile, T, V, D, temperature, F, VB, FB, TB, BLOCK)
    tl.store(out + v[:, None].to(tl.int64) * T + t[None, :], s, mask=inside)


@triton.jit
def _sortable_keys(scores, places):
    """`topk.sortable_keys`, where it says why: [VB, TB] float32, [VB] int64 -> [VB, TB] int64."""
    scores = tl.where(scores == scores, scores, -INFINITY) + 0.0
    bits = scores.to(tl.int32, bitcast=True).to(tl.int64)
    return tl.where(bits < 0, bits ^ 0x7fffffff, bits) << 32 | (0xffffffff - places)[:, None]


@triton.jit
def _top_k_kernel(sentence, length, frames, mask, gram, floor, local, keys, T, V, D, start,
                  temperature, F: tl.constexpr, VB: tl.constexpr, FB: tl.constexpr,
                  TB: tl.constexpr, BLOCK: tl.constexpr, TILES: tl.constexpr, K: tl.constexpr):
    """keys[part, :, t] = the K greatest keys of local[v, t] + S_g among the TILES tiles of this
    part, in any order; where there are fewer, what is less than any key. start: the place of the
    first video."""
    text_tile, part = _tile_numbers(T, TB)
    t = text_tile * TB + tl.arange(0, TB)
    k = tl.arange(0, K)[:, None]
    best = tl.full((K, TB), LOWEST, tl.int64) + k  # no two alike: one gives way at a time
    for tile in range(part * TILES, tl.minimum((part + 1) * TILES, tl.cdiv(V, VB))):
        s, v, _, inside = _tile_scores(sentence, length, frames, mask, gram, floor, local,
                                       text_tile, tile, T, V, D, temperature, F, VB, FB, TB, BLOCK)
        key = tl.where(inside, _sortable_keys(s, start + v.to(tl.int64)), LOWEST)
        for row in tl.static_range(VB):
            in_row = (tl.arange(0, VB) == row)[:, None]
            new = tl.max(tl.where(in_row, key, LOWEST), axis=0)  # [TB]
            worst = tl.min(best, axis=0)
            best = tl.where((best == worst[None, :]) & (new > worst)[None, :], new[None, :], best)
    tl.store(keys + (part.to(tl.int64) * K + k) * T + t[None, :], best, mask=(t < T)[None, :])


def can_score(texts, videos):
    """Whether the kernel takes these items: half precision, both of one type, at most MAX_FRAMES
    frames, an NVIDIA GPU of compute capability 8.0 or more."""
    half = texts.sentence.dtype in (torch.float16, torch.bfloat16)
    return (torch.version.cuda is not None
            and half and videos.frames.dtype == texts.sentence.dtype
            and videos.frames.shape[1] <= MAX_FRAMES
            and torch.cuda.get_device_capability(texts.sentence.device) >= (8, 0))


def similarity(texts, videos, temperature=3.0, local_weight=0.5):
    """S = S_g + lambda S_l of Texts and Videos in half precision: [T, V] in float32.

    Without concepts S_g alone."""
    T, V, D = len(texts), len(videos), texts.sentence.shape[1]
    out = _local_scores(texts, videos, local_weight)
    inputs, sizes = _global_inputs(texts, videos)
    grid = (triton.cdiv(T, sizes['TB']) * triton.cdiv(V, sizes['VB']),)
    _global_kernel[grid](*inputs, out, T, V, D, temperature, **sizes)
    return out.T


def top_k(texts, videos, k, temperature=3.0, local_weight=0.5, block=8192):
    """The k best videos of each text: scores and places [T, k], best first, of equal scores the
    first video. Raises ValueError if k is not 1 to MAX_K.

    Neither the dots nor S are written to memory: each program keeps the best of its videos in
    registers. What is, for `block` videos at a time (so that it stays in the cache), is
    lambda S_l. Exact: the best of all are among the best of parts."""
    if not 0 < k <= MAX_K:
        raise ValueError(f'the kernel keeps the 1 to {MAX_K} best of a text, not {k}: '
                         f'for more take similarity(texts, videos).topk')
    T, D, K = *texts.sentence.shape, max(2, triton.next_power_of_2(k))
    found = torch.full((T, k), EMPTY, device=texts.sentence.device)
    for start in range(0, len(videos), block):
        part = videos[start:start + block]
        inputs, sizes = _global_inputs(texts, part)
        stripes = triton.cdiv(len(part), STRIPE)
        keys = torch.empty(stripes, K, T, dtype=torch.int64, device=found.device)
        _top_k_kernel[(triton.cdiv(T, sizes['TB']) * stripes,)](
            *inputs, _local_scores(texts, part, local_weight), keys, T, len(part), D, start,
            temperature, TILES=STRIPE // sizes['VB'], K=K, **sizes)
        found = merge_top_k([found, keys.flatten(0, 1).T], k)
    return scores_and_places(found[:, :min(k, len(videos))])


def _local_scores(texts, videos, weight):
    """lambda S_l, text by text in a row: [V, T] in float32; zeros without concepts."""
    T, V = len(texts), len(videos)
    if texts.concepts is None:
        return torch.zeros(V, T, device=texts.sentence.device)
    if texts.concepts.dtype == torch.float32:  # autocast leaves them so
        return weight * local_similarity(texts.concepts, videos.concepts).T.contiguous()
    out = torch.empty(V, T, device=texts.sentence.device)
    c_t, c_v = _readable(texts.concepts).flatten(1), _readable(videos.concepts).flatten(1)
    _local_kernel[(triton.cdiv(T, 128) * triton.cdiv(V, 128),)](
        c_v, c_t, out, T, V, c_t.shape[1], weight / texts.concepts.shape[1],
        VB=128, TB=128, BLOCK=32, num_warps=8, num_stages=4)
    return out


def _global_inputs(texts, videos):
    """The tensors that `_tile_scores` reads of the items, and the sizes of its tile."""
    G, F = videos.gram.float().contiguous(), videos.frames.shape[1]
    length = texts.sentence.float().norm(dim=-1).clamp_min(1e-12)
    inputs = (_readable(texts.sentence), length, _readable(videos.frames),
              videos.mask.to(torch.int8).contiguous(), G, norm_floor(G, videos.mask).contiguous())
    FB = max(16, triton.next_power_of_2(F))  # a tensor core wants 16 at least
    VB, TB = {16: (8, 128), 32: (1, 256), 64: (1, 64)}[FB]  # what registers hold (tests)
    sizes = {'F': F, 'FB': FB, 'VB': VB, 'TB': TB, 'BLOCK': 32, 'num_warps': 8, 'num_stages': 4}
    return inputs, sizes


def _readable(x):
    """Row-major; in interpreter mode (on the CPU) as float32, exactly: the interpreter would
    multiply the bit patterns of bfloat16."""
    return (x if x.is_cuda else x.float()).contiguous()
