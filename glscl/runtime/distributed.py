"""Several processes as one: the only file that knows of torch.distributed. In a single process all
of it does nothing.

    torchrun --nproc-per-node=2 -m glscl train --recipe msrvtt --data-dir MSRVTT

Each process encodes its share of a batch, every process has all features and the whole loss, and
DistributedDataParallel averages the gradients: W processes take the step that one would take.
Whatever gathers is called by all processes, in the same order."""
import contextlib
import datetime
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from .devices import pick_device

PATIENCE = datetime.timedelta(days=1)  # the first decodes a whole data set while the others wait


@contextlib.contextmanager
def processes(device='auto'):
    """Within it this process is one of those that torchrun started (NCCL on CUDA, else Gloo).

    Yields the device that it works on; started without a launcher it is the only one, on the
    device as named. More processes than GPUs, or a device of another kind, raise ValueError."""
    if int(os.environ.get('WORLD_SIZE') or 1) == 1:
        yield device
        return
    kind = (pick_device() if device == 'auto' else torch.device(device)).type
    local_rank, on_this_machine = place()
    if kind == 'cuda':
        gpus = torch.cuda.device_count()
        if local_rank >= gpus:
            raise ValueError(f'{on_this_machine} processes on a machine with {gpus} GPUs: start '
                             f'one a GPU (--nproc-per-node={gpus})')
        torch.cuda.set_device(local_rank)
        device = f'cuda:{local_rank}'
    elif kind != 'cpu':
        raise ValueError(f'several processes train on CUDA or on the CPU, not on {kind}: start '
                         f'one, or name --device cpu')
    dist.init_process_group('nccl' if kind == 'cuda' else 'gloo', timeout=PATIENCE)
    try:
        yield device
    finally:
        dist.destroy_process_group()


def world():
    """W, how many processes there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank():
    """Which of the W processes this is; 0 is the one that writes and logs."""
    return dist.get_rank() if world() > 1 else 0


def say(*words):
    """print, in the first process only."""
    if rank() == 0:
        print(*words, flush=True)


def barrier():
    """Wait for all processes."""
    if world() > 1:
        dist.barrier()


def place():
    """(which process of this machine this is, how many it runs)"""
    local_rank = int(os.environ.get('LOCAL_RANK', rank()))
    return local_rank, int(os.environ.get('LOCAL_WORLD_SIZE', world()))


# who does what

def part(items, k, n):
    """Part k (from 0) of n of a list or array: the parts in turn are the whole, and their sizes
    differ by one at most."""
    size, more = divmod(len(items), n)
    first = k * size + min(k, more)
    return items[first:first + size + (k < more)]


def share(items):
    """This process's part of a batch's rows, or of a list of blocks that stay whole, so that each
    is computed as one process would."""
    return part(items, rank(), world())


# what goes from one to the other

def objects(x):
    """[x of each process] (small things: they are pickled)."""
    if world() == 1:
        return [x]
    every = [None] * world()
    dist.all_gather_object(every, x)
    return every


def file_there(path):
    """Whether a file is there (None: no); FileNotFoundError where only some processes see it."""
    found = objects(path is not None and path.exists())
    if any(found) and not all(found):
        raise FileNotFoundError(f'{path} is seen by {sum(found)} of {len(found)} processes: put '
                                f'it on a disk that all share')
    return all(found)


def joined(parts):
    """What all processes made of their `share` (a list of Items each), as one list, on the CPU."""
    if world() == 1:
        return parts
    return [part for every in objects([part.to('cpu') for part in parts]) for part in every]


def gather(*parts):
    """Tensors or Items of all processes joined along the first axis, in rank order, with true
    gradients: the sum over processes of the gradient of this one's rows.

    First axes agree within a process and may differ between them; the others agree."""
    if world() == 1:
        return parts
    sizes = objects(len(parts[0]))
    return tuple(_gather(part, sizes) if isinstance(part, torch.Tensor)
                 else part.map(lambda x: _gather(x, sizes)) for part in parts)


def _gather(x, sizes):
    """x [n_r, …] of each process -> [sum n_r, …]. Both gathers take equal sizes only, so that the
    rows are filled up and cut again."""
    filler = [0, 0] * (x.ndim - 1) + [0, max(sizes) - len(x)]
    padded = F.pad(x.to(torch.uint8) if x.dtype == torch.bool else x, filler).contiguous()
    every = _AllGather.apply(padded)                                        # [W, n, …]
    return torch.cat([part[:n] for part, n in zip(every, sizes)]).to(x.dtype)


class _AllGather(torch.autograd.Function):
    """[n, …] of each process -> [W, n, …] (torch's own form is deprecated)."""

    @staticmethod
    def forward(ctx, x):
        every = [torch.empty_like(x) for _ in range(world())]
        dist.all_gather(every, x)
        return torch.stack(every)

    @staticmethod
    def backward(ctx, gradient):
        """[W, n, …] of every process -> [n, …]: what all of them ask of this one's rows"""
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # it may be others' too
        dist.all_reduce(gradient)
        return gradient[rank()]


def parallel(module, unused=False):
    """The module, whose gradients all processes then share: DistributedDataParallel.

    Every process takes the first one's weights. `unused`: a backward pass may leave out some of
    the parameters (a chunk of a batch does)."""
    if world() == 1:
        return module
    return DistributedDataParallel(module, find_unused_parameters=unused)


def no_sync(module):
    """Within it gradients of a `parallel` module add up in each process, and are not shared."""
    return module.no_sync() if world() > 1 else contextlib.nullcontext()


def broadcast(model):
    """Every process takes the first one's weights."""
    if world() > 1:
        for value in model.state_dict().values():
            dist.broadcast(value, 0)
