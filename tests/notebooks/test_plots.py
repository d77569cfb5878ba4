"""What a look at a figure may miss."""
import base64
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from glscl import plots
from glscl.config import load_config
from glscl.heads import HEADS, TOWERS
from glscl.heads.base import compact
from glscl.plots.efficiency import name_points
from glscl.plots.heads import METHODS, citation, idea
from glscl.plots.style import BLUE, GREY, ORANGE

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


def test_a_method_has_one_colour_and_symbol_in_every_chart():
    names = ['mean pooling', 'global module', 'GLSCL']
    plots.recalls({'one': {f'{name}, here': SUMMARY for name in reversed(names)}})
    plots.methods({'one': {name: [20.0, 22.0] for name in names}, 'two': {name: [30.0] for name in names}})
    plots.twins(pd.DataFrame([dict(method=name, kind=kind, accuracy=60.0, low=50.0, high=70.0)
                              for kind in ('order', 'direction') for name in names]))
    looks = [{(line.get_color(), line.get_marker()) for ax in plt.figure(n).axes for line in ax.lines if line.get_marker() in tuple('os^')}
             for n in plt.get_fignums()]
    assert len(looks) == 3 and all(each == {(GREY, 'o'), (ORANGE, '^'), (BLUE, 's')} for each in looks)
    plots.recalls({'one': {f'rival {n}': SUMMARY for n in range(6)}})  # more than there are colours


def test_a_chart_says_its_result_in_its_title():
    def title():
        return plt.gcf().axes[0].get_title(loc='left')
    plots.recalls({'scene': {'here': SUMMARY, 'there': {**SUMMARY, 'R@1': 26.0}}})
    assert title() == 'scene: R@1 30, 26 %'
    plots.methods({kind: {'mean pooling': [20.0, 22.0], 'GLSCL': [40.0]} for kind in ('scene', 'order')})
    assert title() == 'captions: scene: R@1 21, 40 %'
    plots.rank_histogram(np.array([1, 1, 5, 30]), 100)
    assert title() == '50 % come first, 75 % among the first ten'
    plots.padding_drift([8, 9], [0.5, 0.5], [0.5, 0.52])
    assert title() == 'padding moves the score by 0.000 here, by 0.020 as released'
    plots.caption_lengths([5, 9, 7], None, 12)
    assert title() == 'the longest caption fills 9 of 12 places'


def test_a_strip_is_padded_and_labelled():
    film = np.zeros((3, 8, 8, 3), np.uint8)
    plots.frame_strips([film, film[:2]], ['one', 'two'], [[0, 30, 60], [0, 30]], places=4)
    labels = [[text.get_text() for text in ax.texts] for ax in plt.gcf().axes]
    assert labels == [['0', '30', '60', 'pad'], ['0', '30', 'pad', 'pad']]
    assert [len(ax.images) for ax in plt.gcf().axes] == [3, 2]


def test_a_found_video_is_paler_where_it_weighs_less():
    file = io.BytesIO()
    Image.new('RGB', (8, 8), (225, 45, 45)).save(file, 'PNG')
    picture = 'data:image/png;base64,' + base64.b64encode(file.getvalue()).decode()
    plots.found([(None, [(picture, dict(seconds=s, weight=w)) for s, w in enumerate((0.5, 0.25, 0.0))])], 'a red square', ['a note'])
    [ax] = plt.gcf().axes
    assert [image.get_alpha() for image in ax.images] == [1, 0.625, 0.25]  # of red: no rounding makes it another colour
    assert all(np.ptp(image.get_array()[..., 0]) == 0 and image.get_array()[0, 0, 0] > 200 for image in ax.images)
    assert [text.get_text() for text in ax.texts] == ['0 s: 0.50', '1 s: 0.25', '2 s']


# ---- drawings and moving pictures

CONFIG = load_config('shapes')


def words_of(figure):
    figure.draw_without_rendering()
    return [text for ax in figure.axes for text in ax.texts if text.get_text()]


