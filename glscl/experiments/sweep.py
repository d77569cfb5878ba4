"""Many runs of the notebooks with other parameters and seeds: in parallel, resumable, with one table at the end.

    python -m glscl.experiments.sweep data/sweeps/ablations.yaml --jobs 2

Each run is one kernel of its own, driven by papermill, which gets the cells of 04 and 05 that are tagged `run`
alone. A run that has its run.json is finished and is left as it is; the same command goes on with the rest, whatever ended
the one before."""
import argparse
import contextlib
import dataclasses
import difflib
import itertools
import json
import logging
import os
import queue
import re
import shutil
import sys
import threading
import time
from collections import deque
from functools import partial
from pathlib import Path

import yaml

from ..checkpoints import atomic
from ..config import Config
from ..notebook import REPOSITORY_NOTEBOOKS, begin
from . import ablations

NOTEBOOKS = ('04_training', '05_evaluation')
KEYS = ('notebooks', 'base', 'seeds', 'variants', 'grid', 'one_at_a_time', 'keep_models')
OURS = ('seed', 'run_dir')  # parameters that the runner gives
MODELS = ('last.pt', 'best.safetensors')


def expand(spec):
    """The runs that a sweep file asks for, seed by seed: a list of dict(name, seed, parameters).

    spec: dict with `base` (parameters of every run), `seeds`, and at least one of `variants` ({name: what it changes, perhaps
    with `seeds` of its own}), `grid` ({parameter: values}: all combinations) and `one_at_a_time` (likewise: each alone);
    `notebooks` and `keep_models` are for `run`. Unknown keys and names that meet raise ValueError."""
    _refuse(spec, KEYS, 'the sweep file')
    for key in ('base', 'variants', 'grid', 'one_at_a_time'):
        if not isinstance(spec.get(key) or {}, dict):
            raise ValueError(f'{key} holds names and what they stand for, not {spec[key]!r}')
    grid, alone = spec.get('grid') or {}, spec.get('one_at_a_time') or {}
    points = [dict(zip(grid, values)) for values in itertools.product(*(_listed(grid, key) for key in grid))] if grid else []
    points += [{key: value} for key in alone for value in _listed(alone, key)]
    variants = [(str(name), dict(changes or {})) for name, changes in (spec.get('variants') or {}).items()]
    variants += [(', '.join(f'{key}={value}' for key, value in point.items()), point) for point in points]
    if not variants:
        raise ValueError('nothing to run: give variants, grid or one_at_a_time (for the base alone `variants: {base: {}}`)')
    runs, places = [], {}
    for name, changes in variants:
        for turn, seed in enumerate(_listed({'seeds': [0], **spec, **changes}, 'seeds')):
            parameters = {**(spec.get('base') or {}), **{k: v for k, v in changes.items() if k != 'seeds'}}
            runs.append((turn, dict(name=name, seed=seed, parameters=parameters)))
            place = folder_of(runs[-1][1]).lower()
            if place in places:
                raise ValueError(f'{name!r} and {places[place]!r}, seed {seed}, would share the folder {place}: rename one')
            places[place] = name
    return [run for _, run in sorted(runs, key=lambda r: r[0])]  # every variant has its first seed before any has its second


def _listed(where, key):
    if not isinstance(where[key], list) or not where[key]:
        raise ValueError(f'{key} takes a list of values, not {where[key]!r}')
    return where[key]


def _refuse(given, known, source):
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            raise ValueError(f'{source}: unknown key {key!r}' + (f'; did you mean {near[0]!r}?' if near else '')
                             + f' Known: {", ".join(known)}')


def folder_of(run):
    """The name of a run's folder: its own name, made safe for every file system, and its seed."""
    return re.sub(r'[^\w.=+-]+', '_', run['name']) + f'-{run["seed"]}'


def check(runs, notebooks=NOTEBOOKS):
    """Refuse (ValueError) parameters that neither the notebooks nor Config know, and settings that cannot be.

    Returns [(path, its parameters)] of the notebooks: names of the repository's, or paths."""
    import papermill
    found, fields = [], [f.name for f in dataclasses.fields(Config)]
    for name in notebooks:
        path = Path(name) if str(name).endswith('.ipynb') else REPOSITORY_NOTEBOOKS / f'{name}.ipynb'
        if not path.is_file():
            raise ValueError(f'{path}: no such notebook. Run this in a clone of the repository, or name notebooks by their paths')
        found.append((path, list(papermill.inspect_notebook(path))))
    known = list(dict.fromkeys(name for _, names in [*found, ('', fields)] for name in names if name not in OURS))
    lesson = ('profile', 'device', 'data_dir', *fields)
    for run in runs:
        _refuse(run['parameters'], known, f'parameters of {run["name"]!r}')
        if not isinstance(run['seed'], int):
            raise ValueError(f'seeds of {run["name"]!r} are whole numbers, not {run["seed"]!r}')
        try:
            begin(seed=run['seed'], **{k: v for k, v in run['parameters'].items() if k in lesson})
        except ValueError as error:
            raise ValueError(f'{run["name"]!r}: {error}') from None
    return found


