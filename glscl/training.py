"""The training loop and its schedule.

    python -m glscl.training --recipe shapes --run-dir runs/mine
"""
import argparse
import dataclasses
import json
import math
import time
from pathlib import Path

import numpy as np
import torch

from .checkpoints import atomic, load_model, save_model, save_result
from .config import load_config
from .datasets import load_shapes, load_split
from .evaluation import evaluate
from .model import GLSCL
from .optimizers import RELEASED_EPOCHS, BertAdam, warmup_cosine_released
from .runtime import autocast, pick_device, precision, seed_everything
from .store import clip_features, encode_read
from .video import VideoError


def warmup_cosine(step, total, warmup=0.1):
    """Learning-rate factor at a step: linear up over the warm-up share, then a cosine down to 0."""
    start = max(1, round(warmup * total))
    if step < start:
        return (step + 1) / start
    return 0.5 * (1 + math.cos(math.pi * min(1, (step - start) / max(1, total - start))))


class Trainer:
    """One training run: step by step, resumable at any of them.

    config: Config; train, val: Pairs; run_dir: where last.pt, best.safetensors and history.json go (None: nowhere)."""

    def __init__(self, config, train, val, run_dir=None, seed=0, device='auto', steps=None, eval_every=None):
        self.config, self.train, self.val, self.seed = config, train, val, seed
        self.device, self.run_dir = pick_device(device), Path(run_dir) if run_dir else None
        if len(train) < 2:
            raise ValueError(f'{len(train)} captions are too few to contrast')
        self.batch = min(config.batch_size, len(train))
        self.per_epoch = len(train) // self.batch
        self.total = steps or max(1, round(config.epochs * self.per_epoch))
        self.eval_every = eval_every or max(1, self.total // 4)
        seed_everything(seed)
        self.model = GLSCL(config).to(self.device).train()
        kind, factor, span = ((BertAdam, warmup_cosine_released, RELEASED_EPOCHS * self.per_epoch)
                              if config.optimizer == 'bert_adam' else (torch.optim.AdamW, warmup_cosine, self.total))
        self.optimizer = kind(self.model.parameter_groups(), betas=(0.9, 0.98), eps=1e-6)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: factor(step, span, config.warmup))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision(self.device) == torch.float16)
        self.step, self.best, self.history, self.seconds = 0, -1.0, [], 0.0
        self.source = None

    def batch_rows(self, step):
        """Caption rows of a step: each epoch a permutation of its own seed, the last uneven batch dropped."""
        epoch, at = divmod(step, self.per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train))
        return order[at * self.batch:(at + 1) * self.batch]

    def batches(self, until):
        """(caption rows, (what the store gives of their videos, mask)) of each step to `until`; the next are read meanwhile."""
        if self.source is None:
            self.source = clip_features(self.model, self.train) if self.config.freeze_clip else self.train.frames
        steps = range(self.step, until)
        videos = (self.train.text_to_video[self.batch_rows(step)] for step in steps)
        return zip(map(self.batch_rows, steps), self.source.blocks(videos))

    def train_step(self, batch=None):
        """One optimizer step on a batch of `batches` (default: the next); returns the losses as floats.

        A video that can no longer be read takes its captions out of the batch, which is that much smaller."""
        rows, (read, mask) = batch or next(self.batches(self.step + 1))
        if not (there := mask.any(1)).all():
            rows, read, mask = rows[there], read[there], mask[there]
        if not len(rows):
            raise VideoError(f'none of the videos of step {self.step} can be read any more (the first: '
                             f'{next(iter(self.source.lost.values()))}): is the disk still there? '
                             f'A later run goes on from the last checkpoint.')
        owners = self.train.text_to_video[rows]
        with autocast(self.device):
            texts = self.model.encode_texts(*self.train.texts(rows, self.device))
            videos = encode_read(self.model, read, mask)
            losses = self.model.losses(texts, videos, owners.to(self.device))
        if not torch.isfinite(losses.total):
            raise FloatingPointError(f'the loss is {losses.total.item()} at step {self.step} (caption rows {rows[:8].tolist()} …): '
                                     f'lower lr, or look at these rows')
        self.optimizer.zero_grad()
        self.scaler.scale(losses.total).backward()
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.model.clip.clip.logit_scale.data.clamp_(max=math.log(100))
        self.step += 1
        return dict(step=self.step, total=losses.total.item(), contrastive=losses.contrastive.item(),
                    inter_consistency=losses.inter_consistency.item(), intra_diversity=losses.intra_diversity.item(),
                    lr=self.schedule.get_last_lr()[0])

    def run(self, until=None, log=print, save_every=None):
        """Train to step `until` (default: the end), validating and saving on the way; returns the model, best weights loaded."""
        save_every, until = save_every or self.eval_every, until or self.total
        log = log or (lambda *_: None)
        start = time.time() - self.seconds
        lost = 0
        for batch in self.batches(until):
            self.history.append(self.train_step(batch))
            if len(self.source.lost) > lost:
                lost = len(self.source.lost)
                log(f'{lost} videos can no longer be read and are left out of their batches; the last: '
                    f'{list(self.source.lost.values())[-1]}')
            if self.step % self.eval_every == 0 or self.step == self.total:
                self.validate()
                log(f'step {self.step:4d} of {self.total}: loss {self.history[-1]["total"]:.3f}, '
                    f'validation R@1 {self.history[-1]["val R@1"]:.1f}')
            self.seconds = time.time() - start
            if self.run_dir and (self.step % save_every == 0 or self.step == self.total):
                self.save()
        if self.run_dir and self.step == self.total and (self.run_dir / 'best.safetensors').exists():
            self.model.load_state_dict(load_model(self.run_dir).state_dict())
        return self.model.eval()

    def validate(self):
        """Text-to-video R@1 on the validation split; the best so far is kept."""
        metrics = evaluate(self.model, self.val)[1]['t2v']
        self.history[-1].update({f'val {k}': metrics[k] for k in ('R@1', 'R@5', 'R@10')})
        if metrics['R@1'] > self.best:
            self.best = metrics['R@1']
            if self.run_dir:
                save_model(self.model, self.run_dir / 'best.safetensors')

    def save(self):
        """Everything the next step depends on, in one atomic file."""
        state = dict(model=self.model.state_dict(), optimizer=self.optimizer.state_dict(), schedule=self.schedule.state_dict(),
                     scaler=self.scaler.state_dict(), step=self.step, best=self.best, history=self.history, seconds=self.seconds,
                     seed=self.seed, total=self.total, config=dataclasses.asdict(self.config), rng=torch.get_rng_state(),
                     cuda_rng=torch.cuda.get_rng_state_all() if self.device.type == 'cuda' else [])
        atomic(self.run_dir / 'last.pt', lambda p: torch.save(state, p))
        atomic(self.run_dir / 'history.json', lambda p: p.write_text(json.dumps(self.history)))

    def resume(self):
        """Go on from last.pt if there is one; returns whether there was. Bit-equal to a run without interruption."""
        path = self.run_dir / 'last.pt' if self.run_dir else None
        if path is None or not path.exists():
            return False
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
        except Exception as error:  # torch has one class for a cut file, another for a foreign one, a third for an empty one
            raise ValueError(f'{path} is damaged ({" ".join(str(error).split())[:160]}): delete it to begin anew, '
                             f'or name a new run_dir') from error
        differ = [k for k, v in dataclasses.asdict(self.config).items() if state['config'].get(k) != v]
        differ += [k for k, v in dict(seed=self.seed, total=self.total).items() if state[k] != v]
        if differ:
            raise ValueError(f'{path} was made with other settings ({", ".join(differ)}): name a new run_dir, or delete it')
        self.model.load_state_dict(state['model'])
        for part in ('optimizer', 'schedule', 'scaler'):
            getattr(self, part).load_state_dict(state[part])
        for name in ('step', 'best', 'history', 'seconds'):
            setattr(self, name, state[name])
        torch.set_rng_state(state['rng'].cpu())
        if state['cuda_rng']:
            torch.cuda.set_rng_state_all([s.cpu() for s in state['cuda_rng']])
        return True


