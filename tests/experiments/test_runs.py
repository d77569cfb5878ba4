"""`glscl train` and `glscl evaluate`: which data, which split picks the model, what is written down."""
import dataclasses
import json
import os
import shlex
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from runtime.holding import hold
from safetensors.torch import load_file
from trees import make_tree

from glscl import load_model
from glscl.__main__ import main
from glscl.datasets import readers
from glscl.datasets import splits as of_splits
from glscl.datasets.readers import files
from glscl.evaluation import encode, evaluate
from glscl.experiments import runs
from glscl.experiments.rescore import load_similarity, rescore
from glscl.notebook import begin
from glscl.score import encode_captions


@pytest.fixture
def asked(splits, monkeypatch):
    """The small world in place of every data set; what was asked for, in turn."""
    calls = []

    def load_split(config, split, data_dir, *_, log=None):
        calls.append((config.dataset, split, data_dir))
        return splits[split]

    def load_shapes(config, split, kind, data_dir):
        calls.append((kind, split, data_dir))
        return splits[split]
    for room in (runs, of_splits):
        monkeypatch.setattr(room, 'load_split', load_split)
    monkeypatch.setattr(runs, 'load_shapes', load_shapes)
    return calls


@pytest.fixture
def recipe(config, tmp_path):
    """Write the small config as a recipe of a few steps."""
    def write(name='mine.yaml', **settings):
        settings = dataclasses.asdict(config.replace(**{'epochs': 0.1, **settings}))
        (tmp_path / name).write_text(yaml.safe_dump(settings))
        return tmp_path / name
    return write


def result_of(run_dir):
    return json.loads((run_dir / 'result.json').read_text())


@pytest.mark.parametrize('dataset, select_on', [('msrvtt', 'test'), ('msvd', 'val'), ('shapes', 'val')])
def test_training_takes_the_recipes_data_and_selects_where_it_says(asked, recipe, splits, tmp_path, capsys, dataset, select_on):
    run_dir = tmp_path / 'run'
    runs.train(recipe(dataset=dataset, select_on=select_on), run_dir, 'there', 0, 'cpu')
    result = result_of(run_dir)
    assert (result['data'], result['split'], result['selected_on']) == (dataset, 'test', select_on)
    assert (result['seed'], result['steps'], result['processes'], result['overrides']) == (0, 2, 1, {})
    kinds = ['scene', 'order'] if dataset == 'shapes' else []
    assert list(result.get('by_kind', {})) == kinds
    assert asked == [(dataset, split, 'there') for split in dict.fromkeys(('test', 'train', select_on))] + [
        (kind, 'test', 'there') for kind in kinds]
    history = json.loads((run_dir / 'history.json').read_text())
    best = evaluate(load_model(run_dir), splits[select_on])[1]['t2v']['R@1']
    assert best == max(step['val R@1'] for step in history)
    measured = evaluate(load_model(run_dir), splits['test'])[1]
    assert result['metrics'] == json.loads(json.dumps(measured))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-2:]] == ['t2v', 'v2t']


def test_the_same_call_goes_on_where_the_run_was_left(asked, recipe, tmp_path, capsys):
    mine = recipe()
    runs.train(mine, tmp_path / 'run', seed=3, device='cpu', settings=dict(lr=1e-3))
    first = result_of(tmp_path / 'run')
    state = torch.load(tmp_path / 'run' / 'last.pt', weights_only=True)
    assert state['seed'] == first['seed'] == 3 and state['config']['lr'] == 1e-3
    capsys.readouterr()
    runs.train(mine, tmp_path / 'run', seed=3, device='cpu', settings=dict(lr=1e-3))
    assert 'going on at step 2' in capsys.readouterr().out and result_of(tmp_path / 'run')['metrics'] == first['metrics']
    with pytest.raises(ValueError, match=r'made with other settings \(lr\)'):
        runs.train(mine, tmp_path / 'run', seed=3, device='cpu')


SETTINGS = dict(num_queries=2, lr=1e-5, temporal='none', clip_pretrained=None, mask_padding=False)


