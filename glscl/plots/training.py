"""Figures of 04: schedule, curves, recalls."""
import matplotlib.pyplot as plt
import numpy as np

from .style import BLUE, GREEN, GREY, INK, ORANGE


def schedule(factors, rates):
    """Learning rate over the steps; factors [steps], rates {name: peak}."""
    fig, ax = plt.subplots(figsize=(6.5, 2.4))
    for (name, rate), colour in zip(rates.items(), (BLUE, ORANGE)):
        ax.plot(np.asarray(factors) * rate, color=colour, label=f'{name}, peak {rate:g}')
    ax.axvline(int(np.argmax(factors)), color=GREY, lw=1, ls='--')
    ax.text(int(np.argmax(factors)), 0, ' end of the warm-up', fontsize=9, color=GREY, va='bottom')
    ax.set(xlabel='step', ylabel='learning rate')
    ax.ticklabel_format(axis='y', style='sci', scilimits=(0, 0))
    ax.legend(frameon=False)


def learning_curves(history):
    """Trainer.history: the contrastive loss, the two small losses on a log axis, recalls on the validation split."""
    fig, (left, middle, right) = plt.subplots(1, 3, figsize=(10, 2.9))
    steps = np.array([h['step'] for h in history])
    window = max(1, len(history) // 30)

    def curve(ax, name, colour, label):
        values = np.array([h[name] for h in history])
        smooth = np.convolve(values, np.ones(window) / window, 'valid')
        ax.plot(steps, np.where(values > 0, values, np.nan), color=colour, lw=0.8, alpha=0.3)  # 0 has no logarithm
        ax.plot(steps[window - 1:], np.where(smooth > 1e-12, smooth, np.nan), color=colour, lw=1.8, label=label)

    curve(left, 'total', GREY, 'total')
    curve(left, 'contrastive', BLUE, 'contrastive')
    for name, colour in (('inter_consistency', ORANGE), ('intra_diversity', GREEN)):
        if max(h[name] for h in history) > 0:
            curve(middle, name, colour, name.replace('_', '-'))
    if middle.lines:
        middle.set_yscale('log')
    seen = [h for h in history if 'val R@1' in h]
    for k, colour, mark in ((10, GREEN, '^'), (5, ORANGE, 's'), (1, BLUE, 'o')):
        right.plot([h['step'] for h in seen], [h[f'val R@{k}'] for h in seen], mark, ls='-', color=colour,
                   label=f'R@{k}')
    right.set(ylim=(0, 102), ylabel='%')
    for ax, title in ((left, 'loss'), (middle, 'the two small losses, log axis'), (right, 'validation, text to video')):
        ax.set_title(title)
        ax.set_xlabel('step')
        if ax.lines:
            ax.legend(frameon=False, loc='lower right' if ax is right else 'best')


def recalls(metrics, chance=None):
    """Recalls with their 95 % intervals, metrics {name: retrieval_metrics}; one panel a direction."""
    fig, axes = plt.subplots(1, 2, figsize=(9, 3), sharey=True)
    for ax, (direction, title) in zip(axes, (('t2v', 'text to video'), ('v2t', 'video to text'))):
        for i, ((name, m), colour, mark) in enumerate(zip(metrics.items(), (GREY, ORANGE, BLUE, GREEN), 'D^os')):
            m, x = m[direction], np.arange(3) + 0.16 * (i - (len(metrics) - 1) / 2)
            value = np.array([m[f'R@{k}'] for k in (1, 5, 10)])
            ends = np.array([m[f'R@{k} interval'] for k in (1, 5, 10)]).T
            ax.errorbar(x, value, np.maximum(0, [value - ends[0], ends[1] - value]), fmt=mark, color=colour,
                        ms=6, capsize=3, label=name)
        if chance:
            ax.hlines([chance * k for k in (1, 5, 10)], np.arange(3) - 0.35, np.arange(3) + 0.35, color=INK, lw=1,
                      ls=':', label='chance')
        ax.set(title=title, xticks=range(3), xticklabels=['R@1', 'R@5', 'R@10'], ylim=(-2, 102))
        ax.grid(axis='x', visible=False)
    axes[0].set_ylabel('% of queries')
    axes[1].legend(loc='upper left', bbox_to_anchor=(1, 1), frameon=False)


def recall_by_kind(by_kind, chance):
    """Recalls of each kind of caption with their 95 % intervals; by_kind {kind: summary}."""
    fig, ax = plt.subplots(figsize=(5.2, 2.8))
    for i, ((kind, m), colour) in enumerate(zip(by_kind.items(), (BLUE, ORANGE))):
        value = np.array([m[f'R@{k}'] for k in (1, 5, 10)])
        ends = np.array([m[f'R@{k} interval'] for k in (1, 5, 10)]).T
        ax.bar(np.arange(3) + 0.36 * (i - 0.5), value, 0.34, color=colour, label=kind, zorder=2,
               yerr=np.maximum(0, [value - ends[0], ends[1] - value]), error_kw=dict(ecolor=INK, capsize=3, lw=1))
    ax.hlines([chance * k for k in (1, 5, 10)], np.arange(3) - 0.4, np.arange(3) + 0.4, color=INK, lw=1, ls=':',
              zorder=3, label='chance')
    ax.set(xticks=range(3), xticklabels=['R@1', 'R@5', 'R@10'], ylim=(0, 102), ylabel='% of queries')
    ax.grid(axis='x', visible=False)
    ax.legend(loc='upper left', bbox_to_anchor=(1, 1), frameon=False)
