"""What 05 says in words is what the stored results say in numbers."""
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from glscl import heads, metrics
from glscl.checkpoints import save_model
from glscl.datasets import shapes
from glscl.experiments import significance, tables, twins
from glscl.notebook import begin

FOLDER = Path(__file__).parents[2] / 'notebooks'


@pytest.fixture(scope='module')
def cells():
    return {cell.id: cell for cell in nbformat.read(FOLDER / '05_evaluation.ipynb', 4).cells}


def says(cells, cell, *phrases):
    text = ' '.join(cells[cell].source.split())
    assert all(phrase in text for phrase in phrases), phrases


def shown(cells, cell):
    return ''.join(output.get('text', '') for output in cells[cell].outputs)


def test_three_methods(cells):
    runs, _ = tables.stored('methods')
    found = {kind: tables.pairs(tables.on_captions(runs, kind)).set_index('compared') for kind in tables.CAPTIONS}
    gain = {kind: of_kind.loc['global only − mean pooling', 'R@1 difference'] for kind, of_kind in found.items()}
    assert {kind: round(value) for kind, value in gain.items()} == dict(one=18, scene=41, order=-7)
    says(cells, 'methods-reading', '18 points of R@1', '41 on `scene`', 'by 7 points of R@1')
    assert all((of_kind.drop('GLSCL − global only')['reading'] != 'not significant').all() for of_kind in found.values())
    assert {of_kind.loc['GLSCL − global only', 'reading'] for of_kind in found.values()} == {'not significant'}
    says(cells, 'methods-reading', 'show no gain here**, on no set', 'the eight queries end in one concept')
    assert {run['settings'].get('num_queries', 8) for run in runs} == {8}
    says(cells, 'title', 'weigh the frames is worth 18 points of R@1, the local module none that can be seen')
    assert {len(of_one) for of_one in tables.variants(runs).values()} == {3}
    says(cells, 'methods-reading', 'from three seeds')
    ten = {name: np.mean(v) for name, v in tables.each_seed(tables.on_captions(runs, 'order'), 't2v R@10').items()}
    assert ten['mean pooling'] < min(ten['global only'], ten['GLSCL']) - 5
    first = {kind: np.array(tables.each_seed(tables.on_captions(runs, kind))['GLSCL']) for kind in ('scene', 'order')}
    assert (first['order'] < first['scene'] - 10).all() and '→ order captions are harder' in shown(cells, 'kinds')
    says(cells, 'confusions-text', 'An `order` caption says more and still finds less')


@pytest.fixture(scope='module')
def caption_kinds():
    """The kind of every test caption, in order; no pixel is needed for it."""
    _, captions = shapes.describe('test', shapes.SPLITS['test'])
    return np.array([row['kind'] for of_video in captions for row in of_video])


def of_captions(runs, owner, rows, *names):
    """The difference between two variants on some of the test captions."""
    two = [[dict(run, ranks=dict(t2v=np.array(run['ranks']['t2v'])[rows])) for run in tables.variants(runs)[name]] for name in names]
    return significance.difference(*two, 1, 't2v', np.array(owner)[rows])


def test_order_and_direction(cells, caption_kinds):
    runs, owner = tables.stored('tuned')
    told = twins.table(runs)
    assert set(told['seeds']) == {2, 5} and len(told) == 5
    says(cells, 'twins-stored-text', 'trains five models with CLIP, two to five seeds each', '200 pairs of a kind')
    share, low = (told[list(twins.TWINS)].map(lambda cell, at=at: float(re.findall(r'\d+', cell)[at])) for at in (0, 1))
    deaf = ['GLSCL without temporal transformer', 'mean pooling']
    hears = share.index.difference(deaf)
    assert share.loc[hears, 'order twins'].between(70, 80).all() and (low.loc[hears, 'order twins'] > 60).all()
    assert (share.loc[deaf, 'order twins'] < 60).all() and (share['direction twins'].between(47, 53)).all()
    says(cells, 'methods-text', 'the temporal transformer hears which scene came first', 'three times of four',
         'Nobody hears **which way an object moved**', 'R@1 as a whole does not notice')
    assert significance.difference(*(tables.variants(runs)[name] for name in ('GLSCL', deaf[0])), 1, 't2v', owner)['reading'] == 'not significant'
    scene, order = (of_captions(runs, owner, np.flatnonzero(caption_kinds == kind), 'GLSCL', deaf[0]) for kind in ('scene', 'order'))
    assert [round(-scene[key]) for key in ('difference', 'high', 'low')] == [5, 2, 8] and scene['reading'] == 'lower'
    assert round(order['difference']) == 3 and order['reading'] == 'not significant'
    says(cells, 'methods-text', 'on `scene` captions the transformer costs 5 points (2 to 8), on `order` captions it gains 3, which may be chance')
    for place in ('title', 'takeaways'):
        says(cells, place, 'hears which scene came first, not which way something moved')


def test_freezing_costs_mean_pooling_most(cells):
    table = tables.freezing(tables.stored('frozen')[0], tables.stored('methods')[0])
    lost = table['difference'].str.split().str[0].astype(float)
    assert table['variant'][lost.idxmin()] == 'mean pooling'
    says(cells, 'forest-text', 'Mean pooling, which has next to nothing else that could learn, loses most')
    times = sorted(run['train_seconds'] * run['threads'] for run in tables.stored('methods')[0] if run['name'] == 'mean pooling')
    assert times[2] > 2 * times[1]
    says(cells, 'solution-groups', 'one fine-tuned run of mean pooling', 'more than doubled its time')


