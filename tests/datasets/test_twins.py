"""Twins: the same frames in another order, told apart by their captions alone."""
import numpy as np
import pandas as pd
import pytest
import torch

from glscl.config import load_config
from glscl.data.pairs import Pairs
from glscl.data.tokens import tokenize
from glscl.datasets import shapes, twins
from glscl.experiments import tables
from glscl.experiments import twins as experiment
from glscl.experiments.twins import measure, own_before_twin, two_way
from glscl.model import GLSCL

PAIRS = 30


@pytest.fixture(scope='module', params=twins.KINDS)
def described(request):
    return request.param, *twins.describe(request.param, PAIRS)


def a_second(scenes):
    """The frames of a video that are taken at one a second."""
    return shapes.render(scenes)[::shapes.FPS]


def test_twins_show_the_same_frames_in_another_order(described):
    _, videos, _ = described
    assert len(videos) == 2 * PAIRS
    for one, other in zip(videos[::2], videos[1::2], strict=True):
        a, b = (a_second(scenes).astype(int) for scenes in (one, other))
        assert a.shape == b.shape and len(a) <= load_config('shapes').max_frames  # none thinned out
        apart = abs(a[:, None] - b).max((2, 3, 4))  # [F, F]; 1 where one pixel was rounded up
        assert apart.min(0).max() <= 1 and apart.min(1).max() <= 1 and apart.diagonal().max() > 20


def test_captions_of_twins_differ_in_nothing_else(described):
    kind, _, rows = described
    for [one], [other] in zip(rows[::2], rows[1::2], strict=True):
        a, b = (set(row['caption'].replace(',', '').split()) for row in (one, other))
        if kind == 'order':
            assert a == b and one['facts'] == other['facts'][::-1]
        else:
            [fact], [turned] = one['facts'], other['facts']
            assert turned == {**fact, 'motion': twins.OPPOSITE[fact['motion']]}
            assert len(a - b) <= 2  # "climbs upwards", "sinks downwards"


def test_a_turned_object_moves_as_its_caption_says():
    videos, _ = twins.describe('direction', PAIRS)
    for one, other in zip(videos[::2], videos[1::2], strict=True):
        [(a, b)] = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
        for thing in (a.things[0], b.things[0]):
            x0, y0, _, x1, y1, _ = thing.path
            way = dict(left=x0 - x1, right=x1 - x0, up=y0 - y1, down=y1 - y0)
            assert max(way, key=way.get) == thing.motion and way[thing.motion] > 10
            assert 0 < min(x0, y0, x1, y1) and max(x0, y0, x1, y1) < shapes.SIZE


def test_twins_depend_on_kind_seed_and_count_only():
    assert twins.describe('order', 5) == twins.describe('order', 5)
    assert twins.describe('order', 5)[0] == twins.describe('order', 9)[0][:10]
    assert twins.describe('order', 5) != twins.describe('order', 5, seed=1)
    with pytest.raises(ValueError, match="order, direction, not 'speed'"):
        twins.describe('speed')


def test_a_table_of_twins_loads(tmp_path):
    table = twins.twins(tmp_path, 'order', 3)
    assert table['twin'].tolist() == [f'order000{i}' for i in (1, 0, 3, 2, 5, 4)]
    pairs = twins.load_twins(load_config('shapes'), 'order', 3, tmp_path)
    assert len(pairs) == len(pairs.frames) == 6 and not pairs.skipped
    own = [set(map(bytes, pairs.frames[v][pairs.frame_mask[v].numpy()])) for v in (0, 1)]
    assert len(own[0]) > 3  # H.264 moves a pixel here and there, so that the sets are not equal
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith('.')] == []


def pairs_of(n):
    ids = [f'v{i}' for i in range(n)]
    other = [ids[i ^ 1] for i in range(n)]
    table = pd.DataFrame(dict(video_id=ids, twin=other, video=range(n)))
    return Pairs(table, None, None, None, None, {})


def test_own_before_twin_by_hand():
    S = torch.tensor([[2., 1, 9, 9], [2, 1, 9, 9], [9, 9, 5, 5], [9, 9, 0, 1]])
    right = own_before_twin(S, pairs_of(4))
    assert right.tolist() == [1, 0, 0.5, 1]
    assert two_way(right)['accuracy'] == 62.5 and two_way(right)['pairs'] == 2


def test_who_forgets_the_order_gets_one_of_two_with_no_spread():
    S = torch.randn(200, 200, generator=torch.Generator().manual_seed(0))
    S[1::2] = S[::2]  # both captions of a pair score alike
    assert two_way(own_before_twin(S, pairs_of(200))) == dict(accuracy=50, low=50, high=50, pairs=100)


def test_every_method_is_measured_on_both_kinds(tmp_path, model):
    table = measure({'mine': model}, 3, tmp_path)
    assert table['kind'].tolist() == ['order'] * 3 + ['direction'] * 3
    assert table['method'].tolist()[:3] == ['mean pooling, untrained', 'global module, untrained', 'mine']
    assert (table['pairs'] == 3).all() and table['accuracy'].between(0, 100).all()


@pytest.mark.parametrize('temporal', ['none', 'transformer'])
def test_only_a_temporal_transformer_can_tell_twins_apart(config, temporal):
    """Without one, every part of the model takes the frames as a set: turned round, they score the same."""
    model = GLSCL(config.replace(temporal=temporal)).eval()
    x, mask = torch.randn(5, 12, model.clip.width), torch.ones(5, 12, dtype=torch.bool)
    ids, words = tokenize(['first a star, then a ring', 'a ring'], 12)
    with torch.no_grad():
        texts = model.encode_texts(ids, words)
        S, turned = (model.similarity(texts, model.encode_features(frames, mask)) for frames in (x, x.flip(1)))
    assert torch.allclose(S, turned, atol=1e-5) == (temporal == 'none')


def test_a_table_of_stored_runs_says_who_tells_twins_apart():
    runs, _ = tables.stored('tuned')
    told = experiment.table(runs)
    assert len(told) == 5 and set(told['seeds']) == {2, 5}
    one = [run for run in runs if run['name'] == 'GLSCL']
    each = [np.mean(run['more_captions']['order twins']['own_first']['both']) for run in one]
    assert told.loc['GLSCL', 'order twins'].startswith(f'{100 * np.mean(each):.0f} (')
    assert {len(run['more_captions'][kind]['own_first']['both']) for run in runs for kind in ('order twins', 'direction twins')} == {400}
