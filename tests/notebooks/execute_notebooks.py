"""Run the notebooks with papermill, strip what changes from run to run, and store them with their outputs.

    python tests/notebooks/execute_notebooks.py [01_data ...]

Names first what it will overwrite, and then of each notebook which cells show something else than before.
A notebook that fails is left as it was. Use after a change to a notebook or to what it shows; `make test` then
proves that a second execution prints the same."""
import base64
import io
import sys
import tempfile
from pathlib import Path

import nbformat
import numpy as np
import papermill
from PIL import Image

NOTEBOOKS = Path(__file__).parents[2] / 'notebooks'


def normalise(notebook):
    """Drop times, versions and widgets; keep pictures small."""
    for key in ('papermill', 'widgets'):
        notebook.metadata.pop(key, None)
    notebook.metadata.language_info = {'name': 'python'}
    notebook.metadata.kernelspec = dict(name='python3', display_name='Python 3 (ipykernel)', language='python')
    for cell in notebook.cells:
        for key in ('papermill', 'execution', 'collapsed'):
            cell.metadata.pop(key, None)
        if not cell.metadata.get('tags', True):
            del cell.metadata['tags']
        if 'outputs' in cell:
            cell.outputs = joined(cell.outputs)
        for output in cell.get('outputs', []):
            if picture := output.get('data', {}).get('image/png'):
                output.data['image/png'] = fewer_colours(picture)
    return notebook


def joined(outputs):
    """What was printed in one go as one output: a kernel sends it in pieces as it pleases."""
    whole = []
    for output in outputs:
        last = whole[-1] if whole else {}
        if output.output_type == 'stream' and output.get('name') == last.get('name'):
            last['text'] += output.text
        else:
            whole.append(output)
    return whole


def fewer_colours(picture):
    """A PNG (base64) in as few colours as change it by a 256th on average at most, and one pixel in a thousand by a tenth: half
    the size or less, and nobody sees the difference. (By coverage, not by count: a dot is small, and its colour means something.)"""
    whole = Image.open(io.BytesIO(base64.b64decode(picture))).convert('RGB')
    for colours in (32, 64, 128, 256):
        small, kept = io.BytesIO(), whole.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        off = np.abs(np.asarray(kept.convert('RGB'), float) - np.asarray(whole, float))
        if off.mean() <= 1 and np.percentile(off.max(-1), 99.9) <= 25:
            break
    kept.save(small, 'PNG', optimize=True)
    return base64.b64encode(small.getvalue()).decode() + '\n'


def changed(before, after):
    """The ids of the cells of `after` whose outputs are others than in `before`."""
    shown = {cell.id: cell.get('outputs', []) for cell in before.cells}
    return [cell.id for cell in after.cells if without_counts(cell.get('outputs', [])) != without_counts(shown.get(cell.id, []))]


def without_counts(outputs):
    return [{**output, 'execution_count': None} for output in outputs]


def main(names, notebooks=NOTEBOOKS):
    """Execute and overwrite the notebooks of these names, or all of a folder."""
    paths = sorted(path for path in Path(notebooks).glob('*.ipynb') if not names or path.stem in names)
    if strange := set(names) - {path.stem for path in paths}:
        raise SystemExit(f'no such notebook: {", ".join(sorted(strange))}')
    print('will overwrite', *(path.name for path in paths), flush=True)
    for path in paths:
        before = nbformat.read(path, 4)
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / path.name
            papermill.execute_notebook(path, out, cwd=notebooks, kernel_name='python3', progress_bar=False, log_output=False,
                                       extra_arguments=['--log-level=50'])
            after = normalise(nbformat.read(out, 4))
        nbformat.write(after, path)
        other = changed(before, after)
        print(f'{path.name}: {path.stat().st_size / 1e3:.0f} kB;', f'other outputs in {", ".join(other)}' if other else 'same outputs',
              flush=True)


if __name__ == '__main__':
    main(sys.argv[1:])
