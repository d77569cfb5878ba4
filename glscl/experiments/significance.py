"""How sure a number of a few runs is: their queries and seeds are drawn anew, together.

Beside the intervals over queries of `metrics.summary` this is the only bootstrap. A run is a dict
with its `ranks` {'t2v': [queries], 'v2t': [queries]}, and its `seed` where runs are paired."""
from functools import lru_cache

import numpy as np
import pandas as pd

DRAWS = 5000


def hits(runs, k=1, direction='t2v', owner=None):
    """What the S runs of one setting got right.

    owner [T] int: the video of each caption. Captions of one video are no independent queries, so
    that they are drawn together. Without it, and video to text, each query stands for itself.
    Returns (hits within k, summed over the captions of each video [S, V], captions [V])."""
    found = np.array([run['ranks'][direction] for run in runs]) <= k  # [S, queries]
    if owner is None or direction == 'v2t':
        return found.astype(float), np.ones(found.shape[1])
    owner = np.asarray(owner)
    sums = np.stack([np.bincount(owner, of_run) for of_run in found.astype(float)])
    return sums, np.bincount(owner).astype(float)


def recall(runs, k=1, direction='t2v', owner=None):
    """R@k in percent over the seeds, with its 95 % interval over seeds and queries.

    Returns dict(mean, sd, low, high); owner: see `hits`."""
    sums, captions = hits(runs, k, direction, owner)
    each = 100 * sums.sum(1) / captions.sum()  # [S]
    low, high = np.percentile(_resampled(sums, captions), [2.5, 97.5])
    sd = each.std(ddof=1) if len(each) > 1 else 0
    return dict(mean=float(each.mean()), sd=float(sd), low=float(low), high=float(high))


def difference(runs, others, k=1, direction='t2v', owner=None):
    """R@k of `runs` minus that of `others`, in points, with its 95 % interval.

    Paired: both answer the same queries, and a seed gives both the same order of captions (and the
    same start where their parts are the same), so that queries and seeds are drawn for both at
    once. Seeds that only one of them has are left out; none in common raises ValueError.

    Returns dict(difference, low, high, p, reading). p, two-sided, is twice the share of draws on
    the rarer side of 0; reading is "higher", "lower" or "not significant"."""
    first = {run.get('seed', place): run for place, run in enumerate(runs)}
    second = {run.get('seed', place): run for place, run in enumerate(others)}
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        raise ValueError(f'no seed in common: {list(first)} and {list(second)}; '
                         f'train both with the same seeds')
    a, captions = hits([first[seed] for seed in seeds], k, direction, owner)
    b, _ = hits([second[seed] for seed in seeds], k, direction, owner)
    drawn = _resampled(a - b, captions)
    low, high = np.percentile(drawn, [2.5, 97.5])
    rarer = min((drawn <= 0).sum(), (drawn >= 0).sum())
    p = min(1, 2 * (1 + rarer) / (1 + DRAWS))  # never 0: that many draws cannot tell
    value = 100 * (a - b).sum(1).mean() / captions.sum()
    reading = 'higher' if value > 0 else 'lower'
    if low <= 0 <= high:
        reading = 'not significant'
    return dict(difference=float(value), low=float(low), high=float(high), p=float(p),
                reading=reading)


def _resampled(sums, captions):
    """R@k in percent of each draw of videos and seeds: sums [S, V], captions [V] -> [draws]."""
    videos = _drawn_videos(len(captions))
    share = np.full(len(sums), 1 / len(sums))
    seeds = np.random.default_rng(1).multinomial(len(sums), share, DRAWS) / len(sums)
    drawn = 100 * np.einsum('bv,bv->b', seeds @ sums, videos) / (videos @ captions)
    return drawn.round(9)  # what is equal stays equal, whichever way a machine sums


@lru_cache(4)
def _drawn_videos(n):
    """How often each of n videos is drawn, the same for all that is compared: [draws, n]."""
    generator = np.random.default_rng(0)
    return generator.multinomial(n, np.full(n, 1 / n), DRAWS).astype(float)


def holm(p):
    """The p-values of several tests, corrected so that they keep the chance of any false alarm
    among them (Holm, 1979)."""
    p = np.asarray(p, float)
    order = p.argsort(kind='stable')
    adjusted = np.empty(len(p))
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted[order] = np.minimum(1, steps)
    return adjusted


def differences(groups, baseline, owner=None, k=1, direction='t2v'):
    """Each group of runs against the baseline's.

    groups {name: runs}. Returns a DataFrame by name with what `difference` tells, and `after_holm`:
    the reading that is left when so many are tested at once."""
    rows = {name: difference(runs, groups[baseline], k, direction, owner)
            for name, runs in groups.items() if name != baseline}
    columns = ['difference', 'low', 'high', 'p', 'reading']
    found = pd.DataFrame.from_dict(rows, 'index', columns=columns)
    stands = holm(found['p']) < 0.05
    return found.assign(after_holm=found['reading'].where(stands, 'not significant'))
