"""What is told of something long: from a few seconds on, rarely, and with the time that is left."""
import io
import sys
from types import SimpleNamespace

import pytest

from glscl.runtime import progress
from glscl.runtime.progress import Progress, duration, told


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress.time, 'monotonic', lambda: now.seconds)
    return now


def test_a_log_gets_a_line_after_ten_seconds_and_then_each_half_minute(clock, capsys):
    lines = []
    with Progress('training', 1000, 'steps', done=100) as told_of:
        for _ in range(80):
            clock.seconds += 1
            told_of.step(loss=3.21987)
            lines += capsys.readouterr().err.splitlines()
    assert lines == ['training: 110 of 1,000 steps, 1 a second, 15 min left, loss 3.22',
                     'training: 140 of 1,000 steps, 1 a second, 14 min left, loss 3.22',
                     'training: 170 of 1,000 steps, 1 a second, 14 min left, loss 3.22']


def test_what_is_quick_is_not_told(clock, capsys):
    assert list(told(range(5), 'decoding', 'videos')) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == ('', '')


def test_a_terminal_gets_one_bar_that_goes_away(clock, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True
    screen = Terminal()
    monkeypatch.setattr(sys, 'stderr', screen)
    for _ in told(range(3), 'decoding', 'videos'):
        clock.seconds += 20
    written = screen.getvalue()
    assert 'decoding' in written and '\n' not in written and written.endswith('\r')


def test_only_the_first_process_tells(clock, capsys, monkeypatch):
    monkeypatch.setattr(progress.distributed, 'rank', lambda: 1)
    for _ in told(range(3), 'decoding', 'videos'):
        clock.seconds += 20
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize('seconds, text', [
    (0, '0 s'), (89, '89 s'), (95, '2 min'), (89 * 60, '89 min'), (91 * 60, '1 h 31 min'),
    (50 * 3600, '2 d 2 h')])
def test_durations(seconds, text):
    assert duration(seconds) == text
