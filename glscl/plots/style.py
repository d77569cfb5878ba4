"""One style, and the pieces that several figures share."""
import numpy as np
import seaborn as sns
from matplotlib.lines import Line2D

from .colours import INK, SERIES


def style():
    """Call once in a notebook's import cell."""
    sns.set_theme(style='whitegrid', font_scale=0.9, rc={
        'figure.dpi': 88, 'figure.constrained_layout.use': True,
        'axes.spines.top': False, 'axes.spines.right': False, 'axes.edgecolor': '#888888',
        'axes.titlelocation': 'left', 'axes.titlesize': 9.5, 'grid.color': '#e6e6e6',
        'legend.fontsize': 8.5, 'legend.frameon': False})


def legend_right(ax):
    """The legend of a chart, to the right of it."""
    ax.legend(loc='upper left', bbox_to_anchor=(1, 1))


def legend_below(figure, marks):
    """One legend for a whole figure, below it. marks: of `mark`"""
    figure.legend(handles=marks, loc='outside lower center', ncols=3)


def mark(colour, label, symbol='o', hollow=False, line=''):
    """An entry of a legend for something that was drawn piece by piece."""
    face = 'white' if hollow else colour
    return Line2D([], [], color=colour, marker=symbol, mfc=face, ms=5, ls=line, label=label)


def rows(ax, names):
    """A horizontal row for each name, the first on top."""
    ax.set(yticks=range(len(names)), yticklabels=names, ylim=(len(names) - 0.5, -0.5))
    ax.grid(False, axis='y')


def lines(ax, x, curves, symbol='', **axis):
    """Curves over the same x, with a legend. curves: {label: y}; axis: for `ax.set`"""
    for (label, y), colour, dashes in zip(curves.items(), SERIES, ('-', '--', '-.'), strict=False):
        ax.plot(x, y, marker=symbol, ls=dashes, color=colour, ms=3, label=label)
    ax.set(**axis)
    ax.legend()


def heat_map(ax, values, numbers=None, dark=0.5, aspect='auto', **options):
    """A matrix [rows, columns] as coloured cells; returns the image, for a colour bar.

    numbers: a string for each cell, white where its value exceeds `dark`; options: of `imshow`"""
    values = np.asarray(values)
    image = ax.imshow(values, aspect=aspect, **options)
    ax.grid(False)
    for row, column in np.ndindex(values.shape if numbers else (0, 0)):
        colour = 'white' if values[row, column] > dark else INK
        ax.text(column, row, numbers[row][column], ha='center', va='center', fontsize=7.5, color=colour)
    return image


def error_lengths(value, low, high):
    """What `errorbar` wants of an interval: how far its ends lie from the value, [2, n]."""
    value = np.asarray(value)
    return np.maximum(0, [value - low, high - value])  # rounding may put an end beyond the value


def nothing_stored(ax):
    """Say in an empty chart why it is empty."""
    ax.text(0.5, 0.5, 'no stored runs', transform=ax.transAxes, ha='center', va='center')
