"""The training loop and its schedule.

    python -m glscl.training --recipe shapes --run-dir runs/mine
    torchrun --nproc-per-node=2 -m glscl.training --recipe msrvtt --data-dir MSRVTT --run-dir runs/two

Every process must see the run-dir. SIGTERM saves at the end of the step and exits with 143; the same command goes on from
there (data/slurm.sh does so on a cluster)."""
import argparse
import dataclasses
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.checkpoint import checkpoint

from .runtime import distributed
from .checkpoints import atomic, fill_model, read_checkpoint, save_model, save_result, sweep
from .config import load_config
from .data.pairs import load_shapes, load_split
from .evaluation import evaluate
from .heads import build
from .model import Texts
from .released.optimizer import RELEASED_EPOCHS, BertAdam, warmup_cosine_released
from .runtime.devices import autocast, pick_device, precision, rng_state, seed_everything, set_rng_state, sigterm_noted
from .data.feature_cache import clip_features, encode_read, encode_said, word_features
from .data.video import VideoError


def warmup_cosine(step, total, warmup=0.1):
    """Learning-rate factor at a step: linear up over the warm-up share, then a cosine down to 0."""
    start = max(1, round(warmup * total))
    if step < start:
        return (step + 1) / start
    return 0.5 * (1 + math.cos(math.pi * min(1, (step - start) / max(1, total - start))))


