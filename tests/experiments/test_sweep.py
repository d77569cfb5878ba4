"""Sweeps: what is asked for, what is refused, and that nothing that happens to one run (or to the runner) harms the others."""
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
import yaml

pytest.importorskip('papermill')

from glscl.experiments import sweep  # noqa: E402
from glscl.config import data_path  # noqa: E402

quiet = dict(say=lambda text: None)


# ---- what a file asks for

def test_every_part_of_a_file_becomes_runs():
    runs = sweep.expand(dict(base=dict(steps=5, temperature=3), seeds=[0, 1],
                             variants={'full': dict(seeds=[0, 1, 2]), 'plain': None},
                             grid=dict(num_queries=[1, 2], decoder_layers=[1, 3]), one_at_a_time=dict(temperature=[5, 10], lr=[1e-3])))
    names = ['full', 'plain', 'num_queries=1, decoder_layers=1', 'num_queries=1, decoder_layers=3', 'num_queries=2, decoder_layers=1',
             'num_queries=2, decoder_layers=3', 'temperature=5', 'temperature=10', 'lr=0.001']
    assert [(r['name'], r['seed']) for r in runs] == [(n, s) for s in (0, 1) for n in names] + [('full', 2)]
    of = {r['name']: r['parameters'] for r in runs}
    assert of['full'] == of['plain'] == dict(steps=5, temperature=3) and of['temperature=10'] == dict(steps=5, temperature=10)
    assert of['num_queries=2, decoder_layers=1'] == dict(steps=5, temperature=3, num_queries=2, decoder_layers=1)
    assert all(set(sweep.folder_of(r)) <= set('abcdefghijklmnopqrstuvwxyz_0123456789=.-') for r in runs)


@pytest.mark.parametrize('spec, message', [
    (dict(variant={}), "unknown key 'variant'; did you mean 'variants'"),
    (dict(base={}), 'nothing to run'), (dict(variants=['a']), 'variants holds names'),
    (dict(grid=dict(steps=3)), 'steps takes a list of values, not 3'), (dict(one_at_a_time=dict(steps=[])), 'steps takes a list'),
    (dict(variants={'a': dict(seeds=4)}), 'seeds takes a list'), (dict(variants={'a b': {}, 'a/b': {}}), "'a/b' and 'a b'.*rename"),
    (dict(variants={'A': {}, 'a': {}}), 'share the folder'), (dict(variants={'a': dict(seeds=[1, 1])}), 'share the folder')])
def test_a_file_that_makes_no_sense_is_refused(spec, message):
    with pytest.raises(ValueError, match=message):
        sweep.expand(spec)


@pytest.mark.parametrize('parameters, message', [
    (dict(temprature=5), "parameters of 'x': unknown key 'temprature'; did you mean 'temperature'"),
    (dict(run_dir='here'), "unknown key 'run_dir'"), (dict(seed=1), "unknown key 'seed'"),
    (dict(temperature=-1), "'x': temperature must be positive"), (dict(local_weight=0, global_weight=0), 'both 0'),
    (dict(profile='huge'), "unknown profile 'huge'")])
def test_what_cannot_be_is_refused_before_anything_runs(parameters, message, tmp_path):
    runs = [dict(name='fine', seed=0, parameters=dict(steps=1, captions='all', num_queries=2)), dict(name='x', seed=0, parameters=parameters)]
    with pytest.raises(ValueError, match=message):
        sweep.run(runs, tmp_path / 'out', **quiet)
    assert not (tmp_path / 'out').exists()


def test_the_shipped_sweeps_can_run():
    for path in data_path('sweeps').glob('*.yaml'):
        spec = yaml.safe_load(path.read_text(encoding='utf-8'))
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


def job(name, seed=1, **parameters):
    return dict(name=name, seed=seed, parameters=parameters)


