"""How sure a difference between runs is: queries and seeds drawn anew, together."""
from functools import lru_cache

import numpy as np
import pandas as pd

DRAWS = 5000
RECALLS = tuple((direction, k) for direction in ('t2v', 'v2t') for k in (1, 5, 10))


def hits(runs, k=1, direction='t2v', owner=None):
    """Runs of one setting (their `ranks`) -> (hits within k, summed over the captions of each video [S, V], captions [V]).

    owner [T] int: the video of each caption; captions of one video are no independent queries, so that they are drawn
    together. Without it, and video to text, each query stands for itself."""
    found = np.array([r['ranks'][direction] for r in runs]) <= k                     # [S, queries]
    if owner is None or direction == 'v2t':
        return found.astype(float), np.ones(found.shape[1])
    owner = np.asarray(owner)
    sums = np.stack([np.bincount(owner, row) for row in found.astype(float)])
    return sums, np.bincount(owner).astype(float)


def resampled(sums, captions, videos, generator):
    """R@k in percent, [draws]: videos as drawn in `videos` (times [draws, V]), seeds drawn here."""
    seeds = generator.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), len(videos)) / len(sums)
    drawn = 100 * np.einsum('bv,bv->b', seeds @ sums, videos) / (videos @ captions)
    return drawn.round(9)  # what is equal stays equal, whichever way a machine sums


def recall(runs, k=1, direction='t2v', owner=None):
    """dict(mean, sd, low, high): R@k in percent over the seeds, with the 95 % interval over seeds and queries."""
    sums, captions = hits(runs, k, direction, owner)
    each = 100 * sums.sum(1) / captions.sum()
    low, high = np.percentile(resampled(sums, captions, _videos(len(captions)), np.random.default_rng(1)), [2.5, 97.5])
    return dict(mean=float(each.mean()), sd=float(each.std(ddof=1)) if len(each) > 1 else 0.0, low=float(low), high=float(high))


def difference(runs, others, k=1, direction='t2v', owner=None):
    """dict(difference, low, high, p, reading): R@k of `runs` minus that of `others`, in points, with its 95 % interval.

    Paired: both answer the same queries, and a seed gives both the same order of captions (and the same start where their parts
    are the same), so that queries and seeds are drawn for both at once. Seeds that only one of them has are left out; none in
    common raises ValueError. p, two-sided: twice the share of draws on the rarer side of 0."""
    mine, theirs = ({r.get('seed', i): r for i, r in enumerate(rs)} for rs in (runs, others))
    if not (seeds := [seed for seed in mine if seed in theirs]):
        raise ValueError(f'no seed in common: {list(mine)} and {list(theirs)}; train both with the same seeds')
    (a, captions), (b, _) = (hits([rs[seed] for seed in seeds], k, direction, owner) for rs in (mine, theirs))
    drawn = resampled(a - b, captions, _videos(len(captions)), np.random.default_rng(1))
    low, high = np.percentile(drawn, [2.5, 97.5])
    p = min(1, 2 * (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (1 + DRAWS))  # never 0: DRAWS draws cannot tell
    value = 100 * (a - b).sum(1).mean() / captions.sum()
    reading = 'not significant' if low <= 0 <= high else 'higher' if value > 0 else 'lower'
    return dict(difference=float(value), low=float(low), high=float(high), p=float(p), reading=reading)


@lru_cache(4)
def _videos(n):
    """How often each of n videos is drawn: [draws, n], the same for all that is compared"""
    return np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), DRAWS).astype(float)


def holm(p):
    """p-values of several tests -> p-values that keep the chance of any false alarm among them (Holm, 1979)."""
    p = np.asarray(p, float)
    order = p.argsort(kind='stable')
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def differences(groups, baseline, owner=None, k=1, direction='t2v'):
    """Each of `groups` {name: runs} against groups[baseline]: a DataFrame by name with what `difference` tells and
    `after_holm`, the reading that is left when so many are tested at once."""
    rows = {name: difference(mine, groups[baseline], k, direction, owner) for name, mine in groups.items() if name != baseline}
    found = pd.DataFrame.from_dict(rows, 'index', columns=['difference', 'low', 'high', 'p', 'reading'])
    return found.assign(after_holm=found['reading'].where(holm(found['p']) < 0.05, 'not significant'))


def table(groups, baseline=None, owner=None, recalls=RECALLS):
    """`groups` {name: runs} as one row each, for people: a DataFrame by name; mean ± standard deviation over the seeds, and,
    where `baseline` is one of them, t2v R@1 beside the baseline's."""
    rows = {}
    for name, mine in groups.items():
        rows[name] = {'seeds': len(mine)}
        for direction, k in recalls:
            r = recall(mine, k, direction, owner)
            rows[name][f'{direction} R@{k}'] = f'{r["mean"]:.1f} ± {r["sd"]:.1f}'
    shown = pd.DataFrame.from_dict(rows, 'index')
    if baseline in groups:
        d = differences(groups, baseline, owner)
        shown[f't2v R@1 − {baseline}'] = pd.Series(
            {name: f'{r.difference:+.1f} ({r.low:.1f} to {r.high:.1f})' for name, r in d.iterrows()}, dtype=object)
        shown[['reading', 'after Holm']] = d[['reading', 'after_holm']].reindex(shown.index)
    return shown.fillna('–')
