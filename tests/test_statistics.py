"""Intervals and paired differences over seeds and queries, against what must come out."""
import numpy as np
import pytest

from glscl import statistics


def runs(*rows):
    return [dict(ranks=dict(t2v=list(row), v2t=list(row))) for row in rows]


def test_the_mean_and_spread_are_those_of_the_seeds():
    r = statistics.recall(runs([1, 1, 3, 9], [1, 2, 2, 9]))
    assert (r['mean'], r['sd']) == (37.5, pytest.approx(np.std([50, 25], ddof=1)))
    assert r['low'] <= 37.5 <= r['high']
    assert statistics.recall(runs([1, 1, 3, 9], [1, 2, 2, 9]), k=5)['mean'] == 75


def test_a_single_run_has_the_interval_of_its_queries():
    rank = np.random.default_rng(1).integers(1, 4, 400)
    r, p = statistics.recall(runs(rank)), np.mean(rank == 1)
    half = 196 * np.sqrt(p * (1 - p) / 400)
    assert (r['low'], r['high']) == (pytest.approx(100 * p - half, abs=0.8), pytest.approx(100 * p + half, abs=0.8))


def test_captions_of_one_video_are_drawn_together():
    rank = np.repeat(np.random.default_rng(1).integers(1, 3, 100), 4)  # four captions that agree tell no more than one
    alone, together = (statistics.recall(runs(rank), owner=owner) for owner in (None, np.repeat(np.arange(100), 4)))
    assert together['mean'] == alone['mean']
    assert together['high'] - together['low'] == pytest.approx(2 * (alone['high'] - alone['low']), rel=0.15)


def test_seeds_that_scatter_widen_the_interval():
    rank = np.random.default_rng(1).integers(1, 3, 400)
    better = np.where(np.arange(400) < 120, 1, rank)
    same, apart = statistics.recall(runs(rank, rank)), statistics.recall(runs(rank, better))
    assert apart['high'] - apart['low'] > 1.5 * (same['high'] - same['low'])


def test_a_difference_is_paired():
    rank = np.random.default_rng(1).integers(1, 3, 400)
    worse = rank.copy()
    worse[:20] = 9  # ten or so hits lost, on the same queries
    d = statistics.difference(runs(worse, worse), runs(rank, rank))
    assert d['difference'] == pytest.approx(100 * (np.mean(worse == 1) - np.mean(rank == 1))) and d['reading'] == 'lower'
    assert statistics.difference(runs(rank), runs(rank))['reading'] == 'not significant'
    other = np.random.default_rng(2).integers(1, 3, 400)
    assert statistics.difference(runs(other), runs(rank))['reading'] == 'not significant'
