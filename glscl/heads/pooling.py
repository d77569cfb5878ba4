"""Heads that pool the frames by attention and map the result: X-Pool, and T-MASS, which samples the text around it."""
import torch
from torch import nn

from ..encoders import normalised
from ..losses import contrastive
from .base import Cost, Head, Kept, masked_softmax


def identity_layer(width):
    """A linear layer that starts as the identity."""
    layer = nn.Linear(width, width)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class XPool(Head):
    """a = softmax_f( <Wq LN1(e), Wk LN1(x_f)> / sqrt(D) ),  o = LN2( Wo sum_f a_f Wv LN1(x_f) ),  p = LN3( o + W o ),
    S = cos(e, p). No temporal transformer, features not normalised.

    The released code has no frame mask: it repeats the last frame of a short clip, and padded frames that are given are
    attended to unless mask_padding. Gram form: the weights sum to 1, so Wo and its bias pass through the sum; a LayerNorm
    is linear but for one scalar a pair, so W moves to the frames too. Identical, cancelling or zero frames
    meet the LayerNorms' eps and stay finite. In training, where dropout acts on p, `similarity` is the direct form."""
    tile = 64

    def __init__(self, width=512, dropout=0.3, **shared):
        super().__init__(width, **shared)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.key, self.value, self.out, self.map = (identity_layer(width) for _ in range(5))
        self.dropout = nn.Dropout(dropout)

    def keep_texts(self, sentence, words, mask):
        unit, ends = normalised(sentence), self._ends()
        offsets = torch.stack([(unit * end).sum(-1) for end in ends], -1)            # <ê, R'_const>, <ê, β3>
        return Kept(query=self.query(self.norm1(sentence)) / self.width ** 0.5, unit=unit, offsets=offsets)

    def _ends(self):
        """The constant row R'_const and β3, both [D]"""
        return self.norm3.weight * self._constant(), self.norm3.bias

    def _constant(self):
        """LN2's bias and the map's, through I + W, centred: [D]"""
        row = self.norm2.bias + (self.map.weight * self.norm2.bias).sum(-1) + self.map.bias
        return row - row.mean()

    def _rows(self, frames):
        """frames -> key k, value z, centred mapped value ż, rows R (centred): all [V, F, D]"""
        x = self.norm1(frames)
        z = self.value(x)
        zc = self.out(z)
        zc = zc - zc.mean(-1, keepdim=True)
        scaled = self.norm2.weight * zc
        rows = scaled + scaled @ self.map.weight.T
        return self.key(x), z, zc, rows - rows.mean(-1, keepdim=True)

    def keep_videos(self, frames, mask):
        seen, D = self.seen(mask), self.width
        key, value, zc, rows = self._rows(frames)
        every = torch.cat([rows, self._constant().expand(len(rows), 1, D)], 1)       # [V, F + 1, D]
        final = self.norm3.weight * every
        return Kept(key=key, rows=final[:, :-1], mask=seen, gram=zc @ zc.transpose(1, 2) / D,
                    spread=every @ every.transpose(1, 2) / D, final=final @ final.transpose(1, 2),
                    shift=(final * self.norm3.bias).sum(-1), raw_value=value)

    def _weights(self, t, v):
        """a [V, T, F]"""
        dots = (t.query @ v.key.flatten(0, 1).T).view(len(t), *v.mask.shape).transpose(0, 1)
        return masked_softmax(dots, v.mask[:, None])

    def _scaled(self, a, v):
        """u = a / σ2 [V, T, F], σ2² the variance of what LN2 reads"""
        return a / ((a @ v.gram * a).sum(-1, keepdim=True).clamp_min(0) + self.norm2.eps).sqrt()

    def score(self, t, v):
        if self.training:
            return self.score_direct(t, v)
        u = self._scaled(self._weights(t, v), v)
        u = torch.cat([u, torch.ones_like(u[..., :1])], -1)                          # [V, T, F + 1]
        inverse = ((u @ v.spread * u).sum(-1).clamp_min(0) + self.norm3.eps).rsqrt()  # 1 / σ3
        delta = (t.unit @ v.rows.flatten(0, 1).T).view(len(t), *v.mask.shape).transpose(0, 1)
        delta = torch.cat([delta, t.offsets[:, :1].expand(len(v), -1, -1)], -1)
        dot = (u * delta).sum(-1) * inverse + t.offsets[:, 1]
        norm2 = (u @ v.final * u).sum(-1) * inverse ** 2 + 2 * (u * v.shift[:, None]).sum(-1) * inverse \
            + (self.norm3.bias ** 2).sum()
        return (dot * norm2.clamp_min(1e-12).rsqrt()).clamp(-1, 1).T

    def pooled(self, t, v):
        """p [V, T, D] as the equations say, with dropout in training"""
        o = self.norm2(self.out(torch.einsum('vtf,vfd->vtd', self._weights(t, v), v.raw_value)))
        return self.norm3(o + self.dropout(self.map(o)))

    def score_direct(self, t, v):
        return torch.einsum('td,vtd->tv', t.unit, normalised(self.pooled(t, v)))

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8):
        direct = 2 * F * D + 2 * D * D + D
        sums = 3 * (F + 1)                                                           # u, <u, δ>, <u, h'>
        return Cost(pair=direct - D * D, coded=direct, direct=direct, gram=2 * F * D + F * F + 2 * (F + 1) ** 2 + sums,
                    gram_sums=sums, video=2 * F * D * D, text=D * D,
                    gram_video=2 * F * D * D + F * F * D + 2 * (F + 1) ** 2 * D,
                    video_bytes=8 * F * D + 4 * (F * F + 2 * (F + 1) ** 2 + F + 1) + F, text_bytes=8 * D + 8)


