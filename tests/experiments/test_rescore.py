"""A saved similarity matrix is scored again without the model."""
import numpy as np
import pytest
import torch

from glscl.experiments.rescore import (
    load_bank,
    load_similarity,
    rescore,
    rescore_file,
    save_bank,
    save_similarity,
)
from glscl.metrics import retrieval_metrics
from glscl.rescoring import dual_softmax, qb_norm

OWNERS = [0, 0, 1, 2, 2, 3]


@pytest.fixture
def saved(tmp_path):
    """(S [6, 4], banks, the files of both)"""
    generator = torch.Generator().manual_seed(0)
    S, t2v, v2t = (torch.rand(shape, generator=generator) for shape in ((6, 4), (30, 4), (40, 6)))
    return S, dict(t2v=t2v, v2t=v2t), save_similarity(tmp_path / 'S', S, OWNERS), save_bank(tmp_path / 'train.npz', t2v, v2t)


def test_what_was_saved_comes_back(saved, tmp_path):
    S, banks, path, bank_path = saved
    assert path.name == 'S.npz'
    back, owners = load_similarity(path)
    assert torch.equal(back, S) and owners.tolist() == OWNERS
    assert all(torch.equal(load_bank(bank_path)[side], banks[side]) for side in banks)
    assert load_similarity(save_similarity(tmp_path / 'square.npz', S[:4]))[1].tolist() == [0, 1, 2, 3]
    assert list(load_bank(save_similarity(tmp_path / 'train_S.npz', banks['t2v'], [0] * 30))) == ['t2v']


def test_each_way_of_scoring_is_apart(saved):
    S, banks, *_ = saved
    result = rescore(S, OWNERS, banks, dual=True)
    assert list(result) == ['plain', 'QB-Norm', 'dual softmax'] and result['plain'] == retrieval_metrics(S, OWNERS)
    assert result['QB-Norm']['t2v'] == retrieval_metrics(qb_norm(S, banks['t2v'], theta=3), OWNERS)['t2v']
    assert result['QB-Norm']['v2t'] == retrieval_metrics(qb_norm(S.T, banks['v2t'], theta=5).T, OWNERS)['v2t']
    assert result['dual softmax']['v2t'] == retrieval_metrics(dual_softmax(S.T).T, OWNERS)['v2t']
    assert list(rescore(S, OWNERS)) == ['plain'] and list(rescore(S, OWNERS, dict(v2t=banks['v2t']))['QB-Norm']) == ['v2t']
    tied = rescore(torch.zeros(4, 4), dual=True, ties='released')
    assert tied['plain']['t2v']['queries'] == tied['dual softmax']['v2t']['queries'] == 16


def test_the_command_prints_a_row_a_way_and_direction(saved, capsys):
    S, banks, path, bank_path = saved
    rescore_file(path, bank_path, dual_softmax=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == '6 texts, 4 videos, ties: mean'
    assert [' '.join(line.split()[:-8]) for line in lines[2:]] == [
        f'{way} {side}' for way in ('plain', 'QB-Norm', 'dual softmax') for side in ('t2v', 'v2t')]
    assert lines[2].split()[2] == f'{retrieval_metrics(S, OWNERS)["t2v"]["R@1"]:.1f}'
    rescore_file(path, ties='released')
    assert 'ties: released' in capsys.readouterr().out


def bad(tmp_path, name, **arrays):
    np.savez(tmp_path / name, **arrays)
    return tmp_path / name


@pytest.mark.parametrize('make, match', [
    (lambda p: p / 'none.npz', 'none.npz: no such file'),
    (lambda p: bad(p, 'b.npz', other=np.ones(3)), 'b.npz has no array S; it has other'),
    (lambda p: bad(p, 'c.npz', S=np.array([[{}]], dtype=object)), 'c.npz is not an .npz file of plain arrays'),
    (lambda p: bad(p, 'd.npz', S=np.ones((2, 2)), text_to_video=np.array([0, 2])), 'd.npz: text_to_video must give'),
    (lambda p: bad(p, 'e.npz', S=np.ones((2, 3))), 'e.npz: 2 texts and 3 videos'),
    (lambda p: bad(p, 'f.npz', S=np.array([['a']])), 'f.npz: S holds <U1, not numbers'),
    (lambda p: bad(p, 'g.npz', S=np.ones(4)), r'g.npz: a similarity matrix.*\[4\]'),
    (lambda p: bad(p, 'h.npz', S=np.full((2, 2), np.nan)), '4 of 4 scores are NaN'),
])
def test_what_is_no_similarity_matrix_is_refused_by_name(tmp_path, make, match):
    with pytest.raises((ValueError, FileNotFoundError), match=match) as told:
        rescore_file(make(tmp_path))
    assert 'unsafely' not in str(told.value)  # NumPy's own text says how to switch the safety off


def test_a_damaged_file_and_an_array_alone_are_refused(tmp_path):
    (tmp_path / 'cut.npz').write_bytes(b'PK\x03\x04 nothing')
    np.save(tmp_path / 'alone.npy', np.ones((2, 2)))
    (tmp_path / 'history.json').write_text('[]')
    for name in ('cut.npz', 'alone.npy', 'history.json'):
        with pytest.raises(ValueError, match=f'{name} is not an .npz file') as told:
            load_similarity(tmp_path / name)
        assert 'unsafely' not in str(told.value)
    with pytest.raises(ValueError, match='t2v'):
        save_bank(tmp_path / 'empty.npz')
