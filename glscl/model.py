"""GLSCL: encode texts, encode videos, similarity, losses."""
from dataclasses import dataclass

import torch
from torch import nn

from .clip_models import load_clip
from .config import Config, load_config
from .data.batch import Items
from .data.sampling import pixels
from .encoders import TemporalLSTM, TemporalTransformer
from .interaction import (
    LocalInteraction,
    global_similarity,
    gram,
    local_similarity,
    mean_similarity,
)
from .losses import contrastive, inter_consistency, intra_diversity
from .runtime.devices import precision


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


class ClipModel(nn.Module):
    """CLIP and what every model on top of it needs: GLSCL here, and the rivals' heads
    (`glscl.heads`). Whoever inherits gives `encode_words`, `encode_features`, `similarity` and
    `losses`.

    config: a Config; clip: an encoders.Clip, else the one that the config names. With
    `freeze_clip` CLIP's towers take no gradient and stay in eval mode; `logit_scale` still learns,
    for it belongs to the contrastive loss and not to the features."""

    def __init__(self, config, clip=None):
        super().__init__()
        self.config = config
        self.clip = load_clip(config.clip, config.clip_pretrained) if clip is None else clip

    def freeze(self):
        """Stop the gradients that the config says; called once all modules are there."""
        c = self.config
        if c.released:  # there the patch embedding is frozen, alone
            self.clip.visual.conv1.requires_grad_(False)
        if c.freeze_clip:
            self.clip.requires_grad_(False)
            self.clip.logit_scale.requires_grad_(True)
        if c.grad_checkpointing:
            self.clip.clip.set_grad_checkpointing(True)

    def train(self, mode=True):
        super().train(mode)
        if self.config.freeze_clip:
            self.clip.eval()
        return self

    @property
    def device(self):
        """Where its weights are."""
        return self.logit_scale.device

    @property
    def takes_features(self):
        """Whether CLIP's features may be computed once and kept (`data.feature_cache`): CLIP is
        frozen, and all that learns comes after it."""
        return self.config.freeze_clip

    @property
    def logit_scale(self):
        """log s, CLIP's own: a scalar parameter."""
        return self.clip.logit_scale

    @property
    def scale(self):
        """s = exp(logit_scale)"""
        return self.logit_scale.exp()

    def encode(self, batch):
        """A Batch on the model's device -> (Texts, Videos); None for a side that it lacks."""
        texts = videos = None
        if batch.text_mask is not None:
            texts = self._encode_captions(batch)
        if batch.frame_mask is not None:
            videos = self._encode_clips(batch)
        return texts, videos

    def _encode_captions(self, batch):
        mask = batch.text_mask
        if batch.words is None:
            return self.encode_texts(batch.token_ids, mask)
        words = batch.words.to(precision(self.device) or batch.words.dtype)
        sentence = words[torch.arange(len(words), device=words.device), mask.sum(1) - 1]
        return self.encode_words(sentence, words, mask)

    def _encode_clips(self, batch):
        mask = batch.frame_mask
        if batch.features is None:
            return self.encode_videos(*pixels(batch.frames, mask, self.device))
        x = batch.features
        if not self.config.mask_padding:  # as released: padding is a black frame, with features
            size = self.clip.image_size
            black = self.clip.encode_frames(x.new_zeros(1, 3, size, size)).detach()
            x = torch.where(mask[..., None], x, black.to(x.dtype))
        return self.encode_features(x.to(precision(self.device) or x.dtype), mask)

    def encode_texts(self, token_ids, token_mask):
        """token_ids int64 [T, L], token_mask [T, L] -> Texts"""
        sentence, words = self.clip.encode_words(token_ids, token_mask)
        return self.encode_words(sentence, words, token_mask)

    def encode_videos(self, frames, frame_mask):
        """frames [V, F, 3, H, W] normalised, frame_mask [V, F] -> Videos"""
        mask = frame_mask.bool().clone()
        mask[:, 0] = True         # an empty video needs some features; they are masked later on
        if not self.config.mask_padding:
            mask[:] = True        # as released: padding goes through the tower, and is attended to
        of_valid = self.clip.encode_frames(frames[mask])                    # [valid frames, D]
        x = of_valid.new_zeros(*mask.shape, of_valid.shape[-1])             # [V, F, D]
        x[mask] = of_valid
        return self.encode_features(x, frame_mask)

    def parameter_groups(self):
        """Groups for torch's optimizers: two learning rates, weight decay on matrices only.

        With `bert_adam` decay reaches all but biases, as released: its list of exceptions names no
        LayerNorm in use."""
        c, groups = self.config, {}
        for name, p in self.named_parameters():
            if not p.requires_grad:
                continue
            decays = p.ndim > 1
            if c.optimizer == 'bert_adam':
                decays = 'bias' not in name
            groups.setdefault((name.startswith('clip.'), decays), []).append(p)
        return [dict(params=parameters, lr=c.clip_lr if of_clip else c.lr,
                     weight_decay=c.weight_decay if decays else 0.0)
                for (of_clip, decays), parameters in groups.items()]


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
        self.temporal = None
        if c.temporal == 'transformer':
            self.temporal = TemporalTransformer(self.clip, c.temporal_layers)
        if c.temporal == 'lstm':
            self.temporal = TemporalLSTM(self.clip.width, c.released)
        self.local = None
        if c.local_weight:
            self.local = LocalInteraction(self.clip.width, c.num_queries, c.decoder_layers,
                                          c.share_queries, c.share_decoder, c.mask_padding)
        self.freeze()

    def encode_words(self, sentence, words, token_mask):
        """What comes after the text tower: sentence e [T, D], words w [T, L, D], token_mask [T, L]
        -> Texts"""
        concepts = self.local.text_concepts(words, token_mask) if self.local else None
        return Texts(sentence, words, token_mask.bool(), concepts)

    def encode_features(self, x, frame_mask):
        """What comes after the image tower: frames x [V, F, D], frame_mask [V, F] -> Videos"""
        y = self.temporal(x, frame_mask) if self.temporal else x
        concepts = self.local.video_concepts(y, frame_mask) if self.local else None
        return Videos(y, frame_mask.bool(), gram(y), concepts)

    def similarity(self, texts, videos):
        """S = S_g + lambda S_l: Texts, Videos -> [T, V], in float32 also where the encoders run in
        half precision."""
        c = self.config
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

    def losses(self, texts, videos, video_ids=None):
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
            consistency = none
            if c.consistency:
                consistency = inter_consistency(c_v, c_t, c.consistency_weight,
                                                c.consistency_target, c.released_losses)
            diversity = intra_diversity(c_v, c.diversity_weight, c.diversity_margin)
            if c.diversity_sides == 'both':
                diversity = diversity + intra_diversity(c_t, c.diversity_weight,
                                                        c.diversity_margin)
        return Losses(nce, consistency, diversity)
