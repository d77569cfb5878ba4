"""Many runs of the notebooks with other settings and seeds: in parallel, resumable, one table.

    glscl sweep data/sweeps/ablations.yaml --jobs 2

With `in_process: true` runs are taken one after the other without a notebook, by `in_process`; else
each run is a kernel of its own, driven by papermill, which gets those cells of 04 and 05 alone that
are tagged `run`. A run that has its run.json is finished and is left as it is; the same command
goes on with the rest, whatever ended the one before.

Results, in memory and as JSON, are dict(data, spec, text_to_video, runs, failed): what all runs
have in common once, and of each run its name, seed, parameters and all that its notebooks stored
(05's evaluation.json over 04's result.json); of a failed one its name, seed and error."""
import contextlib
import itertools
import json
import logging
import os
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from unittest.mock import patch

from .. import heads
from ..config import SETTINGS, refuse_unknown
from ..notebook import REPOSITORY_NOTEBOOKS, begin
from ..runtime.files import atomic_write, read_yaml
from ..runtime.records import read_json
from . import in_process, tables

NOTEBOOKS = ('04_training', '05_evaluation')
KEYS = ('base', 'seeds', 'variants', 'one_at_a_time', 'tune', 'baseline', 'notebooks',
        'keep_models', 'in_process')
# What decides whether a model can be built.
SIZES = ('head', 'clip', 'clip_pretrained', 'temporal', 'temporal_layers', 'max_frames',
         'max_words')
GIVEN = ('seed', 'run_dir')  # parameters that come from here, not from the sweep file
MODELS = ('last.pt', 'best.safetensors')


def sweep(file, out=None, jobs=2, results=None):
    """Run what a sweep file asks for and is not yet finished; print and draw the table.

    file: a YAML file (see `expand`). out: where each run has its folder, and the table, the chart
    and all results lie (default: runs/sweeps/ and the name of the file). jobs: runs at a time.
    results: another file for the results, written at the end; one that holds more finished runs is
    not replaced (ValueError). Returns 0, or 1 if a run failed."""
    spec = read_yaml(file)
    out = Path(out or f'runs/sweeps/{Path(file).stem}')
    try:
        found = run(spec, out, jobs, partial(print, flush=True))
    except KeyboardInterrupt as stop:
        print('stopped; the same command goes on', flush=True)
        os._exit(getattr(stop, 'status', 130))  # the kernels end with this process
    report(found, out)
    for one in found['failed']:
        print(f'failed: {one["name"]}, seed {one["seed"]}: {one["error"]}')
    if results:
        tables.save(results, dict(command=f'glscl sweep {file}', **found))
    return 1 if found['failed'] else 0


def expand(spec, best=None):
    """The runs that a sweep file asks for, seed by seed: a list of dict(name, seed, parameters).

    spec: a dict with `base` (parameters of every run), `seeds`, `variants` ({name: what it changes,
    perhaps with `seeds` of its own}) or `one_at_a_time` ({parameter: values}), or both. A list of
    `captions` among the parameters has each model evaluated on these sets; tables show the first.

    `tune` ({parameter: values}) has each variant try these values with its first seed, and go on
    with the others at the value of the best validation R@1, once that is known: best {variant:
    {parameter: value}}. Each run then tells its `variant` and the values `tuned`.

    `notebooks`, `keep_models` and `in_process` are for `run`, `baseline` (a variant) for `report`.
    Unknown keys and names that collide raise ValueError."""
    refuse_unknown(spec, KEYS, 'the sweep file')
    for key in ('base', 'variants', 'one_at_a_time', 'tune'):
        if not isinstance(spec.get(key) or {}, dict):
            raise ValueError(f'{key} holds names and what they stand for, not {spec[key]!r}')
    tune, runs, names = spec.get('tune') or {}, [], {}
    points = itertools.product(*(_listed(tune, key) for key in tune))  # without any: one, empty
    points = [dict(zip(tune, values)) for values in points]
    for (variant, changes), point in itertools.product(_variants(spec), points):
        name = ', '.join([variant, *(f'{key}={value}' for key, value in point.items())])
        seeds = _listed({'seeds': [0], **spec, **changes}, 'seeds')
        parameters = {**(spec.get('base') or {}), **changes, **point}
        parameters.pop('seeds', None)
        known = not tune or (best or {}).get(variant) == point
        for turn, seed in enumerate(seeds if known else seeds[:1]):
            one = dict(name=name, seed=seed, parameters=parameters)
            if tune:
                one.update(variant=variant, tuned=point)
            runs.append((turn, one))
            other = names.setdefault(folder_of(one).lower(), one)
            if other is not one:
                raise ValueError(f'{one["name"]!r} and {other["name"]!r}, seed {seed}, would share '
                                 f'the folder {folder_of(one)}: rename one')
    return [one for _, one in sorted(runs, key=lambda run: run[0])]  # all first seeds come first


