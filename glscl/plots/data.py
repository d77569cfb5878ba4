"""Figures of 01, and videos as strips of frames wherever they are shown."""
import base64
import io

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from PIL import Image, ImageFilter

from .style import BLUE, GREEN, GREY, INK, RED, mark, rows


def few_shades(image):
    """A uint8 image in eleven shades a channel: noise would make the PNG large."""
    return (np.round(image / 25.5) * 25.5).astype(np.uint8)


def frame_strip(ax, frames, left=0, aspect='equal', inks=None):
    """Frames uint8 [F, H, W, 3] side by side; frame f is one unit wide, its centre at left + f.

    inks: how strong each frame is printed, from 0 (white) to 1; by default all are 1"""
    for f, frame in enumerate(frames):
        edges = (left + f - 0.47, left + f + 0.47, 0, 1)
        ax.imshow(few_shades(frame), extent=edges, aspect=aspect, interpolation='nearest',
                  alpha=None if inks is None else inks[f])
    ax.set(xlim=(left - 0.5, left + len(frames) - 0.5), ylim=(0, 1))
    ax.axis('off')


def frame_strips(videos, titles, labels=None, places=None, size=0.75, inks=None):
    """One row a video, a label below each frame.

    videos: uint8 [F, H, W, 3] each; labels: a list for each video (by default its frames' numbers);
    places: frames a row, the missing ones hatched (by default none is); size: inches a frame;
    inks: for each video as `frame_strip`"""
    places = places or max(map(len, videos))
    figure, axes = plt.subplots(len(videos), 1, squeeze=False,
                                figsize=(size * places, (size + 0.37) * len(videos)))
    for row, (video, ax) in enumerate(zip(videos, axes[:, 0])):
        frame_strip(ax, video, inks=inks[row] if inks else None)
        padding = range(len(video), places)
        for x in padding:
            ax.add_patch(plt.Rectangle((x - 0.47, 0), 0.94, 1, fc='#f4f4f4', ec=GREY, hatch='///'))
        below = range(len(video)) if labels is None else labels[row]
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
    for row, ax in zip(rows, axes[:, 0]):
        order = S[row].argsort(descending=True, stable=True).tolist()
        right = int(pairs.text_to_video[row])
        for place, v in enumerate(order[:best]):
            left, count = (n + 0.3) * place, int(pairs.frame_mask[v].sum())
            frame_strip(ax, pairs.frames[v][[int((i + 0.5) * count / n) for i in range(n)]], left)
            colour, width = (GREEN, 3.5) if v == right else (RED, 1.5)
            frame = plt.Rectangle((left - 0.5, -0.03), n, 1.06, fc='none', ec=colour, lw=width)
            ax.add_patch(frame)
            if v == right:
                ax.text(left - 0.4, 0.12, '✓', color='white', fontsize=9, weight='bold',
                        bbox=dict(boxstyle='square,pad=0.1', fc=GREEN, ec='none'))
        ax.set(xlim=(-0.6, (n + 0.3) * best - 0.7), ylim=(-0.09, 1.09))
        caption = pairs.table['caption'][row]
        ax.set_title(f'rank {order.index(right) + 1} · {caption}', fontsize=8.5, pad=2)


def found(results, query, notes=None):
    """Videos found by a search, a row each, with the weight that the query gives to each frame,
    unless it is below 0.005: the lighter a frame, the paler it is.

    results: [(result, pictures)], best first; pictures: [(data URI of an image, frame)], as the
    search's `thumbnails` returns them, here in the order of time; a frame has its `seconds` and its
    `weight`. notes: a few words on each video"""
    videos, labels, inks = [], [], []
    without_grain = ImageFilter.MedianFilter(3)  # which would make the PNG large
    for _, pictures in results:
        files = [io.BytesIO(base64.b64decode(uri.partition(',')[2])) for uri, _ in pictures]
        videos.append([np.array(Image.open(file).convert('RGB').filter(without_grain))
                       for file in files])
        weights = np.array([frame['weight'] for _, frame in pictures])
        inks.append(0.25 + 0.75 * weights / max(1e-9, weights.max()))
        labels.append([f'{f["seconds"]:.0f} s' + f': {f["weight"]:.2f}' * (f['weight'] >= 0.005)
                       for _, f in pictures])
    notes = notes or [f'score {result.score:.2f}' for result, _ in results]
    titles = [f'{n} · {note}' for n, note in enumerate(notes, 1)]
    figure = frame_strips(videos, titles, labels, size=0.7, inks=inks)
    figure.suptitle(f'“{query}”', fontsize=10)