def test_a_failed_run_and_a_killed_one_leave_the_others_alone(pretend, tmp_path):
    runs, said = [job('a'), job('fails', then='fails'), job('dies', then='dies'), job('b b', 2)], []
    finished, failed = sweep.run(runs, tmp_path / 'out', 2, [pretend], say=said.append)
    assert [(r['name'], r['seed'], r['parameters'], r['metrics']['t2v']['R@1']) for r in finished] == [('a', 1, {}, 10), ('b b', 2, {}, 20)]
    assert {r['threads'] for r in finished} == {str(max(1, os.cpu_count() // 2))} and sweep.collect(tmp_path / 'out') == finished
    errors = {r['name']: r['error'] for r in failed}
    assert errors['fails'] == "pretend, cell work: KeyError: 'no such thing'" and 'cell work: DeadKernelError' in errors['dies']
    for name in ('fails', 'dies'):
        folder = tmp_path / 'out' / f'{name}-1'
        assert (folder / 'error.txt').read_text().strip() == errors[name] and (folder / 'pretend.ipynb').is_file()
        assert not (folder / 'run.json').exists()
    assert {p.parts[-3] for p in (tmp_path / 'out').glob('*/model/last.pt')} == {'fails-1', 'dies-1'}
    assert said[0].startswith('4 runs, 0 of them there already') and len(said) == 5
    assert any(s.startswith('[') and 'b b, seed 2: R@1 20.0, ' in s and 'min left' in s for s in said)


def test_what_is_finished_is_left_alone_and_the_rest_is_tried_again(pretend, tmp_path):
    runs, out = [job('a'), job('b'), job('heals', then='heals')], tmp_path / 'out'
    finished, failed = sweep.run(runs, out, 3, [pretend], keep_models=True, **quiet)
    assert [r['name'] for r in failed] == ['heals'] and (out / 'a-1/model/last.pt').is_file()
    (out / 'cured').touch()
    (out / 'b-1' / 'run.json').unlink()
    (out / 'b-1' / 'model' / 'half').touch()
    before, said = (out / 'a-1' / 'run.json').stat().st_mtime_ns, []
    finished, failed = sweep.run(runs, out, 3, [pretend], say=said.append)
    assert [r['name'] for r in finished] == ['a', 'b', 'heals'] and not failed and len(said) == 3
    assert (out / 'a-1' / 'run.json').stat().st_mtime_ns == before and not (out / 'b-1/model/half').exists()
    assert not (out / 'heals-1' / 'error.txt').exists()
    with pytest.raises(ValueError, match=r"a-1.run.json was made with other parameters \(wait: 'not given' there, 0.5 wanted\)"):
        sweep.run([job('a', wait=0.5)], out, 1, [pretend], **quiet)


def test_two_sweeps_do_not_share_a_folder(pretend, tmp_path):
    from filelock import FileLock
    (tmp_path / 'out').mkdir()
    with FileLock(tmp_path / 'out' / '.lock'), pytest.raises(ValueError, match='another sweep is writing to'):
        sweep.run([job('a')], tmp_path / 'out', 1, [pretend], **quiet)
    assert not (tmp_path / 'out' / 'a-1').exists()


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
def test_a_runner_that_is_killed_goes_on_where_it_was(pretend, tmp_path):
    spec, out, results = tmp_path / 'spec.yaml', tmp_path / 'out', tmp_path / 'results.json'
    spec.write_text(yaml.safe_dump(dict(notebooks=[pretend], seeds=[1], variants={'a': {}, 'slow': dict(wait=100)})))
    given = [str(spec), '--out', str(out), '--jobs', '2', '--results', str(results)]
    runner = subprocess.Popen([sys.executable, '-m', 'glscl.sweep', *given], cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, text=True)
    wait_for(lambda: (out / 'slow-1/model/pid').exists() and (out / 'a-1/run.json').exists() and results.exists())
    assert [r['name'] for r in json.loads(results.read_text())['runs']] == ['a']
    kernel = int((out / 'slow-1/model/pid').read_text())
    runner.kill()
    runner.wait(20)
    wait_for(lambda: not alive(kernel), 20)  # no orphan goes on writing
    assert not (out / 'slow-1/run.json').exists()
    before = (out / 'a-1/run.json').stat().st_mtime_ns
    spec.write_text(spec.read_text().replace('wait: 100', 'wait: 0'))
    assert sweep.main(given) == 0
    assert [r['name'] for r in json.loads(results.read_text())['runs']] == ['a', 'slow']
    assert (out / 'a-1/run.json').stat().st_mtime_ns == before


# ---- the real thing

def test_04_and_05_give_a_result_and_one_of_two_runs_may_fail(tmp_path, capsys):
    spec, results = tmp_path / 'spec.yaml', tmp_path / 'results.json'
    spec.write_text(yaml.safe_dump(dict(base=dict(profile='tiny', device='cpu', steps=2, captions='all', freeze_clip=True, max_frames=4),
                                        variants={'fine': dict(num_queries=2), 'breaks': dict(lr=1e30)})))
    assert sweep.main([str(spec), '--out', str(tmp_path / 'out'), '--jobs', '2', '--results', str(results)]) == 1
    printed = capsys.readouterr().out
    assert 'failed: breaks, seed 0: 04_training, cell train: ' in printed and 'fine, seed 0: R@1 ' in printed
    assert 'num_queries=2' in printed and (tmp_path / 'out' / 'results.csv').is_file()
    whole = json.loads(results.read_text())
    assert whole['data'] == 'shapes, 24 test videos' and [r['name'] for r in whole['failed']] == ['breaks']
    [run] = whole['runs']
    kept = json.loads((tmp_path / 'out' / 'fine-0' / 'run.json').read_text())
    assert whole['text_to_video'] == kept.pop('text_to_video') == [v for v in range(24) for _ in range(4)] and run == kept
    assert run['parameters']['num_queries'] == 2 and run['steps'] == 2 and run['captions'] == 'all' and run['validation'] >= 0
    assert (len(run['ranks']['t2v']), len(run['ranks']['v2t'])) == (96, 24)  # four captions a video: those of 05
    assert run['metrics']['t2v']['queries'] == 96 and run['by_kind']['order']['queries'] == 48
    first = 100 * sum(r <= 1 for r in run['ranks']['t2v']) / 96
    assert run['metrics']['t2v']['R@1'] == pytest.approx(first) and all(isinstance(r, int) or r % 1 for r in run['ranks']['t2v'])
    assert {'hardware', 'versions', 'commit', 'date', 'train_seconds'} <= set(run)
    assert not list((tmp_path / 'out').glob('fine-0/model/*.safetensors')) and (tmp_path / 'out/fine-0/model/history.json').is_file()
