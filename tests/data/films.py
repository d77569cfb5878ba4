"""Films that tests make and know every frame of."""
from fractions import Fraction

import av
import numpy as np


def numbered(n, height=64, width=96):
    """Frames that show their number in a row of ten black or white squares, on a moving ground."""
    ground = np.random.default_rng(0).integers(60, 200, (height // 8, width // 8, 3))
    ground = ground.repeat(8, 0).repeat(8, 1)
    for i in range(n):
        frame = np.roll(ground, 2 * i, 1).astype(np.uint8)
        for b in range(10):
            frame[:8, 8 * b:8 * b + 8] = 255 * (i >> b & 1)
        yield frame


def number(frame):
    return sum(1 << b for b in range(10) if frame[2:6, 8 * b + 2:8 * b + 6].mean() > 128)


def encode(path, frames, codec='libx264', rate=25, times=None, container=None, pixels='yuv420p', format=None, **options):
    """times: of each frame, in milliseconds, for a rate that varies; container: its options, a
    title among them."""
    container = dict(container or {})
    title = container.pop('title', None)
    with av.open(str(path), 'w', options=container, format=format) as out:
        if title:
            out.metadata['title'] = title
        options = {name.replace('_', '-') if codec.startswith('libx2') or codec.startswith('libvpx') else name: str(value) for name, value in options.items()}
        stream = out.add_stream(codec, rate=Fraction(rate), options=options)
        stream.pix_fmt = pixels
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, shown in enumerate(frames):
            if i == 0:
                stream.height, stream.width = shown.shape[:2]
            frame = av.VideoFrame.from_ndarray(shown, format='rgb24')
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


FILES = {
    'vp9.webm': {'codec': 'libvpx-vp9', 'deadline': 'realtime', 'cpu_used': 8, 'g': 30},
    'hidden frames.webm': {'codec': 'libvpx', 'deadline': 'good', 'cpu_used': 5, 'auto_alt_ref': 1,
                           'lag_in_frames': 16, 'g': 60},
    'no count.mkv': {'container': {'live': '1'}, 'bf': 3, 'g': 24},
    'ntsc.mp4': {'rate': Fraction(30000, 1001), 'g': 12},
    'one long group.mp4': {'bf': 3, 'g': 250},
    'open groups.mp4': {'x264_params': 'open-gop=1:keyint=20:bframes=3:b-pyramid=2'},
    'open groups.mkv': {'x264_params': 'open-gop=1:keyint=20:bframes=3:b-pyramid=2'},
    'fragments.mp4': {'container': {'movflags': 'frag_keyframe+empty_moov'}, 'bf': 3, 'g': 24},
    'b frames.avi': {'codec': 'mpeg4', 'bf': 2, 'g': 12},
    'stream.ts': {'bf': 3, 'g': 12},
    'varying.mkv': {'times': np.random.default_rng(1).integers(10, 90, 90).cumsum().tolist(),
                    'g': 24},
    'quick.mov': {'bf': 2, 'g': 10}}
