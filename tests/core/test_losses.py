"""The three losses against plain loops."""
import pytest
import reference
import torch
from torch.nn.functional import normalize

from glscl.losses import contrastive, inter_consistency, intra_diversity


def concepts(B, Q, D=6, near=None):
    c = torch.randn(B, Q, D, dtype=torch.float64)
    return normalize(c if near is None else near + 0.5 * c, dim=-1)


def close(ours, theirs):
    torch.testing.assert_close(float(ours), theirs, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize('B', [1, 2, 7])
@pytest.mark.parametrize('scale', [1.0, 14.3, 100.0])
def test_contrastive_is_the_loop(B, scale):
    S = 2 * torch.rand(B, B) - 1
    close(contrastive(S, torch.tensor(scale)), reference.contrastive(S, scale))


def test_captions_of_one_video_are_all_positives():
    S, ids = torch.rand(5, 5), torch.tensor([4, 9, 4, 2, 4])
    close(contrastive(S, 10.0, ids), reference.contrastive(S, 10.0, ids))
    assert abs(float(contrastive(S, 10.0, ids)) - float(contrastive(S, 10.0))) > 0.1
    close(contrastive(S, 10.0, torch.tensor([8, 3, 5, 1, 0])), reference.contrastive(S, 10.0))  # all different: as without
    # Two captions of one video, both found: the loss is at its floor, log 2, and pushes neither away.
    S = torch.zeros(4, 4, requires_grad=True)
    block = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2))
    torch.testing.assert_close(contrastive(block + S, 100.0, torch.tensor([0, 0, 1, 1])), torch.tensor(2.0).log())
    grad = torch.autograd.grad(contrastive(block + S, 100.0, torch.tensor([0, 0, 1, 1])), S)[0]
    assert grad.abs().max() < 1e-6


def test_contrastive_refuses_what_has_no_diagonal():
    with pytest.raises(ValueError, match=r'\[2, 3\]'):
        contrastive(torch.rand(2, 3), 1.0)


@pytest.mark.parametrize('released', [False, True])
@pytest.mark.parametrize('B, Q', [(1, 1), (5, 3), (3, 8)])
def test_inter_consistency_is_the_loop(B, Q, released):
    c_t = concepts(B, Q)
    c_v = concepts(B, Q, near=c_t)
    close(inter_consistency(c_v, c_t, 0.3, 0.75, released), reference.inter_consistency(c_v, c_t, 0.3, 0.75, released))


def test_batch_size_changes_the_released_consistency_only():
    c_t = concepts(2, 4)
    c_v = concepts(2, 4, near=c_t)
    again = c_v.repeat(3, 1, 1), c_t.repeat(3, 1, 1)
    close(inter_consistency(*again), float(inter_consistency(c_v, c_t)))
    assert abs(float(inter_consistency(*again, released=True)) - float(inter_consistency(c_v, c_t, released=True))) > 1e-3


@pytest.mark.parametrize('B, Q, margin', [(1, 2, 0.1), (4, 3, 0.1), (3, 8, 0.9), (2, 1, 0.1)])
def test_intra_diversity_is_the_loop(B, Q, margin):
    c = concepts(B, Q, near=torch.ones(6))
    c = c * torch.linspace(0.8, 1.2, Q, dtype=torch.float64)[:, None]  # lengths differ, so that M_ii and M_jj do
    expected = reference.intra_diversity(c, 0.7, margin)
    close(intra_diversity(c, 0.7, margin), expected)
    assert expected > 0 or Q == 1
    assert intra_diversity(c.requires_grad_(), 0.7, margin).requires_grad  # also with one query: training goes on


def test_intra_diversity_leaves_orthogonal_concepts_alone():
    assert intra_diversity(torch.eye(4).expand(3, 4, 4), 1.0, 0.1) == 0
    assert intra_diversity(torch.ones(3, 4, 1), 1.0, 0.1) == pytest.approx(0.2)  # all alike: m twice
