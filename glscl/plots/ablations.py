"""Figures of 05 about sweeps: what each part is worth."""
import matplotlib.pyplot as plt
import numpy as np

from .style import BLUE, GREEN, GREY, INK, RED


def forest(found, baseline='full', within=12):
    """Difference of R@1 to the baseline with its 95 % interval, a row a variant, by theme. found: `ablations.differences`

    Coloured: significant alone; filled: after Holm's correction too. What lies farther than `within` points is an arrow at the
    edge, so that the small differences can be told apart."""
    plt.figure(figsize=(7.5, 0.9 + 0.17 * (len(found) + found['theme'].nunique())))
    row, before, names = 0, None, []
    plt.axvline(0, color=INK, lw=1)
    for name, r in found.iterrows():
        if r['theme'] != before:
            plt.text(0.005, row, r['theme'], transform=plt.gca().get_yaxis_transform(), fontsize=8.5, weight='bold', va='center')
            row, before = row + 1, r['theme']
        colour = {'higher': GREEN, 'lower': RED}.get(r['reading'], GREY)
        at = np.clip(r['difference'], -within, within)
        plt.hlines(row, *np.clip([r['low'], r['high']], -within, within), colour, lw=1.4)
        plt.plot(at, row, 'o' if at == r['difference'] else '<' if at < 0 else '>', color=colour, ms=5,
                 mfc=colour if r['after_holm'] != 'not significant' else 'white')
        plt.text(1.01, row, f'{r["difference"]:+.1f} ({r["low"]:.1f} to {r["high"]:.1f})', fontsize=8, va='center',
                 transform=plt.gca().get_yaxis_transform(), color=INK)
        names.append((row, name))
        row += 1
    plt.yticks([y for y, _ in names], [name for _, name in names], fontsize=8)
    plt.gca().set(ylim=(row - 0.4, -0.6), xlabel=f'R@1 text to video, points above or below {baseline}')
    plt.grid(False, axis='y')
    if not names:
        _nothing(plt.gca())


def curves(lines):
    """R@1 over a setting with its 95 % intervals, a panel each. lines {label: `ablations.curve`}"""
    figure, axes = plt.subplots(1, len(lines), figsize=(10, 2.3), sharey=True, squeeze=False)
    for ax, (label, points) in zip(axes[0], lines.items()):
        at, mean = np.arange(len(points)), np.array([r['mean'] for _, r in points])
        low, high = np.array([(r['low'], r['high']) for _, r in points]).reshape(-1, 2).T
        ax.errorbar(at, mean, [mean - low, high - mean], fmt='o-', color=BLUE, ms=4, capsize=3, lw=1.2)
        ax.set(xlabel=label, xticks=at, xticklabels=[f'{value:g}' for value, _ in points])
        ax.margins(x=0.12)
        if not points:
            _nothing(ax)
    axes[0, 0].set_ylabel('R@1 text to video, %')


def _nothing(ax):
    ax.text(0.5, 0.5, 'no stored runs', transform=ax.transAxes, ha='center', va='center')
