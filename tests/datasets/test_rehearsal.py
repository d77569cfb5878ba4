"""A tree of small generated videos, named and annotated as each benchmark is, goes from its recipe through 01, 04 and 05.

    python -m pytest -m slow tests/test_rehearsal.py

Only what cannot be had here differs from a real run: the videos, CLIP's weights, and the sizes."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from trees import make_tree

ROOT = Path(__file__).parents[2]
SMALL = dict(clip='small', max_words=40, max_frames=6, batch_size=4, epochs=1)


def papermill(name, out, recipe, folder, settings):
    parameters = [w for k, v in settings.items() for w in ('-p', k, str(v))]
    run = subprocess.run([sys.executable, '-m', 'papermill', f'notebooks/{name}.ipynb', out, '--cwd', 'notebooks', '-k', 'python3',
                          '-f', f'data/recipes/{recipe}.yaml', '-y', 'clip_pretrained: null', *parameters],
                         cwd=ROOT, env={**os.environ, 'GLSCL_CACHE': str(folder / 'cache')}, capture_output=True, text=True)
    assert run.returncode == 0, f'{recipe}, {name}:\n{run.stderr[-3000:]}'


@pytest.mark.slow
@pytest.mark.parametrize('dataset, changes', [
    ('msrvtt', {}), ('msvd', {}), ('lsmdc', {}), ('didemo', {}), ('activitynet', {}), ('msrvtt', dict(select_on='test', released=True)),
    ('msrvtt', dict(clip='ViT-B-32', max_words=32, max_frames=2))])  # full size, random weights
def test_from_the_recipe_to_the_recalls(dataset, changes, tmp_path):
    data, run = tmp_path / 'data', tmp_path / 'run'
    make_tree(dataset, data, n_train=12, n_val=4, n_test=6)
    settings = {**SMALL, **changes, 'profile': 'tiny', 'seed': 1, 'data_dir': data, 'run_dir': run}
    for name in ('01_data', '04_training', '05_evaluation'):
        papermill(name, str(tmp_path / f'{name}.ipynb'), dataset, tmp_path, settings)
    result = json.loads((run / 'result.json').read_text())
    assert result['data'] == dataset and result['metrics']['t2v']['queries'] >= 6 and result['metrics']['v2t']['queries'] == 6
    assert (run / 'similarity.npz').is_file() and (run / 'best.safetensors').is_file()


@pytest.mark.slow
@pytest.mark.parametrize('dataset', ['msrvtt', 'msvd', 'lsmdc', 'didemo', 'activitynet'])
def test_the_same_from_the_command_line(dataset, tmp_path):
    make_tree(dataset, tmp_path / 'data', n_train=12, n_val=4, n_test=6)
    settings = [f'{k}={v}' for k, v in {**SMALL, 'clip_pretrained': 'null'}.items()]
    run = subprocess.run([sys.executable, '-m', 'glscl', 'train', '--recipe', dataset, '--data-dir', str(tmp_path / 'data'),
                          '--run-dir', str(tmp_path / 'run'), '--set', *settings], cwd=ROOT, capture_output=True, text=True,
                         env={**os.environ, 'GLSCL_CACHE': str(tmp_path / 'cache')})
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads((tmp_path / 'run' / 'result.json').read_text())['data'] == dataset