def test_the_recorded_command_is_the_run(asked, recipe, tmp_path, monkeypatch):
    """Typed again it asks for the same recipe, seed and settings; a name with a space is one word."""
    mine = recipe('of mine.yaml')
    runs.train(mine, tmp_path / 'run', None, 5, 'cpu', SETTINGS)
    result = result_of(tmp_path / 'run')
    assert result['overrides'] == SETTINGS and result['recipe'] == str(mine)
    program, *words = shlex.split(result['command'])
    assert program == 'glscl' and str(mine) in words
    again = mock.create_autospec(runs.train)
    monkeypatch.setattr(runs, 'train', again)
    assert main(words) == 0
    recipe_again, _, _, seed_again, _, settings_again = again.call_args.args
    assert (recipe_again, seed_again) == (str(mine), 5)
    assert runs.load_config(recipe_again, **settings_again) == runs.load_config(mine, **SETTINGS)


@pytest.mark.parametrize('setting, said', [
    ('max_frames=many', "max_frames must be a whole number from 1 to 1024, not 'many'"),
    ('max_frames=2.5', 'max_frames must be a whole number from 1 to 1024, not 2.5'),
    ('lr=[0.1]', 'lr must be a number from 1e-12 to 10, not [0.1]'),
    ('mask_padding=maybe', "mask_padding must be true or false, not 'maybe'"),
    ('temporal=gru', "temporal is one of transformer, none, lstm, not 'gru'"),
    ('dataset=3', 'dataset must be text, not 3'),
    ('temprature=3', "unknown key 'temprature'; did you mean 'temperature'?")])
def test_a_wrong_setting_is_refused_before_anything_is_decoded(asked, recipe, tmp_path, capsys, setting, said):
    line = ['train', '--recipe', str(recipe()), '--run-dir', str(tmp_path / 'run'), '--device', 'cpu', '--set', setting]
    assert main(line) == 1
    shown = capsys.readouterr().err
    assert said in shown and shown.startswith('glscl train: ') and shown.count('\n') == 1
    assert asked == [] and not (tmp_path / 'run').exists()


def test_a_second_trainer_is_told_who_writes_before_anything_is_decoded(asked, recipe, tmp_path, capsys):
    process = hold(tmp_path / 'run')
    try:
        line = ['train', '--recipe', str(recipe()), '--run-dir', str(tmp_path / 'run'), '--device', 'cpu']
        assert main(line) == 1 and asked == []
        said = capsys.readouterr().err
        assert f'process {process.pid} on ' in said and 'is writing to' in said and said.count('\n') == 1
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    assert main(line) == 0 and asked != []


@pytest.mark.parametrize('head', ['GLSCL', 'X-Pool'])
def test_a_run_is_evaluated_on_any_split_of_its_data(asked, recipe, splits, tmp_path, capsys, head):
    runs.train(recipe(dataset='msvd', head=head), tmp_path / 'run', None, 0, 'cpu')
    trained = result_of(tmp_path / 'run')
    asked.clear()
    capsys.readouterr()
    metrics = runs.evaluate_run(tmp_path / 'run', 'there', 'test', 'cpu')
    assert json.loads(json.dumps(metrics)) == trained['metrics'] and asked == [('msvd', 'test', 'there')]
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ['t2v', 'v2t'] and f'R@1 {metrics["t2v"]["R@1"]:.1f} ' in said[0]
    out = tmp_path / 'deep' / 'val.json'
    metrics = runs.evaluate_run(tmp_path / 'run' / 'best.safetensors', None, 'val', 'cpu', out)
    result = json.loads(out.read_text())
    assert (result['data'], result['split'], result['checkpoint']) == ('msvd', 'val', 'best.safetensors')
    assert result['metrics'] == json.loads(json.dumps(metrics)) and result['metrics']['t2v']['queries'] == 8
    assert {'hardware', 'versions', 'commit', 'date'} <= set(result)


def test_a_run_that_is_not_there_is_named(tmp_path, capsys):
    assert main(['evaluate', str(tmp_path / 'run'), '--device', 'cpu']) == 1
    assert 'no such checkpoint. Train one' in capsys.readouterr().err


@pytest.fixture
def trained(asked, recipe, tmp_path):
    runs.train(recipe(dataset='msvd'), tmp_path / 'run', None, 0, 'cpu')
    return tmp_path / 'run'


def test_the_recorded_command_names_folders_and_device(asked, recipe, tmp_path, monkeypatch):
    runs.train(recipe(), tmp_path / 'a run', 'the data', 5, 'cpu')
    again = mock.create_autospec(runs.train)
    monkeypatch.setattr(runs, 'train', again)
    assert main(shlex.split(result_of(tmp_path / 'a run')['command'])[1:]) == 0
    assert again.call_args.args[1:5] == (str(tmp_path / 'a run'), 'the data', 5, 'cpu')


