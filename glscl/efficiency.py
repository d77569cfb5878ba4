"""What retrieval costs: multiply-adds as closed forms, seconds measured, bytes kept.

One multiply-add is one term of a matrix product or of a weighted sum. Softmax, norms, masks and sorting do not count,
nor does CLIP. "Per pair" means: after everything that depends on the text alone or the video alone has been done
once. Sizes T V F L D Q as everywhere; DiCoSA splits D into C = 8 concepts, LAFF has 8 spaces, T-MASS 20 trials."""
import json
import statistics
import time

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from .config import data_path
from .encoders import normalised
from .interaction import frame_weights

# Multiply-adds a pair, the result unchanged: method -> f(F, L, D, Q).
PER_PAIR = {
    'CLIP4Clip': lambda F, L, D, Q: D,
    'CenterCLIP': lambda F, L, D, Q: D,
    'CLIP-ViP': lambda F, L, D, Q: D,
    'Prompt Switch': lambda F, L, D, Q: D,
    'LAFF': lambda F, L, D, Q: 8 * D,
    'TS2-Net': lambda F, L, D, Q: F * D + F,
    'GLSCL': lambda F, L, D, Q: 2 * F * D + D + Q * D,
    'DiCoSA': lambda F, L, D, Q: 2 * F * D + 4 * F * D + 4 * D + D + 8,
    'DRL': lambda F, L, D, Q: L * F * D + L + F,
    'X-CLIP': lambda F, L, D, Q: (L * F * D + L * D + F * D + D + 2 * L * L + 2 * F * F + F * L * L + L * F * F
                                  + 2 * (L * F + L + F)),
    'X-Pool': lambda F, L, D, Q: 2 * F * D + D * D + D,
    'T-MASS': lambda F, L, D, Q: 4 * F * D + D * D + 3 * 20 * D + D,
}
# The same scores without a pooled vector for each pair (exact; see `interaction.global_similarity`).
PER_PAIR_GRAM = {
    'GLSCL': lambda F, L, D, Q: F * D + F * F + F + Q * D,
    'DiCoSA': lambda F, L, D, Q: F * D + 4 * F * D + 4 * D + 8 * F + 8 * F * F + 8,
    'X-Pool': lambda F, L, D, Q: 2 * F * D + F * F + 2 * (F + 1) ** 2 + 3 * (F + 1),
    'T-MASS': lambda F, L, D, Q: 4 * F * D + F * F + 60 * D + D,
}
# Bytes that must be kept of a video, in float32.
BYTES = {
    'CLIP4Clip': lambda F, D, Q: 4 * D,
    'LAFF': lambda F, D, Q: 32 * D,
    'TS2-Net': lambda F, D, Q: 4 * F * D + F,
    'X-CLIP': lambda F, D, Q: 4 * (F + 1) * D,
    'GLSCL': lambda F, D, Q: 4 * (F + Q) * D + 4 * F * F + F,
    'X-Pool': lambda F, D, Q: 8 * F * D,
    'T-MASS': lambda F, D, Q: 12 * F * D,
}


def pair_cost(method, F=12, L=32, D=512, Q=8, gram=False):
    """Multiply-adds for one text and one video; gram=True: in Gram form where the method has one."""
    form = PER_PAIR_GRAM.get(method, PER_PAIR[method]) if gram else PER_PAIR[method]
    return form(F, L, D, Q)


def concept_cost(tokens, D=512, Q=8, layers=3, hidden=2048):
    """The query decoder for one item of so many tokens: self-attention, cross-attention, feed-forward."""
    attend_self = 4 * Q * D * D + 2 * Q * Q * D
    attend_tokens = 2 * Q * D * D + 2 * tokens * D * D + 2 * Q * tokens * D
    return layers * (attend_self + attend_tokens + 2 * Q * D * hidden)


def released_cost(T, V, F=12, L=32, D=512, Q=8, block=16):
    """The released evaluation loop, by part: it decodes the queries again for every block of block x block pairs."""
    text_blocks, video_blocks = -(-T // block), -(-V // block)
    decoder = T * video_blocks * concept_cost(L, D, Q) + V * text_blocks * concept_cost(F, D, Q)
    return {'query decoder': decoder, 'unused MLP': T * V * (2 * D * 4 * D + 4 * D),
            'scores': T * V * pair_cost('GLSCL', F, L, D, Q)}


def table(T=1000, V=1000, **sizes):
    """Multiply-adds of scoring T texts against V videos, in G: counted here, beside the published column."""
    theirs, rows = published().drop_duplicates('method').set_index('method')['FLOPs (G)'], []
    for method in PER_PAIR:
        direct, gram = pair_cost(method, **sizes), pair_cost(method, **sizes, gram=True)
        rows.append({'method': method, 'counted, a pair': f'{direct:,}', 'counted, G': f'{T * V * direct / 1e9:.1f}',
                     'in Gram form, G': f'{T * V * gram / 1e9:.1f}' if gram != direct else '=',
                     'published, G': f'{theirs[method]:g}' if method in theirs else '–'})
    return pd.DataFrame(rows)


def published():
    """MSR-VTT 1k-A as the methods' papers and GLSCL's own table give it: a DataFrame, nothing in it measured here."""
    return pd.read_csv(data_path('published_msrvtt.csv'))


def stored_runs():
    """The runs of `glscl.comparison` kept with the package; an empty list if there are none."""
    try:
        return json.loads(data_path('results/methods.json').read_text())['runs']
    except FileNotFoundError:
        return []


def global_direct(sentence, frames, mask, temperature=3.0, chunk=50):
    """S_g term by term, a pooled vector p[t,v] for each pair: [T, V]; for comparison with the Gram form."""
    e, columns = normalised(sentence), []
    for y, m in zip(frames.split(chunk), mask.split(chunk)):
        p = torch.einsum('tvf,vfd->tvd', frame_weights(sentence, y, m, temperature), y)
        columns.append(torch.einsum('td,tvd->tv', e, normalised(p)))
    return torch.cat(columns, 1)


def counted(fn, *args, **kwargs):
    """Multiply-adds in the matrix products that really run: torch's own count, which takes two operations for each."""
    with FlopCounterMode(display=False) as counter:
        fn(*args, **kwargs)
    return counter.get_total_flops() // 2


def measure(fn, repeats=5, warmup=1):
    """(median, fastest, slowest) seconds of fn()."""
    seconds = []
    for turn in range(warmup + repeats):
        start = time.perf_counter()
        fn()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[warmup:]), min(seconds[warmup:]), max(seconds[warmup:])
