"""Keys that sort by score and then by place."""
import torch

from glscl.search.topk import EMPTY, merge_top_k, scores_and_places, sortable_keys

SCORES = torch.tensor([[0.5, -0.0, 0.0, -1.5, float('nan'), 0.5, 3e38, -3e38, -1e-40,
                        float('inf'), 1e-40]])
FALLING = [9, 6, 0, 5, 10, 1, 2, 8, 3, 7, 4]  # columns of SCORES, ties in their order, NaN last


def test_keys_sort_by_score_then_by_place():
    parts = [sortable_keys(part, places) for part, places
             in zip(SCORES.split([4, 7], 1), torch.arange(10, 21).split([4, 7]), strict=True)]
    scores, places = scores_and_places(merge_top_k(parts, 11))
    assert places[0].sub(10).tolist() == FALLING
    assert torch.equal(scores[0][:5], SCORES[0][FALLING[:5]])


def test_nothing_sorts_below_nan_but_what_is_empty():
    keys = sortable_keys(torch.tensor([[float('nan')]]), torch.tensor([2 ** 32 - 2]))
    empty = torch.full((1, 3), EMPTY)
    assert merge_top_k([empty, keys], 2).tolist() == [[int(keys), EMPTY]]
    assert int(scores_and_places(empty)[1][0, 0]) == 2 ** 32 - 1


def test_the_best_of_the_best_of_parts_are_the_best_of_all():
    scores = torch.randint(-3, 4, (5, 200)).float()  # many ties
    keys = sortable_keys(scores, torch.arange(200))
    best = torch.full((5, 7), EMPTY)
    for part in keys.split(13, 1):
        best = merge_top_k([best, part], 7)
    assert torch.equal(best, merge_top_k([keys], 7))
    expected = [sorted(range(200), key=lambda v, row=row: (-row[v], v))[:7]
                for row in scores.tolist()]
    assert scores_and_places(best)[1].tolist() == expected