def test_the_videos_of_each_split_are_counted_and_a_part_is_said_to_be_one(asked, recipe, splits, tmp_path, capsys, monkeypatch):
    partial = dataclasses.replace(splits['test'], missing=['a', 'b'], skipped={'c': 'broken'})
    monkeypatch.setitem(splits, 'test', partial)
    runs.train(recipe(dataset='msvd'), tmp_path / 'run', None, 0, 'cpu')
    V = len(partial.frames)
    counts = dict(listed=V + 3, missing=2, unreadable=1, used=V)
    assert result_of(tmp_path / 'run')['videos']['test'] == counts
    assert result_of(tmp_path / 'run')['videos']['train']['missing'] == 0
    line = f'measured on {V} of the {V + 3} videos of this split (2 not there, 1 unreadable)'
    assert line in capsys.readouterr().out
    runs.evaluate_run(tmp_path / 'run', None, 'test', 'cpu', tmp_path / 'again.json')
    assert line in capsys.readouterr().out
    assert json.loads((tmp_path / 'again.json').read_text())['videos'] == {'test': counts}


@pytest.mark.filterwarnings("ignore:.*not in the small CLIP's vocabulary")
@pytest.mark.parametrize('dataset', ['msvd', 'own'])
def test_a_run_on_training_videos_alone_holds_some_out_and_says_so(recipe, tmp_path, capsys, dataset):
    root = make_tree(dataset, tmp_path / 'data', 20, 2, 3)
    for split in ('val', 'test'):
        for path in readers.load_table(dataset, split, root)['path'].unique():
            os.unlink(path)
    line = ['--recipe', str(recipe(dataset=dataset, batch_size=4)), '--data-dir', str(root)]
    train = ['train', *line, '--run-dir', str(tmp_path / 'run'), '--device', 'cpu']
    assert main(train) == 1
    assert 'train with select_on=held_out' in capsys.readouterr().err
    assert main(['check', *line]) == 1 and 'train with select_on=held_out' in capsys.readouterr().out
    assert main([*train, '--set', 'select_on=held_out']) == 0
    said = capsys.readouterr().out
    assert 'there is no test video: what is held out measures the run too' in said
    assert 'measured on the split "held_out", which also picked the checkpoint: optimistic' in said
    result = result_of(tmp_path / 'run')
    assert result['split'] == result['selected_on'] == 'held_out' and result['metrics']['t2v']['queries'] == 2
    assert result['videos'] == {'train': dict(listed=18, missing=0, unreadable=0, used=18),
                                'held_out': dict(listed=2, missing=0, unreadable=0, used=2),
                                'test': dict(listed=3, missing=3, unreadable=0, used=0)}
    assert main(['check', *line, '--set', 'select_on=held_out']) == 0
    assert 'test: not needed' in capsys.readouterr().out
    assert main(['evaluate', str(tmp_path / 'run'), '--data-dir', str(root), '--out', str(tmp_path / 'again.json')]) == 0
    assert 'what is held out measures the run too' in capsys.readouterr().out
    again = json.loads((tmp_path / 'again.json').read_text())
    assert again['split'] == 'held_out' and again['metrics'] == result['metrics']


@pytest.mark.filterwarnings("ignore:.*not in the small CLIP's vocabulary")
def test_a_lesson_without_test_videos_measures_on_what_is_held_out(tmp_path, capsys):
    root = make_tree('msvd', tmp_path / 'data', 20, 2, 3)
    for path in readers.load_table('msvd', 'test', root)['path'].unique():
        os.unlink(path)
    small = dict(dataset='msvd', data_dir=root, clip='small', clip_pretrained=None, head='GLSCL', temporal='none')
    with pytest.raises(files.EmptySplit, match='select_on=held_out'):
        begin(**small).load('test')
    lesson = begin(**small, select_on='held_out')
    test = lesson.load('test')
    assert capsys.readouterr().out == 'there is no test video: what is held out measures the run too\n'
    assert lesson.measured == 'held_out' and len(test.frames) == 2 and lesson.absent['test']['missing'] == 3
    held = lesson.load('held_out').table['video_id']
    assert set(test.table['video_id']) == set(held) and not set(held) & set(lesson.load('train').table['video_id'])


