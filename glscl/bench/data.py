"""Frames per second of the data path against the plain way: decode everything, then PIL, in one process.

    python -m glscl.bench.data --videos FOLDER
"""
import argparse
import itertools
import os
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..data.frames import load_frames
from ..data.video import read_frames, resize, sample_frame_indices, upright
from ..runtime.devices import machine

# What the five sets' files look like: codec, frames a second, short side, container, options
MIX = {'H.264 30/s 240p .mp4': ('libx264', 30, 240, '.mp4', {}),
       'H.264 25/s 480p .mkv': ('libx264', 25, 480, '.mkv', {}),
       'MPEG-4 25/s 240p .avi': ('mpeg4', 25, 240, '.avi', {'b': '600k'}),
       'VP9 30/s 360p .webm': ('libvpx-vp9', 30, 360, '.webm', {'deadline': 'realtime', 'cpu-used': '8', 'b': '500k'}),
       'H.264 3/s 224p .mp4': ('libx264', 3, 224, '.mp4', {})}


def clip_frames(path, seconds=20):
    """Frames of a video, forth and back without end, with its rate."""
    import av
    with av.open(str(path)) as container:
        stream = container.streams.best('video')
        rate = float(stream.average_rate)
        frames = [frame.to_ndarray(format='rgb24') for frame in itertools.islice(container.decode(stream), int(rate * seconds))]
    return itertools.cycle(frames + frames[::-1]), rate


def drawn_frames(seed, rate=25):
    """Moving noise, for want of videos."""
    ground = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    return (np.roll(ground, (2 * i, 3 * i), (0, 1)) for i in itertools.count()), rate


def encode(path, frames, rate, seconds, codec, fps, side, options):
    """Write `seconds` of frames that come `rate` a second as a video of `fps` and that short side."""
    import av
    with av.open(str(path), 'w') as container:
        stream = container.add_stream(codec, rate=Fraction(fps), options=options)
        for i, frame in enumerate(itertools.islice(frames, 0, int(seconds * rate), max(1, round(rate / fps)))):
            if i == 0:
                scale = side / min(frame.shape[:2])
                stream.height, stream.width = (int(n * scale) // 2 * 2 for n in frame.shape[:2])
                stream.pix_fmt = 'yuv420p'
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24').reformat(stream.width, stream.height)))
        container.mux(stream.encode())


def plain(path, max_frames, size):
    """Decode every frame of a file, then take and resize the sampled ones."""
    import av
    with av.open(str(path)) as container:
        stream = container.streams.best('video')
        fps = float(stream.average_rate)
        frames = [upright(frame) for frame in container.decode(stream)]
    return np.stack([resize(frames[i], size) for i in sample_frame_indices(len(frames), fps, max_frames)])


def timed(run, *args):
    """(run(*args), seconds)"""
    start = time.perf_counter()
    return run(*args), time.perf_counter() - start


def main(argv=None):
    """Build a mix of videos like the five sets', read it four ways, print settings and frames per second."""
    parser = argparse.ArgumentParser(prog='python -m glscl.bench.data', description=main.__doc__)
    parser.add_argument('--videos', help='a folder of videos to make the mix of (default: drawn ones)')
    parser.add_argument('--seconds', type=float, nargs='*', default=[10, 20, 40], help='lengths of the videos, in turn')
    parser.add_argument('--copies', type=int, default=1, help='times that each video is read')
    parser.add_argument('--frames', type=int, default=12)
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--workers', type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(argv)
    sources = sorted(p for p in Path(args.videos).iterdir() if p.is_file()) if args.videos else list(range(3))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        paths, lengths = [], itertools.cycle(args.seconds)
        for source, (name, (codec, fps, side, suffix, options)) in itertools.product(sources, MIX.items()):
            paths.append(Path(folder) / f'{len(paths)}{suffix}')
            frames, rate = clip_frames(source) if args.videos else drawn_frames(source)
            encode(paths[-1], frames, rate, next(lengths), codec, fps, side, options)
        print(f'{len(paths)} videos of {len(sources)} sources, {", ".join(MIX)}, of {args.seconds} s in turn; '
              f'{args.frames} frames of {args.size} pixels each; {machine()}')
        report(paths, args, Path(folder))


def report(paths, args, folder):
    """Time the four ways on the same files, each read once before so that none pays for the disk; all must give equal frames."""
    for path in paths:
        path.read_bytes()
    reads = paths * args.copies
    expected, seconds = timed(lambda: [plain(path, args.frames, args.size) for path in reads])
    count = sum(map(len, expected))
    base = count / seconds
    print(f'decode everything, PIL, one process  {base:8.1f} frames/s')
    got, seconds = timed(lambda: [read_frames(path, args.frames, size=args.size)[0] for path in reads])
    print(f'read_frames, one process             {count / seconds:8.1f} frames/s, {count / seconds / base:.1f} times')
    assert all(map(np.array_equal, expected, got)), 'the two ways gave different frames'
    settings = dict(max_frames=args.frames, size=args.size, workers=args.workers)
    lazily = load_frames(reads, **settings, cache=folder / 'indices', keep=False)[0]
    next(lazily.blocks([[0]]))  # the workers are there
    blocks = [range(i, min(i + 16, len(reads))) for i in range(0, len(reads), 16)]
    got, seconds = timed(lambda: [frames[mask] for frames, mask in lazily.blocks(blocks)])
    speed = count / seconds
    print(f'read ahead, {args.workers} workers                {speed:8.1f} frames/s, {speed / base:.1f} times')
    assert np.array_equal(np.concatenate(got), np.concatenate(expected)), 'the workers gave different frames'
    load_frames(reads, **settings, cache=folder / 'frames')
    kept, seconds = timed(lambda: load_frames(reads, **settings, cache=folder / 'frames')[0][:])
    print(f'from the store of decoded frames     {count / seconds:8.1f} frames/s, {count / seconds / base:.1f} times')


if __name__ == '__main__':
    main()
