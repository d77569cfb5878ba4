"""Prompt Switch: Efficient CLIP Adaptation for Text-Video Retrieval (Deng et al. 2023); released
code: bladewaltz1/PromptSwitch."""
from functools import partial

import torch
from torch import nn

from .clip4clip import MeanPooling
from .tower import attend, checked, embed, project, run


class PromptSwitch(MeanPooling):
    """The mean of the normalised frames, padded ones included unless mask_padding. The captioning
    loss beside it is left out."""

    def prepare_videos(self, frames, mask):
        return super().prepare_videos(frames, self.attended(mask))


class PromptCube(nn.Module):
    """Image tower: each of n = 6 frames carries n prompts, and before the attention of every block
    prompt j of frame i and prompt i of frame j change places (the residual stays). At the end each
    class token attends to all prompts of its n frames, through a projection that starts as zero.

    More frames are cut into chunks of n that share the cube and never meet, as in the released
    test. A last chunk of m < n frames uses the cube's first m x m prompts (the released code takes
    multiples of n only), so that it is what m frames give alone. As released padded frames send
    their prompts round like the others; mask_padding hides all prompts between a padded frame and
    another as keys."""

    def __init__(self, clip, max_frames, mask_padding=False, n=6):
        super().__init__()
        attn = clip.clip.visual.transformer.resblocks[0].attn
        n, width = min(n, max_frames), attn.embed_dim
        self.mask_padding = mask_padding
        self.n = n
        self.cube = nn.Parameter(torch.randn(n, n, width) * 0.02 / width ** 0.5)
        self.gather = nn.MultiheadAttention(width, attn.num_heads, batch_first=True)
        nn.init.zeros_(self.gather.out_proj.weight)

    def forward(self, clip, pixels, mask):
        """pixels [V, F, 3, H, W], mask [V, F] -> frames [V, F, D], mask [V, F]"""
        mask = checked(clip.clip.visual, pixels, mask)
        chunks = zip(pixels.split(self.n, 1), mask.split(self.n, 1), strict=True)
        frames = [self.chunk(clip.clip.visual, *chunk) for chunk in chunks]
        return {'frames': torch.cat(frames, 1), 'mask': mask}

    def chunk(self, visual, pixels, mask):
        """pixels [V, m, 3, H, W], mask [V, m], m <= n -> [V, m, D]"""
        x = visual.ln_pre(embed(visual, pixels))
        m = mask.shape[1]
        cube = self.cube[:m, :m].to(x.dtype).expand(len(x), -1, -1, -1)       # [V, m, m, W]
        valid, both = None, None
        if self.mask_padding:
            pairs = mask[:, :, None] & mask[:, None]                          # [V, m, m]
            valid = torch.cat([pairs.new_ones(x.shape[:3]), pairs], 2)        # [V, m, 1 + P + m]
            both = pairs.flatten(1)
        x = torch.cat([x, cube], 2)                                           # [V, m, 1 + P + m, W]
        x = run(visual, x, partial(self.attention, m=m, valid=valid))
        cls, prompts = x[:, :, 0], x[:, :, -m:].flatten(1, 2)
        return project(visual, cls + attend(self.gather, cls, prompts, both))

    @staticmethod
    def attention(attn, h, m, valid):
        """h [V, m, 1 + P + m, W]: prompt j of frame i and prompt i of frame j change places."""
        switched = h[:, :, -m:].transpose(1, 2)
        return attend(attn, torch.cat([h[:, :, :-m], switched], 2), valid=valid)
