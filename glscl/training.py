"""The training loop and its schedule. A step, from top to bottom: `Trainer.train_step`.

    seed_everything(seed)
    trainer = Trainer(GLSCL(config).to(device), train, val, run_dir='runs/mine', seed=seed)
    trainer.resume()
    model = trainer.run()

Within `distributed.processes` each of W processes makes one Trainer and calls its methods in the
same order; they take the steps that one process would take, and the first one writes."""
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .checkpoints import fill_model, one_writer, read_run_state, restore, save_model, writing
from .clip_models import ClipModel
from .data.batch import Batch, tensors
from .data.errors import VideoError
from .evaluation import evaluate, frozen_features
from .model import Texts
from .runtime import devices, distributed
from .runtime.files import read_tensors, remove_halves

SAVE_SECONDS = 600  # between two checkpoints at most
LOSSES = ('total', 'contrastive', 'inter_consistency', 'intra_diversity')


def warmup_cosine(step: int, total: int, warmup: float = 0.1) -> float:
    """Learning-rate factor at a step: up in a line over the warm-up share, then a cosine to 0."""
    start = max(1, round(warmup * total))
    if step < start:
        return (step + 1) / start
    return 0.5 * (1 + math.cos(math.pi * min(1, (step - start) / max(1, total - start))))


