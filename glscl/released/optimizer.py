"""The released code's optimizer and schedule (notebooks/03_losses, section 6); the default ones are torch's AdamW and `training.warmup_cosine`."""
import math

import torch
from torch.nn.utils import clip_grad_norm_

RELEASED_EPOCHS = 5  # the released schedule spans the steps of 5 epochs, however many are run


class BertAdam(torch.optim.Optimizer):
    """Adam in its BERT form: no bias correction, decoupled decay, a gradient clip of its own for every tensor.

        g <- g min(1, max_grad_norm / |g|)      m <- b1 m + (1 - b1) g      v <- b2 v + (1 - b2) g^2
        p <- p - lr ( m / (sqrt(v) + eps) + weight_decay p )

    params: parameters or groups of them, as for torch's optimizers. Moments and update stay in the parameter's own precision,
    as in the released code: with float16 at lr 1e-7 most of an update is lost there."""

    def __init__(self, params, lr=1e-4, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, max_grad_norm=1.0):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, max_grad_norm=max_grad_norm))

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter that has a gradient (which is clipped in place); returns closure's loss, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            b1, b2 = group['betas']
            for p in group['params']:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state['exp_avg'], state['exp_avg_sq'] = torch.zeros_like(p), torch.zeros_like(p)
                clip_grad_norm_(p, group['max_grad_norm'])
                m = state['exp_avg'].mul_(b1).add_(p.grad, alpha=1 - b1)
                v = state['exp_avg_sq'].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
                update = m / (v.sqrt() + group['eps'])
                if group['weight_decay']:
                    update += group['weight_decay'] * p
                p.sub_(group['lr'] * update)  # rounded twice, as released: in float16 that shows
        return loss


def warmup_cosine_released(step, total, warmup=0.1):
    """Learning-rate factor at a step (from 0): with x = step / total, x / warmup below `warmup`, then (1 + cos(pi x)) / 2.

    The first step has rate 0; the factor jumps where warm-up ends (at 0.1 to 0.976); past `total` it climbs again, to 1 at twice
    `total`. All three are the released code's; `training.warmup_cosine` has none of them."""
    x = step / total
    return x / warmup if x < warmup else (1 + math.cos(math.pi * x)) / 2
