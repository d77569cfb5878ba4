"""Which frames of a video."""
import math
import numbers
from typing import Any

import numpy as np

from .pixels import check_size


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
    check_size(size)


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
