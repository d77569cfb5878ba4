"""Device, precision, and seeds."""
import contextlib
import numbers
import os
import random

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


def whole_seed(seed):
    """The seed as an int; ValueError for one that is no whole number from 0 to 2**63 - 1."""
    whole = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)  # NumPy's, too
    if not whole or not 0 <= seed < 2 ** 63:
        raise ValueError(f'seed must be a whole number from 0 to {2 ** 63 - 1}, not {seed!r}')
    return int(seed)


def seed_everything(seed):
    """One seed for Python, NumPy and torch, and deterministic kernels: same machine, same seed,
    same numbers. Called before a model is built, whose weights it decides. (On CUDA a Trainer asks
    for quicker kernels again, unless its config says deterministic.) ValueError as `whole_seed`."""
    seed = whole_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2 ** 32)
    torch.manual_seed(seed)
    deterministic(True)


def deterministic(on):
    """Whether kernels give the same bits each time, or the quickest are taken. The CPU's are
    deterministic at no cost; on an H200 a training step took 355 ms with them, and 344 without
    them and with a fused optimizer."""
    torch.use_deterministic_algorithms(on, warn_only=True)
    torch.backends.cudnn.benchmark = False  # else the quickest of today's trial would run
    # else every buffer would be written twice, for no gain here
    torch.utils.deterministic.fill_uninitialized_memory = False
    if on:  # too late where a matrix product has run already
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')


def sent(x, device):
    """A tensor on that device; to CUDA by way of pinned memory, so that nothing waits for it."""
    if device.type == 'cuda' and x.device.type == 'cpu':
        return x.pin_memory().to(device, non_blocking=True)
    return x.to(device)


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
