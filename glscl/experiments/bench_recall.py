"""Recall of every head of the paper's Figure 1 on one bench: same CLIP, same data, same steps, same search for a rate.

    python -m glscl.experiments.bench_recall --jobs 2

Drives 04 and 05 by papermill (`glscl.sweep`): each head with each rate of data/sweeps/heads.yaml and its first seed, then with
the other seeds at the rate whose validation R@1 was best. The same command goes on where it was stopped, and says how long it
will take. The table of the results: `table`, drawn in 06."""
import argparse
from functools import partial
from pathlib import Path

import pandas as pd
import yaml

from ..checkpoints import atomic
from ..config import data_path
from . import significance as statistics
from . import sweep


def chosen(runs):
    """method -> the rate of its best validation R@1 (of two alike the smaller)."""
    best = {}
    for r in sorted(runs, key=lambda r: (-r['validation'], r['parameters']['lr'])):
        best.setdefault(r['parameters']['head'], r['parameters']['lr'])
    return best


def run(spec, out, jobs=2, say=print, after=None):
    """Both rounds of a sweep file with a grid over head and lr -> (runs, failed): each run with its method, lr, and whether it
    is `final`, at the chosen rate. after: called with both lists when a run has ended."""
    first, *others = spec['seeds']
    options = dict(jobs=jobs, say=say, **{k: spec[k] for k in ('notebooks', 'keep_models') if k in spec})
    trials = sweep.expand({**spec, 'seeds': [first]})

    def told(finished, failed):
        rates = chosen([r for r in finished if r['seed'] == first])
        runs = [dict(r, method=r['parameters']['head'], lr=r['parameters']['lr'],
                     final=r['parameters']['lr'] == rates[r['parameters']['head']]) for r in finished]
        for r in runs:
            if not r['final']:
                del r['ranks']  # of a trial its recalls are enough
        return runs, failed
    say(f'{len(trials)} trials of rates, then {len({r["parameters"]["head"] for r in trials}) * len(others)} runs at the best ones')
    tried, failed = sweep.run(trials, out, **options, after=after and (lambda *both: after(*told(*both))))
    rates = chosen(tried)
    again = [dict(r, seed=seed) for seed in others for r in trials if rates.get(r['parameters']['head']) == r['parameters']['lr']]
    rest, more = sweep.run(again, out, **options, after=after and (lambda done, bad: after(*told(tried + done, failed + bad))))
    return told(tried + rest, failed + more)


def table(runs, owner=None):
    """One row a method, at its chosen rate: a DataFrame; mean ± standard deviation over the seeds, and R@1 beside GLSCL's."""
    final = by_method(runs)
    found = statistics.table(final, 'GLSCL', owner)
    found.insert(0, 'lr', [f'{mine[0]["lr"]:g}' for mine in final.values()])
    return found.rename_axis('method').reset_index()


def summary(runs, owner=None):
    """method -> dict(mean, sd, low, high): t2v R@1 in percent, with the 95 % interval over seeds and queries."""
    return {method: statistics.recall(mine, owner=owner) for method, mine in by_method(runs).items()}


def by_method(runs):
    """method -> its final runs"""
    final = {}
    for r in runs:
        if r['final']:
            final.setdefault(r['method'], []).append(r)
    return final


def main(argv=None):
    """Train and evaluate what is not there yet; print the table, and keep all runs as JSON."""
    parser = argparse.ArgumentParser(prog='python -m glscl.experiments.bench_recall', description=main.__doc__)
    parser.add_argument('spec', nargs='?', default=data_path('sweeps/heads.yaml'))
    parser.add_argument('--out', default='runs/sweeps/heads', help='where each run has its folder')
    parser.add_argument('--jobs', type=int, default=2, help='runs at a time')
    parser.add_argument('--results', default='data/results/heads.json')
    args = parser.parse_args(argv)
    spec = yaml.safe_load(Path(args.spec).read_text(encoding='utf-8'))

    def keep(runs, failed):
        whole = dict(command='python -m glscl.experiments.bench_recall', **sweep.bundle(spec, runs, failed))
        atomic(args.results, lambda p: p.write_text(sweep.compact(whole), encoding='utf-8'))
        return whole
    try:
        runs, failed = run(spec, args.out, args.jobs, partial(print, flush=True), keep)
    except ValueError as error:
        raise SystemExit(f'bench_recall: {error}') from None
    whole = keep(runs, failed)
    with pd.option_context('display.width', 220, 'display.max_columns', None):
        print(table(whole['runs'], whole['text_to_video']).to_string(index=False))
    for one in failed:
        print(f'failed: {one["name"]}, seed {one["seed"]}: {one["error"]}')
    return 1 if failed else 0


if __name__ == '__main__':
    raise SystemExit(main())
