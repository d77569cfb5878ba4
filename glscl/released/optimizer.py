"""The released code's optimizer and its learning-rate schedule (notebooks/03_losses, section 7)."""
import math

import torch
from torch.nn.utils import clip_grad_norm_

RELEASED_EPOCHS = 5  # the released schedule spans the steps of 5 epochs, however many are run


class BertAdam(torch.optim.Optimizer):
    """Adam in its BERT form, the released code's optimizer of the same name.

    No bias correction, decoupled weight decay, and a gradient clip of its own for every tensor:

        g <- g min(1, max_grad_norm / |g|)
        m <- b1 m + (1 - b1) g
        v <- b2 v + (1 - b2) g^2
        p <- p - lr ( m / (sqrt(v) + eps) + weight_decay p )

    params: parameters or groups of them, as for torch's optimizers. Moments and update keep the
    parameter's precision, as released: in float16 at a rate of 1e-7 most of an update is lost."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2,
                 max_grad_norm=1.0):
        super().__init__(params, {'lr': lr, 'betas': betas, 'eps': eps,
                                  'weight_decay': weight_decay, 'max_grad_norm': max_grad_norm})

    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient (and clip that); returns closure's loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group['params']:
                if p.grad is not None:
                    self._update(p, group)
        return loss

    def _update(self, p, group):
        b1, b2 = group['betas']
        state = self.state[p]
        if not state:
            state['exp_avg'] = torch.zeros_like(p)
            state['exp_avg_sq'] = torch.zeros_like(p)
        clip_grad_norm_(p, group['max_grad_norm'])
        m = state['exp_avg'].mul_(b1).add_(p.grad, alpha=1 - b1)
        v = state['exp_avg_sq'].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
        update = m / (v.sqrt() + group['eps'])
        if group['weight_decay']:
            update += group['weight_decay'] * p
        p.sub_(group['lr'] * update)  # rounded twice, as released: in float16 that shows


def warmup_cosine_released(step, total, warmup=0.1):
    """The released schedule: what the learning rate is multiplied by at a step (counted from 0).

        x = step / total        x / warmup               for x < warmup
                                (1 + cos(pi x)) / 2      after it

    Unlike `training.warmup_cosine` it starts at 0, jumps where the warm-up ends (at 0.1 from 1 to
    0.976), and climbs again past `total`, to 1 at twice `total`."""
    x = step / total
    if x < warmup:
        return x / warmup
    return (1 + math.cos(math.pi * x)) / 2


def share_as_released(model, world):
    """Change the gradients of `world` processes to those of the released code.

    There all-gather's backward gave each process the gradient of its own rows, where the mean that
    follows asks for W times that: with W processes the encoders' gradients are 1/W of the head's,
    which sees gathered features."""
    for name, p in model.named_parameters():
        of_head = name.startswith('local.') or name.endswith('logit_scale')
        if p.grad is not None and not of_head:
            p.grad /= world
