"""X-Pool: Cross-Modal Language-Video Attention for Text-Video Retrieval (Gorti et al. 2022);
released code: layer6ai-labs/xpool."""
import torch
from torch import nn

from ..data.batch import Items
from ..encoders import normalised
from .base import Cost, Head, masked_softmax


def identity_layer(inputs, outputs):
    """A linear layer that starts as the identity, as far as it goes."""
    layer = nn.Linear(inputs, outputs)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class XPool(Head):
    """a = softmax_f( <Wq LN1(e), Wk LN1(x_f)> / sqrt(D) ),  o = LN2( Wo sum_f a_f Wv LN1(x_f) ),
    p = LN3( o + W o ),  S = cos(e, p). No temporal transformer, features not normalised.

    The released code has no frame mask: it repeats the last frame of a short clip, and padded
    frames that are given are attended to unless mask_padding.

    Gram form: the weights sum to 1, so Wo and its bias pass through the sum, z_f = Wo Wv LN1(x_f).
    A LayerNorm is linear but for one scalar a pair, so W moves to the frames too: with ż_f the
    centred z_f, σ2² = a^T (ż ż^T / D) a + eps and u = [a / σ2; 1], what LN3 reads is u^T R. R has a
    row (I + W) (γ2 ż_f) for each frame and one, (I + W) β2 + b, that is constant; all are centred.
    Then σ3², <e, p> and |p|² are forms in u, of Gram matrices of R. Identical, cancelling or zero
    frames meet the LayerNorms' eps and stay finite. In training, where dropout acts on W o,
    `similarity` is the direct form."""
    tile = 64

    def __init__(self, width=512, dropout=0.3, **shared):
        super().__init__(width, **shared)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.query = identity_layer(width, width)
        self.key = identity_layer(width, width)
        self.value = identity_layer(width, width)
        self.out = identity_layer(width, width)
        self.map = identity_layer(width, width)
        self.dropout = nn.Dropout(dropout)

    def prepare_texts(self, sentence, words, mask):
        unit = normalised(sentence)
        constant = self.norm3.weight * self._constant()
        offsets = [(unit * end).sum(-1) for end in (constant, self.norm3.bias)]
        return Items(query=self._query(sentence), unit=unit, offsets=torch.stack(offsets, -1))

    def _query(self, sentence):
        return self.query(self.norm1(sentence)) / self.width ** 0.5

    def _constant(self):
        """The constant row of R: [D]"""
        row = self.norm2.bias + (self.map.weight * self.norm2.bias).sum(-1) + self.map.bias
        return row - row.mean()

    def _rows(self, frames):
        """frames x -> keys, values Wv LN1(x), ż, rows of R: all [V, F, D]"""
        x = self.norm1(frames)
        value = self.value(x)
        z = self.out(value)
        z = z - z.mean(-1, keepdim=True)
        scaled = self.norm2.weight * z
        rows = scaled + scaled @ self.map.weight.T
        return self.key(x), value, z, rows - rows.mean(-1, keepdim=True)

    def prepare_videos(self, frames, mask):
        D = self.width
        key, value, z, rows = self._rows(frames)
        constant = self._constant().expand(len(rows), 1, D)
        R = torch.cat([rows, constant], 1)                                    # [V, F + 1, D]
        final = self.norm3.weight * R
        return Items(key=key, rows=final[:, :-1], mask=self.attended(mask),
                     gram=z @ z.transpose(1, 2) / D, spread=R @ R.transpose(1, 2) / D,
                     final=final @ final.transpose(1, 2),
                     shift=(final * self.norm3.bias).sum(-1), raw_value=value)

    def _per_frame(self, text, frames):
        """<text [T, D], frames [V, F, D]> -> [V, T, F]"""
        dots = text @ frames.flatten(0, 1).T
        return dots.view(len(text), *frames.shape[:2]).transpose(0, 1)

    def _weights(self, texts, videos):
        """a [V, T, F]"""
        return masked_softmax(self._per_frame(texts.query, videos.key), videos.mask[:, None])

    def _scaled(self, texts, videos):
        """a / σ2 [V, T, F]"""
        a = self._weights(texts, videos)
        variance = (a @ videos.gram * a).sum(-1, keepdim=True).clamp_min(0)
        return a / (variance + self.norm2.eps).sqrt()

    def score(self, texts, videos):
        if self.training:
            return self.score_direct(texts, videos)
        u = self._scaled(texts, videos)
        u = torch.cat([u, torch.ones_like(u[..., :1])], -1)                   # [V, T, F + 1]
        variance = (u @ videos.spread * u).sum(-1).clamp_min(0)
        inverse = (variance + self.norm3.eps).rsqrt()                         # 1 / σ3 [V, T]
        constant = texts.offsets[:, :1].expand(len(videos), -1, -1)
        delta = torch.cat([self._per_frame(texts.unit, videos.rows), constant], -1)
        bias = self.norm3.bias
        dot = (u * delta).sum(-1) * inverse + texts.offsets[:, 1]             # <ê, p>
        norm2 = (u @ videos.final * u).sum(-1) * inverse ** 2                 # |p|²
        norm2 = norm2 + 2 * (u * videos.shift[:, None]).sum(-1) * inverse + (bias ** 2).sum()
        return (dot * norm2.clamp_min(1e-12).rsqrt()).clamp(-1, 1).T

    def pooled(self, texts, videos):
        """p [V, T, D] as the equations say, with dropout in training."""
        a = self._weights(texts, videos)
        o = self.norm2(self.out(torch.einsum('vtf,vfd->vtd', a, videos.raw_value)))
        return self.norm3(o + self.dropout(self.map(o)))

    def score_direct(self, texts, videos):
        p = normalised(self.pooled(texts, videos))
        return torch.einsum('td,vtd->tv', texts.unit, p)

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8):
        pair = 2 * F * D + D * D + D
        sums = 3 * (F + 1)                                # u, <u, delta>, <u, shift>
        grams = F * F + 2 * (F + 1) ** 2
        return Cost(pair=pair, coded=pair + D * D, gram=2 * F * D + grams + sums, gram_sums=sums,
                    video=2 * F * D * D, text=D * D, gram_video=2 * F * D * D + grams * D,
                    video_bytes=8 * F * D + 4 * (grams + F + 1) + F, text_bytes=8 * D + 8)
