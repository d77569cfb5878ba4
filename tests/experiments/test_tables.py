"""What a sweep says: by what its variants change, beside the baseline; and that nothing richer is lost."""
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from glscl import plots
from glscl.experiments import significance, sweep, tables

BASE = dict(steps=100, temperature=15)


def run(name, seed, wrong, **changed):
    rank = np.ones(40)
    rank[:wrong] = 7
    return dict(name=name, seed=seed, data='shapes', parameters={**BASE, **changed}, train_seconds=10.0 * wrong,
                threads=2, settings={k: v for k, v in {**BASE, **changed}.items() if k != 'steps'},
                ranks=dict(t2v=rank.tolist(), v2t=rank.tolist()))


@pytest.fixture
def runs():
    return [run('num_queries=2', 0, 9, num_queries=2), run('full', 0, 10), run('full', 1, 12),
            run('24 frames', 0, 10, max_frames=24, framerate=3), run('global only', 0, 11, local_weight=0),
            run('local only', 0, 39, global_weight=0, local_weight=1), run('released', 0, 30, released=True),
            run('num_queries=16', 0, 8, num_queries=16), run('lr=1', 0, 20, lr=1)]


def test_variants_are_told_by_what_they_change(runs):
    table = tables.table(runs).set_index('variant')
    assert list(table.index) == ['full', 'global only', 'local only', 'num_queries=2', 'num_queries=16', '24 frames',
                                 'released', 'lr=1']
    assert table['changes'].tolist() == ['–', 'local_weight=0', 'global_weight=0, local_weight=1', 'num_queries=2',
                                         'num_queries=16', 'max_frames=24, framerate=3', 'released=True', 'lr=1']
    assert list(table) == ['changes', 'seeds', *tables.MEASURES, 't2v R@1 − full', 'reading', 'after Holm']
    assert table.loc['full', 't2v R@1'] == '72.5 ± 3.5' and table['seeds'].tolist() == [2] + [1] * 7
    assert table.loc['full', 'reading'] == table.loc['full', 't2v R@1 − full'] == '–'
    assert table.loc['local only', 't2v R@1 − full'].startswith('-72.5 (')
    assert table.loc['local only', 'after Holm'] == 'lower'
    assert table.loc['24 frames', 'reading'] == 'not significant'
    themes = tables.differences(runs)['theme'].to_dict()
    assert themes == {'global only': 'modules', 'local only': 'modules', 'num_queries=2': 'queries, Q',
                      'num_queries=16': 'queries, Q', '24 frames': 'frames, F', 'released': 'as released', 'lr=1': 'other'}


def test_a_sweep_without_the_baseline_has_a_table_too(runs):
    table = tables.table([r for r in runs if r['name'] != 'full'])
    assert 'reading' not in table and len(table) == 7 and table['changes'][0].startswith('steps=100')
    assert table['variant'][0] == 'num_queries=2'  # as they came
    assert len(tables.differences([r for r in runs if r['name'] != 'full'])) == 0


def test_measures_and_parameters_are_shown_as_wanted(runs):
    table = tables.table(runs, measures=['v2t R@10', 't2v MdR', 't2v MnR'], show=['num_queries']).set_index('variant')
    assert list(table)[:5] == ['num_queries', 'seeds', 'v2t R@10', 't2v MdR', 't2v MnR']
    assert table.loc['full'].tolist()[:5] == ['–', 2, '100.0 ± 0.0', '1.0 ± 0.0', '2.6 ± 0.2']  # (40 + 6 wrong) / 40
    assert table.loc['num_queries=16', 'num_queries'] == '16'
    assert tables.each_seed(runs)['full'] == [75, 70]


def test_of_a_tuned_variant_the_chosen_value_counts():
    runs = [dict(run(f'X-Pool, lr={lr}', seed, wrong, lr=lr), variant='X-Pool', final=lr == 3)
            for seed, lr, wrong in ((0, 1, 40), (0, 3, 10), (1, 3, 20))]
    del runs[0]['ranks']
    table = tables.table(runs, show=['lr'])
    assert table.values.tolist()[0][:4] == ['X-Pool', '3', 2, '62.5 ± 17.7']
    assert tables.recalls(runs)['X-Pool'] == significance.recall(runs[1:])


def test_frozen_stands_beside_fine_tuned():
    table = tables.freezing([run('GLSCL', 0, 30), run('alone', 0, 1)], [run('GLSCL', 0, 10)]).set_index('variant')
    assert list(table.index) == ['GLSCL']
    assert table.loc['GLSCL', 't2v R@1, frozen'] == '25.0 ± 0.0'
    assert table.loc['GLSCL', 't2v R@1, fine-tuned'] == '75.0 ± 0.0'
    assert table.loc['GLSCL', 'difference'].startswith('-50.0 (') and table.loc['GLSCL', 'reading'] == 'lower'
    assert (table.loc['GLSCL', 'core-seconds, frozen'], table.loc['GLSCL', 'core-seconds, fine-tuned']) == (600, 200)


