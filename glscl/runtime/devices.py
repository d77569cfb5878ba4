"""Device, precision, seeds, and what machine this is."""
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
    """"auto" takes CUDA, else MPS, else the CPU; any torch device name is taken as it is."""
    if device != 'auto':
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device('cuda')
    return torch.device('mps' if torch.backends.mps.is_available() else 'cpu')


def precision(device):
    """The autocast type a device computes in: bfloat16 from compute capability 8.0 on, else float16 on CUDA, else None (float32).

    Decided by capability: torch.cuda.is_bf16_supported() counts emulation and says yes on a T4."""
    if device.type != 'cuda':
        return None
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


def autocast(device):
    """A context in which a forward pass runs in the device's precision."""
    dtype = precision(device)
    return contextlib.nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def seed_everything(seed):
    """One seed for Python, NumPy and torch, and deterministic kernels: same machine, same seed, same numbers."""
    random.seed(seed)
    np.random.seed(seed % 2 ** 32)
    torch.manual_seed(seed)
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # it would write every buffer twice, for no gain here
    os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')


def rng_state(device):
    """Where the generators are that torch draws from, the CPU's and the device's own after it: uint8 [n]."""
    own = [] if device.type == 'cpu' else [torch.get_device_module(device).get_rng_state()]
    return torch.cat([torch.get_rng_state(), *own])


def set_rng_state(device, state):
    """Go on drawing where `rng_state` was taken (on another kind of device: the CPU's generator alone)."""
    cpu, own = state.cpu().tensor_split([len(torch.get_rng_state())])
    torch.set_rng_state(cpu.clone())
    if device.type != 'cpu' and len(own):
        torch.get_device_module(device).set_rng_state(own.clone())


@contextlib.contextmanager
def sigterm_noted():
    """Within it SIGTERM, as clusters send it before they kill, is noted in the Event that it yields, and nothing more.

    Outside the main thread signals cannot be caught, and it ends the process as ever."""
    asked, catch = threading.Event(), threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, lambda *_: asked.set()) if catch else None
    try:
        yield asked
    finally:
        if catch:
            signal.signal(signal.SIGTERM, before)


def machine():
    """Provenance of a result: hardware, versions, commit, date."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else f'CPU {platform.machine()}'
    versions = {}
    for package in ('glscl', 'torch', 'open_clip_torch', 'numpy'):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    try:
        commit = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True, check=True,
                                cwd=os.path.dirname(__file__)).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return dict(hardware=f'{name}, {os.cpu_count()} cores', threads=torch.get_num_threads(), python=platform.python_version(),
                versions=versions, commit=commit, date=datetime.date.today().isoformat())
