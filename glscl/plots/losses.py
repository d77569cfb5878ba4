"""Figures of 03: what pulls and pushes."""
import matplotlib.pyplot as plt
import numpy as np

from .style import BLUE, ORANGE, heat_map, legend_below, lines, mark


def consistency_target(sizes, rest, target, num_queries):
    """Where the cosine of partner concepts comes to rest: dots measured, lines by formula.

    sizes: batch sizes; rest: {('here' or 'released', batch size): measured cosine}"""
    B = np.array(sizes, float)
    released = np.minimum(1, target * num_queries / B)
    _, ax = plt.subplots(figsize=(6, 2.8))
    lines(ax, B, {'here: the target itself': np.full(len(B), target),
                  'released code: target · Q / B, at most 1': released},
          xlabel='batch size B', ylabel='mean cosine at rest', ylim=(0, 1.08),
          title='as released, partners rest the farther apart the larger the batch')
    ax.plot(B, [rest['here', b] for b in sizes], 'o', color=BLUE, ms=6)
    ax.plot(B, [rest['released', b] for b in sizes], 's', color=ORANGE, ms=6)
    ax.set_xscale('log', base=2)
    ax.set_xticks(B, [str(b) for b in sizes])


def gradient_sizes(tables):
    """Length of each loss's gradient, by part of the model; a dash where it is exactly zero.

    tables: {title: {(loss, part): length}}"""
    parts = ['text tower', 'image tower', 'temporal', 'queries', 'decoder', 'scale']
    _, axes = plt.subplots(1, len(tables), figsize=(5 * len(tables), 2.3), sharey=True)
    for ax, (title, table) in zip(axes, tables.items()):
        losses = list(dict.fromkeys(loss for loss, _ in table))
        sizes = np.array([[table[loss, part] for part in parts] for loss in losses])
        numbers = [[f'{size:.0e}'.replace('e-0', 'e-').replace('e+0', 'e+') if size else '–'
                    for size in row] for row in sizes]
        heat_map(ax, np.log10(np.maximum(sizes, 1e-8)), vmin=-8, vmax=3, cmap='Blues', cbar=False,
                 annot=numbers, fmt='', annot_kws=dict(fontsize=8), yticklabels=losses)
        ax.set_xticklabels([part.replace(' ', '\n') for part in parts], fontsize=8, rotation=0)
        ax.tick_params(axis='y', labelsize=8)
        ax.set_title(f'length of the gradient: {title}')


def concept_circles(states):
    """Concepts in the plane, as arrows on a circle: a column a state, a row a pair.

    states: {title: (concepts of videos [B, Q, 2], of texts [B, Q, 2])}"""
    B = len(next(iter(states.values()))[0])
    figure, axes = plt.subplots(B, len(states), figsize=(1.75 * len(states), 1.75 * B + 0.4))
    for column, (title, (videos, texts)) in zip(axes.T, states.items()):
        column[0].set_title(title, loc='center')
        for b, ax in enumerate(column):
            ax.add_patch(plt.Circle((0, 0), 1, fill=False, color='#dddddd'))
            _arrows(ax, videos[b], ORANGE, names_at=1.2, width=2.2)
            _arrows(ax, texts[b], BLUE, names_at=1.5, width=0.8)  # thin ones above thick ones
            ax.set(xlim=(-1.65, 1.65), ylim=(-1.65, 1.65), aspect='equal', xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
    for b in range(B):
        axes[b, 0].set_ylabel(f'pair {b}')
    legend_below(figure, [mark(BLUE, 'text concepts', '', line='-'),
                          mark(ORANGE, 'video concepts', '', line='-')])


def _arrows(ax, points, colour, names_at, width):
    """Arrows from the origin to each of the points [Q, 2], with its number."""
    arrow = dict(arrowstyle='-|>', color=colour, lw=width, mutation_scale=6 + 2 * width,
                 shrinkA=0, shrinkB=0)
    for q, (x, y) in enumerate(np.asarray(points)):
        ax.annotate('', (x, y), (0, 0), arrowprops=arrow)
        ax.text(names_at * x, names_at * y, q, color=colour, fontsize=7, ha='center', va='center')
