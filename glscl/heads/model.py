"""A rival's head on CLIP, with the calls of `glscl.model.GLSCL`, so that the same Trainer,
evaluation and checkpoints serve both."""
import os

import torch
from torch import nn
from torch.nn.functional import pad

from ..checkpoints import fill_model, read_checkpoint
from ..clip_models import ClipModel
from ..config import Config
from ..encoders import Clip
from ..model import GLSCL, Losses
from ..runtime.devices import sent
from . import HEADS, TOWERS


def build(config: Config, clip: Clip | None = None) -> ClipModel:
    """GLSCL, or CLIP under the head that config.head names; ValueError if it is none of HEADS.

    config: a Config; clip: an encoders.Clip, else the one that the config names."""
    return GLSCL(config, clip) if config.head == 'GLSCL' else HeadModel(config, clip)


def load(path: str | os.PathLike | None, config: Config | None = None,
         device: str | torch.device = 'cpu') -> ClipModel:
    """The model of a checkpoint of any head, GLSCL included, in eval mode.

    Arguments and errors as in `checkpoints.load_model`."""
    config, clip, state = read_checkpoint(path, config)
    model = build(config, clip)
    fill_model(model, state, path)
    return model.to(device).eval()


class HeadModel(ClipModel):
    """CLIP under a head of HEADS. Texts and videos are the head's Items, the loss is its own.

    Where the method's idea lies in the image tower (TOWERS), the frames go through that tower, at
    every use. Of the config's settings temporal, temporal_layers and mask_padding reach the head,
    the temperature where it has GLSCL's (DiCoSA), and `released` where it stands for more than
    padding (TS2-Net). Other temperatures are those of the released heads; CLIP-ViP starts the
    logit scale of its CLIP anew. ValueError for an unknown head and for temporal="lstm", which is
    GLSCL's alone."""

    def __init__(self, config, clip=None):
        name = config.head
        if name not in HEADS:
            raise ValueError(f'unknown head {name!r}: one of {", ".join(HEADS)}')
        if config.temporal == 'lstm':
            raise ValueError(f'temporal="lstm" is for the head GLSCL only: set "transformer" or '
                             f'"none" for {name}')
        super().__init__(config, clip)
        own = {}
        if name == 'DiCoSA':
            own['temperature'] = config.temperature
        if name == 'TS2-Net':
            own['released'] = config.released
        self.head = HEADS[name](
            self.clip.width, max_frames=config.max_frames, max_words=config.max_words,
            clip=self.clip, mask_padding=config.mask_padding,
            temporal_layers=config.temporal_layers if config.temporal == 'transformer' else 0,
            **own)
        if self.head.log_scale is not None:
            nn.init.constant_(self.logit_scale, self.head.log_scale)
        self.tower = None
        if name in TOWERS:
            self.tower = TOWERS[name](self.clip, config.max_frames, config.mask_padding)
        self.freeze()

    @property
    def takes_features(self):
        return super().takes_features and self.tower is None

    def encode_videos(self, frames, frame_mask):
        """frames [V, F, 3, H, W] normalised, frame_mask [V, F] -> Items"""
        if self.tower is None:
            return super().encode_videos(frames, frame_mask)
        frame_mask = sent(frame_mask, frames.device)
        videos = self.head.encode_videos(**self.tower(self.clip, frames, frame_mask))
        return self._with_mask(videos, frame_mask)

    def encode_texts(self, token_ids, token_mask):
        """token_ids int64 [T, L], token_mask [T, L] -> Items"""
        if self.config.mask_padding or not self.head.pads_words:
            return super().encode_texts(token_ids, token_mask)
        # As released: padding up to max_words whatever the batch holds, and no mask on it as a key.
        missing = (0, max(0, self.config.max_words - token_ids.shape[1]))
        token_ids, mask = pad(token_ids, missing), pad(token_mask, missing)   # [T, L]
        _, words = self.clip.encode_words(token_ids, torch.ones_like(mask))   # [T, L, D]
        end = token_mask.sum(1) - 1
        sentence = words[torch.arange(len(words), device=words.device), end]  # [T, D]
        return self.encode_words(sentence, words, mask)

    def encode_words(self, sentence, words, token_mask):
        """CLIP's sentence e [T, D] and words w [T, L, D], token_mask [T, L] -> Items."""
        if not self.head.reads_words:
            return self.head.encode_texts(sentence)
        return self.head.encode_texts(sentence, words, token_mask)

    def encode_features(self, x, frame_mask):
        """CLIP's frame features x [V, F, D], frame_mask [V, F] -> Items."""
        return self._with_mask(self.head.encode_videos(x, frame_mask), frame_mask)

    @staticmethod
    def _with_mask(videos, frame_mask):
        """With a mask also where the head needs none: it tells unreadable videos."""
        if not hasattr(videos, 'mask'):
            videos.mask = frame_mask.bool()
        return videos

    def similarity(self, texts, videos):
        """S [T, V] in float32; in eval mode without a graph, which would fill the memory."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.training):
            return self.head.similarity(texts, videos)

    def losses(self, texts, videos, video_ids=None):
        """Text i belongs to video i; video_ids [B] int mark captions of one video. -> Losses, all
        of it in `contrastive`"""
        with torch.autocast(self.scale.device.type, enabled=False):
            loss = self.head.loss(texts.float(), videos.float(), self.scale, video_ids)
        return Losses(loss, loss.new_zeros(()), loss.new_zeros(()))
