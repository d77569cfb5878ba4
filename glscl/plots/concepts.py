"""Figures of 03 about what becomes of concepts."""
import matplotlib.pyplot as plt
import numpy as np

from .style import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    RED,
    heat_map,
    legend_below,
    lines,
    mark,
)

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
        ax.xaxis.tick_top()
        ax.tick_params(axis='both', labelsize=8, rotation=0, length=0)
        ax.set_title(f'Q = {Q}: R@1 {found["recall"]:.0f} %', fontsize=9)
    axes[0].set_ylabel('query')


def concept_life(curves):
    """The first steps of concepts, a curve a form: thin each seed, thick their mean.

    curves: {form: [[dict of `concepts.measures` with its step] of each seed]}"""
    panels = {'two concepts of one video': lambda m: m['videos']['within'],
              'one concept of two videos': lambda m: m['videos']['between'],
              'how much $S_l$ varies': lambda m: m['std_local'] / m['std_global']}
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
    axes[2].set_ylabel('as a share of $S_g$')
    legend_below(figure, [mark(colour, name, '', line='-')
                          for colour, name in zip(FORMS, curves)])


def vanishing(angles, lengths):
    """How long the gradient is that is left to concepts, over how far they are from being one.

    angles: n, in radians; lengths: {loss: n}"""
    _, ax = plt.subplots(figsize=(5.2, 2.9))
    lines(ax, angles, lengths, 'o', xscale='log', yscale='log',
          xlabel='angle between concepts, radians', ylabel='length of the gradient',
          title='every pull fades with the angle')
    ax.plot(angles, np.asarray(angles) / angles[-1] * min(v[-1] for v in lengths.values()) / 3,
            color=GREY, ls=':', label='proportional to the angle')
    ax.legend(loc='upper center', bbox_to_anchor=(0.4, -0.25), ncols=2)


def local_study(table, compared, within=5):
    """What became of each form of the local module, a row a form: whether its concepts live, what
    they find by themselves, and what the whole score gains over the global module by itself.

    table: of `experiments.concepts.table`; compared: of `experiments.tables.differences`; within:
    what lies more points off is an arrow at the edge"""
    beside = [name for name in table.index if name in compared.index and table['within'][name] > 0]
    groups = {'beside the global module': [n for n in beside if not n.startswith('alone: ')],
              'without it': [n for n in beside if n.startswith('alone: ')]}
    labels = [label for title, names in groups.items() for label in (title, *names)]
    figure, axes = plt.subplots(1, 3, figsize=(9, 1 + 0.24 * len(labels)), sharey=True,
                                width_ratios=[1, 1, 1.4])
    for y, name in enumerate(labels):
        if name not in groups:
            _form(axes, y, table.loc[name], compared.loc[name], within)
    axes[0].set(title='cosine of two concepts', xlim=(0, 1.1), xticks=(0, 0.5, 1))
    axes[1].set(title='R@1 of $S_l$ by itself, %', xlim=(0, 1.25 * table['R@1 of S_l'].max()))
    axes[2].set(title='R@1 of $S$, points above global only', xlim=(-within - 0.4, within))
    axes[2].axvline(0, color=INK, lw=1)
    axes[0].set_yticks(range(len(labels)), [label.removeprefix('alone: ') for label in labels],
                       fontsize=8.5)
    axes[0].set_ylim(len(labels) - 0.4, -0.6)
    for tick, label in zip(axes[0].get_yticklabels(), labels):
        tick.set_weight('bold' if label in groups else 'normal')
    for ax in axes:
        ax.grid(False, axis='y')
    legend_below(figure, [mark(BLUE, 'of one video'),
                          mark(ORANGE, 'of two videos, one query', 'D', hollow=True),
                          mark(RED, "lower, also after Holm's correction", '<')])


def _form(axes, y, form, gain, within):
    axes[0].plot(form['within'], y, 'o', color=BLUE, ms=6)
    axes[0].plot(form['between'], y, 'D', color=ORANGE, ms=5, mfc='white')
    axes[1].barh(y, form['R@1 of S_l'], 0.6, color=GREEN)
    axes[1].text(form['R@1 of S_l'] + 0.2, y, f'{form["R@1 of S_l"]:.1f}', fontsize=8, va='center')
    colour = {'higher': GREEN, 'lower': RED}.get(gain['after_holm'], GREY)
    low, at, high = np.clip([gain['low'], gain['difference'], gain['high']], -within, within)
    axes[2].hlines(y, low, high, colour, lw=1.4)
    if at == gain['difference']:
        axes[2].plot(at, y, 'o', color=colour, ms=5)
    else:
        axes[2].plot(at, y, '<' if at < 0 else '>', color=colour, ms=6)
        axes[2].text(at + 0.3, y, f'{gain["difference"]:+.1f}'.replace('-', '−'), fontsize=8,
                     va='center')
