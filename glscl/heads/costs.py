"""What retrieval costs: multiply-adds as closed forms, beside the published ones; seconds measured; bytes kept.

    python -m glscl.heads.costs

One multiply-add is one term of a matrix product or of a weighted sum. Softmax, norms, masks and sorting do not count,
nor does CLIP. The closed forms stand beside the heads they describe (`heads.HEADS[method].cost`)."""
import json
import statistics
import time

import pandas as pd
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..config import data_path
from . import HEADS
from .frames import concept_cost, global_direct  # noqa: F401  (part of this module's names)

# What gives the published figure, found by trying: method -> (multiply-adds a pair, the formula, what it leaves out or adds).
EXPLAINED = {
    'CLIP4Clip': (lambda F, L, D, Q: D, 'D', 'exact; leaves out the temporal transformer behind the R@1 beside it'),
    'CLIP-ViP': (lambda F, L, D, Q: D, 'D', 'exact'),
    'CenterCLIP': (lambda F, L, D, Q: 3 * D, '3 D', 'three segment vectors a video; its code pools them into one'),
    'TS2-Net': (lambda F, L, D, Q: F * D, 'F D', 'exact; leaves out the weighted sum'),
    'X-Pool': (lambda F, L, D, Q: D * D + 2 * F * D + D + F, 'D² + 2 F D + D + F',
               'one D x D product a pair; its code runs two, the Gram form none'),
    'X-CLIP': (lambda F, L, D, Q: L * F * D + L * D + F * D + D + L * L + F * F + L + F,
               'L F D + L D + F D + D + (L² + F² + L + F)',
               'the first four terms give 219.6; the rest is not uniquely explained'),
    'GLSCL': (lambda F, L, D, Q: D + Q * (D // 8), 'D + Q D/8',
              'queries of D/8, which its code does not have; leaves out the frame attention, 2 F D'),
    'DiCoSA': (lambda F, L, D, Q: D, 'D', 'the concept cosines; leaves out frame attention and the weight network'),
    'Prompt Switch': (None, '–', 'cannot be explained: its video vector does not depend on the text, so D would do'),
}


def head_of(method):
    """The class of a method; the published table's CLIP4Clip is seqTransf by its recall."""
    name = 'CLIP4Clip seqTransf' if method == 'CLIP4Clip' else method
    if name not in HEADS:
        raise ValueError(f'unknown method {method!r}: one of {", ".join(HEADS)}')
    return HEADS[name]


def pair_cost(method, F=12, L=32, D=512, Q=8, gram=False):
    """Multiply-adds for one text and one video; gram=True: in Gram form where the method has one."""
    cost = head_of(method).cost(F=F, L=L, D=D, Q=Q)
    return cost.gram if gram else cost.pair


# Bytes that must be kept of a video, in float32: method -> f(F, D, Q).
BYTES = {method: lambda F, D, Q, method=method: head_of(method).cost(F=F, D=D, Q=Q).video_bytes
         for method in ('CLIP4Clip', 'LAFF', 'TS2-Net', 'X-CLIP', 'DRL', 'GLSCL', 'X-Pool', 'T-MASS', 'DiCoSA')}


def released_cost(T, V, F=12, L=32, D=512, Q=8, block=16):
    """GLSCL's released evaluation loop, by part: it decodes the queries again for every block of block x block pairs."""
    cost, text_blocks, video_blocks = HEADS['GLSCL'].cost(F=F, L=L, D=D, Q=Q), -(-T // block), -(-V // block)
    decoder = T * video_blocks * concept_cost(L, D, Q) + V * text_blocks * concept_cost(F, D, Q)
    return {'query decoder': decoder, 'unused MLP': T * V * (cost.coded - cost.pair), 'scores': T * V * cost.pair}


def table(T=1000, V=1000, F=12, L=32, D=512, Q=8):
    """Multiply-adds of scoring T texts against V videos, in G: counted here, beside the published column.

    "as released": what the method's code executes for the pairs, and what its evaluation does again in each block;
    "once per item": before any pair, in brackets what the Gram form adds. Not CLIP."""
    theirs, rows, pairs = published().drop_duplicates('method').set_index('method')['FLOPs (G)'], [], T * V
    for name, head in HEADS.items():
        cost, row = head.cost(T=T, V=V, F=F, L=L, D=D, Q=Q), {'method': name}
        row['counted, a pair'], row['counted, G'] = f'{cost.pair:,}', giga(pairs * cost.pair)
        row['in Gram form, G'] = giga(pairs * cost.gram) if cost.gram != cost.pair else '='
        row['as released, G'] = giga(pairs * cost.coded) + (f' + {giga(cost.repeated)}' if cost.repeated else '')
        extra = T * cost.gram_text + V * cost.gram_video
        row['once per item, G'] = giga(T * cost.text + V * cost.video) + (f' (+ {giga(extra)})' if extra else '')
        published_as = 'CLIP4Clip' if name in ('CLIP4Clip meanP', 'CLIP4Clip seqTransf') else name
        row['published, G'] = f'{theirs[published_as]:g}' if published_as in theirs else '–'
        rows.append(row)
    return pd.DataFrame(rows)


def giga(amount):
    """In units of 10^9, with the digits that tell."""
    return f'{amount / 1e9:,.0f}' if amount >= 1e12 else f'{amount / 1e9:.3g}' if amount < 1e9 else f'{amount / 1e9:.1f}'


def explained(T=1000, V=1000, F=12, L=32, D=512, Q=8):
    """The published column and the formula that gives it, as far as one was found: a DataFrame."""
    theirs, rows = published().drop_duplicates('method').set_index('method')['FLOPs (G)'], []
    for method, (form, formula, remark) in EXPLAINED.items():
        rows.append({'method': method, 'published, G': f'{theirs[method]:g}', 'formula, a pair': formula,
                     'gives, G': f'{T * V * form(F, L, D, Q) / 1e9:.3f}' if form else '–', 'remark': remark})
    return pd.DataFrame(rows)


def published():
    """MSR-VTT 1k-A as the methods' papers and GLSCL's own table give it: a DataFrame, nothing in it measured here."""
    return pd.read_csv(data_path('published_msrvtt.csv'))


def stored(name):
    """What data/results keeps under this name, a dict; None if it is not there."""
    try:
        return json.loads(data_path(f'results/{name}.json').read_text())
    except FileNotFoundError:
        return None


def stored_runs(name='methods'):
    """The runs kept with the package, of `glscl.comparison` ("methods") or `bench_recall` ("heads"); [] if there are none."""
    return (stored(name) or {'runs': []})['runs']


def clock(row):
    """Which time of a row of `bench_heads` counts: the CPU's where one thread of it did all the work, else wall time."""
    return 'cpu' if row['device'] == 'cpu' and row['threads'] == 1 else 'wall'


def median(row, part):
    """Of a row of `bench_heads`: ms of a "query", or ns of a "pair"."""
    return row[part][f'{clock(row)}_{dict(query="ms", pair="ns")[part]}']['median']


def clock_table(costs):
    """What `bench_heads` measured on the CPU, one row a head: the query by gallery in ms, a pair, memory, growth. A DataFrame.

    "~" marks a query extrapolated from fewer videos; a gallery that did not fit shows the gigabytes it needs."""
    rows, galleries = [], sorted({r['videos'] for r in costs['rows'] if r['videos'] >= 1000})
    fits = {f['method']: f for f in costs['growth'] if f['device'] == 'cpu'}
    for method in HEADS:
        mine = {r['videos']: r for r in costs['rows'] if r['method'] == method and r['device'] == 'cpu'}
        row = {'method': method, **{f'{V:,} videos, ms': query_cell(mine[V]) for V in galleries if V in mine}}
        first, fit = mine[min(V for V in mine if V >= 1000)], fits[method]
        row['a pair, ns'] = f'{median(first, "pair"):,.0f}'
        row['memory of a query, MB'] = f'{max(r["query"]["working_memory_mb"] for r in mine.values() if r["fits"]):.1f}'
        row['grows as V to the'] = f'{fit["exponent"]:.3f} ± {fit["standard_error"]:.3f}' if fit['exponent'] else '–'
        rows.append(row)
    return pd.DataFrame(rows).fillna('–')


def query_cell(row):
    """The median of a query in ms, "~" before it if extrapolated; what a gallery that does not fit needs."""
    if not row['fits']:
        return f'needs {row["bytes_gallery"] / 1e9:.0f} GB'
    ms = median(row, 'query')
    return '~' * row['query']['extrapolated'] + (f'{ms:,.0f}' if ms >= 100 else f'{ms:.2g}' if ms < 1 else f'{ms:.1f}')


def counted(fn, *args, **kwargs):
    """Multiply-adds in the matrix products that really run: torch's own count, which takes two operations for each.

    Attention runs as plain products meanwhile: the counter does not know the fused kernel of the CPU."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
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


def main():
    """Print the cost table, what gives the published column, and the ratio to X-CLIP."""
    T, V, F, L, D, Q = sizes = 1000, 1000, 12, 32, 512, 8
    print(f'{T} texts x {V} videos, F = {F}, L = {L}, D = {D}, Q = {Q}; G multiply-adds\n')
    with pd.option_context('display.width', 200, 'display.max_columns', None, 'display.max_colwidth', None):
        print(table(*sizes).to_string(index=False), explained(*sizes).to_string(index=False, justify='left'), sep='\n\n')
    xclip, half = pair_cost('X-CLIP'), Q * (D - D // 8)  # what queries of D/8 would save
    print(f'\nX-CLIP : GLSCL, published 220.9 : 1.0 = 221; counted by one rule {xclip / pair_cost("GLSCL"):.1f}, with GLSCL in '
          f'Gram form {xclip / pair_cost("GLSCL", gram=True):.1f}\n(with queries of D/8, which its code does not have: '
          f'{xclip / (pair_cost("GLSCL") - half):.1f} and {xclip / (pair_cost("GLSCL", gram=True) - half):.1f})')


if __name__ == '__main__':
    main()
