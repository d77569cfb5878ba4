"""What a look at a figure may miss."""
import matplotlib.pyplot as plt
import numpy as np
import pytest

from glscl import plots
from glscl.plots.efficiency import name_points

SUMMARY = {'R@1': 30.0, 'R@5': 70.0, 'R@10': 90.0, 'R@1 interval': [25, 36], 'R@5 interval': [66, 74], 'R@10 interval': [90, 90]}


@pytest.fixture(autouse=True)
def closed():
    plots.style()
    yield
    plt.close('all')


@pytest.mark.parametrize('heights', [[1, 1, 1, 1], [1, 1.01, 5, 5.01], [3, 2, 1, 0]])
def test_no_name_covers_another(heights):
    figure, ax = plt.subplots()
    ax.plot([1] * 4, heights, 'o')
    name_points(ax, [(f'method {i}', 1, y, 1) for i, y in enumerate(heights)])
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
    assert len(boxes) == 4 and not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_recalls_stand_at_their_values_with_their_intervals():
    plots.recalls({'text to video': {'here': SUMMARY, 'there': {**SUMMARY, 'R@1': 26.0}}}, chance=0.2)
    [ax] = plt.gcf().axes
    first, second = ([line for line in ax.lines if line.get_marker() == mark][0] for mark in 'os')
    assert first.get_ydata().tolist() == [30, 70, 90] and second.get_ydata()[0] == 26
    assert np.all(first.get_xdata() < second.get_xdata())
    strokes = [segment[:, 1].tolist() for bars in ax.collections for segment in bars.get_segments()]
    assert [25, 36] in strokes and [66, 74] in strokes and [2, 2] in strokes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ['guessing', 'here', 'there']


def test_a_strip_is_padded_and_labelled():
    film = np.zeros((3, 8, 8, 3), np.uint8)
    plots.film_strips([film, film[:2]], ['one', 'two'], [[0, 30, 60], [0, 30]], places=4)
    labels = [[text.get_text() for text in ax.texts] for ax in plt.gcf().axes]
    assert labels == [['0', '30', '60', 'pad'], ['0', '30', 'pad', 'pad']]
    assert [len(ax.images) for ax in plt.gcf().axes] == [3, 2]


def test_what_queries_like_best_is_framed():
    plots.attended({1: dict(attention=[[.2, .3, .5]], recall=40), 2: dict(attention=[[.6, .2, .2], [.1, .8, .1]], recall=70)}, ['a', 'b', 'c'])
    left, right = plt.gcf().axes
    frames = [[patch.get_xy() for patch in ax.patches] for ax in (left, right)]
    assert frames == [[(2, 0)], [(0, 0), (1, 1)]]
    assert left.get_ylim() == right.get_ylim() and right.get_title(loc='left') == 'Q = 2: R@1 70 %'


def test_the_life_of_concepts_is_a_thin_curve_a_seed_and_a_thick_mean():
    def look(step, cosine):
        return dict(step=step, videos=dict(within=cosine, between=cosine / 2), std_local=cosine, std_global=2)
    plots.concept_life({'one': [[look(0, .2), look(5, .4)], [look(0, .4), look(5, .8)]]})
    within, between, weight = plt.gcf().axes
    assert [line.get_ydata().tolist() for line in within.lines] == [[.2, .4], [.4, .8], pytest.approx([.3, .6])]
    assert between.lines[-1].get_ydata() == pytest.approx([.15, .3]) and weight.lines[-1].get_ydata() == pytest.approx([.15, .3])
