"""Every command that README.md and data/README.md print is known here, and run: as it stands, on small things named as the real ones,
or, where it would take long, up to its first long step. What concerns one's own videos runs in search/test_readmes.py."""
import importlib
import inspect
import re
import shlex
from pathlib import Path
from unittest import mock

import pytest
from test_command_line import CALLS
from trees import make_tree

from glscl.__main__ import COMMANDS, main
from glscl.config import SETTINGS
from glscl.experiments import sweep
from glscl.notebook import begin

ROOT = Path(__file__).parents[1]
PROGRAMS = re.compile('(glscl|papermill|torchrun) ')
QUICK = ['--set', 'clip=small', 'clip_pretrained=null', 'temporal_layers=1', 'decoder_layers=1', 'max_frames=2', 'batch_size=64', 'epochs=1']


def printed(name):
    """The commands of a README, of its blocks and of its sentences."""
    text = (ROOT / name).read_text(encoding='utf-8')
    fenced = re.compile(r'^```\w*\n(.*?)^```$', re.M | re.S)
    lines = [re.sub(r'\s+#.*', '', line).strip() for code in fenced.findall(text) for line in code.splitlines()]
    lines += [' '.join(code.split()) for code in re.findall('`([^`]+)`', fenced.sub('', text))]
    return [line for line in lines if PROGRAMS.match(line)]


LINES = list(dict.fromkeys([*printed('README.md'), *printed('data/README.md')]))
WORDS = {f'glscl {name}' for name in COMMANDS}  # a command that a sentence names

CHAIN = ['glscl check --recipe msrvtt --data-dir DIR', 'glscl train --recipe msrvtt --data-dir DIR --run-dir runs/msrvtt',
         'glscl evaluate runs/msrvtt --data-dir DIR --rescored', 'glscl curves runs/msrvtt --out curves.png',
         'glscl export runs/msrvtt --data-dir DIR --out features.npz', 'glscl check --missing FILE']
SWEEPS = [f'glscl sweep data/sweeps/{name}' for name in ('ablations.yaml --jobs 2', 'heads.yaml', 'methods.yaml', 'local.yaml')]
NOTEBOOKS = ['papermill notebooks/04_training.ipynb out.ipynb --cwd notebooks -p seed 1 -p temperature 5',
             'papermill notebooks/04_training.ipynb out.ipynb --cwd notebooks -f data/recipes/msrvtt.yaml -p data_dir DIR',
             'papermill notebooks/05_evaluation.ipynb msrvtt.ipynb --cwd notebooks -f data/recipes/msrvtt.yaml -p data_dir DIR -p run_dir RUN']
WALK = 'glscl walkthrough --name seed1 -p seed 1'
TORCHRUN = 'torchrun --nproc-per-node=4 -m glscl train …'
PARSED = ['glscl bench gpu']  # needs a GPU, and on one five minutes
ELSEWHERE = ['glscl demo gallery/',  # search/test_demo.py
             'glscl bench data --videos DIR/videos --no-mix',  # bench/test_bench_data.py
             'torchrun --nproc-per-node=4 -m glscl index …',  # search/test_shares.py, this one and the next
             'torchrun --nproc-per-node=4 -m glscl index VIDEOS/ --out gallery']
OF_ONES_OWN = [  # run by search/test_readmes.py
    'glscl check --recipe own --data-dir films/captions.csv', 'glscl train --recipe own --data-dir films/captions.csv --run-dir runs/own',
    'glscl evaluate runs/own --data-dir films/captions.csv', 'glscl index films/captions.csv --out gallery --model runs/own',
    'glscl search gallery "a dog digs a hole" --html page.html',
    'glscl index VIDEOS/ --out gallery/ --clip ViT-B-32 --pretrained openai', 'glscl index MORE/ film.mp4 list.csv --out gallery/',
    'glscl search gallery/ "a dog digs a hole" -k 5 --html page.html']


def test_each_printed_command_is_known_here():
    known = {*CHAIN, *SWEEPS, *NOTEBOOKS, WALK, TORCHRUN, *PARSED, *ELSEWHERE, *OF_ONES_OWN}
    assert set(LINES) - WORDS == known, 'a README prints another command: run it here'


