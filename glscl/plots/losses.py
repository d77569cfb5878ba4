"""Figures of 03: what pulls and pushes."""
import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.lines import Line2D

from .style import BLUE, GREY, INK, ORANGE


def sharpness(scores, scales, curve, clamp):
    """What the logit scale does to one row of scores (the best first): probabilities, and the loss over `curve`."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(7.8, 2.3))
    shades = sns.color_palette('Blues', len(scales) + 1)[1:]
    for i, s in enumerate(scales):
        at = np.arange(len(scores)) + (i - (len(scales) - 1) / 2) * 0.8 / len(scales)
        left.bar(at, (scores * s).softmax(0), 0.8 / len(scales), color=shades[i], label=f's = {s}')
    left.set_xticks(range(len(scores)), [f'{x:.2f}' for x in scores.tolist()])
    left.set(xlabel='score of the video', ylabel='probability')
    left.legend(fontsize=8)
    left.grid(False, axis='x')
    loss = -(scores[:, None] * curve).log_softmax(0)
    right.plot(curve, loss[0], color=BLUE, label='own video scores best')
    right.plot(curve, loss[1], color=ORANGE, ls='--', label='own video scores second')
    right.axvline(clamp, color=GREY, lw=1)
    right.text(clamp + 2, 0.3, 'clamp', color='#666666', fontsize=8, transform=right.get_xaxis_transform())
    right.set(xlabel='scale s', ylabel='loss of this row')
    right.legend(fontsize=8)


def consistency_target(sizes, rest, target, num_queries):
    """Where the cosine of partner concepts comes to rest: measured {(form, B): cosine} and what the formulas say."""
    fig, ax = plt.subplots(figsize=(6, 2.8))
    B = np.array(sizes, float)
    for form, colour, marker, line, label in (('here', BLUE, 'o', np.full(len(B), target), 'here: the target itself'),
                                              ('released', ORANGE, 's', np.minimum(1, target * num_queries / B),
                                               'released code: target · Q / B, at most 1')):
        ax.plot(B, line, color=colour, lw=1, label=label)
        ax.plot(B, [rest[form, b] for b in sizes], marker, color=colour, ms=6)
    ax.set_xscale('log', base=2)
    ax.set_xticks(B, [str(b) for b in sizes])
    ax.set(xlabel='batch size B', ylabel='mean cosine at rest', ylim=(0, 1.08))
    ax.legend(fontsize=8)


def gradient_sizes(tables):
    """Length of each loss's gradient by part of the model: {title: {(loss, part): length}}."""
    fig, axes = plt.subplots(1, len(tables), figsize=(5.0 * len(tables), 2.3), sharey=True)
    for ax, (title, table) in zip(np.atleast_1d(axes), tables.items()):
        losses = list(dict.fromkeys(loss for loss, _ in table))
        parts = ['text tower', 'image tower', 'temporal', 'queries', 'decoder', 'scale']
        sizes = np.array([[table[loss, part] for part in parts] for loss in losses])
        shown = np.where(sizes > 0, np.log10(np.maximum(sizes, 1e-12)), np.nan)
        ax.imshow(shown, cmap='Blues', vmin=-8, vmax=3, aspect='auto')
        for i, j in np.ndindex(sizes.shape):
            ax.text(j, i, f'{sizes[i, j]:.0e}'.replace('e-0', 'e-').replace('e+0', 'e+') if sizes[i, j] else '–',
                    ha='center', va='center', fontsize=8, color='white' if shown[i, j] > -0.5 else INK)
        ax.set_xticks(range(len(parts)), [p.replace(' ', '\n') for p in parts], fontsize=8)
        ax.set_yticks(range(len(losses)), losses, fontsize=8)
        ax.set_title(title, fontsize=9)
        ax.grid(False)


def concept_circles(states):
    """Concepts in the plane {title: (video [B, Q, 2], text [B, Q, 2])}: a column a state, a row a pair."""
    B = len(next(iter(states.values()))[0])
    fig, axes = plt.subplots(B, len(states), figsize=(1.65 * len(states), 1.65 * B + 0.4), squeeze=False)
    for column, (title, sides) in zip(axes.T, states.items()):
        column[0].set_title(title, fontsize=9, loc='center')
        for b, ax in enumerate(column):
            ax.add_patch(plt.Circle((0, 0), 1, fill=False, color='#dddddd'))
            for side, colour, reach, width in zip(sides, (ORANGE, BLUE), (1.2, 1.42), (2.2, 0.8)):  # blue over orange
                for q, (x, y) in enumerate(np.asarray(side[b])):
                    ax.annotate('', (x, y), (0, 0), arrowprops=dict(
                        arrowstyle='-|>', color=colour, lw=width, mutation_scale=6 + 2 * width, shrinkA=0, shrinkB=0))
                    ax.text(reach * x, reach * y, str(q), color=colour, fontsize=7, ha='center', va='center')
            ax.set(xlim=(-1.55, 1.55), ylim=(-1.55, 1.55), aspect='equal', xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    for b in range(B):
        axes[b, 0].set_ylabel(f'pair {b}')
    fig.legend(handles=[Line2D([], [], color=c, label=f'{side} concepts') for c, side in ((BLUE, 'text'), (ORANGE, 'video'))],
               loc='outside lower center', ncols=2, fontsize=8, frameon=False)


def concept_cosines(matrices):
    """Mean cosines between concepts {title: [Q, Q]}, on one scale."""
    fig, axes = plt.subplots(1, len(matrices), figsize=(2.3 * len(matrices) + 0.6, 2.25))
    for ax, (title, M) in zip(axes, matrices.items()):
        image = ax.imshow(M, cmap='RdBu_r', vmin=-1, vmax=1)
        ax.set_title(title, fontsize=9)
        ax.set_xticks(range(len(M)))
        ax.set_yticks(range(len(M)))
        ax.set(xlabel='concept j')
        ax.grid(False)
    axes[0].set_ylabel('concept i')
    fig.colorbar(image, ax=axes[-1], label='mean cosine')


def schedules(factors, per_epoch):
    """Learning-rate factors over a run, {name: [steps]}, with the epochs below."""
    fig, ax = plt.subplots(figsize=(6.5, 2.4))
    for (name, values), colour, line in zip(factors.items(), (BLUE, ORANGE), ('-', '--')):
        ax.plot(np.arange(len(values)) / per_epoch, values, line, color=colour, label=name)
    ax.set(xlabel='epoch', ylabel='share of the peak rate')
    ax.legend(loc='upper left', bbox_to_anchor=(1, 1), frameon=False)
