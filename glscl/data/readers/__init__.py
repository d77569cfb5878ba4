"""The annotation files of the five benchmarks, and your own, each read into the same table."""
import os
import warnings

import pandas as pd

from . import benchmarks
from .files import index_videos
from .own import own

READERS = dict(msrvtt=benchmarks.msrvtt, msrvtt7k=benchmarks.msrvtt7k, msvd=benchmarks.msvd, lsmdc=benchmarks.lsmdc,
               didemo=benchmarks.didemo, activitynet=benchmarks.activitynet, own=own)
SPLITS = ('train', 'val', 'test', 'bank')


def load_table(dataset, split, data_dir, select_on='val', require_videos=True):
    """One row a caption: video_id, path, caption, start, end (seconds, or None), in the order of the released loaders.

    split: "train", "val", "test", or "bank" (the first caption of each training video, for QB-Norm). select_on="val":
    MSR-VTT 9k and ActivityNet, which have no validation list, hold 500 training videos out; "test": val is the test split
    and train the whole, as the released code has it. Captions without words, and of videos that are not on disk, are left
    out with a warning that counts them. require_videos=False reads annotations alone: no row is left out for its video, and
    path is None (own videos: as given).

    Raises ValueError naming file, row and field; FileNotFoundError for a missing annotation file, or if no video is there."""
    if dataset not in READERS:
        raise ValueError(f'unknown dataset {dataset!r}; there are shapes, {", ".join(READERS)}')
    if split not in SPLITS:
        raise ValueError(f'unknown split {split!r}; there are {", ".join(SPLITS)}')
    if split == 'val' and select_on == 'test':
        split = 'test'
    rows = READERS[dataset](data_dir, 'train' if split == 'bank' else split, select_on)
    source = rows[0]['where'].rsplit(', row', 1)[0] if rows else data_dir
    if dataset != 'own' or not os.path.isdir(os.path.expanduser(data_dir)):  # a folder has no captions, and needs none
        rows = _with_words(rows, source)
    if not rows:
        raise ValueError(f'{source}: no caption of the split "{split}" is left. Do the ids of list and captions agree, '
                         f'extension and all?')
    if split == 'bank':
        rows = benchmarks.first_captions(rows)
    paths = [row.get('path') for row in rows]
    if require_videos:
        if dataset != 'own':
            paths = find_videos(dataset, [row['video_id'] for row in rows], data_dir)
        rows, paths = _with_videos(rows, paths, split, data_dir)
    table = [(row['video_id'], path, row['caption'], row['start'], row['end']) for row, path in zip(rows, paths)]
    return pd.DataFrame(table, columns=['video_id', 'path', 'caption', 'start', 'end'], dtype=object)  # object: None stays None


def find_videos(dataset, video_ids, data_dir):
    """The path of each video, or None: any folder below data_dir, any of mp4, webm, avi, mkv, mov.

    ActivityNet: v_ID.mp4 (GLSCL) or ID.mp4 (CLIP4Clip). DiDeMo, for the id X.mov: X.mov (CLIP4Clip), X.mov.mp4 (GLSCL),
    or X.mp4."""
    names, stems = index_videos(data_dir)

    def path_of(video_id):
        path = stems.get(video_id)
        if dataset == 'didemo':
            path = names.get(video_id) or path or stems.get(os.path.splitext(video_id)[0])
        if dataset == 'activitynet':
            path = path or stems.get(video_id[2:])
        return path

    return [path_of(video_id) for video_id in video_ids]


def _with_words(rows, source):
    """Rows whose caption has words; the others are counted."""
    empty = [row for row in rows if not row['caption'].strip()]
    if empty:
        warnings.warn(f'{source}: {len(empty)} of {len(rows)} captions are empty and left out, the first: '
                      f'{empty[0]["where"]}, field caption', stacklevel=3)
    return [row for row in rows if row['caption'].strip()] if empty else rows


def _with_videos(rows, paths, split, data_dir):
    """Rows and paths of the videos that are there; the others are counted, and the first of them named."""
    there = {path: bool(path) and os.path.isfile(path) for path in set(paths)}
    lost = list(dict.fromkeys(row['video_id'] for row, path in zip(rows, paths) if not there[path]))
    count = len({row['video_id'] for row in rows})
    if len(lost) == count:
        raise FileNotFoundError(f'{data_dir}: none of the {count} videos of the split "{split}" is there, such as {lost[0]!r}. '
                                f'Put them anywhere below data_dir, named by their id (data/README.md); `glscl check` lists '
                                f'what is missing')
    if lost:
        warnings.warn(f'{data_dir}: {len(lost)} of {count} videos of the split "{split}" are missing and left out '
                      f'({", ".join(lost[:3])}{" …" if len(lost) > 3 else ""})', stacklevel=3)
    kept = [(row, path) for row, path in zip(rows, paths) if there[path]]
    return [row for row, _ in kept], [path for _, path in kept]
