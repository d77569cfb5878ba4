"""The command line as a user types it: help, what each command calls, what is said of mistakes."""
import importlib
import inspect
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest

from glscl import __version__
from glscl.__main__ import COMMANDS, at_home, main
from glscl.config import Config, load_config
from glscl.datasets.splits import kept
from glscl.experiments import sweep
from glscl.notebook import begin
from glscl.runtime.files import read_yaml

BENCHES = ('scoring', 'gpu', 'heads', 'costs', 'data', 'search')


def ended(line):
    """The exit status of a line that help or a mistake ends."""
    with pytest.raises(SystemExit) as end:
        main(shlex.split(line))
    return end.value.code


@pytest.mark.parametrize('command', [*COMMANDS, *(f'bench {name}' for name in BENCHES)])
def test_help_shows_an_example(command, capsys):
    assert ended(f'{command} --help') == 0
    assert f'Example: glscl {command} ' in capsys.readouterr().out.replace('\n', ' ')


@pytest.mark.parametrize('line', ['', '--help', '-h'])
def test_help_lists_the_commands(line, capsys):
    assert ended(line) == 0
    shown = capsys.readouterr().out
    assert all(f'• {command} ' in shown for command in COMMANDS)


def test_help_and_version_are_quick_since_they_load_no_torch():
    code = ('import sys\nfrom glscl.__main__ import main\ntry: main([{!r}])\n'
            'except SystemExit: pass\nsys.exit("torch" in sys.modules)')
    for line in ('--help', '--version'):
        process = subprocess.run([sys.executable, '-c', code.format(line)], capture_output=True)
        assert process.returncode == 0, process.stderr


def test_the_version(capsys):
    assert main(['--version']) == 0
    assert capsys.readouterr().out == f'glscl {__version__}\n'


# ---- what each command calls

CALLS = {
    'train': (
        'experiments.runs.train',
        {'recipe': 'shapes', 'run_dir': 'runs/default', 'data_dir': None, 'seed': 0,
         'device': 'auto', 'settings': {}}),
    'train --recipe msvd --run-dir r --data-dir d --seed 3 --device cpu --set epochs=2 '
    'temporal=none --set clip_pretrained=null mask_padding=false': (
        'experiments.runs.train',
        {'recipe': 'msvd', 'run_dir': 'r', 'data_dir': 'd', 'seed': 3, 'device': 'cpu',
         'settings': {'epochs': 2, 'temporal': 'none', 'clip_pretrained': None,
                      'mask_padding': False}}),
    'evaluate runs/mine --split val --out m.json': (
        'experiments.runs.evaluate_run',
        {'run': 'runs/mine', 'data_dir': None, 'split': 'val', 'device': 'auto', 'out': 'm.json',
         'rescored': False, 'similarity': None}),
    'evaluate runs/mine --rescored --similarity s.npz': (
        'experiments.runs.evaluate_run',
        {'split': 'test', 'rescored': True, 'similarity': 's.npz'}),
    'export runs/mine --out f.npz --split val': (
        'experiments.runs.export_features',
        {'run': 'runs/mine', 'out': 'f.npz', 'data_dir': None, 'split': 'val', 'device': 'auto'}),
    'curves runs/a runs/b --out c.svg': (
        'experiments.runs.draw_curves', {'run_dirs': ('runs/a', 'runs/b'), 'out': 'c.svg'}),
    'check --data-dir d --decode --missing m.txt': (
        'experiments.doctor.check', {'data_dir': 'd', 'decode': True, 'missing': 'm.txt'}),
    'index a b --out g --batch 4 --workers 2 --shortlist --share 3/16': (
        'search.index.index_command',
        {'videos': ('a', 'b'), 'out': 'g', 'model': None, 'device': 'auto', 'batch': 4,
         'workers': 2, 'shortlist': True, 'clip': None, 'pretrained': None, 'share': '3/16'}),
    'index a.mp4 --out g --clip ViT-B-32 --pretrained openai': (
        'search.index.index_command',
        {'videos': ('a.mp4',), 'out': 'g', 'clip': 'ViT-B-32', 'pretrained': 'openai', 'model': None}),
    'search g "a red ring" "a star" -k 3 --shortlist 50 --json --html p.html --model m': (
        'search.gallery.search_command',
        {'gallery': 'g', 'queries': ('a red ring', 'a star'), 'k': 3, 'shortlist': 50,
         'as_json': True, 'html': 'p.html', 'model': 'm', 'device': 'auto'}),
    'demo': (
        'search.demo.demo_command',
        {'gallery': None, 'model': None, 'device': 'auto', 'host': '127.0.0.1', 'port': None,
         'share': False}),
    'demo g --model m --port 7861 --share': (
        'search.demo.demo_command', {'gallery': 'g', 'model': 'm', 'port': 7861, 'share': True}),
    'sweep s.yaml --out o --jobs 3 --results r.json': (
        'experiments.sweep.sweep', {'file': 's.yaml', 'out': 'o', 'jobs': 3, 'results': 'r.json'}),
    'rescore s.npz --bank b.npz --dual-softmax --ties released': (
        'experiments.rescore.rescore_file',
        {'path': 's.npz', 'bank': 'b.npz', 'dual_softmax': True, 'ties': 'released'}),
    'pretrain --out c.safetensors --stop 5': (
        'experiments.pretrain.pretrain',
        {'out': 'c.safetensors', 'steps': 3000, 'stop': 5, 'batch': 256, 'frames': 40_000,
         'lr': 1e-3, 'seed': 10_000_000}),
    'walkthrough --name mine --profile tiny --out o -p seed 1 -p lr 0.1': (
        'notebook.walkthrough',
        {'name': 'mine', 'profile': 'tiny', 'out': 'o', 'parameters': {'seed': 1, 'lr': 0.1}}),
    'bench scoring --threads 1 --repeats 3 --out o.json': (
        'bench.scoring.scoring', {'threads': 1, 'repeats': 3, 'out': 'o.json'}),
    'bench gpu --out g.json --repeats 3': ('bench.gpu.gpu', {'out': 'g.json', 'repeats': 3}),
    'bench heads --heads GLSCL X-Pool --videos 10 20 --memory-gb 1': (
        'bench.heads.heads',
        {'heads': ('GLSCL', 'X-Pool'), 'videos': (10, 20), 'memory_gb': 1.0, 'threads': 1}),
    'bench costs': ('heads.costs.report', {}),
    'bench data --videos v --seconds 1 2.5': (
        'bench.data.data', {'videos': 'v', 'seconds': (1.0, 2.5), 'workers': None}),
    'bench search --videos 10 --shortlist': (
        'bench.search.search',
        {'videos': (10,), 'shortlist': True, 'folder': None, 'threads': None})}


