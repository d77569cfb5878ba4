"""Processes that decode, hand on what they warn of, and survive a video that kills one of them."""
import contextlib
import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from itertools import islice

KILLED = ('the decoder crashed on it, or was killed for want of memory. Try again with fewer '
          'workers, or take it out of the list.')
TOLD = {}  # the warnings shown, as Python keeps them


def start_pool(workers):
    """An executor of that many processes."""
    return ProcessPoolExecutor(workers, initializer=_end_with_parent)


def _end_with_parent():
    """A worker ends with its parent, also with a killed one: it would keep the parent's locks; and
    with no Ctrl-C, which reaches all processes of a terminal: its parent notes it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)
    threading.Thread(target=wait, daemon=True).start()


class Workers:
    """An executor of processes where a call that kills its process fails alone: the others, which
    lose theirs too, are begun again."""

    def __init__(self, workers):
        self.workers, self.pool, self.waiting = workers, start_pool(workers), set()

    def submit(self, function, *arguments):
        """Begin function(*arguments): a _Call, with `result` as futures have it."""
        call = _Call(self, (function, *arguments))
        self.waiting.add(call)
        return call

    def map(self, function, items, ahead):
        """Yields (item, its _Call) in turn, with the next `ahead` begun meanwhile."""
        items = iter(items)
        waiting = deque((item, self.submit(function, item)) for item in islice(items, ahead))
        while waiting:
            yield waiting.popleft()
            waiting.extend((item, self.submit(function, item)) for item in islice(items, 1))

    def restart(self):
        """Take new processes in place of dead ones, and begin again what waits."""
        self.pool = start_pool(self.workers)
        for call in self.waiting:
            call.begin()

    def shutdown(self):
        """End the processes; what waits is never done."""
        self.pool.shutdown(wait=False, cancel_futures=True)


def _noting(function, *arguments):
    """(what function(*arguments) gives, [(text, category, file, line)] of its warnings)."""
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter('always')
        result = function(*arguments)
    return result, [(str(x.message), x.category, x.filename, x.lineno) for x in noted]


class _Call:
    def __init__(self, workers, call):
        self.workers, self.call = workers, (_noting, *call)
        self.begin()

    def begin(self):
        self.future = None
        with contextlib.suppress(BrokenExecutor):  # the pool is: `result` will see to it
            self.future = self.workers.pool.submit(*self.call)

    def result(self):
        """What the call gives or raises; BrokenExecutor if it kills its process."""
        result, noted = self._wait()
        for warning in noted:
            warnings.warn_explicit(*warning, registry=TOLD)
        return result

    def _wait(self):
        self.workers.waiting.discard(self)
        with contextlib.suppress(BrokenExecutor):
            if self.future:
                return self.future.result()
        try:  # a process died of this call or of another: alone this one tells
            with start_pool(1) as alone:
                return alone.submit(*self.call).result()
        finally:
            self.workers.restart()
