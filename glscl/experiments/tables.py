"""What the stored runs of a sweep say, as tables.

A run is a dict with its `name`, `seed`, `parameters`, `ranks` and what else its notebooks stored;
see `sweep.run`. Runs of one name, over seeds, are one row. `owner` [T] int is the video of each
caption: captions of one video are no independent queries (`significance.hits`)."""
import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd

from ..config import data_path
from ..runtime.files import atomic_write
from ..runtime.records import read_json
from . import significance

MAIN = ('mean pooling', 'global only', 'local only', 'full')
CAPTIONS = ('one', 'scene', 'order')
MEASURES = ('t2v R@1', 't2v R@5', 't2v R@10', 'v2t R@1')
RECALLS = ('t2v R@1', 't2v R@5', 't2v R@10', 'v2t R@1', 'v2t R@5', 'v2t R@10')

# A setting, perhaps with its value -> what it is about. The first that a variant changes decides.
THEMES = {
    'pooling': 'modules', 'global_weight': 'modules', 'local_weight=0': 'modules',
    'consistency': 'losses', 'diversity_weight=0': 'losses',
    'num_queries': 'queries, Q', 'decoder_layers': 'decoder layers',
    'share_queries': 'sharing', 'share_decoder': 'sharing',
    'temperature': 'temperature, τ', 'local_weight': 'local module, λ',
    'diversity_weight': 'intra-diversity, α', 'consistency_weight': 'inter-consistency, β',
    'max_frames': 'frames, F', 'mask_padding': 'as released', 'diversity_sides': 'as released',
    'released_losses': 'as released', 'released': 'as released'}


def stored(name):
    """The runs in data/results/NAME.json: (runs, owner), owner None where it does not tell.

    Without that file ([], None), and the command that makes it is printed."""
    try:
        whole = read_results(data_path(f'results/{name}.json'))
    except FileNotFoundError:
        print(f'no results yet; they are made by `glscl sweep data/sweeps/{name}.yaml '
              f'--results runs/results/{name}.json`, which then goes into data/results')
        return [], None
    return whole['runs'], whole['text_to_video']


def read_results(path):
    """The results of a sweep in a JSON file; ValueError where it holds anything else."""
    whole = read_json(path, remedy='Name another file, or run the sweep again.')
    runs = whole.get('runs')
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in runs):
        raise ValueError(f'{path} holds no results of a sweep: name another file')
    return whole


def save(path, results):
    """Write the results of a sweep as JSON; ValueError where `path` holds finished runs that they
    lack, or anything else."""
    if Path(path).exists():
        there, now = read_results(path)['runs'], results['runs']
        if len(there) > len(now):
            raise ValueError(f'{path} holds {len(there)} finished runs, more than the '
                             f'{len(now)} that would replace them: name another file')
        lost = {_which(run) for run in there} - {_which(run) for run in now}
        if lost:
            raise ValueError(f'{path} holds finished runs that would be lost, such as '
                             f'{min(lost)}: name another file')
    with atomic_write(path) as half:  # without blanks: most of it is ranks
        half.write_text(json.dumps(results, separators=(',', ':')) + '\n', encoding='utf-8')


def _which(run):
    return f'{run.get("name")}, seed {run.get("seed")}'


def on_captions(runs, captions):
    """The same runs as they did on another set of test captions that they were asked."""
    chosen = []
    for run in runs:
        more = {} if captions == run['captions'] else run['more_captions'][captions]
        chosen.append({**run, **more, 'captions': captions})
    return chosen


def variants(runs):
    """{name: its runs}; of a variant whose setting was tuned only those at the value chosen."""
    groups = {}
    for run in runs:
        if run.get('final', True):
            groups.setdefault(run.get('variant', run['name']), []).append(run)
    return groups


def changes(groups, baseline='full'):
    """{name: {parameter: value}}: where a variant's parameters are not the baseline's.

    Without a baseline all of its parameters."""
    start = groups[baseline][0]['parameters'] if baseline in groups else {}
    changed = {}
    for name, runs in groups.items():
        changed[name] = {key: value for key, value in runs[0]['parameters'].items()
                         if key not in start or start[key] != value}
    return changed


def theme(changed):
    """What a variant's changes are about: one of THEMES, or 'other'."""
    numbers = {key: value for key, value in changed.items() if isinstance(value, (int, float))}
    given = {*changed, *(f'{key}={value:g}' for key, value in numbers.items())}
    return next((about for key, about in THEMES.items() if key in given), 'other')


def by_theme(groups, baseline='full'):
    """The groups in the order of THEMES, the baseline first."""
    order = [*dict.fromkeys(THEMES.values()), 'other']
    changed = changes(groups, baseline)
    place = {name: order.index(theme(changed[name])) for name in groups} | {baseline: -1}
    return {name: groups[name] for name in sorted(groups, key=place.get)}


