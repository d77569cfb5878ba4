"""Ranks, recalls and their intervals (SPEC 6)."""
import numpy as np
import torch

KS = (1, 5, 10, 50)


def ranks(S, target):
    """Rank of the wanted item of each query, from 1; tied scores count by the mean of best and worst rank.

    S [N, M] scores, target [N] int; returns float64 [N]."""
    S, target = torch.as_tensor(S), torch.as_tensor(target)
    if S.isnan().any():
        raise ValueError(f'{int(S.isnan().sum())} of {S.numel()} scores are NaN: a rank would mean nothing')
    own = S.gather(1, target[:, None])
    better, equal = (S > own).sum(1), (S == own).sum(1) - 1
    return (1 + better + equal / 2).double().numpy()


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


def retrieval_metrics(S, text_to_video=None, resamples=1000, seed=0):
    """Both directions of a similarity matrix S [T, V].

    text_to_video [T] int: the video of each text (default: text i, video i). With several texts a video, text to video
    counts every text; video to text takes a video's score for a group of texts as the maximum over the group
    (CLIP4Clip's rule). Returns {'t2v': summary, 'v2t': summary}."""
    S = torch.as_tensor(S).detach().cpu()
    T, V = S.shape
    if text_to_video is None:
        if T != V:
            raise ValueError(f'{T} texts and {V} videos: say which video each text belongs to (text_to_video)')
        text_to_video = torch.arange(T)
    owner = torch.as_tensor(text_to_video).long()
    if len(owner) != T or owner.min() < 0 or owner.max() >= V:
        raise ValueError(f'text_to_video must give for each of the {T} texts a video from 0 to {V - 1}')
    group = torch.full((V, V), float('-inf'), dtype=S.dtype)                        # [texts of video i, video j]
    group.scatter_reduce_(0, owner[:, None].expand(-1, V), S, 'amax')
    told = owner.unique()                                                           # a video without a text is no query
    return dict(t2v=summary(ranks(S, owner), resamples, seed),
                v2t=summary(ranks(group[told].T[told], torch.arange(len(told))), resamples, seed))


def paired_difference(rank_a, rank_b, k=1, resamples=10000, seed=0):
    """R@k of a minus R@k of b on the same queries, in points: (difference, [low, high] 95 % bootstrap interval).

    An interval that holds 0 means: these queries cannot tell the two apart."""
    delta = ((np.asarray(rank_a) <= k) * 100.0) - ((np.asarray(rank_b) <= k) * 100.0)
    draws = np.random.default_rng(seed).integers(len(delta), size=(resamples, len(delta)))
    return float(delta.mean()), [float(x) for x in np.percentile(delta[draws].mean(1), [2.5, 97.5])]
