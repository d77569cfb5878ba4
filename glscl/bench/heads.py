"""What every head costs by the clock: a query, a pair, memory, bytes a video, growth with gallery.

Random features, float32. A few hundred videos go through the head's own encode_videos; what it
keeps of them is repeated in memory up to the gallery's size, as real storage, so that a query reads
as many bytes as it would of different videos. Only the temporal transformer is left out: what is
kept has the same shape without it. With one thread the CPU time is fair also on a busy machine."""
import json
import math
import shlex
import time
from pathlib import Path

import numpy as np
import torch

from ..heads import HEADS
from ..heads.base import bytes_per_item, compact
from ..heads.costs import clock, median
from ..runtime.files import atomic_write
from ..runtime.records import machine, read_json
from .scoring import features
from .timing import linux_bytes, rounds, spread, timed, working_memory

SIZES = dict(F=12, L=32, D=512, Q=8)
TEXTS, BLOCK = 100, 1000  # a pair's time is that of so many texts by so many videos


def heads(heads=tuple(HEADS), videos=(1000, 10_000, 100_000, 1_000_000),
          out='runs/bench/costs.json', memory_gb=None, seconds=20.0, repeats=9, threads=1):
    """Measure heads on galleries of so many videos; returns dict(commands, sizes, growth, rows).

    out: the JSON file that takes each row (None: none); what it holds is not measured again.
    memory_gb: the largest gallery (default: 60 % of what is free); a larger one is listed with the
    bytes it needs. seconds: for a query, all its repeats, and a quarter of it for the pairs; what
    takes longer is measured on fewer videos and marked as extrapolated. threads: torch's (None: as
    they are)."""
    unknown = set(heads) - set(HEADS)
    if unknown:
        raise ValueError(f'unknown heads {sorted(unknown)}: choose from {", ".join(HEADS)}')
    if threads:
        torch.set_num_threads(threads)
    stored = dict(commands=[], rows=[])
    if out and Path(out).exists():
        stored = {**stored, **read_json(out)}
    command = ['glscl', 'bench', 'heads', '--heads', *heads, '--videos', *videos, '--out', out,
               '--seconds', seconds, '--repeats', repeats, '--threads',
               torch.get_num_threads()]
    command += ['--memory-gb', memory_gb] if memory_gb else []
    commands = [*dict.fromkeys([*stored['commands'], shlex.join(map(str, command))])]
    rows, devices = stored['rows'], ['cpu', 'cuda'] if torch.cuda.is_available() else ['cpu']
    memory = {d: 1e9 * memory_gb if memory_gb else 0.6 * free_memory(d) for d in devices}
    there = [place_of(row) for row in rows if row['fits']]
    todo = [(m, d, V) for d in devices for m in heads for V in videos if (m, d, V) not in there]
    limits = ', '.join(f'{memory[d] / 1e9:.1f} GB on {d}' for d in devices)
    print(f'{len(todo)} galleries to measure, {len(there)} stored; galleries up to {limits}')
    # Freed at once: from then on glibc keeps what a tile frees for the next tile.
    torch.empty(31 * 2 ** 20, dtype=torch.uint8)
    start = time.time()
    for done, (method, device, V) in enumerate(todo, 1):
        row = measure_row(method, V, device, memory[device], seconds, repeats)
        rows = [r for r in rows if place_of(r) != (method, device, V)] + [row]
        stored = dict(commands=commands, sizes=SIZES, growth=growth(rows), rows=rows)
        if out:
            with atomic_write(out) as half:
                half.write_text(json.dumps(stored, indent=1) + '\n')
        left = (time.time() - start) / done * (len(todo) - done)
        print(f'{in_words(row)}; about {left / 60:.0f} min left', flush=True)
    for fit in stored.get('growth', []):
        if fit['exponent'] is not None:
            power = f'{fit["exponent"]:.3f} ± {fit["standard_error"]:.3f}'
            print(f'{fit["method"]}, {fit["device"]}: seconds grow as V to the {power} '
                  f'({fit["points"]} galleries)')
    return stored


def place_of(row):
    """What a row is about: (method, device, videos)."""
    return row['method'], row['device'], row['videos']


def free_memory(device):
    """Bytes that are free: the GPU's, or what Linux calls available; 8 GB where nobody can say."""
    if device == 'cuda':
        return torch.cuda.mem_get_info()[0]
    return linux_bytes('/proc/meminfo', 'MemAvailable') or 8e9


@torch.no_grad()
def measure_row(method, V, device, memory, seconds, repeats):
    """The row of one head and a gallery of V videos; memory: the most bytes that it may take."""
    head, texts, block = build(method, device)
    each = bytes_per_item(block)
    row = dict(method=method, device=device, videos=V, bytes_per_video=each,
               bytes_counted=HEADS[method].cost(**SIZES).video_bytes, bytes_gallery=V * each,
               fits=V * each <= memory, memory_limit=int(memory), **machine())
    if row['fits']:
        gallery, row['query'] = query_time(head, texts[:1], block, V, seconds, repeats, device)
        row['pair'] = pair_time(head, texts, gallery, seconds / 4, repeats, device)
    return row


