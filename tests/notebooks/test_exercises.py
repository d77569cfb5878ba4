"""Exercises that check themselves: each accepts its own folded solution, and no wrong answer."""
import ast
import contextlib
import io
import re
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
import torch

NOTEBOOKS = sorted((Path(__file__).parents[2] / 'notebooks').glob('0*.ipynb'))


def exercises():
    """(notebook, its import cell, an exercise's code, the folded solution below it)"""
    for path in NOTEBOOKS:
        cells = nbformat.read(path, 4).cells
        [imports] = [cell.source for cell in cells if cell.id == 'imports']
        for cell, below in zip(cells, cells[1:]):
            if 'exercise' in cell.metadata.get('tags', []):
                yield pytest.param(imports, cell.source, below.source, id=f'{path.stem}-{cell.id}')


def parts(code):
    """(the function that a reader is to write, its name, the check below it)"""
    stub, check = ast.parse(code).body
    assert isinstance(stub, ast.FunctionDef) and isinstance(check, ast.If), 'a function, then `if`'
    return stub, stub.name, check


def printed(imports, function, check):
    """What an exercise prints for this function (source)."""
    space, out = {}, io.StringIO()
    with contextlib.redirect_stdout(out), torch.enable_grad():  # 02 turns it off for good
        for code in (imports, function, ast.unparse(check)):
            exec(compile(code, 'exercise', 'exec'), space)
    plt.close('all')
    return out.getvalue()


def solution(below):
    [folded] = re.findall(r'<details><summary>Solution</summary>\n\n```python\n(.*?)```\n\n</details>', below, re.S)
    return folded


@pytest.mark.parametrize('imports, code, below', list(exercises()))
def test_the_folded_solution_is_right(imports, code, below):
    _, name, check = parts(code)
    assert f'def {name}(' in solution(below)
    assert printed(imports, solution(below), check).startswith('right')


@pytest.mark.parametrize('imports, code, below', list(exercises()))
def test_an_untouched_exercise_is_silent_and_a_wrong_answer_is_noticed(imports, code, below):
    stub, name, check = parts(code)
    assert printed(imports, ast.unparse(stub), check) == ''
    for wrong in ('0', '[]', 'True', 'args[0]'):
        with pytest.raises((AssertionError, TypeError, AttributeError)):
            printed(imports, f'def {name}(*args): return {wrong}', check)


@pytest.mark.parametrize('name', ['01_data', '03_losses', '04_training', '06_efficiency'])
def test_a_notebook_has_two(name):
    assert sum(p.id.startswith(name) for p in exercises()) == 2
