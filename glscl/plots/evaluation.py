"""Figures of 05: ranks, intervals, galleries, confusions."""
import base64
import io

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from .style import BLUE, GREEN, GREY, INK, ORANGE, RED


def _film(pairs, v, n=3):
    """n frames of a video, evenly spaced, side by side: uint8 [S, n S, 3], in few shades to keep the picture small"""
    count = int(pairs.frame_mask[v].sum())
    frames = pairs.frames[v][[int((i + 0.5) * count / n) for i in range(n)]]
    return np.concatenate(frames, axis=1) // 32 * 32 + 16


def recall_intervals(panels, V):
    """R@1, R@5, R@10 with 95 % intervals. panels {title: {label: summary}}; V videos give the level of guessing."""
    figure, axes = plt.subplots(1, len(panels), figsize=(3.9 * len(panels) + 0.6, 3), sharey=True, squeeze=False)
    for ax, (title, groups) in zip(axes[0], panels.items()):
        for i, (label, m) in enumerate(groups.items()):
            value = np.array([m[f'R@{k}'] for k in (1, 5, 10)])
            low, high = np.array([m[f'R@{k} interval'] for k in (1, 5, 10)]).T
            at = np.arange(3) + (i - (len(groups) - 1) / 2) * 0.2
            ax.errorbar(at, value, [value - low, high - value], fmt='os^'[i], color=(BLUE, ORANGE, GREEN)[i], capsize=4,
                        label=label)
        ax.hlines([100 * k / V for k in (1, 5, 10)], np.arange(3) - 0.3, np.arange(3) + 0.3, GREY, 'dotted',
                  label='guessing')
        ax.set(title=title, xticks=range(3), xticklabels=['R@1', 'R@5', 'R@10'], ylim=(0, 102), xlim=(-0.5, 2.5))
        ax.legend(loc='upper center', bbox_to_anchor=(0.5, -0.12), ncols=3, fontsize=8, frameon=False)
    axes[0, 0].set_ylabel('queries answered, %')


def bootstrap(rank, k=1, resamples=1000, seed=0):
    """How R@k varies when the queries are drawn again; the middle 95 % is the interval."""
    hit = 100.0 * (np.asarray(rank) <= k)
    values = hit[np.random.default_rng(seed).integers(len(hit), size=(resamples, len(hit)))].mean(1)
    low, high = np.percentile(values, [2.5, 97.5])
    plt.figure(figsize=(5.2, 2.4))
    plt.axvspan(low, high, color=BLUE, alpha=0.15, label='middle 95 %: the interval')
    plt.hist(values, bins=25, color=BLUE, alpha=0.8)
    plt.axvline(hit.mean(), color=ORANGE, lw=2, label=f'R@{k} of the queries themselves')
    plt.gca().set(xlabel=f'R@{k} of a resampled set of {len(hit)} queries, %', ylabel='resamples')
    plt.margins(y=0.45)
    plt.legend(loc='upper right', fontsize=8)


def rank_histogram(rank, V):
    """How many queries found their video at which rank; bins double in width."""
    edges = [1, 2, 3, 6, 11, 21, 51, 101, 201, 501]
    edges = [x for x in edges if x <= V] + [V + 1]
    counts = np.histogram(np.floor(rank), edges)[0]
    names = [str(a) if b == a + 1 else f'{a}–{b - 1}' for a, b in zip(edges, edges[1:])]
    plt.figure(figsize=(7, 2.4))
    bars = plt.bar(names, 100 * counts / len(rank), color=[GREEN] + [GREY] * (len(counts) - 1))
    plt.bar_label(bars, [str(n) for n in counts], fontsize=8, color=INK)
    plt.gca().set(xlabel='rank of the right video', ylabel='queries, %')
    plt.grid(False, axis='x')
    plt.margins(y=0.15)


def similarity_blocks(S, groups):
    """A square of the similarity matrix, rows (captions) and columns (their videos) grouped by a name each."""
    figure, ax = plt.subplots(figsize=(4.6, 3.8))
    picture = ax.imshow(S, cmap=plt.get_cmap('viridis', 16), interpolation='nearest')
    starts = [i for i in range(len(groups)) if i == 0 or groups[i] != groups[i - 1]]
    middles = [(a + b - 1) / 2 for a, b in zip(starts, [*starts[1:], len(groups)])]
    for at in starts[1:]:
        ax.axhline(at - 0.5, color='white', lw=0.8)
        ax.axvline(at - 0.5, color='white', lw=0.8)
    names = [groups[i] for i in starts]
    ax.set_xticks(middles, names, rotation=60, ha='right', fontsize=8)
    ax.set_yticks(middles, names, fontsize=8)
    ax.set(xlabel='their videos, in the same order', ylabel='captions, by the first colour they name')
    ax.grid(False)
    figure.colorbar(picture, label='S[t, v]', shrink=0.8)


