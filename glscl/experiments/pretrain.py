"""Train the small CLIP that stands in for OpenAI's, on single frames of `shapes`.

    glscl pretrain --out runs/pretrain/clip_small.safetensors

Each frame has what can be said of one frame. Frames come from seeds that no split of the data set
uses. Contrastive loss as in CLIP; about half an hour on 2 cores."""
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

from ..clip_models import small_clip
from ..data.pixels import normalise, resize
from ..data.tokens import tokenize
from ..data.workers import start_pool
from ..datasets import shapes
from ..encoders import normalised
from ..losses import contrastive
from ..runtime.devices import pick_device, seed_everything
from ..runtime.files import atomic_write, write_tensors
from ..runtime.records import machine

HELD_OUT = 1000  # the first frames, never trained on
EVERY = 250      # steps between two looks at them, after which the weights are written


def pretrain(out='runs/pretrain/clip_small.safetensors', steps=3000, stop=2250, batch=256,
             frames=40_000, lr=1e-3, seed=10_000_000):
    """Train the small CLIP; write weights (float16) and provenance (.json) every 250 steps.

    stop: the step to end at, on the schedule of `steps`: accuracy is flat by then. frames: how many
    are rendered. The shipped weights are data/clip_small.safetensors; the default leaves them."""
    settings = dict(out=str(out), steps=steps, stop=stop, batch=batch, frames=frames, lr=lr,
                    seed=seed)
    seed_everything(seed)
    device = pick_device('auto')
    pool = frame_pool(frames, seed)
    clip, token_ids = small_clip(shapes.vocabulary())
    clip.to(device)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.05)
    start = time.time()
    for step in range(1, min(stop, steps) + 1):
        rows = torch.randint(HELD_OUT, len(pool[0]), (batch,)).numpy()
        loss = contrastive(scores(clip, pool, rows, device), clip.clip.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        clip.clip.logit_scale.data.clamp_(max=math.log(100))
        if step % EVERY == 0 or step == stop:
            accuracy = held_out_accuracy(clip, pool, device)
            minutes = (time.time() - start) / 60
            save(clip, token_ids, dict(
                command='glscl pretrain', **settings, steps_done=step, minutes=round(minutes, 1),
                held_out_frame_top1_of_1000=round(accuracy, 3), weights='float16', **machine()))
            print(f'step {step}: loss {loss.item():.3f}, held-out top-1 of {HELD_OUT} '
                  f'{accuracy:.3f}, {minutes:.1f} min', flush=True)


def frame_pool(n, seed, workers=2):
    """n frames and captions: uint8 [n, 32, 32, 3], token ids [n, 32], mask [n, 32]."""
    chunk = 1000
    seeds = range(seed, seed + n // chunk)
    with start_pool(workers) as pool:
        parts = list(pool.map(shapes.frame_captions, seeds, [chunk] * len(seeds)))
    frames = np.stack([resize(frame, 32) for part in parts for frame in part[0]])
    return frames, *tokenize([caption for part in parts for caption in part[1]])


def scores(clip, pool, rows, device):
    """Cosines of the captions and frames in these rows of a pool: [n, n]."""
    frames, token_ids, mask = (x[rows] for x in pool)
    longest = int(mask.sum(1).max())
    x = normalised(clip.encode_frames(normalise(frames).to(device)))
    sentence, _ = clip.encode_words(token_ids[:, :longest].to(device), mask[:, :longest].to(device))
    return normalised(sentence) @ x.T


@torch.no_grad()
def held_out_accuracy(clip, pool, device):
    """The share of the held-out captions whose own frame scores highest."""
    best = scores(clip, pool, np.arange(HELD_OUT), device).argmax(1).cpu()
    return (best == torch.arange(HELD_OUT)).float().mean().item()


def save(clip, token_ids, provenance):
    """The weights, where the provenance says (`out`), and it beside them."""
    out = Path(provenance['out'])
    state = {name: x.half().contiguous() for name, x in clip.clip.state_dict().items()}
    with atomic_write(out) as half:
        write_tensors(half, state, {'token_ids': json.dumps(token_ids.tolist())})
    with atomic_write(out.with_suffix('.json')) as half:
        half.write_text(json.dumps(provenance, indent=1) + '\n')
