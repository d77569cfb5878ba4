"""What a GPU makes of this package, in one command of about five minutes: scoring beside its
matrix products, the k best, a training step, encoding and indexing.

Random features in bfloat16 (F = 12, D = 512, Q = 8), random pixels, random weights. Every ratio is
of neighbours in time, on one card. A size that does not fit is named and left out."""
import contextlib
import itertools
import json
import statistics
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from .. import cuda_scoring
from ..clip_models import image_size
from ..config import load_config
from ..cuda_graph import EAGER
from ..data.batch import Batch
from ..data.prefetch import ahead
from ..data.tokens import tokenize
from ..journal import Journal
from ..model import GLSCL, Videos
from ..runtime.devices import autocast, seed_everything
from ..runtime.files import atomic_write
from ..runtime.records import machine
from ..search import topk
from ..search.encoding import encode as encode_clips
from ..training import Trainer
from .heads import free_memory
from .scoring import features, rounded
from .timing import rounds, spread, timed

SIZES = ((1000, 1000), (1000, 10_000), (10_000, 10_000), (10_000, 100_000), (10_000, 1_000_000),
         (1, 1_000_000), (16, 1_000_000), (100, 1_000_000), (1000, 1_000_000))
RECIPES = dict(msrvtt=dict(clip_pretrained=None), shapes={})  # random weights are as quick
# Of training. The graph last: if a card refuses to record it, nothing after it suffers.
WAYS = ({}, dict(deterministic=True), dict(compile=True), dict(cuda_graph=True))


def gpu(out='runs/bench/gpu.json', repeats=20):
    """Measure, print, and write all numbers as JSON; ValueError where there is no NVIDIA GPU."""
    if not torch.cuda.is_available():
        raise ValueError('this needs an NVIDIA GPU and a torch with CUDA, and there is none here. '
                         'For a CPU: glscl bench scoring')
    result = measure('cuda', SIZES, RECIPES, repeats)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(out) as half:
        half.write_text(json.dumps(result, indent=1) + '\n')
    print(f'written to {out}')


def measure(device, sizes, recipes, repeats, side=8192, ways=WAYS, **changes):
    """All numbers as one dict. changes: of the recipes' settings; ways: further ones, to train with
    each in turn; side: of the square matrices whose product is the card's peak."""
    result = dict(command=f'glscl bench gpu --repeats {repeats}', **card(device), **machine())
    result['peak_tflops'] = peak = peak_rate(device, side, repeats)
    print(f'{result["hardware"]}: {peak:.4g} TFLOP/s in a product of {side} x {side} x {side}')
    result['scoring'], result['training'], result['encoding'] = [], [], []
    for T, V in sizes:
        result['scoring'].append(row := scoring_row(T, V, device, repeats))
        print(row, flush=True)
    for name, settings in recipes.items():
        config = load_config(name, **settings, **changes)
        for way in ways:
            try:
                row = training_row(config.replace(**way), device, repeats, peak)
            except RuntimeError as error:  # memory, a compiler, a graph: the other numbers stay
                row = dict(failed=str(error).splitlines()[0])
            result['training'].append(row := dict(recipe=name, settings=way, **row))
            print(row, flush=True)
        row = encoding_row(config, device, repeats)
        result['encoding'].append(row := dict(recipe=name, **row))
        print(row, flush=True)
    return result


def card(device):
    """The card's name, memory and capability, and the versions that scoring on it depends on."""
    found = dict(card='none', cuda=torch.version.cuda, triton=None)
    with contextlib.suppress(PackageNotFoundError):
        found['triton'] = version('triton')
    if device == 'cuda':
        about = torch.cuda.get_device_properties(device)
        found.update(card=about.name, memory_gb=round(about.total_memory / 1e9, 1),
                     capability=f'{about.major}.{about.minor}')
    return found


def peak_rate(device, side, repeats):
    """TFLOP/s of a square product in bfloat16, the median."""
    x = torch.randn(side, side, device=device).bfloat16()
    seconds = rounds({'': lambda: x @ x}, repeats, device)[''][0]
    return 2 * side ** 3 / statistics.median(seconds) / 1e12


# scoring

