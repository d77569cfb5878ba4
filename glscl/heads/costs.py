"""What retrieval costs: multiply-adds as closed forms beside the published ones, and stored times.

One multiply-add is one term of a matrix product or of a weighted sum. Softmax, norms, masks and
sorting do not count, nor does CLIP. The closed forms stand beside the heads that they describe
(`heads.HEADS[method].cost`, a `base.Cost`). `glscl bench costs` prints the tables."""
import json

import pandas as pd
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..config import data_path
from . import HEADS
from .glscl import concept_cost

NONE = '–'  # in a cell of a table that has nothing to show


def published():
    """MSR-VTT 1k-A as the methods' papers and GLSCL's own table give it: a DataFrame, nothing in it
    measured here."""
    return pd.read_csv(data_path('published_msrvtt.csv'))


def published_cost():
    """The published G multiply-adds of each method: a Series."""
    return published().drop_duplicates('method').set_index('method')['FLOPs (G)']


def stored(name):
    """What data/results keeps under this name, a dict; None if there is no such file."""
    try:
        return json.loads(data_path(f'results/{name}.json').read_text())
    except FileNotFoundError:
        return None


def pair_cost(method, F=12, L=32, D=512, Q=8, gram=False):
    """Multiply-adds for one text and one video; gram=True: in Gram form where the method has one.

    The published table's "CLIP4Clip" is seqTransf by its recall. ValueError for other names that
    are not in HEADS."""
    name = 'CLIP4Clip seqTransf' if method == 'CLIP4Clip' else method
    if name not in HEADS:
        raise ValueError(f'unknown method {method!r}: one of {", ".join(HEADS)}')
    cost = HEADS[name].cost(F=F, L=L, D=D, Q=Q)
    return cost.gram if gram else cost.pair


