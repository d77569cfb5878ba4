"""GLSCL: encode texts, encode videos, similarity, losses."""
from dataclasses import dataclass

import torch
from torch import Tensor

from .clip_models import ClipModel
from .config import Config, load_config
from .data.batch import Items
from .encoders import TemporalLSTM, TemporalTransformer
from .interaction import (
    LocalInteraction,
    global_similarity,
    gram,
    local_similarity,
    mean_similarity,
)
from .losses import contrastive, inter_consistency, intra_diversity


class Texts(Items):
    """Encoded captions: sentence e [T, D], words w [T, L, D] (None once no loss needs them),
    mask [T, L], concepts c_t [T, Q, D] (None without a local module)."""

    def __init__(self, sentence, words, mask, concepts=None):
        super().__init__(sentence=sentence, words=words, mask=mask, concepts=concepts)


class Videos(Items):
    """Encoded videos: frames y [V, F, D], mask [V, F], gram G [V, F, F], concepts c_v [V, Q, D]
    (None without a local module)."""

    def __init__(self, frames, mask, gram, concepts=None):
        super().__init__(frames=frames, mask=mask, gram=gram, concepts=concepts)


@dataclass
class Losses:
    """Scalars; total is their sum (the weights alpha and beta are inside the parts)."""
    contrastive: torch.Tensor
    inter_consistency: torch.Tensor
    intra_diversity: torch.Tensor

    @property
    def total(self):
        """What is minimised."""
        return self.contrastive + self.inter_consistency + self.intra_diversity


class GLSCL(ClipModel):
    """The model of the paper.

    config: a Config, or a recipe's name; clip: an encoders.Clip, else the one that the config
    names. A config of another head raises ValueError."""

    def __init__(self, config='shapes', clip=None):
        c = config if isinstance(config, Config) else load_config(config)
        if c.head != 'GLSCL':
            raise ValueError(f'this configuration is of another head, {c.head}: '
                             f'glscl.heads.build(config) makes its model')
        super().__init__(c, clip)
        self.temporal = None  # y = x: frames as CLIP gives them, each for itself
        if c.temporal == 'transformer':
            self.temporal = TemporalTransformer(self.clip, c.temporal_layers)
        if c.temporal == 'lstm':
            self.temporal = TemporalLSTM(self.clip.width, c.released)
        # Left out where it has no weight: an ablation then neither pays for it nor trains it.
        self.local = None
        if c.local_weight:
            sizes = (self.clip.width, c.num_queries, c.decoder_layers, c.share_queries,
                     c.share_decoder, c.mask_padding)
            self.local = LocalInteraction(*sizes)
            if c.local_form != 'decoder' or c.local_centred:
                from .local_forms import LocalForm
                self.local = LocalForm(*sizes, form=c.local_form, centred=c.local_centred)
        self.freeze()

    def encode_words(self, sentence: Tensor, words: Tensor, token_mask: Tensor) -> Texts:
        """What comes after the text tower: sentence e [T, D], words w [T, L, D], token_mask [T, L]
        -> Texts"""
        concepts = self.local.text_concepts(words, token_mask) if self.local else None
        return Texts(sentence, words, token_mask.bool(), concepts)

    def encode_features(self, x: Tensor, frame_mask: Tensor) -> Videos:
        """What comes after the image tower: frames x [V, F, D], frame_mask [V, F] -> Videos"""
        y = self.temporal(x, frame_mask) if self.temporal else x
        concepts = self.local.video_concepts(y, frame_mask) if self.local else None
        return Videos(y, frame_mask.bool(), gram(y), concepts)

    def similarity(self, texts: Texts, videos: Videos) -> Tensor:
        """S = S_g + lambda S_l: Texts, Videos -> [T, V], in float32 also where the encoders run in
        half precision."""
        from . import cuda_scoring
        c = self.config
        if c.pooling != 'mean' and cuda_scoring.can_score(texts, videos):
            return cuda_scoring.similarity(texts, videos, temperature=c.temperature,
                                           local_weight=c.local_weight,
                                           global_weight=c.global_weight)
        # bfloat16 keeps three digits: scores in it would tie by the dozen, and ties blur ranks.
        with torch.autocast(texts.sentence.device.type, enabled=False):
            t, v = texts.float(), videos.float()
            if c.pooling == 'mean':
                S = mean_similarity(t.sentence, v.frames, v.mask)
            else:
                S = global_similarity(t.sentence, v.frames, v.mask, c.temperature, v.gram)
            if c.global_weight != 1:  # 0: the paper's ablation without the global module
                S = c.global_weight * S
            if self.local:
                S = S.add_(local_similarity(t.concepts, v.concepts), alpha=c.local_weight)
        return S

    def losses(self, texts: Texts, videos: Videos, video_ids: Tensor | None = None) -> Losses:
        """Text i belongs to video i; video_ids [B] int mark captions of one video. -> Losses"""
        c = self.config
        if c.released_losses:  # there another caption of the same video is a negative
            video_ids = None
        nce = contrastive(self.similarity(texts, videos), self.scale, video_ids)
        none = nce.new_zeros(())
        if not self.local:
            return Losses(nce, none, none)
        with torch.autocast(nce.device.type, enabled=False):
            c_t, c_v = texts.concepts.float(), videos.concepts.float()
            if c.local_loss:  # what S_g explains already teaches S_l nothing
                S_l = local_similarity(c_t, c_v)
                nce = nce + c.local_loss * contrastive(S_l, self.scale, video_ids)
            consistency = none
            if c.consistency:
                consistency = inter_consistency(c_v, c_t, c.consistency_weight,
                                                c.consistency_target, c.released_losses)
            # The paper names both sides. The released code computes the textual one and drops it.
            sides = (c_v, c_t) if c.diversity_sides == 'both' else (c_v,)
            diversity = sum(intra_diversity(side, c.diversity_weight, c.diversity_margin,
                                            c.diversity_per_item) for side in sides)
        return Losses(nce, consistency, diversity)
