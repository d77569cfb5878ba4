"""Drawings that explain: the pipeline, the two modules, the losses as forces.

A drawing has the sizes of the `Config` it is given. Text is blue, video orange, what both share
green. One unit of a drawing's axes is one inch, so that a word takes the same room everywhere."""
import math

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch

from .style import BLUE, GREEN, GREY, INK, ORANGE, RED

SMALL, NORMAL = 9, 10.5  # points
DPI = 120             # sharper than a chart: small words must stay readable when a page is narrow
PALE = {BLUE: '#dfeaf6', ORANGE: '#fbe8d8', GREEN: '#e0f1e6', GREY: '#f1f2f3', RED: '#f7e1de'}


def sheet(width, height):
    """An empty drawing of this size in inches, on white also where the page is dark: its axes."""
    figure = plt.figure(figsize=(width, height), dpi=DPI, facecolor='white')
    figure.set_layout_engine('none')
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height), aspect='equal')
    ax.axis('off')
    return ax


def say(ax, x, y, text, colour=INK, size=SMALL, **options):
    """Words around (x, y); options: of `Axes.text`"""
    options = {'ha': 'center', 'va': 'center', 'linespacing': 1.25, **options}
    return ax.text(x, y, text, color=colour, fontsize=size, **options)


def box(ax, x, y, width, height, text='', colour=GREY, size=NORMAL):
    """A rounded box around (x, y) with words in it."""
    corner = (x - width / 2 + 0.06, y - height / 2 + 0.06)
    ax.add_patch(FancyBboxPatch(corner, width - 0.12, height - 0.12, 'round,pad=0.06',
                                fc=PALE[colour], ec=colour, lw=1.2))
    say(ax, x, y, text, size=size)


def arrow(ax, start, end, text='', colour=INK, side=1, bend=0, style='-|>', width=1.2):
    """An arrow with words beside its middle, on its right (side 1) or left (-1).

    bend: of the arc, as in "arc3,rad=bend\""""
    ax.annotate('', end, start, arrowprops=dict(
        arrowstyle=style, color=colour, lw=width, mutation_scale=10, shrinkA=0, shrinkB=0,
        connectionstyle=f'arc3,rad={bend}'))
    if text:
        x, y = (start[0] + end[0]) / 2 + 0.07 * side, (start[1] + end[1]) / 2
        say(ax, x, y, text, ha='left' if side > 0 else 'right')


def tokens(ax, x, y, n, colour, size=0.17, filled=True, shades=None):
    """n squares in a row around (x, y), a token each; returns their x. shades [n] 0 to 1: how
    strong each is filled."""
    places = x + (np.arange(n) - (n - 1) / 2) * size * 1.25
    for k, place in enumerate(places):
        shade = shades[k] if shades is not None else 0.55 * filled
        ax.add_patch(plt.Rectangle((place - size / 2, y - size / 2), size, size, fc='white',
                                   ec=colour, lw=1))
        ax.add_patch(plt.Rectangle((place - size / 2, y - size / 2), size, size, fc=colour,
                                   alpha=shade, lw=0))
    return places


def shape(*axes):
    """[T, L, D], a size after its letter where it is a number: shape('T', ('L', 32)) is
    "[T, L=32]"."""
    return '[' + ', '.join(a if isinstance(a, str) else f'{a[0]}={a[1]}' for a in axes) + ']'


