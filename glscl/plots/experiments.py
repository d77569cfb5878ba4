"""Figures of 05 and 06 about many runs: methods, ablations."""
import matplotlib.pyplot as plt
import numpy as np

from .style import GREEN, GREY, INK, RED, legend_below, look, mark, nothing_stored, rows


def methods(recalls):
    """Every seed of every method as a dot, the mean as a stroke; a panel a kind of caption.

    recalls: {kind of caption: {method: R@1 of each seed, %}}, the same methods in each"""
    _, axes = plt.subplots(1, len(recalls), figsize=(9, 2.3), sharex=True, sharey=True)
    for ax, (kind, each_seed) in zip(axes, recalls.items()):
        for row, (name, values) in enumerate(each_seed.items()):
            colour, symbol = look(name, row)
            ax.plot(values, [row] * len(values), symbol, color=colour, alpha=0.8)
            ax.plot(np.mean(values), row, '|', color=INK, ms=20, mew=2)
        rows(ax, list(each_seed))
        means = ', '.join(f'{np.mean(values):.0f}' for values in each_seed.values())
        ax.set(title=f'captions: {kind}: R@1 {means} %', xlabel='R@1, %')
        ax.margins(x=0.15)


def forest(found, baseline='full', within=12):
    """Difference of R@1 to the baseline with its 95 % interval, a row a variant, by theme.

    found: the table of `experiments.tables.differences`; within: what lies more points off is an
    arrow at the edge, so that the small differences can be told apart"""
    height = 1.2 + 0.17 * (len(found) + found['theme'].nunique())
    figure, ax = plt.subplots(figsize=(7.5, height))
    at_left = ax.get_yaxis_transform()
    ax.axvline(0, color=INK, lw=1)
    row, theme, ticks = 0, None, []
    for _, variant in found.iterrows():
        if variant['theme'] != theme:
            theme = variant['theme']
            ax.text(0.005, row, theme, transform=at_left, fontsize=8.5, weight='bold', va='center')
            row += 1
        _difference(ax, row, variant, within)
        text = '{difference:+.1f} ({low:.1f} to {high:.1f})'.format(**variant)
        ax.text(1.01, row, text, transform=at_left, fontsize=8, va='center', color=INK)
        ticks.append(row)
        row += 1
    ax.set_yticks(ticks, list(found.index), fontsize=8)
    ax.set(ylim=(row - 0.4, -0.6), xlabel=f'R@1 text to video, points above or below {baseline}')
    ax.grid(False, axis='y')
    legend_below(figure, [mark(GREEN, 'higher', line='-'), mark(RED, 'lower', line='-'),
                          mark(GREY, 'not significant', hollow=True, line='-'),
                          mark(INK, "hollow: not after Holm's correction", hollow=True),
                          mark(INK, "filled: after it, too"),
                          mark(INK, f'more than {within} points off', '<')])
    if not ticks:
        nothing_stored(ax)


def _difference(ax, row, variant, within):
    """One row of the forest. Coloured: significant alone; filled: after Holm's correction too."""
    colour = {'higher': GREEN, 'lower': RED}.get(variant['reading'], GREY)
    face = 'white' if variant['after_holm'] == 'not significant' else colour
    low, at, high = np.clip(variant[['low', 'difference', 'high']].astype(float), -within, within)
    symbol = 'o'
    if at != variant['difference']:
        symbol = '<' if at < 0 else '>'
    ax.hlines(row, low, high, colour, lw=1.4)
    ax.plot(at, row, symbol, color=colour, ms=5, mfc=face)
