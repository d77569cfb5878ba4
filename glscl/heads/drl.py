"""DRL: Disentangled Representation Learning for Text-Video Retrieval (Wang et al. 2022); released
code: foolwood/DRL."""
from ..data.batch import Items
from ..encoders import normalised
from .base import Cost, Head, masked_softmax, perceptron, temporal_cost


class DRL(Head):
    """S = 1/2 [ sum_l ω_l max_f G_lf + sum_f ν_f max_l G_lf ] with G_lf = <ŵ_l, ŷ_f>.

    ω, ν: softmax over the valid words, frames of a small network on un-normalised features. As
    released, a padded entry of G is 0, which wins the maximum where all true cosines are negative;
    mask_padding leaves it out of the maximum. No Gram form: the similarities themselves are
    weighed. Channel decorrelation (a variant of its own in the paper) is left out."""
    has_time = True
    reads_words = True
    tile = 128

    def __init__(self, width=512, **shared):
        super().__init__(width, **shared)
        self.weigh_words = perceptron(width, width)
        self.weigh_frames = perceptron(width, width)

    def prepare_texts(self, sentence, words, mask):
        units = normalised(words)
        weights = masked_softmax(self.weigh_words(words).squeeze(-1), mask)   # ω [T, L]
        return Items(units=units, word_mask=mask, weights=weights)

    def prepare_videos(self, frames, mask):
        y = self.over_time(frames, mask)
        units = normalised(y)
        weights = masked_softmax(self.weigh_frames(y).squeeze(-1), mask)      # ν [V, F]
        return Items(units=units, mask=mask, weights=weights)

    def score(self, texts, videos):
        G = texts.units.flatten(0, 1) @ videos.units.flatten(0, 1).T
        G = G.view(*texts.word_mask.shape, *videos.mask.shape)                # [T, L, V, F]
        valid = texts.word_mask[:, :, None, None] & videos.mask
        # -2 lies below every cosine.
        G = G.masked_fill(~valid, -2.0 if self.mask_padding else 0.0)
        by_words = (texts.weights[:, :, None] * G.amax(3)).sum(1)             # [T, V]
        by_frames = (G.amax(1) * videos.weights).sum(-1)
        return (by_words + by_frames) / 2

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8):
        pair = L * F * D + L + F
        return Cost(pair=pair, coded=pair, gram=pair, gram_sums=L + F, text=L * (D * D + D),
                    video=temporal_cost(F, D) + F * (D * D + D),
                    video_bytes=4 * F * (D + 1) + F, text_bytes=4 * L * (D + 1) + L)
