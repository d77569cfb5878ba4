"""Run the six notebooks in order and bind them into one HTML page with a table of results.

    glscl walkthrough --name mine --profile small -p seed 1
"""
import argparse
import datetime
import html
import json
import sys
import time
from pathlib import Path

REPOSITORY_NOTEBOOKS = Path(__file__).parent.parent / 'notebooks'


def run(name, notebooks=REPOSITORY_NOTEBOOKS, out='runs', parameters=None, say=print):
    """Execute every notebook of a folder into out/name; returns that folder. Stops at the first failure and names the cell."""
    import papermill
    folder = Path(out).resolve() / name
    folder.mkdir(parents=True, exist_ok=True)
    parameters = {'run_dir': str(folder / 'model'), **(parameters or {})}
    paths = sorted(Path(notebooks).glob('0*.ipynb'))
    if not paths:
        raise SystemExit(f'no notebooks in {notebooks}: run this in a clone of the repository, or name their folder with --notebooks')
    begun = time.time()
    for i, path in enumerate(paths):
        known = papermill.inspect_notebook(path)
        strange = [p for p in parameters if p not in known]
        if strange:
            raise SystemExit(f'{path.name} has no parameter {", ".join(strange)}; it has {", ".join(known)}')
        say(f'[{i + 1}/{len(paths)}] {path.stem} …', end=' ', flush=True)
        start = time.time()
        try:
            papermill.execute_notebook(path, folder / path.name, parameters, cwd=str(folder), kernel_name='python3',
                                       progress_bar=False, extra_arguments=['--log-level=50'])
        except papermill.PapermillExecutionError as error:
            raise SystemExit(f'stopped: {path.name}, cell {error.exec_count}: {error.ename}: {error.evalue}\n'
                             f'The notebook with the whole message: {folder / path.name}') from None
        say(f'{time.time() - start:.0f} s', flush=True)
    bind(folder)
    say(f'done in {(time.time() - begun) / 60:.1f} minutes. Open {folder / "index.html"}')
    return folder


def bind(folder):
    """index.html: the results of the run, then all notebooks as one page; results.csv beside it."""
    import nbformat
    from nbconvert import HTMLExporter
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(_results(folder))])
    for path in sorted(folder.glob('0*.ipynb')):
        book.cells += nbformat.read(path, 4).cells
    for i, cell in enumerate(book.cells):
        cell['id'] = f'cell-{i}'
    body, _ = HTMLExporter(embed_images=True, exclude_input_prompt=True, exclude_output_prompt=True).from_notebook_node(
        book, {'metadata': {'name': 'GLSCL, the walkthrough'}})
    (folder / 'index.html').write_text(body, encoding='utf-8')


def _results(folder):
    """A markdown page head with what 04 measured; also written as results.csv."""
    path = folder / 'model' / 'result.json'
    lines = ['# GLSCL, the walkthrough', f'Run `{html.escape(folder.name)}`, {datetime.date.today().isoformat()}.', '']
    if path.exists():
        result = json.loads(path.read_text(encoding='utf-8'))
        keys = ('R@1', 'R@5', 'R@10', 'R@50', 'MdR', 'MnR')
        rows = [(d, *(f'{result["metrics"][d][k]:.1f}' for k in keys)) for d in ('t2v', 'v2t')]
        lines += [f'Measured here on the test split of `shapes` ({result["hardware"]}, seed {result["seed"]}):', '',
                  '| direction | ' + ' | '.join(keys) + ' |', '|' + '---|' * 7, *('| ' + ' | '.join(r) + ' |' for r in rows)]
        (folder / 'results.csv').write_text('direction,' + ','.join(keys) + '\n' + ''.join(','.join(r) + '\n' for r in rows))
    return '\n'.join(lines)


def main(argv=None):
    """Run the six notebooks in order; results and one HTML page land in runs/NAME."""
    parser = argparse.ArgumentParser(prog='glscl walkthrough', description=main.__doc__)
    parser.add_argument('--name', default=datetime.datetime.now().strftime('%Y%m%d-%H%M'))
    parser.add_argument('--profile', default='small')
    parser.add_argument('--notebooks', default=REPOSITORY_NOTEBOOKS)
    parser.add_argument('--out', default='runs')
    parser.add_argument('-p', nargs=2, action='append', default=[], metavar=('NAME', 'VALUE'), help='a parameter of all six notebooks')
    args = parser.parse_args(argv)
    import yaml
    parameters = {'profile': args.profile, **{k: yaml.safe_load(v) for k, v in args.p}}
    run(args.name, args.notebooks, args.out, parameters)


if __name__ == '__main__':
    sys.exit(main())
