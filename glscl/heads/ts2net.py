"""TS2-Net: Token Shift and Selection Transformer for Text-Video Retrieval (Liu et al. 2022);
released code: yuqi657/ts2_net."""
from functools import partial

import torch
from torch import nn

from ..data.batch import Items
from ..encoders import normalised
from .base import Cost, Head, hide, masked_softmax, small_weights, temporal_cost
from .tower import attend, checked, embed, project, run


def perturbed_top_k(scores, noise, k, sigma, diagonal=False):
    """Soft indicators of the k largest of n scores: the mean over noisy copies of their hard top-k,
    in index order. scores [N, n], noise [samples, n], or [N, samples, n] where each row has its own
    -> [N, k, n].

    The gradient is the perturbed optimiser's: d indicator_ki / d score_j = E[hit_ki noise_j] /
    sigma, for all j. diagonal: for j = i alone, as in the released code, which points elsewhere (in
    a comparison with it, a cosine of 0.6 to the whole, and the whole was 1.7 times longer)."""
    noisy = scores[:, None] + sigma * noise                                   # [N, samples, n]
    top = noisy.topk(k, -1).indices.sort(-1).values                           # [N, samples, k]
    hits = nn.functional.one_hot(top, scores.shape[-1]).to(scores.dtype)      # [N, samples, k, n]
    if not scores.requires_grad:
        return hits.mean(1)
    # Linear in the scores, with that gradient; only the gradient is wanted, so its value goes.
    along = scores[:, None] / (noisy.shape[1] * sigma) * noise                # [N, samples, n]
    if diagonal:
        slope = torch.einsum('nski,nsi->nki', hits, along)
    else:
        slope = torch.einsum('nski,ns->nki', hits, along.sum(-1))
    return hits.mean(1) + (slope - slope.detach())


class TokenSelection(nn.Module):
    """The class token of each frame and the k = 3 patches that a small network finds telling.

    In training one draw of noise serves all frames, and the whole Jacobian is kept. released: a
    draw for each frame, and the diagonal of the Jacobian alone. In eval mode the draw is fixed; the
    released code draws there too, so that its scores vary from run to run. Raises ValueError for
    frames of fewer than k patches."""

    def __init__(self, width, k=3, samples=500, sigma=0.05, released=False):
        super().__init__()
        self.k = k
        self.released = released
        self.samples = samples
        self.sigma = sigma
        half = width // 2
        self.look = small_weights(nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, half, bias=False), nn.GELU()))
        self.rate = small_weights(nn.Sequential(
            nn.Linear(2 * half, half, bias=False), nn.GELU(), nn.Linear(half, 1, bias=False)))

    def forward(self, frames, patches):
        """frames [V, F, D], patches [V, F, P, D] -> [V, F, 1 + k, D]"""
        if patches.shape[2] < self.k:
            raise ValueError(f'TS2-Net selects {self.k} patches of each frame, and there are '
                             f'{patches.shape[2]}: take a CLIP with smaller patches')
        g = self.look(torch.cat([frames[:, :, None], patches], 2))            # [V, F, 1 + P, D / 2]
        with_class = torch.cat([g, g[:, :, :1].expand_as(g)], -1)
        scores = self.rate(with_class).squeeze(-1).tanh()[:, :, 1:]           # [V, F, P]
        V, F, P = scores.shape
        size, draw = (self.samples, P), None
        if not self.training:
            draw = torch.Generator().manual_seed(0)
        elif self.released:
            size = (V * F, *size)
        noise = torch.randn(size, generator=draw).to(scores)
        chosen = perturbed_top_k(scores.flatten(0, 1), noise, self.k, self.sigma, self.released)
        chosen = chosen.view(V, F, self.k, P)
        return torch.cat([frames[:, :, None], chosen @ patches], 2)


class TS2Net(Head):
    """q_f = <ê, ŷ_f>,  n = norm_f(q m),  a = softmax_f(4 n),  S = sum_f a_f q_f, f a valid frame.

    y: class tokens after a temporal transformer over class tokens and selected patches (`patches`
    [V, F, P, D] from `TokenShift`; without them there is nothing to select and the F class tokens
    go in alone). As released, with patches the mask is tiled over frames instead of repeated for
    each token: short clips are masked in the wrong places, and padded frames, as the image tower
    gives them, are attended to and scored. mask_padding puts it right. released: the selection
    trains as in the released code (`TokenSelection`). Its evaluation encodes again per 8 texts."""
    has_time = True

    def __init__(self, width=512, released=False, **shared):
        super().__init__(width, **shared)
        self.select = TokenSelection(width, released=released)

    def prepare_videos(self, frames, mask, patches=None):
        tokens, every = frames, 1  # [V, F, D]; tokens of a frame, its class token first
        if patches is not None:
            if patches.shape[:2] != mask.shape or patches.shape[-1] != self.width:
                V, F = mask.shape
                raise ValueError(f'patches are {list(patches.shape)}, expected [V, F, P, D] = '
                                 f'[{V}, {F}, P, {self.width}] as the frames')
            patches = hide(patches.to(frames).flatten(2), self.attended(mask)).view(patches.shape)
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
    """Image tower: in the last two blocks the attention reads every s-th token from 1 on from the
    frame before, every s-th from 4 on from the frame after; the residual stays. No parameters.

    s = tokens of a frame // 7, as released. In ViT-B/32 (50 tokens) s = 7 is the width of the grid,
    and the tokens are two columns of it: 14 of 49 patches. Elsewhere they are no columns: s = 28 in
    ViT-B/16 (14 of 196), s = 2 in the small CLIP (15 of 16). The first and the last frame keep what
    they lack. As released a valid frame beside a padded one reads the padding; mask_padding: it
    keeps its own. Raises ValueError for fewer than 7 tokens."""

    def __init__(self, clip, max_frames, mask_padding=False):
        super().__init__()
        tokens = len(clip.clip.visual.positional_embedding)
        if tokens < 7:
            raise ValueError(f'TS2-Net shifts every (tokens // 7)-th token of a frame, and this '
                             f'CLIP has {tokens}: take one with smaller patches')
        self.mask_padding = mask_padding

    def forward(self, clip, pixels, mask):
        """pixels [V, F, 3, H, W], mask [V, F] -> frames [V, F, D], mask [V, F],
        patches [V, F, P, D]"""
        visual = clip.clip.visual
        mask = checked(visual, pixels, mask)
        x = run(visual, visual.ln_pre(embed(visual, pixels)), blocks=slice(-2))
        sources = mask if self.mask_padding else torch.ones_like(mask)
        shifted = partial(self.attention, sources=sources)
        x = project(visual, run(visual, x, shifted, slice(-2, None)))
        return {'frames': x[:, :, 0], 'mask': mask, 'patches': x[:, :, 1:]}

    def attention(self, attn, h, sources):
        """Self-attention of h [V, F, 1 + P, W] with shifted tokens."""
        return attend(attn, self.shift(h, sources))

    @staticmethod
    def shift(h, sources):
        """h [V, F, 1 + P, W] with shifted tokens; sources [V, F]: the frames to read from."""
        shifted, step = h.clone(), h.shape[2] // 7
        frames = torch.arange(h.shape[1], device=h.device)
        for first, along in ((1, -1), (4, 1)):
            source = (frames + along).clamp(0, len(frames) - 1)
            own, other = h[:, :, first::step], h[:, source, first::step]
            readable = sources[:, source, None, None]
            shifted[:, :, first::step] = torch.where(readable, other, own)
        return shifted
