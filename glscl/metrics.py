"""Ranks, recalls and their intervals; QB-Norm and dual softmax. Worked out by hand in notebooks/05_evaluation."""
import numpy as np
import torch

KS = (1, 5, 10, 50)


def ranks(S, target, ties='mean'):
    """Rank of the wanted item of each query, from 1.

    S [N, M] scores, target [N] int; returns float64 [N]. ties: `mean` of the best and the worst rank that tied scores allow.
    `released`: as the released code counts them, where every item with the wanted one's score is a query of its own: a query
    with k equal scores gives k ranks, and the answer is longer than N. NaN raises ValueError (there, such rows vanish)."""
    S, target = torch.as_tensor(S), torch.as_tensor(target).long()
    if ties not in ('mean', 'released'):
        raise ValueError(f'ties is "mean" or "released", not {ties!r}')
    _no_nan(S)
    own = S.gather(1, target[:, None])
    better, equal = (S > own).sum(1), (S == own).sum(1)
    if ties == 'released':
        return np.concatenate([np.arange(b + 1, b + e + 1.0) for b, e in zip(better.tolist(), equal.tolist())])
    return (better + (equal + 1) / 2).double().numpy()


def _no_nan(S, what='scores'):
    if S.isnan().any():
        raise ValueError(f'{int(S.isnan().sum())} of {S.numel()} {what} are NaN: a rank would mean nothing')


def summary(rank, resamples=1000, seed=0):
    """R@1, R@5, R@10, R@50 in percent, MdR, MnR, and each recall's 95 % bootstrap interval over queries (`R@1 interval`)."""
    rank = np.asarray(rank)
    draws = np.random.default_rng(seed).integers(len(rank), size=(resamples, len(rank)))
    out = {}
    for k in KS:
        hit = (rank <= k) * 100.0
        out[f'R@{k}'] = float(hit.mean())
        out[f'R@{k} interval'] = [float(x) for x in np.percentile(hit[draws].mean(1), [2.5, 97.5])]
    return {**out, 'MdR': float(np.median(rank)), 'MnR': float(rank.mean()), 'queries': len(rank)}


def retrieval_metrics(S, text_to_video=None, resamples=1000, seed=0, ties='mean'):
    """Both directions of a similarity matrix S [T, V].

    text_to_video [T] int: the video of each text (default: text i, video i). With several texts a video, text to video
    counts every text; video to text takes a video's score for a group of texts as the maximum over the group
    (CLIP4Clip's rule). ties: see `ranks`; under `released`, `queries` is the number of ranks counted, the denominator there.
    Returns {'t2v': summary, 'v2t': summary}."""
    return {way: summary(rank, resamples, seed) for way, rank in both_ranks(S, text_to_video, ties).items()}


def both_ranks(S, text_to_video=None, ties='mean'):
    """The ranks of both directions by the rules of `retrieval_metrics`: {'t2v': float64 [texts], 'v2t': float64 [videos]}."""
    S = torch.as_tensor(S).detach().cpu()
    owner = owners(S, text_to_video)
    V = S.shape[1]
    _no_nan(S)
    group = torch.full((V, V), float('-inf'), dtype=torch.promote_types(S.dtype, torch.float32))  # [texts of video i, video j]
    group.scatter_reduce_(0, owner[:, None].expand(-1, V), S.to(group.dtype), 'amax')
    told = owner.unique()                                                           # a video without a text is no query
    return dict(t2v=ranks(S, owner, ties), v2t=ranks(group[told].T[told], torch.arange(len(told)), ties))


def whole(rank):
    """Ranks as a list to keep: whole ones as int, those of ties as they are."""
    return [int(r) if r == int(r) else float(r) for r in rank]


def owners(S, text_to_video=None):
    """text_to_video as int64 [T], checked against S [T, V]; without it, text i belongs to video i."""
    if S.ndim != 2 or not S.numel():
        raise ValueError(f'a similarity matrix has a row a text and a column a video; this one has shape {list(S.shape)}')
    T, V = S.shape
    if text_to_video is None:
        if T != V:
            raise ValueError(f'{T} texts and {V} videos: say which video each text belongs to (text_to_video)')
        return torch.arange(T)
    owner = torch.as_tensor(text_to_video).long().cpu()
    if owner.shape != (T,) or owner.min() < 0 or owner.max() >= V:
        raise ValueError(f'text_to_video must give for each of the {T} texts a video from 0 to {V - 1}')
    return owner


# ---- post-processing: needs all queries at once, so it is reported apart from the plain numbers

def activated(bank, k=1, theta=3):
    """QB-Norm's activation set: items in the top k of at least theta bank queries. bank [N, M]; returns sorted int64."""
    bank = torch.as_tensor(bank)
    found = bank.topk(min(k, bank.shape[1]), 1).indices.flatten()
    return (torch.bincount(found, minlength=bank.shape[1]) >= theta).nonzero().flatten()


def qb_norm(S, bank, k=1, beta=70.0, theta=3):
    """QB-Norm by the dynamic inverted softmax: items that many queries are drawn to (hubs) are held back.

    S [N, M]: rows are queries, so S.T for video to text; bank [B, M]: scores of training queries with the same items.
    Rows whose best item is `activated` become exp(beta S) / sum_b exp(beta bank[b]); the others stay as they are. theta is 3
    for text to video and 5 for video to text in the released code, which has the step switched off. Returns a float64 copy:
    float32 would overflow in the sum and take low scores down to equal zeros."""
    S, bank = (torch.as_tensor(x).detach().cpu().double() for x in (S, bank))
    if S.ndim != 2 or bank.ndim != 2 or S.shape[1] != bank.shape[1] or not bank.numel():
        raise ValueError(f'the bank holds scores of training queries with the same items: S is {list(S.shape)}, '
                         f'the bank {list(bank.shape)}')
    _no_nan(S)
    _no_nan(bank, 'bank scores')
    logs = beta * S - (beta * bank).logsumexp(0)
    rows = torch.isin(S.argmax(1), activated(bank, k, theta))
    if rows.any() and logs[rows].abs().max() > 700:                                  # float64 ends at exp(709)
        raise ValueError(f'scores up to {float(S.abs().max()):.3g} are too large for beta {beta}: QB-Norm takes cosines, '
                         f'not logits')
    return torch.where(rows[:, None], logs.exp(), S)


def dual_softmax(S, kappa=100.0):
    """S' = S * softmax over the queries (rows) of kappa S: an item already taken by another query counts for less.

    S [N, M] cosines, rows are queries, so S.T for video to text. Returns a float64 copy. Needs all queries at once."""
    S = torch.as_tensor(S).detach().cpu().double()
    _no_nan(S)
    return S * (kappa * S).softmax(0)


def paired_difference(rank_a, rank_b, k=1, resamples=10000, seed=0):
    """R@k of a minus R@k of b on the same queries, in points: (difference, [low, high] 95 % bootstrap interval).

    An interval that holds 0 means: these queries cannot tell the two apart."""
    delta = ((np.asarray(rank_a) <= k) * 100.0) - ((np.asarray(rank_b) <= k) * 100.0)
    draws = np.random.default_rng(seed).integers(len(delta), size=(resamples, len(delta)))
    return float(delta.mean()), [float(x) for x in np.percentile(delta[draws].mean(1), [2.5, 97.5])]
