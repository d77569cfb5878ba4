"""The contract of the house: which way the arrows go, how lines look, what a docstring is owed."""
import ast
import importlib
import inspect
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import glscl

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


# What stands in README and what a script begins with.
CALLED = ['checkpoints.load_model', 'checkpoints.save_model', 'checkpoints.save_result', 'data.pairs.load_pairs', 'data.pixels.pixels',
          'data.tokens.tokenize', 'datasets.readers.load_table', 'datasets.splits.load_shapes', 'datasets.splits.load_split',
          'experiments.runs.draw_curves', 'experiments.runs.evaluate_run', 'experiments.runs.export_features', 'experiments.runs.train',
          'heads.model.build', 'heads.model.load', 'interaction.global_similarity', 'interaction.local_similarity', 'journal.read_history',
          'losses.contrastive', 'losses.inter_consistency', 'losses.intra_diversity', 'model.GLSCL.similarity', 'model.GLSCL.losses',
          'model.GLSCL.encode', 'model.GLSCL.encode_texts', 'model.GLSCL.encode_videos', 'training.Trainer.run',
          'training.Trainer.train_step', 'training.warmup_cosine', 'clip_models.load_clip', 'metrics.ranks', 'metrics.retrieval_metrics', 'metrics.summary', 'notebook.begin', 'notebook.walkthrough', 'released.load',
          'rescoring.dual_softmax', 'rescoring.qb_norm', 'score.score', 'search.gallery.Gallery.search', 'search.index.index_videos']


def unannotated(function):
    """The parameters of a function without a type, and "return"."""
    signature = inspect.signature(function)
    empty = inspect.Parameter.empty
    names = [name for name, p in signature.parameters.items() if name != 'self' and p.annotation is empty]
    return names + ['return'] * (signature.return_annotation is empty)


@pytest.mark.parametrize('name', CALLED)
def test_what_a_user_calls_is_annotated(name):
    package, *rest = name.split('.')
    found = importlib.import_module(f'glscl.{package}')
    for part in rest:
        found = getattr(found, part, None) or importlib.import_module(f'{found.__name__}.{part}')
    assert unannotated(found) == []


def test_the_packages_own_functions_are_annotated():
    functions = {name: getattr(glscl, name) for name in glscl.PUBLIC if inspect.isfunction(getattr(glscl, name))}
    assert len(functions) > 10 and not {name for name, function in functions.items() if unannotated(function)}


def undescribed(path):
    """The functions, classes and methods of a module that a user may call and nothing describes;
    a method may be described by a class above its own."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    if not ast.get_docstring(tree) and tree.body:
        yield 'the module'
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith('_'):
            continue
        if not ast.get_docstring(node):
            yield node.name
        for method in node.body if isinstance(node, ast.ClassDef) else ():
            if not isinstance(method, ast.FunctionDef) or method.name.startswith('_'):
                continue
            if not ast.get_docstring(method) and not inherited(path, node.name, method.name):
                yield f'{node.name}.{method.name}'


def inherited(path, name, method):
    module = importlib.import_module('.'.join(path.relative_to(ROOT).with_suffix('').parts))
    return inspect.getdoc(getattr(getattr(module, name), method))


@pytest.mark.parametrize('path', FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_whatever_is_public_has_a_docstring(path):
    assert list(undescribed(path)) == []


def test_what_is_installed_takes_the_versions_of_the_constraints():
    """Else an extra could not be installed with them: run it where `demo`, `search` and `tensorboard` are, too."""
    pins = [Requirement(line) for line in (ROOT / 'constraints.txt').read_text().splitlines() if line[:1] != '#']
    pins = {pin.name.lower().replace('_', '-'): pin.specifier for pin in pins}
    assert len(pins) > 20
    for found in distributions():
        for need in map(Requirement, found.requires or ()):
            for pin in pins.get(need.name.lower().replace('_', '-'), ()):
                if not need.marker or need.marker.evaluate({'extra': ''}):
                    assert pin.version in need.specifier, f'{found.name} takes {need}, constraints.txt pins {pin}'
