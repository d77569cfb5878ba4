"""Captions and video files as a user has them, straight to features and scores."""
import os

import numpy as np
import torch

from .clip_models import evaluating
from .data.sampling import pixels
from .data.tokens import tokenize
from .data.video import read_frames
from .runtime.devices import autocast


def score(model, captions, paths):
    """S of the paper, the score of captions with video files: a float for one caption and one
    file, else a tensor with a row a caption and a column a file.

        model.score('a red ring shrinks', 'film.mp4')
        model.score(['a red ring shrinks', 'a blue square grows'], ['a.mp4', 'b.mp4'])

    model: of any head. ValueError for an empty caption or list; VideoError for a file that cannot
    be read."""
    one_caption, one_path = isinstance(captions, str), isinstance(paths, (str, os.PathLike))
    captions = [captions] if one_caption else list(captions)
    paths = [paths] if one_path else list(paths)
    if not captions or not paths:
        raise ValueError('give a caption and a video file, or lists of them')
    with torch.no_grad(), evaluating(model):
        S = model.similarity(encode_captions(model, captions), encode_files(model, paths))
    S = S.float().cpu()                                                     # [T, V]
    S = S[0] if one_caption else S
    S = S[..., 0] if one_path else S
    return S if S.ndim else S.item()


@torch.no_grad()
def encode_captions(model, captions, batch=200):
    """A list of T strings -> Texts, `batch` at a time, in the device's precision."""
    token_ids, mask = tokenize(captions, model.config.max_words)            # [T, L] both
    length = int(mask.sum(1).max())
    token_ids = token_ids[:, :length].to(model.device).split(batch)
    mask = mask[:, :length].to(model.device).split(batch)
    with evaluating(model), autocast(model.device):
        parts = list(map(model.encode_texts, token_ids, mask))
    return parts[0].cat(parts)


@torch.no_grad()
def encode_files(model, paths):
    """V video files -> Videos, one at a time, sampled and resized as the model's config says."""
    c, parts = model.config, []
    with evaluating(model), autocast(model.device):
        for path in paths:
            frames, _ = read_frames(path, c.max_frames, c.framerate, model.clip.image_size,
                                    sampling=c.sampling, reader=c.reader)
            padded = np.zeros((1, c.max_frames, *frames.shape[1:]), np.uint8)
            padded[0, :len(frames)] = frames
            mask = torch.arange(c.max_frames)[None] < len(frames)
            parts.append(model.encode_videos(*pixels(padded, mask, model.device)))
    return parts[0].cat(parts)
