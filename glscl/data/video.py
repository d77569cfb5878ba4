"""Reading the sampled frames of a video, and just those.

Every file that is read comes by `open_video`; whatever is wrong with it is a `VideoError`."""
import contextlib
import math
import re
from bisect import bisect_right
from pathlib import Path

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from PIL import Image, UnidentifiedImageError

from .sampling import VideoError, resize, sample_frame_indices

PICTURES = ('GIF', 'PNG', 'JPEG', 'BMP', 'WEBP', 'TIFF')  # FFmpeg makes one frame of each


def read_frames(path, max_frames=12, framerate=1, size=None, start=None, end=None,
                sampling='stride', reader='auto'):
    """Decode the sampled frames of a video: (uint8 [F, H, W, 3], their indices), upright.

    size: apply `resize`. reader: "pyav" ("auto" is the same) or "decord"; all others as in
    `sample_frame_indices`. decord gives the frames that the released code sees: mostly the same,
    but wrong ones without a word where H.264 has open groups of pictures, MPEG-4 in .avi has B
    frames, or the file is a .ts. It turns frames by quarters as the file says, but mirrors none.
    Where a file holds fewer frames than it promises (a last one that cannot be decoded), PyAV takes
    the indices anew from those it holds; with more than one and a tenth of all missing it is
    truncated. Raises VideoError, and ImportError where decord is wanted and not installed."""
    wish = (max_frames, framerate, start, end, sampling)
    frames, indices = _read(path, wish, size, reader)
    if len({frame.shape for frame in frames}) > 1:
        raise VideoError(f'{path}: its frames differ in height and width. Read it with a `size`.')
    return np.stack(frames), indices


def frame_indices(path, max_frames=12, framerate=1, start=None, end=None, sampling='stride',
                  reader='auto'):
    """The indices that `read_frames` will take, int [F]; raises what it raises.

    Decodes the first of them only, which finds most bad files."""
    wish = (max_frames, framerate, start, end, sampling)
    _, indices = _read(path, wish, None, reader, limit=1)
    return np.array(indices)


def frame_rate(path):
    """The frames per second that a file states, 1.0 where it states none. Raises VideoError."""
    with open_video(path) as (_, stream):
        return float(stream.average_rate or stream.guessed_rate or 1)


@contextlib.contextmanager
def open_video(path):
    """A video as (PyAV container, its video stream), closed at the end.

    Raises VideoError, also for whatever goes wrong in the caller's block."""
    path = Path(path)
    if not path.is_file():
        raise VideoError(f'{path}: no such file. Is data_dir right, and was the video downloaded?')
    if path.stat().st_size == 0:
        raise VideoError(f'{path}: the file is empty (0 bytes). Download or copy it again.')
    with contextlib.suppress(UnidentifiedImageError):
        with Image.open(path, formats=PICTURES) as image:
            raise VideoError(f'{path}: is a picture ({image.format}) with the name of a video. '
                             f'Put the video in its place.')
    try:
        # 'file:', else FFmpeg takes 12:30.mp4 for an address; tags are not always UTF-8
        with av.open(f'file:{path}', metadata_errors='ignore') as container:
            stream = _video_stream(path, container)
            stream.codec_context.thread_count = 1  # many videos are read at once instead
            yield container, stream
    except VideoError:
        raise
    except Exception as error:  # FFmpeg's and decord's errors have classes of their own
        reason = ' '.join(str(error).split())
        reason = re.sub(r'^(\[.*?\] (/\S+: )?(Check failed: )?)+', '', reason).split(':')[0][:160]
        raise VideoError(f'{path}: cannot be decoded as a video '
                         f'({reason or type(error).__name__}). It may be truncated or of another '
                         f'kind; play it, then copy it again or take it out of the list.') from None


def _video_stream(path, container):
    """The best video stream: some files hold a second, smaller one, or the cover of an album."""
    covers = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        raise VideoError(f'{path}: holds no video stream (a sound file? a cover is no video). Copy '
                         f'it again, or take it out of the list.')
    best = container.streams.best('video')
    stream = best if best in streams else streams[0]
    if stream.codec_context is None:
        raise VideoError(f'{path}: FFmpeg has no decoder for its codec. Convert it with a program '
                         f'that plays it, or take it out of the list.')
    return stream


def _choose(path, n_frames, fps, wish):
    """`sample_frame_indices` of this file. Raises VideoError where it has no frame for that."""
    path = Path(path)
    if n_frames < 1:
        raise VideoError(f'{path}: holds no frame that can be decoded. Copy it again, or take it '
                         f'out of the list.')
    if not fps > 0 and n_frames > 1:
        raise VideoError(f'{path}: does not say how many frames a second it has (it says {fps}). '
                         f'Write it again with a rate: ffmpeg -r 25 -i {path.name} -r 25 '
                         f'new{path.suffix}')
    fps = fps if fps > 0 else 1  # a single frame has no rate, and needs none
    indices = sample_frame_indices(n_frames, fps, *wish)
    if not indices:
        raise VideoError(f'{path}: ends before its annotated start (it is {n_frames / fps:.1f} s '
                         f'long, the part begins at {wish[2]} s). Is it the whole video, '
                         f'and does the annotation belong to it?')
    return indices


