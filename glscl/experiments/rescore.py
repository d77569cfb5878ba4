"""Score a saved similarity matrix again, without the model: plain, with QB-Norm, with dual softmax.

    glscl rescore S.npz --bank train.npz --dual-softmax
"""
import argparse
import zipfile
from pathlib import Path

import numpy as np
import torch

from ..metrics import KS, dual_softmax, owners, qb_norm, retrieval_metrics

THETA = dict(t2v=3, v2t=5)  # QB-Norm's, as the released code sets them


def save_similarity(path, S, text_to_video=None):
    """S [T, V] and the video of each text [T] (default: text i, video i) as .npz; returns the path, ending in .npz."""
    S = torch.as_tensor(S).detach().cpu()
    return _save(path, S=S.numpy(), text_to_video=owners(S, text_to_video).numpy())


def load_similarity(path):
    """(S [T, V] tensor, text_to_video [T] int64) of a file of `save_similarity`; anything else raises ValueError."""
    arrays = _load(path, ('S',))
    S = torch.as_tensor(arrays['S'])
    try:
        return S, owners(S, arrays.get('text_to_video'))
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None


def save_bank(path, t2v=None, v2t=None):
    """The banks of QB-Norm as .npz: t2v [N, V], training captions with the test's videos; v2t [N, T], training videos with
    the test's texts. One of them will do."""
    banks = {name: torch.as_tensor(bank).detach().cpu().numpy()
             for name, bank in dict(t2v=t2v, v2t=v2t).items() if bank is not None}
    if not banks:
        raise ValueError('a bank needs t2v [N, V] or v2t [N, T]')
    return _save(path, **banks)


def load_bank(path):
    """{'t2v': [N, V], 'v2t': [N, T]} tensors of a file of `save_bank`, as far as it has them. A file of `save_similarity`, made
    of training captions and the test's videos, is taken for t2v."""
    arrays = _load(path, ('t2v', 'v2t', 'S'))
    if 'S' in arrays:
        arrays = dict(t2v=arrays['S'])
    return {name: torch.as_tensor(arrays[name]) for name in ('t2v', 'v2t') if name in arrays}


def _save(path, **arrays):
    path = Path(path)
    path = path if path.suffix == '.npz' else path.with_name(path.name + '.npz')
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)
    return path


def _load(path, any_of):
    """{name: array of numbers} of an .npz file with at least one of the names; pickled objects are refused, not opened."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'{path}: no such file')
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, TypeError, OSError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(f'{path} is not an .npz file of plain arrays, or is damaged ({error})') from None
    if not set(any_of) & arrays.keys():
        raise ValueError(f'{path} has no array {" or ".join(any_of)}; it has {", ".join(arrays) or "none"}')
    for name, array in arrays.items():
        if array.dtype.kind not in 'fiu':
            raise ValueError(f'{path}: {name} holds {array.dtype}, not numbers')
    return arrays


def rescore(S, text_to_video=None, bank=None, dual=False, ties='mean'):
    """{'plain': retrieval_metrics, 'QB-Norm': …, 'dual softmax': …}, each way of scoring apart.

    S [T, V]; bank {'t2v': [N, V], 'v2t': [N, T]}, either or both: QB-Norm in those directions; dual: dual softmax too; ties: see
    `metrics.ranks`."""
    S = torch.as_tensor(S)
    queries = dict(t2v=S, v2t=S.T)  # a row a query

    def measured(scores, side):
        return retrieval_metrics(scores if side == 't2v' else scores.T, text_to_video, ties=ties)[side]

    result = {'plain': retrieval_metrics(S, text_to_video, ties=ties)}
    if bank:
        result['QB-Norm'] = {side: measured(qb_norm(queries[side], bank[side], theta=THETA[side]), side) for side in bank}
    if dual:
        result['dual softmax'] = {side: measured(dual_softmax(queries[side]), side) for side in queries}
    return result


def main(argv=None):
    """Score a saved similarity matrix again: plain, with QB-Norm (--bank) and dual softmax, both directions."""
    parser = argparse.ArgumentParser(prog='glscl rescore', description=main.__doc__)
    parser.add_argument('similarity', help='.npz of glscl.rescore.save_similarity')
    parser.add_argument('--bank', help='.npz of glscl.rescore.save_bank: scores of training queries, for QB-Norm')
    parser.add_argument('--dual-softmax', action='store_true')
    parser.add_argument('--ties', choices=('mean', 'released'), default='mean')
    args = parser.parse_args(argv)
    try:
        S, text_to_video = load_similarity(args.similarity)
        result = rescore(S, text_to_video, load_bank(args.bank) if args.bank else None, args.dual_softmax, args.ties)
    except (ValueError, OSError) as error:
        parser.exit(1, f'glscl rescore: {error}\n')
    print(f'{S.shape[0]} texts, {S.shape[1]} videos, ties: {args.ties}')
    keys = [f'R@{k}' for k in KS] + ['MdR', 'MnR']
    print(f'{"":18}' + ''.join(f'{key:>8}' for key in keys) + f'{"R@1, 95 %":>13}{"queries":>10}')
    for name, sides in result.items():
        for side, m in sides.items():
            low, high = m['R@1 interval']
            print(f'{name + " " + side:18}' + ''.join(f'{m[key]:8.1f}' for key in keys)
                  + f'{f"{low:.1f}-{high:.1f}":>13}{m["queries"]:10}')
    return 0
