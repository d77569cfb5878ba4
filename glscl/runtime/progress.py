"""How far something long has come: a bar on a terminal, a line now and then in a log, one line that
changes in a notebook. Written to stderr, by the first of several processes."""
import sys
import time

from tqdm import tqdm

from . import distributed

FIRST, PAUSE = 10, 30  # seconds to the first line of a log, and between two of them


class Progress:
    """Counts the steps of something: `with Progress('training', 9000, 'steps') as told:` and in it
    `told.step()` after each, with what else there is to say, `loss=3.2`.

    done: steps that were taken before; notebook: show it there too, in an output that stays behind
    empty, so that stored outputs do not differ from run to run."""

    def __init__(self, what, total, unit, done=0, notebook=False):
        self.what, self.total, self.unit = what, total, unit
        self.before = self.done = done
        self.begun = time.monotonic()
        self.next_line = self.begun + FIRST
        self.first = distributed.rank() == 0
        self.bar = tqdm(desc=what, total=total, unit=f' {unit}', initial=done, leave=False,
                        dynamic_ncols=True, disable=not (self.first and sys.stderr.isatty()))
        self.display = None
        self.in_notebook = _in_notebook()
        if self.in_notebook and notebook and self.first:
            from IPython.display import display
            self.display = display(_Line(''), display_id=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.bar.close()
        if self.display:
            self.display.update(_Line(''))

    def step(self, n=1, **facts):
        """n more steps are done."""
        self.done += n
        self.bar.update(n)
        now = time.monotonic()
        if now < self.next_line or not self.first:
            return
        if self.display:
            self.display.update(_Line(self.line(facts)))
        elif not self.bar.disable:
            self.bar.set_postfix(facts)
        elif not self.in_notebook:
            print(self.line(facts), file=sys.stderr, flush=True)
        a_log = not self.display and self.bar.disable
        self.next_line = now + (PAUSE if a_log else 1)

    def line(self, facts):
        """Such as "training: 120 of 9,000 steps, 1.9 a second, 1 h 18 min left, loss 3.21"."""
        seconds = max(time.monotonic() - self.begun, 1e-9)
        rate = max(self.done - self.before, 1e-9) / seconds
        told = [f'{self.what}: {self.done:,} of {self.total:,} {self.unit}', _rate(rate),
                f'{duration((self.total - self.done) / rate)} left']
        return ', '.join(told + [f'{name} {value:.3g}' for name, value in facts.items()])


def _in_notebook():
    """Whether this process is the kernel of a notebook."""
    if 'IPython' not in sys.modules:
        return False
    from IPython import get_ipython
    return hasattr(get_ipython(), 'kernel')


class _Line(str):
    """Text that a notebook shows as it is, without quotes."""

    def __repr__(self):
        return str(self)


def _rate(rate):
    return f'{rate:.3g} a second' if rate >= 0.1 else f'{rate * 60:.3g} a minute'


def duration(seconds):
    """A length of time in two units at most: 40 s, 12 min, 1 h 18 min, 2 d 3 h."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f'{seconds:.0f} s'
    if minutes < 90:
        return f'{minutes} min'
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f'{hours} h {minutes} min'
    return f'{hours // 24} d {hours % 24} h'


def told(things, what, unit, total=None):
    """The things one by one, and how far it is on the way."""
    with Progress(what, len(things) if total is None else total, unit) as progress:
        for thing in things:
            yield thing
            progress.step()
