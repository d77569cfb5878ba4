"""An exact top-k of scores that come in parts: score and place as one whole number that sorts.

The key of a score at a place is an int64. Upper half: the 32 bits of the float, read as a signed
number. Those of positive floats grow with the value already, those of negative ones fall, so in
these every bit but the sign is flipped. Lower half: 0xffffffff - place, so that of equal scores
the first place has the greatest key. No two keys are equal, therefore the k greatest of the k
greatest of each part are exactly the k greatest of all, in whatever parts the scores come.
"""
import torch

from .. import cuda_scoring

PLACES = 256  # of a text's list in `top_k`
EMPTY = -2 ** 63  # less than the key of any score


def sortable_keys(scores: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """Keys that grow with the score: [T, n] float32, [n] or [T, n] int64 -> [T, n] int64.

    places: where in the gallery each score lies, below 2**32. NaN counts as -inf, -0 as 0."""
    lowest = float('-inf')
    scores = scores.nan_to_num(lowest, float('inf'), lowest) + 0.0  # -0 + 0 is 0
    bits = scores.contiguous().view(torch.int32).long()
    return _flip_negative(bits) << 32 | 0xffffffff - places


def scores_and_places(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What `sortable_keys` was given: [T, n] int64 -> scores float32, places int64, both [T, n].

    EMPTY has the place 0xffffffff, which is beyond every gallery."""
    bits = _flip_negative(keys >> 32)
    return bits.int().view(torch.float32), 0xffffffff - (keys & 0xffffffff)


def merge_top_k(parts, k):
    """The k greatest keys of each row, falling: a list of [T, n_i] -> [T, at most k]."""
    keys = torch.cat(parts, 1)
    return keys.topk(min(k, keys.shape[1]), sorted=True).values


def _flip_negative(bits):
    return torch.where(bits < 0, bits ^ 0x7fffffff, bits)


@torch.no_grad()
def top_k(texts, videos, k, **weights):
    """The k best videos of each text, without S: scores and places [T, k], best first, of equal
    scores the first video, NaN last. For items that `cuda_scoring.can_score`; weights: those of
    `cuda_scoring.score`.

    The first videos are all candidates. After them a text keeps of each block what beats its k-th
    best so far, in a list of PLACES: of a shuffled gallery a fifth of that is expected. A text
    whose list overflows has the block scored in full, at the end, so that the GPU is waited for
    once."""
    V, limit = len(videos), cuda_scoring.block_size(texts, videos)
    seen, overflows = min(V, max(PLACES, k)), []
    best = _best_of_all(texts, videos[:seen], k, 0, weights)
    while seen < V:
        n = max(1, min(limit, 8 * seen, int(seen * PLACES / (5 * k))))
        keys, over = _candidates(texts, videos[seen:seen + n], best[:, -1:], seen, weights)
        best = merge_top_k([best, keys], k)
        overflows.append((seen, n, over))
        seen += n
    if overflows and torch.stack([over for _, _, over in overflows]).any():
        for start, n, over in (block for block in overflows if block[2].any()):
            again = _best_of_all(texts[over], videos[start:start + n], k, start, weights)
            best[over] = merge_top_k([best[over], again], k)
    return scores_and_places(best)


def _best_of_all(texts, videos, k, start, weights):
    """Keys of the k best of these videos, the first of which has the place `start`: [T, <= k]"""
    n, best = cuda_scoring.block_size(texts, videos), texts.mask.new_empty(len(texts), 0).long()
    for at in range(0, len(videos), n):
        S = cuda_scoring.similarity(texts, videos[at:at + n], **weights)    # [T, n]
        places = torch.arange(start + at, start + at + S.shape[1], device=S.device)
        best = merge_top_k([best, sortable_keys(S, places)], k)
    return best


def _candidates(texts, videos, least, start, weights):
    """Keys of the videos that beat the key `least` [T, 1]: [T, PLACES], EMPTY where there are
    fewer; and of which texts there were more, [T] bool: their keys are all EMPTY."""
    least = scores_and_places(least)[0].flatten()
    scores = least.new_empty(len(least), PLACES)
    places, count = scores.int(), torch.zeros_like(least, dtype=torch.int32)
    cuda_scoring.score(texts, videos, lists=(least, count, scores, places), **weights)
    over = count > PLACES
    filled = torch.arange(PLACES, device=count.device) < count.masked_fill(over, 0)[:, None]
    keys = sortable_keys(scores, start + places.long())
    return keys.where(filled, EMPTY), over
