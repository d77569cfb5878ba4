"""DiCoSA: Text-Video Retrieval with Disentangled Conceptualization and Set-to-Set Alignment (Jin et
al. 2023); released code: jpthu17/DiCoSA."""
import torch
from torch import nn

from ..data.batch import Items
from ..encoders import normalised
from .base import Cost, Head, masked_softmax, perceptron, temporal_cost


class DiCoSA(Head):
    """p = sum_f a_f y_f with a = softmax_f(<e, y_f> / 3); in each of C = 8 concepts of width d:
    S = sum_c λ_c cos(e_c, p_c),  λ_c = W2 ReLU(W1 [e_c; p_c] + b1) + b2.

    As released, a is masked after the softmax and not renormalised; mask_padding: before it.

    Gram form: W1 is split into its text and video half, and the latter moved through the sum over
    frames; |p_c|^2 = a^T G_c a. Frames that cancel cost digits: |p_c|^2 is as exact as float32
    rounds the frames' squared lengths, so that at a thousandth of their length little is left of
    it; the cosine is held within [-1, 1].

    Raises ValueError for a width that does not split into the concepts."""
    has_time = True
    tile = 32

    def __init__(self, width=512, concepts=8, temperature=3.0, **shared):
        super().__init__(width, **shared)
        if width % concepts:
            raise ValueError(f'DiCoSA: width {width} does not split into {concepts} concepts')
        self.concepts = concepts
        self.temperature = temperature
        d = width // concepts
        self.weigh = perceptron(2 * d, 4 * d)

    def split(self, x):
        """[..., D] -> [..., C, d]"""
        return x.unflatten(-1, (self.concepts, -1))

    def prepare_texts(self, sentence, words, mask):
        first = self.weigh[0]
        e = self.split(sentence)                                              # [T, C, d]
        hidden = nn.functional.linear(e, first.weight[:, :e.shape[-1]], first.bias)
        return Items(sentence=sentence, hidden=hidden)                        # hidden [T, C, 4d]

    def prepare_videos(self, frames, mask):
        y = self.over_time(frames, mask)
        parts = self.split(y)                                                 # [V, F, C, d]
        hidden = parts @ self.weigh[0].weight[:, parts.shape[-1]:].T          # [V, F, C, 4d]
        gram = torch.einsum('vfcd,vgcd->vcfg', parts, parts)
        return Items(frames=y, mask=mask, hidden=hidden, gram=gram)

    def _weights(self, logits, mask):
        """logits [V, T, F], mask [V, F] -> a [V, T, F]"""
        attended = self.attended(mask)[:, None]
        return masked_softmax(logits / self.temperature, attended) * mask[:, None]

    def score(self, texts, videos):
        e, y = self.split(texts.sentence), self.split(videos.frames)
        dots = torch.einsum('tcd,vfcd->vctf', e, y)                           # <e_c, y_fc>
        a = self._weights(dots.sum(1), videos.mask)                           # [V, T, F]
        dot = (a[:, None] * dots).sum(-1).transpose(1, 2)                     # <e_c, p_c> [V, T, C]
        Ga = self.split(a @ videos.gram.transpose(1, 2).flatten(2))    # [V, T, C, F]
        norm2 = (Ga * a[:, :, None]).sum(-1)                                  # |p_c|^2 [V, T, C]
        size = e.norm(dim=-1) * norm2.clamp_min(1e-24).sqrt()
        cosine = (dot / size.clamp_min(1e-12)).clamp(-1, 1)
        hidden = texts.hidden + self.split(a @ videos.hidden.flatten(2))
        weight = self.weigh[2](hidden.relu()).squeeze(-1)                     # λ [V, T, C]
        return (weight * cosine).sum(-1).T

    def score_direct(self, texts, videos):
        logits = torch.einsum('td,vfd->vtf', texts.sentence, videos.frames)
        a = self._weights(logits, videos.mask)
        p = self.split(torch.einsum('vtf,vfd->vtd', a, videos.frames))        # [V, T, C, d]
        e = self.split(texts.sentence).expand_as(p)
        weight = self.weigh(torch.cat([e, p], -1)).squeeze(-1)
        cosine = torch.einsum('vtcd,vtcd->vtc', normalised(e), normalised(p))
        return (weight * cosine).sum(-1).T

    def own_loss(self, texts, videos, scale, video_ids):
        """Contrastive, plus decorrelation of the concepts of matched pairs (weight 0.01 on the
        diagonal of their correlations, 0.005 off it)."""
        e, y = texts.sentence, videos.frames
        a = self._weights(torch.einsum('bd,bfd->bf', e, y)[:, None], videos.mask)
        e, p = self._z_scores(e), self._z_scores((a @ y).squeeze(1))          # [B, C, d]
        # Divided by the text length L, as released.
        C = torch.einsum('bid,bjd->ij', e, p) / len(e) / self.max_words
        others = (C ** 2).sum() - (C.diagonal() ** 2).sum()
        diagonal = ((C.diagonal() - 1) ** 2).sum()
        return super().own_loss(texts, videos, scale, video_ids) + 0.01 * diagonal + 0.005 * others

    def _z_scores(self, x):
        """[B, D] -> [B, C, d], each concept with mean 0 and deviation 1"""
        x = self.split(x)
        return (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True).clamp_min(1e-6)

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8, C=8):
        d = D // C
        first = C * d * 4 * d                             # half of W1, on one item
        tail = C * 4 * d + C                              # W2; the sum over concepts
        coded = 2 * F * D + 2 * first + D + tail
        return Cost(pair=2 * F * D + F * C * 4 * d + D + tail, coded=coded,
                    gram=F * D + F * C * 4 * d + C * F + C * F * F + tail,
                    gram_sums=C * F + C, video=temporal_cost(F, D) + F * first, text=first,
                    gram_video=F * F * D, video_bytes=20 * F * D + F + 4 * C * F * F,
                    text_bytes=20 * D)
