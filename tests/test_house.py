"""The contract of the house: which way the arrows go, how lines look, what a docstring is owed."""
import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'glscl'
CORE = ['config', 'encoders', 'interaction', 'losses', 'model', 'training', 'evaluation', 'metrics']
FILES = sorted(PACKAGE.rglob('*.py'))


def lines(path):
    return len(path.read_text(encoding='utf-8').splitlines())


def run(*command):
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=ROOT)


def test_the_thin_package_imports_no_wing_and_no_arrow_goes_back():
    done = run('-c', 'from importlinter.cli import lint_imports_command; lint_imports_command()',
               '--no-cache')
    assert done.returncode == 0, done.stdout + done.stderr
    assert '0 broken' in done.stdout


def test_ruff_finds_nothing():
    done = run('-m', 'ruff', 'check', '--no-cache', '.')
    assert done.returncode == 0, done.stdout


def test_the_core_is_read_in_one_sitting():
    assert sum(lines(PACKAGE / f'{name}.py') for name in CORE) <= 1300


def test_the_trainer_loads_little_of_the_package():
    """Every line is somebody's reading: no rival, no search, no data set comes with the method."""
    names = 'import sys, glscl.training; print(*[m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "glscl"])'
    done = run('-c', names)
    loaded = [Path(path) for path in done.stdout.split()]
    assert PACKAGE / 'training.py' in loaded
    assert sum(map(lines, loaded)) <= 2600, {path.stem: lines(path) for path in loaded}


def public(tree):
    """Functions and classes of a module, and the methods of its classes, that a user may call."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from (m for m in node.body if isinstance(m, ast.FunctionDef)
                            and not m.name.startswith('_'))


OVERRIDES = {'train', 'forward', 'backward'}  # torch's, described where torch describes them


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_whatever_is_public_has_a_docstring(path):
    tree = ast.parse(path.read_text(encoding='utf-8'))
    assert ast.get_docstring(tree) or path.stat().st_size == 0
    bare = [node.name for node in public(tree)
            if not ast.get_docstring(node) and node.name not in OVERRIDES]
    assert bare == []
