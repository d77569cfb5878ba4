"""A split of a data set by its name: where captions come from."""
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from ..clip_models import image_size
from ..config import Config, cache_dir
from ..data.pairs import Pairs, load_pairs
from . import readers, shapes
from .readers import files

Folder = str | os.PathLike
Log = Callable[[str], object]


def load_split(config: Config, split: str = 'test', data_dir: Folder | None = None,
               captions: str = 'one', videos: dict[str, int] | None = None,
               log: Log | None = None) -> Pairs:
    """A split ("train", "val", "test", "held_out") of the data set that the config names, at the
    size that its CLIP looks at: Pairs.

    data_dir: the set's own folder (layout: data/README.md), or for `shapes` where it is kept.
    `captions` and `videos` concern `shapes`. Errors as `readers.load_table` and `load_pairs`."""
    if config.dataset == 'shapes':  # whose val is rendered, and never lacks
        split = 'val' if split == 'held_out' else split
        return load_shapes(config, split, captions, data_dir, videos, log=log)
    table = readers.load_table(config.dataset, split, data_dir, config.select_on)
    return load_pairs(table, config, image_size(config.clip), log=log)


def load_test(config: Config, data_dir: Folder | None = None, captions: str = 'one',
              videos: dict[str, int] | None = None,
              log: Log | None = None) -> tuple[dict[str, Pairs], dict[str, dict[str, int]]]:
    """What a run is measured on: ({split: Pairs}, {}) of the test split.

    Where none of its videos is there and select_on is "held_out", what is held out of the training
    videos takes its place, and a line says so: ({"held_out": Pairs}, {"test": its counts}).
    Arguments and other errors as `load_split`."""
    try:
        return {'test': load_split(config, 'test', data_dir, captions, videos, log)}, {}
    except files.EmptySplit as empty:
        if config.select_on != 'held_out':
            raise
        lost = dict(listed=empty.listed, missing=empty.listed, unreadable=0, used=0)
    (log or print)('there is no test video: what is held out measures the run too')
    return {'held_out': load_split(config, 'held_out', data_dir, log=log)}, {'test': lost}


def bank_captions(config: Config, data_dir: Folder | None = None) -> list[str]:
    """The first caption of each training video: what QB-Norm's bank is made of."""
    if config.dataset == 'shapes':
        table = shapes_table(shapes.build(kept(data_dir)), 'train')
        return table.drop_duplicates('video_id')['caption'].tolist()
    table = readers.load_table(config.dataset, 'bank', data_dir, config.select_on,
                               require_videos=False)
    return table['caption'].tolist()


def kept(data_dir: Folder | None = None) -> Path:
    """The folder that rendered videos and their frames are kept in: data_dir, else the cache's."""
    return Path(data_dir or cache_dir()).expanduser()


def load_shapes(config: Config, split: str = 'test', captions: str = 'one',
                data_dir: Folder | None = None, videos: dict[str, int] | None = None, seed: int = 0,
                difficulty: int = 1, log: Log | None = None) -> Pairs:
    """Render (once) and load a split of `shapes`: Pairs.

    data_dir: where it is kept; videos: {split: number}, for a small world; the rest as in
    `shapes_table` and `shapes.build`."""
    root = kept(data_dir)
    folder = shapes.build(root, videos, seed, difficulty)
    table = shapes_table(folder, split, captions)
    return load_pairs(table, config, cache=root / 'frames', log=log)


def shapes_table(folder: Folder, split: str = 'test', captions: str = 'one') -> pd.DataFrame:
    """The captions of a split of `shapes`: a DataFrame video_id, path, caption, start, end, kind.

    captions: "one" (train: all six; val, test: one a video, half of each kind), "scene" or "order"
    (one of that kind a video), "all" (val, test: four a video, two of each kind).
    FileNotFoundError where the split was not rendered."""
    rows = []
    for video in shapes_scenes(folder, split):
        path = Path(folder) / split / f'{video["video_id"]}.mp4'
        chosen = video['captions']
        if captions == 'one':
            chosen = [row for row in chosen if row.get('primary', True)]
        elif captions in ('scene', 'order'):
            chosen = [row for row in chosen if row['kind'] == captions][:1]
        for row in chosen:
            rows.append(dict(video_id=video['video_id'], path=str(path), caption=row['caption'],
                             start=None, end=None, kind=row['kind']))
    return pd.DataFrame(rows)


def shapes_scenes(folder: Folder, split: str = 'test') -> list[dict]:
    """What each video of a split shows: a list of {video_id, scenes, captions with their facts}."""
    path = Path(folder) / f'{split}.jsonl'
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such split; `glscl.datasets.shapes.build` renders '
                                f'train, val and test')
    return [files.read_json(path, line, where) for where, line in files.read_lines(path)]
