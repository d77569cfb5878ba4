"""Which frames of a video, and reading just those (PyAV)."""
import re
from bisect import bisect_right
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
STILLS = ('GIF', 'PNG', 'JPEG', 'BMP', 'WEBP', 'TIFF')  # what poses as a video: each has decoders that make one frame of it


class VideoError(ValueError):
    """A video that cannot be used; the message names the file, the reason and the remedy."""


# ---- which frames

def sample_frame_indices(n_frames, fps, max_frames, framerate=1, start=None, end=None, sampling='stride'):
    """Indices of at most `max_frames` frames, `framerate` a second, thinned evenly if more: the released code's two ways.

    n_frames: frames in the file; fps: its frames per second; start, end: seconds of the part wanted (None: all). As in the
    released code, their fractions are cut off, negative ones count as 0, swapped ones are swapped back, and equal ones make
    a second. A part behind the last frame gives no index.
    sampling: "stride" (its decord path: MSR-VTT, MSVD, LSMDC) strides by fps / framerate, rounded half to even; "seconds"
    (its OpenCV path: DiDeMo, ActivityNet) cuts fps to a whole number (29.97: 29) and goes from second to second, the last
    one included. A file slower than that gives every frame (the released code stops there, dividing by zero)."""
    if n_frames < 1:
        raise ValueError(f'a video needs at least one frame, this one has {n_frames}')
    if not 0 < fps < float('inf'):
        raise ValueError(f'frames per second must be positive, not {fps}')
    start, end = span(start, end)
    if sampling == 'stride':
        last = n_frames - 1 if end is None else int(min(end * fps, n_frames - 1))
        indices = np.arange(int(start * fps), last + 1, max(1, int(round(fps / framerate))))
    elif sampling == 'seconds':
        fps = max(1, int(fps))
        total = -(-n_frames // fps)
        seconds = np.arange(start, (total if end is None else min(end, total)) + 1, max(1, 1 / framerate))
        a_second = np.arange(0, fps, max(1, int(fps // framerate)))[:max(1, int(framerate))]
        indices = ((seconds * fps).astype(int)[:, None] + a_second).ravel()
        indices = indices[indices < n_frames]
    else:
        raise ValueError(f'sampling is "stride" or "seconds", not {sampling!r}')
    if len(indices) > max_frames:
        indices = indices[np.linspace(0, len(indices) - 1, max_frames, dtype=int)]
    return indices.tolist()


def span(start, end):
    """Whole seconds (0, None where not given) in order. A table's empty cell is NaN."""
    start, end = (None if x is None or x != x else max(0, int(x)) for x in (start, end))
    if start is not None and end is not None:
        start, end = (start, start + 1) if start == end else sorted((start, end))
    return start or 0, end


# ---- which pixels

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


def pixels(frames, mask, device='cpu'):
    """Frames as a store gives them, uint8 [n, F, S, S, 3], as CLIP takes them: float [n, F, 3, S, S], mask [n, F].

    Padding is zero after normalisation, as the released loader leaves it."""
    import torch
    mask = torch.as_tensor(mask).to(device)
    return normalise(torch.as_tensor(frames).to(device)) * mask[:, :, None, None, None], mask


# ---- reading

def read_frames(path, max_frames=12, framerate=1, size=None, start=None, end=None, sampling='stride'):
    """Decode the sampled frames: (uint8 [F, H, W, 3], indices), upright where the file says how it was held.

    `size` applies `resize`; start, end (seconds) and sampling as in `sample_frame_indices`. Where a file holds fewer frames
    than it promises (a last one that cannot be decoded), the indices are taken anew from those it holds; with more than one
    and a tenth of all missing it is truncated. Raises VideoError."""
    return _checked(path, partial(_pick, path, max_frames, framerate, start, end, sampling),
                    (lambda frame: frame) if size is None else partial(resize, size=size))


def frame_indices(path, max_frames=12, framerate=1, start=None, end=None, sampling='stride'):
    """The indices that `read_frames` will take, int [F]; decodes the first of them only, which finds most bad files.

    Raises VideoError."""
    indices = []

    def first(n_frames, fps):
        indices[:] = _pick(path, max_frames, framerate, start, end, sampling, n_frames, fps)
        return indices[:1]
    _checked(path, first, lambda frame: frame)
    return np.array(indices)


def _pick(path, max_frames, framerate, start, end, sampling, n_frames, fps):
    """`sample_frame_indices` of a file, with what is wrong said of that file."""
    if n_frames < 1:
        raise VideoError(f'{path}: holds no frame that can be decoded. Copy it again, or take it out of the list.')
    path = Path(path)
    if not fps > 0:
        if n_frames > 1:
            raise VideoError(f'{path}: does not say how many frames a second it has (it says {fps}). Write it again with a '
                             f'rate: ffmpeg -r 25 -i {path.name} -r 25 new{path.suffix}')
        fps = 1  # a single frame has no rate, and needs none
    indices = sample_frame_indices(n_frames, fps, max_frames, framerate, start, end, sampling)
    if not indices:
        raise VideoError(f'{path}: ends before its annotated start (it is {n_frames / fps:.1f} s long, the part begins at '
                         f'{start} s). Is it the whole video, and does the annotation belong to it?')
    return indices


def _checked(path, pick, keep):
    path = Path(path)
    if not path.is_file():
        raise VideoError(f'{path}: no such file. Is data_dir right, and was the video downloaded?')
    if path.stat().st_size == 0:
        raise VideoError(f'{path}: the file is empty (0 bytes). Download or copy it again.')
    try:
        with Image.open(path, formats=STILLS) as image:
            raise VideoError(f'{path}: is a picture ({image.format}) with the name of a video. Put the video in its place.')
    except UnidentifiedImageError:
        pass
    try:
        frames, indices = _decode(path, pick, keep)
    except VideoError:
        raise
    except Exception as error:  # FFmpeg's errors have classes of their own
        reason = re.sub(r'^\[Errno \d+\] ', '', ' '.join(str(error).split())).split(':')[0][:160] or type(error).__name__
        raise VideoError(f'{path}: cannot be decoded as a video ({reason}). It may be truncated or of another '
                         f'kind; play it, then copy it again or take it out of the list.') from None
    return np.stack(frames), indices


def _decode(path, pick, keep):
    """(kept frames, indices): what pick(n_frames, fps) wants, each as keep(frame) leaves it.

    The time stamps of the packets tell, before anything is decoded, which frames there are in which order, and where one
    may seek to. decord, which the released code reads with, gives the same frames of most files, and wrong ones without a
    word where H.264 has open groups of pictures, MPEG-4 in .avi has B frames, or the file is a .ts.
    A frame leaves the decoder in full size: swscale's bicubic is not the PIL one of the released transform (42 of 255 apart
    at most, 1.2 on average, on a film of 720 lines shrunk to 224)."""
    import av
    with av.open(str(path)) as container:
        stream = container.streams.best('video')  # some files hold a second, smaller one
        if stream is None:
            raise VideoError(f'{path}: holds no video stream (a sound file?). Copy it again, or take it out of the list.')
        stream.codec_context.thread_count = 1     # many videos are read at once instead
        packets, moments = [], [0]                # moments: seconds, of whichever stream goes on longest
        for packet in container.demux():
            if packet.pts is not None:
                moments.append(float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream is stream and packet.size and not packet.is_discard:
                packets.append((packet.pts, packet.is_keyframe))
        promised, begins = ((seconds or 0) / av.time_base for seconds in (container.duration, container.start_time))
        length = max(moments) - begins
        if length < min(0.9 * promised, promised - 1):
            raise VideoError(f'{path}: ends after {length:.1f} of {promised:.1f} s; it looks truncated. Copy it again.')
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        indices = pick(len(packets), fps)
        frames = _seek(container, stream, packets, indices, keep)
    return (frames, indices) if frames else _count(path, len(packets), fps, pick, keep)


def _seek(container, stream, packets, indices, keep):
    """The wanted frames by their time stamps, from the nearest key frame each; None where that does not find all of them."""
    import av
    times = [time for time, _ in packets]
    if None in times or len(set(times)) < len(times):
        return None
    keys = sorted(time for time, key in packets if key)
    if container.format.name == 'avi' and times != sorted(times):
        return None  # .avi holds no time stamps: they are guessed, and with B frames guessed wrongly
    times.sort()
    wanted, frames, at, decoder = {times[i] for i in indices}, [], None, None
    try:
        for time in sorted(wanted):
            key = keys[bisect_right(keys, time) - 1]
            if at is None or key > at:
                container.seek(key, stream=stream)
                at, decoder = times[0] - 1, _decoded(container, stream, wanted)
            for frame in decoder:
                if frame.pts is None or frame.pts < at:
                    return None
                at = frame.pts
                if at >= time:
                    break
            if at != time:
                return None
            frames.append(keep(upright(frame)))
    except (av.error.FFmpegError, IndexError):
        return None
    return frames


def _decoded(container, stream, wanted):
    """Frames from here on, without those that are neither wanted nor needed by another one."""
    for packet in container.demux(stream):
        stream.codec_context.skip_frame = 'DEFAULT' if packet.pts in wanted else 'NONREF'
        yield from packet.decode()


def upright(frame):
    """uint8 [H, W, 3], turned as the file says it is to be shown."""
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format='rgb24'), round(getattr(frame, 'rotation', 0) / 90)))


def _count(path, n_frames, fps, pick, keep):
    """The wanted frames by decoding everything; if fewer frames come than promised, those are what is sampled from."""
    import av
    for promised in (n_frames, None):
        indices = pick(promised or found, fps)
        wanted, frames, found = set(indices), [], 0
        with av.open(str(path)) as container:
            stream = container.streams.best('video')
            stream.codec_context.thread_count = 1
            for packet in container.demux(stream):
                try:
                    decoded = packet.decode()
                except av.error.InvalidDataError:
                    continue
                for frame in decoded:
                    if found in wanted:
                        frames.append(keep(upright(frame)))
                    found += 1
        if found < min(0.9 * n_frames, n_frames - 1):
            raise VideoError(f'{path}: only {found} of {n_frames} frames could be decoded; the file looks truncated. '
                             f'Copy it again.')
        if len(frames) == len(indices):
            break
    return frames, indices


def write_video(path, frames, fps):
    """uint8 [F, H, W, 3] to an H.264 .mp4 (even height and width), the same bytes for the same frames.

    Without x264's lookahead (`zerolatency`): with it one file in twenty came out differently from process to process."""
    import av
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = 'yuv420p'
        stream.options = {'crf': '18', 'preset': 'veryfast', 'tune': 'zerolatency', 'threads': '1', 'g': '12'}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())