def pipeline(config, width):
    """From a caption and a video to their score, with the shape of what goes along each arrow.

    config: a Config; width: D of its CLIP"""
    D, L, F = ('D', width), ('L', config.max_words), ('F', config.max_frames)
    ax = sheet(5.4, 5.9)
    text, video = 1.25, 4.15
    say(ax, text, 5.7, '“a red ring shrinks”', BLUE, NORMAL, style='italic')
    tokens(ax, video, 5.7, 5, ORANGE, 0.2)
    arrow(ax, (text, 5.54), (text, 5.08), 'tokens ' + shape('T', L))
    arrow(ax, (video, 5.54), (video, 5.08), 'frames ' + shape('V', F, '3', 'S', 'S'), side=-1)
    box(ax, text, 4.85, 1.9, 0.46, 'CLIP’s text tower', BLUE)
    box(ax, video, 4.85, 1.9, 0.46, 'CLIP’s image tower', ORANGE)
    below, top = 4.62, 2.58
    if config.temporal != 'none':
        arrow(ax, (video, 4.62), (video, 4.14), '$x$ ' + shape('V', F, D), side=-1)
        box(ax, video, 3.91, 1.9, 0.46, f'temporal {config.temporal}', ORANGE)
        below = 3.68
    arrow(ax, (0.6, 4.62), (0.6, top), '', BLUE)
    say(ax, 0.67, 4.25, 'sentence $e$\n' + shape('T', D), ha='left')
    box(ax, 1.35, 2.15, 2.5, 0.86, 'Global module\nno parameters: the\nsentence weighs the frames')
    arrow(ax, (3.6, below), (2.1, top), '', ORANGE)
    say(ax, 4.68, 3.05, 'frames $y$\n' + shape('V', F, D), ha='right')
    if config.local_weight:
        arrow(ax, (4.75, below), (4.75, top), '', ORANGE)
        arrow(ax, (1.75, 4.62), (3.3, top), '', BLUE)
        say(ax, 1.72, 3.5, 'words $w$\n' + shape('T', L, D))
        box(ax, 4.05, 2.15, 2.5, 0.86, f'Local module\n{config.num_queries} learned queries read\n'
            'words and frames', GREEN)
        arrow(ax, (4.05, 1.72), (3.3, 0.9), f'$S_l$ {shape("T", "V")}')
    arrow(ax, (1.35, 1.72), (2.1, 0.9), f'$S_g$ {shape("T", "V")}', side=-1)
    parts = [f'{config.global_weight:g}\\,S_g'] * bool(config.global_weight)
    parts += [f'{config.local_weight:g}\\,S_l'] * bool(config.local_weight)
    score = ' + '.join(parts).replace('1\\,', '')
    box(ax, 2.7, 0.67, 2.7, 0.46, f'$S = {score}$   {shape("T", "V")}')
    say(ax, 2.7, 0.24, 'a row of $S$, sorted: the videos ranked for one caption')


def modules(config):
    """The global module beside the local one: what meets what, and what is learned."""
    ax = sheet(5.4, 4.3)
    Q, shown = config.num_queries, 3
    for x, title in ((1.3, 'Global module'), (4.05, 'Local module')):
        say(ax, x, 4.12, title, size=NORMAL, weight='bold')
    say(ax, 1.3, 3.83, 'nothing is learned')
    say(ax, 4.05, 3.83, f'{Q} queries and a decoder are learned')
    ax.plot([2.62, 2.62], [0.1, 4.2], color='#dddddd', lw=1)
    _global_module(ax)
    _local_module(ax, Q, shown)


def _global_module(ax):
    weights = [0.1, 0.95, 0.75, 0.12, 0.08]
    tokens(ax, 0.35, 0.75, 1, BLUE, 0.24)
    say(ax, 0.45, 0.42, 'sentence $e$', BLUE)
    places = tokens(ax, 1.78, 0.75, 5, ORANGE, 0.22)
    say(ax, 1.78, 0.42, 'frames $y_f$', ORANGE)
    arrow(ax, (0.35, 0.9), (0.98, 1.42), '', BLUE)
    bars = zip(places, weights)
    for x, weight in bars:
        ax.add_patch(plt.Rectangle((x - 0.1, 1.25), 0.2, 0.5 * weight, fc=GREY, lw=0))
        arrow(ax, (x, 1.82), (1.78, 2.34), '', ORANGE, style='-', width=0.4 + 2.4 * weight)
    say(ax, 1.62, 1.1, 'weights $a_f$')
    tokens(ax, 1.78, 2.46, 1, ORANGE, 0.24)
    say(ax, 1.98, 2.46, 'sum $p$', ORANGE, ha='left')
    arrow(ax, (0.35, 0.9), (0.95, 2.92), '', BLUE)
    arrow(ax, (1.7, 2.62), (1.42, 2.92), '', ORANGE)
    box(ax, 1.25, 3.15, 1.5, 0.44, '$S_g = \\cos(e, p)$')
    say(ax, 1.3, 0.14, 'a new $p$ for every pair')


