"""From a data set's files to batches: one table of captions, one store of decoded frames."""
import contextlib
import hashlib
import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from . import readers, shapes
from .config import cache_dir
from .encoders import image_size, tokenize
from .video import VideoError, normalise, read_frames


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


def _read(row, max_frames, size, framerate):
    try:
        return read_frames(row, max_frames, framerate, size)[0]
    except VideoError as error:
        return str(error)


def load_frames(paths, max_frames=12, size=32, framerate=1, cache=None, workers=None, log=None):
    """Decode and resize the sampled frames of many videos once, and keep them on disk.

    Returns (frames uint8 [V, F, size, size, 3] memory-mapped and zero-padded, mask bool [V, F], bad {row: message}).
    A video that cannot be read is all padding and is named in `bad`; the run goes on. The cache is keyed by each file's
    path, size and time and by the sampling; it appears whole or not at all."""
    cache = Path(cache) if cache else cache_dir() / 'frames'
    stat = [(str(p), *((s := os.stat(p)).st_size, s.st_mtime_ns)) if os.path.exists(p) else (str(p),) for p in paths]
    key = hashlib.sha256(json.dumps([stat, max_frames, size, framerate]).encode()).hexdigest()[:16]
    done, pixels = cache / f'{key}.json', cache / f'{key}.npy'
    if (stored := _stored(done, pixels)) is None:
        half = cache / f'.{key}.{os.getpid()}.npy'
        try:
            cache.mkdir(parents=True, exist_ok=True)
            store = np.lib.format.open_memmap(half, 'w+', np.uint8, (len(paths), max_frames, size, size, 3))
            _claim(half)
            counts, bad = _fill(store, paths, max_frames, size, framerate, workers, log)
            store.flush()
            os.replace(half, pixels)
            temporary = half.with_suffix('.json')
            temporary.write_text(json.dumps(dict(counts=counts, bad=bad)))
            os.replace(temporary, done)
        except OSError as error:
            raise OSError(f'cannot keep decoded frames in {cache}: {error}. {len(paths) * max_frames * size * size * 3 / 1e6:.0f} MB '
                          f'are needed; name a folder with that much room (data_dir, or the variable GLSCL_CACHE).') from error
        finally:
            with contextlib.suppress(OSError):
                half.unlink()
        stored = _stored(done, pixels)
    frames, kept = stored
    mask = torch.arange(max_frames)[None] < torch.tensor(kept['counts'])[:, None]
    return frames, mask, {int(v): why for v, why in kept['bad'].items()}


def _stored(done, pixels):
    """A finished store, or None where there is none or a damaged one."""
    try:
        return np.load(pixels, mmap_mode='r'), json.loads(done.read_text())
    except (OSError, ValueError, EOFError):
        return None


def _claim(path):
    """Give a file of holes its blocks now: on a full disk, a write through the memory map would kill the process (SIGBUS)."""
    if hasattr(os, 'posix_fallocate'):
        with open(path, 'r+b') as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)


def _fill(store, paths, max_frames, size, framerate, workers, log):
    """Decode every path into its row of the store: (frames a video, {row: why not})."""
    read = partial(_read, max_frames=max_frames, size=size, framerate=framerate)
    workers = workers or min(8, os.cpu_count() or 1)
    pool = ProcessPoolExecutor(workers) if workers > 1 and len(paths) > 100 else None
    counts, bad = [0] * len(paths), {}
    for v, frames in enumerate(pool.map(read, paths, chunksize=16) if pool else map(read, paths)):
        if isinstance(frames, str):
            bad[v] = frames
        else:
            store[v, :len(frames)], counts[v] = frames, len(frames)
        if log and (v + 1) % 1000 == 0:
            log(f'decoded {v + 1} of {len(paths)} videos')
    if pool:
        pool.shutdown()
    return counts, bad


@dataclass
class Pairs:
    """Captions and their videos, ready to batch.

    table: one row a caption (column `video` points into the frames); ids, words_mask [N, L]; frames uint8 [V, F, S, S, 3];
    frame_mask [V, F]; skipped: {video_id: why} for videos that could not be read."""
    table: pd.DataFrame
    ids: torch.Tensor
    words_mask: torch.Tensor
    frames: np.ndarray
    frame_mask: torch.Tensor
    skipped: dict

    def __len__(self):
        return len(self.table)

    @property
    def text_to_video(self):
        """[N] int: the video of each caption"""
        return torch.tensor(self.table['video'].to_numpy())

    def texts(self, rows, device='cpu'):
        """ids, mask [n, longest of these]: padding beyond the batch's longest caption is left out."""
        mask = self.words_mask[rows]
        longest = int(mask.sum(1).max())
        return self.ids[rows, :longest].to(device), mask[:, :longest].to(device)

    def videos(self, rows, device='cpu'):
        """pixels [n, F, 3, S, S] float, mask [n, F]"""
        return normalise(torch.from_numpy(self.frames[np.asarray(rows)]).to(device)), self.frame_mask[rows].to(device)


def load_pairs(table, config, size=32, cache=None, workers=None, log=None):
    """Decode a table's videos and tokenise its captions. Unreadable videos are skipped, counted and listed."""
    for column in ('video_id', 'path', 'caption'):
        if column not in table:
            raise ValueError(f'the table of captions lacks the column {column!r}; it has {", ".join(table.columns)}')
    videos = table.drop_duplicates('video_id')
    frames, mask, bad = load_frames(videos['path'].tolist(), config.max_frames, size, config.framerate, cache, workers, log)
    ids_of = videos['video_id'].tolist()
    skipped = {ids_of[v]: why for v, why in bad.items()}
    if len(skipped) == len(ids_of):
        raise VideoError(f'none of the {len(ids_of)} videos could be read; the first: {next(iter(skipped.values()))}')
    if skipped:
        if log:
            log(f'skipped {len(skipped)} of {len(ids_of)} videos that could not be read, the first: {next(iter(skipped.values()))}')
        keep = np.array([v for v in range(len(ids_of)) if v not in bad])
        frames, mask, ids_of = frames[keep], mask[keep], [ids_of[v] for v in keep]
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

    data_dir: the set's own folder (layout: data/README.md), or for `shapes` where it is kept. `captions` and `videos` concern `shapes`."""
    if config.dataset == 'shapes':
        return load_shapes(config, split, captions, data_dir, videos, log=log)
    table = readers.load_table(config.dataset, split, data_dir, config.select_on)
    return load_pairs(table, config, image_size(config.clip), log=log)