def run(runs, out, jobs=2, notebooks=NOTEBOOKS, keep_models=False, say=print, after=None):
    """Do what of `runs` (see `expand`) is not yet finished in the folder `out`, `jobs` at a time.

    Returns (finished, failed): the run.json of each finished run in the order of `runs`, and each failed run with its `error`.
    after: called with both lists when a run has ended. A run.json made with other parameters raises ValueError."""
    from filelock import FileLock, Timeout
    logging.getLogger('papermill').setLevel(logging.ERROR)  # it warns of settings that no parameters cell names
    notebooks, out = check(runs, notebooks), Path(out).resolve()
    out.mkdir(parents=True, exist_ok=True)
    done = {folder_of(r): kept for r in runs if (kept := _kept(out, r))}
    waiting, ended, failed, seconds = deque(r for r in runs if folder_of(r) not in done), queue.Queue(), [], []
    left, jobs = len(waiting), max(1, jobs)
    say(f'{len(runs)} runs, {len(done)} of them there already, {jobs} at a time, in {out}')

    def finished():
        return [done[folder_of(r)] for r in runs if folder_of(r) in done]

    def work():
        while waiting:
            with contextlib.suppress(IndexError):  # another thread took the last one
                one = waiting.popleft()
                ended.put((one, _attempt(one, out / folder_of(one), notebooks, keep_models)))
    try:
        with FileLock(out / '.lock', timeout=0), _threads_each(jobs):
            for _ in range(min(jobs, left)):
                threading.Thread(target=work, daemon=True).start()  # a daemon: Ctrl-C need not wait for it
            while left:
                one, result = ended.get()
                left -= 1
                seconds.append(result['seconds'])
                if 'error' in result:
                    failed.append({**one, **result})
                    told = f'failed: {result["error"]}'
                else:
                    done[folder_of(one)] = result
                    told = f'R@1 {result["metrics"]["t2v"]["R@1"]:.1f}' if 'metrics' in result else 'done'
                say(f'[{len(runs) - left}/{len(runs)}] {one["name"]}, seed {one["seed"]}: {told}, {seconds[-1]:.0f} s; about '
                    f'{sum(seconds) / len(seconds) * left / jobs / 60:.0f} min left')
                if after:
                    after(finished(), failed)
    except Timeout:
        raise ValueError(f'another sweep is writing to {out}: wait for it, or name another folder') from None
    finally:
        waiting.clear()
    return finished(), failed


