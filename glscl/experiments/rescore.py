"""Score a saved similarity matrix again, without the model: plain, QB-Norm, dual softmax.

    glscl rescore S.npz --bank train.npz --dual-softmax
"""
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..metrics import KS, owners, retrieval_metrics
from ..rescoring import dual_softmax, qb_norm
from ..runtime.files import atomic_write, one_line

THETA = dict(t2v=3, v2t=5)  # QB-Norm's, as the released code sets them


def rescore_file(path, bank=None, dual_softmax=False, ties='mean'):
    """Print the measures of a saved similarity matrix, a row a way of scoring and direction.

    path: an .npz of `save_similarity`. bank: an .npz of `save_bank`, scores of training queries,
    for QB-Norm. dual_softmax: that too. ties: see `metrics.ranks`. A file that is none of these
    raises ValueError or FileNotFoundError."""
    S, owner = load_similarity(path)
    result = rescore(S, owner, load_bank(bank) if bank else None, dual_softmax, ties)
    rows = {f'{name} {side}': dict(found) for name, sides in result.items()
            for side, found in sides.items()}
    for found in rows.values():
        found['R@1, 95 %'] = '{:.1f}-{:.1f}'.format(*found['R@1 interval'])
    columns = [*(f'R@{k}' for k in KS), 'MdR', 'MnR', 'R@1, 95 %', 'queries']
    print(f'{S.shape[0]} texts, {S.shape[1]} videos, ties: {ties}')
    print(pd.DataFrame(rows, columns).T.to_string(float_format='{:.1f}'.format))


def rescore(S, text_to_video=None, bank=None, dual=False, ties='mean'):
    """{'plain': retrieval_metrics, 'QB-Norm': …, 'dual softmax': …}, each way of scoring apart.

    S [T, V]; bank {'t2v': [N, V], 'v2t': [N, T]}, either or both: QB-Norm in those directions;
    dual: dual softmax too; ties: see `metrics.ranks`."""
    S = torch.as_tensor(S)
    queries = dict(t2v=S, v2t=S.T)  # a row a query

    def measured(scores, side):
        scores = scores if side == 't2v' else scores.T
        return retrieval_metrics(scores, text_to_video, ties=ties)[side]

    result = {'plain': retrieval_metrics(S, text_to_video, ties=ties)}
    if bank:
        result['QB-Norm'] = {
            side: measured(qb_norm(queries[side], bank[side], theta=THETA[side]), side)
            for side in bank}
    if dual:
        result['dual softmax'] = {side: measured(dual_softmax(rows), side)
                                  for side, rows in queries.items()}
    return result


def save_similarity(path, S, text_to_video=None):
    """S [T, V] and the video of each text [T] (default: text i, video i) as .npz.

    Returns the path, ending in .npz."""
    S = torch.as_tensor(S).detach().cpu()
    return _save(path, S=S.numpy(), text_to_video=owners(S, text_to_video).numpy())


def load_similarity(path):
    """(S [T, V], text_to_video [T] int64), tensors, of a file of `save_similarity`.

    Anything else raises ValueError."""
    arrays = _load(path, ('S',))
    S = torch.as_tensor(arrays['S'])
    try:
        return S, owners(S, arrays.get('text_to_video'))
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None


def save_bank(path, t2v=None, v2t=None):
    """The banks of QB-Norm as .npz: t2v [N, V], training captions with the test's videos; v2t
    [N, T], training videos with the test's texts. One of them will do."""
    given = {name: bank for name, bank in dict(t2v=t2v, v2t=v2t).items() if bank is not None}
    if not given:
        raise ValueError('a bank needs t2v [N, V] or v2t [N, T]')
    return _save(path, **{name: torch.as_tensor(bank).detach().cpu().numpy()
                          for name, bank in given.items()})


def load_bank(path):
    """{'t2v': [N, V], 'v2t': [N, T]}, tensors, of a file of `save_bank`, as far as it has them.

    A file of `save_similarity`, of training captions and the test's videos, is taken for t2v."""
    arrays = _load(path, ('t2v', 'v2t', 'S'))
    if 'S' in arrays:
        arrays = dict(t2v=arrays['S'])
    return {name: torch.as_tensor(arrays[name]) for name in ('t2v', 'v2t') if name in arrays}


def _save(path, **arrays):
    path = Path(path)
    if path.suffix != '.npz':
        path = path.with_name(path.name + '.npz')
    with atomic_write(path) as half, open(half, 'wb') as file:  # given a name, numpy would add .npz
        np.savez_compressed(file, **arrays)
    return path


def _load(path, any_of):
    """{name: array of numbers} of an .npz file with at least one of the names; pickled objects are
    refused, not opened."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'{path}: no such file; `glscl evaluate RUN --similarity FILE` '
                                f'writes one')
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # a class for each way in which a file can be damaged
        raise ValueError(f'{path} is not an .npz file of plain arrays, or is damaged '
                         f'({one_line(error).partition(" If you trust")[0]})') from None
    if not set(any_of) & arrays.keys():
        raise ValueError(f'{path} has no array {" or ".join(any_of)}; '
                         f'it has {", ".join([*arrays][:5]) or "none"}')
    for name, array in arrays.items():
        if array.dtype.kind not in 'fiu':
            raise ValueError(f'{path}: {name} holds {array.dtype}, not numbers')
    return arrays
