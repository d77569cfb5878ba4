"""Each similarity head as a small drawing: what its text and its video are, and how they meet.

What a class of `glscl.heads` says of itself is read from it (who wrote it, whether it reads words,
has a temporal transformer or an image tower of its own, its numbers); the rest stands in METHODS.
Ways to meet: `vector` (one vector a video, made without the text), `weigh` (the text weighs the
frames), `cloud` (it does, and has many points), `both` (it does, and concepts meet besides), `grid`
(words meet frames one by one), `joint` (a transformer over each pair)."""
import inspect
import re
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np

from ..heads import HEADS, TOWERS
from .diagrams import arrow, box, say, sheet, tokens
from .style import BLUE, GREEN, INK, ORANGE

WIDTH, HEIGHT = 2.7, 3.3  # inches of one drawing


@dataclass
class Method:
    """idea: in one sentence, with {numbers} that the head's or the tower's defaults fill in; meet:
    a key of MEETINGS; how: the words in the box where frames become one, or pairs a score;
    parts: what both sides are cut into, or both sides' concepts; tower: what happens inside
    CLIP."""
    idea: str
    meet: str
    how: str = ''
    parts: str = ''
    tower: str = ''


METHODS = {
    'CLIP4Clip meanP': Method('A video is the mean of its frames.', 'vector', 'mean'),
    'CLIP4Clip seqTransf': Method('The frames look at each other first; then their mean.',
                                  'vector', 'mean'),
    'CLIP4Clip tightTransf': Method('A transformer reads the text and the frames of each pair '
                                    'together.', 'joint', 'transformer, each pair'),
    'CenterCLIP': Method('Inside CLIP the frames become {segments} segments, of which only the '
                         'central patches stay.', 'vector', 'mean',
                         tower='{max_frames} frames, {segments} segments'),
    'X-CLIP': Method('Sentence and words meet video and frames: four grains, averaged.', 'grid',
                     'four grains'),
    'TS2-Net': Method('Inside CLIP frames exchange patches; the frames nearest to the text count '
                      'most.', 'weigh', 'by cosine', tower='{max_frames} frames, shifted'),
    'X-Pool': Method('The text asks, the frames answer: attention with learned maps.', 'weigh',
                     'learned attention'),
    'CLIP-ViP': Method('Inside CLIP the class token and {proxies} proxies see all frames: one '
                       'vector comes out.', 'vector', 'class token',
                       tower='{max_frames} frames, {proxies} proxies'),
    'DiCoSA': Method('The text weighs the frames; both sides are cut into {concepts} concepts, '
                     'each with a learned weight.', 'weigh', 'softmax', '{concepts} concepts'),
    'Prompt Switch': Method('Inside CLIP each frame sends a prompt to each other; then the mean.',
                            'vector', 'mean', tower='{max_frames} frames, prompts'),
    'LAFF': Method('Each side is fused in {spaces} spaces; their cosines are averaged.', 'vector',
                   'mean', '{spaces} spaces'),
    'GLSCL': Method('The text weighs the frames, without parameters; {num_queries} learned '
                    'queries add shared concepts.', 'both', 'softmax', '{num_queries} concepts'),
    'DRL': Method('Each word takes its best frame, each frame its best word; learned weights.',
                  'grid', 'best of each'),
    'T-MASS': Method('A text is a cloud: of {trials} points in it the nearest to the video '
                     'counts.', 'cloud', 'learned attention', '{trials} points'),
    'TeachCLIP': Method('A small network, taught by slow models, weighs the frames without the '
                        'text.', 'vector', 'learned weights')}


def citation(name):
    """Authors and year of a head's paper, from the docstring of its file."""
    about = inspect.getmodule(TOWERS.get(name, HEADS[name])).__doc__
    found = re.search(r'\(([\w-]+\s+et\s+al\.\s+\d{4})\)', about)
    return ' '.join(found[1].split()) if found else 'Zhang et al. 2025'


