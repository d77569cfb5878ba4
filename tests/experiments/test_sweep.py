"""Sweeps: what is asked for, what is refused, and that nothing that happens to one run (or to the runner) harms the others."""
import contextlib
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

pytest.importorskip('papermill')

from glscl.config import data_path  # noqa: E402
from glscl.experiments import in_process, sweep, tables  # noqa: E402

quiet = dict(say=lambda text: None)


# ---- what a file asks for

def test_every_part_of_a_file_becomes_runs():
    runs = sweep.expand(dict(base=dict(steps=5, temperature=3), seeds=[0, 1],
                             variants={'full': dict(seeds=[0, 1, 2]), 'plain': None},
                             one_at_a_time=dict(temperature=[5, 10], lr=[1e-3])))
    names = ['full', 'plain', 'temperature=5', 'temperature=10', 'lr=0.001']
    assert [(r['name'], r['seed']) for r in runs] == [(n, s) for s in (0, 1) for n in names] + [('full', 2)]
    of = {r['name']: r['parameters'] for r in runs}
    assert of['full'] == of['plain'] == dict(steps=5, temperature=3) and of['temperature=10'] == dict(steps=5, temperature=10)
    assert of['lr=0.001'] == dict(steps=5, temperature=3, lr=1e-3)
    assert all(set(sweep.folder_of(r)) <= set('abcdefghijklmnopqrstuvwxyz_0123456789=.-') for r in runs)


@pytest.mark.parametrize('spec, message', [
    (dict(variant={}), "unknown key 'variant'; did you mean 'variants'"),
    (dict(base={}), 'nothing to run'), (dict(variants=['a']), 'variants holds names'),
    (dict(one_at_a_time=dict(steps=3)), 'steps takes a list of values, not 3'), (dict(one_at_a_time=dict(steps=[])), 'steps takes a list'),
    (dict(variants={'a': dict(seeds=4)}), 'seeds takes a list'), (dict(variants={'a b': {}, 'a/b': {}}), "'a/b' and 'a b'.*rename"),
    (dict(tune=dict(lr=1), variants={'a': {}}), 'lr takes a list of values, not 1'),
    (dict(variants={'A': {}, 'a': {}}), 'share the folder'), (dict(variants={'a': dict(seeds=[1, 1])}), 'share the folder')])
def test_a_file_that_makes_no_sense_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        sweep.expand(spec)


@pytest.mark.parametrize('parameters, message', [
    (dict(temprature=5), "parameters of 'x': unknown key 'temprature'; did you mean 'temperature'"),
    (dict(run_dir='here'), "unknown key 'run_dir'"), (dict(seed=1), "unknown key 'seed'"),
    (dict(temperature=-1), "'x': temperature must be "), (dict(local_weight=0, global_weight=0), 'both 0'),
    (dict(profile='huge'), "unknown profile 'huge'"), (dict(captions=['one', 'all']), 'sets of one caption a video')])
def test_what_cannot_be_is_refused_before_anything_runs(parameters, message, tmp_path):
    variants = dict(fine=dict(captions='all', num_queries=2), x=parameters)
    with pytest.raises(ValueError, match=message):
        sweep.run(dict(base=dict(steps=1), variants=variants), tmp_path / 'out', **quiet)
    assert not (tmp_path / 'out').exists()


def test_the_shipped_sweeps_can_run():
    for path in data_path('sweeps').glob('*.yaml'):
        spec = yaml.safe_load(path.read_text(encoding='utf-8'))
        if spec.get('in_process'):
            in_process.check(sweep.expand(spec))
        else:
            assert sweep.check(sweep.expand(spec), spec.get('notebooks', sweep.NOTEBOOKS))


def test_an_absent_notebook_is_named():
    with pytest.raises(ValueError, match='nothing.ipynb: no such notebook'):
        sweep.check([], ['nothing.ipynb'])


# ---- runs, with a notebook that only pretends