def _local_module(ax, Q, shown):
    say(ax, 4.05, 0.14, 'each side is read once, alone')
    sides = (3.4, BLUE, 'words $w_l$', 't'), (4.75, ORANGE, 'frames $y_f$', 'v')
    for x, colour, name, letter in sides:
        tokens(ax, x, 0.75, 4, colour, 0.2)
        say(ax, x, 0.42, name, colour)
        arrow(ax, (x, 0.9), (x, 1.25), '', colour)
        for place in tokens(ax, x, 2.3, shown, colour, 0.24, shades=(0.25, 0.5, 0.8)):
            arrow(ax, (place, 1.71), (place, 2.16), '', GREEN)
        say(ax, x + (-0.5 if colour == BLUE else 0.5), 2.3, f'$c^{letter}$', colour)
    box(ax, 4.07, 1.48, 2.3, 0.44, f'{Q} queries, shared', GREEN)
    left, right = 3.4 + np.array([-0.3, 0, 0.3]), 4.75 + np.array([-0.3, 0, 0.3])
    for a, b in zip(left, right):
        arrow(ax, (a, 2.43), (b, 2.43), '', GREEN, style='<|-|>', bend=-0.3, width=0.9)
    arrow(ax, (4.07, 2.68), (4.07, 2.92), '', GREEN)
    box(ax, 4.07, 3.15, 2.3, 0.44, '$S_l$ = mean$_q$ cos$(c^t_q, c^v_q)$', size=SMALL)


def forces(config):
    """The three losses as pulls (green) and pushes (red) between directions on a circle.

    Where a pull or a push ends is worked out from the config's target and margin."""
    ax = sheet(5.4, 3.0)
    rest = math.degrees(math.acos(config.consistency_target))
    apart = math.degrees(math.acos(1 - config.diversity_margin))
    for x, title in ((0.93, 'contrastive'), (2.7, 'inter-consistency'), (4.47, 'intra-diversity')):
        say(ax, x, 2.8, title, size=NORMAL, weight='bold', va='baseline')
        ax.add_patch(plt.Circle((x, 1.5), 0.72, fill=False, color='#cccccc', lw=1))
    dot(ax, 0.93, 90, BLUE, 'caption')
    dot(ax, 0.93, 15, ORANGE, '')
    say(ax, 1.2, 1.5, 'its\nvideo', ORANGE)
    along(ax, 0.93, (27, 76), GREEN)
    for degrees in (145, 200):
        dot(ax, 0.93, degrees, GREY, '')
        along(ax, 0.93, (degrees + 12, degrees + 42), RED)
    say(ax, 0.62, 1.6, 'others', '#666666')
    say(ax, 0.93, 0.62, 'its own video comes\nnearer, the others of\nthe batch go away', va='top')
    dot(ax, 2.7, 90 + rest / 2 + 22, BLUE, '$c^t_q$')
    dot(ax, 2.7, 90 - rest / 2 - 22, ORANGE, '$c^v_q$')
    along(ax, 2.7, (90 + rest / 2 + 12, 90 + rest / 2), GREEN)
    along(ax, 2.7, (90 - rest / 2 - 12, 90 - rest / 2), GREEN)
    wedge(ax, 2.7, rest, f'{rest:.0f}°')
    say(ax, 2.7, 0.62, 'partner concepts meet\nup to a cosine of '
        f'{config.consistency_target:g}', va='top')
    for degrees in (84, 96):
        dot(ax, 4.47, degrees, GREEN, '')
    say(ax, 4.47, 2.36, 'two concepts', GREEN)
    along(ax, 4.47, (107, 135), RED)
    along(ax, 4.47, (73, 45), RED)
    wedge(ax, 4.47, apart, f'{apart:.0f}°')
    say(ax, 4.47, 0.62, 'concepts of one item part\ndown to a cosine of '
        f'{1 - config.diversity_margin:g}', va='top')


def on_circle(x, degrees, radius=0.72):
    """A point of the circle around (x, 1.5)."""
    angle = math.radians(degrees)
    return x + radius * math.cos(angle), 1.5 + radius * math.sin(angle)


def dot(ax, x, degrees, colour, name):
    """A direction on the circle around (x, 1.5), with its name outside."""
    ax.plot(*on_circle(x, degrees), 'o', color=colour, ms=8, zorder=3)
    say(ax, *on_circle(x, degrees, 0.93), name, colour)


def along(ax, x, degrees, colour):
    """An arrow along the circle, from one angle to another."""
    first, last = (on_circle(x, angle, 0.72) for angle in degrees)
    bend = math.tan(math.radians(degrees[1] - degrees[0]) / 4)
    arrow(ax, first, last, '', colour, bend=bend, width=2)


def wedge(ax, x, degrees, text):
    """The angle at which a force ends, around the vertical."""
    for way in (-1, 1):
        end = on_circle(x, 90 + way * degrees / 2)
        ax.plot(*zip((x, 1.5), end), color='#888888', lw=0.9, ls=':')
    say(ax, x, 1.36, text, '#555555')
