"""An exact top-k of scores that come in parts: score and place as one whole number that sorts.

The key of a score at a place is an int64. Upper half: the 32 bits of the float, read as a signed
number. Those of positive floats grow with the value already, those of negative ones fall, so in
these every bit but the sign is flipped. Lower half: 0xffffffff - place, so that of equal scores
the first place has the greatest key. No two keys are equal, therefore the k greatest of the k
greatest of each part are exactly the k greatest of all, in whatever parts the scores come.

`kernels._sortable_keys` computes the same keys on a GPU; a test holds the two together.
"""
import torch

EMPTY = -2 ** 63  # less than the key of any score


def sortable_keys(scores, places):
    """Keys that grow with the score: [T, n] float32, [n] int64 -> [T, n] int64.

    places: where in the gallery each column lies, below 2**32. NaN counts as -inf, -0 as 0."""
    lowest = float('-inf')
    scores = scores.nan_to_num(lowest, float('inf'), lowest) + 0.0  # -0 + 0 is 0
    bits = scores.contiguous().view(torch.int32).long()
    return _flip_negative(bits) << 32 | 0xffffffff - places


def scores_and_places(keys):
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
