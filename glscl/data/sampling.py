"""Which frames of a video, and which pixels of a frame."""
import functools
import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..runtime.devices import pick_device, sent

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class VideoError(ValueError):
    """A video that cannot be used; the message names the file, the reason and the remedy.

    final: it will be so until the file changes; else (a permission, a disk, memory) perhaps not."""

    def __init__(self, message, final=True):
        super().__init__(message)
        self.final = final


def sample_frame_indices(n_frames, fps, max_frames, framerate=1, start=None, end=None,
                         sampling='stride', seconds=None):
    """Indices of at most `max_frames` of a file's frames, `framerate` a second, evenly thinned.

    start, end: seconds of the part wanted, see `span`; one behind the last frame gives no index.
    sampling: one of the released code's two ways. "stride" (its decord path: MSR-VTT, MSVD, LSMDC)
    strides by fps / framerate, rounded half to even. "seconds" (its OpenCV path: DiDeMo,
    ActivityNet) cuts fps to a whole number (29.97: 29) and goes from second to second, the last one
    included. A file slower than `framerate` gives every frame (the released code stops there,
    dividing by zero).

    seconds: [n_frames + 1], when each frame is shown and the last one ends, of a file whose rate
    varies. Of a part of it the frames are then those on screen at `start` and every 1 / framerate
    after, up to `end`; the released code would take those of another part. Raises ValueError."""
    _check_numbers(n_frames=n_frames, fps=fps)
    check_wish(max_frames, framerate, start, end, sampling)
    start, end = span(start, end)
    if seconds is not None and (start, end) != (0, None):
        last = seconds[-1] if end is None else min(end, seconds[-1])
        moments = np.arange(start, last + 1e-6, 1 / min(framerate, 1000))
        indices = np.unique(np.searchsorted(seconds, moments, 'right') - 1)
        indices = indices[(indices >= 0) & (indices < n_frames)]
    elif sampling == 'stride':
        last = n_frames - 1 if end is None else int(min(end * fps, n_frames - 1))
        stride = max(1, int(round(fps / framerate)))
        indices = np.arange(int(start * fps), last + 1, stride)
    else:
        fps = max(1, int(fps))
        length = math.ceil(n_frames / fps)
        last = length if end is None else min(end, length)
        seconds = np.arange(start, last + 1, max(1, 1 / framerate))
        of_a_second = np.arange(0, fps, max(1, int(fps // framerate)))[:max(1, int(framerate))]
        indices = ((seconds * fps).astype(int)[:, None] + of_a_second).ravel()
        indices = indices[indices < n_frames]
    if len(indices) > max_frames:
        indices = indices[np.linspace(0, len(indices) - 1, max_frames, dtype=int)]
    return indices.tolist()


def check_wish(max_frames, framerate, start, end, sampling, size=None):
    """ValueError for what can be wished of no video, which is then not to blame."""
    _check_numbers(max_frames=max_frames, framerate=framerate)
    span(start, end)
    if sampling not in ('stride', 'seconds'):
        raise ValueError(f'sampling is "stride" or "seconds", not {sampling!r}')
    if size is not None and (not isinstance(size, numbers.Integral) or not 1 <= size <= 4096):
        raise ValueError(f'size must be a whole number of pixels from 1 to 4096, not {size!r}')


def _check_numbers(**values):
    """ValueError for one that is no positive number, or no whole one where it counts frames."""
    for name, value in values.items():
        kind, what = numbers.Real, 'number from 1e-09'
        if 'frames' in name:
            kind, what = numbers.Integral, 'whole number from 1'
        if not isinstance(value, kind) or not 1e-9 <= value <= 10 ** 9:
            raise ValueError(f'{name} must be a {what} to 1e+09, not {value!r}')


def span(start: float | None, end: float | None) -> tuple[int, int | None]:
    """A part of a video as the released code reads it: (start, end) in whole seconds.

    Fractions are cut off, negative ones count as 0, swapped ones are swapped back, equal ones make
    a second. Where none is given (None, or NaN: a table's empty cell) start is 0 and end None.
    ValueError for what is no number of seconds."""
    def whole(x: Any) -> Any:
        if x is None or x != x:
            return None
        try:
            return min(max(0, int(x)), 10 ** 9)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f'a part of a video begins and ends at a number of seconds, not at '
                             f'{x!r}') from None
    start, end = whole(start), whole(end)
    if start is None or end is None:
        return start or 0, end
    return min(start, end), (start + 1 if start == end else max(start, end))


def resize(frame: np.ndarray, size: int | None) -> np.ndarray:
    """CLIP's transform up to normalisation: uint8 [H, W, 3] -> uint8 [size, size, 3].

    The short side to `size` by bicubic interpolation, then the central square. None: no change."""
    if size is None:
        return frame
    check_wish(1, 1, None, None, 'stride', size)
    if frame.ndim != 3 or frame.dtype != np.uint8 or frame.shape[2] != 3 or not frame.size:
        raise ValueError(f'a frame is uint8 [H, W, 3], not {frame.dtype} {list(frame.shape)}')
    height, width = frame.shape[:2]
    scale = min(height, width)
    new_height, new_width = int(size * height / scale), int(size * width / scale)
    left, top = int(round((new_width - size) / 2)), int(round((new_height - size) / 2))
    # first along the rows, as Pillow does in one call, but then of the columns that stay only
    image = Image.fromarray(frame).resize((new_width, height), Image.BICUBIC)
    image = image.crop((left, 0, left + size, height)).resize((size, new_height), Image.BICUBIC)
    return np.array(image.crop((0, top, size, top + size)))


def normalise(frames: np.ndarray | torch.Tensor) -> torch.Tensor:
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in CLIP's scale (torch tensors)."""
    frames = torch.as_tensor(frames).movedim(-1, -3).float() / 255
    mean, std = _scale(frames.device)
    return (frames - mean) / std


@functools.cache  # sent once to a device, for each copy is a launch
def _scale(device):
    return [sent(torch.tensor(x), device).view(3, 1, 1) for x in (CLIP_MEAN, CLIP_STD)]


def pixels(frames: np.ndarray | torch.Tensor, mask: Sequence | np.ndarray | torch.Tensor,
           device: str | torch.device = 'cpu') -> tuple[torch.Tensor, torch.Tensor]:
    """Frames as they are stored, uint8 [n, F, S, S, 3], as CLIP takes them, on that device.

    Returns (float [n, F, 3, S, S], mask [n, F]). Padding is zero after normalisation, as the
    released loader leaves it. ValueError for anything else."""
    frames, mask = torch.as_tensor(frames), torch.as_tensor(() if mask is None else mask)
    if (frames.dtype != torch.uint8 or frames.ndim != 5 or frames.shape[-1] != 3
            or mask.shape != frames.shape[:2]):
        raise ValueError(f'frames are uint8 [n, F, H, W, 3] and their mask is [n, F], not '
                         f'{frames.dtype} {list(frames.shape)} and {list(mask.shape)}')
    mask = mask.to(pick_device(device))
    frames = normalise(frames.to(mask.device))
    return frames * mask[:, :, None, None, None], mask
