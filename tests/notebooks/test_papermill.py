"""All six notebooks run on the tiny profile with another seed, each in an empty folder, and 04 leaves its model where it is told."""
import re
from pathlib import Path

import nbformat
import pytest

papermill = pytest.importorskip('papermill')
NOTEBOOKS = Path(__file__).parents[2] / 'notebooks'
NAMES = ('01_data', '02_model', '03_losses', '04_training', '05_evaluation', '06_efficiency')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Data and run of the module: rendered once, trained in 04, used by 05 and 06 as a reader would."""
    return tmp_path_factory.mktemp('papermill')


@pytest.mark.parametrize('name', NAMES)
def test_a_notebook_runs_with_other_parameters(name, folder, tmp_path):
    path, empty = NOTEBOOKS / f'{name}.ipynb', tmp_path / 'empty'
    assert path.exists(), f'{name}.ipynb is missing'
    empty.mkdir()
    parameters = dict(profile='tiny', seed=1, data_dir=str(folder / 'data'), run_dir=str(folder / 'run'))
    known = papermill.inspect_notebook(path)
    assert set(parameters) <= set(known), f'unknown to {name}: {set(parameters) - set(known)}'  # papermill itself would only warn
    papermill.execute_notebook(path, tmp_path / 'out.ipynb', parameters, cwd=str(empty), kernel_name='python3',
                               progress_bar=False)
    done = nbformat.read(tmp_path / 'out.ipynb', 4)
    cells = [cell for cell in done.cells if cell.cell_type == 'code']
    assert all(cell.execution_count for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == 'error' or o.get('name') == 'stderr']
    assert any('seed 1' in o.get('text', '') for o in outputs)  # the machine report shows what was asked for
    assert list(empty.iterdir()) == []  # nothing is left where the reader stands
    if name == '04_training':
        assert (folder / 'run' / 'best.safetensors').is_file()
    if name in ('05_evaluation', '06_efficiency') and (folder / 'run' / 'best.safetensors').is_file():
        assert any(re.search('of your own run', o.get('text', '')) for o in outputs)