@contextlib.contextmanager
def _threads_each(jobs):
    """Kernels that start within it compute with their share of the cores."""
    names = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(max(1, (os.cpu_count() or 1) // jobs))))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _kept(out, run):
    """The run.json of a finished run, None if it is not finished."""
    path = out / folder_of(run) / 'run.json'
    if not path.is_file():
        return None
    kept, wanted = json.loads(path.read_text(encoding='utf-8')), run['parameters']
    differ = [f'{k}: {kept["parameters"].get(k, "not given")!r} there, {wanted.get(k, "not given")!r} wanted'
              for k in {**kept['parameters'], **wanted} if kept['parameters'].get(k) != wanted.get(k)]
    if differ:
        raise ValueError(f'{path} was made with other parameters ({"; ".join(differ)}): delete its folder to run it again, '
                         f'or name another --out')
    return kept


def _attempt(run, folder, notebooks, keep_models):
    """One run from an empty folder: its run.json, or dict(error, seconds); nothing that happens in it gets out."""
    start, at = time.time(), folder
    try:
        if folder.exists():
            shutil.rmtree(folder)  # what a failed or killed attempt left
        folder.mkdir()
        for path, names in notebooks:
            at = folder / path.name
            _execute(path, at, names, run, folder)
        parts = [folder / 'model' / name for name in ('result.json', 'evaluation.json')]
        result = {k: v for part in parts if part.is_file() for k, v in json.loads(part.read_text(encoding='utf-8')).items()}
        if not keep_models:
            for name in MODELS:
                (folder / 'model' / name).unlink(missing_ok=True)
        result = {**result, **run, 'seconds': round(time.time() - start, 1)}
        atomic(folder / 'run.json', lambda p: p.write_text(json.dumps(result), encoding='utf-8'))
        return result
    except Exception as error:  # whatever it is, the other runs go on
        what = f'{getattr(error, "ename", type(error).__name__)}: {getattr(error, "evalue", error)}'
        told = f'{at.stem}{_cell(at)}: {what}'
        with contextlib.suppress(OSError):
            (folder / 'error.txt').write_text(f'{told}\n', encoding='utf-8')
        return dict(error=told[:300], seconds=time.time() - start)


def _execute(path, target, names, run, folder):
    """One notebook with those of a run's parameters that it takes, in the run's folder."""
    import nbformat
    import papermill
    book, settings = nbformat.read(path, 4), [f.name for f in dataclasses.fields(Config)]
    if any('run' in _tags(cell) for cell in book.cells):
        book.cells = [cell for cell in book.cells if {'run', 'parameters'} & _tags(cell)]
    takes = names + (settings if 'run_dir' in names else [])
    given = {**run['parameters'], 'seed': run['seed'], 'run_dir': str(folder / 'model')}
    nbformat.write(book, target)
    papermill.execute_notebook(target, target, {k: v for k, v in given.items() if k in takes}, kernel_name='python3',
                               progress_bar=False, resources={'metadata': {'path': str(folder)}},
                               extra_arguments=['--log-level=50'], shutdown_kernel='immediate')


def _tags(cell):
    return set(cell.metadata.get('tags', []))


def _cell(path):
    """How far an executed notebook came, as words for a message."""
    with contextlib.suppress(OSError, ValueError):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        reached = [c['id'] for c in cells if c['metadata'].get('papermill', {}).get('status', 'pending') != 'pending']
        return f', cell {reached[-1]}' if reached else ''
    return ''


def collect(out):
    """The run.json of every finished run in a sweep's folder, by name and seed."""
    runs = [json.loads(path.read_text(encoding='utf-8')) for path in Path(out).glob('*/run.json')]
    return sorted(runs, key=lambda r: (r['name'], r['seed']))


def main(argv=None):
    """Run what a sweep file asks for; exit code 1 if a run failed."""
    parser = argparse.ArgumentParser(prog='glscl sweep', description=main.__doc__)
    parser.add_argument('spec', help='a YAML file, as data/sweeps/ablations.yaml')
    parser.add_argument('--out', help='where each run has its folder (default: runs/sweeps/ and the name of the file)')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time (default 2)')
    parser.add_argument('--results', help='one JSON of all finished runs, written after each')
    args = parser.parse_args(argv)
    try:
        spec = yaml.safe_load(Path(args.spec).read_text(encoding='utf-8'))
        if not isinstance(spec, dict):
            raise ValueError(f'{args.spec} holds no sweep: see data/sweeps/ablations.yaml')
        options = {k: spec[k] for k in ('notebooks', 'keep_models') if k in spec}
        out = Path(args.out or f'runs/sweeps/{Path(args.spec).stem}')
        finished, failed = run(expand(spec), out, args.jobs, **options, say=partial(print, flush=True),
                               after=args.results and partial(_save, args, spec))
    except (ValueError, OSError, yaml.YAMLError) as error:
        raise SystemExit(f'glscl sweep: {error}') from None
    except KeyboardInterrupt:
        print('stopped; the same command goes on', flush=True)
        os._exit(130)  # the kernels end with this process
    if args.results:
        _save(args, spec, finished, failed)
    _report(out, finished, bundle(spec, finished, failed)['text_to_video'])
    for one in failed:
        print(f'failed: {one["name"]}, seed {one["seed"]}: {one["error"]}')
    return 1 if failed else 0


def _report(out, finished, owner):
    """The table of all variants, printed and as results.csv; results.png, each beside `full`, where there is such a one."""
    finished = [r for r in finished if 'ranks' in r]  # notebooks of one's own may leave none
    if not finished:
        return
    found = ablations.table(finished, owner)
    print(found.to_string(index=False))
    found.to_csv(out / 'results.csv', index=False)
    compared = ablations.differences(finished, owner)
    if len(compared):
        import matplotlib.pyplot as plt

        from ..plots import forest
        forest(compared)
        plt.savefig(out / 'results.png', dpi=120, bbox_inches='tight')
        plt.close()
    print(f'also as {out / "results.csv"}' + f' and {out / "results.png"}' * bool(len(compared)))


def _save(args, spec, finished, failed):
    """The whole sweep as one JSON."""
    whole = dict(command=f'python -m glscl.experiments.sweep {args.spec}', **bundle(spec, finished, failed))
    atomic(args.results, lambda p: p.write_text(compact(whole), encoding='utf-8'))


def compact(whole):
    """JSON without blanks: most of it is ranks."""
    return json.dumps(whole, separators=(',', ':')) + '\n'


def bundle(spec, finished, failed):
    """dict(data, spec, text_to_video, runs, failed): what all runs have in common once, and each run without it."""
    owner = next((r['text_to_video'] for r in finished if 'text_to_video' in r), None)
    videos = next((f', {r["metrics"]["v2t"]["queries"]} test videos' for r in finished if 'metrics' in r), '')
    return dict(data=(spec.get('base') or {}).get('dataset', 'shapes') + videos, spec=spec, text_to_video=owner,
                runs=[{k: v for k, v in r.items() if k != 'text_to_video'} for r in finished],
                failed=[{k: r[k] for k in ('name', 'seed', 'error')} for r in failed])


if __name__ == '__main__':
    sys.exit(main())