def _variants(spec):
    """[(name, what it changes)]"""
    alone = spec.get('one_at_a_time') or {}
    found = [(str(name), changes or {}) for name, changes in (spec.get('variants') or {}).items()]
    found += [(f'{key}={value}', {key: value}) for key in alone for value in _listed(alone, key)]
    if not found:
        raise ValueError('nothing to run: give variants or one_at_a_time '
                         '(for the base alone `variants: {base: {}}`)')
    return found


def _listed(where, key):
    if not isinstance(where[key], list) or not where[key]:
        raise ValueError(f'{key} takes a list of values, not {where[key]!r}')
    return where[key]


def folder_of(run):
    """The name of a run's folder: its own, made safe for every file system, and its seed."""
    return re.sub(r'[^\w.=+-]+', '_', run['name']) + f'-{run["seed"]}'


def check(runs, notebooks=NOTEBOOKS):
    """Refuse (ValueError) parameters that neither the notebooks nor Config know, and settings that
    cannot be. notebooks: names of the repository's, or paths. Returns [(path, its parameters)]."""
    import papermill
    found, built = [], set()
    for name in notebooks:
        path = Path(name)
        if path.suffix != '.ipynb':
            path = REPOSITORY_NOTEBOOKS / f'{name}.ipynb'
        if not path.is_file():
            raise ValueError(f'{path}: no such notebook. Run this in a clone of the repository, or '
                             f'name notebooks by their paths')
        found.append((path, list(papermill.inspect_notebook(path))))
    known = [name for _, names in found for name in names if name not in GIVEN]
    known = list(dict.fromkeys([*known, *SETTINGS]))
    for one in runs:
        name, parameters = one['name'], one['parameters']
        refuse_unknown(parameters, known, f'parameters of {name!r}')
        captions = parameters.get('captions')
        if isinstance(captions, list) and ('all' in captions or not captions):
            raise ValueError(f'{name!r}: a list of captions names sets of one caption a video')
        lesson = ('profile', 'device', 'data_dir', *SETTINGS)
        try:
            config = begin(seed=one['seed'],
                           **{k: v for k, v in parameters.items() if k in lesson}).config
            sizes = tuple(getattr(config, key) for key in SIZES)
            if sizes not in built:  # what training would refuse after the data are there
                heads.build(config).check_lengths()
                built.add(sizes)
        except ValueError as error:
            raise ValueError(f'{name!r}: {error}') from None
    return found


