"""All six notebooks run on the tiny profile with another seed, each in an empty folder, and 04 leaves its model where it is told."""
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import pytest

papermill = pytest.importorskip('papermill')
NOTEBOOKS = Path(__file__).parents[2] / 'notebooks'
NAMES = ('01_data', '02_model', '03_losses', '04_training', '05_evaluation', '06_efficiency')
PARAMETERS = dict(profile='tiny', seed=1, device='cpu')


def execute(name, folder, run_dir):
    """One notebook by papermill, standing in an empty folder; returns the finished process."""
    empty = folder / name
    empty.mkdir()
    parameters = {**PARAMETERS, 'data_dir': folder / 'data', 'run_dir': run_dir}
    named = [str(word) for key, value in parameters.items() for word in ('-p', key, value)]
    return subprocess.run(
        [sys.executable, '-m', 'papermill', NOTEBOOKS / f'{name}.ipynb', folder / f'{name}.ipynb', *named, '--cwd', empty,
         '-k', 'python3', '--no-progress-bar', '--log-level', 'ERROR'], capture_output=True, text=True,
        env={**os.environ, 'GLSCL_CACHE': str(folder / 'cache'), 'OMP_NUM_THREADS': '1'})  # two at a time, a core each


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Data, rendered once, and everything that the runs leave."""
    return tmp_path_factory.mktemp('papermill')


@pytest.fixture(scope='module')
def runs(folder):
    """{name: future}: 04, 05 and 06 one after another as a reader would; beside them 01 to 03, which need no run."""
    with ThreadPoolExecutor(1) as lessons, ThreadPoolExecutor(1) as experiments:
        yield {**{name: lessons.submit(execute, name, folder, folder / 'none') for name in NAMES[:3]},
               **{name: experiments.submit(execute, name, folder, folder / 'run') for name in NAMES[3:]}}


@pytest.mark.parametrize('name', NAMES)
def test_a_notebook_runs_with_other_parameters(name, folder, runs):
    known = papermill.inspect_notebook(NOTEBOOKS / f'{name}.ipynb')
    assert {'profile', 'seed', 'data_dir', 'run_dir'} <= set(known)  # papermill itself would only warn
    finished = runs[name].result()
    assert finished.returncode == 0, finished.stderr[-5000:]
    done = nbformat.read(folder / f'{name}.ipynb', 4)
    cells = [cell for cell in done.cells if cell.cell_type == 'code']
    assert all(cell.execution_count for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == 'error' or o.get('name') == 'stderr']
    assert any('seed 1' in o.get('text', '') for o in outputs)  # the machine report shows what was asked for
    assert list((folder / name).iterdir()) == []  # nothing is left where the reader stands
    assert not (folder / 'none').exists()
    if name in NAMES[3:]:
        assert (folder / 'run' / 'best.safetensors').is_file()
    if name in NAMES[4:]:
        assert any('of your own run' in o.get('text', '') for o in outputs)
