"""Captions and video files as a user has them, straight to features and scores."""
import os
import re
import sys
import warnings
from collections.abc import Sequence

import numpy as np
import torch

from .clip_models import ClipModel, evaluating
from .data.batch import Items
from .data.errors import VideoError
from .data.pixels import pixels
from .data.tokens import tokenize, tokenizer
from .data.video import open_video, read_frames
from .runtime.devices import autocast

VideoFile = str | os.PathLike
SHAPES = (64, 64)  # width and height in pixels of every video of `shapes`
LOOKED_AT = 5      # videos asked for their size: a folder of others shows it in the first few
NAMED = 8          # unknown words that a warning names


def score(model: ClipModel, captions: str | Sequence[str],
          paths: VideoFile | Sequence[VideoFile]) -> float | torch.Tensor:
    """S of the paper, the score of captions with video files: a float for one caption and one
    file, else a tensor with a row a caption and a column a file.

        model.score('a red ring shrinks', 'film.mp4')
        model.score(['a red ring shrinks', 'a blue square grows'], ['a.mp4', 'b.mp4'])

    model: of any head. A warning says where it knows moving shapes only and a file shows something
    else. ValueError for an empty caption or list; VideoError for a file that cannot be read."""
    one_caption, one_path = isinstance(captions, str), isinstance(paths, (str, bytes, os.PathLike))
    try:
        captions = [captions] if one_caption else list(captions)
        paths = [paths] if one_path else list(paths)
    except TypeError:
        captions = paths = ()
    if not captions or not paths:
        raise ValueError('give a caption and a video file, or lists of them')
    line = beyond_shapes(model, paths)
    if line:
        warnings.warn(f'{line} Take a run trained with another CLIP, or a CLIP as it '
                      f'is: glscl.ZeroShot("ViT-B-32", "openai")', stacklevel=3)
    with torch.no_grad(), evaluating(model):
        S = model.similarity(encode_captions(model, captions), encode_files(model, paths))
    S = S.float().cpu()                                                     # [T, V]
    S = S[0] if one_caption else S
    S = S[..., 0] if one_path else S
    return S if S.ndim else S.item()


def beyond_shapes(model: ClipModel, paths: Sequence[VideoFile]) -> str | None:
    """What to say where a model with the small CLIP, as the shipped one, meets other videos than
    those of `shapes`, which are all of one small size; else None.

    The first few files are asked for their size; those that cannot be read say nothing."""
    if model.clip.rows is None:  # a CLIP with a row for every token was trained on more
        return None
    for path in paths[:LOOKED_AT]:
        try:
            with open_video(path) as (_, stream):
                size = stream.codec_context.width, stream.codec_context.height
        except VideoError:
            continue
        if size != SHAPES:
            return (f'{path} is no video of `shapes`, and this model knows moving shapes only (its '
                    f'CLIP is the small one): on other videos its scores mean nothing.')
    return None


def unknown_words(model: ClipModel, captions: Sequence[str]) -> str:
    """The words of captions that the small CLIP has never met, the first few; none of any other
    CLIP."""
    rows, encode = model.clip.rows, tokenizer().encode
    if rows is None:
        return ''
    words = dict.fromkeys(word for text in captions for word in re.findall(r'\w+|[^\w\s]+', text))
    unknown = [word for word in words if (rows[encode(word)] == 1).any()]
    more = f' and {len(unknown) - NAMED} more' if len(unknown) > NAMED else ''
    return ', '.join(unknown[:NAMED]) + more


def at_least_one(**numbers: int) -> None:
    """ValueError, by its name, for what is no whole number of 1 or more."""
    for name, n in numbers.items():
        if isinstance(n, bool) or not hasattr(n, '__index__') or n < 1:
            raise ValueError(f'{name} must be a whole number of 1 or more, not {n!r}')


@torch.no_grad()
def encode_captions(model: ClipModel, captions: Sequence[str], batch: int = 200) -> Items:
    """A list of T strings -> Texts, `batch` at a time, in the device's precision.

    One warning names the words that the small CLIP does not know. ValueError for no text, or what
    is no list of texts."""
    at_least_one(batch=batch)
    if not isinstance(captions, (str, bytes)) and hasattr(captions, '__iter__'):
        captions = list(captions)
    if captions == []:
        raise ValueError('there are no texts to encode')
    token_ids, mask = tokenize(captions, model.config.max_words)            # [T, L] both
    length = int(mask.sum(1).max())
    token_ids = token_ids[:, :length].to(model.device).split(batch)
    mask = mask[:, :length].to(model.device).split(batch)
    unknown = unknown_words(model, captions)
    if unknown:
        _tell(f'words that are not in the small CLIP\'s vocabulary, and all count as one unknown '
              f'word: {unknown}. Say it in other words, or take a CLIP that reads them: '
              f'glscl.ZeroShot("ViT-B-32", "openai")')
    with evaluating(model), autocast(model.device), warnings.catch_warnings():
        warnings.filterwarnings('ignore', '.* tokens are not in the small CLIP')  # said already
        parts = list(map(model.encode_texts, token_ids, mask))
    return parts[0].cat(parts)


def _tell(line):
    """A warning in every call, where Python would show it once; it names the line of a script from
    which this package was called."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get('__name__', '').split('.')[0] in ('glscl', 'torch'):
        frame = frame.f_back
    warnings.warn_explicit(line, UserWarning, frame.f_code.co_filename, frame.f_lineno)


@torch.no_grad()
def encode_files(model: ClipModel, paths: Sequence[VideoFile]) -> Items:
    """V video files -> Videos, one at a time, sampled and resized as the model's config says.
    ValueError for none, VideoError for one that cannot be read."""
    c, parts = model.config, []
    if isinstance(paths, (str, bytes, os.PathLike)) or not len(paths):
        raise ValueError(f'paths are a list of video files, also a single one, not {paths!r:.60}')
    with evaluating(model), autocast(model.device):
        for path in paths:
            frames, _ = read_frames(path, c.max_frames, c.framerate, model.clip.image_size,
                                    sampling=c.sampling, reader=c.reader)
            padded = np.zeros((1, c.max_frames, *frames.shape[1:]), np.uint8)
            padded[0, :len(frames)] = frames
            mask = torch.arange(c.max_frames)[None] < len(frames)
            parts.append(model.encode_videos(*pixels(padded, mask, model.device)))
    return parts[0].cat(parts)
