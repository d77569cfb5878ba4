"""Reading the sampled frames of a video, and just those.

Every file that is read comes by `open_video`; whatever is wrong with it is a `VideoError`.

A frame's index is its place, in the order of display, among those that can be decoded: those before
the first key frame are left out. The same index is the same frame whatever else is asked for.
Frames are reached by seeking only where that is known to give what decoding from the start gives:
the container holds real time stamps, and the decoder forgets all at a key frame (`_restarts`)."""
import contextlib
import errno
import math
import os
import re
import stat
import warnings
from bisect import bisect_right
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer

from .errors import VideoError
from .pixels import resize
from .sampling import check_wish, sample_frame_indices

SEEKABLE = ('mov', 'matroska')             # containers, by the first of FFmpeg's names for them
# What disks, networks and busy systems say; of EIO FFmpeg also speaks where a file is damaged
PASSING = {errno.EACCES, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.EMFILE,
           errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT}
BRANDS = ('avif', 'heic', 'heix', 'mif1')  # .mp4's relatives with one picture


def read_frames(path: str | os.PathLike, max_frames: int = 12, framerate: float = 1,
                size: int | None = None, start: float | None = None, end: float | None = None,
                sampling: str = 'stride', reader: str = 'auto') -> tuple[np.ndarray, np.ndarray]:
    """Decode the sampled frames of a video: (uint8 [F, H, W, 3], their indices), upright.

    size: apply `resize`. reader: "pyav" ("auto" is the same) or "decord"; all others as in
    `sample_frame_indices`. decord gives the frames that the released code sees: mostly the same,
    but wrong ones without a word where H.264 has open groups of pictures, MPEG-4 in .avi has B
    frames, or the file is a .ts. It turns frames by quarters as the file says, but mirrors none.
    Where a file holds fewer frames than it promises (a last one that cannot be decoded), PyAV takes
    the indices anew from those it holds; with more than one and a tenth of all missing it is
    truncated. Raises VideoError, ValueError for a wrong setting, ImportError without decord."""
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
        return _fps(stream) or 1.0


def frame_seconds(path, indices):
    """When the frames at these indices are shown, in seconds from the first one of their file, by
    its time stamps where it has any: float [F]. Raises VideoError."""
    with open_video(path) as (container, stream):
        video = survey(path, container, stream)
    if video.seconds is None:
        return np.asarray(indices) / (video.fps or 1)
    return video.seconds[indices]


@contextlib.contextmanager
def open_video(path):
    """A video as (PyAV container, its video stream), closed at the end.

    Raises VideoError, also for whatever goes wrong in the caller's block."""
    path = _checked(path)
    try:
        # 'file:', else FFmpeg takes 12:30.mp4 for an address; tags are not always UTF-8
        with av.open(f'file:{path}', metadata_errors='ignore') as container:
            stream = _video_stream(path, container)
            stream.codec_context.thread_count = 1  # many videos are read at once instead
            yield container, stream
    except VideoError:
        raise
    except Exception as error:  # FFmpeg's and decord's errors have classes of their own
        if isinstance(error, MemoryError) or getattr(error, 'errno', None) in PASSING:
            raise _passing(path, error) from None
        raise VideoError(f'{path}: cannot be decoded as a video ({_reason(error)}). It may '
                         f'be truncated or of another kind; play it, then copy it again or take it '
                         f'out of the list.') from None


def _checked(path):
    """The Path of a file that is there and holds something. Raises VideoError."""
    try:
        path = Path(os.fsdecode(path))
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise VideoError(f'{path}: no such file, but a link to {os.readlink(path)}, which is '
                             f'not there. Put the video there, or take the link away.') from None
        raise VideoError(f'{path}: no such file. Is data_dir right, and was the video '
                         f'downloaded?') from None
    except (TypeError, ValueError, OSError) as error:
        if getattr(error, 'errno', None) in PASSING:
            raise _passing(path, error) from None
        raise VideoError(f'{str(path)[:100]!r}: is not the path of a video ({_reason(error)}). '
                         f'Write the path of the file in its place.') from None
    if not stat.S_ISREG(status.st_mode):
        raise VideoError(f'{path}: no such file, but a folder, a pipe or a device. Is data_dir '
                         f'right? Put the video in its place.')
    if status.st_size == 0:
        raise VideoError(f'{path}: the file is empty (0 bytes). Download or copy it again.')
    return path