@pytest.mark.parametrize('line', CALLS)
def test_a_command_calls_its_function_with_what_was_typed(line, monkeypatch):
    where, expected = CALLS[line]
    module, _, name = f'glscl.{where}'.rpartition('.')
    function = getattr(importlib.import_module(module), name)
    # it takes only what the function takes
    stand_in = mock.create_autospec(function, return_value=None)
    monkeypatch.setattr(f'{module}.{name}', stand_in)
    assert main(shlex.split(line)) == 0
    (call,) = stand_in.call_args_list
    given = inspect.signature(function).bind(*call.args, **call.kwargs).arguments
    assert {key: given[key] for key in expected} == expected


@pytest.mark.parametrize('line, where, returned, status', [
    ('check', 'glscl.experiments.doctor.check', ['fetch the videos'], 1),
    ('check', 'glscl.experiments.doctor.check', [], 0),
    ('sweep s.yaml', 'glscl.experiments.sweep.sweep', 1, 1),
    ('index v --out g', 'glscl.search.index.index_command', 1, 1)])
def test_the_exit_status_is_the_commands(line, where, returned, status, monkeypatch):
    monkeypatch.setattr(where, lambda *args, **options: returned)
    assert main(shlex.split(line)) == status


# ---- where to write is looked at first

WRITES = {
    'train --run-dir {}': True, 'evaluate runs/mine --out {}': False, 'evaluate runs/mine --similarity {}': False,
    'export runs/mine --out {}': False, 'curves runs/mine --out {}': False, 'check --missing {}': False, 'index a --out {}': True,
    'search g text --html {}': False, 'sweep s.yaml --out {}': True, 'sweep s.yaml --results {}': False, 'pretrain --out {}': False,
    'walkthrough --out {}': True, 'bench scoring --out {}': False, 'bench gpu --out {}': False, 'bench heads --out {}': False,
    'bench search --dir {}': True}


