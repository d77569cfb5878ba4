"""Ranks, recalls and intervals."""
import json

import numpy as np
import pytest
import reference
import torch

from glscl.metrics import both_ranks, ranks, retrieval_metrics, summary, whole
from glscl.rescoring import activated, dual_softmax, qb_norm

NAMES = {'R1': 'R@1', 'R5': 'R@5', 'R10': 'R@10', 'R50': 'R@50', 'MR': 'MdR', 'MeanR': 'MnR'}  # the released code's, ours


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


def test_ranks_to_keep_give_the_same_numbers():
    S, owners = torch.randint(2, (6, 3), generator=torch.Generator().manual_seed(1)).float(), [0, 0, 1, 2, 2, 1]
    kept = {way: whole(rank) for way, rank in both_ranks(S, owners).items()}
    assert {way: summary(rank) for way, rank in json.loads(json.dumps(kept)).items()} == retrieval_metrics(S, owners)
    assert {type(r) for r in kept['t2v']} == {int, float} and all(isinstance(r, int) == (r % 1 == 0) for r in kept['t2v'])


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


# ---- as the released code counts

@pytest.fixture(scope='module')
def recorded(shared):
    """(matrices by name, {name/direction: the released code's metrics or error})"""
    folder = shared / 'fixtures'
    return dict(np.load(folder / 'metrics.npz')), json.loads((folder / 'metrics.json').read_text(encoding='utf-8'))


def same(ours, theirs, **tolerance):
    for key, name in NAMES.items():
        assert ours[name] == pytest.approx(theirs[key], **tolerance), name


def test_released_ties_are_the_released_codes(recorded):
    matrices, expected = recorded
    checked = 0
    for name, S in ((name.removeprefix('mat/'), S) for name, S in matrices.items() if name.startswith('mat/')):
        for direction, X in (('t2v', S), ('v2t', S.T)):
            theirs = expected[f'{name}/{direction}']
            if 'error' in theirs or np.isnan(X).any():  # float64, and more queries than items: they fail there, and not here
                continue
            rank = ranks(X.copy(), np.arange(len(X)), ties='released')
            assert (rank - 1).tolist() == theirs['cols'] and len(rank) == theirs['n_counted']
            same(summary(rank), theirs)
            if S.shape[0] == S.shape[1]:
                same(retrieval_metrics(S, ties='released')[direction], theirs)
            checked += 1
    assert checked == 10
    assert retrieval_metrics(matrices['mat/random_f64_60'])['t2v']['queries'] == 60
    with pytest.raises(ValueError, match='of 25 scores are NaN'):
        retrieval_metrics(matrices['mat/nan_row_f32_5'], ties='released')
    with pytest.raises(ValueError, match='20 texts and 30 videos.*text_to_video'):
        retrieval_metrics(matrices['mat/wide_f32_20x30'], ties='released')


@pytest.mark.parametrize('name, ties', [('multi_a', 'mean'), ('multi_a', 'released'), ('multi_b', 'mean'),
                                        ('multi_b', 'released'), ('multi_ties', 'released')])
def test_several_captions_are_the_released_functions(recorded, name, ties):
    matrices, expected = recorded
    owners = np.repeat(np.arange(len(matrices[f'{name}/lens'])), matrices[f'{name}/lens'])
    S = matrices[f'{name}/sim_flat']
    m = retrieval_metrics(S, owners, ties=ties)
    same(m['v2t'], expected[f'{name}/compute_metrics(video_to_text_sim)'])
    theirs = expected[f'{name}/tensor_text_to_video_metrics']
    if name != 'multi_ties':  # there tied ranks hang on the order of an unstable sort
        same(m['t2v'], theirs, rel=1e-6)
    own = S[range(len(S)), owners][:, None]
    best, worst = (S > own).sum(1) + 1, (S >= own).sum(1)
    assert best.mean() - 1e-6 <= theirs['MeanR'] <= worst.mean() + 1e-6


@pytest.mark.parametrize('levels', [1, 3, 1000])
def test_released_ties_are_the_loop(levels):
    S = torch.randint(levels, (7, 9), generator=torch.Generator().manual_seed(levels)).float()
    wanted = [3, 0, 8, 8, 1, 2, 5]
    assert ranks(S, wanted, ties='released').tolist() == reference.released_ranks(S.tolist(), wanted)
    with pytest.raises(ValueError, match='ties'):
        ranks(S, wanted, ties='best')


def test_a_model_that_scores_all_alike_is_rewarded_by_the_released_rule():
    m = retrieval_metrics(torch.zeros(7, 7), ties='released')['t2v']
    assert m['queries'] == 49 and m['R@5'] == pytest.approx(500 / 7)


# ---- QB-Norm and dual softmax

