"""Heads in which every word meets every frame: X-CLIP and DRL. No Gram form: the similarities themselves are weighed."""
import torch
from torch import nn

from ..encoders import normalised
from .base import Cost, Head, Kept, hide, masked_softmax, small_weights, temporal_cost


class XCLIP(Head):
    """Four grains, each a weighed sum of cosines: S = (S1 + S2 + S3 + S4) / 4, weights softmax(· / 0.01) times a learned
    matrix A that starts as the identity.

    video-sentence  S1 = ê W_g u          video-word  S2 from r_l = <ŵ_l, u>         sentence-frame  S3 from q_f = <ê, x̂_f>
    frame-word      S4 from G_lf = ŵ_l W_l x̂_f: over words then frames, and over frames then words, averaged.
    u: mean of temporal frames ŷ over the valid ones; x̂: CLIP's own frames. As released, padded words and frames count in
    the other grains. Hoisted: W_g and W_l are applied once per text. The matrices fix the most words and frames."""
    has_time, reads_words, tile = True, True, 64

    def __init__(self, width=512, max_frames=12, max_words=32, **shared):
        super().__init__(width, max_frames, max_words, **shared)
        self.sentence_map, self.word_map = (nn.Parameter(torch.eye(width)) for _ in range(2))                  # W_g, W_l
        self.words_of_video, self.words_of_frame, self.words_last = (nn.Parameter(torch.eye(max_words)) for _ in range(3))
        self.frames_of_sentence, self.frames_of_word, self.frames_last = (nn.Parameter(torch.eye(max_frames)) for _ in range(3))

    def has_size(self, what):
        return True

    def keep_texts(self, sentence, words, mask):  # mapped and unmapped: r and q read the latter
        e, w = normalised(sentence), normalised(words)
        return Kept(unit=e, words=w, mapped=e @ self.sentence_map, mapped_words=w @ self.word_map, word_mask=self.seen(mask))

    def keep_videos(self, frames, mask):
        y = self.temporal(frames, mask) if self.temporal else frames
        u = normalised(normalised(hide(y, mask)).sum(1))
        return Kept(video=u, units=normalised(frames), mask=self.seen(mask))

    def score(self, t, v):
        return self._grains(t, v, t.mapped @ v.video.T, torch.einsum('tld,vfd->tvlf', t.mapped_words, v.units))

    def score_direct(self, t, v):
        S1 = torch.einsum('td,vd->tv', t.unit, v.video @ self.sentence_map.T)
        return self._grains(t, v, S1, torch.einsum('tld,vfd->tvlf', t.words, v.units @ self.word_map.T))

    def _grains(self, t, v, S1, G):
        words, frames = t.word_mask[:, None], v.mask[None]                           # [T, 1, L], [1, V, F]
        r = torch.einsum('tld,vd->tvl', t.words, v.video)
        q = torch.einsum('td,vfd->tvf', t.unit, v.units)
        over_words = weighed(G.transpose(2, 3), words[:, :, None], self.words_of_frame)       # α [T, V, F]
        over_frames = weighed(G, frames[:, :, None], self.frames_of_word)                     # γ [T, V, L]
        S4 = weighed(over_words, frames, self.frames_last) + weighed(over_frames, words, self.words_last)
        return (S1 + weighed(r, words, self.words_of_video) + weighed(q, frames, self.frames_of_sentence) + S4 / 2) / 4

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8):
        sums = 2 * (L * F + L + F)
        pair = L * F * D + L * D + F * D + D + 2 * L * L + 2 * F * F + F * L * L + L * F * F + sums
        return Cost(pair=pair, coded=pair + L * D + F * D, gram=pair, direct=pair, gram_sums=sums, direct_sums=sums,
                    video=temporal_cost(F, D), text=(L + 1) * D * D, repeated=-(-T // 40) * V * temporal_cost(F, D),
                    video_bytes=4 * (F + 1) * D + F, text_bytes=8 * (L + 1) * D + L)


def weighed(x, mask, matrix):
    """sum_i (softmax(x / 0.01)^T A)_i x_i along the last axis, of which `mask` counts."""
    n = x.shape[-1]
    return (masked_softmax(x / 0.01, mask) @ matrix[:n, :n] * x).sum(-1)


class DRL(Head):
    """Weighted token-wise interaction: G_lf = <ŵ_l, ŷ_f>,  S = 1/2 [ sum_l ω_l max_f G_lf + sum_f ν_f max_l G_lf ].

    ω, ν: softmax over the valid words, frames of a small network on un-normalised features. As released, a padded entry of
    G is 0, which wins the maximum where all true cosines are negative; mask_padding leaves it out of the maximum. Channel
    decorrelation (a variant of its own in the paper) is left out."""
    has_time, reads_words, tile = True, True, 128

    def __init__(self, width=512, **shared):
        super().__init__(width, **shared)
        self.weigh_words, self.weigh_frames = (small_weights(nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))) for _ in range(2))

    def keep_texts(self, sentence, words, mask):
        return Kept(units=normalised(words), word_mask=mask, weights=masked_softmax(self.weigh_words(words).squeeze(-1), mask))

    def keep_videos(self, frames, mask):
        y = self.temporal(frames, mask) if self.temporal else frames
        return Kept(units=normalised(y), mask=mask, weights=masked_softmax(self.weigh_frames(y).squeeze(-1), mask))

    def score(self, t, v):
        G = (t.units.flatten(0, 1) @ v.units.flatten(0, 1).T).view(*t.word_mask.shape, *v.mask.shape)   # [T, L, V, F]
        valid = t.word_mask[:, :, None, None] & v.mask
        G = G.masked_fill(~valid, -2.0 if self.mask_padding else 0.0)                # -2 lies below every cosine
        text = (t.weights[:, :, None] * G.amax(3)).sum(1)                            # [T, V]
        return (text + (G.amax(1) * v.weights).sum(-1)) / 2

    def score_direct(self, t, v):
        rows = []
        for w, m, weights in zip(t.units, t.word_mask, t.weights):                   # one text at a time
            G = torch.einsum('ld,vfd->vlf', w, v.units)
            G = torch.where(m[:, None] & v.mask[:, None], G, -2.0 if self.mask_padding else 0.0)
            rows.append(((G.max(2).values * weights).sum(-1) + (G.max(1).values * v.weights).sum(-1)) / 2)
        return torch.stack(rows)

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8):
        pair = L * F * D + L + F
        return Cost(pair=pair, coded=pair, gram=pair, direct=pair, gram_sums=L + F, direct_sums=L + F,
                    video=temporal_cost(F, D) + F * (D * D + D), text=L * (D * D + D),
                    video_bytes=4 * F * (D + 1) + F, text_bytes=4 * L * (D + 1) + L)