def main(argv=None):
    """Train a recipe on its data set, evaluate on the test split, write result.json."""
    parser = argparse.ArgumentParser(prog='python -m glscl.training', description=main.__doc__)
    parser.add_argument('--recipe', default='shapes')
    parser.add_argument('--run-dir', default='runs/default')
    parser.add_argument('--data-dir')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--device', default='auto')
    parser.add_argument('--set', nargs='*', default=[], metavar='KEY=VALUE', help='settings that override the recipe')
    args = parser.parse_args(argv)
    import yaml
    overrides = {k: yaml.safe_load(v) for k, v in (item.split('=', 1) for item in args.set)}
    config = load_config(args.recipe, **overrides)
    train, val = (load_split(config, split, args.data_dir, log=print) for split in ('train', config.select_on))
    test = val if config.select_on == 'test' else load_split(config, 'test', args.data_dir, log=print)
    trainer = Trainer(config, train, val, args.run_dir, args.seed, args.device)
    if trainer.resume():
        print(f'going on at step {trainer.step}')
    model = trainer.run()
    metrics, extra = evaluate(model, test)[1], {}
    if config.dataset == 'shapes':
        extra['by_kind'] = {kind: evaluate(model, load_shapes(config, 'test', kind, args.data_dir))[1]
                            for kind in ('scene', 'order')}
    save_result(Path(args.run_dir) / 'result.json', data=config.dataset, split='test', selected_on=config.select_on,
                recipe=args.recipe, overrides=overrides, seed=args.seed, steps=trainer.total,
                train_seconds=round(trainer.seconds), metrics=metrics, **extra,
                command=f'python -m glscl.training --recipe {args.recipe} --seed {args.seed}'
                + (f' --set {" ".join(args.set)}' if args.set else ''))
    for direction in ('t2v', 'v2t'):
        m = metrics[direction]
        print(direction, ' '.join(f'{k} {m[k]:.1f}' for k in ('R@1', 'R@5', 'R@10', 'R@50', 'MdR', 'MnR')))


if __name__ == '__main__':
    main()
