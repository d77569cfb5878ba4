"""The benchmark's own parts, on sizes that say nothing about speed."""
import pytest
import torch

from glscl.bench import scoring as bench_scoring
from glscl.bench.scoring import features, rank_changes, rounded, working_memory


def test_rank_changes_counts_lists_sets_and_firsts():
    S = torch.tensor([[4., 3, 2, 1], [4., 3, 2, 1], [4., 3, 2, 1]])
    other = torch.tensor([[4., 3, 2, 1], [3., 4, 2, 1], [4., 2, 3, 1]])
    assert rank_changes(S, S, 2) == dict(lists=0, sets=0, first=0)
    assert rank_changes(S, other, 2) == dict(lists=2, sets=1, first=1)


def test_working_memory_is_what_exists_beyond_the_result():
    def two_steps():
        x = torch.ones(250_000)      # 1 MB
        return (x + 1)[:10].clone()  # and another before the result
    assert working_memory(two_steps) == pytest.approx(2, abs=0.1)


def test_rounding_changes_few_of_the_best(model):
    texts, videos = features(20, 30, frames=4, D=32, Q=2, words=3)
    low = model.similarity(rounded(texts, torch.bfloat16), rounded(videos, torch.bfloat16))
    S = model.similarity(texts, videos)
    assert 0 < (S - low).abs().max() < 0.05 and rank_changes(S, low, 5)['first'] < 5


def test_a_form_that_cannot_run_is_reported_and_left_out(capsys):
    times = bench_scoring.rounds({'fine': lambda: None, 'broken': lambda: 1 / 0}, 3)
    assert len(times['fine'][0]) == 3 and 'broken' not in times
    assert 'broken: cannot run here (ZeroDivisionError)' in capsys.readouterr().out
