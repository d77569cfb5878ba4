"""A transformer block in half precision: the residual stream too, each weight narrowed once, and of
large activations only what costs a matrix product is kept for the backward pass.

Proven without a card: none has measured what it saves."""
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from torch.utils.checkpoint import checkpoint

LARGE = 2 ** 24  # numbers in an activation from which on it is computed twice rather than kept


def through(block, x, mask=None):
    """x [B, n, W] through a `clip_blocks.Block`, all of it in the type of x, under a mask
    [B * heads, n, n]. -> [B, n, W], or [B, 1, W] if `first_only`"""
    p, act = narrowed(block, x.dtype), block.mlp.gelu
    if isinstance(act, QuickGELU):
        act = F.silu
    qkv = spared(lambda x: _linear(_norm(x, block, p, 'ln_1'), p, 'attn.in_proj_'), x)
    q, k, v = qkv.unflatten(-1, (3, block.attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    if mask is not None:
        mask = mask.to(x.dtype).unflatten(0, (len(x), -1))                  # [B, heads, n, n]
    if block.first_only:
        x, q = x[:, :1], q[:, :, :1]
    mixed = F.scaled_dot_product_attention(q, k, v, mask)                   # [B, heads, n, W / h]
    x = x + _linear(mixed.transpose(1, 2).flatten(2), p, 'attn.out_proj.')
    h = spared(lambda x: _linear(_norm(x, block, p, 'ln_2'), p, 'mlp.c_fc.'), x)
    return x + spared(lambda h: _linear(act(h), p, 'mlp.c_proj.'), h)


def norm(x, layer, weight, bias):
    """LayerNorm with weights of the type of x; its sums are in float32 all the same."""
    return F.layer_norm(x, layer.normalized_shape, weight, bias, layer.eps)


def _norm(x, block, p, name):
    return norm(x, getattr(block, name), p[f'{name}.weight'], p[f'{name}.bias'])


def _linear(x, p, name):
    return F.linear(x, p[f'{name}weight'], p[f'{name}bias'])


def spared(fn, x):
    """fn(x), cheap steps before a linear layer. Where x is large it alone is kept for the backward
    pass, which does the cheap steps again."""
    if x.numel() < LARGE or not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return fn(x)
    return checkpoint(fn, x, use_reentrant=False, preserve_rng_state=False)


def narrowed(block, dtype):
    """A block's weights in that type, by name. QuickGELU, h sigmoid(1.702 h), is SiLU between two
    factors, and those go into the weights before and after it."""
    p = dict(block.named_parameters())
    if isinstance(block.mlp.gelu, QuickGELU):
        for name in ('mlp.c_fc.weight', 'mlp.c_fc.bias'):
            p[name] = p[name] * 1.702
        p['mlp.c_proj.weight'] = p['mlp.c_proj.weight'] / 1.702
    return dict(zip(p, Narrowed.apply(dtype, *p.values())))


class Narrowed(torch.autograd.Function):
    """Weights in a narrower type, all of them in one go."""

    @staticmethod
    def forward(ctx, dtype, *weights):
        """Tensors -> the same in `dtype`"""
        ctx.dtypes = [weight.dtype for weight in weights]
        return _copies(weights, [dtype] * len(weights))

    @staticmethod
    def backward(ctx, *gradients):
        """Gradients in `dtype` -> in the weights' own types"""
        return None, *_copies(gradients, ctx.dtypes)


def _copies(tensors, dtypes):
    copies = [torch.empty_like(x, dtype=dtype) for x, dtype in zip(tensors, dtypes)]
    torch._foreach_copy_(copies, tensors)
    return tuple(copies)
