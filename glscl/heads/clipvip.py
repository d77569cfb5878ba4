"""CLIP-ViP: Adapting Pre-trained Image-Text Model to Video-Language Representation Alignment (Xue
et al. 2023); released code: microsoft/XPretrain."""
from functools import partial

import torch
from torch import nn

from .clip4clip import MeanPooling
from .tower import attend, checked, embed, project, run


class CLIPViP(MeanPooling):
    """CLIP4Clip meanP of the tower's one vector. Its loss is the sum of both directions, where the
    others take their mean, and its log s starts anew at 4.60 (s = 99.5)."""
    log_scale = 4.60

    def own_loss(self, texts, videos, scale, video_ids):
        """CE_rows(s S) + CE_cols(s S)"""
        return 2 * super().own_loss(texts, videos, scale, video_ids)


class Proxies(nn.Module):
    """Image tower: class token and `proxies` more attend to the patches of all frames, the patches
    of a frame to these and to each other.

    Patches get a temporal embedding, zero at the start, interpolated where a video has other than
    max_frames frames. As released the proxies attend to padded frames too; mask_padding hides them.
    """

    def __init__(self, clip, max_frames, mask_padding=False, proxies=3):
        super().__init__()
        width = clip.clip.visual.class_embedding.shape[0]
        self.mask_padding = mask_padding
        self.proxies = nn.Parameter(torch.randn(proxies, width))  # as released: an LN follows
        self.time = nn.Parameter(torch.zeros(max_frames, width))

    def forward(self, clip, pixels, mask):
        """pixels [V, F, 3, H, W], mask [V, F] -> frames [V, 1, D], mask [V, 1]"""
        visual = clip.clip.visual
        mask = checked(visual, pixels, mask)
        x = embed(visual, pixels)
        V, F, tokens, _ = x.shape
        time = nn.functional.interpolate(self.time.T[None], F, mode='linear')[0].T      # [F, W]
        patches = (x[:, :, 1:] + time[:, None].to(x.dtype)).flatten(1, 2)
        # The proxies stand at the class token's position.
        proxies = self.proxies + visual.positional_embedding[0]
        proxies = proxies.to(x.dtype).expand(V, -1, -1)
        x = torch.cat([x[:, 0, :1], proxies, patches], 1)                     # [V, M + F P, W]
        valid = None
        if self.mask_padding:
            few = mask.new_ones(V, 1 + len(self.proxies))
            valid = torch.cat([few, mask.repeat_interleave(tokens - 1, 1)], 1)
        x = run(visual, visual.ln_pre(x), partial(self.attention, F=F, valid=valid))
        return {'frames': project(visual, x[:, :1]), 'mask': mask.any(1, keepdim=True)}

    def attention(self, attn, h, F, valid):
        """h [V, M + F P, W]: M = 1 + proxies tokens, then the patches of F frames."""
        M = 1 + len(self.proxies)
        few = h[:, :M]
        patches = h[:, M:].unflatten(1, (F, -1))                              # [V, F, P, W]
        keys = torch.cat([few[:, None].expand(-1, F, -1, -1), patches], 2)
        patches = attend(attn, patches, keys).flatten(1, 2)
        return torch.cat([attend(attn, few, h, valid), patches], 1)
