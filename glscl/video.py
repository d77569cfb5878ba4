"""Which frames of a video, and reading just those (decord; PyAV where decord has no wheel)."""
import re
import contextlib
import os
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class VideoError(ValueError):
    """A video that cannot be used; the message names the file, the reason and the remedy."""


def sample_frame_indices(n_frames, fps, max_frames, framerate=1):
    """Indices of at most `max_frames` frames, `framerate` a second, thinned evenly if more (MSR-VTT path of the released code).

    n_frames: frames in the file; fps: its frames per second. Rounds half to even, as the released code does; a file
    slower than `framerate` gives every frame (the released code stops there with a stride of zero)."""
    if n_frames < 1:
        raise ValueError(f'a video needs at least one frame, this one has {n_frames}')
    if not fps > 0:
        raise ValueError(f'frames per second must be positive, not {fps}')
    stride = max(1, int(round(fps / framerate)))
    indices = np.arange(0, n_frames, stride)
    if len(indices) > max_frames:
        indices = indices[np.linspace(0, len(indices) - 1, max_frames, dtype=int)]
    return indices.tolist()


def resize(frame, size):
    """Short side to `size` by bicubic interpolation, then the central square: CLIP's transform up to normalisation.

    frame: uint8 [H, W, 3]; returns uint8 [size, size, 3]."""
    h, w = frame.shape[:2]
    wide, high = (size, int(size * h / w)) if w <= h else (int(size * w / h), size)
    image = Image.fromarray(frame)
    if (wide, high) != (w, h):
        image = image.resize((wide, high), Image.BICUBIC)
    left, top = int(round((wide - size) / 2)), int(round((high - size) / 2))
    return np.array(image.crop((left, top, left + size, top + size)))


def normalise(frames):
    """uint8 [..., H, W, 3] -> float32 [..., 3, H, W] in CLIP's scale (torch tensors)."""
    import torch
    frames = torch.as_tensor(frames).movedim(-1, -3).float() / 255
    mean, std = (torch.tensor(c, device=frames.device).view(3, 1, 1) for c in (CLIP_MEAN, CLIP_STD))
    return (frames - mean) / std


def read_frames(path, max_frames=12, framerate=1, size=None):
    """Decode the sampled frames: (uint8 [F, H, W, 3], indices). `size` applies `resize`. Raises VideoError."""
    path = Path(path)
    if not path.is_file():
        raise VideoError(f'{path}: no such file. Is data_dir right, and was the video downloaded?')
    if path.stat().st_size == 0:
        raise VideoError(f'{path}: the file is empty (0 bytes). Download or copy it again.')
    try:
        frames, indices = _decode(path, max_frames, framerate)
    except VideoError:
        raise
    except Exception as error:  # each decoder has exception classes of its own
        reason = re.sub(r'^\[[\d:]+\] \S+:\d+: (Error: )?', '', ' '.join(str(error).split()))  # decord's time and source line
        reason = reason.split('. Please')[0][:160] or type(error).__name__
        raise VideoError(f'{path}: cannot be decoded as a video ({reason}). It may be truncated or of another '
                         f'kind; play it, then copy it again or take it out of the list.') from None
    if size is not None:
        frames = np.stack([resize(frame, size) for frame in frames])
    return frames, indices


@contextlib.contextmanager
def _quiet():
    """Nothing reaches file descriptor 2: decord writes a complaint of its own there, and its exception says it again."""
    kept = os.dup(2)
    try:
        with open(os.devnull, 'wb') as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _decode(path, max_frames, framerate):
    try:
        import decord
    except ImportError:
        return _decode_av(path, max_frames, framerate)
    with _quiet():
        reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    indices = sample_frame_indices(len(reader), reader.get_avg_fps(), max_frames, framerate)
    return reader.get_batch(indices).asnumpy(), indices


def _decode_av(path, max_frames, framerate):
    """The same with PyAV, in two passes: count, then decode up to the last frame wanted."""
    import av
    with av.open(str(path)) as container:
        stream = container.streams.best('video')  # as decord: some files hold a second, smaller one
        if stream is None:
            raise VideoError(f'{path}: holds no video stream (a sound file?). Copy it again, or take it out of the list.')
        n_frames = sum(packet.size > 0 for packet in container.demux(stream))
        fps = float(stream.average_rate or stream.guessed_rate or 0)
    indices = sample_frame_indices(n_frames, fps, max_frames, framerate)
    wanted, frames = set(indices), []
    with av.open(str(path)) as container:
        for i, frame in enumerate(container.decode(container.streams.best('video'))):
            if i in wanted:
                frames.append(frame.to_ndarray(format='rgb24'))
            if i == indices[-1]:
                break
    if len(frames) < len(indices):
        raise VideoError(f'{path}: only {len(frames)} of the {len(indices)} wanted frames could be decoded; '
                         f'the file looks truncated. Copy it again.')
    return np.stack(frames), indices


def write_video(path, frames, fps):
    """uint8 [F, H, W, 3] to an H.264 .mp4 (even height and width)."""
    import av
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = 'yuv420p'
        stream.options = {'crf': '18', 'preset': 'veryfast', 'threads': '1', 'g': '12'}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())
