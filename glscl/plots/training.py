"""Figures of 03 and 04: schedules, learning curves."""
import matplotlib.pyplot as plt
import numpy as np

from .colours import BLUE, GREEN, GREY, ORANGE
from .style import legend_right, lines


def schedules(factors, per_epoch):
    """Shares of the peak learning rate over the epochs of a run. factors: {name: one a step}"""
    _, ax = plt.subplots(figsize=(6.5, 2.4))
    steps = len(next(iter(factors.values())))
    lines(ax, np.arange(steps) / per_epoch, factors, xlabel='epoch', ylabel='share of the peak rate')
    legend_right(ax)


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
    _loss_curve(losses, history, 'total', GREY)
    _loss_curve(losses, history, 'contrastive', BLUE)
    for name, colour in (('inter_consistency', ORANGE), ('intra_diversity', GREEN)):
        if max(step[name] for step in history) > 0:
            _loss_curve(small, history, name, colour)
            small.set_yscale('log')
    validated = [step for step in history if 'val R@1' in step]
    for k, colour, symbol in ((10, GREEN, '^'), (5, ORANGE, 's'), (1, BLUE, 'o')):
        recalls.plot([step['step'] for step in validated], [step[f'val R@{k}'] for step in validated],
                     symbol, ls='-', color=colour, label=f'R@{k}')
    losses.set(title='loss', xlabel='step')
    small.set(title='the two small losses, log axis', xlabel='step')
    recalls.set(title='validation, text to video', xlabel='step', ylim=(0, 102), ylabel='%')
    for ax, place in ((losses, 'best'), (small, 'best'), (recalls, 'lower right')):
        if ax.lines:
            ax.legend(loc=place)


def _loss_curve(ax, history, name, colour):
    """One loss over the steps, as it was and smoothed; a 0 has no place on a log axis."""
    steps = np.array([step['step'] for step in history])
    values = np.array([step[name] for step in history])
    window = max(1, len(history) // 30)
    smooth = np.convolve(values, np.ones(window) / window, 'valid')
    ax.plot(steps, np.where(values > 0, values, np.nan), color=colour, lw=0.8, alpha=0.3)
    ax.plot(steps[window - 1:], np.where(smooth > 1e-12, smooth, np.nan), color=colour, lw=1.8,
            label=name.replace('_', '-'))