@pytest.mark.parametrize('line', WRITES)
def test_a_place_that_cannot_be_written_is_refused_before_anything_is_done(line, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').touch()
    (tmp_path / 'folder').mkdir()
    flag = line.split()[-2]
    wrong = {"''": f'{flag} is empty', 'file/below': f'{flag} file/below cannot be written (Not a directory)',
             **({'file': f'{flag} file is a file'} if WRITES[line] else {'folder': f'{flag} folder is a folder'})}
    for place, said in wrong.items():
        assert main(shlex.split(line.format(place))) == 1
        shown = capsys.readouterr().err
        assert said in shown and shown.count('\n') == 1
    assert sorted(tmp_path.iterdir()) == [tmp_path / 'file', tmp_path / 'folder']


def test_the_home_folder_is_meant_wherever_a_tilde_stands(monkeypatch):
    monkeypatch.setenv('HOME', '/at/home')
    monkeypatch.setenv('USERPROFILE', '/at/home')
    for word, meant in {'--out=~/g': '--out=/at/home/g', '~/films': '/at/home/films', 'clip_pretrained=~/w.pt': 'clip_pretrained=/at/home/w.pt',
                        'a ~/b': 'a ~/b', '~': '~', '~cat': '~cat', 'a=b=~/c': 'a=b=~/c'}.items():
        assert at_home(word) == meant


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch, capsys):
    def none():
        raise RuntimeError('Could not determine home directory.')
    monkeypatch.delenv('GLSCL_CACHE', raising=False)
    monkeypatch.setattr('pathlib.Path.home', none)
    assert main(['check']) == 1
    shown = capsys.readouterr().err
    assert 'set GLSCL_CACHE, or HOME' in shown and shown.count('\n') == 1


@pytest.mark.skipif(os.name == 'nt', reason='a shell of POSIX')
@pytest.mark.parametrize('closed, status', [('>&-', 0), ('2>&-', 0), ('>&- 2>&-', 0), ('</dev/null <&-', 0)])
def test_closed_streams_stop_nothing(closed, status):
    done = subprocess.run(f'{shlex.quote(sys.executable)} -m glscl --version {closed}', shell=True, capture_output=True, text=True)
    assert done.returncode == status and done.stderr == ''


def test_a_wrong_recipe_or_setting_is_told_before_torch_is_loaded():
    code = ('import sys\nfrom glscl.__main__ import main\nmain({!r})\nsys.exit("torch" in sys.modules)')
    for line in ('train --recipe nix', 'check --set nix=3', 'evaluate x --out /', 'walkthrough --out README.md/x'):
        process = subprocess.run([sys.executable, '-c', code.format(line.split())], capture_output=True)
        assert process.returncode == 0 and process.stderr.count(b'\n') == 1, process.stderr


# ---- mistakes

@pytest.mark.parametrize('line, shown', [
    ('trian', ['trian', *COMMANDS]),
    ('bench nix', ['nix', *BENCHES]),
    ('bench', BENCHES),
    ('train --rceipe x', ['--rceipe', '--recipe', 'glscl train --help']),
    ('check --nix', ['--nix', 'glscl check --help']),
    ('train --seed one', ['--seed', "'one'"]),
    ('evaluate run --split all', ['--split', 'test', 'val', 'train']),
    ('index videos', ['--out']),
    ('index videos --out g --cilp ViT-B-32', ['--cilp', '--clip', 'glscl index --help']),
    ('search g x --nix', ['--nix', 'glscl search --help']),
    ('serach g x', ['serach', 'search']),
    ('search', ['GALLERY'])])
def test_what_is_unknown_or_missing_is_named_with_what_there_is(line, shown, capsys):
    assert ended(line) == 2
    captured = capsys.readouterr()
    assert captured.out == ''
    for part in shown:
        assert part in captured.err, part


@pytest.mark.parametrize('line, said', [
    ('train --set epochs', "glscl train: --set takes KEY=VALUE, as in --set epochs=3, not 'epoc"),
    ('train --set =3', "not '=3'"),
    ('train --set a=[1', "glscl train: a: '[1' cannot be read as a value"), ('train --set a=2020-13-45', "a: '2020-13-45' cannot be read as a value"),
    ('check --recipe nowhere', "glscl check: unknown recipe 'nowhere'"),
    ('check --recipe nowhere.yaml', 'nowhere.yaml: no such'),
    ('index --out g', 'glscl index: name the videos'),
    ('search g', 'glscl search: say what the video shows'),
    ('bench data --videos nowhere', "nowhere: No such file or directory"),
    ('bench heads --memory-gb 0', 'above 0'), ('bench heads --seconds -1', 'above 0'), ('bench search --videos', 'name the sizes'),
    ('walkthrough --name ..', "not '..'"), ('walkthrough --profile foo', "unknown profile 'foo'"),
    ('pretrain --frames 20', '--frames must be 2000 or more'), ('sweep nowhere.yaml', 'nowhere.yaml: No such file')])
