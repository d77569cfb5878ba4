"""What a sweep says: by what its variants change, beside the full model."""
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from glscl.experiments import ablations, comparison, sweep
from glscl import plots

BASE = dict(steps=100, temperature=15)


def run(name, seed, wrong, **changed):
    rank = np.ones(40)
    rank[:wrong] = 7
    return dict(name=name, seed=seed, data='shapes', parameters={**BASE, **changed}, train_seconds=10.0 * wrong,
                settings={k: v for k, v in {**BASE, **changed}.items() if k != 'steps'},
                ranks=dict(t2v=rank.tolist(), v2t=rank.tolist()))


@pytest.fixture
def runs():
    return [run('num_queries=2', 0, 9, num_queries=2), run('full', 0, 10), run('full', 1, 12), run('24 frames', 0, 10, max_frames=24, framerate=3),
            run('global only', 0, 11, local_weight=0), run('local only', 0, 39, global_weight=0, local_weight=1),
            run('released', 0, 30, released=True), run('num_queries=16', 0, 8, num_queries=16), run('lr=1', 0, 20, lr=1)]


def test_variants_are_told_by_what_they_change(runs):
    table = ablations.table(runs).set_index('variant')
    assert list(table.index) == ['full', 'global only', 'local only', 'num_queries=2', 'num_queries=16', '24 frames', 'released', 'lr=1']
    assert table['changes'].tolist() == ['–', 'local_weight=0', 'global_weight=0, local_weight=1', 'num_queries=2', 'num_queries=16',
                                         'max_frames=24, framerate=3', 'released=True', 'lr=1']
    assert table.loc['full', 't2v R@1'] == '72.5 ± 3.5' and table['seeds'].tolist() == [2] + [1] * 7
    assert table.loc['local only', 't2v R@1 − full'].startswith('-72.5 (') and table.loc['local only', 'after Holm'] == 'lower'
    assert table.loc['24 frames', 'reading'] == 'not significant'
    themes = ablations.differences(runs)['theme'].to_dict()
    assert themes == {'global only': 'modules', 'local only': 'modules', 'num_queries=2': 'queries, Q', 'num_queries=16': 'queries, Q',
                      '24 frames': 'frames, F', 'released': 'as released', 'lr=1': 'other'}


def test_a_sweep_without_the_baseline_has_a_table_too(runs):
    table = ablations.table([r for r in runs if r['name'] != 'full'])
    assert 'reading' not in table and len(table) == 7 and table['changes'][0].startswith('steps=100')
    assert len(ablations.differences([r for r in runs if r['name'] != 'full'])) == 0


def test_a_curve_has_the_full_model_at_its_own_value_and_one_set_of_seeds(runs):
    assert [(value, r['mean']) for value, r in ablations.curve(runs, 'num_queries')] == [(2, 77.5), (8, 75), (16, 80)]
    assert [value for value, _ in ablations.curve(runs, 'max_frames')] == [12, 24]
    assert [value for value, _ in ablations.curve(runs, 'local_weight')] == [0, 0.5]  # local only changes more than it


def test_frozen_stands_beside_fine_tuned():
    def one(method, wrong):
        r = run(method, 0, wrong)
        return dict(method=method, seed=0, train_seconds=wrong, threads=2, one=dict(t2v_ranks=r['ranks']['t2v'], v2t_ranks=r['ranks']['v2t']))
    table = comparison.freezing([one('GLSCL', 30)], [one('GLSCL', 10)]).set_index('method')
    assert table.loc['GLSCL', 't2v R@1, frozen'] == '25.0 ± 0.0' and table.loc['GLSCL', 't2v R@1, fine-tuned'] == '75.0 ± 0.0'
    assert table.loc['GLSCL', 'difference'].startswith('-50.0 (') and table.loc['GLSCL', 'reading'] == 'lower'
    assert table.loc['GLSCL', 'core-seconds'] == '60, 20'


def test_what_is_not_there_is_said(capsys, monkeypatch, tmp_path, runs):
    monkeypatch.setattr(ablations, 'data_path', lambda name: tmp_path / name)
    assert ablations.stored('ablations') == ([], None)
    assert 'glscl sweep data/sweeps/ablations.yaml --results data/results/ablations.json' in capsys.readouterr().out
    (tmp_path / 'results').mkdir()
    (tmp_path / 'results' / 'ablations.json').write_text(json.dumps(dict(runs=runs[:1], text_to_video=[0, 0])))
    assert ablations.stored('ablations') == (runs[:1], [0, 0]) and not capsys.readouterr().out
    assert len(ablations.table([])) == len(ablations.curve([], 'num_queries')) == 0


@pytest.fixture
def figure():
    yield plt
    plt.close('all')


def test_the_forest_has_a_row_a_variant_and_colour_where_something_is_found(runs, figure):
    plots.forest(ablations.differences(runs))
    ax = figure.gca()
    assert [label.get_text() for label in ax.get_yticklabels()] == [name for name in ablations.by_theme(ablations.variants(runs)) if name != 'full']
    dots = [line for line in ax.lines if line.get_marker() in ('o', '<', '>')]
    by_name = dict(zip([label.get_text() for label in ax.get_yticklabels()], dots))
    assert by_name['local only'].get_marker() == '<' and by_name['local only'].get_xdata()[0] == -12
    assert by_name['global only'].get_color() != by_name['local only'].get_color() and by_name['global only'].get_mfc() == 'white'
    assert any('-72.5 (' in text.get_text() for text in ax.texts)
    assert len({text.get_text() for text in ax.texts} & {'modules', 'queries, Q', 'frames, F', 'as released', 'other'}) == 5


@pytest.mark.parametrize('there', [True, False])
def test_curves_with_and_without_runs(there, runs, figure):
    plots.curves({name: ablations.curve(runs if there else [], name) for name in ('num_queries', 'max_frames')})
    shown = [[label.get_text() for label in ax.get_xticklabels()] for ax in figure.gcf().axes]
    assert shown == ([['2', '8', '16'], ['12', '24']] if there else [[], []])
    plots.forest(ablations.differences([]))
    assert 'no stored runs' in [text.get_text() for text in figure.gca().texts]


def test_methods_are_compared_over_queries_and_seeds(runs):
    def trained(method, wrong):
        rank = run('', 0, wrong)['ranks']['t2v']
        return dict(method=method, seed=wrong % 10, one=dict(t2v_ranks=rank, v2t_ranks=rank))
    found = comparison.differences([trained('GLSCL', 2), trained('GLSCL', 20), trained('global only', 10), trained('global only', 12),
                                    trained('mean pooling', 32), trained('mean pooling', 30)]).set_index('compared')
    row = found.loc['GLSCL − global only']
    assert row['R@1 difference'] == 0 and row['reading'] == 'not significant'
    assert row['low'] < -20 and row['high'] > 20  # GLSCL's seeds scatter; its queries alone would give about 10
    assert found['reading'].to_list()[1:] == ['GLSCL is better', 'global only is better']


def test_a_sweep_leaves_a_table_and_a_chart(runs, tmp_path, capsys):
    sweep._report(tmp_path, [*runs, dict(name='of another notebook', seed=0)], None)
    kept = pd.read_csv(tmp_path / 'results.csv')
    assert kept['variant'].tolist() == ablations.table(runs)['variant'].tolist() and 'num_queries=16' in capsys.readouterr().out
    assert (tmp_path / 'results.png').stat().st_size > 10_000
    sweep._report(tmp_path / 'nothing', [], None)
