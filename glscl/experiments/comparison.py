"""Mean pooling, global only and full GLSCL on `shapes`: same encoder, same budget, same seeds.

    python -m glscl.experiments.comparison --seeds 0 1 2

Writes data/results/methods.json run by run, and goes on where it stopped. What freezing CLIP costs, its features computed once:

    python -m glscl.experiments.comparison --freeze-clip --out data/results/frozen.json"""
import argparse
import itertools
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd

from ..checkpoints import atomic
from ..config import load_config
from ..datasets.splits import load_shapes
from ..evaluation import evaluate
from ..metrics import ranks
from ..runtime.devices import machine
from ..training import Trainer
from . import significance as statistics

METHODS = {
    'mean pooling': dict(pooling='mean', local_weight=0.0),
    'global only': dict(local_weight=0.0),
    'GLSCL': {},
}
CAPTIONS = ('one', 'scene', 'order')


def measure(method, seed, run_dir=None, data_dir=None, recipe='shapes', **settings):
    """Train one method with one seed (going on where run_dir stopped), evaluate it on the three caption sets of the test split."""
    config = load_config(recipe, **{**settings, **METHODS[method]})
    train, val = (load_shapes(config, split, data_dir=data_dir) for split in ('train', 'val'))
    trainer = Trainer(config, train, val, run_dir, seed)
    trainer.resume()
    model = trainer.run(log=None)
    run = dict(method=method, seed=seed, steps=trainer.total, batch=trainer.batch, train_seconds=round(trainer.seconds),
               settings={**settings, **METHODS[method]}, **machine())
    for captions in CAPTIONS:
        test = load_shapes(config, 'test', captions, data_dir)
        S, metrics = evaluate(model, test)
        run[captions] = dict(metrics=metrics, t2v_ranks=[float(r) for r in ranks(S, test.text_to_video)],
                             v2t_ranks=[float(r) for r in ranks(S.T, test.text_to_video.argsort())])
    return run


def table(runs, captions='one', direction='t2v'):
    """Mean and standard deviation over seeds: a DataFrame, one row a method."""
    rows = []
    for method in METHODS:
        mine = [r[captions]['metrics'][direction] for r in runs if r['method'] == method]
        row = {'method': method, 'seeds': len(mine)}
        for key in ('R@1', 'R@5', 'R@10', 'MdR', 'MnR'):
            values = np.array([m[key] for m in mine])
            row[key] = f'{values.mean():.1f} ± {values.std(ddof=1) if len(values) > 1 else 0:.1f}'
        rows.append(row)
    return pd.DataFrame(rows)


def differences(runs, captions='one', direction='t2v', k=1):
    """R@k of each pair of methods: the difference in points with its 95 % interval, and what it tells.

    Queries and seeds are drawn anew, for both at once (`statistics.difference`)."""
    rows, groups = [], _groups(runs, captions)
    for a, b in itertools.combinations(reversed(METHODS), 2):
        found = statistics.difference(groups[a], groups[b], k, direction)
        verdict = dict(higher=f'{a} is better', lower=f'{b} is better').get(found['reading'], found['reading'])
        rows.append({'compared': f'{a} − {b}', 'captions': captions, f'R@{k} difference': round(found['difference'], 1),
                     'low': round(found['low'], 1), 'high': round(found['high'], 1), 'reading': verdict})
    return pd.DataFrame(rows)


def freezing(frozen, tuned):
    """What freezing CLIP costs, a row a method: R@1 and R@10 of both on the plain test captions, their difference at R@1 with
    its 95 % interval, and the seconds of training times threads (frozen, fine-tuned). A DataFrame."""
    rows, a, b = [], _groups(frozen, 'one'), _groups(tuned, 'one')
    for method in (m for m in METHODS if a[m] and b[m]):
        row = {'method': method}
        for k in (1, 10):
            for name, mine in (('frozen', a[method]), ('fine-tuned', b[method])):
                r = statistics.recall(mine, k)
                row[f't2v R@{k}, {name}'] = f'{r["mean"]:.1f} ± {r["sd"]:.1f}'
        d = statistics.difference(a[method], b[method])
        seconds = (np.mean([r['train_seconds'] * r['threads'] for r in runs if r['method'] == method]) for runs in (frozen, tuned))
        rows.append({**row, 'difference': f'{d["difference"]:+.1f} ({d["low"]:.1f} to {d["high"]:.1f})', 'reading': d['reading'],
                     'core-seconds': ', '.join(f'{s:.0f}' for s in seconds)})
    return pd.DataFrame(rows)


def _groups(runs, captions):
    """method -> its runs as `statistics` reads them"""
    return {m: [dict(seed=r['seed'], ranks={d: r[captions][f'{d}_ranks'] for d in ('t2v', 'v2t')})
                for r in runs if r['method'] == m] for m in METHODS}


def main():
    """Train and evaluate what is not yet in --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', default='data/results/methods.json')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--runs', default='runs/comparison', help='where each run keeps its checkpoints')
    parser.add_argument('--data-dir')
    parser.add_argument('--freeze-clip', action='store_true', help='train what stands on CLIP only')
    args = parser.parse_args()
    out, settings = Path(args.out), dict(freeze_clip=True) if args.freeze_clip else {}
    runs = json.loads(out.read_text())['runs'] if out.exists() else []
    todo = [(seed, method) for seed in args.seeds for method in METHODS
            if not any(r['seed'] == seed and r['method'] == method for r in runs)]
    for i, (seed, method) in enumerate(todo):
        start = time.time()
        runs.append(measure(method, seed, Path(args.runs) / f'{method} {seed}', args.data_dir, **settings))
        atomic(out, lambda p: p.write_text(json.dumps(dict(
            data='shapes, 500 test videos', command='python -m glscl.experiments.comparison' + ' --freeze-clip' * args.freeze_clip,
            runs=runs)) + '\n'))
        print(f'{method}, seed {seed}: R@1 {runs[-1]["one"]["metrics"]["t2v"]["R@1"]:.1f}; about '
              f'{(len(todo) - i - 1) * (time.time() - start) / 60:.0f} min left', flush=True)


if __name__ == '__main__':
    main()
