"""Videos as strips of frames."""
import base64
import io

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from .colours import GREEN, GREY, RED


def few_shades(image):
    """A uint8 image in eleven shades a channel: noise would make the PNG large."""
    return (np.round(image / 25.5) * 25.5).astype(np.uint8)


def film_strip(ax, frames, left=0, aspect='equal'):
    """Frames uint8 [F, H, W, 3] side by side; frame f is one unit wide, its centre at left + f."""
    for f, frame in enumerate(frames):
        edges = (left + f - 0.47, left + f + 0.47, 0, 1)
        ax.imshow(few_shades(frame), extent=edges, aspect=aspect, interpolation='nearest')
    ax.set(xlim=(left - 0.5, left + len(frames) - 0.5), ylim=(0, 1))
    ax.axis('off')


def film_strips(films, titles, labels=None, places=None, size=0.75):
    """One row a film, a label below each frame.

    films: uint8 [F, H, W, 3] each; labels: a list for each film (by default its frames' numbers);
    places: frames a row, the missing ones hatched (by default none); size: inches a frame"""
    places = places or max(map(len, films))
    figure, axes = plt.subplots(len(films), 1, squeeze=False,
                                figsize=(size * places, (size + 0.37) * len(films)))
    for row, (film, ax) in enumerate(zip(films, axes[:, 0], strict=True)):
        film_strip(ax, film)
        padding = range(len(film), places)
        for x in padding:
            ax.add_patch(plt.Rectangle((x - 0.47, 0), 0.94, 1, fc='#f4f4f4', ec=GREY, hatch='///'))
        below = range(len(film)) if labels is None else labels[row]
        for x, label in enumerate([*below, *('pad' for _ in padding)]):
            ax.text(x, -0.06, label, ha='center', va='top', fontsize=7, color='#666666')
        ax.set(xlim=(-0.5, places - 0.5), ylim=(-0.3, 1.03))
        ax.set_title(titles[row], fontsize=9)
    return figure


def gallery(pairs, S, rows, best=5, n=3):
    """Captions with their `best` videos from left to right, n frames of each.

    The right video has a thick green frame and a tick, any other a thin red one. pairs: `Pairs`
    of the split; S: similarities, a tensor [T, V]; rows: the captions to show"""
    _, axes = plt.subplots(len(rows), 1, figsize=(6.8, 0.72 * len(rows)), squeeze=False)
    for row, ax in zip(rows, axes[:, 0], strict=True):
        order = S[row].argsort(descending=True, stable=True).tolist()
        right = int(pairs.text_to_video[row])
        for place, v in enumerate(order[:best]):
            left, count = (n + 0.3) * place, int(pairs.frame_mask[v].sum())
            film_strip(ax, pairs.frames[v][[int((i + 0.5) * count / n) for i in range(n)]], left)
            colour, width = (GREEN, 3.5) if v == right else (RED, 1.5)
            box = plt.Rectangle((left - 0.5, -0.03), n, 1.06, fill=False, lw=width, ec=colour)
            ax.add_patch(box)
            if v == right:
                ax.text(left - 0.4, 0.12, '✓', color='white', fontsize=9, weight='bold',
                        bbox={'boxstyle': 'square,pad=0.1', 'fc': GREEN, 'ec': 'none'})
        ax.set(xlim=(-0.6, (n + 0.3) * best - 0.7), ylim=(-0.09, 1.09))
        caption = pairs.table['caption'][row]
        ax.set_title(f'rank {order.index(right) + 1} · {caption}', fontsize=8.5, pad=2)


def found(results, query):
    """Videos found by a search, a row each, the frame that the query weighed most first.

    results: [(result, pictures)], best first; pictures: [(data URI of an image, frame)], as the
    search's `thumbnails` returns them; a frame has its `seconds` and its `weight`"""
    films, labels = [], []
    for _, pictures in results:
        files = [io.BytesIO(base64.b64decode(uri.partition(',')[2])) for uri, _ in pictures]
        films.append([np.asarray(Image.open(file).convert('RGB')) for file in files])
        labels.append([f'{f["seconds"]:.0f} s, weight {f["weight"]:.2f}' for _, f in pictures])
    titles = [f'rank {n}' for n in range(1, len(films) + 1)]
    film_strips(films, titles, labels, size=1.4).suptitle(f'“{query}”', fontsize=10)
