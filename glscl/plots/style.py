"""One style, one set of colours, and the pieces that several figures share."""
import seaborn as sns
from matplotlib.lines import Line2D

INK, BLUE, ORANGE, GREEN = '#222222', '#2a6fbb', '#e07b26', '#3a9a5b'
RED, GREY = '#c8402f', '#9aa0a6'
SERIES, MARKS = (BLUE, ORANGE, GREEN, GREY), 'os^D'  # of the first, second, … series of a chart
# Of a method in every chart, by what its name begins with.
METHODS = {'mean pooling': (GREY, 'o'), 'global': (ORANGE, '^'), 'GLSCL': (BLUE, 's')}


def style():
    """Call once in a notebook's import cell."""
    sns.set_theme(style='whitegrid', font_scale=0.9, palette=SERIES, rc={
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


def look(name, i):
    """Colour and symbol of a method, or else of the i-th series."""
    known = (of for start, of in METHODS.items() if name.startswith(start))
    return next(known, (SERIES[i % len(SERIES)], MARKS[i % len(MARKS)]))


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
    for (label, y), colour, dashes in zip(curves.items(), SERIES, ('-', '--', '-.')):
        ax.plot(x, y, marker=symbol, ls=dashes, color=colour, ms=3, label=label)
    ax.set(**axis)
    ax.legend()


def heat_map(ax, values, **options):
    """A matrix [rows, columns] as coloured cells. options: of `seaborn.heatmap`"""
    sns.heatmap(values, ax=ax, **options)
    ax.tick_params(axis='y', rotation=0)


def nothing_stored(ax):
    """Say in an empty chart why it is empty."""
    ax.text(0.5, 0.5, 'no stored runs', transform=ax.transAxes, ha='center', va='center')
