"""Figures of 01: sampling, preprocessing, captions."""
import matplotlib.pyplot as plt
import numpy as np

from .colours import BLUE, GREY, INK, SERIES
from .film import few_shades
from .style import legend_right, rows


def caption_lengths(lengths, kinds, max_words):
    """Histogram of tokens a caption, start and end included.

    lengths: int [T]; kinds: 'scene' or 'order' for each caption, or None: all alike"""
    lengths = np.asarray(lengths)
    kinds = np.asarray(['caption'] * len(lengths) if kinds is None else kinds)
    names = {'scene': 'one scene', 'order': 'two scenes in order', 'caption': 'captions'}
    shown = [kind for kind in names if (kinds == kind).any()]
    bins = np.arange(lengths.min(), max(lengths.max(), max_words) + 2) - 0.5
    _, ax = plt.subplots(figsize=(6.5, 2.4))
    ax.hist([lengths[kinds == kind] for kind in shown], bins, stacked=True,
            color=SERIES[:len(shown)], label=[names[kind] for kind in shown])
    ax.axvline(max_words + 0.5, color=INK, lw=1, ls='--')
    ax.text(max_words, 0.95, f'max_words = {max_words}', ha='right', va='top', fontsize=9,
            transform=ax.get_xaxis_transform())
    ax.set(xlabel='tokens, start and end included', ylabel='captions')
    legend_right(ax)


def sampling(cases):
    """Films as time lines, with a dot for each frame that could be taken; those taken are filled.

    cases: {label: (number of frames, frames a second, candidate indices, chosen indices)}"""
    _, ax = plt.subplots(figsize=(8, 0.55 * len(cases) + 0.9))
    for row, (n_frames, fps, candidates, chosen) in enumerate(cases.values()):
        ax.plot([0, n_frames / fps], [row, row], color=GREY, lw=1, zorder=1)
        ax.scatter(np.array(candidates) / fps, [row] * len(candidates), s=46, fc='white', ec=GREY,
                   zorder=2, label=None if row else 'candidate, thinned out')
        ax.scatter(np.array(chosen) / fps, [row] * len(chosen), s=46, color=BLUE, zorder=3,
                   label=None if row else 'chosen')
    rows(ax, list(cases))
    ax.set_xlabel('seconds')
    legend_right(ax)


def clip_transform(stages):
    """The steps from a decoded frame to what CLIP sees.

    stages: {title: image}, uint8 [H, W, 3], or float [H, W, 3] in CLIP's scale: a panel a channel"""
    panels = {}
    for title, image in stages.items():
        if image.dtype == np.uint8:
            panels[title] = few_shades(image)
        else:
            for channel, colour in enumerate(('red', 'green', 'blue')):
                panels[f'{title}\n{colour}'] = image[..., channel]
    figure, axes = plt.subplots(1, len(panels), figsize=(1.6 * len(panels), 1.9))
    scale = {'vmin': -2.2, 'vmax': 2.2, 'cmap': plt.get_cmap('RdBu_r', 11)}  # colours need none
    for ax, (title, image) in zip(axes, panels.items(), strict=True):
        drawn = ax.imshow(image, interpolation='nearest', **scale)
        ax.set_title(title, fontsize=9)
        ax.set(xticks=[0, image.shape[1] - 1], yticks=[0, image.shape[0] - 1])
        ax.grid(False)
    figure.colorbar(drawn, ax=axes[-1], shrink=0.7, ticks=[-2, 0, 2])