@pytest.mark.parametrize('draw', [
    lambda: plots.pipeline(CONFIG, 128), lambda: plots.modules(CONFIG), lambda: plots.forces(CONFIG),
    lambda: plots.pipeline(CONFIG.replace(temporal='none', local_weight=0), 512),
    lambda: plots.rivals(list(HEADS), CONFIG, 5)],
    ids=['pipeline', 'modules', 'forces', 'pipeline without', 'rivals'])
def test_no_word_of_a_drawing_covers_another_or_leaves_it(draw):
    draw()
    figure = plt.gcf()
    boxes = [(text.get_text(), text.get_window_extent()) for text in words_of(figure)]
    whole = figure.bbox
    for i, (word, a) in enumerate(boxes):
        assert whole.x0 <= a.x0 and a.x1 <= whole.x1 and whole.y0 <= a.y0 and a.y1 <= whole.y1, word
        assert not [other for other, b in boxes[:i] if a.overlaps(b)], word


def test_a_drawing_has_the_sizes_of_its_config():
    plots.pipeline(CONFIG.replace(max_frames=7, max_words=11, num_queries=5, local_weight=0.25), 96)
    words = ' '.join(text.get_text() for text in words_of(plt.gcf()))
    assert {'[V, F=7, D=96]', '[T, L=11, D=96]', '5 learned queries'} <= set(re.findall(r'\[V, F=7, D=96\]|\[T, L=11, D=96\]|5 learned queries', words))
    assert 'S_g + 0.25' in words and 'temporal transformer' in words
    plots.forces(CONFIG.replace(consistency_target=0.5, diversity_margin=0.5))
    assert [t.get_text() for t in words_of(plt.gcf())].count('60°') == 2


def test_every_head_has_its_drawing_and_its_authors():
    assert list(METHODS) == list(HEADS)
    cited = {name: citation(name) for name in HEADS}
    assert all(re.fullmatch(r'\w+ et al\. 20\d\d', who) for who in cited.values())
    assert [name for name, who in cited.items() if who == 'Zhang et al. 2025'] == ['GLSCL']
    assert {name for name, method in METHODS.items() if method.tower} == set(TOWERS)
    assert not [name for name in HEADS if '{' in idea(name, CONFIG)]
    assert 'of 20 points' in idea('T-MASS', CONFIG) and '3 learned queries' in idea('GLSCL', CONFIG.replace(num_queries=3))


@pytest.mark.parametrize('name', list(HEADS))
def test_who_is_drawn_without_a_say_of_the_text_keeps_one_vector_a_video(name):
    """What a drawing claims, asked of the head: is a video one vector (or one a space) before any text is known?"""
    D, F = 32, CONFIG.max_frames
    head = HEADS[name](width=D, max_frames=F, max_words=CONFIG.max_words).eval()
    kept = vars(compact(head.encode_videos(torch.randn(2, F, D))))
    by_frame = any(F in x.shape[1:-1] for x in kept.values())  # something stored of each frame
    assert by_frame == (METHODS[name].meet != 'vector')


def test_a_moving_picture_moves_is_small_and_can_stand_still():
    frames = np.zeros((6, 32, 32, 3), np.uint8)
    for f in range(6):
        frames[f, :, 5 * f:5 * f + 5] = 255
    moving = plots.play([frames], ['a bar & more'])
    page = moving._repr_html_()
    still, moves = (Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r'base64,([^"]+)"', page))
    assert (still.n_frames, moves.n_frames) == (1, 6) and 'prefers-reduced-motion: reduce' in page
    assert 'alt="moving picture: a bar &amp; more"' in page and str(moving) == '(moving) a bar & more'
    with pytest.raises(ValueError, match='40 frames would take .* kB, 200 kB at most: show fewer'):
        plots.play([np.random.default_rng(0).integers(0, 255, (40, 256, 256, 3), np.uint8)], ['noise'])