@torch.no_grad()
def scoring_row(T, V, device, repeats, k=10):
    """ms of each form of T texts and V videos, its ratio to the products round by round, and how
    far two stages are from float64 in a corner of S."""
    row = dict(T=T, V=V)
    each = 12 * 512 * 2 + 8 * 512 * 2 + 12 * 12 * 4  # bytes of a video
    if 2.2 * V * each + 6e9 > free_memory(device):
        return dict(row, left_out=f'needs {(2.2 * V * each + 6e9) / 1e9:.0f} GB')
    texts, videos = drawn(T, V, device)
    model = GLSCL(load_config('shapes')).eval()  # similarity takes features of any width
    fns = {'products': lambda: products(texts, videos)}
    if T * V <= 1e9:  # S takes 4 GB
        fns['similarity'] = lambda: model.similarity(texts, videos)
    if T * V <= 1e8:
        wide = texts.float(), videos.float()
        fns['similarity of float32'] = lambda: model.similarity(*wide)
    if cuda_scoring.can_score(texts, videos):
        weights = dict(temperature=model.config.temperature, local_weight=model.config.local_weight)
        fns['top 10'] = lambda: topk.top_k(texts, videos, k, **weights)
    seconds = max(timed(fn, device)[1] for _ in range(2) for fn in fns.values())
    times = rounds(fns, max(3, min(repeats, int(5 / seconds))), device)
    floor = times['products'][0]
    row['ms'] = {name: spread(wall, 1e3) for name, (wall, _) in times.items()}
    row['ratio'] = {name: spread([a / b for a, b in zip(wall, floor)])
                    for name, (wall, _) in times.items() if name != 'products'}
    corner = texts[:50], videos[:1000]
    exact = model.similarity(*(items.map(_double) for items in corner))
    row['largest_error'] = float((model.similarity(*corner) - exact).abs().max())
    return row


def _double(x):
    return x.double() if x.is_floating_point() else x


def drawn(T, V, device, part=10_000):
    """T texts and V videos of random features in bfloat16."""
    texts = rounded(features(T, 1, words=1, device=device)[0], torch.bfloat16)
    parts = [rounded(features(1, min(part, V - start), words=1, device=device, seed=start)[1],
                     torch.bfloat16) for start in range(0, V, part)]
    return texts, Videos.cat(parts)


def products(texts, videos):
    """The two matrix products that scoring cannot do without, in the blocks that it works in."""
    n = cuda_scoring.block_size(texts, videos)
    e, c_t = texts.sentence.T, texts.concepts.flatten(1).T
    for start in range(0, len(videos), n):
        part = videos[start:start + n]
        part.frames.flatten(0, 1) @ e, part.concepts.flatten(1) @ c_t


# training and encoding

def training_row(config, device, repeats, peak):
    """A training step on random frames that lie in the CPU's memory, brought as `Trainer.run`
    brings them, and with its losses left on the card as long: ms, peak GB, TFLOP/s, and the share
    of `peak`; and the seconds of the first step, compilation included."""
    seed_everything(0)
    model, batch = GLSCL(config).to(device), random_batch(config)
    trainer = Trainer(model, range(2 * config.batch_size), None, steps=10 ** 6)
    batches = ahead(itertools.repeat(batch), model.device)

    def steps(n=1):
        for _ in range(n):
            trainer.train_step(next(batches))
    with Journal(trainer), contextlib.closing(batches):
        first = timed(steps, device)[1]
        # What is compiled hides its products from the counter: the plain blocks do as many. A graph
        # would too; it is recorded after this.
        with FlopCounterMode(display=False) as counter, torch.compiler.set_stance('force_eager'):
            steps()
        steps(EAGER)
        if device == 'cuda':
            torch.cuda.reset_peak_memory_stats()
        n = trainer.read_every
        seconds = [timed(partial(steps, n), device)[1] / n for _ in range(-(-repeats // n))]
    rate = counter.get_total_flops() / statistics.median(seconds) / 1e12
    memory = torch.cuda.max_memory_allocated() / 1e9 if device == 'cuda' else None
    return dict(batch=config.batch_size, frames=config.max_frames, ms=spread(seconds, 1e3),
                first_step_s=round(first, 2),
                peak_gb=memory and round(memory, 2), tflops=round(rate, 4),
                share_of_peak=round(rate / peak, 4))


@torch.no_grad()
def encoding_row(config, device, repeats, videos=50):
    """Captions, and frames that lie in the CPU's memory, encoded a second; and videos encoded as
    `glscl index` does it, decoding left out."""
    model, batch = GLSCL(config).to(device).eval(), random_batch(config)

    def encode(batch):
        with autocast(model.device):
            model.encode(batch.to(device))
    clips = Batch(frames=batch.frames[:videos], frame_mask=batch.frame_mask[:videos])
    captions = Batch(token_ids=batch.token_ids, text_mask=batch.text_mask)
    lists = [frames.numpy() for frames in clips.frames]
    times = rounds({'frames': lambda: encode(clips), 'captions': lambda: encode(captions),
                    'indexed_videos': lambda: encode_clips(model, lists)}, repeats, device)
    counts = dict(frames=len(clips) * config.max_frames, captions=len(captions),
                  indexed_videos=len(lists))
    return {f'{name}_a_second': spread([counts[name] / s for s in wall])
            for name, (wall, _) in times.items()}


def random_batch(config):
    """A Batch of a recipe's size in the CPU's memory: one caption, random frames."""
    B, F, size = config.batch_size, config.max_frames, image_size(config.clip)
    generator = torch.Generator().manual_seed(0)
    token_ids, text_mask = tokenize(['a red ring moves left'] * B, config.max_words)
    frames = torch.randint(256, (B, F, size, size, 3), dtype=torch.uint8, generator=generator)
    return Batch(torch.arange(B), token_ids, None, text_mask, frames, None,
                 torch.ones(B, F, dtype=torch.bool))