@pytest.mark.parametrize('tag', ['a', 'b', 'c_theta5', 'd_f64'])
def test_qb_norm_is_the_released_codes(shared, tag):
    """Measured: relative error 5e-6 where the reference computed in float32, 9e-15 where in float64."""
    arrays = np.load(shared / 'fixtures/qb_norm.npz')
    S, bank, expected = (arrays[f'{tag}/{name}'] for name in ('test_test', 'train_test', 'normalized'))
    k, beta, theta = arrays[f'{tag}/params_k_beta_theta']
    before = S.copy(), bank.copy()
    ours = qb_norm(S, bank, int(k), beta, theta).numpy()
    assert (S == before[0]).all() and (bank == before[1]).all()  # the released function writes into its input
    assert activated(bank, int(k), theta).tolist() == arrays[f'{tag}/retrieved_videos'].tolist()
    assert np.flatnonzero((ours != S).any(1)).tolist() == arrays[f'{tag}/index_to_normalize'].tolist()
    np.testing.assert_allclose(ours, expected, rtol=1e-12 if S.dtype == np.float64 else 2e-5)


@pytest.mark.parametrize('k, theta', [(1, 1), (1, 3), (2, 4), (1, 99)])
def test_qb_norm_is_the_loop(k, theta):
    S, bank = (torch.rand(n, 5, generator=torch.Generator().manual_seed(n), dtype=torch.float64) for n in (8, 12))
    expected, hubs, rows = reference.qb_norm(S.tolist(), bank.tolist(), k, 20.0, theta)
    assert activated(bank, k, theta).tolist() == hubs
    ours = qb_norm(S, bank, k, 20.0, theta)
    torch.testing.assert_close(ours, torch.tensor(expected, dtype=torch.float64))
    assert (ours != S).any(1).nonzero().flatten().tolist() == rows


def test_qb_norm_holds_where_float32_would_overflow_or_vanish():
    S, bank = torch.tensor([[1.5, 1.4, -1.4, -1.5]]), torch.tensor([[1.5, 1.4, 1.4, 1.4]]).repeat(50, 1)
    assert not (70 * bank).exp().sum(0).isfinite().all() and (70 * (S - bank)).exp()[0, -1] == 0
    ours = qb_norm(S, bank)
    assert ours[0, 1] > ours[0, 2] > ours[0, 3] > 0
    torch.testing.assert_close(ours.log(), (70 * (S - bank[:1]) - np.log(50)).double(), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match='too large for beta 70'):
        qb_norm(100 * S, bank)


def test_qb_norm_refuses_what_does_not_belong_together():
    with pytest.raises(ValueError, match=r'S is \[3, 4\], the bank \[9, 5\]'):
        qb_norm(torch.rand(3, 4), torch.rand(9, 5))
    with pytest.raises(ValueError, match='1 of 20 bank scores are NaN'):
        qb_norm(torch.rand(3, 4), torch.rand(5, 4).index_put((torch.tensor(0), torch.tensor(1)), torch.tensor(float('nan'))))


@pytest.mark.parametrize('kappa', [1.0, 100.0])
def test_dual_softmax_is_the_loop_and_leaves_its_input(kappa):
    S = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) - 0.3
    before = S.clone()
    expected = torch.tensor(reference.dual_softmax(S.tolist(), kappa), dtype=torch.float64)
    torch.testing.assert_close(dual_softmax(S, kappa), expected)
    assert torch.equal(S, before)
    torch.testing.assert_close(dual_softmax(torch.full((5, 2), 900.0)), torch.full((5, 2), 180.0, dtype=torch.float64))


def test_dual_softmax_frees_a_video_that_another_text_has_taken():
    S = torch.tensor([[0.9, 0.1], [0.6, 0.55]])  # both texts like the first video, the first text more
    assert ranks(S, [0, 1]).tolist() == [1, 2] and ranks(dual_softmax(S), [0, 1]).tolist() == [1, 1]


@pytest.mark.parametrize('call', [
    lambda S: ranks(S, [0, 1]), lambda S: ranks(S, [0, 1, 7]), lambda S: ranks(S[0], [0]), lambda S: ranks(S + 1j, [0, 1, 2]),
    lambda S: retrieval_metrics(S, resamples=0), lambda S: retrieval_metrics(S[:0]),
    lambda S: qb_norm(S, S, k=0), lambda S: qb_norm(S, S, theta=0), lambda S: qb_norm(S, S, beta=float('nan')),
    lambda S: qb_norm(S, S, beta=-1), lambda S: dual_softmax(S, 0), lambda S: dual_softmax(S, float('inf')),
    lambda S: dual_softmax(S[0]), lambda S: dual_softmax(S / 0)])
def test_what_has_no_meaning_is_refused(call):
    with pytest.raises(ValueError):
        call(torch.rand(3, 3))
