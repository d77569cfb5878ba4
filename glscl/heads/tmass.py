"""T-MASS: Text Is MASS: Modeling as Stochastic Embedding for Text-Video Retrieval (Wang et al.
2024); released code: Jiamian-Wang/T-MASS-text-video-retrieval."""
import torch
from torch.nn.functional import linear

from ..data.batch import Items
from ..encoders import normalised
from ..losses import contrastive
from .base import Cost
from .xpool import XPool, identity_layer


class TMASS(XPool):
    """ρ = exp(W_r c + b) with c_f = cos(e, x_f);  e_k = e + ε_k ρ with ε_k ~ U[0, 1)^D, k = 1 … 20;
    S = max_k cos(e_k, p) with X-Pool's p. W_r starts as the identity. Padding as in X-Pool.

    Each pair pools the video with its own query; the released evaluation pools it with the video's
    true caption, which leaks the answer. The noise is one fixed draw for all pairs (`seed`), so
    that a score depends on its pair alone and the products with it are matrix products; the
    released code draws for each pair."""
    sized_by = ('frames',)
    tile = 32

    def __init__(self, width=512, max_frames=12, trials=20, support_weight=0.8, seed=0, **shared):
        super().__init__(width, max_frames=max_frames, **shared)
        self.trials = trials
        self.support_weight = support_weight
        self.seed = seed
        self.radius = identity_layer(max_frames, width)

    def prepare_texts(self, sentence, words, mask):
        return Items(query=self._query(sentence), sentence=sentence)

    def prepare_videos(self, frames, mask):
        key, value, z, rows = self._rows(frames)
        return Items(key=key, rows=rows, frames=normalised(frames), mask=self.attended(mask),
                     gram=z @ z.transpose(1, 2) / self.width, raw_value=value)

    def noise(self):
        """ε [trials, D], the same at every call."""
        generator = torch.Generator().manual_seed(self.seed)
        draw = torch.rand(self.trials, self.width, generator=generator)
        return draw.to(self.radius.weight)

    def radii(self, cosines):
        """c [..., F] -> ρ [..., D]"""
        F = cosines.shape[-1]
        return linear(cosines, self.radius.weight[:, :F], self.radius.bias).exp()

    def score(self, texts, videos):
        if self.training:
            return self.score_direct(texts, videos)
        e, eps = texts.sentence, self.noise()
        before = self._scaled(texts, videos) @ videos.rows + self._constant()  # LN3 reads [V, T, D]
        inverse = ((before ** 2).mean(-1, keepdim=True) + self.norm3.eps).rsqrt()
        p = self.norm3.weight * before * inverse + self.norm3.bias
        rho = self.radii(self._per_frame(normalised(e), videos.frames))       # [V, T, D]
        dot = torch.einsum('td,vtd->vt', e, p)[..., None] + (rho * p) @ eps.T  # <e_k, p> [V, T, k]
        size2 = (e ** 2).sum(-1)[:, None] + 2 * ((rho * e) @ eps.T) + rho ** 2 @ (eps ** 2).T
        best = (dot * size2.clamp_min(1e-12).rsqrt()).amax(-1)
        return (best / p.norm(dim=-1).clamp_min(1e-12)).T

    def score_direct(self, texts, videos):
        e, p = texts.sentence, normalised(self.pooled(texts, videos))
        rho = self.radii(torch.einsum('td,vfd->vtf', normalised(e), videos.frames))
        best = [torch.einsum('vtd,vtd->vt', normalised(e + eps * rho), p) for eps in self.noise()]
        return torch.stack(best).amax(0).T

    def own_loss(self, texts, videos, scale, video_ids):
        """The contrastive loss of two texts in the place of each: one sampled around it by its own
        video's radius, and (weight 0.8) a support text, drawn from it towards the mean of what all
        texts see in that video."""
        e, p = texts.sentence, self.pooled(texts, videos)                     # [B, D], [V, T, D]
        rho = self.radii(torch.einsum('bd,bfd->bf', normalised(e), videos.frames))
        sampled = e + torch.rand_like(e) * rho
        support = e + rho * normalised(p.mean(1) - e)
        p = normalised(p)

        def nce(text):
            S = torch.einsum('td,vtd->tv', normalised(text), p)
            return contrastive(S, scale, video_ids)
        return nce(sampled) + self.support_weight * nce(support)

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8, trials=20):
        samples = 3 * trials * D + D
        return Cost(pair=4 * F * D + D * D + samples, gram=4 * F * D + F * F + samples,
                    coded=3 * F * D + F * F * D + 2 * D * D + samples, repeated=T * V * V * D,
                    video=2 * F * D * D, text=D * D, gram_video=2 * F * D * D + F * F * D,
                    video_bytes=12 * F * D + 4 * F * F + F, text_bytes=8 * D)