@pytest.mark.parametrize('words, said', [
    (['--set', 'head=X-Pol'], "unknown head 'X-Pol'"),
    (['--set', 'clip=ViT-Z-9'], 'ViT-Z-9'),
    (['--set', 'batch_size=1'], 'nothing to contrast'),
    (['--set', 'max_frames=100'], 'the temporal transformer has 48 positions'),
    (['--set', 'max_words=100'], 'the text tower of this CLIP has 48 positions'),
    (['--set', 'clip=ViT-B-32', 'clip_pretrained=nowhere.pt'], 'nowhere.pt'),
    (['--device', 'cuda:63'], "device 'cuda:63' cannot be used here"),
    (['--device', 'gpu'], "device 'gpu' cannot be used here")])
def test_what_can_be_known_early_is_said_before_anything_is_decoded(asked, recipe, tmp_path, capsys, words, said):
    line = ['train', '--recipe', str(recipe()), '--run-dir', str(tmp_path / 'run'), *words]
    assert main(line if '--device' in words else [*line, '--device', 'cpu']) == 1
    shown = capsys.readouterr().err
    assert said in shown and shown.count('\n') == 1 and asked == []


def test_a_folder_that_cannot_hold_a_run_is_refused_early(asked, recipe, trained, tmp_path, capsys):
    asked.clear()
    (tmp_path / 'file').write_text('')
    for run_dir, said in ((tmp_path / 'file', 'is a file: name a folder'), (trained, 'made with other settings')):
        line = ['train', '--recipe', str(recipe()), '--run-dir', str(run_dir), '--device', 'cpu', '--set', 'lr=0.01']
        assert main(line) == 1
        assert said in capsys.readouterr().err and asked == []


def test_qb_norm_and_dual_softmax_are_told_apart(trained, splits, tmp_path, capsys, monkeypatch):
    captions = splits['train'].table.drop_duplicates('video_id')['caption'].tolist()
    monkeypatch.setattr(runs, 'bank_captions', lambda config, data_dir: captions)
    capsys.readouterr()
    runs.evaluate_run(trained, None, 'test', 'cpu', tmp_path / 'm.json', rescored=True, similarity=tmp_path / 's.npz')
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ['t2v', 'v2t', 'wrote', 'QB-Norm,', 't2v', 'dual', 't2v', 'v2t']
    result = json.loads((tmp_path / 'm.json').read_text())
    S, owner = load_similarity(tmp_path / 's.npz')
    assert torch.equal(owner, splits['test'].text_to_video)
    model = load_model(trained)
    bank = model.similarity(encode_captions(model, captions), encode(model, splits['test'])[1])
    expected = rescore(S, owner, dict(t2v=bank), dual=True)
    for name in ('QB-Norm', 'dual softmax'):
        assert result[name] == json.loads(json.dumps(expected[name]))


@pytest.mark.parametrize('suffix', ['npz', 'safetensors'])
def test_exported_features_score_as_the_model_does(trained, splits, tmp_path, suffix):
    out = tmp_path / f'features.{suffix}'
    runs.export_features(trained, out, None, 'test', 'cpu')
    if suffix == 'npz':
        arrays = {name: torch.from_numpy(x) for name, x in np.load(out).items()}
    else:
        arrays = load_file(out)
    model, test = load_model(trained), splits['test']
    texts, videos = encode(model, test)
    for side, items in (('text', texts), ('video', videos)):
        for name, x in vars(items).items():
            assert x is None or torch.equal(arrays[f'{side}_{name}'], x)
    assert torch.equal(arrays['text_to_video'], test.text_to_video)
    table = pd.read_csv(out.with_suffix('.csv'))
    assert table['caption'].tolist() == test.table['caption'].tolist()
    with pytest.raises(ValueError, match='ends in .npz or .safetensors'):
        runs.export_features(trained, tmp_path / 'features.h5')


def test_learning_curves_of_one_run_and_of_several(trained, tmp_path, capsys):
    for line in (f'curves {trained} --out {tmp_path}/one.png', f'curves {trained} {trained}/../run --out {tmp_path}/two.svg'):
        assert main(shlex.split(line)) == 0
        assert '2 steps, loss ' in capsys.readouterr().out
    assert (tmp_path / 'one.png').stat().st_size > 5000 and b'</svg>' in (tmp_path / 'two.svg').read_bytes()
    assert main(['curves', str(tmp_path), '--out', str(tmp_path / 'c.png')]) == 1
    assert 'no history yet' in capsys.readouterr().err
    assert main(['curves', str(trained), '--out', str(tmp_path / 'c.doc')]) == 1
