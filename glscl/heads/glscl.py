"""GLSCL's own head, by the same rule as its rivals'; released code: zchoi/GLSCL."""
import torch

from .. import interaction
from ..data.batch import Items
from ..losses import inter_consistency, intra_diversity
from .base import Cost, Head, temporal_cost


class GLSCLHead(Head):
    """S = S_g + λ S_l, both from glscl.interaction: the same functions and module as the model's.

    The released code attends to padding in the query decoder; the global part is the same masked
    before or after. Its evaluation decodes the queries again in each block of 16 x 16, and runs a
    network on each pair that nothing reads. Raises ValueError for a width that does not split into
    the decoder's 8 attention heads."""
    has_time = True
    reads_words = True
    tile = 1000

    def __init__(self, width=512, num_queries=8, decoder_layers=3, temperature=3.0,
                 local_weight=0.5, **shared):
        super().__init__(width, **shared)
        if width % 8:
            raise ValueError(f'GLSCL: width {width} does not split into the 8 attention heads of '
                             f'its query decoder')
        self.temperature = temperature
        self.local_weight = local_weight
        self.local = interaction.LocalInteraction(width, num_queries, decoder_layers,
                                                  mask_padding=self.mask_padding)

    def prepare_texts(self, sentence, words, mask):
        return Items(sentence=sentence, concepts=self.local.text_concepts(words, mask))

    def prepare_videos(self, frames, mask):
        y = self.over_time(frames, mask)
        return Items(frames=y, mask=mask, gram=interaction.gram(y),
                     concepts=self.local.video_concepts(y, mask))

    def score(self, texts, videos):
        S_g = interaction.global_similarity(texts.sentence, videos.frames, videos.mask,
                                            self.temperature, videos.gram)
        S_l = interaction.local_similarity(texts.concepts, videos.concepts)
        return S_g + self.local_weight * S_l

    def score_direct(self, texts, videos):
        S_g = interaction.global_similarity_printed(texts.sentence, videos.frames, videos.mask,
                                                    self.temperature)
        S_l = torch.einsum('tqd,vqd->qtv', texts.concepts, videos.concepts).mean(0)
        return S_g + self.local_weight * S_l

    def own_loss(self, texts, videos, scale, video_ids):
        """Contrastive, inter-consistency and intra-diversity, as `GLSCL.losses` by default."""
        consistency = inter_consistency(videos.concepts, texts.concepts)
        diversity = intra_diversity(videos.concepts) + intra_diversity(texts.concepts)
        return super().own_loss(texts, videos, scale, video_ids) + consistency + diversity

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8):
        text, video = concept_cost(L, D, Q), concept_cost(F, D, Q)
        pair = 2 * F * D + D + Q * D
        return Cost(pair=pair, coded=pair + 2 * D * 4 * D + 4 * D,
                    gram=F * D + F * F + F + Q * D, gram_sums=F, gram_video=F * F * D,
                    video=temporal_cost(F, D) + video, text=text,
                    video_bytes=4 * (F + Q) * D + 4 * F * F + F, text_bytes=4 * (1 + Q) * D,
                    repeated=-(-V // 16) * T * text + -(-T // 16) * V * video)


def concept_cost(tokens, D=512, Q=8, layers=3, hidden=2048):
    """The query decoder for one item of so many tokens: self-attention, cross-attention,
    feed-forward."""
    attend_self = 4 * Q * D * D + 2 * Q * Q * D
    attend_tokens = 2 * Q * D * D + 2 * tokens * D * D + 2 * Q * tokens * D
    return layers * (attend_self + attend_tokens + 2 * Q * D * hidden)
