"""Captions and their videos: from a table to batches."""
import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import tee

import numpy as np
import pandas as pd
import torch

from ..config import Config
from ..runtime import distributed
from .batch import Batch
from .errors import VideoError
from .frames import FrameStore, load_frames
from .pixels import pixels
from .tokens import tokenize


@dataclass
class Pairs:
    """N captions of V videos, ready to batch.

    table: a row a caption; its column `video` is a row of `frames`. token_ids, token_mask [N, L].
    frames: FrameStore uint8 [V, F, S, S, 3]; frame_mask [V, F]. skipped: {video_id: why} for videos
    that could not be read; missing: ids of those that the split lists and that are not on disk.
    features, words: FrameStore [V, F, D] and WordStore of a frozen CLIP,
    used in place of frames and tokens where they are (`feature_cache.with_features`)."""
    table: pd.DataFrame
    token_ids: torch.Tensor
    token_mask: torch.Tensor
    frames: FrameStore
    frame_mask: torch.Tensor
    skipped: dict
    features: FrameStore | None = None
    words: object = None
    missing: list = dataclasses.field(default_factory=list)

    def __len__(self):
        return len(self.table)

    @property
    def text_to_video(self) -> torch.Tensor:
        """[N] int64: the video of each caption."""
        return torch.tensor(self.table['video'].to_numpy())

    @property
    def counts(self) -> dict[str, int]:
        """How many videos the split lists, and how many of them are missing, unreadable, used."""
        unreadable, used = len(self.skipped) + len(self.lost), len(self.frames) - len(self.lost)
        return dict(listed=used + unreadable + len(self.missing), missing=len(self.missing),
                    unreadable=unreadable, used=used)

    @property
    def lost(self) -> dict[int, str]:
        """{row: why} of videos that could be read at first, and no longer can."""
        return self.source.lost

    @property
    def source(self) -> FrameStore:
        """The store that batches are read from."""
        return self.frames if self.features is None else self.features

    def texts(self, rows: Sequence[int], device: str | torch.device = 'cpu',
              length: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """token_ids, mask [n, length]; by default as long as the longest of these captions."""
        mask = self.token_mask[rows]
        length = length or int(mask.sum(1).max())
        return self.token_ids[rows, :length].to(device), mask[:, :length].to(device)

    def videos(self, rows: Sequence[int],
               device: str | torch.device = 'cpu') -> tuple[torch.Tensor, torch.Tensor]:
        """pixels float [n, F, 3, S, S] in CLIP's scale, mask [n, F]"""
        return pixels(*next(self.frames.blocks([np.asarray(rows)])), device)

    def batches(self, blocks: Iterable) -> Iterator[Batch]:
        """A Batch for each block of caption rows [B] in turn, while the next ones are read.

        Of several processes each gets its share of the rows; captions are padded to the longest of
        the whole block, so that all processes have the same length."""
        owner = self.text_to_video
        blocks, ahead = tee(np.asarray(rows) for rows in blocks)  # the store reads ahead of us
        videos = (owner[distributed.share(rows)] for rows in ahead)
        for rows, read in zip(blocks, self.source.blocks(videos)):
            share = distributed.share(rows)
            length = int(self.token_mask[rows].sum(1).max())
            batch = Batch(video_ids=owner[share])
            self._add_texts(batch, share, length)
            self._add_videos(batch, *read)
            yield batch

    def text_batches(self, blocks: Iterable, length: int) -> Iterator[Batch]:
        """A Batch of captions alone for each block of rows, padded to `length`."""
        for rows in blocks:
            batch = Batch()
            self._add_texts(batch, rows, length)
            yield batch

    def video_batches(self, blocks: Iterable) -> Iterator[Batch]:
        """A Batch of videos alone for each block of video rows, while the next ones are read."""
        for read in self.source.blocks(blocks):
            batch = Batch()
            self._add_videos(batch, *read)
            yield batch

    def _add_texts(self, batch, rows, length):
        if self.words is None:
            batch.token_ids, batch.text_mask = self.texts(rows, length=length)
        else:
            batch.words, batch.text_mask = self.words.texts(rows, length)

    def _add_videos(self, batch, array, mask):
        batch.frame_mask = torch.from_numpy(mask)
        if self.features is None:
            batch.frames = torch.from_numpy(array)
        else:
            batch.features = torch.from_numpy(array)


def load_pairs(table: pd.DataFrame, config: Config, size: int = 32,
               cache: str | os.PathLike | None = None, workers: int | None = None,
               log: Callable[[str], object] | None = None) -> Pairs:
    """Decode a table's videos and tokenise its captions: Pairs.

    table: a DataFrame, a row a caption, with video_id, path, caption and perhaps start and end (of
    the part that is meant, in seconds). size: the side in pixels that CLIP looks at. Unreadable
    videos are skipped, counted and listed. ValueError names a missing column, an empty caption, or
    an id that stands for two things; VideoError says that no video could be read."""
    missing = table.attrs.get('missing', [])  # of a table of `datasets.readers`
    table = _checked_table(table)
    videos = table.drop_duplicates('video_id')
    spans = list(zip(videos['start'], videos['end']))
    frames, mask, unreadable = load_frames(
        videos['path'].tolist(), config.max_frames, size, config.framerate, cache, workers,
        spans, config.sampling, config.cache_frames, config.reader)
    video_ids = videos['video_id'].tolist()
    skipped = {video_ids[v]: why for v, why in unreadable.items()}
    if len(skipped) == len(video_ids):
        first = next(iter(skipped.values()), 'there is none')
        raise VideoError(f'none of the {len(video_ids)} videos could be read; the first: {first}')
    if skipped:
        if log:
            log(f'skipped {len(skipped)} of {len(video_ids)} videos that could not be read, the '
                f'first: {next(iter(skipped.values()))}')
        kept = np.array([v for v in range(len(video_ids)) if v not in unreadable])
        frames, mask = frames.take(kept), mask[kept]
        video_ids = [video_ids[v] for v in kept]
        table = table[~table['video_id'].isin(skipped)]
    row_of = {video_id: v for v, video_id in enumerate(video_ids)}
    table = table.assign(video=table['video_id'].map(row_of)).reset_index(drop=True)
    token_ids, token_mask = tokenize(table['caption'].tolist(), config.max_words)
    return Pairs(table, token_ids, token_mask, frames, mask, skipped, missing=missing)


def _checked_table(table):
    """The table with start and end; ValueError where it cannot be what `load_pairs` takes."""
    for column in ('video_id', 'path', 'caption'):
        if column not in table:
            raise ValueError(f'the table of captions lacks the column {column!r}; it has '
                             f'{", ".join(table.columns)}')
    missing = [column for column in ('start', 'end') if column not in table]
    table = table.assign(**dict.fromkeys(missing))
    things = table.drop_duplicates(['video_id', 'path', 'start', 'end'])
    twice = things[things['video_id'].duplicated()]
    if len(twice):
        row = twice.iloc[0]
        raise ValueError(f'video_id {row["video_id"]!r} stands for two things: {row["path"]} from '
                         f'{row["start"]} to {row["end"]} s (row {row.name}), and another path or '
                         f'part before that. Give each its own id.')
    return table