def run(spec, out, jobs=2, say=print):
    """Do what of a sweep is not yet finished in the folder `out`, `jobs` runs at a time.

    Returns its results (above), which are in out/results.json after each run, too. A run.json that
    was made with other parameters, and a folder where another sweep is writing, raise ValueError.
    say: gets a line as each run ends."""
    from filelock import FileLock, Timeout
    logging.getLogger('papermill').setLevel(logging.ERROR)  # it warns of what no cell names
    jobs = 1 if spec.get('in_process') else max(1, jobs)  # one process has one generator
    state = _Sweep(spec, Path(out).resolve(), jobs, say)
    share = str(max(1, (os.cpu_count() or 1) // state.jobs))  # of the cores, for each kernel
    threads = dict(OMP_NUM_THREADS=share, MKL_NUM_THREADS=share)
    state.out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(state.out / '.lock', timeout=0), patch.dict(os.environ, threads):
            state.do(state.runs)
            if spec.get('tune'):
                tried = state.runs
                state.choose()
                state.do([one for one in state.runs if one not in tried])
    except Timeout:
        raise ValueError(f'another sweep is writing to {out}: wait for it, or name another '
                         f'folder') from None
    return state.write()


class _Sweep:
    """How far a sweep has come: its runs, which of them are done, and which failed."""

    def __init__(self, spec, out, jobs, say):
        self.spec, self.out, self.jobs, self.say = spec, out, jobs, say
        self.runs = expand(spec)
        self.notebooks = []
        if spec.get('in_process'):
            in_process.check(self.runs)
        else:
            self.notebooks = check(self.runs, spec.get('notebooks', NOTEBOOKS))
        self.done = {}    # name of its folder -> what its run.json says
        self.failed = []
        self.best = {}    # variant -> the values that are tuned

    def do(self, runs):
        """Those of `runs` that are not yet finished."""
        stored = {folder_of(one): _stored(self.out, one) for one in runs}
        self.done.update({folder: found for folder, found in stored.items() if found})
        waiting = [one for one in runs if folder_of(one) not in self.done]
        self.say(f'{len(runs)} runs, {len(runs) - len(waiting)} of them there already, '
                 f'{self.jobs} at a time, in {self.out}')
        pool, seconds = ThreadPoolExecutor(self.jobs), []
        keep = self.spec.get('keep_models', False)
        try:
            attempts = {pool.submit(attempt, one, self.out, self.notebooks, keep): one
                        for one in waiting}
            for ended in as_completed(attempts):
                one, result = attempts[ended], ended.result()
                seconds.append(result['seconds'])
                left = len(waiting) - len(seconds)
                minutes = sum(seconds) / len(seconds) * left / self.jobs / 60
                outcome = 'done'
                if 'error' in result:
                    outcome = f'failed: {result["error"]}'
                    self.failed.append(
                        dict(name=one['name'], seed=one['seed'], error=result['error']))
                else:
                    self.done[folder_of(one)] = result
                    if 'metrics' in result:
                        outcome = f'R@1 {result["metrics"]["t2v"]["R@1"]:.1f}'
                self.say(f'[{len(runs) - left}/{len(runs)}] {one["name"]}, seed {one["seed"]}: '
                         f'{outcome}, {seconds[-1]:.0f} s; about {minutes:.0f} min left')
                self.write()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def finished(self):
        """What the finished runs say, in the order in which they were asked for."""
        return [self.done[folder_of(one)] for one in self.runs if folder_of(one) in self.done]

    def choose(self):
        """Take of each variant the values with the best validation R@1, of two alike the first
        listed, and add the runs of its other seeds with them."""
        for one in sorted(self.finished(), key=lambda one: -one['validation']):
            self.best.setdefault(one['variant'], one['tuned'])
        self.runs = expand(self.spec, self.best)

    def write(self):
        """Write what is finished so far as results.json; returns it."""
        runs, owner = [dict(one) for one in self.finished()], None
        videos = [one['metrics']['v2t']['queries'] for one in runs if 'metrics' in one][:1]
        for one in runs:
            owner = one.pop('text_to_video', owner)
            if self.best:
                one['final'] = self.best[one['variant']] == one['tuned']
                if not one['final']:
                    one.pop('ranks', None)  # of a trial its recalls are enough
        dataset = (self.spec.get('base') or {}).get('dataset', 'shapes')
        about = ', '.join([dataset, *(f'{n} test videos' for n in videos)])
        results = dict(data=about, spec=self.spec, text_to_video=owner, runs=runs,
                       failed=self.failed)
        with atomic_write(self.out / 'results.json') as half:
            half.write_text(json.dumps(results) + '\n', encoding='utf-8')
        return results


def _stored(out, run):
    """What the run.json of a finished run says, None if it is not finished."""
    path = out / folder_of(run) / 'run.json'
    if not path.is_file():
        return None
    anew = 'Delete its folder to run it again.'
    stored = read_json(path, remedy=anew)
    if not isinstance(stored.get('parameters'), dict):
        raise ValueError(f'{path} does not tell the parameters of its run. {anew}')
    there, wanted, absent = stored['parameters'], run['parameters'], 'not given'
    differ = [f'{key}: {there.get(key, absent)!r} there, {wanted.get(key, absent)!r} wanted'
              for key in {**there, **wanted} if there.get(key) != wanted.get(key)]
    if differ:
        raise ValueError(f'{path} was made with other parameters ({"; ".join(differ)}): delete its '
                         f'folder to run it again, or name another --out')
    return stored


def attempt(run, out, notebooks, keep_models=False):
    """One run from an empty folder: what its run.json says, or dict(error, seconds).

    Nothing that happens in it gets out, so that the other runs go on."""
    start, folder = time.time(), out / folder_of(run)
    captions = run['parameters'].get('captions')
    sets = captions if isinstance(captions, list) else [captions]
    at = folder
    try:
        if folder.exists():
            shutil.rmtree(folder)  # what a failed or killed attempt left
        folder.mkdir()
        if not notebooks:
            return in_process.attempt(run, folder)
        for path, names in notebooks:
            at = folder / path.name
            _execute(path, at, names, run, sets[0])
        result = _read(folder)
        again = [(path, names) for path, names in notebooks if 'captions' in names]
        for captions, (path, names) in itertools.product(sets[1:], again):
            at = folder / path.name
            _execute(path, at, names, run, captions)
            found = {key: _read(folder).get(key) for key in ('metrics', 'by_kind', 'ranks')}
            result.setdefault('more_captions', {})[captions] = found
        if not keep_models:
            for name in MODELS:
                (folder / 'model' / name).unlink(missing_ok=True)
        result = {**result, **run, 'seconds': round(time.time() - start, 1)}
        with atomic_write(folder / 'run.json') as half:
            half.write_text(json.dumps(result), encoding='utf-8')
        return result
    except Exception as error:  # whatever it is
        what = f'{getattr(error, "ename", type(error).__name__)}: {getattr(error, "evalue", error)}'
        where = f'{at.stem}{_cell(at)}: {what}'
        with contextlib.suppress(OSError):
            (folder / 'error.txt').write_text(f'{where}\n', encoding='utf-8')
        return dict(error=where[:300], seconds=time.time() - start)


def _read(folder):
    """What the notebooks of a run have stored, the later over the earlier."""
    parts = [folder / 'model' / name for name in ('result.json', 'evaluation.json')]
    found = [json.loads(part.read_text(encoding='utf-8')) for part in parts if part.is_file()]
    return {key: value for part in found for key, value in part.items()}


def _execute(path, target, names, run, captions):
    """One notebook in the run's folder, with those parameters that it takes.

    target: where the executed copy goes. names: what its parameters cell names; one that is given
    its run_dir takes every setting besides. Where cells are tagged `run`, only they are run."""
    import nbformat
    import papermill
    book = nbformat.read(path, 4)
    tags = [set(cell.metadata.get('tags', [])) for cell in book.cells]
    if any('run' in of_cell for of_cell in tags):
        book.cells = [cell for cell, of_cell in zip(book.cells, tags)
                      if {'run', 'parameters'} & of_cell]
    nbformat.write(book, target)
    given = {**run['parameters'], 'seed': run['seed'], 'run_dir': str(target.parent / 'model')}
    if captions:
        given['captions'] = captions
    takes = {*names, *(SETTINGS if 'run_dir' in names else ())}
    papermill.execute_notebook(
        target, target, {key: value for key, value in given.items() if key in takes},
        kernel_name='python3', progress_bar=False, extra_arguments=['--log-level=50'],
        resources={'metadata': {'path': str(target.parent)}}, shutdown_kernel='immediate')


def _cell(path):
    """How far an executed notebook came, as words for a message."""
    with contextlib.suppress(OSError, ValueError):
        cells = json.loads(path.read_text(encoding='utf-8'))['cells']
        reached = [cell['id'] for cell in cells
                   if cell['metadata'].get('papermill', {}).get('status', 'pending') != 'pending']
        return f', cell {reached[-1]}' if reached else ''
    return ''


def report(results, out):
    """The table of all variants, printed and as results.csv in the folder `out`; each beside the
    baseline, where there is such a one, also as results.png."""
    runs, owner = [r for r in results['runs'] if 'ranks' in r], results['text_to_video']
    if not runs:
        return  # notebooks of one's own may leave no ranks
    baseline = results['spec'].get('baseline', 'full')
    found = tables.table(runs, owner, baseline)
    print(found.to_string(index=False))
    with atomic_write(out / 'results.csv') as half:
        found.to_csv(half, index=False)
    print(f'also as {out / "results.csv"}')
    compared = tables.differences(runs, owner, baseline)
    if len(compared):
        import matplotlib.pyplot as plt

        from ..plots import forest
        forest(compared, baseline)
        with atomic_write(out / 'results.png') as half:
            plt.savefig(half, format='png', dpi=120, bbox_inches='tight')
        plt.close()
        print(f'and {out / "results.png"}')
