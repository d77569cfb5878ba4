"""A training step's forward and backward pass as a CUDA graph: recorded once, then replayed by one
launch. A small model's step is thousands of kernels that end sooner than the next one is launched.

Held to the plain step on a stand-in for CUDA's recorder; no card has run it yet."""
import torch

from .runtime import distributed
from .runtime.devices import sent

EAGER = 3  # steps before the first recording, in which libraries load and pick their kernels


def recorded(trainer):
    """`trainer.backward`, recorded where that can be: on one CUDA device, a batch in one piece."""
    can = trainer.device.type == 'cuda' and distributed.world() == 1 and not trainer.config.chunk
    return RecordedBackward(trainer) if can else trainer.backward


class RecordedBackward:
    """In place of `Trainer.backward`: a graph for each length that captions have.

    A graph reads and writes the same memory each time and does not ask the CPU. So a batch is
    copied to where the recorded one lay, all graphs share one set of gradients, and a batch whose
    videos lack frames takes the plain step, since how many frames go through the image tower is
    decided on the CPU."""

    def __init__(self, trainer):
        self.backward, self.device = trainer.backward, trainer.device
        self.parameters = list(trainer.model.parameters())
        self.steps, self.gradients, self.graphs = 0, [], {}

    def __call__(self, batch):
        """A Batch -> its Losses, on the device; their gradients are in the parameters. RuntimeError
        for a model whose step asks the CPU on its way."""
        if batch.frames is None:  # features: no frame goes through a tower
            batch.frame_mask = sent(batch.frame_mask, self.device)
        elif not batch.frame_mask.all():
            return self.backward(batch)
        self.steps += 1
        if self.steps <= EAGER:
            losses = self.backward(batch)
            self.gradients = [(p, p.grad) for p in self.parameters if p.grad is not None]
            return losses
        for p, gradient in self.gradients:
            p.grad = gradient
        shape = tuple(None if x is None else x.shape for x in vars(batch).values())
        if shape not in self.graphs:
            self.graphs[shape] = self._record(batch)
        place, graph, losses = self.graphs[shape]
        for name, x in vars(batch).items():
            if x is not None:
                getattr(place, name).copy_(x)
        graph.replay()
        return losses

    def _record(self, batch):
        place = batch.map(torch.clone)
        first = next(iter(self.graphs.values()), (None, None))[1]

        def work():
            torch._foreach_zero_([gradient for _, gradient in self.gradients])
            return self.backward(place)
        try:
            return place, *capture(work, first)
        except RuntimeError as error:
            raise RuntimeError(f'this model\'s training step cannot be recorded as a CUDA graph: '
                               f'leave out cuda_graph ({error})') from error


def capture(work, beside=None):
    """(graph, what `work` returned): its kernels are noted and not run. beside: a graph that never
    runs at the same time, so that this one may work in its memory."""
    graph = torch.cuda.CUDAGraph()
    # The thread that fetches the next batch allocates meanwhile, which "global" would forbid.
    with torch.cuda.graph(graph, beside and beside.pool(), capture_error_mode='thread_local'):
        losses = work()
    return graph, losses
