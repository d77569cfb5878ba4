"""From a data set's files to batches: one table of captions, one store of decoded frames."""
import contextlib
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from . import readers, shapes, feature_cache as store
from ..config import cache_dir
from ..encoders import image_size
from .tokens import tokenize
from .video import VideoError, frame_indices, pixels, read_frames, span


def shapes_table(folder, split='test', captions='one'):
    """The captions of a split of `shapes` as a table: video_id, path, caption, start, end, kind.

    captions: "one" (train: all six; val, test: one a video, half of each kind), "scene" or "order" (one of that kind a
    video), "all" (val, test: four a video, two of each kind)."""
    path = Path(folder) / f'{split}.jsonl'
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such split; `glscl.shapes.build` renders train, val and test')
    rows = []
    for line in path.read_text(encoding='utf-8').splitlines():
        video, seen = json.loads(line), set()
        for row in video['captions']:
            if captions == 'one' and not row.get('primary', True) or captions in ('scene', 'order') and (
                    row['kind'] != captions or captions in seen):
                continue
            seen.add(row['kind'])
            rows.append(dict(video_id=video['video_id'], path=str(Path(folder) / split / f"{video['video_id']}.mp4"),
                             caption=row['caption'], start=None, end=None, kind=row['kind']))
    return pd.DataFrame(rows)


def shapes_scenes(folder, split='test'):
    """What each video of a split shows: a list of {video_id, scenes, captions with their facts}."""
    return [json.loads(line) for line in (Path(folder) / f'{split}.jsonl').read_text(encoding='utf-8').splitlines()]


def _frames(path, size, *how):
    max_frames, framerate, start, end, sampling = how
    return read_frames(path, max_frames, framerate, size, start, end, sampling)[0]


def load_frames(paths, max_frames=12, size=32, framerate=1, cache=None, workers=None, log=None, spans=None, sampling='stride',
                keep=True):
    """Decode and resize the sampled frames of many videos once, and keep them on disk.

    Returns (frames uint8 [V, F, size, size, 3] zero-padded (store.Kept: index it like an array), mask bool [V, F],
    bad {row: message}). A video that cannot be read is all padding and is named in `bad`; the run goes on.
    spans: (start, end) of each, in seconds; keep=False: find out only which frames there are, and decode at every use.
    There is one file a video in `cache`, keyed by the video's path, size and time and by the sampling: a run that was broken
    off goes on, splits and processes share, and each file appears whole or not at all."""
    cache = Path(cache) if cache else cache_dir() / 'frames'
    how = [(max_frames, framerate, *span(*part), sampling) for part in spans or [(None, None)] * len(paths)]
    files = [store.file_of(cache, path, size if keep else 'indices', *h) for path, h in zip(paths, how)]
    makes = [partial(_frames, path, size, *h) for path, h in zip(paths, how)]
    first = makes if keep else [partial(frame_indices, path, *h) for path, h in zip(paths, how)]
    try:
        found = _prepare(files, first, workers, log)
    except OSError as error:
        megabytes = len(paths) * max_frames * size * size * 3 / 1e6
        raise OSError(f'cannot keep decoded frames in {cache}: {error}. Up to {megabytes:.0f} MB are needed; '
                      f'name a folder with that much room (data_dir, or the variable GLSCL_CACHE), or set '
                      f'cache_frames to false.') from error
    counts = np.array([0 if isinstance(n, str) else n for n in found], int)
    mask = torch.arange(max_frames)[None] < torch.tensor(counts)[:, None]
    frames = store.Kept(files, makes, counts, (max_frames, size, size, 3), np.uint8, keep, workers)
    return frames, mask, {v: why for v, why in enumerate(found) if isinstance(why, str)}


def _prepare(files, makes, workers, log):
    """Make what is not there, in worker processes where it is much: for each its length, or why it cannot be had."""
    found = {v: len(kept) for v, file in enumerate(files) if (kept := store.load(file, 'r')) is not None}
    todo = [v for v in range(len(files)) if v not in found]
    workers = workers or min(8, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers) if workers > 1 and len(todo) > 100 else contextlib.nullcontext() as pool:
        jobs = [files[v] for v in todo], [makes[v] for v in todo]
        lengths = pool.map(store.count, *jobs, chunksize=16) if pool else map(store.count, *jobs)
        for n, (v, length) in enumerate(zip(todo, lengths), 1):
            found[v] = length
            if log and n % 1000 == 0:
                log(f'decoded {n} of {len(todo)} videos')
    return [found[v] for v in range(len(files))]


