"""Batches on their way to the device."""
import contextlib
import threading
from types import SimpleNamespace

import pytest
import torch

from glscl.data.batch import Batch
from glscl.data.prefetch import ahead


def read(n, threads):
    for i in range(n):
        threads.append(threading.current_thread())
        yield Batch(frames=torch.full((2, 3), i), frame_mask=torch.ones(2, 3, dtype=torch.bool))
    if n == 4:
        raise OSError('the disk is gone')


@pytest.fixture
def as_on_cuda(monkeypatch):
    """torch's CUDA calls stand in for themselves; returns the order in which they came."""
    calls = []
    stream = SimpleNamespace(record_event=lambda: calls.append('copied') or 'event', wait_event=lambda event: calls.append('waited'))
    monkeypatch.setattr(torch.cuda, 'Stream', lambda device: stream)
    monkeypatch.setattr(torch.cuda, 'stream', lambda _: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, 'current_stream', lambda device: stream)
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda x: x)
    monkeypatch.setattr(torch.Tensor, 'record_stream', lambda x, stream: calls.append('held'))
    monkeypatch.setattr(torch.Tensor, 'to', lambda x, device, non_blocking=False: x)
    monkeypatch.setattr(torch.Tensor, 'is_cuda', property(lambda x: x.dtype != torch.bool))  # frame_mask stays here
    return calls


def test_on_the_cpu_batches_come_as_they_are_and_no_thread_begins():
    threads = []
    batches = ahead(read(3, threads), torch.device('cpu'))
    assert int(next(batches).frames[0, 0]) == 0 and len(threads) == 1  # none before it is asked for
    assert [int(batch.frames[0, 0]) for batch in batches] == [1, 2] and set(threads) == {threading.main_thread()}


def test_on_cuda_a_thread_brings_the_next_one(as_on_cuda):
    threads = []
    got = [int(batch.frames[0, 0]) for batch in ahead(read(3, threads), torch.device('cuda'))]
    assert got == [0, 1, 2] and threading.main_thread() not in threads
    assert [as_on_cuda.count(name) for name in ('copied', 'waited', 'held')] == [3, 3, 3]
    assert as_on_cuda.index('copied') < as_on_cuda.index('waited') < as_on_cuda.index('held')


def test_what_goes_wrong_in_the_thread_is_raised_where_the_batch_was_asked_for(as_on_cuda):
    batches, got = ahead(read(4, []), torch.device('cuda')), []
    with pytest.raises(OSError, match='the disk is gone'):
        for batch in batches:
            got.append(batch)
    assert len(got) == 4
    before = set(threading.enumerate())
    batches = ahead(read(4, []), torch.device('cuda'))
    next(batches)
    batches.close()  # whoever breaks off leaves no thread behind
    assert not set(threading.enumerate()) - before