def idea(name, config):
    """What a head does, in one sentence, with its numbers."""
    return METHODS[name].idea.format(**_numbers(name, config))


def _numbers(name, config):
    """The defaults of a head and its tower, and the config's settings: {name: value}"""
    numbers = dict(vars(config))
    for made in (HEADS[name], TOWERS.get(name)):
        for key, parameter in inspect.signature(made).parameters.items() if made else ():
            if key not in ('num_queries', 'max_frames', 'max_words'):
                numbers[key] = parameter.default
    return numbers


def rivals(names, config, columns=2):
    """The heads of these names, a drawing each. config: a Config, for the sizes.

    KeyError for a name that is not in `glscl.heads.HEADS`."""
    rows = -(-len(names) // columns)
    ax = sheet(WIDTH * columns, HEIGHT * rows)
    for i, name in enumerate(names):
        x, y = WIDTH * (i % columns), HEIGHT * (rows - 1 - i // columns)
        _draw(ax, x, y, name, config)
        if i % columns:
            ax.plot([x, x], [y + 0.1, y + HEIGHT - 0.1], color='#dddddd', lw=1)


def _wrapped(text, width=36):
    lines = ['']
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append('')
        lines[-1] = f'{lines[-1]} {word}'.strip()
    return '\n'.join(lines)


def _draw(ax, x, y, name, config):
    head, method, numbers = HEADS[name], METHODS[name], _numbers(name, config)
    text, video = x + 0.6, x + 1.82
    say(ax, x + 0.12, y + 3.17, name, size=10.5, weight='bold', ha='left')
    say(ax, x + 0.12, y + 2.98, citation(name), '#666666', ha='left')
    say(ax, x + 0.12, y + 2.86, _wrapped(idea(name, config)), ha='left', va='top')
    if head.reads_words:
        tokens(ax, text, y + 0.4, 4, BLUE, 0.15)
        say(ax, text, y + 0.17, f'{config.max_words} words', BLUE)
    else:
        tokens(ax, text, y + 0.4, 1, BLUE, 0.2)
        say(ax, text, y + 0.17, 'sentence', BLUE)
    frames = tokens(ax, video, y + 0.4, 5, ORANGE, 0.17)
    label = method.tower or '{max_frames} frames'
    say(ax, video, y + 0.17, label.format(**numbers), ORANGE)
    top = y + 0.52
    if head.has_time and config.temporal != 'none' and method.meet != 'joint':
        box(ax, video, y + 0.76, 1.25, 0.26, 'temporal', ORANGE, 9)
        arrow(ax, (video, y + 0.5), (video, y + 0.64), '', ORANGE)
        top = y + 0.9
    parts = method.parts.format(**numbers)
    MEETINGS[method.meet](ax, x, y, top, method.how, parts, frames)


def _score(ax, x, y, words='$S$'):
    box(ax, x, y + 2.12, 0.5 if words == '$S$' else 1.1, 0.26, words, size=9)


def _vector(ax, x, y, top, how, parts, frames, of_video=3):
    """Frames become one vector without the text; of_video: pieces drawn of it where there are
    parts."""
    text, video = x + 0.6, x + 1.82
    _funnel(ax, video, y, top, how)
    tokens(ax, video, y + 1.62, of_video if parts else 1, ORANGE, 0.15)
    arrow(ax, (video - 0.1, y + 1.73), (x + 1.42, y + 1.98), '', ORANGE)
    if parts:
        arrow(ax, (text, y + 0.52), (text, y + 1.5), '', BLUE)
        tokens(ax, text, y + 1.62, 3, BLUE, 0.15)
        arrow(ax, (text + 0.1, y + 1.73), (x + 1.05, y + 1.98), '', BLUE)
        say(ax, x + 1.21, y + 1.62, parts, GREEN, size=8)
    else:
        arrow(ax, (text, y + 0.52), (x + 1.05, y + 1.98), '', BLUE)
    _score(ax, x + 1.22, y)


def _funnel(ax, video, y, top, how):
    box(ax, video, y + 1.18, 1.4, 0.28, how, ORANGE, 9)
    arrow(ax, (video, top), (video, y + 1.04), '', ORANGE)
    arrow(ax, (video, y + 1.32), (video, y + 1.52), '', ORANGE)


def _weigh(ax, x, y, top, how, parts, frames, of_video=3):
    """The text has a say in how frames become one vector."""
    _vector(ax, x, y, top, how, parts, frames, of_video)
    arrow(ax, (x + 0.6, y + 0.52), (x + 1.12, y + 1.14), '', BLUE, width=1.8)


def _cloud(ax, x, y, top, how, parts, frames):
    """The text is many points, the video one vector."""
    _weigh(ax, x, y, top, how, parts, frames, of_video=1)


def _both(ax, x, y, top, how, parts, frames):
    """As `_weigh`, and beside it both sides' concepts, which know nothing of each other."""
    video = x + 1.6
    box(ax, video, y + 1.18, 0.9, 0.28, how, ORANGE, 9)
    arrow(ax, (video, top), (video, y + 1.04), '', ORANGE)
    arrow(ax, (video, y + 1.32), (video, y + 1.52), '', ORANGE)
    tokens(ax, video, y + 1.62, 1, ORANGE, 0.15)
    arrow(ax, (x + 0.75, y + 0.52), (x + 1.15, y + 1.12), '', BLUE, width=1.8)
    arrow(ax, (x + 0.75, y + 0.52), (x + 1.12, y + 1.98), '', BLUE)
    arrow(ax, (video, y + 1.7), (x + 1.4, y + 1.98), '', ORANGE)
    for end, start, colour in ((x + 0.4, x + 0.4, BLUE), (x + 2.36, x + 2.36, ORANGE)):
        arrow(ax, (start, y + 0.52 if colour == BLUE else top), (end, y + 1.5), '', colour)
        tokens(ax, end, y + 1.62, 3, GREEN, 0.14)
        arrow(ax, (end, y + 1.72), (x + 1.3 + (end - x - 1.38) * 0.48, y + 1.98), '', GREEN)
    say(ax, x + 0.38, y + 2.06, parts, GREEN, size=8)
    _score(ax, x + 1.3, y, '$S_g + \\lambda S_l$')


def _grid(ax, x, y, top, how, parts, frames):
    """Each word with each frame."""
    values = np.random.default_rng(3).random((4, 5))
    left, bottom, cell = x + 1.38, y + 1.08, 0.175
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            corner = (left + column * cell, bottom + row * cell)
            ax.add_patch(plt.Rectangle(corner, cell, cell, fc=GREEN, alpha=0.1 + 0.7 * value,
                                       ec='white', lw=0.8))
    arrow(ax, (x + 0.6, y + 0.52), (left - 0.05, bottom + 0.35), '', BLUE)
    arrow(ax, (x + 1.82, top), (x + 1.82, bottom - 0.02), '', ORANGE)
    arrow(ax, (x + 1.82, bottom + 0.72), (x + 1.5, y + 1.98), '', GREEN)
    say(ax, x + 0.62, y + 1.62, how, GREEN)
    _score(ax, x + 1.4, y)


def _joint(ax, x, y, top, how, parts, frames):
    """Everything through one network, anew for each pair."""
    box(ax, x + 1.3, y + 1.2, 2.2, 0.42, how, GREEN, 9)
    arrow(ax, (x + 0.6, y + 0.52), (x + 0.6, y + 0.98), '', BLUE)
    for place in frames:
        arrow(ax, (place, y + 0.5), (place, y + 0.98), '', ORANGE, width=0.9)
    arrow(ax, (x + 1.3, y + 1.42), (x + 1.3, y + 1.98), '', INK)
    _score(ax, x + 1.3, y)


MEETINGS = dict(vector=_vector, weigh=_weigh, cloud=_cloud, both=_both, grid=_grid, joint=_joint)
