"""Gradient caching (Gao et al. 2021): the gradients of a whole batch in the memory of one chunk,
for a second forward pass."""
import torch

from .data.batch import tensors
from .runtime import devices, distributed


def cached_backward(trainer, batch, chunks):
    """What `Trainer.backward` does for a Batch, in chunks of it: the Losses of the whole, and their
    gradients in every parameter."""
    forward, device = trainer.forward, trainer.device
    step = forward.module if distributed.world() > 1 else forward
    # First pass: the features of all chunks, without what a backward pass would need.
    states, encoded = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(devices.rng_state(device))
            encoded.append(step.encode(chunk))
    texts, videos = (items[0].cat(items) for items in zip(*encoded))
    # The loss of all features, and its gradient in each of them. What it learns itself, the logit
    # scale, gets its gradient here.
    features = tensors(texts, videos)
    for x in features:
        x.requires_grad_()
    losses = step.losses(texts, videos, batch.video_ids)
    with distributed.no_sync(forward):
        trainer.scaler.scale(losses.total).backward()
    after = devices.rng_state(device)
    # Second pass: each chunk with the dropout that it had, and the gradients go on into the
    # encoders. They add up in each process, and are shared with the last chunk's.
    at = 0
    for chunk, state in zip(chunks, states):
        rows, at = slice(at, at + len(chunk)), at + len(chunk)
        devices.set_rng_state(device, state)
        if at < len(batch):
            with distributed.no_sync(forward):
                _backward_from(forward, features, chunk, rows)
        else:
            _backward_from(forward, features, chunk, rows)
    devices.set_rng_state(device, after)
    return losses


def _backward_from(forward, features, chunk, rows):
    outputs = forward(chunk, only_encode=True)
    used = [(y, x.grad[rows]) for y, x in zip(outputs, features)
            if x.grad is not None and y.requires_grad]
    torch.autograd.backward([y for y, _ in used], [gradient for _, gradient in used])