def build(method, device, D=SIZES['D'], videos=256):
    """(head, texts, a block of videos) of random features, by the head's own encoding."""
    torch.manual_seed(0)
    options = dict(temporal_layers=0) if HEADS[method].has_time else {}
    head = HEADS[method](width=D, **options).eval().to(device)
    texts, videos = features(TEXTS, videos, SIZES['F'], D, SIZES['Q'], SIZES['L'], device)
    encoded = head.encode_texts(texts.sentence, texts.words, texts.mask)
    return head, encoded, compact(head.encode_videos(videos.frames, videos.mask))


def repeated(block, V):
    """A gallery of V videos, the block's again and again, in memory of its own."""
    def fill(x):
        out = x.new_empty(V, *x.shape[1:])
        for start in range(0, V, len(x)):
            out[start:start + len(x)] = x[:V - start]
        return out
    return block.map(fill)


def query_time(head, text, block, V, seconds, repeats, device):
    """One text against V videos, in ms: (the gallery that was measured, what it took).

    A tile holds as many pairs as the head's own, at most 4096."""
    tile = min(head.tile ** 2, 4096)
    n = affordable(lambda: head.similarity(text, block, tile), len(block), V, seconds)
    gallery = repeated(block, n)
    found = clocked(lambda: head.similarity(text, gallery, tile), 'ms', 1e3 * V / n, seconds,
                    repeats, device)
    return gallery, dict(found, tile=tile, videos_measured=n, extrapolated=n < V)


def pair_time(head, texts, gallery, seconds, repeats, device):
    """All texts against a block of the gallery, in ns a pair, in the head's own tiles."""
    few, most = gallery[-min(8, len(gallery)):], min(BLOCK, len(gallery))
    n = affordable(lambda: head.similarity(texts, few), len(few), most, seconds)
    some = gallery[-n:]
    found = clocked(lambda: head.similarity(texts, some), 'ns', 1e9 / (len(texts) * n), seconds,
                    repeats, device)
    return dict(found, tile=head.tile, texts=len(texts), videos=n)


def affordable(fn, n, most, seconds):
    """How many videos, at most `most`, four runs can take in `seconds`, by what fn() takes for n
    (the second time)."""
    fn()
    return max(1, min(most, int(n * seconds / 4 / timed(fn)[1])))


def clocked(fn, name, unit, seconds, repeats, device):
    """Wall and CPU time, times `unit`, and memory of as many rounds as fit into `seconds`, at least
    3 and at most `repeats`."""
    n = min(repeats, max(3, int(seconds / timed(fn, device)[1]) - 1))
    wall, cpu = rounds({'': fn}, n, device)['']
    return {f'wall_{name}': spread(wall, unit), f'cpu_{name}': spread(cpu, unit), 'repeats': n,
            'working_memory_mb': round(working_memory(fn, device), 2)}


def growth(rows):
    """How seconds grow with V: [dict(method, device, points, exponent, standard_error)].

    Least squares of log seconds on log V over what was measured, extrapolated galleries left out.
    The error is that of the slope; both are None with fewer than three points."""
    points = {}
    for row in rows:
        of_head = points.setdefault((row['method'], row['device']), [])
        if row['fits'] and not row['query']['extrapolated']:
            of_head.append((math.log(row['videos']), math.log(median(row, 'query'))))
    fits = []
    for (method, device), of_head in points.items():
        slope = error = None
        if len(of_head) >= 3:
            line, covariance = np.polyfit(*zip(*of_head), 1, cov=True)
            slope, error = round(float(line[0]), 4), round(math.sqrt(covariance[0, 0]), 4)
        fits.append(dict(method=method, device=device, points=len(of_head), exponent=slope,
                         standard_error=error))
    return fits


def in_words(row):
    """A row in a line: median (quartiles)."""
    line = (f'{row["method"]}, {row["device"]}, {row["videos"]:,} videos, '
            f'{row["bytes_per_video"]:,} bytes each')
    if not row['fits']:
        return f'{line}: does not fit, needs {row["bytes_gallery"] / 1e9:.1f} GB'
    query, pair = row['query'][f'{clock(row)}_ms'], row['pair'][f'{clock(row)}_ns']
    note = ''
    if row['query']['extrapolated']:
        note = f' (extrapolated from {row["query"]["videos_measured"]:,} videos)'
    return (f'{line}: query {query["median"]:.4g} ms ({query["q1"]:.4g} to {query["q3"]:.4g})'
            f'{note}, pair {pair["median"]:.4g} ns, '
            f'working memory {row["query"]["working_memory_mb"]:.1f} MB')
