"""Figures of 03 about what becomes of concepts."""
import matplotlib.pyplot as plt
import numpy as np

from .style import BLUE, GREEN, GREY, ORANGE, heat_map, legend_below, legend_right, lines, mark

FORMS = (ORANGE, BLUE, GREEN)


def attended(learned, attributes):
    """What each query of a small world attends to, a panel a number of queries.

    learned: {Q: dict(attention [Q, A], recall)}; attributes: their A names. A frame marks the
    attribute that a query likes best."""
    rows = [len(found['attention']) for found in learned.values()]
    _, axes = plt.subplots(1, len(learned), figsize=(2.35 * len(learned), 0.9 + 0.22 * max(rows)))
    for ax, (Q, found) in zip(axes, learned.items()):
        weights = np.asarray(found['attention'])
        heat_map(ax, weights, vmin=0.1, vmax=0.4, cmap='Blues', cbar=False, annot=True, fmt='.2f',
                 annot_kws=dict(fontsize=7.5), xticklabels=attributes)
        for q, best in enumerate(weights.argmax(1)):
            ax.add_patch(plt.Rectangle((best, q), 1, 1, fill=False, ec=ORANGE, lw=1.6))
        ax.grid(False)
        ax.set_ylim(max(rows), 0)  # cells of one height in all panels
        ax.tick_params(axis='both', labelsize=8, rotation=0)
        ax.set_title(f'Q = {Q}: R@1 {found["recall"]:.0f} %', fontsize=9)
    axes[0].set_ylabel('query')


def concept_life(curves):
    """The first steps of concepts, a curve a form: thin each seed, thick their mean.

    curves: {form: [[dict of `concepts.measures` with its step] of each seed]}"""
    panels = {'within a video': lambda m: m['videos']['within'],
              'between videos': lambda m: m['videos']['between'],
              'weight in the score': lambda m: m['std_local'] / m['std_global']}
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6))
    for ax, (title, value) in zip(axes, panels.items()):
        for colour, seeds in zip(FORMS, curves.values()):
            step = [m['step'] for m in seeds[0]]
            each = np.array([[value(m) for m in seed] for seed in seeds])
            ax.plot(step, each.T, color=colour, lw=0.7, alpha=0.5)
            ax.plot(step, each.mean(0), color=colour, lw=2)
        ax.set(title=title, xlabel='step', ylim=(0, None))
    for ax in axes[:2]:
        ax.set_ylim(0, 1.02)
    axes[0].set_ylabel('mean cosine')
    axes[2].set_ylabel(r'std $S^l$ / std $S^g$')
    legend_below(figure, [mark(colour, name, '', line='-')
                          for colour, name in zip(FORMS, curves)])


def vanishing(angles, lengths):
    """How long the gradient is that is left to concepts, over how far they are from being one.

    angles: n, in radians; lengths: {loss: n}"""
    _, ax = plt.subplots(figsize=(5.2, 2.6))
    lines(ax, angles, lengths, 'o', xscale='log', yscale='log',
          xlabel='angle between concepts, radians', ylabel='length of the gradient')
    ax.plot(angles, np.asarray(angles) / angles[-1] * min(v[-1] for v in lengths.values()) / 3,
            color=GREY, ls=':', label='proportional to the angle')
    legend_right(ax)
