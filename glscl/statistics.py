"""How sure a difference between runs is: queries and seeds drawn anew, together."""
import numpy as np

DRAWS = 5000


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
    return 100 * ((seeds @ sums) * videos).sum(1) / (videos @ captions)


def recall(runs, k=1, direction='t2v', owner=None):
    """dict(mean, sd, low, high): R@k in percent over the seeds, with the 95 % interval over seeds and queries."""
    sums, captions = hits(runs, k, direction, owner)
    each, generator = 100 * sums.sum(1) / captions.sum(), np.random.default_rng(0)
    low, high = np.percentile(resampled(sums, captions, _videos(len(captions), generator), generator), [2.5, 97.5])
    return dict(mean=float(each.mean()), sd=float(each.std(ddof=1)) if len(each) > 1 else 0.0, low=float(low), high=float(high))


def difference(runs, others, k=1, direction='t2v', owner=None):
    """dict(difference, low, high, reading): R@k of `runs` minus that of `others`, in points, with its 95 % interval.

    Paired: both answer the same queries, which are drawn for both at once; seeds are drawn for each apart."""
    a, b = hits(runs, k, direction, owner), hits(others, k, direction, owner)
    generator = np.random.default_rng(0)
    videos = _videos(len(a[1]), generator)
    low, high = np.percentile(resampled(*a, videos, generator) - resampled(*b, videos, generator), [2.5, 97.5])
    value = 100 * (a[0].sum(1).mean() - b[0].sum(1).mean()) / a[1].sum()
    reading = 'not significant' if low <= 0 <= high else 'higher' if value > 0 else 'lower'
    return dict(difference=float(value), low=float(low), high=float(high), reading=reading)


def _videos(n, generator):
    """How often each of n videos is drawn: [draws, n]"""
    return generator.multinomial(n, np.full(n, 1 / n), DRAWS).astype(float)