def _passing(path, error):
    """The VideoError of what is no fault of the video's, and may pass."""
    why, remedy = _reason(error), 'Try again; if it stays so, copy the file again.'
    if isinstance(error, PermissionError):
        remedy = 'Allow it (chmod u+r), or ask its owner.'
    elif isinstance(error, MemoryError):
        why, remedy = 'no memory', 'Try again with fewer workers, or take it out of the list.'
    return VideoError(f'{path}: cannot be read now ({why}). {remedy}', final=False)


def _reason(error):
    """What FFmpeg or decord says, in a few words without code and path."""
    reason = ' '.join((getattr(error, 'strerror', None) or str(error)).split())
    reason = re.sub(r'^(\[.*?\] (/\S+: )?(Check failed: )?)+', '', reason).split(':')[0][:160]
    return reason or type(error).__name__


def _video_stream(path, container):
    """The best video stream: some files hold a second, smaller one, or the cover of an album."""
    covers = av.stream.Disposition.attached_pic
    streams = [stream for stream in container.streams.video if not stream.disposition & covers]
    if not streams:
        raise VideoError(f'{path}: holds no video stream (a sound file? a cover is no video). Copy '
                         f'it again, or take it out of the list.')
    best = container.streams.best('video')
    stream = best if best in streams else streams[0]
    kind, brand = container.format.name, container.metadata.get('major_brand')
    if (kind.endswith('_pipe') or kind == 'ico' or brand in BRANDS
            or kind in ('gif', 'apng') and not stream.average_rate):
        kind = brand if brand in BRANDS else kind.removesuffix('_pipe')
        raise VideoError(f'{path}: is a picture ({kind.upper()}) with the name of a video. '
                         f'Put the video in its place.')
    if stream.codec_context is None:
        raise VideoError(f'{path}: FFmpeg has no decoder for its codec. Convert it with a program '
                         f'that plays it, or take it out of the list.')
    return stream


class Video(NamedTuple):
    """What the packets tell before anything is decoded; times are in units of time_base."""
    n: int           # frames that can be decoded
    fps: float       # as stated; 0: not stated
    seconds: object  # float [n + 1]: when each is shown, from the file's first, and when the last
    #                  one ends; None where they come at the stated rate, or where it is not known
    times: list      # [n] when each is shown, rising; None where they must be decoded in order
    keys: list       # times of the key frames where decoding may begin, rising
    skip: int        # packets before the first key frame
    begin: int       # when that is shown; None where it is not known
    is_cut: bool     # the file ends before its container does

    def only(self, kept):
        """The video of some of its frames."""
        seconds = None if self.times is None or self.seconds is None else self.seconds[[*kept, -1]]
        return self._replace(n=len(kept), seconds=seconds)


