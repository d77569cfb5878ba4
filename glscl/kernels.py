"""The second stage of scoring on CUDA (Triton): from dot products to scores, one number a thread.

`cuda_scoring` says what comes before and after. Importing this module needs triton, which comes
with torch on Linux. With TRITON_INTERPRET=1 in the environment it runs on the CPU too."""
import triton
import triton.language as tl

FEW = tl.constexpr(16)  # frames whose weights a thread keeps in registers; more are taken in groups


@triton.jit(do_not_specialize=['V'])
def score_pass(dots, local, hidden, gram, floor, scale, out, least, count, scores, places, T, V,
               sharpness, weight, F: tl.constexpr, TB: tl.constexpr, WALK: tl.constexpr,
               PLACES: tl.constexpr):
    """s[v, t] = scale[t] sum_f a_f d_f / sqrt(a^T G a) + weight local[v, t] of V videos.

    dots [V, F, T], local [V, T], scale [T], and of each video: hidden [V, F], added to its dots;
    gram [V, F (F + 1) / 2], the lower triangle of G, twice what is off the diagonal; floor [V].
    A program takes TB texts and WALK videos. With PLACES = 0 scores go to out [V, T]; else those
    above least [T] go to the lists scores, places [T, PLACES], which count [T] numbers, also
    beyond their end."""
    across = tl.cdiv(T, TB)  # one grid axis, since the second ends at 65535
    t = tl.program_id(0) % across * TB + tl.arange(0, TB)
    first = tl.program_id(0) // across * WALK
    inside = t < T
    scale_t = tl.load(scale + t, mask=inside, other=0.0)
    if PLACES:
        least_t = tl.load(least + t, mask=inside, other=0.0)
    for v in range(first, tl.minimum(first + WALK, V)):
        d, h, G = dots + v * F * T + t, hidden + v * F, gram + v * (F * (F + 1) // 2)
        if F <= FEW:
            total, norm2 = _few_frames(d, h, G, inside, T, sharpness, F, TB)
        else:
            total, norm2 = _many_frames(d, h, G, inside, T, sharpness, F, TB)
        s = total * tl.rsqrt(tl.maximum(norm2, tl.load(floor + v))) * scale_t
        s += weight * tl.load(local + v * T + t, mask=inside, other=0.0)
        if PLACES:
            better = inside & (s > least_t)
            slot = tl.atomic_add(count + t, 1, mask=better, sem='relaxed')
            kept = better & (slot < PLACES)
            tl.store(scores + t * PLACES + slot, s, mask=kept)
            tl.store(places + t * PLACES + slot, v, mask=kept)
        else:
            tl.store(out + v * T + t, s, mask=inside)


@triton.jit
def _few_frames(d, hidden, G, inside, T, sharpness, F: tl.constexpr, TB: tl.constexpr):
    """sum_f a_f d_f and a^T G a of one video, all in registers: [TB] each."""
    dots, a = (), ()
    top = tl.full((TB,), -float('inf'), tl.float32)
    for f in tl.static_range(F):
        x = tl.load(d + f * T, mask=inside, other=0.0) + tl.load(hidden + f)
        top = tl.maximum(top, x)
        dots = dots + (x,)
    total = tl.zeros((TB,), tl.float32)
    for f in tl.static_range(F):
        weight = tl.exp2((dots[f] - top) * sharpness)  # the softmax's denominator cancels
        total += weight * dots[f]
        a = a + (weight,)
    return total, _triangle(a, G, 0, F, F, TB)


@triton.jit
def _many_frames(d, hidden, G, inside, T, sharpness, F: tl.constexpr, TB: tl.constexpr):
    """The same, FEW frames in registers at a time; the dots of others are read again (from the
    cache), for one loop over all would be a program of thousands of lines."""
    top = tl.full((TB,), -float('inf'), tl.float32)
    for g in range(F):
        top = tl.maximum(top, tl.load(d + g * T, mask=inside, other=0.0) + tl.load(hidden + g))
    total, norm2 = tl.zeros((TB,), tl.float32), tl.zeros((TB,), tl.float32)
    for start in range(0, F, FEW):
        a = ()
        for f in tl.static_range(FEW):
            real = start + f < F
            x = tl.load(d + (start + f) * T, mask=inside & real, other=0.0)
            x += tl.load(hidden + start + f, mask=real, other=-1e30)
            weight = tl.exp2((x - top) * sharpness)
            total += tl.where(real, weight * x, 0.0)
            a = a + (weight,)
        norm2 += _triangle(a, G, start, FEW, F, TB)
        for g in range(start):  # the rectangle to the left of the triangle
            x = tl.load(d + g * T, mask=inside, other=0.0) + tl.load(hidden + g)
            Ga = tl.zeros((TB,), tl.float32)
            for f in tl.static_range(FEW):
                row = start + f
                Ga += tl.load(G + row * (row + 1) // 2 + g, mask=row < F, other=0.0) * a[f]
            norm2 += tl.exp2((x - top) * sharpness) * Ga
    return total, norm2


@triton.jit
def _triangle(a, G, start, N: tl.constexpr, F: tl.constexpr, TB: tl.constexpr):
    """a^T G a of the frames start to start + N, as far as there are F: [TB]"""
    norm2 = tl.zeros((TB,), tl.float32)
    for f in tl.static_range(N):
        row = start + f
        Ga = tl.zeros((TB,), tl.float32)
        for g in tl.static_range(f + 1):
            Ga += tl.load(G + row * (row + 1) // 2 + start + g, mask=row < F, other=0.0) * a[g]
        norm2 += Ga * a[f]
    return norm2
