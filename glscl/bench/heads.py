"""What every head costs by the clock: a query, a pair, memory, bytes a video, and how they grow with the gallery.

    python -m glscl.bench.heads --out data/results/costs.json

Random features, float32. A few hundred videos go through the head's own encode_videos; what it keeps of them is repeated in
memory up to the gallery's size, as real storage, so that a query reads as many bytes as it would of different videos. Only
the temporal transformer is left out: what is kept has the same shape without it. With --threads 1 the CPU time is a fair
measure also on a busy machine. What is stored is not measured again. A gallery that does not fit into --memory-gb is listed
with the bytes it needs; one that takes longer than --seconds is measured on fewer videos and marked as extrapolated."""
import argparse
import json
import math
import shlex
import sys
import time
from pathlib import Path

import torch

from ..checkpoints import atomic
from ..data.batch import Items
from ..heads import HEADS
from ..heads.base import bytes_per_item, compact
from ..heads.costs import clock, median
from ..runtime.devices import machine
from .scoring import features, rounds, spread, working_memory

SIZES = dict(F=12, L=32, D=512, Q=8)
TEXTS, BLOCK = 100, 1000  # a pair's time is that of so many texts by so many videos


def free_bytes(device):
    """Memory that is free: the GPU's, or what Linux calls available; 8 GB where there is no Linux to tell."""
    if device == 'cuda':
        return torch.cuda.mem_get_info()[0]
    try:
        lines = Path('/proc/meminfo').read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable'))
    except OSError:
        return 8e9


def built(method, device, D=SIZES['D'], block=256):
    """(head, texts kept, a block of videos kept) of random features, by the head's own encoding."""
    torch.manual_seed(0)
    Head = HEADS[method]
    head = Head(width=D, **(dict(temporal_layers=0) if Head.has_time else {})).eval().to(device)
    texts, videos = features(TEXTS, block, SIZES['F'], D, SIZES['Q'], SIZES['L'], device)
    return (head, head.encode_texts(texts.sentence, texts.words, texts.mask),
            compact(head.encode_videos(videos.frames, videos.mask)))


def repeated(block, V):
    """A gallery of V videos, the block's again and again, in memory of its own."""
    def fill(x):
        out = x.new_empty(V, *x.shape[1:])
        for start in range(0, V, len(x)):
            out[start:start + len(x)] = x[:V - start]
        return out
    return Items(**{name: fill(x) for name, x in vars(block).items()})


def timed(fn, seconds, repeats, device):
    """(rounds that fit into `seconds`, at least 3 and at most `repeats`; their wall and CPU seconds; MB of working memory)"""
    def finished():
        result = fn()
        if device == 'cuda':
            torch.cuda.synchronize()
        return result
    start = time.perf_counter()
    finished()
    n = min(repeats, max(3, int(seconds / (time.perf_counter() - start)) - 1))
    wall, cpu = rounds({'': finished}, n)['']
    return n, wall, cpu, round(peak(finished, device), 2)


def peak(fn, device):
    """MB that fn() holds at most beyond what was there and its result."""
    if device != 'cuda':
        return working_memory(fn)
    torch.cuda.reset_peak_memory_stats()
    before, result = torch.cuda.memory_allocated(), fn()
    return (torch.cuda.max_memory_allocated() - before - result.numel() * result.element_size()) / 1e6


def affordable(fn, n, most, seconds):
    """How many videos, at most `most`, four runs can take in `seconds`, by the time fn() takes for n (the second time)."""
    fn()
    start = time.perf_counter()
    fn()
    return max(1, min(most, int(n * seconds / 4 / (time.perf_counter() - start))))


