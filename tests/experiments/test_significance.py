"""Intervals and paired differences over seeds and queries, against what must come out."""
import itertools

import numpy as np
import pytest

from glscl.experiments import significance


def runs(*rows):
    return [dict(ranks=dict(t2v=list(row), v2t=list(row))) for row in rows]


def test_the_mean_and_spread_are_those_of_the_seeds():
    r = significance.recall(runs([1, 1, 3, 9], [1, 2, 2, 9]))
    assert (r['mean'], r['sd']) == (37.5, pytest.approx(np.std([50, 25], ddof=1)))
    assert r['low'] <= 37.5 <= r['high']
    assert significance.recall(runs([1, 1, 3, 9], [1, 2, 2, 9]), k=5)['mean'] == 75


def test_a_single_run_has_the_interval_of_its_queries():
    rank = np.random.default_rng(1).integers(1, 4, 400)
    r, p = significance.recall(runs(rank)), np.mean(rank == 1)
    half = 196 * np.sqrt(p * (1 - p) / 400)
    assert (r['low'], r['high']) == (pytest.approx(100 * p - half, abs=0.8), pytest.approx(100 * p + half, abs=0.8))


def test_captions_of_one_video_are_drawn_together():
    rank = np.repeat(np.random.default_rng(1).integers(1, 3, 100), 4)  # four captions that agree tell no more than one
    alone, together = (significance.recall(runs(rank), owner=owner) for owner in (None, np.repeat(np.arange(100), 4)))
    assert together['mean'] == alone['mean']
    assert together['high'] - together['low'] == pytest.approx(2 * (alone['high'] - alone['low']), rel=0.15)


def test_seeds_that_scatter_widen_the_interval():
    rank = np.random.default_rng(1).integers(1, 3, 400)
    better = np.where(np.arange(400) < 120, 1, rank)
    same, apart = significance.recall(runs(rank, rank)), significance.recall(runs(rank, better))
    assert apart['high'] - apart['low'] > 1.5 * (same['high'] - same['low'])


def test_a_difference_is_paired():
    rank = np.random.default_rng(1).integers(1, 3, 400)
    worse = rank.copy()
    worse[:20] = 9  # ten or so hits lost, on the same queries
    d = significance.difference(runs(worse, worse), runs(rank, rank))
    assert d['difference'] == pytest.approx(100 * (np.mean(worse == 1) - np.mean(rank == 1))) and d['reading'] == 'lower'
    assert significance.difference(runs(rank), runs(rank))['reading'] == 'not significant'
    other = np.random.default_rng(2).integers(1, 3, 400)
    assert significance.difference(runs(other), runs(rank))['reading'] == 'not significant'


def test_interval_and_p_are_those_of_all_draws_that_there_are():
    a, b = np.array([[1, 1, 0, 1], [1, 0, 1, 1]]), np.array([[1, 0, 0, 0], [0, 0, 1, 1]])  # hits [S, V]
    every = [100 * (a[list(s)][:, list(v)].mean() - b[list(s)][:, list(v)].mean())
             for v in itertools.product(range(4), repeat=4) for s in itertools.product(range(2), repeat=2)]
    d = significance.difference(runs(*(2 - a)), runs(*(2 - b)))  # rank 1 is a hit, 2 is none
    assert d['difference'] == 37.5
    assert (d['low'], d['high']) == pytest.approx(tuple(np.percentile(every, [2.5, 97.5])), abs=0.01)
    assert d['p'] == pytest.approx(2 * np.mean(np.array(every) <= 1e-9), abs=0.02)
    assert significance.difference(runs(*(2 - b)), runs(*(2 - a)))['p'] == pytest.approx(d['p'], abs=0.02)


def test_p_keeps_its_word_where_there_is_nothing_to_find():
    generator = np.random.default_rng(0)
    p = [significance.difference(runs(*generator.integers(1, 3, (3, 200))), runs(*generator.integers(1, 3, (3, 200))))['p']
         for _ in range(200)]
    assert np.mean(np.array(p) < 0.05) < 0.09 and np.mean(np.array(p) < 0.5) > 0.3
    assert significance.difference(runs([1, 2]), runs([1, 2]))['p'] == 1


def test_holm_by_hand():
    # sorted 0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.04, and none below the one before it
    assert significance.holm([0.03, 0.01, 0.04, 0.02]).tolist() == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert significance.holm([0.6, 0.7]).tolist() == [1, 1] and significance.holm([]).tolist() == []


def test_one_finding_among_many_tests_must_be_stronger():
    rank = np.random.default_rng(1).integers(1, 3, 400)
    few, many = rank.copy(), rank.copy()
    few[np.flatnonzero(rank == 1)[:6]] = 9   # p about 0.01
    many[np.flatnonzero(rank == 1)[:90]] = 9
    groups = {'base': runs(rank), 'few': runs(few), 'many': runs(many)}
    alone = significance.differences(groups, 'base')
    assert alone['after_holm'].to_dict() == dict(few='lower', many='lower') and 0 < alone['p']['few'] < 0.03
    crowd = significance.differences({**groups, **{f'same {i}': runs(rank) for i in range(30)}}, 'base')
    assert crowd['reading'].to_dict() == {'few': 'lower', 'many': 'lower', **{f'same {i}': 'not significant' for i in range(30)}}
    assert crowd['after_holm'][crowd['after_holm'] != 'not significant'].to_dict() == dict(many='lower')


def test_only_seeds_that_both_have_are_compared():
    rank = np.random.default_rng(1).integers(1, 3, 400)
    mine = [dict(seed=s, **r) for s, r in zip((0, 1), runs(rank, rank))]
    theirs = [dict(seed=s, **r) for s, r in zip((2, 1, 0), runs(np.ones(400), rank, rank))]
    assert significance.difference(mine, theirs) == significance.difference(mine, mine)
    with pytest.raises(ValueError, match=r'no seed in common: \[0\] and \[2\]'):
        significance.difference(mine[:1], theirs[:1])