def test_every_part_taken_out(cells):
    runs, owner = tables.stored('ablations')
    found = tables.differences(runs, owner)
    sure = found[found['after_holm'] != 'not significant']
    assert set(sure.index) == {'local only', 'mean pooling', 'max_frames=1', 'max_frames=2'} and (sure['difference'] < 0).all()
    assert found.loc[['mean pooling', 'local only'], 'difference'].round().tolist() == [-21, -28]
    says(cells, 'ablations-reading', 'mean pooling loses 21 points', 'the local one alone loses 28')
    frames = found[found['theme'] == 'frames, F']
    assert (frames.loc[['max_frames=8', '24 frames'], 'reading'] == 'not significant').all()
    seeds = {name: dict(zip([run['seed'] for run in of_one], tables.values(of_one))) for name, of_one in tables.variants(runs).items()}
    without = seeds['without intra-diversity']
    assert without == {seed: seeds['full'][seed] for seed in without}
    one = found.loc['decoder_layers=1']
    assert -1.5 < one['low'] < 0 < one['high'] < 1.5 and round(found.loc['without inter-consistency', 'difference'], 1) == -0.3
    alone = found.loc['global only']
    assert round(alone['difference'], 1) == 0.1 and -2 < alone['low'] and alone['high'] < 2
    assert {run['steps'] for run in runs} == {100} and {run['captions'] for run in runs} == {'all'}
    assert {len(seeds[name]) for name in tables.MAIN} == {5} and {len(of_one) for name, of_one in seeds.items() if name not in tables.MAIN} == {3}
    says(cells, 'forest-text', '100 steps a run, five seeds for the modules, three for all else, all four captions')
    says(cells, 'ablations-reading', 'worth a third of a point', '0.1 points over five seeds, at most two either way', 'to about a point')
    rest = found[~found['theme'].isin(['modules', 'losses', 'frames, F'])]
    assert abs(rest['difference']).max() < 2.55 and (rest['after_holm'] == 'not significant').all()


def test_intervals(cells):
    assert 8.7 < 2 * 196 * np.sqrt(0.25 / 500) < 9
    says(cells, 'takeaways', 'with 500 queries almost nine points')
    assert '47 ± 3.1' in shown(cells, 'interval-picture') and 5.5 < 2 * 3.1 < 6.5
    says(cells, 'histogram-text', 'some six points apart')
    equal = metrics.summary(metrics.ranks(torch.zeros(7, 7), torch.arange(7)))
    assert (equal['MdR'], equal['R@1'], equal['R@5'], round(100 / 7), round(500 / 7)) == (4, 0, 100, 14, 71)
    says(cells, 'solution-groups', 'so 4 for each query: R@1 = 0 and R@5 = 100, where guessing would give 14 and 71')


def test_only_what_a_model_was_measured_to_do_is_kept_from_comparison(cells):
    """Another machine trains another model: lines that begin with an arrow may differ there, all others may not."""
    rules = re.findall(r'^regex: (.*)$\n^replace: (.*)$', (Path(__file__).parent / 'sanitize.cfg').read_text(), re.M)
    text = '→ R@1 36.6\nvideos: 500\n→ order is heard\nnot → here\n'
    for regex, replace in rules:
        text = re.sub(regex, replace, text)
    assert text == 'MEASURED\nvideos: 500\nMEASURED\nnot → here\n'
    measured = ('recalls', 'histogram', 'post-real', 'kinds', 'confusions', 'twins')
    for cell in measured:
        assert all(line.startswith('→ ') for line in shown(cells, cell).splitlines()), cell
        assert shown(cells, cell).count('→ ') >= 2
    assert re.search(r'videos: \d+ listed, \d+ missing, \d+ unreadable, \d+ used', shown(cells, 'evaluate'))


def test_the_search_asks_for_what_is_there_and_for_what_is_not(cells):
    there, absent = re.findall(r'videos that show “.*”: (\d+) of 500', shown(cells, 'search'))
    assert (there, absent) == ('1', '0')
    first, second = re.findall(r'^→ “.*$', shown(cells, 'search'), re.M)
    assert 'has what is asked' in first and 'has what is asked' not in second


@pytest.mark.slow
def test_the_page_runs_with_a_rivals_head(tmp_path):
    papermill = pytest.importorskip('papermill')
    settings = dict(profile='tiny', seed=1, data_dir=str(tmp_path), run_dir=str(tmp_path / 'run'), head='X-Pool')
    (tmp_path / 'run').mkdir()
    save_model(heads.build(begin(**settings).config), tmp_path / 'run' / 'best.safetensors')
    out = tmp_path / 'out.ipynb'
    papermill.execute_notebook(FOLDER / '05_evaluation.ipynb', out, settings, cwd=tmp_path, kernel_name='python3', progress_bar=False)
    cells = {cell.id: cell for cell in nbformat.read(out, 4).cells}
    assert 'the shipped one stands in for X-Pool' in shown(cells, 'gallery-of-videos') and shown(cells, 'twins').count('→ ') == 2