PARAMETERS = "seed: int = 0\nrun_dir: str = ''\nwait: float = 0\nthen: str = 'well'"
PRETEND = """
import json, os, time
from pathlib import Path
Path(run_dir).mkdir()
Path(run_dir, 'pid').write_text(str(os.getpid()))
Path(run_dir, 'last.pt').write_text('large')
time.sleep(wait)
if then == 'dies':
    os.kill(os.getpid(), 9)
if then == 'fails' or (then == 'heals' and not Path(run_dir, '..', '..', 'cured').exists()):
    raise KeyError('no such thing')
result = dict(metrics=dict(t2v={'R@1': 10.0 * seed}, v2t=dict(queries=3)), threads=os.environ['OMP_NUM_THREADS'], seed=99)
Path(run_dir, 'result.json').write_text(json.dumps(result))"""


@pytest.fixture
def pretend(tmp_path):
    new = nbformat.v4
    book = new.new_notebook(metadata=dict(kernelspec=dict(name='python3', display_name='Python 3', language='python')), cells=[
        new.new_code_cell(PARAMETERS, id='parameters', metadata=dict(tags=['parameters'])),
        new.new_code_cell('raise RuntimeError("not needed for a result")', id='lesson'),
        new.new_code_cell(PRETEND, id='work', metadata=dict(tags=['run']))])
    nbformat.write(book, tmp_path / 'pretend.ipynb')
    return str(tmp_path / 'pretend.ipynb')


def spec_of(notebook, **variants):
    return dict(notebooks=[notebook], seeds=[1], variants=variants)