@dataclass
class Pairs:
    """Captions and their videos, ready to batch.

    table: one row a caption (column `video` points into the frames); ids, words_mask [N, L]; frames uint8 [V, F, S, S, 3]
    (store.Kept: index it like an array); frame_mask [V, F]; skipped: {video_id: why} for videos that could not be read."""
    table: pd.DataFrame
    ids: torch.Tensor
    words_mask: torch.Tensor
    frames: store.Kept
    frame_mask: torch.Tensor
    skipped: dict

    def __len__(self):
        return len(self.table)

    @property
    def text_to_video(self):
        """[N] int: the video of each caption"""
        return torch.tensor(self.table['video'].to_numpy())

    def texts(self, rows, device='cpu', length=None):
        """ids, mask [n, length]; by default as long as the longest of these captions."""
        mask = self.words_mask[rows]
        length = length or int(mask.sum(1).max())
        return self.ids[rows, :length].to(device), mask[:, :length].to(device)

    def videos(self, rows, device='cpu'):
        """pixels [n, F, 3, S, S] float, mask [n, F]"""
        return pixels(*next(self.frames.blocks([np.asarray(rows)])), device)


def load_pairs(table, config, size=32, cache=None, workers=None, log=None):
    """Decode a table's videos and tokenise its captions. Unreadable videos are skipped, counted and listed."""
    for column in ('video_id', 'path', 'caption'):
        if column not in table:
            raise ValueError(f'the table of captions lacks the column {column!r}; it has {", ".join(table.columns)}')
    if 'start' not in table or 'end' not in table:
        table = table.assign(**{column: None for column in ('start', 'end') if column not in table})
    videos = table.drop_duplicates('video_id')
    if len(twice := table.drop_duplicates(['video_id', 'path', 'start', 'end'])) > len(videos):
        row = twice[twice['video_id'].duplicated()].iloc[0]
        raise ValueError(f'video_id {row["video_id"]!r} stands for two things: {row["path"]} from {row["start"]} to '
                         f'{row["end"]} s (row {row.name}), and another path or part before that. Give each its own id.')
    frames, mask, bad = load_frames(videos['path'].tolist(), config.max_frames, size, config.framerate, cache, workers, log,
                                    list(zip(videos['start'], videos['end'])), config.sampling, config.cache_frames)
    ids_of = videos['video_id'].tolist()
    skipped = {ids_of[v]: why for v, why in bad.items()}
    if len(skipped) == len(ids_of):
        raise VideoError(f'none of the {len(ids_of)} videos could be read; the first: '
                         f'{next(iter(skipped.values()), "there is none")}')
    if skipped:
        if log:
            log(f'skipped {len(skipped)} of {len(ids_of)} videos that could not be read, the first: '
                f'{next(iter(skipped.values()))}')
        keep = np.array([v for v in range(len(ids_of)) if v not in bad])
        frames, mask, ids_of = frames.take(keep), mask[keep], [ids_of[v] for v in keep]
        table = table[~table['video_id'].isin(skipped)]
    where = {video_id: v for v, video_id in enumerate(ids_of)}
    table = table.assign(video=table['video_id'].map(where)).reset_index(drop=True)
    ids, words_mask = tokenize(table['caption'].tolist(), config.max_words)
    return Pairs(table, ids, words_mask, frames, mask, skipped)


def load_shapes(config, split='test', captions='one', data_dir=None, videos=None, seed=0, difficulty=1, log=None):
    """Build (once) and load a split of `shapes`. data_dir: where it is kept; videos: {split: number}, for a small world."""
    root = Path(data_dir) if data_dir else cache_dir()
    folder = shapes.build(root, videos, seed, difficulty)
    return load_pairs(shapes_table(folder, split, captions), config, cache=root / 'frames', log=log)


def load_split(config, split='test', data_dir=None, captions='one', videos=None, log=None):
    """A split ("train", "val", "test") of the data set that the config names, at the size its CLIP looks at: Pairs.

    data_dir: the set's own folder (layout: data/README.md), or for `shapes` where it is kept. `captions` and `videos` concern
    `shapes`."""
    if config.dataset == 'shapes':
        return load_shapes(config, split, captions, data_dir, videos, log=log)
    table = readers.load_table(config.dataset, split, data_dir, config.select_on)
    return load_pairs(table, config, image_size(config.clip), log=log)
