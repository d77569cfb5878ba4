"""The clock and the memory meter of every benchmark."""
import contextlib
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile


def timed(fn, device=None):
    """One call of fn(): (what it gives, wall seconds, CPU seconds of this process).

    The accelerator's work is waited for; device='cpu' says that there is none of it."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = fn()
    if device != 'cpu' and torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def measure(fn, repeats=5, warmup=1):
    """(median, fastest, slowest) wall seconds of fn(), after `warmup` calls that do not count."""
    for _ in range(warmup):
        fn()
    seconds = [timed(fn)[1] for _ in range(repeats)]
    return statistics.median(seconds), min(seconds), max(seconds)


def rounds(fns, repeats, device=None):
    """Several ways of doing a thing, each once in every round, so that neighbours in time compare.

    fns {name: fn}. Returns {name: ([wall seconds], [CPU seconds])} of `repeats` rounds after one
    that is dropped. A way that cannot run here is reported and left out."""
    times = {}
    for name, fn in fns.items():
        try:
            fn()
            times[name] = ([], [])
        except Exception as error:  # torch.compile without a compiler raises many kinds
            print(f'{name}: cannot run here ({type(error).__name__})')
    for _ in range(repeats):
        for name, (wall, cpu) in times.items():
            _, wall_seconds, cpu_seconds = timed(fns[name], device)
            wall.append(wall_seconds)
            cpu.append(cpu_seconds)
    return times


def spread(values, unit=1.0):
    """Quartiles and ends of some measurements, times `unit`."""
    low, middle, high = statistics.quantiles(values, n=4)
    found = dict(median=middle, q1=low, q3=high, min=min(values), max=max(values))
    return {name: round(unit * value, 4) for name, value in found.items()}


def working_memory(fn, device='cpu'):
    """The most MB that fn() holds at one time beyond what was there and the tensor it returns.

    On the CPU as torch.profiler sees torch's allocations, on CUDA by the allocator's peak."""
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = fn()
        peak = torch.cuda.max_memory_allocated() - before
    else:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            result = fn()
        with tempfile.TemporaryDirectory() as folder:
            trace = Path(folder, 'trace.json')
            profiler.export_chrome_trace(str(trace))
            events = json.loads(trace.read_text())['traceEvents']
        events = sorted((e for e in events if e.get('name') == '[memory]'), key=lambda e: e['ts'])
        peak = max(itertools.accumulate((event['args']['Bytes'] for event in events), initial=0))
    return (peak - result.numel() * result.element_size()) / 1e6


def linux_bytes(path, field):
    """The bytes that a file below /proc gives for a field; None where there is no Linux to tell.

    Of /proc/self/status: VmRSS, what this process holds, and VmHWM, the most since `forget_peak`;
    of /proc/meminfo: MemAvailable."""
    with contextlib.suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(field):
                return 1024 * int(line.split()[1])


def forget_peak():
    """Let VmHWM count from here on."""
    with contextlib.suppress(OSError):
        Path('/proc/self/clear_refs').write_text('5')
