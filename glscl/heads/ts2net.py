"""TS2-Net: Token Shift and Selection Transformer for Text-Video Retrieval (Liu et al. 2022);
released code: yuqi657/ts2_net."""
from functools import partial

import torch
from torch import nn

from ..data.batch import Items
from ..encoders import normalised
from .base import Cost, Head, hide, masked_softmax, small_weights, temporal_cost
from .tower import attend, embed, project, run


def perturbed_top_k(scores, noise, k, sigma):
    """Soft indicators of the k largest of n scores: the mean over noisy copies of their hard top-k,
    in index order. scores [N, n], noise [samples, n] -> [N, k, n].

    The gradient is the perturbed optimiser's, E[one-hot x noise] / sigma, with the whole Jacobian;
    the released code keeps its diagonal only."""
    noisy = scores[:, None] + sigma * noise                                   # [N, samples, n]
    top = noisy.topk(k, -1).indices.sort(-1).values                           # [N, samples, k]
    hits = nn.functional.one_hot(top, scores.shape[-1]).to(scores.dtype)      # [N, samples, k, n]
    if not scores.requires_grad:
        return hits.mean(1)
    # Linear in the scores, with that gradient; only the gradient is wanted, so its value goes.
    slope = (scores / (len(noise) * sigma)) @ noise.T                         # [N, samples]
    slope = torch.einsum('nski,ns->nki', hits, slope)
    return hits.mean(1) + (slope - slope.detach())


class TokenSelection(nn.Module):
    """The class token of each frame and the k = 3 patches that a small network finds telling.

    The released code draws its noise for each frame and at test time too, so that its scores vary
    from run to run; here one draw serves all frames, and in eval mode it is fixed."""

    def __init__(self, width, k=3, samples=500, sigma=0.05):
        super().__init__()
        self.k = k
        self.samples = samples
        self.sigma = sigma
        half = width // 2
        self.look = small_weights(nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, half, bias=False), nn.GELU()))
        self.rate = small_weights(nn.Sequential(
            nn.Linear(2 * half, half, bias=False), nn.GELU(), nn.Linear(half, 1, bias=False)))

    def forward(self, frames, patches):
        """frames [V, F, D], patches [V, F, P, D] -> [V, F, 1 + k, D]"""
        g = self.look(torch.cat([frames[:, :, None], patches], 2))            # [V, F, 1 + P, D / 2]
        with_class = torch.cat([g, g[:, :, :1].expand_as(g)], -1)
        scores = self.rate(with_class).squeeze(-1).tanh()[:, :, 1:]           # [V, F, P]
        draw = None if self.training else torch.Generator().manual_seed(0)
        noise = torch.randn(self.samples, scores.shape[-1], generator=draw).to(scores)
        chosen = perturbed_top_k(scores.flatten(0, 1), noise, self.k, self.sigma)
        chosen = chosen.unflatten(0, scores.shape[:2])                        # [V, F, k, P]
        return torch.cat([frames[:, :, None], chosen @ patches], 2)


class TS2Net(Head):
    """q_f = <ê, ŷ_f>,  n = norm_f(q m),  a = softmax_f(4 n),  S = sum_f a_f q_f, f a valid frame.

    y: class tokens after a temporal transformer over class tokens and selected patches (`patches`
    [V, F, P, D] from `TokenShift`; without them there is nothing to select and the F class tokens
    go in alone). As released, with patches the mask is tiled over frames instead of repeated for
    each token, so that short clips are masked in the wrong places; mask_padding puts it right.
    Padded frames enter as zeros in both; in the released code as the image tower gives them. Its
    evaluation encodes again per 8 texts."""
    has_time = True

    def __init__(self, width=512, **shared):
        super().__init__(width, **shared)
        self.select = TokenSelection(width)

    def prepare_videos(self, frames, mask, patches=None):
        tokens = hide(frames, mask)                                           # [V, F, D]
        every = 1  # tokens of a frame, its class token first
        if patches is not None:
            patches = hide(patches.to(frames).flatten(2), mask).view(patches.shape)
            tokens = self.select(tokens, patches)                             # [V, F, 1 + k, D]
            every = tokens.shape[2]
            tokens = tokens.flatten(1, 2)
            each = mask.repeat_interleave(every, 1)
            mask = each if self.mask_padding else mask.repeat(1, every)
        y = self.over_time(tokens, mask)[:, ::every]                          # [V, F, D]
        return Items(unit=normalised(y), mask=mask[:, ::every])

    def score(self, texts, videos):
        q = texts.unit @ videos.unit.flatten(0, 1).T
        q = q.view(len(texts), *videos.mask.shape)                            # [T, V, F]
        a = masked_softmax(4 * normalised(q * videos.mask), videos.mask)
        return (a * q).sum(-1)

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8, P=49, k=3):
        select = F * ((1 + P) * (2 * D * (D // 2) + D // 2) + k * P * D)
        once = temporal_cost((1 + k) * F, D)
        pair = F * D + F
        return Cost(pair=pair, coded=pair, gram=pair, gram_sums=F, video=once + select,
                    video_bytes=4 * F * D + F, text_bytes=4 * D, repeated=-(-T // 8) * V * once)


class TokenShift(nn.Module):
    """Image tower: in the last two blocks the attention reads the patches in the first column of
    the grid from the frame before, and those in the middle one (width // 2) from the frame after;
    the residual stays. No parameters.

    The first and the last frame keep what they lack. The released step, 7 tokens of the flat
    sequence, is the grid's width in ViT-B/32 alone; with other grids it leaves the columns. As
    released a valid frame beside a padded one reads the padding; mask_padding: it keeps its own."""

    def __init__(self, clip, max_frames, mask_padding=False):
        super().__init__()
        self.mask_padding = mask_padding

    def forward(self, clip, pixels, mask):
        """pixels [V, F, 3, H, W], mask [V, F] -> frames [V, F, D], mask [V, F],
        patches [V, F, P, D]"""
        visual, mask = clip.clip.visual, mask.bool()
        x = run(visual, visual.ln_pre(embed(visual, pixels)), blocks=slice(-2))
        sources = mask if self.mask_padding else torch.ones_like(mask)
        shifted = partial(self.attention, sources=sources, columns=visual.grid_size[1])
        x = project(visual, run(visual, x, shifted, slice(-2, None)))
        return {'frames': x[:, :, 0], 'mask': mask, 'patches': x[:, :, 1:]}

    def attention(self, attn, h, sources, columns):
        """Self-attention of h [V, F, 1 + P, W] with shifted columns."""
        return attend(attn, self.shift(h, sources, columns))

    @staticmethod
    def shift(h, sources, columns):
        """h [V, F, 1 + P, W] with shifted columns; sources [V, F]: the frames to read from."""
        shifted = h.clone()
        frames = torch.arange(h.shape[1], device=h.device)
        for first, step in ((1, -1), (1 + columns // 2, 1)):
            source = (frames + step).clamp(0, len(frames) - 1)
            own, other = h[:, :, first::columns], h[:, source, first::columns]
            readable = sources[:, source, None, None]
            shifted[:, :, first::columns] = torch.where(readable, other, own)
        return shifted
