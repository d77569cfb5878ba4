"""Being asked to stop, by a cluster or at the keyboard, without losing a step."""
import contextlib
import signal
import threading


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
