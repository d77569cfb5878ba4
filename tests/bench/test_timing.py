"""The one clock and the one memory meter."""
import mmap

import pytest
import torch

from glscl.bench.timing import (
    forget_peak,
    linux_bytes,
    measure,
    rounds,
    spread,
    timed,
    working_memory,
)


def test_every_call_after_the_warm_up_counts(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr('glscl.bench.timing.time.perf_counter', lambda: next(clock))
    calls = []
    assert measure(lambda: calls.append(1), repeats=5, warmup=2) == (1, 1, 1) and len(calls) == 7
    assert timed(lambda: 'found', 'cpu')[:2] == ('found', 1)


def test_ways_take_turns():
    turns = []
    times = rounds({'a': lambda: turns.append('a'), 'b': lambda: turns.append('b')}, 3)
    assert turns == ['a', 'b'] * 4 and all(len(clock) == 3 for name in 'ab' for clock in times[name])


def test_a_way_that_cannot_run_is_reported_and_left_out(capsys):
    times = rounds({'fine': lambda: None, 'broken': lambda: 1 / 0}, 3)
    assert len(times['fine'][0]) == 3 and 'broken' not in times
    assert 'broken: cannot run here (ZeroDivisionError)' in capsys.readouterr().out


def test_the_spread_has_quartiles_and_ends():
    assert spread([3, 1, 2], 10) == dict(median=20, q1=10, q3=30, min=10, max=30)


def test_working_memory_is_what_exists_beyond_the_result():
    def two_steps():
        x = torch.ones(250_000)      # 1 MB
        return (x + 1)[:10].clone()  # and another before the result
    assert working_memory(two_steps) == pytest.approx(2, abs=0.1)


@pytest.mark.skipif(linux_bytes('/proc/self/status', 'VmRSS') is None, reason='reads /proc')
def test_the_peak_of_the_process_is_counted_from_where_it_was_forgotten():
    def use(megabytes):  # of the system's own, not of what the allocator kept
        with mmap.mmap(-1, megabytes * 10 ** 6) as memory:
            memory.write(b'1' * len(memory))
    use(100)
    forget_peak()
    before = linux_bytes('/proc/self/status', 'VmHWM')
    use(50)
    assert 40e6 < linux_bytes('/proc/self/status', 'VmHWM') - before < 120e6  # the bytes that it writes may count twice
    assert linux_bytes('/proc/none', 'VmHWM') is None
