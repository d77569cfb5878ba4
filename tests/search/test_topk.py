"""Keys that sort by score and then by place, and the k best by lists of candidates."""
import pytest
import torch
from search.scoring_cases import check_best, items

from glscl import cuda_scoring
from glscl.search import topk
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


# top_k, with what `kernels.score_pass` does in torch: test_kernels.py has the pass itself

@pytest.fixture
def on_the_cpu(monkeypatch):
    """A `score` for any machine: S is <first frame, sentence>. Gives the [(first place, texts)] scored in full."""
    full, best_of_all = [], topk._best_of_all

    def score(texts, videos, out=None, lists=None):
        S = videos.frames[:, 0] @ texts.sentence.T                          # [V, T]
        if out is not None:
            out.copy_(S)
            return
        least, count, scores, places = lists
        for t, column in enumerate(S.T):
            found = (column > least[t]).nonzero().flatten()
            count[t], kept = len(found), found[torch.randperm(len(found))][:scores.shape[1]]
            scores[t, :len(kept)], places[t, :len(kept)] = column[kept], kept.int()

    def noted(texts, videos, k, start, weights):
        full.append((start, len(texts)))
        return best_of_all(texts, videos, k, start, weights)
    monkeypatch.setattr(cuda_scoring, 'score', score)
    monkeypatch.setattr(topk, '_best_of_all', noted)
    return full


def whole_numbers(T, V):
    """Items of one frame whose scores are small whole numbers, so that many are equal, and some NaN."""
    texts, videos = items(T, V, 1, D=2)
    texts.sentence, videos.frames = torch.randint(-9, 10, (T, 2)).float(), torch.randint(-9, 10, (V, 1, 2)).float()
    videos.frames[3::50] = float('nan')
    return texts, videos


@pytest.mark.parametrize('T, V, k', [(1, 1, 1), (3, 200, 10), (5, 257, 3), (8, 5000, 1), (8, 5000, 10), (4, 3000, 100), (2, 2000, 300), (3, 40, 100)])
def test_the_best_are_the_same_by_lists(T, V, k, on_the_cpu):
    check_best(*whole_numbers(T, V), k)


def test_a_shuffled_gallery_overflows_no_list(on_the_cpu):
    texts, videos = items(50, 20_000, 1, D=8, dtype=torch.float32)
    for k in (1, 10, 100):
        check_best(texts, videos, k)
    assert on_the_cpu == [(0, 50)] * 3


def test_where_a_list_overflows_the_block_is_done_again_for_these_texts_alone(on_the_cpu):
    """For the second text the videos come from the worst to the best: each beats all before it."""
    texts, videos = items(3, 5000, 1, D=8, dtype=torch.float32)
    texts.sentence = torch.eye(3, 8)
    videos = videos[videos.frames[:, 0, 1].argsort()]
    check_best(texts, videos, 10)
    assert on_the_cpu[0] == (0, 3) and len(on_the_cpu) > 2 and {n for _, n in on_the_cpu[1:]} == {1}
    assert sorted(start for start, _ in on_the_cpu) == [start for start, _ in on_the_cpu]