def test_what_the_user_has_to_change_is_one_line(line, said, capsys):
    assert main(shlex.split(line)) == 1
    captured = capsys.readouterr()
    assert said in captured.err
    assert captured.err.count('\n') == 1 and captured.err.endswith('\n')
    assert captured.out == ''


@pytest.mark.parametrize('line, flag', [
    ('sweep s.yaml --jobs 0', '--jobs'), ('bench data --frames 0', '--frames'), ('bench search --videos 10 -1', '--videos'),
    ('bench search --threads 0', '--threads'), ('bench scoring --threads -1', '--threads'), ('bench heads --videos 0', '--videos'),
    ('pretrain --steps 0', '--steps'), ('pretrain --batch 1', '--batch'), ('pretrain --lr nan', '--lr')])
def test_a_count_that_cannot_be_is_refused_by_its_flag(line, flag, capsys):
    assert main(shlex.split(line)) == 1
    said = capsys.readouterr().err
    assert flag in said and said.count('\n') == 1


@pytest.mark.parametrize('error', [ValueError('a\nb'), OSError('a\nb'), ImportError('a\nb')])
def test_an_error_of_several_lines_becomes_one(error, monkeypatch, capsys):
    monkeypatch.setattr('glscl.experiments.doctor.check', mock.Mock(side_effect=error))
    assert main(['check']) == 1
    assert capsys.readouterr().err == 'glscl check: a b\n'


def test_a_mistake_in_the_package_is_not_hidden(monkeypatch):
    monkeypatch.setattr('glscl.experiments.doctor.check', mock.Mock(side_effect=KeyError('a')))
    with pytest.raises(KeyError):
        main(['check'])


# ---- ends

def test_ctrl_c_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr('glscl.experiments.doctor.check', mock.Mock(side_effect=KeyboardInterrupt))
    assert main(['check']) == 130
    assert capsys.readouterr().err == 'glscl check: stopped\n'
    kept = KeyboardInterrupt('stopped at step 3 of 9; saved')
    monkeypatch.setattr('glscl.experiments.doctor.check', mock.Mock(side_effect=kept))
    assert main(['check']) == 130
    assert capsys.readouterr().err == 'glscl check: stopped at step 3 of 9; saved\n'


@pytest.mark.skipif(os.name == 'nt', reason='ends the process there')
def test_a_cluster_that_ends_it_lets_it_take_away_what_is_half_done(monkeypatch, capsys):
    taken = []

    def check(*_, **__):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        finally:
            taken.append(1)
    monkeypatch.delenv('WORLD_SIZE', raising=False)
    monkeypatch.setattr('glscl.experiments.doctor.check', check)
    assert main(['check']) == 143 and taken == [1]
    assert capsys.readouterr().err == 'glscl check: stopped\n' and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.skipif(not os.path.exists('/proc/self/stat'), reason='looks for processes in /proc')
def test_rendering_that_is_stopped_leaves_nothing_behind(tmp_path):
    """Neither a process nor a folder, whether one process is told or all of them, as at a terminal."""
    code = ('import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nfrom glscl.datasets import shapes\n'
            'from glscl.runtime.signals import ended_as_interrupted\n'
            'with ended_as_interrupted(): shapes.build(sys.argv[1], workers=2)')
    for number, tell in ((signal.SIGTERM, os.kill), (signal.SIGINT, os.killpg)):
        process = subprocess.Popen([sys.executable, '-c', code, str(tmp_path)], start_new_session=True, stderr=subprocess.PIPE, text=True)
        end = time.time() + 100
        while not list(tmp_path.glob('.shapes*/train/*.mp4')) and time.time() < end:
            time.sleep(0.05)
        tell(process.pid, number)
        said = process.communicate(timeout=60)[1]
        assert process.returncode and said.count('Traceback') == 1 and list(tmp_path.iterdir()) == []
        with pytest.raises(ProcessLookupError):  # nobody is left of its group
            time.sleep(0.5)
            os.killpg(process.pid, 0)


def typed(*words, **options):
    """A line typed in a shell of its own."""
    return subprocess.run([sys.executable, '-m', 'glscl', *words], stderr=subprocess.PIPE,
                          text=True, timeout=120, **options)