def values(runs, measure='t2v R@1'):
    """One number a run, from its ranks. measure: a direction, and R@k in percent, MdR or MnR."""
    direction, name = measure.split()
    ranks = [np.asarray(run['ranks'][direction]) for run in runs]
    if name in ('MdR', 'MnR'):
        middle = np.median if name == 'MdR' else np.mean
        return [float(middle(rank)) for rank in ranks]
    k = int(name.removeprefix('R@'))
    return [100 * int((rank <= k).sum()) / len(rank) for rank in ranks]


def each_seed(runs, measure='t2v R@1'):
    """{name: one number a seed}; measure: see `values`."""
    return {name: values(of_name, measure) for name, of_name in variants(runs).items()}


def recalls(runs, owner=None, k=1, direction='t2v'):
    """{name: dict(mean, sd, low, high)} of R@k in percent, by `significance.recall`."""
    return {name: significance.recall(of_name, k, direction, owner)
            for name, of_name in variants(runs).items()}


def table(runs, owner=None, baseline='full', measures=MEASURES, show=None):
    """One row a variant, for people: what it changes, mean ± standard deviation over its seeds,
    and its t2v R@1 beside the baseline's, alone and after Holm's correction.

    With a baseline, rows are by theme; without one as they come, and nothing is compared. show:
    parameters that get a column each in place of the column `changes`. Returns a DataFrame."""
    groups = variants(runs)
    if baseline in groups:
        groups = by_theme(groups, baseline)
    changed = changes(groups, baseline)
    rows = []
    for name, of_name in groups.items():
        row = {'variant': name}
        if show is None:
            row['changes'] = ', '.join(f'{k}={v}' for k, v in changed[name].items()) or '–'
        for parameter in show or ():
            row[parameter] = str(of_name[0]['parameters'].get(parameter, '–'))
        row['seeds'] = len(of_name)
        for measure in measures:
            row[measure] = _mean_and_sd(values(of_name, measure))
        rows.append(row)
    found = pd.DataFrame(rows)
    if baseline in groups:
        compared = significance.differences(groups, baseline, owner).reindex(found['variant'])
        cells = [_with_interval(d) if name != baseline else '–' for name, d in compared.iterrows()]
        found[f't2v R@1 − {baseline}'] = cells
        found['reading'] = compared['reading'].tolist()
        found['after Holm'] = compared['after_holm'].tolist()
    return found.fillna('–')


def _mean_and_sd(numbers):
    sd = np.std(numbers, ddof=1) if len(numbers) > 1 else 0
    return f'{np.mean(numbers):.1f} ± {sd:.1f}'


def _with_interval(found):
    return f'{found["difference"]:+.1f} ({found["low"]:.1f} to {found["high"]:.1f})'


def differences(runs, owner=None, baseline='full'):
    """Every variant against the baseline by `significance.differences`, with its `theme`.

    A DataFrame in the order of themes; without a baseline it has no rows."""
    groups = variants(runs)
    groups = by_theme(groups, baseline) if baseline in groups else {}
    found = significance.differences(groups, baseline, owner)
    changed = changes(groups, baseline)
    return found.assign(theme=[theme(changed[name]) for name in found.index])


def pairs(runs, owner=None, k=1, direction='t2v'):
    """R@k of each pair of variants: the difference in points with its 95 % interval, and what it
    tells. A DataFrame; later variants are compared with earlier ones."""
    rows, groups = [], variants(runs)
    for a, b in itertools.combinations(reversed(groups), 2):
        found = significance.difference(groups[a], groups[b], k, direction, owner)
        better = {'higher': f'{a} is better', 'lower': f'{b} is better'}
        rows.append({'compared': f'{a} − {b}', f'R@{k} difference': round(found['difference'], 1),
                     'low': round(found['low'], 1), 'high': round(found['high'], 1),
                     'reading': better.get(found['reading'], found['reading'])})
    return pd.DataFrame(rows)


def freezing(frozen, tuned):
    """What freezing CLIP costs, a row a variant: recalls of both, their difference at R@1 with its
    95 % interval, and the core-seconds of training (seconds times threads). A DataFrame."""
    rows, tuned = [], variants(tuned)
    for name, runs in variants(frozen).items():
        if name not in tuned:
            continue
        both = {'frozen': runs, 'fine-tuned': tuned[name]}
        row = {'variant': name}
        for measure in ('t2v R@1', 't2v R@10'):
            for label, of_one in both.items():
                row[f'{measure}, {label}'] = _mean_and_sd(values(of_one, measure))
        found = significance.difference(runs, tuned[name])
        row |= {'difference': _with_interval(found), 'reading': found['reading']}
        for label, of_one in both.items():
            seconds = np.mean([run['train_seconds'] * run['threads'] for run in of_one])
            row[f'core-seconds, {label}'] = round(seconds)
        rows.append(row)
    return pd.DataFrame(rows)