@pytest.mark.parametrize('line', [line for line in LINES if line.startswith('glscl ') and line not in WORDS])
def test_the_commands_flags_are_those_that_there_are(line, monkeypatch):
    words = shlex.split(line)[1:]
    name = ' '.join(words[:2] if words[0] == 'bench' else words[:1])
    where = next(CALLS[call][0] for call in CALLS if call == name or call.startswith(f'{name} '))
    module, _, function = f'glscl.{where}'.rpartition('.')
    called = mock.create_autospec(getattr(importlib.import_module(module), function), return_value=None)
    monkeypatch.setattr(f'{module}.{function}', called)
    monkeypatch.chdir(ROOT)
    assert main(words) == 0 and called.call_count == 1


@pytest.mark.filterwarnings("ignore:.*not in the small CLIP's vocabulary")
def test_a_benchmark_from_the_doctor_to_features(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_tree('msrvtt', tmp_path / 'DIR', 12, 0, 3)
    for line in CHAIN:
        words = shlex.split(line)[1:]
        if '--recipe' in words:
            words += QUICK
        if words[0] not in ('check', 'curves'):
            words += ['--device', 'cpu']
        if '--missing' in words:
            words += ['--recipe', 'msrvtt', '--data-dir', 'DIR', *QUICK]
        assert main(words) == 0, line
    assert all((tmp_path / name).is_file() for name in ('runs/msrvtt/result.json', 'curves.png', 'features.npz', 'features.csv', 'FILE'))
    said = capsys.readouterr().out
    assert 'Nothing is missing.' in said and 'QB-Norm' in said and 'dual softmax' in said


@pytest.mark.parametrize('line', SWEEPS)
def test_a_sweep_comes_as_far_as_its_first_run(line, tmp_path, monkeypatch, capsys):
    """Its file is read, its runs are listed, each head that they ask for is built."""
    asked = []
    monkeypatch.setattr(sweep._Sweep, 'do', lambda self, runs: asked.extend(runs))
    monkeypatch.setattr(sweep._Sweep, 'choose', lambda self: None)
    words = [word.replace('data/', f'{ROOT}/data/') for word in shlex.split(line)[1:]]
    monkeypatch.chdir(tmp_path)
    assert main(words) == 0 and len(asked) > 5
    assert (tmp_path / 'runs/sweeps' / Path(words[1]).stem / 'results.json').is_file()


@pytest.fixture
def executed(monkeypatch):
    """What papermill is asked to execute, in place of doing it: a function that tells each call's arguments."""
    papermill = pytest.importorskip('papermill')
    from papermill import cli
    signature = inspect.signature(papermill.execute_notebook)
    stand_in = mock.create_autospec(papermill.execute_notebook)
    for place in (papermill, cli):
        monkeypatch.setattr(place, 'execute_notebook', stand_in)
    return lambda: [signature.bind(*call.args, **call.kwargs).arguments for call in stand_in.call_args_list]


@pytest.mark.parametrize('line', NOTEBOOKS)
def test_a_notebooks_command_names_what_it_takes(line, executed, monkeypatch, tmp_path):
    import papermill
    from papermill import cli
    words = [word.replace('DIR', str(tmp_path)).replace('RUN', str(tmp_path / 'run')) for word in shlex.split(line)[1:]]
    monkeypatch.chdir(ROOT)
    cli.papermill.main(words, standalone_mode=False)
    (call,) = executed()
    takes = papermill.inspect_notebook(call['input_path'])
    assert Path(call['cwd']).is_dir() and set(call['parameters']) <= {*takes, *SETTINGS}
    begun = begin(**{'device': 'cpu', **call['parameters']})
    assert begun.config.dataset == ('msrvtt' if '-f' in words else 'shapes')


def test_the_walkthrough_takes_its_parameters_to_all_six(executed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('glscl.notebook.bind', lambda folder: folder / 'index.html')
    assert main(shlex.split(WALK)[1:]) == 0
    assert [call['parameters']['seed'] for call in executed()] == [1] * 6
    assert f'Open {tmp_path}/runs/seed1/index.html' in capsys.readouterr().out


def test_torchrun_starts_the_command_line(monkeypatch):
    from torch.distributed.run import parse_args
    words = TORCHRUN.replace('train …', CHAIN[1].removeprefix('glscl ')).split()[1:]
    given = parse_args(words)
    assert given.nproc_per_node == '4' and given.module and given.training_script == 'glscl'
    assert given.training_script_args == CHAIN[1].split()[1:]  # which are run above
