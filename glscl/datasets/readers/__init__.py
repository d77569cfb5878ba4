"""The annotation files of the five benchmarks, and your own, each read into the same table."""
import os
import warnings
from collections.abc import Iterable

import pandas as pd

from . import benchmarks
from .files import SPLITS, VIDEOS, EmptySplit, walk
from .own import own

COLUMNS = ['video_id', 'path', 'caption', 'start', 'end']


def load_table(dataset: str, split: str, data_dir: str | os.PathLike | None, select_on: str = 'val',
               require_videos: bool = True) -> pd.DataFrame:
    """One row a caption: video_id, path, caption, start, end (seconds, or None), as released.

    split: "train", "val", "test", or "bank" (the first caption of each training video, for
    QB-Norm). select_on="val": MSR-VTT 9k and ActivityNet, which have no validation list, hold 500
    training videos out; "test": val is the test split and train the whole, as in the released code;
    "held_out": val, also called "held_out", is a part of those training videos that are on disk, of
    any set: what can be done without another split.
    Captions without words, and of videos that are not on disk, are left out with a warning that
    counts them; with require_videos=False the latter stay, and their path is None. The ids of
    videos that are not on disk are the table's attrs['missing'].

    Raises ValueError naming file, row and field; FileNotFoundError for a missing annotation file;
    EmptySplit, which is both, if no video is there."""
    if dataset not in (*benchmarks.FILES, 'own'):
        known = ', '.join(('shapes', *benchmarks.FILES, 'own'))
        raise ValueError(f'unknown dataset {dataset!r}; there are {known}')
    if split not in (*SPLITS, 'bank', 'held_out'):
        raise ValueError(f'unknown split {split!r}; there are {", ".join(SPLITS)}, bank')
    held_out = select_on == 'held_out' and split != 'test'
    if split == 'val' and select_on == 'test':
        split = 'test'
    read = own if dataset == 'own' else getattr(benchmarks, dataset)
    wanted, whole = ('train', 'test') if held_out else (split, select_on)
    rows = pd.DataFrame(read(data_dir, 'train' if wanted == 'bank' else wanted, whole))
    a_folder = dataset == 'own' and not os.path.isfile(os.path.expanduser(data_dir or ''))
    if not a_folder:  # which has no captions
        empty = rows[rows['caption'].map(str.strip).eq('')]
        if len(empty):
            first = empty['where'].iloc[0]
            warnings.warn(f'{first.rpartition(", row")[0]}: {len(empty)} of {len(rows)} captions '
                          f'are empty and left out, the first: {first}, field caption',
                          stacklevel=2)
        rows = rows.drop(index=empty.index)
    if rows.empty:
        raise ValueError(f'{data_dir}: no caption of the split "{split}" is left. Do the ids of '
                         f'list and captions agree, extension and all?')
    paths = rows['path'] if dataset == 'own' else find_videos(dataset, rows['video_id'], data_dir)
    found = {path for path in set(paths) if path and os.path.isfile(path)}
    rows = rows.assign(path=[path if path in found else None for path in paths])
    if held_out:
        rows = _held_out(rows, split)
    if split == 'bank':
        rows = rows.drop_duplicates('video_id')
    missing = rows.loc[rows['path'].isna(), 'video_id'].unique().tolist()
    if require_videos:
        rows = _with_videos(rows, missing, split, data_dir, select_on)
    rows = rows.reindex(columns=COLUMNS).reset_index(drop=True).astype(object)
    rows = rows.where(rows.notna(), None)
    rows.attrs['missing'] = missing
    return rows


def find_videos(dataset: str, video_ids: Iterable[str],
                data_dir: str | os.PathLike | None) -> list[str | None]:
    """The path of each video, or None: in any folder below data_dir, with any of VIDEOS.

    ActivityNet: v_ID.mp4 (GLSCL) or ID.mp4 (CLIP4Clip). DiDeMo, for the id X.mov: X.mov
    (CLIP4Clip), X.mov.mp4 (GLSCL), or X.mp4. Of two files for one id the first counts."""
    files, stems = {}, {}  # paths by name, and those of videos by name without extension
    for here, names in walk(data_dir):
        for name in sorted(names, key=lambda name: name.lower().endswith('.gif')):  # a preview?
            stem, extension = os.path.splitext(name)
            files.setdefault(name, str(here / name))
            if extension.lower() in VIDEOS:
                stems.setdefault(stem, str(here / name))
    if dataset == 'didemo':
        return [files.get(name) or stems.get(name) or stems.get(os.path.splitext(name)[0])
                for name in video_ids]
    if dataset == 'activitynet':
        return [stems.get(name) or stems.get(name[2:]) for name in video_ids]
    return [stems.get(name) for name in video_ids]


def _held_out(rows, split):
    """Of training rows those of a hold-out, or the others; what is not on disk stays in train."""
    there = rows[rows['path'].notna()]
    if there.empty:  # `_with_videos` says so
        return rows
    if split in ('val', 'held_out'):
        return benchmarks.hold_out(there, 'val')
    held = set(there['video_id']) - set(benchmarks.hold_out(there, 'train')['video_id'])
    return rows[~rows['video_id'].isin(held)]


def _with_videos(rows, missing, split, data_dir, select_on):
    """Rows whose video is there; the other videos are counted, and the first of them named."""
    count = rows['video_id'].nunique()
    if len(missing) == count:
        there = split in ('train', 'bank') or select_on == 'held_out'
        other = '' if there else benchmarks.HELD_OUT_INSTEAD
        if split == 'val' and not there:
            other += (', or with select_on=test, which picks the checkpoint on the test split and '
                      'makes its numbers optimistic')
        raise EmptySplit(f'{data_dir}: none of the {count} videos of the split "{split}" is '
                         f'there, such as {missing[0]!r}. Put them anywhere below data_dir, '
                         f'named by their id{other}; `glscl check` lists what is missing', count)
    if missing:
        names = ', '.join(missing[:3]) + (' …' if len(missing) > 3 else '')
        warnings.warn(f'{data_dir}: {len(missing)} of {count} videos of the split "{split}" are '
                      f'missing and left out ({names})', stacklevel=3)
    return rows[rows['path'].notna()]
