"""Figures of 04: schedules, learning curves."""
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from .style import BLUE, GREEN, GREY, ORANGE, lines


def schedule(factors, rates):
    """Learning rates over the steps. factors: one a step; rates: {name: peak}"""
    _, ax = plt.subplots(figsize=(6.5, 2.4))
    curves = {f'{name}, peak {rate:g}': rate * np.asarray(factors) for name, rate in rates.items()}
    lines(ax, range(len(factors)), curves, xlabel='step', ylabel='learning rate')
    ax.ticklabel_format(axis='y', style='sci', scilimits=(0, 0))
    peak = int(np.argmax(factors))
    ax.axvline(peak, color=GREY, lw=1, ls=':')
    ax.text(peak, 0, ' end of the warm-up', fontsize=9, color='#666666', va='bottom')


def learning_curves(history):
    """The losses, the two small ones on a log axis, and the recalls on the validation split.

    history: `Trainer.history`, one dict a step; faint: each step, strong: a running mean"""
    _, (losses, small, recalls) = plt.subplots(1, 3, figsize=(10, 2.9))
    steps = pd.DataFrame(history).set_index('step')
    for ax, name, colour in (
            (losses, 'total', GREY), (losses, 'contrastive', BLUE),
            (small, 'inter_consistency', ORANGE), (small, 'intra_diversity', GREEN)):
        smooth = steps[name].rolling(max(1, len(steps) // 30)).mean()
        if steps[name].max() > 0:  # and a single 0 has no place on a log axis
            ax.plot(steps[name].where(steps[name] > 0), color=colour, lw=0.8, alpha=0.3)
            ax.plot(smooth.where(smooth > 1e-12), color=colour, label=name.replace('_', '-'))
    for k, colour, symbol in ((10, GREEN, '^'), (5, ORANGE, 's'), (1, BLUE, 'o')):
        if f'val R@{k}' in steps:
            recalls.plot(steps[f'val R@{k}'].dropna(), color=colour, marker=symbol, label=f'R@{k}')
    losses.set(title='loss', xlabel='step')
    small.set(title='the two small losses, log axis', xlabel='step')
    recalls.set(title='validation, text to video', xlabel='step', ylim=(0, 102), ylabel='%')
    for ax in (losses, small, recalls):
        if ax.lines:
            ax.legend(loc='lower right' if ax is recalls else 'best')
    if small.lines:
        small.set_yscale('log')


def compare_runs(histories):
    """Loss and validation recall of several runs, a colour a run. histories: {name: history}"""
    figure, (losses, recalls) = plt.subplots(1, 2, figsize=(10, 3.2))
    colours = plt.get_cmap('viridis')(np.linspace(0, 0.9, len(histories)))
    for (name, history), colour in zip(histories.items(), colours):
        steps = pd.DataFrame(history).set_index('step')
        smooth = steps['total'].rolling(max(1, len(steps) // 30), min_periods=1).mean()
        losses.plot(smooth, color=colour, label=name)
        if 'val R@1' in steps:
            recalls.plot(steps['val R@1'].dropna(), color=colour, marker='o', ms=4)
    losses.set(title='loss', xlabel='step')
    recalls.set(title='validation R@1, text to video', xlabel='step', ylabel='%', ylim=(0, None))
    figure.legend(loc='outside lower center', ncols=2)