def test_a_closed_pipe_ends_silently():
    """As `glscl --help | true` does: whoever should read is gone before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    process = typed('--help', stdout=writer)
    os.close(writer)
    assert (process.returncode, process.stderr) == (1, '')


def test_a_name_that_the_terminal_cannot_show_is_escaped():
    process = typed('train', '--set', '\u2603', env={**os.environ, 'PYTHONIOENCODING': 'ascii'})
    assert process.returncode == 1 and "not '\\u2603'" in process.stderr


# ---- settings, whichever way they come

def by_the_flag(tmp_path, name, text):
    from glscl.__main__ import parse_settings
    return load_config('shapes', **parse_settings(((f'{name}={text}',),)))


def by_a_recipe(tmp_path, name, text):
    (tmp_path / 'mine.yaml').write_text(f'{name}: {text}\n', encoding='utf-8')
    return load_config(tmp_path / 'mine.yaml')


def by_a_sweep(tmp_path, name, text):
    (tmp_path / 'sweep.yaml').write_text(f'base:\n  {name}: {text}\nvariants: {{base: {{}}}}\n', encoding='utf-8')
    [one] = sweep.expand(read_yaml(tmp_path / 'sweep.yaml'))
    return begin(device='cpu', **one['parameters']).config


def by_papermill(tmp_path, name, text):
    from papermill.cli import _resolve_type
    return begin(device='cpu', **{name: _resolve_type(text)}).config


def by_walkthrough(tmp_path, name, text):
    with mock.patch('glscl.notebook.walkthrough') as called:
        assert main(['walkthrough', '--name', 'x', '--out', str(tmp_path), '-p', name, text]) == 0
    return begin(device='cpu', **called.call_args.kwargs['parameters']).config


WAYS = (by_the_flag, by_a_recipe, by_a_sweep, by_papermill, by_walkthrough)


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('name, text, value', [
    ('lr', '1e-4', 1e-4), ('lr', '.5', 0.5), ('epochs', '5', 5.0), ('epochs', '1e1', 10.0), ('batch_size', '16.0', 16), ('batch_size', '1_6', 16),
    ('max_frames', '012', 12), ('batch_size', '017', 17), ('lr', '+010', 10.0), ('mask_padding', 'False', False), ('mask_padding', '0', False),
    ('clip_pretrained', 'null', None), ('clip_pretrained', 'None', None), ('temporal', 'none', 'none'), ('local_weight', '0', 0.0)])
def test_a_setting_is_the_same_whichever_way_it_comes(way, name, text, value, tmp_path):
    assert getattr(way(tmp_path, name, text), name) == value


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('name, text', [
    ('batch_size', '1:30'), ('batch_size', '0x10'), ('batch_size', '0b11'), ('batch_size', 'two'), ('lr', '1,5'), ('lr', 'True'), ('mask_padding', 'y'),
    ('temporal', 'Transformer'), ('select_on', 'held-out'), ('max_frames', '0'), ('max_words', '2.5')])
def test_a_wrong_setting_is_refused_alike_whichever_way_it_comes(way, name, text, tmp_path):
    with pytest.raises(ValueError) as wrong:
        Config(**{name: text})
    with pytest.raises(ValueError) as told:
        way(tmp_path, name, text)
    # a number in the text is read as one on most ways
    assert str(told.value).replace("'", '') == str(wrong.value).replace("'", '')


def test_a_seed_is_the_same_in_notebooks_sweeps_and_runs():
    import numpy as np

    from glscl.experiments import in_process
    from glscl.runtime.devices import seed_everything
    assert begin(device='cpu', seed=np.int64(3)).seed == 3
    for seed in (True, -1, 1.5, '1', None, 2 ** 63):
        said = re.escape(f'seed must be a whole number from 0 to {2 ** 63 - 1}, not {seed!r}')
        run = dict(name='a', seed=seed, parameters={})
        for take in (seed_everything, lambda seed: begin(device='cpu', seed=seed), lambda _: in_process.check([run]), lambda _: sweep.check([run])):
            with pytest.raises(ValueError, match=said):
                take(seed)
    with pytest.raises(ValueError, match="'a': parameters: unknown key None"):  # as `{lr: 1,5}` has it
        in_process.check([dict(name='a', seed=0, parameters={None: 5})])


def test_a_home_in_a_name_is_meant_in_python_too(tmp_path, monkeypatch):
    for name in ('HOME', 'USERPROFILE'):
        monkeypatch.setenv(name, str(tmp_path))
    assert kept('~/films') == tmp_path / 'films' == begin(device='cpu', data_dir='~/films').data_dir
    monkeypatch.setenv('GLSCL_CACHE', '~/cache')
    lesson = begin(device='cpu')
    assert kept() == tmp_path / 'cache' == lesson.data_dir and lesson.run_dir.is_relative_to(tmp_path)
