"""A rival's head on CLIP, with the calls of `model.GLSCL`: the same Trainer, evaluation and checkpoints serve both."""
import torch

from . import HEADS, TOWERS
from ..model import GLSCL, ClipModel, Losses


def build(config, clip=None):
    """The model that a configuration is of: GLSCL, or CLIP under the head that `config.head` names."""
    return GLSCL(config, clip) if config.head == 'GLSCL' else HeadModel(config, clip)


class HeadModel(ClipModel):
    """CLIP under a head of HEADS. Texts and videos are the head's `Kept`; the loss is the method's own.

    Where the method's idea lies in the image tower (TOWERS), the frames go through that tower, at every use.

    Of the config's settings temporal, temporal_layers and mask_padding reach the head, and the temperature where it has one
    (DiCoSA's is GLSCL's). The released heads' own temperatures are theirs."""

    def __init__(self, config, clip=None):
        super().__init__(config, clip)
        if config.head not in HEADS:
            raise ValueError(f'unknown head {config.head!r}: one of {", ".join(HEADS)}')
        own = dict(temperature=config.temperature) if config.head == 'DiCoSA' else {}
        self.head = HEADS[config.head](
            self.clip.width, max_frames=config.max_frames, max_words=config.max_words, clip=self.clip,
            temporal_layers=config.temporal_layers if config.temporal == 'transformer' else 0,
            mask_padding=config.mask_padding, **own)
        self.tower = (TOWERS[config.head](self.clip, config.max_frames, config.mask_padding)
                      if config.head in TOWERS else None)
        self.freeze()

    @property
    def takes_features(self):
        return super().takes_features and self.tower is None

    def encode_videos(self, frames, frame_mask):
        """frames [V, F, 3, H, W] normalised, frame_mask [V, F] -> Kept"""
        if self.tower is None:
            return super().encode_videos(frames, frame_mask)
        return self._masked(self.head.encode_videos(**self.tower(self.clip, frames, frame_mask)), frame_mask)

    def encode_words(self, sentence, words, token_mask):
        """CLIP's sentence e [T, D] and words w [T, L, D], token_mask [T, L] -> Kept: what comes after the text tower."""
        if not self.head.reads_words:
            words = None
        return self.head.encode_texts(sentence, words, None if words is None else token_mask)

    def encode_features(self, x, frame_mask):
        """CLIP's frame features x [V, F, D], frame_mask [V, F] -> Kept: what comes after the image tower."""
        return self._masked(self.head.encode_videos(x, frame_mask), frame_mask)

    @staticmethod
    def _masked(videos, frame_mask):
        """With a mask [V, F] also where the head itself keeps none: an unreadable video is known by it."""
        if not hasattr(videos, 'mask'):
            videos.mask = frame_mask.bool()
        return videos

    def similarity(self, texts, videos):
        """S [T, V] of the head, in float32; in eval mode without a graph, for all pairs' worth of it would fill the memory."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.training):
            return self.head.similarity(texts, videos)

    def losses(self, texts, videos, video_ids=None):
        """Text i belongs to video i; video_ids [B] int mark captions of one video. -> Losses, all of it in `contrastive`"""
        with torch.autocast(self.clip.clip.logit_scale.device.type, enabled=False):
            loss = self.head.loss(texts.float(), videos.float(), self.scale, video_ids)
        return Losses(loss, loss.new_zeros(()), loss.new_zeros(()))
