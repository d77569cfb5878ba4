"""Search in a gallery of generated features: time, memory, bytes, and what a shortlist misses.

Features are generated, not encoded: a video and its text share 32 numbers, to which each frame,
word and concept adds noise. Widths and scoring are the shipped model's (D = 128, F = 12, Q = 8), so
times and bytes are as for real videos of that model; the recall of a shortlist depends on the
features, and is that of these."""
import json
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F

from ..checkpoints import load_model
from ..interaction import gram
from ..model import Texts, Videos
from ..runtime.records import machine
from ..search import gallery as retrieval
from ..search import shards
from ..search import shortlist as first_stage
from .timing import forget_peak, linux_bytes, measure, timed

LATENT, NOISE = 32, 1.0


def search(videos=(1000, 10_000), shortlist=False, folder=None, threads=None):
    """Generate galleries of so many videos, search them, and print what that takes.

    shortlist: also the approximate first stage (needs faiss). folder: where to put the galleries
    (default: a temporary one). threads: torch's and faiss's (default: one a core)."""
    if threads:
        torch.set_num_threads(threads)
        if shortlist:
            first_stage.faiss().omp_set_num_threads(threads)
    model, where = load_model(), machine()
    print(f'{where["hardware"]}, {where["threads"]} threads, torch {where["versions"]["torch"]}; '
          f'k = 10; median of 5 after one\ngenerated features, D = {model.clip.width}, '
          f'F = {model.config.max_frames}, Q = {model.config.num_queries}')
    for n in videos:
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            report(Path(place), model, n, shortlist)


class Generated:
    """Videos and texts, always the same: video n belongs to text n."""

    def __init__(self, model):
        draw = torch.Generator().manual_seed(0)
        self.D, self.F, self.Q = model.clip.width, model.config.max_frames, model.config.num_queries
        self.to_whole = torch.randn(LATENT, self.D, generator=draw)
        self.to_concepts = torch.randn(self.Q, LATENT, self.D, generator=draw)

    def videos(self, first, n):
        """Videos first to first + n - 1."""
        draw, z = torch.Generator().manual_seed(first + 1), _latent(range(first, first + n))
        # each frame shows something else as well
        shown = z[:, None] + NOISE * torch.randn(n, self.F, LATENT, generator=draw)  # [V, F, 32]
        y = (10 * F.normalize(shown @ self.to_whole, dim=-1)).half()
        mask = torch.ones(n, self.F, dtype=torch.bool)
        return Videos(y, mask, gram(y), self._concepts(z, draw).half())

    def texts(self, n, total):
        """The texts of n videos, evenly spaced among `total`."""
        draw, step = torch.Generator().manual_seed(-1), max(1, total // n)
        z = _latent(range(0, n * step, step)) + NOISE * torch.randn(n, LATENT, generator=draw)
        e = 10 * F.normalize(z @ self.to_whole, dim=-1)
        mask = torch.ones(n, 1, dtype=torch.bool)
        return Texts(e, e[:, None], mask, self._concepts(z, draw))

    def _concepts(self, z, draw):
        c = torch.einsum('nz,qzd->nqd', z, self.to_concepts)
        return F.normalize(c + 3 * NOISE * torch.randn(c.shape, generator=draw), dim=-1)


def _latent(numbers):
    """What a video and its text share: [N, 32], each drawn from its own seed."""
    return torch.cat([torch.randn(1, LATENT, generator=torch.Generator().manual_seed(v))
                      for v in numbers])


def generate(folder, model, n):
    """A gallery of n generated videos."""
    generated = Generated(model)
    about = dict(fingerprint=shards.fingerprint(model), model=None, shards={}, unreadable=[])
    writer = shards.Writer(folder, about)
    indices = list(range(0, 25 * model.config.max_frames, 25))
    for first in range(0, n, shards.ROWS):
        rows = range(first, min(first + shards.ROWS, n))
        clips = [dict(id=str(v), path=f'/generated/{v}.mp4', start=None, end=None, size=0, mtime=0,
                      fps=25.0, indices=indices) for v in rows]
        writer.add([json.dumps(clip) for clip in clips], generated.videos(first, len(rows)))
    writer.commit()


def recall(exact, near):
    """The share of the exact answers (a list[Result] a text) that lies on the texts' own
    shortlists, places [T, n]."""
    found = sum(int(result.id) in set(row)
                for results, row in zip(exact, near.tolist()) for result in results)
    return found / sum(map(len, exact))


def report(folder, model, n, shortlist):
    """Make a gallery of n videos and print what searching it takes."""
    generated = Generated(model)
    _, seconds, _ = timed(lambda: generate(folder, model, n))
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f'\n{n:,} videos: {size / 1e6:,.0f} MB, {size / n:,.0f} bytes a video; '
          f'generated in {seconds:.0f} s')
    gallery, before = retrieval.Gallery(folder, model), _held('VmRSS')
    alone, texts = generated.texts(1, n), generated.texts(100, n)
    forget_peak()
    for batch in (alone, texts):
        exact, median, first = _searches(gallery, batch)
        print(f'  exact, {len(batch):3} texts: {median:.3f} s (the first time {first:.3f} s)')
    right = [f'/generated/{t * max(1, n // 100)}.mp4' == found[0].path
             for t, found in enumerate(exact)]
    print(f'  {sum(right)} of these 100 texts find their own video first')
    print(f'  memory: {_held("VmHWM")} MB at most, {before} MB before the first search '
          f'(Python, torch, the model)')
    if shortlist:
        path, seconds, _ = timed(lambda: first_stage.build(gallery))
        size = path.stat().st_size
        print(f'  shortlist: {size / 1e6:,.0f} MB, {size / n:,.0f} bytes a video, '
              f'made in {seconds:.0f} s')
        for length in (10, 100, 1000):
            _, median, first = _searches(gallery, alone, shortlist=length)
            found = recall(exact, first_stage.candidates(gallery, texts, length))
            print(f'  shortlist of {length:4}: {found:6.1%} of the exact 10 best; '
                  f'1 text {median:.3f} s (first {first:.3f} s)')


def _held(field):
    found = linux_bytes('/proc/self/status', field)
    return found and found // 2 ** 20


def _searches(gallery, texts, **options):
    """(what is found, median seconds of 5 searches, seconds of the one before them)"""
    found, first, _ = timed(lambda: gallery.search(texts, 10, **options))
    return found, measure(lambda: gallery.search(texts, 10, **options), warmup=0)[0], first