def query_time(head, text, block, V, seconds, repeats, device):
    """One text against V videos, in ms; a tile holds as many pairs as the head's own, at most 4096."""
    tile = min(head.tile ** 2, 4096)
    n = affordable(lambda: head.similarity(text, block, tile), len(block), V, seconds)
    gallery = repeated(block, n)
    repeats, wall, cpu, mb = timed(lambda: head.similarity(text, gallery, tile), seconds, repeats, device)
    unit = 1e3 * V / n
    return gallery, dict(wall_ms=spread(wall, unit), cpu_ms=spread(cpu, unit), repeats=repeats, tile=tile,
                         working_memory_mb=mb, videos_measured=n, extrapolated=n < V)


def pair_time(head, texts, gallery, seconds, repeats, device):
    """100 texts against a block of the gallery, in ns a pair, in the head's own tiles."""
    some = gallery[-min(8, len(gallery)):]
    n = affordable(lambda: head.similarity(texts, some), len(some), min(BLOCK, len(gallery)), seconds)
    some = gallery[-n:]
    repeats, wall, cpu, mb = timed(lambda: head.similarity(texts, some), seconds, repeats, device)
    unit = 1e9 / (len(texts) * n)
    return dict(wall_ns=spread(wall, unit), cpu_ns=spread(cpu, unit), repeats=repeats, tile=head.tile,
                working_memory_mb=mb, texts=len(texts), videos=n)


@torch.no_grad()
def measure(method, V, device, memory, seconds, repeats):
    """The row of one head and one gallery."""
    head, texts, block = built(method, device)
    row = dict(method=method, device=device, videos=V, bytes_per_video=bytes_per_item(block),
               bytes_counted=HEADS[method].cost(**SIZES).video_bytes, bytes_gallery=V * bytes_per_item(block),
               fits=V * bytes_per_item(block) <= memory, memory_limit=int(memory), **machine())
    if row['fits']:
        gallery, row['query'] = query_time(head, texts[:1], block, V, seconds, repeats, device)
        row['pair'] = pair_time(head, texts, gallery, seconds / 4, repeats, device)
    return row


def growth(rows):
    """[{method, device, exponent, standard_error, points}]: least squares of log seconds on log V over what was measured.

    Extrapolated galleries are left out. The error is that of the slope; both are None with fewer than three points."""
    fits = []
    for method, device in dict.fromkeys((r['method'], r['device']) for r in rows):
        points = [(math.log(r['videos']), math.log(median(r, 'query'))) for r in rows
                  if (r['method'], r['device']) == (method, device) and r['fits'] and not r['query']['extrapolated']]
        n, slope, error = len(points), None, None
        if n >= 3:
            x, y = torch.tensor(points, dtype=torch.float64).T
            x, y = x - x.mean(), y - y.mean()
            slope = float(x @ y / (x @ x))
            error = float(((y - slope * x).square().sum() / (n - 2) / (x @ x)).sqrt())
        fits.append(dict(method=method, device=device, points=n, exponent=slope and round(slope, 4),
                         standard_error=error and round(error, 4)))
    return fits


def expected(method, V, seconds, repeats):
    """Roughly the seconds of a row on one thread: 5 G multiply-adds or 5 GB a second, and filling the gallery."""
    cost = HEADS[method].cost(**SIZES)
    one, pairs = V * max(cost.gram / 5e9, cost.video_bytes / 5e9), TEXTS * BLOCK * cost.gram / 5e9
    return 2 + min((repeats + 2) * one, seconds) + min((repeats + 2) * pairs, seconds / 4) + V * cost.video_bytes / 1e9


