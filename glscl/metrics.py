"""Ranks, recalls and their intervals. By hand in notebooks/05_evaluation."""
import numpy as np
import torch

KS = (1, 5, 10, 50)


def ranks(S: torch.Tensor, target: torch.Tensor, ties: str = 'mean') -> np.ndarray:
    """Rank of the wanted item of each query, from 1: float64 [N].

    S [N, M] scores, target [N] int. ties: "mean" of the best and the worst rank that tied scores
    allow; "released": as the released code, where every item with the wanted one's score is a
    query of its own, so that a query with k equal scores gives k ranks and the answer is longer
    than N. NaN raises ValueError (there, such rows vanish)."""
    S = torch.as_tensor(S)
    target = owners(S, target).to(S.device)
    if ties not in ('mean', 'released'):
        raise ValueError(f'ties is "mean" or "released", not {ties!r}')
    refuse_nan(S)
    own = S.gather(1, target[:, None])                                      # [N, 1]
    better, equal = (S > own).sum(1), (S == own).sum(1)                     # [N]; equal counts own
    if ties == 'released':
        pairs = zip(better.tolist(), equal.tolist())
        return np.concatenate([np.arange(b + 1, b + e + 1.0) for b, e in pairs])
    return (better + (equal + 1) / 2).double().numpy()


def refuse_nan(S: torch.Tensor, what: str = 'scores') -> None:
    """ValueError where a score is NaN."""
    if S.isnan().any():
        raise ValueError(f'{int(S.isnan().sum())} of {S.numel()} {what} are NaN: a rank would mean '
                         f'nothing')


def summary(rank: np.ndarray, resamples: int = 1000, seed: int = 0) -> dict:
    """R@1, R@5, R@10, R@50 in percent, MdR, MnR, and each recall's 95 % bootstrap interval over
    queries (`R@1 interval`). rank: [N] from 1."""
    rank = np.asarray(rank)
    out: dict = {}
    for k in KS:
        hit = (rank <= k) * 100.0                                           # [N]
        low, high = np.percentile(bootstrap(hit, resamples, seed), [2.5, 97.5])
        out[f'R@{k}'] = float(hit.mean())
        out[f'R@{k} interval'] = [float(low), float(high)]
    return {**out, 'MdR': float(np.median(rank)), 'MnR': float(rank.mean()), 'queries': len(rank)}


def bootstrap(values: np.ndarray, resamples: int = 1000, seed: int = 0) -> np.ndarray:
    """The mean of `values` [N] drawn anew, with replacement, `resamples` times: [resamples].

    Of a query each: the spread says how the mean would differ had other queries been asked of the
    same model. (Over seeds as well: `experiments.significance`.)"""
    values = np.asarray(values)
    if resamples < 1 or not len(values):
        raise ValueError(f'{resamples} resamples of {len(values)} values are none: take 1 or more')
    draws = np.random.default_rng(seed).integers(len(values), size=(resamples, len(values)))
    return values[draws].mean(1)


def retrieval_metrics(S: torch.Tensor, text_to_video: torch.Tensor | None = None,
                      resamples: int = 1000, seed: int = 0, ties: str = 'mean') -> dict[str, dict]:
    """Both directions of a similarity matrix S [T, V]: {'t2v': summary, 'v2t': summary}.

    text_to_video [T] int: the video of each text (default: text i, video i). With several texts a
    video, text to video counts every text; video to text takes a video's score for a group of
    texts as the maximum over the group (CLIP4Clip's rule; the released branch for this cannot
    run). ties: see `ranks`; under "released", `queries` is the number of ranks counted, the
    denominator there. Shapes that do not fit and NaN raise ValueError."""
    every = both_ranks(S, text_to_video, ties)
    return {way: summary(rank, resamples, seed) for way, rank in every.items()}


def both_ranks(S, text_to_video=None, ties='mean'):
    """The ranks that `retrieval_metrics` counts, float64: {'t2v': [texts], 'v2t': [videos]}."""
    S = torch.as_tensor(S).detach().cpu()
    owner = owners(S, text_to_video)
    refuse_nan(S)
    V = S.shape[1]
    dtype = torch.promote_types(S.dtype, torch.float32)
    # Video to text with several captions a video: the best of a video's captions stands for all.
    best = torch.full((V, V), float('-inf'), dtype=dtype)  # [texts of video i, video j]
    best.scatter_reduce_(0, owner[:, None].expand(-1, V), S.to(dtype), 'amax')
    asked = owner.unique()                                 # a video without a text is no query
    v2t = ranks(best[asked].T[asked], torch.arange(len(asked)), ties)
    return dict(t2v=ranks(S, owner, ties), v2t=v2t)


def whole(rank: np.ndarray) -> list[int | float]:
    """Ranks as a list for JSON: whole ones as int, those of ties as they are."""
    return [int(r) if r == int(r) else float(r) for r in rank]


def owners(S: torch.Tensor, text_to_video: torch.Tensor | None = None) -> torch.Tensor:
    """text_to_video as int64 [T], checked against S [T, V]; without it, text i has video i."""
    if S.ndim != 2 or not S.numel() or S.is_complex():
        raise ValueError(f'a similarity matrix has a row a text and a column a video; this one has '
                         f'shape {list(S.shape)}')
    T, V = S.shape
    if text_to_video is None:
        if T != V:
            raise ValueError(f'{T} texts and {V} videos: say which video each text belongs to '
                             f'(text_to_video)')
        return torch.arange(T)
    owner = torch.as_tensor(text_to_video).long().cpu()
    if owner.shape != (T,) or owner.min() < 0 or owner.max() >= V:
        raise ValueError(f'text_to_video must give for each of the {T} texts a video from 0 to '
                         f'{V - 1}')
    return owner
