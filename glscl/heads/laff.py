"""LAFF: Lightweight Attentional Feature Fusion: A New Baseline for Text-to-Video Retrieval (Hu et
al. 2022); released code: ruc-aimc-lab/LAFF."""
import torch
from torch import nn

from ..data.batch import Items
from ..encoders import normalised
from .base import Head, dot_cost, hide


class Fusion(nn.Module):
    """One side of LAFF: K features of an item -> H vectors, each an attention over the features.

    Feature layers start Xavier-uniform with zero bias, attentions as torch has them."""

    def __init__(self, width, others, spaces):
        super().__init__()
        self.clip_norm = nn.BatchNorm1d(spaces * width)
        self.others = nn.ModuleList(
            nn.Sequential(nn.Linear(n, spaces * width), nn.Tanh(), nn.Dropout(0.2)) for n in others)
        for layer, *_ in self.others:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.attend = nn.ModuleList(nn.Linear(width, 1) for _ in range(spaces))

    def forward(self, clip, features):
        """clip [N, D], features: a list of [N, n_k] -> fused [N, H, D], not normalised.

        Raises ValueError for another number of features than it was built for, and in training for
        a single item: batch norm has nothing to compare it with."""
        if len(features) != len(self.others):
            raise ValueError(f'{len(features)} features besides CLIP, but LAFF was built for '
                             f'{len(self.others)}')
        if self.training and len(clip) < 2:
            raise ValueError(f'LAFF normalises over the batch and cannot train on {len(clip)} item '
                             f'at a time: raise batch_size, or chunk where it is set')
        H, D = len(self.attend), clip.shape[1]
        z = [self.clip_norm(clip.repeat(1, H))]
        for layer, x in zip(self.others, features, strict=True):
            z.append(layer(x.to(clip)))
        z = torch.stack(z, 1).unflatten(-1, (H, D))                           # [N, K, H, D]
        logits = [score(z[:, :, h]) for h, score in enumerate(self.attend)]
        a = torch.cat(logits, -1).softmax(1)                                  # [N, K, H]
        return torch.einsum('nkh,nkhd->nhd', a, z)


class LAFF(Head):
    """S = 1/8 sum_h cos(g^t_h, g^v_h), g: the fused vectors of a text and of a video.

    LAFF fuses frozen features of many networks (words, word vectors, motion); CLIP's is one of
    them. text_features, video_features: the widths of the others, given at encoding as `features`
    (a list of [N, width]). With CLIP's alone there is nothing to fuse. CLIP's frames enter as
    their mean over the valid ones."""
    tile = 4096

    def __init__(self, width=512, text_features=(), video_features=(), spaces=8, **shared):
        super().__init__(width, **shared)
        self.text = Fusion(width, text_features, spaces)
        self.video = Fusion(width, video_features, spaces)

    def prepare_texts(self, sentence, words, mask, features=()):
        return Items(unit=normalised(self.text(sentence, features)))          # [T, H, D]

    def prepare_videos(self, frames, mask, features=()):
        mean = hide(frames, mask).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
        fused = self.video(mean, features) * mask.any(1)[:, None, None]
        return Items(unit=normalised(fused))

    def score(self, texts, videos):
        return texts.unit.flatten(1) @ videos.unit.flatten(1).T / texts.unit.shape[1]

    def own_loss(self, texts, videos, scale, video_ids):
        """Triplets in each space, summed: margin 0.2 to the hardest other video of each text.
        `scale` is not used."""
        S = torch.einsum('thd,vhd->htv', texts.unit, videos.unit)             # [H, B, B]
        ids = video_ids
        if ids is None:
            ids = torch.arange(S.shape[1], device=S.device)
        others = S.masked_fill(ids[:, None] == ids[None, :], float('-inf'))
        own = S.diagonal(dim1=1, dim2=2)                                      # [H, B]
        return (0.2 + others.amax(2) - own).clamp_min(0).sum()

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8, text_features=(), video_features=(), H=8):
        def fusion(widths):  # layers; attention's scores and weighted sum
            return H * D * sum(widths) + 2 * (1 + len(widths)) * H * D
        return dot_cost(H * D, video=fusion(video_features), text=fusion(text_features))