def test_methods_are_compared_over_queries_and_seeds():
    runs = [run(name, wrong % 10, wrong) for name, wrong in (
        ('mean pooling', 32), ('mean pooling', 30), ('global only', 10), ('global only', 12), ('GLSCL', 2), ('GLSCL', 20))]
    found = tables.pairs(runs).set_index('compared')
    row = found.loc['GLSCL − global only']
    assert row['R@1 difference'] == 0 and row['reading'] == 'not significant'
    assert row['low'] < -20 and row['high'] > 20  # GLSCL's seeds scatter; its queries alone would give about 10
    assert found['reading'].to_list()[1:] == ['GLSCL is better', 'global only is better']


def test_runs_answer_by_the_captions_they_were_asked():
    one, scene = run('GLSCL', 0, 10), run('GLSCL', 0, 30)
    runs = [{**one, 'captions': 'one', 'more_captions': {'scene': dict(ranks=scene['ranks'])}}]
    assert tables.each_seed(tables.on_captions(runs, 'one')) == {'GLSCL': [75]}
    assert tables.each_seed(tables.on_captions(runs, 'scene')) == {'GLSCL': [25]}
    with pytest.raises(KeyError):
        tables.on_captions(runs, 'order')


@pytest.mark.parametrize('name, runs, variants', [('methods', 9, 3), ('frozen', 9, 3), ('heads', 90, 15), ('ablations', 116, 36)])
def test_all_stored_results_have_one_layout(name, runs, variants):
    stored, owner = tables.stored(name)
    groups = tables.variants(stored)
    assert len(stored) == runs and len(groups) == variants and {len(of_one) for of_one in groups.values()} <= {3, 5}
    for one in stored:
        assert {'name', 'seed', 'parameters', 'settings', 'metrics', 'hardware', 'versions', 'date'} <= set(one)
        if one.get('final', True):  # of the others the ranks are not kept
            sets = [one, *one.get('more_captions', {}).values()]
            assert all(tables.values([of_set])[0] == pytest.approx(of_set['metrics']['t2v']['R@1']) for of_set in sets)
            assert owner is None or len(owner) == len(one['ranks']['t2v'])


def test_what_is_not_there_is_said(capsys, monkeypatch, tmp_path, runs):
    def empty(name):
        raise FileNotFoundError(name)
    monkeypatch.setattr(tables, 'data_path', empty)
    assert tables.stored('ablations') == ([], None)
    assert 'glscl sweep data/sweeps/ablations.yaml --results runs/results/ablations.json' in capsys.readouterr().out
    assert len(tables.table([])) == len(tables.recalls([])) == 0


def test_richer_results_are_not_replaced(tmp_path, runs):
    path = tmp_path / 'results' / 'full.json'
    tables.save(path, dict(runs=runs))
    with pytest.raises(ValueError, match='full.json holds 9 finished runs, more than the 8 that would replace them'):
        tables.save(path, dict(runs=runs[1:]))
    assert json.loads(path.read_text())['runs'] == runs
    tables.save(path, dict(runs=runs, failed=['one']))
    assert json.loads(path.read_text())['failed'] == ['one']


@pytest.fixture
def figure():
    yield plt
    plt.close('all')


def test_the_forest_has_a_row_a_variant_and_colour_where_something_is_found(runs, figure):
    plots.forest(tables.differences(runs))
    ax = figure.gca()
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [name for name in tables.by_theme(tables.variants(runs)) if name != 'full']
    by_name = dict(zip(labels, [line for line in ax.lines if line.get_marker() in ('o', '<', '>')]))
    assert by_name['local only'].get_marker() == '<' and by_name['local only'].get_xdata()[0] == -12
    assert by_name['global only'].get_color() != by_name['local only'].get_color()
    assert by_name['global only'].get_mfc() == 'white' and any('-72.5 (' in text.get_text() for text in ax.texts)
    shown = {text.get_text() for text in ax.texts}
    assert {'modules', 'queries, Q', 'frames, F', 'as released', 'other'} <= shown


def test_a_forest_without_runs_says_so(figure):
    plots.forest(tables.differences([]))
    assert 'no stored runs' in [text.get_text() for text in figure.gca().texts]


def test_a_sweep_leaves_a_table_and_a_chart(runs, tmp_path, capsys):
    results = dict(runs=[*runs, dict(name='of another notebook', seed=0)], spec={}, text_to_video=None)
    sweep.report(results, tmp_path)
    kept = pd.read_csv(tmp_path / 'results.csv')
    assert kept['variant'].tolist() == tables.table(runs)['variant'].tolist()
    assert 'num_queries=16' in capsys.readouterr().out and (tmp_path / 'results.png').stat().st_size > 10_000
    sweep.report(dict(results, runs=[]), tmp_path / 'nothing')
