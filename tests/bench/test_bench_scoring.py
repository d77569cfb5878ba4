"""The benchmark's own parts, on sizes that say nothing about speed."""
import json

import pytest
import torch

from glscl.bench import scoring
from glscl.bench.scoring import features, rank_changes, rounded


def test_rank_changes_counts_lists_sets_and_firsts():
    S = torch.tensor([[4., 3, 2, 1], [4., 3, 2, 1], [4., 3, 2, 1]])
    other = torch.tensor([[4., 3, 2, 1], [3., 4, 2, 1], [4., 2, 3, 1]])
    assert rank_changes(S, S, 2) == dict(lists=0, sets=0, first=0)
    assert rank_changes(S, other, 2) == dict(lists=2, sets=1, first=1)


def test_rounding_changes_few_of_the_best(model):
    texts, videos = features(20, 30, frames=4, D=32, Q=2, words=3)
    low = model.similarity(rounded(texts, torch.bfloat16), rounded(videos, torch.bfloat16))
    S = model.similarity(texts, videos)
    assert 0 < (S - low).abs().max() < 0.05 and rank_changes(S, low, 5)['first'] < 5


def test_a_small_run_has_every_number_and_richer_results_stay(tmp_path, monkeypatch, capsys):
    out, small = tmp_path / 'scoring.json', dict(texts=6, videos=12, slow_repeats=2, threads=1)
    monkeypatch.setattr(scoring.torch, 'compile', lambda fn: fn)  # its minutes are not for a test
    threads = torch.get_num_threads()
    scoring.scoring(out, repeats=4, **small)
    stored = json.loads(out.read_text())
    assert {'products', 'similarity', 'similarity compiled', 'whole stage', 'direct form'} <= set(stored['ms'])
    assert set(stored['ratio']['similarity / products']) == {'wall', 'cpu'} and stored['rounds'] == dict(scoring=4, stage=2)
    assert stored['multiply_adds']['products'] == 6 * 12 * 20 * 512 and set(stored['rank_changes']) == {'bfloat16', 'float16'}
    assert stored['command'].endswith('--threads 1 --repeats 4 --slow-repeats 2') and 'similarity, wall' in capsys.readouterr().out
    with pytest.raises(ValueError, match='scoring.json holds more than this would measure'):
        scoring.scoring(out, repeats=3, **small)
    torch.set_num_threads(threads)
