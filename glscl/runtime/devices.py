"""Device, precision, seeds, signals, and what machine this is."""
import contextlib
import datetime
import os
import platform
import random
import signal
import subprocess
import threading
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch


def pick_device(device='auto'):
    """"auto" takes CUDA, else MPS, else the CPU; any other is one of torch's names. ValueError for
    one that this machine does not have."""
    if device != 'auto':
        try:
            return torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:  # AssertionError: torch without CUDA
            reason = str(error).splitlines()[0].partition('. ')[0][:80]
            raise ValueError(f'device {device!r} cannot be used here ({reason}): take auto, cpu, '
                             f'or what the machine has of cuda, cuda:1, mps') from None
    if torch.cuda.is_available():
        return torch.device('cuda')
    return torch.device('mps' if torch.backends.mps.is_available() else 'cpu')


def precision(device):
    """The autocast type that a device computes in: bfloat16 from compute capability 8.0 on, else
    float16 on CUDA, else None (float32).

    By capability: torch.cuda.is_bf16_supported() counts emulation and says yes on a T4."""
    if device.type != 'cuda':
        return None
    if torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16
    return torch.float16


def autocast(device):
    """A context in which a forward pass runs in the device's precision."""
    dtype = precision(device)
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype)


def seed_everything(seed):
    """One seed for Python, NumPy and torch, and deterministic kernels: same machine, same seed,
    same numbers. Called before a model is built, whose weights it decides."""
    random.seed(seed)
    np.random.seed(seed % 2 ** 32)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    # else every buffer would be written twice, for no gain here
    torch.utils.deterministic.fill_uninitialized_memory = False
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')


def rng_state(device):
    """Where the generators are that torch draws from, the CPU's and after it the device's own:
    uint8 [n]."""
    states = [torch.get_rng_state()]
    if device.type != 'cpu':
        states.append(torch.get_device_module(device).get_rng_state())
    return torch.cat(states)


def set_rng_state(device, state):
    """Go on drawing where `rng_state` was taken (from another kind of device: with the CPU's
    generator alone)."""
    cpu, own = state.cpu().tensor_split([len(torch.get_rng_state())])
    torch.set_rng_state(cpu.clone())
    if device.type != 'cpu' and len(own):
        torch.get_device_module(device).set_rng_state(own.clone())


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


def machine():
    """Provenance of a result: hardware, versions, commit, date."""
    name = f'CPU {platform.machine()}'
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    versions = {}
    for package in ('glscl', 'torch', 'open_clip_torch', 'numpy'):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    try:
        head = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True,
                              text=True, check=True, cwd=os.path.dirname(__file__))
        commit = head.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return dict(hardware=f'{name}, {os.cpu_count()} cores', threads=torch.get_num_threads(),
                python=platform.python_version(), versions=versions, commit=commit,
                date=datetime.date.today().isoformat())