class Trainer:
    """One training run: step by step, resumable at any of them.

    config: Config; train, val: Pairs; run_dir: where last.pt, best.safetensors and history.json go (None: nowhere).
    Within `distributed.processes` each of W processes makes one of these, and calls its methods in the same order; they take
    the steps that one process would take, and the first one writes."""

    def __init__(self, config, train, val, run_dir=None, seed=0, device='auto', steps=None, eval_every=None):
        self.config, self.train, self.val, self.seed = config, train, val, seed
        self.device, self.run_dir = pick_device(device), Path(run_dir) if run_dir else None
        if len(train) < 2:
            raise ValueError(f'{len(train)} captions are too few to contrast')
        self.batch = min(config.batch_size, len(train))
        if self.batch < distributed.world():
            raise ValueError(f'a batch of {self.batch} captions is too small for {distributed.world()} processes')
        if config.chunk and self.device.type == 'mps':
            raise ValueError('chunk needs the CPU or CUDA: torch cannot draw the same dropout twice on MPS')
        self.per_epoch = len(train) // self.batch
        self.total = steps or max(1, round(config.epochs * self.per_epoch))
        self.eval_every = eval_every or max(1, self.total // 4)
        seed_everything(seed)
        self.model = build(config).to(self.device).train()
        if config.compile:
            self.model.clip.clip.visual.compile()
        distributed.broadcast(self.model)
        if rank := distributed.rank():
            torch.manual_seed(seed + rank)  # dropout of its own
        kind, factor, span = ((BertAdam, warmup_cosine_released, RELEASED_EPOCHS * self.per_epoch)
                              if config.optimizer == 'bert_adam' else (torch.optim.AdamW, warmup_cosine, self.total))
        self.optimizer = kind(self.model.parameter_groups(), betas=(0.9, 0.98), eps=1e-6)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: factor(step, span, config.warmup))
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision(self.device) == torch.float16)
        self.step, self.best, self.history, self.seconds = 0, -1.0, [], 0.0
        self.source, self.words, self.writes = None, train, distributed.rank() == 0

    def batch_rows(self, step):
        """Caption rows of a step: each epoch a permutation of its own seed, the last uneven batch dropped."""
        epoch, at = divmod(step, self.per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train))
        return order[at * self.batch:(at + 1) * self.batch]

    def batches(self, until):
        """(caption rows, (what the store gives of their videos, mask)) of each step to `until`; the next are read meanwhile.

        Of several processes each gets the rows of all, and the videos of its share."""
        if self.source is None:
            self.source = clip_features(self.model, self.train) if self.model.takes_features else self.train.frames
            if self.model.takes_features and self.config.mask_padding:
                self.words = word_features(self.model, self.train)
        steps = range(self.step, until)
        videos = (self.train.text_to_video[distributed.rows_of(self.batch_rows(step))] for step in steps)
        return zip(map(self.batch_rows, steps), self.source.blocks(videos))

    def train_step(self, batch=None):
        """One optimizer step on a batch of `batches` (default: the next); returns the losses as floats.

        A video that can no longer be read takes its captions out of the batch, which is that much smaller."""
        rows, (read, mask) = batch or next(self.batches(self.step + 1))
        rows, mine, read, mask = self._readable(rows, read, mask)
        said, words_mask = self.words.texts(rows, self.device)  # as long as the longest of all processes
        texts, videos = self.encode(said[mine], words_mask[mine], read, mask)
        texts, videos, owners = distributed.gather(texts, videos, self.train.text_to_video[rows[mine]].to(self.device))
        if distributed.world() > 1 and not (seen := videos.mask.any(1)).all():
            texts, videos, owners = texts[seen], videos[seen], owners[seen]
        with autocast(self.device):
            losses = self.model.losses(texts, videos, owners)
        if not torch.isfinite(losses.total):
            raise FloatingPointError(f'the loss is {losses.total.item()} at step {self.step} (caption rows {rows[:8].tolist()} …): '
                                     f'lower lr, or look at these rows')
        self.optimizer.zero_grad()
        self.scaler.scale(losses.total).backward()
        self._share_gradients()
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

    def encode(self, said, words_mask, read, mask):
        """Texts (without words: no loss of GLSCL's needs them) and Videos, of captions and of what the store gives of their videos.

        With `chunk` so many at a time, of which the features are kept and the activations made again in the backward pass, with
        the same dropout (gradient caching, Gao et al. 2021): the gradients of the whole batch in the memory of a chunk."""
        n, size = len(said), self.config.chunk or len(said)
        if n > size:
            chunks = (slice(i, i + size) for i in range(0, n, size))
            parts = [checkpoint(self.encode, said[c], words_mask[c], read[c], mask[c], use_reentrant=False) for c in chunks]
            return tuple(items[0].cat(items) for items in zip(*parts))
        with autocast(self.device):
            texts, videos = encode_said(self.model, said, words_mask), encode_read(self.model, read, mask)
        if isinstance(texts, Texts):
            texts.words = None
        return texts, videos

    def _readable(self, rows, read, mask):
        """The batch without captions whose video can no longer be read: (rows of all processes, which of them are this one's,
        what was read of their videos, mask). A process left with nothing keeps one, blank, to have something to encode."""
        there, at = distributed.objects(mask.any(1)), distributed.rank()
        if not any(share.any() for share in there):
            raise VideoError(f'none of the videos of step {self.step} can be read any more (the first: '
                             f'{next(iter(self.source.lost.values()))}): is the disk still there? '
                             f'A later run goes on from the last checkpoint.')
        for share in there:
            share[0] |= not share.any()
        if not all(share.all() for share in there):
            rows, read, mask = rows[np.concatenate(there)], read[there[at]], mask[there[at]]
        ends = np.cumsum([0, *(share.sum() for share in there)])
        return rows, slice(ends[at], ends[at + 1]), read, mask

    def _share_gradients(self):
        """Every process gets the gradients of the whole batch.

        In the released code all-gather's backward gave each process the gradient of its own rows, where the mean that follows
        asks for W times that: with W processes the encoders' gradients are 1/W of the head's, which sees gathered features."""
        distributed.average_gradients(self.model.parameters())
        if self.config.released and distributed.world() > 1:
            for name, p in self.model.named_parameters():
                if p.grad is not None and not name.startswith('local.') and not name.endswith('logit_scale'):
                    p.grad /= distributed.world()

    def run(self, until=None, log=print, save_every=None):
        """Train to step `until` (default: the end), validating and saving on the way; returns the model, best weights loaded.

        After SIGTERM it saves at the end of the step and raises SystemExit(143)."""
        save_every, until = save_every or self.eval_every, until or self.total
        log = log or (lambda *_: None)
        start = time.time() - self.seconds
        lost = 0
        with sigterm_noted() as asked:
            for batch in self.batches(until):
                self.history.append(self.train_step(batch))
                if len(self.source.lost) > lost:  # of several processes each tells of its own
                    lost = len(self.source.lost)
                    log(f'{lost} videos can no longer be read and are left out of their batches; the last: '
                        f'{list(self.source.lost.values())[-1]}')
                if self.step % self.eval_every == 0 or self.step == self.total:
                    self.validate()
                    if self.writes:
                        log(f'step {self.step:4d} of {self.total}: loss {self.history[-1]["total"]:.3f}, '
                            f'validation R@1 {self.history[-1]["val R@1"]:.1f}')
                self.seconds = time.time() - start
                stop = any(distributed.objects(asked.is_set()))  # all stop at the same step
                if self.run_dir and (stop or self.step % save_every == 0 or self.step == self.total):
                    self.save()
                if stop:
                    raise SystemExit(143)  # 128 + SIGTERM: not finished, for whoever started it
        if self.run_dir and self.step == self.total:
            if self.writes and (self.run_dir / 'best.safetensors').exists():
                fill_model(self.model, read_checkpoint(self.run_dir)[2], self.run_dir)
            distributed.broadcast(self.model)
        return self.model.eval()

    def validate(self):
        """Text-to-video R@1 on the validation split; the best so far is kept."""
        metrics = evaluate(self.model, self.val)[1]['t2v']
        self.history[-1].update({f'val {k}': metrics[k] for k in ('R@1', 'R@5', 'R@10')})
        if metrics['R@1'] > self.best:
            self.best = metrics['R@1']
            if self.run_dir and self.writes:
                save_model(self.model, self.run_dir / 'best.safetensors')

    def save(self):
        """Everything the next step depends on, in one atomic file."""
        state = dict(model=self.model.state_dict(), optimizer=self.optimizer.state_dict(), schedule=self.schedule.state_dict(),
                     scaler=self.scaler.state_dict(), step=self.step, best=self.best, history=self.history, seconds=self.seconds,
                     seed=self.seed, total=self.total, config=dataclasses.asdict(self.config),
                     rng=torch.stack(distributed.objects(rng_state(self.device))))
        if self.writes:
            atomic(self.run_dir / 'history.json', lambda p: p.write_text(json.dumps(self.history)))
            atomic(self.run_dir / 'last.pt', lambda p: torch.save(state, p))  # last: history is then never behind

    def resume(self):
        """Go on from last.pt if there is one; returns whether there was. Bit-equal to a run without interruption.

        With another number of processes it goes on too, with other dropout."""
        path = self.run_dir / 'last.pt' if self.run_dir else None
        if path and self.writes:
            sweep(self.run_dir)
        found = distributed.objects(path is not None and path.exists())
        if any(found) and not all(found):
            raise FileNotFoundError(f'{path} is seen by {sum(found)} of {len(found)} processes: '
                                    f'put run_dir on a disk that all share')
        if not all(found):
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
        if distributed.rank() < len(state['rng']):
            set_rng_state(self.device, state['rng'][distributed.rank()])
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
    with distributed.processes(args.device) as device:
        train_recipe(load_config(args.recipe, **overrides), device, args, overrides)