def _read(path, wish, size, reader, limit=None):
    """(frames in their final form, indices); limit=1: only the first of the frames."""
    if reader == 'decord':
        return _read_by_decord(path, wish, size, limit)
    if reader not in ('auto', 'pyav'):
        raise ValueError(f'reader is "auto", "pyav" or "decord", not {reader!r}')
    with open_video(path) as (container, stream):
        fps = float(stream.average_rate or stream.guessed_rate or 0)
        times, keys = _survey(path, container, stream)
        indices = _choose(path, len(times), fps, wish)
        frames = _decode_by_seeking(container, stream, times, keys, indices[:limit], size)
    if frames is not None:
        return frames, indices
    frames, found = _decode_in_order(path, indices[:limit], size)
    if found < min(0.9 * len(times), len(times) - 1):
        raise VideoError(f'{path}: only {found} of {len(times)} frames could be decoded; the file '
                         f'looks truncated. Copy it again.')
    if indices[-1] >= found:
        indices = _choose(path, found, fps, wish)
        frames, _ = _decode_in_order(path, indices[:limit], size)
    return frames, indices


def _read_by_decord(path, wish, size, limit):
    try:
        import decord
    except ImportError:
        raise ImportError('reader "decord" is not installed (it exists for Windows, and Linux on '
                          'x86-64): pip install decord, or set reader to "auto"') from None
    decord.logging.set_level(decord.logging.QUIET)
    with open_video(path) as (container, stream):
        _survey(path, container, stream)  # decord fills up what a truncated file lacks
        video = decord.VideoReader(f'file:{path}', ctx=decord.cpu(0), num_threads=1)
        indices = _choose(path, len(video), video.get_avg_fps(), wish)
        frames = video.get_batch(indices[:limit]).asnumpy()
        return [resize(frame, size) for frame in frames], indices


def _survey(path, container, stream):
    """What the packets tell before anything is decoded: (times, keys), in units of time_base.

    times: when each frame is shown, in the order of the file; keys: those of the key frames.
    Raises VideoError where the packets end long before the length that the file states."""
    times, keys, end = [], [], 0.0
    for packet in container.demux():
        if packet.pts is not None:  # of whichever stream goes on longest
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.stream is stream and packet.size and not packet.is_discard:
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
    start = (container.start_time or 0) / av.time_base
    # some files count their length from 0, though their first frame comes later
    promised = (container.duration or 0) / av.time_base - max(start, 0)
    if end - start < min(0.9 * promised, promised - 1):
        raise VideoError(f'{path}: ends after {end - start:.1f} of {promised:.1f} s; it looks '
                         f'truncated. Copy it again.')
    return times, keys


def _decode_by_seeking(container, stream, times, keys, indices, size):
    """The frames at `indices`, each decoded from the nearest key frame before it.

    None where the time stamps do not lead to them: then all must be decoded in order."""
    if None in times or len(set(times)) < len(times):
        return None
    if stream.codec_context.pix_fmt == 'pal8':
        return None  # the palette may come once, with the first frame
    shown, keys = sorted(times), sorted(keys)
    if container.format.name == 'avi' and times != shown:
        return None  # .avi holds no time stamps: they are guessed, with B frames wrongly
    wanted = [shown[i] for i in indices]
    frames, position = [], -math.inf
    try:
        for time in wanted:
            key = keys[bisect_right(keys, time) - 1]
            if key > position:
                container.seek(key, stream=stream)
                decoder = _frames_from_here(container, stream, set(wanted))
            position = time
            frame = next((frame for frame in decoder if frame.pts >= time), None)
            if frame is None or frame.pts != time:
                return None
            frames.append(resize(upright(frame), size))
    except (av.error.FFmpegError, IndexError):  # no key frame at all
        return None
    return frames


def _frames_from_here(container, stream, wanted):
    """Frames as long as they come in order, without those that are neither wanted nor needed."""
    last = -math.inf
    for packet in container.demux(stream):
        stream.codec_context.skip_frame = 'DEFAULT' if packet.pts in wanted else 'NONREF'
        for frame in packet.decode():
            if frame.pts is None or frame.pts < last:
                return
            last = frame.pts
            yield frame


def _decode_in_order(path, indices, size):
    """(the frames at `indices`, how many there are in all), by decoding the whole file."""
    frames, found, wanted = [], 0, set(indices)
    with open_video(path) as (container, stream):
        for packet in container.demux(stream):
            with contextlib.suppress(av.error.InvalidDataError):
                for frame in packet.decode():
                    if found in wanted:
                        frames.append(resize(upright(frame), size))
                    found += 1
    return frames, found


def upright(frame):
    """A decoded frame (PyAV) as uint8 [H, W, 3], turned and mirrored as its file says.

    In full size: swscale's bicubic is not the PIL one of the released transform (42 of 255 apart
    at most, 1.2 on average, on a film of 720 lines shrunk to 224)."""
    image = frame.to_ndarray(format='rgb24')
    # not frame.side_data: that keeps the frame, and the threads of its conversion, until garbage
    # is collected, perhaps in a process forked meanwhile, which then waits for them for ever
    matrix = SideDataContainer(frame).get('DISPLAYMATRIX')
    if matrix is None:
        return image
    # a pixel at (x, y) is shown at (a x + c y, b x + d y), but for a shift
    (a, b, _), (c, d, _), _ = np.frombuffer(matrix, np.int32).reshape(3, 3).tolist()
    if abs(b) > abs(a):
        image, a, d = image.transpose(1, 0, 2), c, b
    image = image[::-1 if d < 0 else 1, ::-1 if a < 0 else 1]
    return np.ascontiguousarray(image)