def caption_lengths(lengths, kinds, max_words):
    """Histogram of tokens a caption, start and end included.

    lengths: int [T]; kinds: 'scene' or 'order' for each caption, or None: all alike"""
    names = {'scene': 'one scene', 'order': 'two scenes in order'}
    kinds = ['captions'] * len(lengths) if kinds is None else [names[kind] for kind in kinds]
    _, ax = plt.subplots(figsize=(6.5, 2.4))
    sns.histplot(x=np.asarray(lengths), hue=kinds, hue_order=sorted(set(kinds)), discrete=True,
                 multiple='stack', alpha=1, ax=ax)
    ax.axvline(max_words + 0.5, color=INK, lw=1, ls='--')
    ax.text(max_words, 0.95, f'max_words = {max_words}', ha='right', va='top', fontsize=9,
            transform=ax.get_xaxis_transform())
    ax.set(xlabel='tokens, start and end included', ylabel='captions',
           title=f'the longest caption fills {max(lengths)} of {max_words} places')
    sns.move_legend(ax, 'upper left', bbox_to_anchor=(1, 1))


def sampling(cases):
    """Videos as time lines, with a dot for each frame that could be taken; those taken are filled.

    cases: {label: (number of frames, frames a second, candidate indices, chosen indices)}"""
    _, ax = plt.subplots(figsize=(8, 0.55 * len(cases) + 0.9))
    for row, (n_frames, fps, candidates, chosen) in enumerate(cases.values()):
        ax.plot([0, n_frames / fps], [row, row], color=GREY, lw=1, zorder=1)
        ax.plot(np.array(candidates) / fps, [row] * len(candidates), 'o', color=GREY, mfc='white')
        ax.plot(np.array(chosen) / fps, [row] * len(chosen), 'o', color=BLUE)
    rows(ax, list(cases))
    most = max(len(chosen) for *_, chosen in cases.values())
    ax.set(xlabel='seconds', title=f'one frame a second, thinned out to {most} at most')
    ax.legend(handles=[mark(GREY, 'candidate, thinned out', hollow=True), mark(BLUE, 'chosen')],
              loc='upper left', bbox_to_anchor=(1, 1))


def clip_transform(stages):
    """The steps from a decoded frame to what CLIP sees.

    stages: {title: image}: uint8 [H, W, 3]; or float in CLIP's scale, then a panel a channel"""
    panels = {}
    for title, image in stages.items():
        if image.dtype == np.uint8:
            panels[title] = few_shades(image)
        else:
            for channel, colour in enumerate(('red', 'green', 'blue')):
                panels[f'{title}\n{colour}'] = image[..., channel]
    figure, axes = plt.subplots(1, len(panels), figsize=(1.6 * len(panels), 1.9))
    scale = dict(vmin=-2.2, vmax=2.2, cmap=plt.get_cmap('RdBu_r', 11))  # of grey ones
    for ax, (title, image) in zip(axes, panels.items()):
        drawn = ax.imshow(image, interpolation='nearest', **scale)
        ax.set_title(title, fontsize=9)
        ax.set(xticks=[0, image.shape[1] - 1], yticks=[0, image.shape[0] - 1])
        ax.grid(False)
    figure.colorbar(drawn, ax=axes[-1], shrink=0.7, ticks=[-2, 0, 2])
