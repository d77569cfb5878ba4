"""Which pixels of a frame, and as CLIP takes them."""
import functools
import numbers
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from ..runtime.devices import pick_device, sent

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def check_size(size):
    """ValueError for what is no side of a square of pixels; None is one: unchanged."""
    if size is not None and (not isinstance(size, numbers.Integral) or not 1 <= size <= 4096):
        raise ValueError(f'size must be a whole number of pixels from 1 to 4096, not {size!r}')


def resize(frame: np.ndarray, size: int | None) -> np.ndarray:
    """CLIP's transform up to normalisation: uint8 [H, W, 3] -> uint8 [size, size, 3].

    The short side to `size` by bicubic interpolation, then the central square. None: no change."""
    if size is None:
        return frame
    check_size(size)
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