def survey(path, container, stream):
    """The Video of an opened file.

    Raises VideoError where the packets end long before the length that the file states."""
    from .endings import is_cut, stated_size  # whoever trains from kept frames needs none of it
    kind, codec = container.format.name.split(',')[0], stream.codec_context
    is_avi, is_vp8 = kind == 'avi', codec.name == 'vp8'
    packets, keys, total, ends = [], [], 0, dict.fromkeys(range(len(container.streams)), 0)
    for packet in container.demux():  # the hot loop: some µs for each packet
        pts, dts, duration, n = packet.pts, packet.dts, packet.duration or 0, packet.stream_index
        if pts is not None and pts + duration > ends[n]:
            ends[n] = pts + duration
        if n != stream.index:
            continue
        if dts is not None:  # .avi counts those without content, which repeat a frame
            total = dts + 1 if is_avi else total + 1
        hidden = is_vp8 and packet.size and not memoryview(packet)[0] & 16
        if packet.size and not hidden:  # (RFC 6386, 9.1)
            # .avi holds no time stamps: those of B frames are guessed
            packets.append((dts if is_avi else pts, packet.is_keyframe, packet.is_discard))
            last = duration
            if packet.is_keyframe and _restarts(packet, codec):
                keys.append(pts)
    # of whichever stream goes on longest
    end = max(float(time * (container.streams[n].time_base or 0)) for n, time in ends.items())
    start = (container.start_time or 0) / av.time_base
    # some files count their length from 0, though their first frame comes later
    length = (container.duration or 0) / av.time_base - max(start, 0)
    size = kind == 'asf' and stated_size(path)
    for got, promised, unit in ((end - start, length, 's'), (total, stream.frames, 'frames'),
                                (os.path.getsize(path), size, 'bytes')):
        if got < min(0.9 * promised, promised - 1):
            raise VideoError(f'{path}: ends after {round(got, 2):.12g} of '
                             f'{round(promised, 2):.12g} {unit}; it looks truncated. Copy it '
                             f'again.')
    fps = _fps(stream)
    skip = next((n for n, (_, is_key, _) in enumerate(packets) if is_key), 0)
    begin = packets[skip][0] if packets and kind != 'avi' else None
    times = [time for time, _, is_discard in packets[skip:] if not is_discard
             and (begin is None or time is None or time >= begin)]
    video = Video(len(times), fps, None, None, None, skip, begin, is_cut(path, kind))
    if not times or None in times or len(set(times)) < len(times):
        return video
    times.sort()
    first = min(time for time, _, is_discard in packets if not is_discard and time is not None)
    edges = np.array([*times, times[-1] + last]) - first
    seconds = edges * float(stream.time_base)
    if fps and abs(seconds[:-1] - np.arange(len(times)) / fps).max() < 0.5 / fps:
        seconds = None
    video = video._replace(seconds=seconds)
    if kind in SEEKABLE and begin in keys:
        return video._replace(times=times, keys=sorted(keys))
    return video


def _fps(stream):
    """The frames per second that a stream states on average, 0 where it states nothing."""
    average, guess = stream.average_rate, stream.guessed_rate
    if average and guess and average * (stream.time_base or 0) == 1:  # raw DV: ticks of its clock
        average = guess
    return float(average or guess or 0)


def _restarts(packet, codec):
    """Whether every frame shown from this key frame on can be decoded from here, exactly.

    Of H.264 those with an IDR picture alone: what containers call key frames may also be mere
    points of recovery (ITU-T H.264, table 7-1)."""
    name, head = codec.codec.canonical_name, codec.extradata or b''
    if name != 'h264' or len(head) < 7:
        return name in ('hevc', 'vp9', 'av1')
    data, at, size = bytes(packet), 0, 1 + (head[4] & 3)  # bytes of a unit's length
    while at + size < len(data):
        kind = data[at + size] & 31
        if 1 <= kind <= 5:  # a part of a picture
            return kind == 5
        at += size + int.from_bytes(data[at:at + size], 'big')
    return False


def choose(path, video, wish):
    """`sample_frame_indices` of this file. Raises VideoError where it has no frame for that."""
    path, fps = Path(path), video.fps
    if video.n < 1:
        raise VideoError(f'{path}: holds no frame that can be decoded. Copy it again, or take it '
                         f'out of the list.')
    if not fps > 0 and video.n > 1:
        raise VideoError(f'{path}: does not say how many frames a second it has (it says {fps}). '
                         f'Write it again with a rate: ffmpeg -r 25 -i {path.name} -r 25 '
                         f'new{path.suffix}')
    fps = fps if fps > 0 else 1  # a single frame has no rate, and needs none
    indices = sample_frame_indices(video.n, fps, *wish, seconds=video.seconds)
    if not indices:
        length = video.n / fps if video.seconds is None else video.seconds[-1]
        raise VideoError(f'{path}: ends before its annotated start (it is {length:.1f} s '
                         f'long, the part begins at {wish[2]} s). Is it the whole video, '
                         f'and does the annotation belong to it?')
    return indices


