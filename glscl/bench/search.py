"""Search in a gallery of generated features: time, memory, bytes, and what a shortlist misses.

    python -m glscl.bench.search --videos 10000 100000 [--shortlist] [--threads 1]

Features are generated, not encoded: a video and its text share 32 numbers, to which each frame, word and concept adds noise.
Widths and scoring are the shipped model's (D = 128, F = 12, Q = 8), so times and bytes are as for real videos of that model;
the recall of a shortlist depends on the features, and is that of these.
"""
import argparse
import contextlib
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from ..checkpoints import load_model
from ..interaction import gram
from ..model import Texts, Videos
from ..runtime.devices import machine
from ..search import gallery as retrieval
from ..search import shards, shortlist

LATENT, NOISE = 32, 1.0


class Made:
    """Generated videos and texts, always the same: video n belongs to text n."""

    def __init__(self, model):
        c, draw = model.config, torch.Generator().manual_seed(0)
        self.D, self.F, self.Q = model.clip.width, c.max_frames, c.num_queries
        self.to_whole = torch.randn(LATENT, self.D, generator=draw)
        self.to_concepts = torch.randn(self.Q, LATENT, self.D, generator=draw)

    def _concepts(self, z, draw):
        c = torch.einsum('nz,qzd->nqd', z, self.to_concepts)
        return F.normalize(c + 3 * NOISE * torch.randn(c.shape, generator=draw), dim=-1)

    def _latent(self, first, n):
        return torch.cat([torch.randn(1, LATENT, generator=torch.Generator().manual_seed(v)) for v in range(first, first + n)])

    def videos(self, first, n):
        draw, z = torch.Generator().manual_seed(first + 1), self._latent(first, n)
        moved = z[:, None] + NOISE * torch.randn(n, self.F, LATENT, generator=draw)   # each frame shows something else as well
        y = (10 * F.normalize(moved @ self.to_whole, dim=-1)).half()
        return Videos(y, torch.ones(n, self.F, dtype=torch.bool), gram(y), self._concepts(z, draw).half())

    def texts(self, n, total):
        draw, step = torch.Generator().manual_seed(-1), max(1, total // n)
        z = torch.cat([self._latent(v * step, 1) for v in range(n)]) + NOISE * torch.randn(n, LATENT, generator=draw)
        e = 10 * F.normalize(z @ self.to_whole, dim=-1)
        return Texts(e, e[:, None], torch.ones(n, 1, dtype=torch.bool), self._concepts(z, draw))


def generate(folder, model, n):
    """A gallery of n generated videos; returns the seconds it took."""
    start, made = time.perf_counter(), Made(model)
    writer = shards.Writer(folder, dict(fingerprint=shards.fingerprint(model), model=None, shards={}, unreadable=[]))
    for first in range(0, n, shards.ROWS):
        rows = range(first, min(first + shards.ROWS, n))
        clips = [dict(id=str(v), path=f'/generated/{v}.mp4', start=None, end=None, size=0, mtime=0, fps=25.0,
                      indices=list(range(0, 25 * model.config.max_frames, 25))) for v in rows]
        writer.add(list(map(json.dumps, clips)), made.videos(first, len(rows)))
    writer.commit()
    return time.perf_counter() - start


def memory(what):
    """MB that this process holds: "VmRSS" now, "VmHWM" at most since `forget_memory`; None where there is no Linux to tell."""
    try:
        lines = Path('/proc/self/status').read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(what))


def forget_memory():
    """Count "VmHWM" from here on."""
    with contextlib.suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')


def timed(run, repeats=5):
    """(median seconds of repeats after the first, seconds of the first, what it gave)"""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        given = run()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:]), seconds[0], given


def recall(exact, near):
    """The share of the exact answers (list[Result] a text) that lies on the texts' own shortlists, places [T, n]."""
    return sum(int(r.id) in set(row) for found, row in zip(exact, near.tolist()) for r in found) / sum(map(len, exact))


def main(argv=None):
    """Generate a gallery, search it, print what that took."""
    parser = argparse.ArgumentParser(prog='python -m glscl.bench.search', description=main.__doc__)
    parser.add_argument('--videos', type=int, nargs='+', default=[1000, 10_000])
    parser.add_argument('--shortlist', action='store_true', help='also the approximate first stage (needs faiss)')
    parser.add_argument('--dir', help='where to put it (default: a temporary folder)')
    parser.add_argument('--threads', type=int, help="torch's and faiss's (default: one a core)")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
        if args.shortlist:
            shortlist.faiss().omp_set_num_threads(args.threads)
    model, where = load_model(), machine()
    print(f'{where["hardware"]}, {where["threads"]} threads, torch {where["versions"]["torch"]}; k = 10; median of 5 after one\n'
          f'generated features, D = {model.clip.width}, F = {model.config.max_frames}, Q = {model.config.num_queries}')
    for n in args.videos:
        with tempfile.TemporaryDirectory(dir=args.dir) as folder:
            report(Path(folder), model, n, args.shortlist)


def report(folder, model, n, approximate):
    """Make a gallery of n videos and print what searching it takes."""
    made, seconds = Made(model), generate(folder, model, n)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f'\n{n:,} videos: {size / 1e6:,.0f} MB, {size / n:,.0f} bytes a video; generated in {seconds:.0f} s')
    gallery, before = retrieval.Gallery(folder, model), memory('VmRSS')
    alone, texts = made.texts(1, n), made.texts(100, n)
    forget_memory()
    for batch in (alone, texts):
        median, first, exact = timed(lambda: gallery.search(batch, 10))
        print(f'  exact, {len(batch):3} texts: {median:.3f} s (the first time {first:.3f} s)')
    right = sum(f'/generated/{t * max(1, n // 100)}.mp4' == found[0].path for t, found in enumerate(exact))
    print(f'  {right} of these 100 texts find their own video first')
    print(f'  memory: {memory("VmHWM")} MB at most, {before} MB before the first search (Python, torch, the model)')
    if approximate:
        start = time.perf_counter()
        path = shortlist.build(gallery)
        print(f'  shortlist: {path.stat().st_size / 1e6:,.0f} MB, {path.stat().st_size / n:,.0f} bytes a video, '
              f'made in {time.perf_counter() - start:.0f} s')
        for length in (10, 100, 1000):
            median, first, _ = timed(lambda: gallery.search(alone, 10, shortlist=length))
            found = recall(exact, shortlist.candidates(gallery, texts, length))
            print(f'  shortlist of {length:4}: {found:6.1%} of the exact 10 best; 1 text {median:.3f} s (first {first:.3f} s)')


if __name__ == '__main__':
    main()