def train_recipe(config, device, args, overrides):
    """What `main` does in each process."""
    say = distributed.say
    with distributed.first_here():
        train, val = (load_split(config, split, args.data_dir, log=say) for split in ('train', config.select_on))
        test = val if config.select_on == 'test' else load_split(config, 'test', args.data_dir, log=say)
    trainer = Trainer(config, train, val, args.run_dir, args.seed, device)
    if trainer.resume():
        say(f'going on at step {trainer.step}')
    model = trainer.run()
    metrics, extra = evaluate(model, test)[1], {}
    if config.dataset == 'shapes':
        extra['by_kind'] = {kind: evaluate(model, load_shapes(config, 'test', kind, args.data_dir))[1]
                            for kind in ('scene', 'order')}
    if not trainer.writes:
        return
    save_result(Path(args.run_dir) / 'result.json', data=config.dataset, split='test', selected_on=config.select_on,
                recipe=args.recipe, overrides=overrides, seed=args.seed, steps=trainer.total, processes=distributed.world(),
                train_seconds=round(trainer.seconds), metrics=metrics, **extra,
                command=f'python -m glscl.training --recipe {args.recipe} --seed {args.seed}'
                + (f' --set {" ".join(args.set)}' if args.set else ''))
    for direction in ('t2v', 'v2t'):
        m = metrics[direction]
        print(direction, ' '.join(f'{k} {m[k]:.1f}' for k in ('R@1', 'R@5', 'R@10', 'R@50', 'MdR', 'MnR')))


if __name__ == '__main__':
    main()
