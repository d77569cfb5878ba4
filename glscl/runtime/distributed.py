"""Several processes as one: the only file that knows of torch.distributed. In a single process all of it does nothing.

    torchrun --nproc-per-node=2 -m glscl.training --recipe msrvtt --data-dir MSRVTT

Each process encodes its share of a batch, every process has all features and the whole loss, and gradients are averaged:
W processes take the step that one would take. Whatever gathers is called by all processes, in the same order."""
import contextlib
import datetime
import itertools
import os

import numpy as np
import torch
import torch.distributed as dist

from .devices import pick_device

PATIENCE = datetime.timedelta(days=1)  # the first process decodes a whole data set while the others wait


@contextlib.contextmanager
def processes(device='auto'):
    """Within it this process is one of those that torchrun started (NCCL on CUDA, else Gloo); yields the device it works on.

    Started without a launcher it is the only one, on the device as named."""
    if int(os.environ.get('WORLD_SIZE', 1)) == 1:
        yield device
        return
    kind, (at, here) = pick_device(device).type, _here()
    if kind == 'cuda':
        if at >= torch.cuda.device_count():
            raise ValueError(f'{here} processes on a machine with {torch.cuda.device_count()} GPUs: start one a GPU '
                             f'(--nproc-per-node={torch.cuda.device_count()})')
        torch.cuda.set_device(at)
        device = f'cuda:{at}'
    elif kind != 'cpu':
        raise ValueError(f'several processes train on CUDA or on the CPU, not on {kind}: start one, or name --device cpu')
    dist.init_process_group('nccl' if kind == 'cuda' else 'gloo', timeout=PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def world():
    """W, how many processes there are"""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank():
    """Which of the W processes this is; 0 is the one that writes and logs"""
    return dist.get_rank() if world() > 1 else 0


def say(*words):
    """print, in the first process only"""
    if rank() == 0:
        print(*words, flush=True)


def _here():
    """(which process of this machine this is, how many it runs)"""
    env = os.environ
    return int(env.get('LOCAL_RANK', rank())), int(env.get('LOCAL_WORLD_SIZE', world()))


@contextlib.contextmanager
def first_here():
    """The first process of each machine goes through it before the others, which then find what it has kept on disk."""
    waits = world() > 1 and _here()[0] > 0
    if waits:
        dist.barrier()
    yield
    if world() > 1 and not waits:
        dist.barrier()


def part_here(items):
    """This process's part of what its machine has to do, and the others' parts never: disks need not be shared."""
    at, here = _here() if world() > 1 else (0, 1)
    return items[at::here]


def objects(x):
    """[x of each process] (small things: they are pickled)."""
    if world() == 1:
        return [x]
    every = [None] * world()
    dist.all_gather_object(every, x)
    return every


def rows_of(rows):
    """This process's share of a batch's rows [B]: in rank order they are the batch; sizes differ by one at most."""
    return np.array_split(rows, world())[rank()]


def share(blocks):
    """This process's part of a list of blocks: the blocks stay whole, so that each is computed as one process would."""
    return blocks[rank()::world()]


def joined(parts):
    """What all processes made of their `share` (a list of Items each), as one list in the order of the blocks, on the CPU."""
    if world() == 1:
        return parts
    turns = itertools.zip_longest(*objects([part.to('cpu') for part in parts]))
    return [part for turn in turns for part in turn if part is not None]


class _Gather(torch.autograd.Function):
    """x [n_r, ...] of each process -> [sum n_r, ...]. Backward: the sum over processes of the gradient of this one's rows."""

    @staticmethod
    def forward(ctx, x, sizes):
        ctx.rows = slice(sum(sizes[:rank()]), sum(sizes[:rank() + 1]))
        sent = x.to(torch.uint8) if x.dtype == torch.bool else x
        padded = sent.new_zeros(max(sizes), *x.shape[1:])  # NCCL takes equal sizes only
        padded[:len(x)] = sent
        every = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(every, padded)
        return torch.cat([part[:n] for part, n in zip(every, sizes)]).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient):
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient[ctx.rows], None


def gather(*parts):
    """Tensors or Items of all processes joined along the first axis, in rank order, with true gradients.

    The first axes agree within a process, and may differ between them; the others agree."""
    if world() == 1:
        return parts
    sizes = objects(len(parts[0]))
    return tuple(_Gather.apply(part, sizes) if isinstance(part, torch.Tensor) else
                 part.map(lambda x: _Gather.apply(x, sizes)) for part in parts)


def average_gradients(parameters):
    """Each gradient becomes its mean over the processes. The loss is whole in each of them, and `gather` has summed over W
    such losses, so that the mean is the gradient that one process would have."""
    if world() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    for sent in [dist.all_reduce(g, async_op=True) for g in gradients]:
        sent.wait()
    for g in gradients:
        g /= world()


def broadcast(model):
    """Every process takes the first one's weights."""
    if world() > 1:
        for value in model.state_dict().values():
            dist.broadcast(value, 0)
