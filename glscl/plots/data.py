"""Figures of 01: films, sampling, captions."""
import matplotlib.pyplot as plt
import numpy as np

from .style import BLUE, GREY, INK, ORANGE


def film_strips(films, titles, indices=None, places=None):
    """One row a film: uint8 [F, H, W, 3] side by side, the frame's index below; `places` keeps room for padding."""
    places = places or max(map(len, films))
    fig, axes = plt.subplots(len(films), 1, figsize=(9, 1.12 * len(films)), squeeze=False)
    for row, (film, title, ax) in enumerate(zip(films, titles, axes[:, 0])):
        size, gap = film.shape[1], max(1, film.shape[1] // 16)
        for f in range(places):
            x = f * (size + gap)
            if f < len(film):
                shown = (np.round(film[f] / 25.5) * 25.5).astype(np.uint8)  # fewer levels: noise makes large PNGs
                ax.imshow(shown, extent=(x, x + size, size, 0), interpolation='nearest')
                label = f if indices is None else indices[row][f]
            else:
                ax.add_patch(plt.Rectangle((x, 0), size, size, fc='#f4f4f4', ec=GREY, hatch='///', lw=0.5))
                label = 'pad'
            ax.text(x + size / 2, size * 1.06, label, ha='center', va='top', fontsize=7, color=GREY)
        ax.set(xlim=(-1, places * (size + gap)), ylim=(size * 1.3, -1))
        ax.set_title(title, fontsize=9)
        ax.axis('off')


def caption_lengths(lengths, kinds, max_words):
    """Histogram of tokens a caption, start and end included, by kind (`kinds` None: all alike)."""
    lengths, kinds = np.asarray(lengths), np.asarray(['caption'] * len(lengths) if kinds is None else kinds)
    shown = [k for k in ('scene', 'order', 'caption') if (kinds == k).any()]
    bins = np.arange(lengths.min(), max(lengths.max(), max_words) + 2) - 0.5
    fig, ax = plt.subplots(figsize=(6.5, 2.4))
    names = dict(scene='one scene', order='two scenes in order', caption='captions')
    ax.hist([lengths[kinds == k] for k in shown], bins, stacked=True, color=[BLUE, ORANGE][:len(shown)],
            label=[names[k] for k in shown])
    ax.axvline(max_words + 0.5, color=INK, lw=1, ls='--')
    ax.text(max_words + 0.3, ax.get_ylim()[1] * 0.95, f'max_words = {max_words}', ha='right', va='top', fontsize=9)
    ax.set(xlabel='tokens, start and end included', ylabel='captions')
    ax.legend(loc='center left', bbox_to_anchor=(1, 0.5), frameon=False)
    ax.grid(axis='x', visible=False)


def sampling(cases):
    """Time lines of films, cases {label: (n_frames, fps, candidate indices, chosen indices)}; the chosen are filled."""
    fig, ax = plt.subplots(figsize=(8, 0.55 * len(cases) + 0.9))
    for row, (n_frames, fps, candidates, chosen) in enumerate(cases.values()):
        ax.plot([0, n_frames / fps], [row, row], color=GREY, lw=1, zorder=1)
        thinned, taken = ('candidate, thinned out', 'chosen') if row == 0 else (None, None)
        ax.scatter(np.array(candidates) / fps, [row] * len(candidates), s=46, fc='white', ec=GREY,
                   zorder=2, label=thinned)
        ax.scatter(np.array(chosen) / fps, [row] * len(chosen), s=46, color=BLUE, zorder=3, label=taken)
    ax.set(yticks=range(len(cases)), yticklabels=list(cases), ylim=(len(cases) - 0.5, -0.5), xlabel='seconds')
    ax.grid(axis='y', visible=False)
    ax.legend(loc='upper left', bbox_to_anchor=(1, 1), frameon=False)


def clip_transform(stages):
    """stages {title: image}: uint8 [H, W, 3], or float [H, W, 3] in CLIP's scale, its three channels drawn apart."""
    panels = []
    for title, image in stages.items():
        if image.dtype == np.uint8:
            panels.append((title, image // 16 * 16 + 8, {}))  # fewer levels, smaller PNG
        else:
            panels += [(f'{title}\n{colour}', image[..., c], dict(vmin=-2.2, vmax=2.2, cmap=plt.get_cmap('RdBu_r', 11)))
                       for c, colour in enumerate(('red', 'green', 'blue'))]
    fig, axes = plt.subplots(1, len(panels), figsize=(1.6 * len(panels), 1.9))
    for ax, (title, image, options) in zip(axes, panels):
        drawn = ax.imshow(image, interpolation='nearest', **options)
        ax.set_title(title, fontsize=9)
        ax.set(xticks=[0, image.shape[1] - 1], yticks=[0, image.shape[0] - 1])
        ax.grid(False)
    fig.colorbar(drawn, ax=axes[-1], shrink=0.7, ticks=[-2, 0, 2])
