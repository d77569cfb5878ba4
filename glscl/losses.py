"""The paper's three losses: contrastive, inter-consistency (ICL) and intra-diversity (IDL); by hand
in notebooks/03_losses. The released code calls the second "Intra_Consistency" and the third
"Inter_Diversity"; here they have the paper's names."""
import torch
import torch.nn.functional as F
from torch import Tensor


def contrastive(S: Tensor, scale: Tensor | float, video_ids: Tensor | None = None) -> Tensor:
    """L_nce = 1/2 [ CE_rows(s S) + CE_cols(s S) ], positives on the diagonal.

    S [B, B]; scale s, a scalar; video_ids [B] int, optional: captions of one video in a batch are
    then all positives, each an equal share of the target (the released code makes them
    negatives). Returns a scalar; an S that is not square raises ValueError."""
    if S.shape[0] != S.shape[1]:
        raise ValueError(f'the contrastive loss pairs text i with video i: S is {list(S.shape)}, '
                         f'not square')
    if video_ids is None:
        target = torch.eye(len(S), device=S.device)
    else:
        same = (video_ids[:, None] == video_ids[None, :]).float()
        target = same / same.sum(1, keepdim=True)                           # [B, B]
    # In float32: with s up to 100 a half-precision softmax would lose all but the first few.
    logits = (S * scale).float()
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def inter_consistency(video_concepts: Tensor, text_concepts: Tensor, weight: float = 0.005,
                      target: float = 0.75, released: bool = False) -> Tensor:
    """ICL: the q-th visual and the q-th textual concept of a pair belong together.

    L_icl = MSE(c_v, c_t) over paired items + beta sum_q ( mean_b <c_v[b,q], c_t[b,q]> - target )^2.
    video_concepts, text_concepts [B, Q, D], L2-normalised; weight is beta. Returns a scalar."""
    B, Q, _ = video_concepts.shape
    cosine = torch.einsum('bqd,bqd->bq', video_concepts, text_concepts)     # [B, Q]
    if released:
        # The released MSE compares the batch's means only, and the sum over the batch is divided
        # by Q in place of B: the target is then a mean cosine of 0.75 Q / B.
        mse = F.mse_loss(video_concepts.mean(0), text_concepts.mean(0))
        together = cosine.sum(0) / Q                                        # [Q]
    else:
        mse = F.mse_loss(video_concepts, text_concepts)
        together = cosine.mean(0)                                           # [Q]
    return mse + weight * ((together - target) ** 2).sum()


def intra_diversity(concepts: Tensor, weight: float = 1e-4, margin: float = 0.1,
                    per_item: bool = False) -> Tensor:
    """IDL of one side: the concepts of an item stay apart.

    M = mean_b c c^T in R^{Q x Q};
    L_idl = alpha [ sum_{i!=j} max(0, m + M_ij - M_ii) + max(0, m + M_ij - M_jj) ] / (Q (Q - 1)).
    concepts [B, Q, D], L2-normalised; weight is alpha. Returns a scalar: 0 for one query, which
    has nothing to be apart from. The released code takes the visual side only. per_item: an M and
    a loss for each item, and their mean."""
    Q = concepts.shape[1]
    if Q == 1:
        return concepts.sum() * 0
    if per_item:
        return torch.vmap(lambda item: intra_diversity(item[None], weight, margin))(concepts).mean()
    M = torch.einsum('bid,bjd->ij', concepts, concepts) / len(concepts)     # [Q, Q]
    # M is symmetric, and its diagonal is 1 where no item is empty: both hinges are then the same,
    # and each entry above 1 - margin is pushed down.
    own = M.diagonal()
    hinge = F.relu(margin + M - own[:, None]) + F.relu(margin + M - own[None, :])
    return weight * (hinge.sum() - hinge.diagonal().sum()) / (Q * (Q - 1))
