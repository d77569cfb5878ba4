"""X-CLIP: End-to-End Multi-grained Contrastive Learning for Video-Text Retrieval (Ma et al. 2022);
released code: xuguohai/X-CLIP."""
import torch
from torch import nn

from ..data.batch import Items
from ..encoders import normalised
from .base import Cost, Head, hide, masked_softmax, temporal_cost


class XCLIP(Head):
    """S = (S1 + S2 + S3 + S4) / 4; weights are softmax(· / 0.01) times a learned matrix A that
    starts as the identity.

    video-sentence  S1 = ê W_g u
    video-word      S2 from r_l = <ŵ_l, u>
    sentence-frame  S3 from q_f = <ê, x̂_f>
    frame-word      S4 from G_lf = ŵ_l W_l x̂_f: over words then frames, and over frames then words,
                    averaged

    u: mean of temporal frames ŷ over the valid ones; x̂: CLIP's own frames. As released, padded
    words and frames count in all grains but the first: all L words of a text, of a text tower
    whose padded positions see each other (`HeadModel`). Hoisted: W_g and W_l are applied once per
    text. No Gram form: the similarities themselves are weighed. The matrices A fix the most words
    and frames."""
    has_time = True
    reads_words = True
    sized_by = ('words', 'frames')
    pads_words = True
    tile = 64

    def __init__(self, width=512, max_frames=12, max_words=32, **shared):
        super().__init__(width, max_frames, max_words, **shared)

        def identity(n):
            return nn.Parameter(torch.eye(n))
        self.sentence_map = identity(width)               # W_g
        self.word_map = identity(width)                   # W_l
        self.words_of_video = identity(max_words)
        self.words_of_frame = identity(max_words)
        self.words_last = identity(max_words)
        self.frames_of_sentence = identity(max_frames)
        self.frames_of_word = identity(max_frames)
        self.frames_last = identity(max_frames)

    def prepare_texts(self, sentence, words, mask):
        """Mapped by W_g and W_l, and as they are: r and q read the latter."""
        e, w = normalised(sentence), normalised(words)
        return Items(unit=e, words=w, mapped=e @ self.sentence_map, mapped_words=w @ self.word_map,
                     word_mask=self.attended(mask))

    def prepare_videos(self, frames, mask):
        y = hide(self.over_time(frames, mask), mask)
        u = normalised(normalised(y).sum(1))
        return Items(video=u, units=normalised(frames), mask=self.attended(mask))

    def score(self, texts, videos):
        words, frames = texts.word_mask[:, None], videos.mask[None]           # [T, 1, L], [1, V, F]
        S1 = texts.mapped @ videos.video.T
        G = torch.einsum('tld,vfd->tvlf', texts.mapped_words, videos.units)
        r = torch.einsum('tld,vd->tvl', texts.words, videos.video)
        q = torch.einsum('td,vfd->tvf', texts.unit, videos.units)
        S2 = weighed(r, words, self.words_of_video)
        S3 = weighed(q, frames, self.frames_of_sentence)
        over_words = weighed(G.transpose(2, 3), words[:, :, None], self.words_of_frame)  # [T, V, F]
        over_frames = weighed(G, frames[:, :, None], self.frames_of_word)                # [T, V, L]
        S4 = (weighed(over_words, frames, self.frames_last)
              + weighed(over_frames, words, self.words_last)) / 2
        return (S1 + S2 + S3 + S4) / 4

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8):
        dots = L * F * D + L * D + F * D + D
        matrices = 2 * L * L + 2 * F * F + F * L * L + L * F * F
        sums = 2 * (L * F + L + F)
        pair = dots + matrices + sums
        once = temporal_cost(F, D)
        return Cost(pair=pair, coded=pair + L * D + F * D, gram=pair, gram_sums=sums, video=once,
                    text=(L + 1) * D * D, repeated=-(-T // 40) * V * once,
                    video_bytes=4 * (F + 1) * D + F, text_bytes=8 * (L + 1) * D + L)


def weighed(x, mask, matrix):
    """sum_i (softmax(x / 0.01)^T A)_i x_i along the last axis, of which `mask` counts."""
    n = x.shape[-1]
    return (masked_softmax(x / 0.01, mask) @ matrix[:n, :n] * x).sum(-1)
