"""Frames per second of the data path against the plain way (decode all, then PIL, one process),
and on one core against the other readers of videos that are installed."""
import importlib.util
import itertools
import os
import tempfile
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np

from ..data.errors import VideoError
from ..data.frames import load_frames
from ..data.pixels import resize
from ..data.sampling import sample_frame_indices
from ..data.video import open_video, read_frames, upright
from ..runtime.records import machine
from .timing import rounds, timed

# What the five sets' files look like: codec, frames a second, short side, container, options
MIX = {
    'H.264 30/s 240p .mp4': ('libx264', 30, 240, '.mp4', {}),
    'H.264 25/s 480p .mkv': ('libx264', 25, 480, '.mkv', {}),
    'MPEG-4 25/s 240p .avi': ('mpeg4', 25, 240, '.avi', {'b': '600k'}),
    'VP9 30/s 360p .webm': ('libvpx-vp9', 30, 360, '.webm',
                            {'deadline': 'realtime', 'cpu-used': '8', 'b': '500k'}),
    'H.264 3/s 224p .mp4': ('libx264', 3, 224, '.mp4', {})}


def data(videos=None, seconds=(10.0, 20.0, 40.0), copies=1, frames=12, size=224, workers=None,
         mix=True, total=10_000):
    """Build a mix of videos like the five sets', read it four ways, print frames per second.

    videos: a folder of videos to make the mix of (default: drawn ones). seconds: lengths of the
    videos, in turn. copies: how often each is read. frames of size x size pixels are taken of each.
    workers: processes that read ahead (default: one a core). mix=False: the videos of the folder
    are read as they are, 50 at most, and only on one core. total: how many videos the printed hours
    are for; MSR-VTT has 10,000."""
    if not mix and not videos:
        raise ValueError('without a mix name a folder of videos: --no-mix --videos FOLDER')
    sources = sorted(p for p in Path(videos).iterdir() if p.is_file()) if videos else range(3)
    if not sources:
        raise ValueError(f'{videos}: no file in it')
    if not mix:
        print(f'{videos}: {len(sources)} files; {frames} frames of {size} pixels each; {machine()}')
        per_core(sources[::max(1, -(-len(sources) // 50))], frames, size, total)
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        paths, lengths = [], itertools.cycle(seconds)
        for source, (codec, fps, side, suffix, options) in itertools.product(sources, MIX.values()):
            paths.append(Path(folder) / f'{len(paths)}{suffix}')
            shown, rate = filmed(source) if videos else drawn(source)
            encode(paths[-1], shown, rate, next(lengths), codec, fps, side, options)
        print(f'{len(paths)} videos of {len(sources)} sources, {", ".join(MIX)}, of '
              f'{[*seconds]} s in turn; {frames} frames of {size} pixels each; {machine()}')
        report(paths * copies, frames, size, workers or os.cpu_count() or 1, Path(folder))
        per_core(paths, frames, size, total)


def per_core(paths, max_frames, size, total, repeats=3):
    """Print what each reader that is installed gives of one core, by its CPU seconds, the best of
    some rounds in which they take turns. What one of them cannot read counts for none."""
    readers = {'here (PyAV)': read_frames}
    if importlib.util.find_spec('decord'):
        readers['decord'] = partial(read_frames, reader='decord')
    if importlib.util.find_spec('torchcodec'):
        readers['torchcodec'] = by_torchcodec
    seconds, others, count, videos = dict.fromkeys(readers, 0.0), dict.fromkeys(readers, 0), 0, 0
    for path in paths:
        got = {}
        try:
            for name, read in readers.items():
                got[name] = read(path, max_frames, size=size)[0]
        except (ImportError, RuntimeError, IndexError, VideoError) as error:
            print(f'{path.name}: left out, as {name} cannot read it ({str(error)[:100]})')
            continue
        ways = {name: partial(read, path, max_frames, size=size) for name, read in readers.items()}
        for name, (_, cpu) in rounds(ways, repeats, 'cpu').items():
            seconds[name] += min(cpu)
            others[name] += not np.array_equal(got[name], got['here (PyAV)'])
        videos, count = videos + 1, count + len(got['here (PyAV)'])
    for name, spent in seconds.items():
        if videos:
            print(f'one core: {name:<12} {count / spent:8.1f} frames/s with the resize, '
                  f'{spent / videos * total / 3600:6.2f} hours for {total:,} such videos'
                  + (f'; other pixels in {others[name]} of {videos}' if others[name] else ''))


def by_torchcodec(path, max_frames, size):
    """As `read_frames`, by torchcodec."""
    from torchcodec.decoders import VideoDecoder
    video = VideoDecoder(str(path), dimension_order='NHWC', num_ffmpeg_threads=1)
    indices = sample_frame_indices(len(video), video.metadata.average_fps, max_frames)
    frames = video.get_frames_at(indices).data.numpy()
    return np.stack([resize(frame, size) for frame in frames]), indices


def filmed(path, seconds=20):
    """(frames of a video, forth and back without end; frames a second)"""
    with open_video(path) as (container, stream):
        rate = float(stream.average_rate)
        first = itertools.islice(container.decode(stream), int(rate * seconds))
        frames = [frame.to_ndarray(format='rgb24') for frame in first]
    return itertools.cycle(frames + frames[::-1]), rate


def drawn(seed, rate=25):
    """Moving noise, for want of videos: as `filmed`."""
    generator = np.random.default_rng(seed)
    ground = generator.integers(0, 256, (60, 80, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    return (np.roll(ground, (2 * i, 3 * i), (0, 1)) for i in itertools.count()), rate


def encode(path, frames, rate, seconds, codec, fps, side, options):
    """Write `seconds` of frames, which come `rate` a second, as a video of `fps`."""
    import av
    chosen = itertools.islice(frames, 0, int(seconds * rate), max(1, round(rate / fps)))
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=options)
        for i, pixels in enumerate(chosen):
            if i == 0:
                scale = side / min(pixels.shape[:2])
                stream.height, stream.width = (int(n * scale) // 2 * 2 for n in pixels.shape[:2])
                stream.pix_fmt = 'yuv420p'
            frame = av.VideoFrame.from_ndarray(pixels, format='rgb24')
            container.mux(stream.encode(frame.reformat(stream.width, stream.height)))
        container.mux(stream.encode())


def plain(path, max_frames, size):
    """Decode every frame of a file, then take and resize the sampled ones."""
    with open_video(path) as (container, stream):
        fps = float(stream.average_rate)
        frames = [upright(frame) for frame in container.decode(stream)]
    indices = sample_frame_indices(len(frames), fps, max_frames)
    return np.stack([resize(frames[i], size) for i in indices])


def report(paths, max_frames, size, workers, folder):
    """Time the four ways on the same files; all must give equal frames."""
    for path in paths:
        path.read_bytes()  # so that none pays for the disk
    options = dict(max_frames=max_frames, size=size, workers=workers)
    expected, slow, _ = timed(lambda: [plain(path, max_frames, size) for path in paths])
    count = sum(map(len, expected))

    def line(way, seconds):
        print(f'{way:<36} {count / seconds:8.1f} frames/s, {slow / seconds:.1f} times')
    line('decode everything, PIL, one process', slow)

    got, seconds, _ = timed(lambda: [read_frames(p, max_frames, size=size)[0] for p in paths])
    line('read_frames, one process', seconds)
    assert all(map(np.array_equal, expected, got)), 'the two ways gave different frames'

    ahead, *_ = load_frames(paths, **options, cache=folder / 'indices', keep=False)
    next(ahead.blocks([[0]]))  # the workers have started
    blocks = [range(i, min(i + 16, len(paths))) for i in range(0, len(paths), 16)]
    got, seconds, _ = timed(lambda: [frames[mask] for frames, mask in ahead.blocks(blocks)])
    line(f'read ahead, {workers} workers', seconds)
    same = np.array_equal(np.concatenate(got), np.concatenate(expected))
    assert same, 'the workers gave different frames'

    load_frames(paths, **options, cache=folder / 'frames')
    _, seconds, _ = timed(lambda: load_frames(paths, **options, cache=folder / 'frames')[0][:])
    line('from the store of decoded frames', seconds)