def _read(path, wish, size, reader, limit=None):
    """(frames in their final form, indices); limit=1: only the first of the frames."""
    if reader not in ('auto', 'pyav', 'decord'):
        raise ValueError(f'reader is "auto", "pyav" or "decord", not {reader!r}')
    check_wish(*wish, size)
    if reader == 'decord':
        from .by_decord import read
        return read(path, wish, size, limit)
    path = _checked(path)
    with open_video(path) as (container, stream):
        video = survey(path, container, stream)
        indices = choose(path, video, wish)
        frames = video.times and _decode_by_seeking(container, stream, video, indices[:limit], size)
    if not frames:
        frames, there = _decode_in_order(path, video, indices[:limit], size)
        if len(there) < min(0.9 * video.n, video.n - 1):
            raise VideoError(f'{path}: only {len(there)} of {video.n} frames could be decoded; the '
                             f'file looks truncated. Copy it again.')
        if len(there) < video.n:
            indices = [there[n] for n in choose(path, video.only(there), wish)]
            frames, _ = _decode_in_order(path, video, indices[:limit], size)
    if video.skip:
        warnings.warn(f'{path}: its first frames cannot be decoded, as no key frame comes before '
                      f'them ({video.skip} of {video.skip + video.n}; was it cut out of a longer '
                      f'video?). They are left out.', stacklevel=4)
    if video.is_cut:
        warnings.warn(f'{path}: ends in the midst of its container, so it looks truncated. What '
                      f'there is is used; compare its length with the original.', stacklevel=4)
    return frames, indices


def _decode_by_seeking(container, stream, video, indices, size):
    """The frames at `indices`, each decoded from the nearest key frame before it.

    None where one of them does not come: then all are decoded in order."""
    frames, wanted = [], [video.times[i] for i in indices]
    with contextlib.suppress(av.error.FFmpegError):
        for n, times in groupby(wanted, lambda time: bisect_right(video.keys, time)):
            container.seek(video.keys[n - 1], stream=stream)
            frames += [resize(upright(frame), size)
                       for frame in _frames_from_here(container, stream, list(times))]
    return frames if len(frames) == len(wanted) else None


def _frames_from_here(container, stream, times):
    """The frames shown at these times, rising, as long as all come in order.

    What is neither wanted nor needed for them is not decoded."""
    codec, to_read, to_show, last = stream.codec_context, set(times), set(times), -math.inf
    skips = codec.name != 'hevc' or _has_one_layer(codec)
    for packet in container.demux(stream):
        # one packet more than needed: it may be the second field of the last frame
        is_end = not to_read
        if skips:
            codec.skip_frame = 'DEFAULT' if packet.pts in to_read else 'NONREF'
        to_read.discard(packet.pts)
        decoded = packet.decode()
        if is_end and packet.size:
            decoded += codec.decode(None)  # what it keeps back to bring it in order
        for frame in decoded:
            if frame.pts is None or frame.pts < last:
                return
            last = frame.pts
            if last in to_show:
                to_show.remove(last)
                yield frame
        if is_end or not to_show:
            return


def _has_one_layer(codec):
    """Whether no frame of an H.265 video is in a layer above others, which may need what is marked
    as not referred to (ISO/IEC 14496-15, 8.3.3.1.2: numTemporalLayers)."""
    head = codec.extradata or b''
    return len(head) > 21 and head[0] == 1 and head[21] >> 3 & 7 == 1


def _decode_in_order(path, video, indices, size):
    """(the frames at `indices`, the indices of all that there are), by decoding the whole file."""
    frames, there, wanted = [], [], set(indices)
    index_of = video.times and {time: index for index, time in enumerate(video.times)}
    with open_video(path) as (container, stream):
        for n, packet in enumerate(container.demux(stream)):
            if n < video.skip:
                continue
            for frame in _decoded(packet):
                if None not in (video.begin, frame.pts) and frame.pts < video.begin:
                    continue
                index = index_of.get(frame.pts) if index_of else len(there)
                if index is not None:
                    there.append(index)
                    if index in wanted:
                        frames.append(resize(upright(frame), size))
    return frames, there


def _decoded(packet):
    """The frames of a packet, none of a broken one."""
    try:
        return packet.decode()
    except av.error.FFmpegError as error:
        if error.errno in PASSING:
            raise
        return []


def upright(frame):
    """A decoded frame (PyAV) as uint8 [H, W, 3], turned and mirrored as its file says.

    In full size: swscale's bicubic is not the PIL one of the released transform (42 of 255 apart
    at most, 1.2 on average, on a video of 720 lines shrunk to 224)."""
    image = frame.to_ndarray(format='rgb24', threads=1)
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
