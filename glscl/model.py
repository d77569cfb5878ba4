"""GLSCL: encode texts, encode videos, similarity, losses."""
from dataclasses import dataclass

import torch
from torch import nn

from .config import Config, load_config
from .data.batch import Items
from .encoders import Clip, TemporalLSTM, TemporalTransformer, load_clip
from .interaction import LocalInteraction, global_similarity, gram, local_similarity, mean_similarity
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
        return self.contrastive + self.inter_consistency + self.intra_diversity


class ClipModel(nn.Module):
    """CLIP and what any model on top of it needs: GLSCL, or a rival's head (`heads.model`). `clip`: an encoders.Clip, else the
    one that the config names.

    With `freeze_clip` CLIP's towers take no gradient and stay in eval mode; `logit_scale` still learns: it belongs to the
    contrastive loss, not to the features."""

    def __init__(self, config, clip=None):
        super().__init__()
        self.config = config
        self.clip = clip if clip is not None else load_clip(config.clip, config.clip_pretrained)

    def settle(self):
        """Freeze what the config says, once all modules are there."""
        c = self.config
        if c.released:  # there the patch embedding alone is frozen (and the token embedding was meant to be)
            self.clip.clip.visual.conv1.requires_grad_(False)
        if c.freeze_clip:
            self.clip.requires_grad_(False)
            self.clip.clip.logit_scale.requires_grad_(True)
        if c.grad_checkpointing:
            self.clip.clip.set_grad_checkpointing(True)

    def train(self, mode=True):
        super().train(mode)
        if self.config.freeze_clip:
            self.clip.eval()
        return self

    @property
    def takes_features(self):
        """Whether CLIP's features may be computed once and kept: it is frozen, and all that learns comes after it."""
        return self.config.freeze_clip

    @property
    def scale(self):
        """s = exp(logit_scale)"""
        return self.clip.clip.logit_scale.exp()

    def encode_texts(self, token_ids, token_mask):
        """token_ids, token_mask [T, L] -> Texts"""
        return self.encode_words(*self.clip.encode_words(token_ids, token_mask), token_mask)

    def encode_videos(self, frames, frame_mask):
        """frames [V, F, 3, H, W] normalised, frame_mask [V, F] -> Videos"""
        mask = frame_mask.bool().clone()
        mask[:, 0] = True         # an empty video needs some features; they are masked later on
        if not self.config.mask_padding:
            mask[:] = True        # as released: padding goes through the image tower too, and is attended to
        seen = self.clip.encode_frames(frames[mask])                                 # [valid frames, D]
        x = seen.new_zeros(*mask.shape, seen.shape[-1])                              # [V, F, D]
        x[mask] = seen
        return self.encode_features(x, frame_mask)

    def parameter_groups(self):
        """Two learning rates, weight decay on matrices only: what torch's optimizers take.

        With `bert_adam` decay reaches all but biases, as released: its list of exceptions names no LayerNorm in use."""
        c, groups = self.config, {}
        for name, p in self.named_parameters():
            if p.requires_grad:
                decay = 'bias' not in name if c.optimizer == 'bert_adam' else p.ndim > 1
                groups.setdefault((name.startswith('clip.'), decay), []).append(p)
        return [dict(params=ps, lr=c.clip_lr if of_clip else c.lr, weight_decay=c.weight_decay if decay else 0.0)
                for (of_clip, decay), ps in groups.items()]


class GLSCL(ClipModel):
    """The model of the paper. `config`: a Config, or a recipe's name; `clip`: an encoders.Clip, else the one the config names."""

    def __init__(self, config='shapes', clip: Clip | None = None):
        c = config if isinstance(config, Config) else load_config(config)
        if c.head != 'GLSCL':
            raise ValueError(f'this configuration is of another head, {c.head}: heads.model.build(config) makes its model')
        super().__init__(c, clip)
        self.temporal = {'transformer': lambda: TemporalTransformer(self.clip, c.temporal_layers),
                         'lstm': lambda: TemporalLSTM(self.clip.width, c.released), 'none': lambda: None}[c.temporal]()
        self.local = LocalInteraction(self.clip.width, c.num_queries, c.decoder_layers, c.share_queries,
                                      c.share_decoder, c.mask_padding) if c.local_weight else None
        self.settle()

    def encode_words(self, sentence, words, token_mask):
        """CLIP's sentence e [T, D] and words w [T, L, D], token_mask [T, L] -> Texts: what comes after the text tower."""
        concepts = self.local.text_concepts(words, token_mask) if self.local else None
        return Texts(sentence, words, token_mask.bool(), concepts)

    def encode_features(self, x, frame_mask):
        """CLIP's frame features x [V, F, D], frame_mask [V, F] -> Videos: what comes after the image tower."""
        y = self.temporal(x, frame_mask) if self.temporal else x
        concepts = self.local.video_concepts(y, frame_mask) if self.local else None
        return Videos(y, frame_mask.bool(), gram(y), concepts)

    def similarity(self, texts, videos):
        """S = S_g + lambda S_l: Texts, Videos -> [T, V], in float32 also where the encoders run in half precision.

        (S_g times global_weight where that is not 1: the paper's ablation without the global module has 0.)
        For half-precision items on CUDA `kernels.similarity` does the same in one pass; it has not run on a GPU yet."""
        with torch.autocast(texts.sentence.device.type, enabled=False):
            t, v = texts.float(), videos.float()
            if self.config.pooling == 'mean':
                S = mean_similarity(t.sentence, v.frames, v.mask)
            else:
                S = global_similarity(t.sentence, v.frames, v.mask, self.config.temperature, v.gram)
            if self.config.global_weight != 1:
                S = self.config.global_weight * S
            if self.local:
                S = S.add_(local_similarity(t.concepts, v.concepts), alpha=self.config.local_weight)
        return S

    def losses(self, texts, videos, video_ids=None):
        """Text i belongs to video i; video_ids [B] int mark captions of one video. -> Losses"""
        c = self.config
        nce = contrastive(self.similarity(texts, videos), self.scale, None if c.released_losses else video_ids)
        if not self.local:
            return Losses(nce, nce.new_zeros(()), nce.new_zeros(()))
        with torch.autocast(nce.device.type, enabled=False):
            c_t, c_v = texts.concepts.float(), videos.concepts.float()
            consistency = (inter_consistency(c_v, c_t, c.consistency_weight, c.consistency_target, c.released_losses)
                           if c.consistency else nce.new_zeros(()))
            diversity = intra_diversity(c_v, c.diversity_weight, c.diversity_margin)
            if c.diversity_sides == 'both':
                diversity = diversity + intra_diversity(c_t, c.diversity_weight, c.diversity_margin)
        return Losses(nce, consistency, diversity)