def run(heads=tuple(HEADS), videos=(1000, 10_000, 100_000, 1_000_000), out=None, memory_gb=None, seconds=20, repeats=9,
        command='glscl.bench_heads.run'):
    """Measure what `out` (a JSON file) does not hold yet; returns all of it. `command` is noted beside those that filled it."""
    if unknown := set(heads) - set(HEADS):
        raise ValueError(f'unknown heads {sorted(unknown)}: choose from {", ".join(HEADS)}')
    stored = json.loads(Path(out).read_text()) if out and Path(out).exists() else dict(commands=[], rows=[])
    rows, commands = stored['rows'], [*dict.fromkeys([*stored['commands'], command])]
    devices = ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
    memory = {device: 1e9 * memory_gb if memory_gb else 0.6 * free_bytes(device) for device in devices}
    have = {(r['method'], r['device'], r['videos']) for r in rows if r['fits']}
    todo = [(m, d, V) for d in devices for m in heads for V in videos if (m, d, V) not in have]

    def minutes(rest):
        fitting = [(m, V) for m, d, V in rest if V * HEADS[m].cost(**SIZES).video_bytes <= memory[d]]
        return sum(expected(m, V, seconds, repeats) for m, V in fitting) / 60
    limits = ', '.join(f'{memory[d] / 1e9:.1f} GB on {d}' for d in devices)
    print(f'{len(todo)} galleries to measure, {len(have)} stored; galleries up to {limits}; '
          f'about {minutes(todo):.0f} min', flush=True)
    torch.empty(31 * 2 ** 20, dtype=torch.uint8)  # freed at once: from then on glibc keeps what a tile frees for the next tile
    for i, (method, device, V) in enumerate(todo):
        row = measure(method, V, device, memory[device], seconds, repeats)
        rows = [r for r in rows if (r['method'], r['device'], r['videos']) != (method, device, V)] + [row]
        stored = dict(commands=commands, sizes=SIZES, growth=growth(rows), rows=rows)
        if out:
            atomic(out, lambda p: p.write_text(json.dumps(stored, indent=1) + '\n'))
        print(f'{report(row)}; about {minutes(todo[i + 1:]):.0f} min left', flush=True)
    return stored


def report(row):
    """A row in a line: median (quartiles)."""
    line = f'{row["method"]}, {row["device"]}, {row["videos"]:,} videos, {row["bytes_per_video"]:,} bytes each'
    if not row['fits']:
        return f'{line}: does not fit, needs {row["bytes_gallery"] / 1e9:.1f} GB'
    query, pair = (row[part][f'{clock(row)}_{unit}'] for part, unit in (('query', 'ms'), ('pair', 'ns')))
    note = f' (extrapolated from {row["query"]["videos_measured"]:,} videos)' if row['query']['extrapolated'] else ''
    return (f'{line}: query {query["median"]:.4g} ms ({query["q1"]:.4g} to {query["q3"]:.4g}){note}, '
            f'pair {pair["median"]:.4g} ns, working memory {row["query"]["working_memory_mb"]:.1f} MB')


def main(argv=None):
    """Measure every head that is asked for, row by row into --out, going on where it stopped."""
    parser = argparse.ArgumentParser(prog='python -m glscl.bench.heads', description=__doc__.splitlines()[0])
    parser.add_argument('--out', help='the JSON file to fill')
    parser.add_argument('--heads', nargs='+', default=list(HEADS), metavar='HEAD', help=', '.join(HEADS))
    parser.add_argument('--videos', type=int, nargs='+', default=[1000, 10_000, 100_000, 1_000_000])
    parser.add_argument('--memory-gb', type=float, help='largest gallery (default: 60 %% of what is free)')
    parser.add_argument('--seconds', type=float, default=20, help='for a query, all its repeats; a quarter of it for the pairs')
    parser.add_argument('--repeats', type=int, default=9)
    parser.add_argument('--threads', type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    command = shlex.join(['python', '-m', 'glscl.bench_heads', *(sys.argv[1:] if argv is None else argv)])
    result = run(args.heads, args.videos, args.out, args.memory_gb, args.seconds, args.repeats, command)
    for fit in result['growth']:
        if fit['exponent']:
            print(f'{fit["method"]}, {fit["device"]}: seconds grow as V to the {fit["exponent"]:.3f} '
                  f'± {fit["standard_error"]:.3f} ({fit["points"]} galleries)')


if __name__ == '__main__':
    main()