def test_a_file_moves_too(world_folder):
    path = world_folder / 'test' / 'test0000.mp4'
    assert 'data:image/webp' in plots.play([path], ['a file'], side=32)._repr_html_()


def test_twins_stand_at_their_values():
    table = pd.DataFrame([dict(method=method, kind=kind, accuracy=a, low=a - 4, high=a + 5)
                          for kind, a in (('order', 70.0), ('direction', 52.0)) for method in ('one', 'other')])
    plots.twins(table)
    order, direction = plt.gcf().axes
    assert [line.get_xdata()[0] for line in order.lines if line.get_marker() in tuple('os')] == [70, 70]
    assert [line.get_xdata()[0] for line in direction.lines if line.get_marker() in tuple('os')] == [52, 52]
    assert [label.get_text() for label in order.get_yticklabels()] == ['one', 'other']


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


def test_costs_stand_at_their_values_and_equal_ones_side_by_side():
    recall = {name: dict(mean=mean, low=mean - 3, high=mean + 2) for name, mean in (('GLSCL', 33.0), ('CLIP-ViP', 10.0), ('LAFF', 12.0))}
    plots.cost_recall(dict(GLSCL=2716, LAFF=128, **{'CLIP-ViP': 128}), recall)
    [ax] = plt.gcf().axes
    points = sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in ax.lines if line.get_marker() == 'o')
    assert [y for _, y in points] == [10, 12, 33] and points[0][0] == 128 < points[1][0] < points[2][0] == 2716
    assert [10 - 3, 10 + 2] in [list(line.get_ydata()) for line in ax.lines]
    legend = [text.get_text() for text in plt.gcf().legends[0].get_texts()]
    assert legend == ['one vector a video, made without the text (LAFF: eight)', 'frames weighed by the text, and concepts']


def test_without_stored_runs_a_chart_of_costs_says_so():
    plots.cost_recall(dict(GLSCL=2716), {})
    assert 'no stored runs' in [text.get_text() for text in plt.gcf().axes[0].texts]


def test_an_answer_shows_real_frames_only_and_their_weights():
    frame = np.zeros((4, 8, 8, 3), np.uint8)
    weights = np.array([[0.1, 0.2, 0.7, 0], [0.98, 0.02, 0, 0]])  # a real frame may get nothing
    plots.answers('two $tars$_$', [frame[:3], frame], weights, ['first', 'second'])
    plt.gcf().draw_without_rendering()
    first, second = plt.gcf().axes
    assert [len(ax.images) for ax in (first, second)] == [3, 4]
    heights = [bar.get_height() for bar in first.patches]
    np.testing.assert_allclose(heights, heights[2] * weights[0] / 0.7)
    assert [text.get_text() for text in second.texts] == ['98 %'] and second.get_title(loc='left') == '2 · second'


def test_a_form_stands_in_its_group_with_its_numbers():
    columns = ['within', 'between', 'R@1 of S_l']
    table = pd.DataFrame([[np.nan] * 3, [0.8, 0.5, 9.7], [0.7, 0.4, 11.2]], ['global only', 'slots', 'alone: slots'], columns)
    compared = pd.DataFrame(dict(difference=[-0.3, -22.2], low=[-2.0, -25.0], high=[1.4, -20.0],
                                 after_holm=['not significant', 'lower']), index=['slots', 'alone: slots'])
    plots.local_study(table, compared)
    cosines, found, gains = plt.gcf().axes
    assert [t.get_text() for t in cosines.get_yticklabels()] == ['beside the global module', 'slots', 'without it', 'slots']
    marks = [(line.get_ydata()[0], line.get_marker(), line.get_xdata()[0]) for line in gains.lines if line.get_marker() in 'o<>']
    assert marks == [(1, 'o', -0.3), (3, '<', -5)] and [t.get_text() for t in gains.texts] == ['−22.2']
    assert [(bar.get_y() + 0.3, bar.get_width()) for bar in found.patches] == [(1, 9.7), (3, 11.2)]