def released_cost(T, V, F=12, L=32, D=512, Q=8, block=16):
    """GLSCL's released evaluation loop, by part: multiply-adds for T texts and V videos.

    It decodes the queries again for every block of block x block pairs: 17,667 G at 1000 x 1000,
    where X-CLIP's loop takes 4,052 G. GLSCL's equations are cheaper than X-CLIP's, its code is
    not."""
    cost = HEADS['GLSCL'].cost(F=F, L=L, D=D, Q=Q)
    text_blocks, video_blocks = -(-T // block), -(-V // block)
    decoder = (T * video_blocks * concept_cost(L, D, Q) + V * text_blocks * concept_cost(F, D, Q))
    return {'query decoder': decoder, 'unused MLP': T * V * (cost.coded - cost.pair),
            'scores': T * V * cost.pair}


def looped(method, T, V, F=12, L=32, D=512, Q=8):
    """Multiply-adds of a method's released evaluation loop over T texts and V videos: what its code
    runs for each pair, and what it repeats in its blocks."""
    cost = HEADS[method].cost(T=T, V=V, F=F, L=L, D=D, Q=Q)
    return T * V * cost.coded + cost.repeated


def giga(amount):
    """In units of 10^9, with the digits that tell."""
    if amount >= 1e12:
        return f'{amount / 1e9:,.0f}'
    return f'{amount / 1e9:.1f}' if amount >= 1e9 else f'{amount / 1e9:.3g}'


def table(T=1000, V=1000, F=12, L=32, D=512, Q=8):
    """Multiply-adds of scoring T texts against V videos, in G: counted here, beside the published
    column. A DataFrame.

    "as released": what the method's code runs for the pairs, and what its evaluation does again in
    each block; "once per item": before any pair, in brackets what the Gram form adds. Not CLIP."""
    published_g = published_cost()
    rows = []
    for name, head in HEADS.items():
        cost = head.cost(T=T, V=V, F=F, L=L, D=D, Q=Q)
        released = giga(T * V * cost.coded)
        if cost.repeated:
            released += f' + {giga(cost.repeated)}'
        once = giga(T * cost.text + V * cost.video)
        if cost.gram_video:
            once += f' (+ {giga(V * cost.gram_video)})'
        meant = 'CLIP4Clip' if name in ('CLIP4Clip meanP', 'CLIP4Clip seqTransf') else name
        rows.append({
            'method': name,
            'counted, a pair': f'{cost.pair:,}',
            'counted, G': giga(T * V * cost.pair),
            'in Gram form, G': giga(T * V * cost.gram) if cost.gram != cost.pair else '=',
            'as released, G': released,
            'once per item, G': once,
            'published, G': f'{published_g[meant]:g}' if meant in published_g else NONE,
        })
    return pd.DataFrame(rows)


def explained(T=1000, V=1000, F=12, L=32, D=512, Q=8):
    """The published column and the formula that gives it, found by trying: a DataFrame.

    The remark says what a formula leaves out or adds."""
    xclip = L * F * D + L * D + F * D + D + L * L + F * F + L + F
    # method, multiply-adds a pair, their formula, remark
    found = [
        ('CLIP4Clip', D, 'D',
         'exact; leaves out the temporal transformer behind the R@1 beside it'),
        ('CLIP-ViP', D, 'D', 'exact'),
        ('CenterCLIP', 3 * D, '3 D', 'three segment vectors a video; its code pools them into one'),
        ('TS2-Net', F * D, 'F D', 'exact; leaves out the weighted sum'),
        ('X-Pool', D * D + 2 * F * D + D + F, 'D² + 2 F D + D + F',
         'one D x D product a pair; its code runs two, the Gram form none'),
        ('X-CLIP', xclip, 'L F D + L D + F D + D + (L² + F² + L + F)',
         'the first four terms give 219.6; the rest is not uniquely explained'),
        ('GLSCL', D + Q * (D // 8), 'D + Q D/8',
         'queries of D/8, which its code does not have; leaves out the frame attention, 2 F D'),
        ('DiCoSA', D, 'D',
         'the concept cosines; leaves out frame attention and the weight network'),
        ('Prompt Switch', None, NONE,
         'cannot be explained: its video vector does not depend on the text, so D would do'),
    ]
    published_g = published_cost()
    rows = []
    for method, pair, formula, remark in found:
        rows.append({
            'method': method,
            'published, G': f'{published_g[method]:g}',
            'formula, a pair': formula,
            'gives, G': NONE if pair is None else f'{T * V * pair / 1e9:.3f}',
            'remark': remark,
        })
    return pd.DataFrame(rows)


def counted(fn, *args, **kwargs):
    """Multiply-adds in the matrix products that fn(*args, **kwargs) really runs.

    torch's own count, which takes two operations for each. Attention runs as plain products
    meanwhile: the counter does not know the fused kernel of the CPU."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        fn(*args, **kwargs)
    return counter.get_total_flops() // 2


def clock(row):
    """Which time of a row of `glscl bench heads` counts: the CPU's where one thread of it did all
    the work, else wall time."""
    return 'cpu' if row['device'] == 'cpu' and row['threads'] == 1 else 'wall'


def median(row, part):
    """Of a row of `glscl bench heads`: ms of a "query", or ns of a "pair"."""
    unit = 'ms' if part == 'query' else 'ns'
    return row[part][f'{clock(row)}_{unit}']['median']


def report(T=1000, V=1000, F=12, L=32, D=512, Q=8):
    """Print the cost table, what gives the published column, and the ratio to X-CLIP."""
    sizes = (T, V, F, L, D, Q)
    print(f'{T} texts x {V} videos, F = {F}, L = {L}, D = {D}, Q = {Q}; G multiply-adds\n')
    with pd.option_context('display.width', 200, 'display.max_columns', None,
                           'display.max_colwidth', None):
        print(table(*sizes).to_string(index=False))
        print()
        print(explained(*sizes).to_string(index=False, justify='left'))
    xclip = pair_cost('X-CLIP', F, L, D, Q)
    pair = pair_cost('GLSCL', F, L, D, Q)
    gram = pair_cost('GLSCL', F, L, D, Q, gram=True)
    saved = Q * (D - D // 8)  # by queries of D/8
    print(f'\nX-CLIP : GLSCL, published 220.9 : 1.0 = 221; counted by one rule {xclip / pair:.1f}, '
          f'with GLSCL in Gram form {xclip / gram:.1f}')
    print(f'(with queries of D/8, which its code does not have: {xclip / (pair - saved):.1f} and '
          f'{xclip / (gram - saved):.1f})')
    ours, theirs = (looped(name, *sizes) for name in ('GLSCL', 'X-CLIP'))
    print(f'as released, with what their evaluation loops repeat: X-CLIP : GLSCL {giga(theirs)} : '
          f'{giga(ours)} = {theirs / ours:.2f}')
