"""Being asked to stop, by a cluster or at the keyboard, without losing a step."""
import contextlib
import os
import signal
import threading


class Ended(KeyboardInterrupt):
    """SIGTERM, for all that is to happen at Ctrl-C; the process ends with `status`."""
    status = 128 + signal.SIGTERM


@contextlib.contextmanager
def ended_as_interrupted():
    """Within it SIGTERM raises Ended, so that what is half done is taken away again. Processes that
    are begun there end at once as ever, and so do torchrun's, which may be waiting for another."""
    first, before = os.getpid(), signal.getsignal(signal.SIGTERM)
    in_main = threading.current_thread() is threading.main_thread()
    if before is not signal.SIG_DFL or not in_main or 'WORLD_SIZE' in os.environ:
        yield
        return

    def end(*_):
        if os.getpid() != first:
            os._exit(Ended.status)
        raise Ended

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def stop_noted():
    """Within it SIGTERM, as clusters send it before they kill, and Ctrl-C are noted in the list
    that it yields, and nothing more; a second Ctrl-C interrupts at once.

    Outside the main thread signals cannot be caught, and end the process as ever."""
    noted = []
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(number, _):
        if noted and number == signal.SIGINT:
            raise KeyboardInterrupt
        noted.append(int(number))

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, note)
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stopped(number, message):
    """What to raise once all is saved after a signal that `stop_noted` noted."""
    if number == signal.SIGINT:
        return KeyboardInterrupt(message)
    print(message, flush=True)
    return SystemExit(128 + number)  # not finished, for whoever started it
