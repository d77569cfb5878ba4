"""Ranks, recalls and intervals."""
import numpy as np
import pytest
import reference
import torch

from glscl.metrics import paired_difference, ranks, retrieval_metrics, summary


def compare(S, text_to_video):
    ours, theirs = retrieval_metrics(S, torch.tensor(text_to_video)), reference.metrics(S.tolist(), text_to_video)
    for direction in ('t2v', 'v2t'):
        for key, value in theirs[direction].items():
            assert ours[direction][key] == pytest.approx(value), (direction, key)
    return ours


@pytest.mark.parametrize('levels', [2, 5, 1000])
def test_metrics_are_the_loop_with_ties(levels):
    S = torch.randint(levels, (12, 12), generator=torch.Generator().manual_seed(levels)).float()
    compare(S, list(range(12)))
    compare(S, list(np.random.default_rng(0).permutation(12)))


@pytest.mark.parametrize('owners', [[0, 0, 0, 1, 2, 2], [2, 1, 2, 0, 2, 1], [0, 0, 3, 3, 3, 0]])
def test_several_captions_a_video(owners):
    S = torch.rand(6, 4, generator=torch.Generator().manual_seed(sum(owners)))
    m = compare(S, owners)
    assert m['t2v']['queries'] == 6 and m['v2t']['queries'] == len(set(owners))  # a video without a caption asks nothing


def test_ranks_by_hand():
    S = torch.tensor([[0.9, 0.1, 0.9, 0.3], [0.5, 0.5, 0.5, 0.5], [0.1, 0.2, 0.3, 0.4]])
    assert ranks(S, [0, 3, 0]).tolist() == [1.5, 2.5, 4.0]


def test_a_model_that_scores_all_alike_is_not_rewarded():
    m = retrieval_metrics(torch.zeros(7, 7))['t2v']
    assert m['R@1'] == 0 and m['MdR'] == m['MnR'] == 4 and m['queries'] == 7


def test_integers_half_precision_and_infinity_rank_as_they_should():
    assert ranks(torch.tensor([[3, 9, 4]]), [2]).tolist() == [2.0]
    assert ranks(torch.tensor([[1, 2, 3]]).half(), [0]).tolist() == [3.0]
    assert ranks(torch.tensor([[float('-inf'), 0.0]]), [0]).tolist() == [2.0]


@pytest.mark.parametrize('at', [(0, 1), (2, 2)])
def test_a_nan_is_refused_and_counted(at):
    S = torch.rand(3, 3)
    S[at] = float('nan')
    with pytest.raises(ValueError, match='1 of 9 scores are NaN'):
        retrieval_metrics(S)


@pytest.mark.parametrize('owners', [None, [0, 1], [0, 1, 4], [0, -1, 1]])
def test_texts_that_belong_to_no_video_are_refused(owners):
    with pytest.raises(ValueError, match='text_to_video'):
        retrieval_metrics(torch.rand(3, 4), owners)


def test_intervals_hold_the_estimate_and_narrow_with_more_queries():
    rng, width = np.random.default_rng(0), {}
    for n in (50, 800):
        m = summary(rng.integers(1, 20, n))
        for k in (1, 5, 10, 50):
            low, high = m[f'R@{k} interval']
            assert 0 <= low <= m[f'R@{k}'] <= high <= 100
        width[n] = m['R@5 interval'][1] - m['R@5 interval'][0]
    assert 2 < width[50] / width[800] < 8  # about sqrt(16)
    assert summary([1, 1, 1])['R@1 interval'] == [100, 100]
    assert m['R@5 interval'] == pytest.approx([m['R@5'] - 2.9, m['R@5'] + 2.9], abs=0.8)  # 1.96 sqrt(p q / n)


def test_paired_difference_sees_what_is_there():
    a = np.array([1] * 30 + [2] * 70)
    assert paired_difference(a, a) == (0.0, [0.0, 0.0])
    delta, (low, high) = paired_difference(np.ones(100), a)
    assert delta == pytest.approx(70) and 55 < low < 70 < high < 85
    delta, (low, high) = paired_difference(a, a[::-1])  # different queries, as many hits: cannot be told apart
    assert delta == 0 and low < 0 < high
