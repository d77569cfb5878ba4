"""What a training run tells while it goes on: how far it is, history.json as it grows, and event
files for TensorBoard where that is installed."""
import json
import os
import time
from pathlib import Path

from .checkpoints import writing
from .runtime.progress import PAUSE, Progress

WAITING = 10  # steps whose losses are read in one go


class Journal:
    """Follows a Trainer: `step()` after each of its steps. Within it losses may wait on the device
    for WAITING steps where the optimizer passes over a step by itself whose loss is no number.

    log: called with a line now and then; None: nothing is said. Event files go into the run's
    folder, so that `tensorboard --logdir runs` shows several runs side by side."""

    def __init__(self, trainer, log=None):
        self.trainer, self.log, self.lost, self.told = trainer, log, 0, len(trainer.history)
        self.progress = self.events = None
        self.next_history = time.monotonic() + PAUSE
        if log:
            self.progress = Progress('training', trainer.total, 'steps', trainer.step,
                                     notebook=True)
        if trainer.run_dir and trainer.writes:
            self.events = _event_writer(trainer.run_dir, trainer.step + 1)

    def __enter__(self):
        if self.trainer.optimizer.defaults.get('fused'):
            self.trainer.read_every = WAITING
        return self

    def __exit__(self, error, *_):
        trainer, trainer.read_every = self.trainer, 1
        try:
            if error in (None, SystemExit, KeyboardInterrupt):
                trainer.read()
                self.step()
        finally:  # of a step that failed on the way nothing is known
            trainer.unread = []
            trainer.history[:] = [row for row in trainer.history if 'total' in row]
            self._close()

    def _close(self):
        if self.progress:
            self.progress.__exit__()
        if self.events:
            self.events.close()

    def step(self) -> None:
        """The trainer has taken a step; it is told once its losses are read."""
        if self.trainer.unread:
            return
        for row in self.trainer.history[self.told:]:
            self._tell(row)
        self.told = len(self.trainer.history)
        if time.monotonic() > self.next_history:
            self.save()

    def _tell(self, row):
        if self.log:
            self.progress.step(loss=row['total'])
            self._say(row)
        if self.events:
            for name in row.keys() - {'step'}:
                self.events.add_scalar(name, row[name], row['step'])

    def _say(self, row):
        """What deserves a line: each process's lost videos, and the first one's validations."""
        lost = list(self.trainer.train.lost.values())
        if len(lost) > self.lost:
            self.lost = len(lost)
            self.log(f'{len(lost)} videos can no longer be read and are left out of their '
                     f'batches; the last: {lost[-1]}')
        if 'val R@1' in row and self.trainer.writes:
            self.log(f'step {row["step"]:4d} of {self.trainer.total}: loss {row["total"]:.3f}, '
                     f'validation R@1 {row["val R@1"]:.1f}')

    def save(self) -> None:
        """Bring history.json up to the last step."""
        self.trainer.read()
        self.next_history = time.monotonic() + PAUSE
        if self.trainer.run_dir and self.trainer.writes:
            save_history(self.trainer.run_dir, self.trainer.history)


def save_history(run_dir: Path, history: list[dict]) -> None:
    """A run's history.json: a list of a dict a step."""
    with writing(run_dir / 'history.json') as half_written:
        half_written.write_text(json.dumps(history))


def read_history(run_dir: str | os.PathLike) -> list[dict]:
    """What `save_history` wrote; FileNotFoundError or ValueError with what to do."""
    path = Path(run_dir) / 'history.json'
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no history yet. It is written half a minute after the '
                                f'first step; is this the folder of a run?')
    try:
        history = json.loads(path.read_text(encoding='utf-8'))
        told = [(row['step'] + 0, row['total'] + 0) for row in history]
    except (ValueError, TypeError, KeyError):
        told = []
    if not told:
        raise ValueError(f'{path} holds no history of a run: delete it; a run that goes on writes '
                         f'it again')
    return history


def _event_writer(folder, first_step):
    """TensorBoard's writer, which drops what an earlier try wrote from `first_step` on."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the extra `tensorboard` is not installed
        return None
    return SummaryWriter(folder, purge_step=first_step)