def gallery(pairs, S, rows, best=5):
    """Queries with their top videos, left to right, three frames of each: green and ticked if right, red if not."""
    figure, axes = plt.subplots(len(rows), 1, figsize=(6.8, 0.72 * len(rows)), squeeze=False)
    for ax, row in zip(axes[:, 0], rows):
        order = S[row].argsort(descending=True, stable=True).tolist()
        right = int(pairs.text_to_video[row])
        for place, v in enumerate(order[:best]):
            hit = v == right
            ax.imshow(_film(pairs, v), extent=(3.2 * place, 3.2 * place + 3, 0, 1), interpolation='nearest')
            ax.add_patch(plt.Rectangle((3.2 * place, 0), 3, 1, fill=False, lw=3.5 if hit else 1.5,
                                       ec=GREEN if hit else RED))
            if hit:
                ax.text(3.2 * place + 0.1, 0.12, '✓', color='white', fontsize=9, weight='bold',
                        bbox=dict(boxstyle='square,pad=0.1', fc=GREEN, ec='none'))
        ax.set(xlim=(-0.1, 3.2 * best - 0.1), ylim=(-0.06, 1.06), aspect='equal')
        ax.axis('off')
        ax.set_title(f'rank {order.index(right) + 1} · {pairs.table["caption"][row]}', fontsize=8.5, pad=2)


def confusions(wrong, stated, wrong_else, stated_else):
    """Of the claims of each kind, the share that the video does not meet: wrongly ranked first, and any other video."""
    kinds = ('colour', 'shape', 'count', 'size', 'motion', 'place', 'background', 'order')
    plt.figure(figsize=(6.6, 2.5))
    for i, (w, n, label, colour) in enumerate([(wrong, stated, 'videos wrongly ranked first', RED),
                                               (wrong_else, stated_else, 'other videos, for comparison', GREY)]):
        share = [100 * w[k] / max(1, n[k]) for k in kinds]
        bars = plt.bar(np.arange(len(kinds)) + 0.4 * i - 0.2, share, 0.38, color=colour, label=label)
        plt.bar_label(bars, [f'{w[k]}/{n[k]}' if i == 0 else '' for k in kinds], fontsize=7, color=INK)
    plt.xticks(range(len(kinds)), kinds)
    plt.ylabel('claims not met, %')
    plt.grid(False, axis='x')
    plt.margins(y=0.3)
    plt.legend(fontsize=8, ncols=2, loc='upper right')


def twin_test(right):
    """Share of captions scored higher with their own video than with its twin in another order. right [n], 0 to 1"""
    plt.figure(figsize=(6, 1.4))
    if len(right):
        draws = np.random.default_rng(0).integers(len(right), size=(1000, len(right)))
        value, (low, high) = np.mean(right), np.percentile(np.asarray(right)[draws].mean(1), [2.5, 97.5])
        plt.errorbar(100 * value, 0, xerr=[[100 * (value - low)], [100 * (high - value)]], fmt='o', color=BLUE,
                     capsize=4)
    plt.axvline(50, color=GREY, ls=':')
    plt.text(50, 0.65, ' guessing', color=INK, fontsize=8)
    plt.gca().set(xlim=(0, 100), ylim=(-1, 1), yticks=[], xlabel='right video above its twin in another order, %')


def methods(runs, names, captions, metric='R@1', direction='t2v'):
    """Every seed of every method as a dot, the mean as a bar; one panel a kind of caption."""
    figure, axes = plt.subplots(1, len(captions), figsize=(9, 2.3), sharex=True, sharey=True)
    for ax, kind in zip(axes, captions):
        for i, name in enumerate(names):
            values = [r[kind]['metrics'][direction][metric] for r in runs if r['method'] == name]
            ax.plot(values, np.full(len(values), i), 'o', color=(GREY, ORANGE, BLUE)[i % 3], alpha=0.8, ms=6)
            ax.plot(np.mean(values), i, '|', color=INK, ms=20, mew=2)
        ax.set(title=f'captions: {kind}', xlabel=f'{metric}, %', yticks=range(len(names)), yticklabels=names,
               ylim=(-0.6, len(names) - 0.4))
        ax.margins(x=0.15)


def found(results, query):
    """Videos found by a search, a row each: [(retrieval.Result, retrieval.thumbnails of it)], the heaviest frame first."""
    fig, axes = plt.subplots(len(results), 3, figsize=(4.8, 1.55 * len(results)), squeeze=False)
    fig.suptitle(f'“{query}”', fontsize=10)
    for rank, (row, (result, pictures)) in enumerate(zip(axes, results), 1):
        for ax in row:
            ax.axis('off')
        for ax, (uri, frame) in zip(row, pictures):
            picture = Image.open(io.BytesIO(base64.b64decode(uri.partition(',')[2]))).convert('RGB')
            ax.imshow(np.asarray(picture) // 32 * 32 + 16)  # few shades, as in `_film`
            ax.set_title(f'{frame["seconds"]:.0f} s, weight {frame["weight"]:.2f}', fontsize=8, loc='center')
        row[0].text(-0.12, 0.5, f'rank {rank}', transform=row[0].transAxes, rotation=90, va='center', ha='center', fontsize=9)