def test_a_failed_run_and_a_killed_one_leave_the_others_alone(pretend, tmp_path):
    spec, said = spec_of(pretend, fails=dict(then='fails'), dies=dict(then='dies'), **{'b b': dict(seeds=[2])}), []
    before = dict(os.environ)
    results = sweep.run(spec, tmp_path / 'out', 2, said.append)
    [fine] = results['runs']
    assert (fine['name'], fine['seed'], fine['parameters'], fine['metrics']['t2v']['R@1']) == ('b b', 2, {}, 20)
    assert fine['threads'] == str(max(1, os.cpu_count() // 2)) and dict(os.environ) == before
    assert json.loads((tmp_path / 'out' / 'b_b-2' / 'run.json').read_text()) == fine
    assert json.loads((tmp_path / 'out' / 'results.json').read_text()) == results
    errors = {r['name']: r['error'] for r in results['failed']}
    assert errors['fails'] == "pretend, cell work: KeyError: 'no such thing'" and 'cell work: DeadKernelError' in errors['dies']
    for name in ('fails', 'dies'):
        folder = tmp_path / 'out' / f'{name}-1'
        assert (folder / 'error.txt').read_text().strip() == errors[name] and (folder / 'pretend.ipynb').is_file()
        assert not (folder / 'run.json').exists()
    assert {p.parts[-3] for p in (tmp_path / 'out').glob('*/model/last.pt')} == {'fails-1', 'dies-1'}
    assert said[0].startswith('3 runs, 0 of them there already') and len(said) == 4
    assert any(s.startswith('[') and 'b b, seed 2: R@1 20.0, ' in s and 'min left' in s for s in said)


# ---- the same without a kernel

@pytest.fixture
def executed(monkeypatch):
    """What a run would do to its folder, done here; the calls."""
    calls = []

    def execute(path, target, names, run, captions):
        calls.append((run['name'], run['seed'], path.stem, captions))
        model = target.parent / 'model'
        model.mkdir(exist_ok=True)
        (model / 'last.pt').write_text('large')
        if run['parameters'].get('then') == 'heals' and not (target.parents[1] / 'cured').exists():
            raise KeyError('no such thing')
        rank = dict(t2v=[1] * 4, v2t=[len(captions or '')] * 4)
        found = dict(metrics=dict(t2v={'R@1': 10.0}, v2t=dict(queries=4)), ranks=rank, captions=captions, text_to_video=[0, 1, 2, 3])
        (model / 'evaluation.json').write_text(json.dumps(found))
        (model / 'result.json').write_text(json.dumps(dict(steps=5, metrics='of 04', validation=5.0)))
    monkeypatch.setattr(sweep, '_execute', execute)
    return calls


def test_what_is_finished_is_left_alone_and_the_rest_is_tried_again(pretend, executed, tmp_path):
    spec, out = spec_of(pretend, a={}, b={}, heals=dict(then='heals')), tmp_path / 'out'
    results = sweep.run(dict(spec, keep_models=True), out, 3, **quiet)
    assert [r['name'] for r in results['failed']] == ['heals'] and (out / 'a-1/model/last.pt').is_file()
    (out / 'cured').touch()
    (out / 'b-1' / 'run.json').unlink()
    (out / 'b-1' / 'model' / 'half').touch()
    before, said = (out / 'a-1' / 'run.json').stat().st_mtime_ns, []
    results = sweep.run(spec, out, 3, said.append)
    assert [r['name'] for r in results['runs']] == ['a', 'b', 'heals'] and not results['failed'] and len(said) == 3
    assert results['data'] == 'shapes, 4 test videos' and results['text_to_video'] == [0, 1, 2, 3]
    assert (out / 'a-1' / 'run.json').stat().st_mtime_ns == before and not (out / 'b-1/model/half').exists()
    assert not (out / 'heals-1' / 'error.txt').exists() and not (out / 'heals-1/model/last.pt').exists()
    with pytest.raises(ValueError, match=r"a-1.run.json was made with other parameters \(wait: 'not given' there, 0.5 wanted\)"):
        sweep.run(spec_of(pretend, a=dict(wait=0.5)), out, 1, **quiet)


def test_several_sets_of_captions_cost_one_training(executed, tmp_path):
    spec = dict(base=dict(captions=['one', 'scene', 'order']), variants={'a': {}})
    [run] = sweep.run(spec, tmp_path / 'out', 1, **quiet)['runs']
    assert executed == [('a', 0, '04_training', 'one'), ('a', 0, '05_evaluation', 'one'),
                        ('a', 0, '05_evaluation', 'scene'), ('a', 0, '05_evaluation', 'order')]
    assert run['captions'] == 'one' and run['ranks']['v2t'] == [3] * 4 and run['steps'] == 5
    assert list(run['more_captions']) == ['scene', 'order'] and run['more_captions']['scene']['ranks']['v2t'] == [5] * 4


def test_two_sweeps_do_not_share_a_folder(pretend, executed, tmp_path):
    from filelock import FileLock
    (tmp_path / 'out').mkdir()
    with FileLock(tmp_path / 'out' / '.lock'), pytest.raises(ValueError, match='another sweep is writing to'):
        sweep.run(spec_of(pretend, a={}), tmp_path / 'out', 1, **quiet)
    assert not executed


def test_the_command_tells_of_failed_runs(pretend, executed, tmp_path, capsys):
    spec, results = tmp_path / 'spec.yaml', tmp_path / 'results.json'
    spec.write_text(yaml.safe_dump(spec_of(pretend, fine={}, heals=dict(then='heals'))))
    assert sweep.sweep(spec, tmp_path / 'out', 2, results) == 1
    assert "failed: heals, seed 1: pretend: KeyError: 'no such thing'" in capsys.readouterr().out
    whole = json.loads(results.read_text())
    assert [r['name'] for r in whole['failed']] == ['heals'] and [r['name'] for r in whole['runs']] == ['fine']
    spec.write_text('- no\n- sweep')
    with pytest.raises(ValueError, match='spec.yaml, line 1: expected one mapping'):
        sweep.sweep(spec)


@pytest.mark.parametrize('there, match', [
    (dict(runs=[dict(name='b', seed=0)]), 'would be lost, such as b, seed 0'), (dict(runs=5), 'no results of a sweep'),
    ([], 'expected an object'), ({'rows': []}, 'no results of a sweep')])
def test_other_results_are_not_replaced_either(tmp_path, there, match):
    path = tmp_path / 'results.json'
    path.write_text(json.dumps(there))
    with pytest.raises(ValueError, match=f'results.json.*{match}'):
        tables.save(path, dict(runs=[dict(name='a', seed=0)]))
    assert json.loads(path.read_text()) == there


def test_richer_results_are_not_replaced(pretend, executed, tmp_path, capsys):
    spec, results = tmp_path / 'spec.yaml', tmp_path / 'results.json'
    results.write_text(json.dumps(dict(runs=[{}, {}])))
    spec.write_text(yaml.safe_dump(spec_of(pretend, a={})))
    with pytest.raises(ValueError, match='results.json holds 2 finished runs, more than the 1 '):
        sweep.sweep(spec, tmp_path / 'out', results=results)
    assert json.loads(results.read_text()) == dict(runs=[{}, {}])
    assert len(json.loads((tmp_path / 'out' / 'results.json').read_text())['runs']) == 1  # it is not lost either


# ---- a setting that each variant tunes for itself

TUNED = dict(base=dict(steps=1), seeds=[0, 1, 2], tune=dict(lr=[1e-3, 3e-3]), baseline='GLSCL',
             variants={'GLSCL': dict(head='GLSCL'), 'X-Pool': dict(head='X-Pool')})
VALIDATION = {('GLSCL', 1e-3): 40.0, ('GLSCL', 3e-3): 41.0, ('X-Pool', 1e-3): 39.0, ('X-Pool', 3e-3): 39.0}


@pytest.fixture
def attempted(monkeypatch):
    """Runs with made-up ranks: GLSCL has every query right but the first `seed` ones, X-Pool none."""
    calls = []

    def attempt(run, *_):
        head, lr, seed = run['parameters']['head'], run['parameters']['lr'], run['seed']
        calls.append((head, lr, seed))
        rank = [2] * seed + [1] * (100 - seed) if head == 'GLSCL' else [2] * 100
        return dict(run, seconds=1, validation=VALIDATION[head, lr], ranks=dict(t2v=rank, v2t=rank[::2]))
    monkeypatch.setattr(sweep, 'attempt', attempt)
    return calls


def test_each_variant_goes_on_with_the_value_that_validation_likes(attempted, tmp_path, capsys):
    results = sweep.run(TUNED, tmp_path, 1, **quiet)
    assert attempted[:4] == [('GLSCL', 1e-3, 0), ('GLSCL', 3e-3, 0), ('X-Pool', 1e-3, 0), ('X-Pool', 3e-3, 0)]
    assert attempted[4:] == [('GLSCL', 3e-3, 1), ('X-Pool', 1e-3, 1), ('GLSCL', 3e-3, 2), ('X-Pool', 1e-3, 2)]  # the first of two alike
    assert {r['name'] for r in results['runs']} == {f'{h}, lr={lr}' for h, lr in VALIDATION}
    assert sorted((r['variant'], r['tuned']['lr'], r['seed']) for r in results['runs'] if r['final']) == [
        ('GLSCL', 3e-3, s) for s in range(3)] + [('X-Pool', 1e-3, s) for s in range(3)]
    assert all(('ranks' in r) == r['final'] for r in results['runs']) and not results['failed']
    sweep.report(results, tmp_path)
    table = pd.read_csv(tmp_path / 'results.csv').set_index('variant')
    assert table.loc['GLSCL', 'seeds'] == 3 and table.loc['GLSCL', 't2v R@1'] == '99.0 ± 1.0'
    assert table.loc['X-Pool', 't2v R@1 − GLSCL'].startswith('-99.0 (') and table.loc['X-Pool', 'reading'] == 'lower'
    assert table.loc['X-Pool', 'changes'] == 'head=X-Pool, lr=0.001' and 'X-Pool' in capsys.readouterr().out


# ---- a runner that is stopped

def wait_for(what, seconds=60):
    end = time.time() + seconds
    while not what() and time.time() < end:
        time.sleep(0.05)
    assert what()


def alive(pid):
    try:
        return Path(f'/proc/{pid}/stat').read_text().split()[2] != 'Z'
    except OSError:
        return False


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='looks for processes in /proc')
def test_a_runner_that_is_stopped_goes_on_where_it_was(pretend, tmp_path):
    spec, out, results = tmp_path / 'spec.yaml', tmp_path / 'out', tmp_path / 'results.json'
    spec.write_text(yaml.safe_dump(spec_of(pretend, a={}, slow=dict(wait=100))))

    def runs_on():
        signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a shell it is ignored
        with open(tmp_path / 'printed', 'w') as file, contextlib.redirect_stdout(file):
            sweep.sweep(spec, out)

    def stopped(by):
        """Start it, stop it while `slow` is running; its exit code and what it printed."""
        runner = multiprocessing.get_context('fork').Process(target=runs_on)  # a fork need not import torch again
        runner.start()
        wait_for(lambda: (out / 'slow-1/model/pid').exists() and (out / 'results.json').exists())
        kernel = int((out / 'slow-1/model/pid').read_text())
        os.kill(runner.pid, by)
        runner.join(20)
        wait_for(lambda: not alive(kernel), 20)  # no orphan goes on writing
        assert [r['name'] for r in json.loads((out / 'results.json').read_text())['runs']] == ['a']
        assert not (out / 'slow-1/run.json').exists()
        (out / 'slow-1/model/pid').unlink()
        return runner.exitcode, (tmp_path / 'printed').read_text()
    status, printed = stopped(signal.SIGINT)
    assert status == 130 and printed.endswith('stopped; the same command goes on\n')
    before = (out / 'a-1/run.json').stat().st_mtime_ns
    assert stopped(signal.SIGKILL)[0] == -signal.SIGKILL
    spec.write_text(spec.read_text().replace('wait: 100', 'wait: 0'))
    assert sweep.sweep(spec, out, results=results) == 0
    assert [r['name'] for r in json.loads(results.read_text())['runs']] == ['a', 'slow']
    assert (out / 'a-1/run.json').stat().st_mtime_ns == before


# ---- the real thing

def test_04_and_05_give_a_result(tmp_path, capsys):
    spec, results = tmp_path / 'spec.yaml', tmp_path / 'results.json'
    base = dict(profile='tiny', device='cpu', steps=2, captions=['one', 'order'], freeze_clip=True, max_frames=4)
    spec.write_text(yaml.safe_dump(dict(base=base, variants={'few': dict(num_queries=2)})))
    assert sweep.sweep(spec, tmp_path / 'out', 1, results) == 0
    printed = capsys.readouterr().out
    assert 'few, seed 0: R@1 ' in printed and 'num_queries=2' in printed and (tmp_path / 'out' / 'results.csv').is_file()
    whole = json.loads(results.read_text())
    assert whole['command'] == f'glscl sweep {spec}' and whole['data'] == 'shapes, 24 test videos'
    [run] = whole['runs']
    kept = json.loads((tmp_path / 'out' / 'few-0' / 'run.json').read_text())
    assert whole['text_to_video'] == kept.pop('text_to_video') == list(range(24)) and run == kept
    assert run['parameters']['num_queries'] == 2 and run['steps'] == 2 and run['validation'] >= 0
    order = run['more_captions']['order']  # the same model: other captions, other ranks
    assert run['captions'] == 'one' and order['by_kind']['order']['queries'] == 24 and order['ranks'] != run['ranks']
    for found in (run, order):
        assert (len(found['ranks']['t2v']), len(found['ranks']['v2t'])) == (24, 24)
        first = 100 * sum(r <= 1 for r in found['ranks']['t2v']) / 24
        assert found['metrics']['t2v']['R@1'] == pytest.approx(first)
        assert all(isinstance(r, int) or r % 1 for r in found['ranks']['t2v'])
    assert {'hardware', 'versions', 'commit', 'date', 'train_seconds'} <= set(run)
    assert not list((tmp_path / 'out').glob('few-0/model/*.safetensors'))
    assert (tmp_path / 'out/few-0/model/history.json').is_file()


@pytest.mark.parametrize('changes, said', [
    (dict(head='X-Pol'), "'odd': unknown head 'X-Pol'"), (dict(max_frames=100), "'odd': max_frames is 100"),
    (dict(clip='ViT-Z-9', clip_pretrained=None), "'odd': unknown CLIP")])
def test_what_training_would_refuse_is_refused_before_a_run_begins(changes, said, tmp_path):
    spec = dict(base=dict(profile='tiny', clip='small', clip_pretrained=None), variants={'plain': {}, 'odd': changes})
    with pytest.raises(ValueError, match=said):
        sweep.run(spec, tmp_path, 1, **quiet)
    assert not list(tmp_path.glob('*/run.json'))
