"""Figures of 04 and 05: recalls, ranks, errors."""
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from ..metrics import bootstrap as bootstrap_means
from .style import BLUE, GREEN, GREY, INK, ORANGE, RED, legend_right, look, rows


def recalls(panels, chance=None):
    """R@1, R@5 and R@10 with their 95 % intervals, a panel a title, in which R@1 is said.

    panels: {title: {label: summary of `metrics`}}, with the same labels in every panel;
    chance: R@1 of guessing, in percent"""
    at, ks = np.arange(3), (1, 5, 10)
    _, axes = plt.subplots(1, len(panels), figsize=(3.6 * len(panels) + 1.5, 2.8), sharey=True,
                           squeeze=False)
    for ax, (title, groups) in zip(axes[0], panels.items()):
        for i, (label, summary) in enumerate(groups.items()):
            value = [summary[f'R@{k}'] for k in ks]
            ends = np.transpose([summary[f'R@{k} interval'] for k in ks])  # [2, 3]
            x = at + 0.18 * (i - (len(groups) - 1) / 2)
            colour, symbol = look(label, i)
            ax.errorbar(x, value, np.abs(ends - value), fmt=symbol, color=colour, capsize=3,
                        label=label)
        if chance:
            levels = [chance * k for k in ks]
            ax.hlines(levels, at - 0.35, at + 0.35, INK, ':', label='guessing', lw=1)
        first = ', '.join(f'{summary["R@1"]:.0f}' for summary in groups.values())
        ax.set(title=f'{title}: R@1 {first} %', xlim=(-0.5, 2.5), ylim=(-2, 102))
        ax.set_xticks(at, [f'R@{k}' for k in ks])
        ax.grid(False, axis='x')
    axes[0, 0].set_ylabel('recall, %')
    legend_right(axes[0, -1])


def bootstrap(rank):
    """How R@1 varies when the queries are drawn again; the middle 95 % is the interval.

    rank: of the right video, for each query"""
    hit = 100.0 * (np.asarray(rank) <= 1)
    values = bootstrap_means(hit)
    low, high = np.percentile(values, [2.5, 97.5])
    _, ax = plt.subplots(figsize=(7.2, 2.4))
    ax.axvspan(low, high, color=BLUE, alpha=0.15, label='middle 95 %: the interval')
    ax.hist(values, bins=25, color=BLUE, alpha=0.8)
    ax.axvline(hit.mean(), color=ORANGE, lw=2, label='R@1 of the queries themselves')
    ax.set(xlabel=f'R@1 of a resampled set of {len(hit)} queries, %', ylabel='resamples',
           title=f'R@1 {hit.mean():.1f} %, and 95 % of its resamples from {low:.1f} to '
                 f'{high:.1f} %')
    legend_right(ax)


def rank_histogram(rank, V):
    """How many queries found their video at which rank, among V; bins double in width."""
    edges = [edge for edge in (1, 2, 3, 6, 11, 21, 51, 101, 201, 501) if edge <= V] + [V + 1]
    counts = np.histogram(np.floor(rank), edges)[0]
    names = [str(low) if high == low + 1 else f'{low}–{high - 1}'
             for low, high in zip(edges, edges[1:])]
    _, ax = plt.subplots(figsize=(7, 2.4))
    bars = ax.bar(names, 100 * counts / len(rank), color=[GREEN] + [GREY] * (len(counts) - 1))
    ax.bar_label(bars, [str(n) for n in counts], fontsize=8, color=INK)
    first, ten = (100 * np.mean(np.asarray(rank) <= k) for k in (1, 10))
    ax.set(xlabel='rank of the right video', ylabel='queries, %',
           title=f'{first:.0f} % come first, {ten:.0f} % among the first ten')
    ax.margins(y=0.12)
    ax.tick_params(axis='x', labelsize=8)
    ax.grid(False, axis='x')


def confusions(wrong, stated, wrong_else, stated_else):
    """The share of claims that a video does not meet, by what is claimed.

    wrong, stated: {kind: claims not met, claims made} of videos wrongly ranked first;
    wrong_else, stated_else: the same of other videos"""
    kinds = ('colour', 'shape', 'count', 'size', 'motion', 'place', 'background', 'order')
    shares = pd.DataFrame({
        'videos wrongly ranked first': [100 * wrong[k] / max(1, stated[k]) for k in kinds],
        'other videos': [100 * wrong_else[k] / max(1, stated_else[k]) for k in kinds]}, kinds)
    ax = shares.plot.bar(figsize=(6.6, 2.5), rot=0, width=0.8, color=[RED, GREY])
    ax.set_xticklabels([f'{k}\n{wrong[k]}/{stated[k]}' for k in kinds], fontsize=8.5)
    ax.set_ylabel('claims not met, %')
    ax.grid(False, axis='x')
    ax.legend(ncols=2, loc='lower right', bbox_to_anchor=(1, 1))


def twins(table):
    """How often each method scores a caption's own video above its twin, with 95 % intervals.

    table: a DataFrame of method, kind, accuracy, low, high, as `experiments.twins.measure`"""
    titles = dict(order='scenes in another order', direction='motion the other way')
    names = list(dict.fromkeys(table['method']))
    _, axes = plt.subplots(1, 2, figsize=(7.6, 0.36 * len(names) + 0.9), sharey=True)
    for ax, (kind, title) in zip(axes, titles.items()):
        rows(ax, names)
        for _, row in table[table['kind'] == kind].iterrows():
            y = names.index(row['method'])
            colour, symbol = look(row['method'], y)
            ax.hlines(y, row['low'], row['high'], color=colour)
            ax.plot(row['accuracy'], y, symbol, color=colour)
        ax.axvline(50, color=GREY, ls=':')
        ax.set(xlim=(30, 100), title=title, xlabel='own video above its twin, %')
        ax.text(51, -0.45, 'guessing', color='#666666', fontsize=8, va='top')