class TMASS(XPool):
    """X-Pool's p, and 20 texts sampled around e: ρ = exp(W_r c + b), c_f = cos(e, x_f), e_k = e + ε_k ρ, ε_k ~ U[0,1)^D,
    S = max_k cos(e_k, p). W_r starts as the identity.

    Each pair pools the video with its own query; the released evaluation pools it with the video's true caption, which
    leaks the answer. The noise is one fixed draw for all pairs (`seed`), so that a score hangs on its pair alone, and the
    products with it are matrix products."""
    tile = 32

    def __init__(self, width=512, max_frames=12, trials=20, support_weight=0.8, seed=0, **shared):
        super().__init__(width, max_frames=max_frames, **shared)
        self.trials, self.support_weight, self.seed = trials, support_weight, seed
        self.radius = nn.Linear(max_frames, width)
        nn.init.eye_(self.radius.weight)
        nn.init.zeros_(self.radius.bias)

    def has_size(self, what):
        return what == 'frames'

    def keep_texts(self, sentence, words, mask):
        return Kept(query=self.query(self.norm1(sentence)) / self.width ** 0.5, sentence=sentence)

    def keep_videos(self, frames, mask):
        key, value, zc, rows = self._rows(frames)
        return Kept(key=key, rows=rows, frames=normalised(frames), mask=self.seen(mask), gram=zc @ zc.transpose(1, 2) / self.width,
                    raw_value=value)

    def noise(self):
        """ε [trials, D], the same at every call"""
        draw = torch.rand(self.trials, self.width, generator=torch.Generator().manual_seed(self.seed))
        return draw.to(self.radius.weight)

    def radii(self, cosines):
        """c [..., F] -> ρ [..., D]"""
        return nn.functional.linear(cosines, self.radius.weight[:, :cosines.shape[-1]], self.radius.bias).exp()

    def score(self, t, v):
        if self.training:
            return self.score_direct(t, v)
        P = self._scaled(self._weights(t, v), v) @ v.rows + self._constant()         # [V, T, D], centred
        p = self.norm3.weight * P * ((P ** 2).mean(-1, keepdim=True) + self.norm3.eps).rsqrt() + self.norm3.bias
        c = (normalised(t.sentence) @ v.frames.flatten(0, 1).T).view(len(t), *v.mask.shape).transpose(0, 1)
        rho, eps, e = self.radii(c), self.noise(), t.sentence
        dot = torch.einsum('td,vtd->vt', e, p)[..., None] + (rho * p) @ eps.T     # <e + ε ρ, p> [V, T, k]
        size2 = (e ** 2).sum(-1)[:, None] + 2 * ((rho * e) @ eps.T) + rho ** 2 @ (eps ** 2).T
        best = (dot * size2.clamp_min(1e-12).rsqrt()).amax(-1)
        return (best / p.norm(dim=-1).clamp_min(1e-12)).T

    def score_direct(self, t, v):
        p, e = normalised(self.pooled(t, v)), t.sentence
        rho = self.radii(torch.einsum('td,vfd->vtf', normalised(e), v.frames))       # [V, T, D]
        best = [torch.einsum('vtd,vtd->vt', normalised(e + eps * rho), p) for eps in self.noise()]
        return torch.stack(best).amax(0).T

    def loss(self, texts, videos, scale, video_ids=None):
        """Text i, sampled once around itself by its own video's radius, and a support text drawn towards the mean of what
        all texts see in that video (weight 0.8): the contrastive loss of both."""
        e, p = texts.sentence, self.pooled(texts, videos)                            # p [V, T, D]
        rho = self.radii(torch.einsum('bd,bfd->bf', normalised(e), videos.frames))
        mean = p.mean(1)                                                             # [V, D]
        sampled, support = e + torch.rand_like(e) * rho, e + rho * normalised(mean - e)
        p = normalised(p)
        nce = [contrastive(torch.einsum('td,vtd->tv', normalised(x), p), scale, video_ids) for x in (sampled, support)]
        return nce[0] + self.support_weight * nce[1]

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8, trials=20):
        samples = 3 * trials * D + D
        return Cost(pair=4 * F * D + D * D + samples, gram=4 * F * D + F * F + samples,
                    direct=4 * F * D + 2 * D * D + 3 * trials * D, direct_sums=2 * trials * D,
                    coded=3 * F * D + F * F * D + 2 * D * D + samples, repeated=T * V * V * D,
                    video=2 * F * D * D, text=D * D, gram_video=2 * F * D * D + F * F * D,
                    video_bytes=12 * F * D + 4 * F * F + F, text_bytes=8 * D)