class Step(nn.Module):
    """A batch to its losses: encode, gather over the processes, compare all with all.

    What `distributed.parallel` wraps, so that its backward pass shares the gradients."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch, only_encode=False):
        """This process's Batch -> Losses of all processes' batches together.

        only_encode: the tensors of the encoded items instead (gradient caching's second pass)."""
        texts, videos = self.encode(batch)
        if only_encode:
            return tensors(texts, videos)
        return self.losses(texts, videos, batch.video_ids)

    def encode(self, batch):
        """Batch -> (Texts, Videos); without words, which no loss of GLSCL's needs any more."""
        with devices.autocast(self.model.device):
            texts, videos = self.model.encode(batch)
        if isinstance(texts, Texts):
            texts.words = None
        return texts, videos

    def losses(self, texts, videos, video_ids):
        """What this process encoded, with what the others did -> Losses"""
        texts, videos, video_ids = distributed.gather(texts, videos, video_ids)
        if distributed.world() > 1:  # a process without a readable video has sent a blank one
            readable = videos.mask.any(1)
            if not readable.all():
                texts, videos, video_ids = texts[readable], videos[readable], video_ids[readable]
        with devices.autocast(self.model.device):
            return self.model.losses(texts, videos, video_ids)


class Trainer:
    """One training run: step by step, resumable at any of them.

    model: a GLSCL, or a rival's model of `glscl.heads`, on its device; its config has the settings,
    and whoever built it has seeded its weights (`devices.seed_everything`). train, val: Pairs.
    run_dir: where last.pt, best.safetensors and history.json go (None: nowhere). seed: of the order
    of the captions. steps: how many (default: the config's epochs). eval_every: steps between
    validations (default: a quarter of all). Too few captions for a batch raise ValueError."""

    def __init__(self, model: ClipModel, train, val, run_dir: str | Path | None = None,
                 seed: int = 0, steps: int | None = None, eval_every: int | None = None):
        self.model, self.train, self.val, self.seed = model.train(), train, val, seed
        self.config, self.device = model.config, model.device
        self.run_dir = Path(run_dir) if run_dir else None
        self.batch_size = min(self.config.batch_size, len(train))
        self._check_sizes()
        devices.deterministic(self.config.deterministic or self.device.type != 'cuda')
        self.per_epoch = len(train) // self.batch_size
        self.total = steps or max(1, round(self.config.epochs * self.per_epoch))
        self.eval_every = eval_every or max(1, self.total // 4)
        if self.config.compile:  # block by block: one small graph serves all
            for block in model.clip.visual.transformer.resblocks:
                block.compile()
        # The first process goes on drawing where the weights left off; each other one has dropout
        # of its own, else the shares of a batch would lose the same units.
        if distributed.rank():
            torch.manual_seed(seed + distributed.rank())
        self.forward = distributed.parallel(Step(model), unused=bool(self.config.chunk))
        self.optimizer, self.schedule = self.configure_optimizers()
        half = devices.precision(self.device) == torch.float16  # that alone needs scaled losses
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=half)
        self.step, self.best, self.history, self.seconds = 0, -1.0, [], 0.0
        if self.config.cuda_graph:
            from .cuda_graph import recorded
            self.backward = recorded(self)
        # Rows of the history whose losses are still on the device, and how many may be.
        self.unread, self.read_every = [], 1
        self.writes = distributed.rank() == 0  # the others would only write the same once more

    def _check_sizes(self):
        if len(self.train) < 2:
            raise ValueError(f'{len(self.train)} captions are too few to contrast')
        if self.batch_size < 2:
            raise ValueError('a batch of 1 caption has nothing to contrast: raise batch_size')
        if self.batch_size < distributed.world():
            raise ValueError(f'a batch of {self.batch_size} captions is too small for '
                             f'{distributed.world()} processes')
        if self.config.chunk and self.device.type == 'mps':
            raise ValueError('chunk needs the CPU or CUDA: torch cannot draw the same dropout '
                             'twice on MPS')

    def configure_optimizers(self):
        """(optimizer, schedule): torch's AdamW under a cosine, or both as released."""
        groups, warmup = self.model.parameter_groups(), self.config.warmup
        if self.config.optimizer == 'bert_adam':
            from .released.optimizer import RELEASED_EPOCHS, BertAdam, warmup_cosine_released
            span = RELEASED_EPOCHS * self.per_epoch
            optimizer = BertAdam(groups, betas=(0.9, 0.98), eps=1e-6)

            def factor(step):
                return warmup_cosine_released(step, span, warmup)
        else:
            fused = self.device.type == 'cuda' or None
            optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6, fused=fused)

            def factor(step):
                return warmup_cosine(step, self.total, warmup)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    # a step

    def train_step(self, batch: Batch | None = None) -> dict:
        """One optimizer step on a Batch (default: the next); returns the losses as floats."""
        if batch is None:
            batch = next(self.batches(self.step + 1))
        batch = self._readable(batch).to(self.device)
        self.optimizer.zero_grad()
        losses = self.backward(batch)
        if self.config.released and distributed.world() > 1:
            from .released.optimizer import share_as_released
            share_as_released(self.model, distributed.world())
        # One norm over all gradients, CLIP's and the new modules' together, as in the paper's
        # recipe. In float16 the scaler's factor goes out first; it skips a step that overflowed.
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        row = self._note(losses, norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        # CLIP's rule: s = exp(logit_scale) stays at 100 at most, else the softmax saturates.
        self.model.logit_scale.data.clamp_(max=math.log(100))
        self.step += 1
        row['lr'] = self.schedule.get_last_lr()[0]
        return row

    def backward(self, batch):
        """The Losses of a Batch, and their gradients in every parameter."""
        size = self.config.chunk or len(batch)
        if len(batch) > size:
            from .gradient_caching import cached_backward  # a batch that fits needs none of it
            chunks = [batch[i:i + size] for i in range(0, len(batch), size)]
            return cached_backward(self, batch, chunks)
        losses = self.forward(batch)
        self.scaler.scale(losses.total).backward()
        return losses

    def _note(self, losses, norm):
        """The history's row of a step, before it touches a weight; norm: of all gradients.

        Whoever reads a loss waits for the GPU: in `run` several wait there for `read`. A step whose
        loss or norm is no number changes nothing: the fused optimizer sees to it there."""
        row = dict(step=self.step + 1)
        found = torch.stack([*(getattr(losses, name) for name in LOSSES), norm]).detach()
        self.unread.append((row, found))
        if self.optimizer.defaults.get('fused'):
            self.optimizer.found_inf = (~found.isfinite().all()).float()
        if len(self.unread) >= self.read_every:
            self.read()
        return row

    def read(self):
        """Fill the rows whose losses are still on the device; FloatingPointError for the first one
        that is no number."""
        unread, self.unread = self.unread, []
        found = torch.stack([x for _, x in unread]).tolist() if unread else []
        for (row, _), (*losses, norm) in zip(unread, found):
            row.update(zip(LOSSES, losses))
            # In float16 a gradient may overflow: the scaler passes over that step, and goes on.
            if not math.isfinite(losses[0] + (0 if self.scaler.is_enabled() else norm)):
                rows = self.batch_rows(row['step'] - 1)[:8].tolist()
                raise FloatingPointError(
                    f'the loss is {losses[0]} at step {row["step"] - 1} (caption rows {rows} …), '
                    f'the norm of its gradients {norm}: lower lr, or look at these rows')

    def _readable(self, batch):
        """The batch without captions whose video can no longer be read. A process left with nothing
        keeps one, blank, to have something to encode; `Step.losses` drops it again."""
        readable = batch.frame_mask.any(1)                                  # [B]
        if not any(distributed.objects(bool(readable.any()))):
            first = next(iter(self.train.lost.values()))
            raise VideoError(f'none of the videos of step {self.step} can be read any more (the '
                             f'first: {first}): is the disk still there? A later run goes on from '
                             f'the last checkpoint.')
        if readable.all():
            return batch
        if not readable.any():
            readable[0] = True
        return batch[readable]

    # a run

    def batch_rows(self, step):
        """The caption rows of a step, over all processes: each epoch a permutation of its own
        seed, the last uneven batch dropped."""
        # Drawn from the step's number alone, so that a resumed run needs no state for it.
        epoch, at = divmod(step, self.per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.train))
        return order[at * self.batch_size:(at + 1) * self.batch_size]

    def batches(self, until):
        """The Batch of each step to `until`, of this process's share; the next ones are read
        meanwhile."""
        # Not before the first step: what is kept depends on the weights, which `resume` may load.
        self.train = frozen_features(self.model, self.train)
        return self.train.batches(self.batch_rows(step) for step in range(self.step, until))

    def run(self, until: int | None = None, log: Callable | None = print,
            save_every: int | None = None) -> ClipModel:
        """Train to step `until` (default: the end), validating and saving on the way; returns the
        model, the best weights loaded.

        log: called with a line now and then, or None. save_every: steps between checkpoints
        (default: at each validation, and ten minutes after the last one). After SIGTERM or Ctrl-C
        it saves at the end of the step and raises SystemExit(143) or KeyboardInterrupt. ValueError
        where another process writes to run_dir, and says which."""
        from .data.prefetch import ahead  # a step needs none of these
        from .journal import Journal
        from .runtime.signals import stop_noted, stopped
        until, save_every = until or self.total, save_every or self.eval_every
        start, saved = time.time() - self.seconds, time.time()
        with one_writer(self.run_dir), stop_noted() as noted, Journal(self, log) as journal:
            for batch in ahead(self.batches(until), self.device):
                self.history.append(self.train_step(batch))
                finished = self.step == self.total
                if finished or self.step % self.eval_every == 0:
                    self.validate()
                journal.step()
                self.seconds = time.time() - start
                asked = noted[0] if noted else time.time() - saved > SAVE_SECONDS
                asked = max(distributed.objects(int(asked)))  # all at the same step
                if self.run_dir and (asked or finished or self.step % save_every == 0):
                    journal.save()  # before the checkpoint: the history is never behind it
                    self.save()
                    saved = time.time()
                if asked > 1:
                    kept = 'saved: the same command goes on' if self.run_dir else 'not saved'
                    raise stopped(asked, f'stopped at step {self.step} of {self.total}; {kept}')
        if self.run_dir and self.step == self.total:
            self._load_best()
        return self.model.eval()

    def validate(self) -> None:
        """Text-to-video recall on the validation split, into the history; the best is kept."""
        self.read()
        metrics = evaluate(self.model, self.val)[1]['t2v']
        for key in ('R@1', 'R@5', 'R@10'):
            self.history[-1][f'val {key}'] = metrics[key]
        if metrics['R@1'] > self.best:
            self.best = metrics['R@1']
            if self.run_dir and self.writes:
                save_model(self.model, self.run_dir / 'best.safetensors')

    def _load_best(self):
        path = self.run_dir / 'best.safetensors'
        if self.writes and path.exists():
            fill_model(self.model, read_tensors(path)[0], path)
        distributed.broadcast(self.model)

    # checkpoints

    def save(self) -> None:
        """Everything that the next step depends on, in one file that appears whole."""
        self.read()
        rng = torch.stack(distributed.objects(devices.rng_state(self.device)))
        state = dict(model=self.model.state_dict(), optimizer=self.optimizer.state_dict(),
                     schedule=self.schedule.state_dict(), scaler=self.scaler.state_dict(),
                     step=self.step, best=self.best, history=self.history, seconds=self.seconds,
                     seed=self.seed, total=self.total, config=dataclasses.asdict(self.config),
                     rng=rng)
        if self.writes:
            with writing(self.run_dir / 'last.pt') as half:
                torch.save(state, half)

    def resume(self) -> bool:
        """Go on from last.pt if there is one; returns whether there was. Bit-equal to a run without
        interruption; with another number of processes it goes on too, with other dropout.

        A damaged last.pt, or one made with other settings, raises ValueError with what to do."""
        path = self.run_dir / 'last.pt' if self.run_dir else None
        with one_writer(self.run_dir):
            if path and self.writes:
                remove_halves(self.run_dir)
        if not distributed.file_there(path):
            return False
        state = read_run_state(path, self.config, seed=self.seed, total=self.total)
        restore(path, state, self.model, self.optimizer, schedule=self.schedule,
                scaler=self.scaler)
        for name in ('step', 'best', 'history', 'seconds'):
            setattr(self, name, state[name])
        if distributed.rank() < len(state['rng']):
            devices.set_rng_state(self.device, state['rng'][distributed.rank()])
        return True
