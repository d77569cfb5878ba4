"""Videos that move where they are shown: in Jupyter, Colab, and the walkthrough's page."""
import base64
import html
import io
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.pixels import resize
from ..data.video import read_frames

MOST_BYTES = 200_000  # of one picture: a notebook is read in a browser
MOST_FRAMES = 60      # of a file: a longer one is shown faster


class Moving:
    """What `play` returns: HTML for whoever can show it, the captions as text for the rest."""

    def __init__(self, figures, captions):
        self.figures = figures
        self.captions = captions

    def _repr_html_(self):
        return ('<div style="display:flex;flex-wrap:wrap;gap:1em">'
                + ''.join(self.figures) + '</div>')

    def __repr__(self):
        return '\n'.join(f'(moving) {caption}' for caption in self.captions)


def play(videos, captions, fps=3, side=160):
    """Videos side by side, each moving above its caption; return it as a cell's last value.

    videos: a path or uint8 frames [F, H, W, 3] each; captions: the words below, which also tell a
    reader who sees no picture what it shows; fps: frames a second; side: pixels on the page. A
    reader who asked for less motion gets the first frame. ValueError where a picture would be
    larger than 200 kB: show fewer or smaller frames."""
    figures = []
    for video, caption in zip(videos, captions, strict=True):
        frames = _read(video, fps, side) if isinstance(video, (str, Path)) else video
        words = html.escape(caption, quote=True)
        figures.append(
            f'<figure style="margin:0;width:{side}px"><picture>'
            f'<source media="(prefers-reduced-motion: reduce)" srcset="{_webp(frames[:1], fps)}">'
            f'<img src="{_webp(frames, fps)}" alt="moving picture: {words}" width="{side}" '
            f'style="image-rendering:pixelated;border-radius:4px"></picture>'
            f'<figcaption style="font-size:13px;line-height:1.3">{words}</figcaption></figure>')
    return Moving(figures, captions)


def _read(path, fps, side):
    """A video's frames, the large ones shrunk and cut to a square."""
    frames, _ = read_frames(path, max_frames=MOST_FRAMES, framerate=fps)
    return [resize(frame, side) for frame in frames] if min(frames.shape[1:3]) > side else frames


def _webp(frames, fps):
    """Frames as a data URI of a WebP picture, which moves for ever if there are several."""
    first, *rest = [Image.fromarray(np.asarray(frame)) for frame in frames]
    file = io.BytesIO()
    first.save(file, 'WebP', save_all=True, append_images=rest, duration=round(1000 / fps), loop=0,
               quality=55, method=4)
    if file.tell() > MOST_BYTES:
        raise ValueError(f'the moving picture of {len(frames)} frames would take '
                         f'{file.tell() / 1e3:.0f} kB, {MOST_BYTES / 1e3:.0f} kB at most: show '
                         f'fewer or smaller frames')
    return 'data:image/webp;base64,' + base64.b64encode(file.getvalue()).decode()
