"""One style and one set of colours for all figures."""
import seaborn as sns

INK, BLUE, ORANGE, GREEN, RED, GREY = '#222222', '#2a6fbb', '#e07b26', '#3a9a5b', '#c8402f', '#9aa0a6'


def style():
    """Call once in a notebook's import cell."""
    sns.set_theme(style='whitegrid', font_scale=0.9, rc={
        'figure.dpi': 88, 'figure.constrained_layout.use': True, 'axes.spines.top': False, 'axes.spines.right': False,
        'axes.titlelocation': 'left', 'grid.color': '#e6e6e6', 'axes.edgecolor': '#888888'})
