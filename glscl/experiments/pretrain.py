"""Train the small CLIP that stands in for OpenAI's: single frames of `shapes` and what can be said of one frame.

    python -m glscl.experiments.pretrain --out data/clip_small.safetensors

Frames come from seeds that no split of the data set uses. Contrastive loss as in CLIP; about half an hour on 2 cores."""
import argparse
import json
import math
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from ..clip_models import small_clip
from ..data.tokens import tokenize
from ..data.video import normalise, resize
from ..datasets import shapes
from ..encoders import normalised
from ..losses import contrastive
from ..runtime.devices import machine, pick_device, seed_everything


def frame_pool(n, seed, workers=2):
    """n frames and captions: uint8 [n, 32, 32, 3], ids [n, 32], mask [n, 32]."""
    chunk = 1000
    with ProcessPoolExecutor(workers) as pool:
        parts = list(pool.map(shapes.frame_captions, range(seed, seed + n // chunk), [chunk] * (n // chunk)))
    frames = np.stack([resize(f, 32) for part in parts for f in part[0]])
    return frames, *tokenize([c for part in parts for c in part[1]])


def main():
    """Train, and keep weights and provenance every 250 steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--out', default='data/clip_small.safetensors')
    parser.add_argument('--steps', type=int, default=3000)
    parser.add_argument('--stop', type=int, default=2250, help='end here on the schedule of --steps: accuracy is flat by then')
    parser.add_argument('--batch', type=int, default=256)
    parser.add_argument('--frames', type=int, default=40000)
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--seed', type=int, default=10_000_000)
    args = parser.parse_args()
    seed_everything(args.seed)
    device = pick_device('auto')
    frames, ids, mask = frame_pool(args.frames, args.seed)
    held = slice(0, 1000)  # never trained on
    clip, token_ids = small_clip(shapes.vocabulary())
    clip.to(device)
    optimizer = torch.optim.AdamW(clip.parameters(), lr=args.lr, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, args.steps, pct_start=0.05)

    def scores(rows):
        x = normalised(clip.encode_frames(normalise(frames[rows]).to(device)))
        longest = int(mask[rows].sum(1).max())
        e = normalised(clip.encode_words(ids[rows, :longest].to(device), mask[rows, :longest].to(device))[0])
        return e @ x.T

    def save(step, top1):
        state = {k: v.half().contiguous() for k, v in clip.clip.state_dict().items()}
        save_file(state, args.out, {'token_ids': json.dumps(token_ids.tolist())})
        provenance = dict(command='python -m glscl.experiments.pretrain', **vars(args), steps_done=step, minutes=round((time.time() - start) / 60, 1),
                          held_out_frame_top1_of_1000=round(top1, 3), weights='float16', **machine())
        Path(args.out).with_suffix('.json').write_text(json.dumps(provenance, indent=1) + '\n')

    start = time.time()
    for step in range(1, min(args.stop, args.steps) + 1):
        rows = torch.randint(1000, len(frames), (args.batch,)).numpy()
        loss = contrastive(scores(rows), clip.clip.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        clip.clip.logit_scale.data.clamp_(max=math.log(100))
        if step % 250 == 0 or step == args.stop:
            with torch.no_grad():
                top1 = (scores(np.arange(1000)[held]).argmax(1).cpu() == torch.arange(1000)).float().mean().item()
            save(step, top1)
            print(f'step {step}: loss {loss.item():.3f}, held-out top-1 of 1000 {top1:.3f}, {(time.time() - start) / 60:.1f} min', flush=True)


if __name__ == '__main__':
    main()
