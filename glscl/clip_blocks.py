"""The layers of CLIP's towers, with open_clip's weights and names: on the CPU open_clip's numbers
to the bit, under autocast the forms of `half_blocks`."""
import torch
from open_clip.transformer import LayerNorm, LayerScale, ResidualAttentionBlock
from torch import nn


class Norm(LayerNorm):
    """LayerNorm in the type of x: in half precision its kernel computes in float32 inside, where
    autocast would write, and keep, a copy of x in float32."""

    def forward(self, x):
        """x [..., W] -> [..., W]"""
        if x.dtype == self.weight.dtype:
            return super().forward(x)
        from .half_blocks import norm
        with torch.autocast(x.device.type, enabled=False):
            return norm(x, self, self.weight.to(x.dtype), self.bias.to(x.dtype))


class Block(ResidualAttentionBlock):
    """A pre-LN transformer block: x + attention(LN x), then x + MLP(LN x).

    first_only: in half precision the first token alone comes out, [B, 1, W]. So it is in the last
    block of the image tower, of which nobody reads the others."""

    first_only = False

    def forward(self, x, k_x=None, v_x=None, attn_mask=None):
        """x [B, n, W], attn_mask [B * heads, n, n] to add to the logits -> [B, n, W]"""
        if not torch.is_autocast_enabled(x.device.type):
            return super().forward(x, k_x, v_x, attn_mask)
        from .half_blocks import through
        x = stream(x)
        with torch.autocast(x.device.type, enabled=False):
            return through(self, x, attn_mask)


class PatchEmbedding(nn.Conv2d):
    """The image tower's first layer. Its patches do not overlap, so that on CUDA it is one matrix
    product (as a convolution it took 23 of 316 ms of a training step on an H200)."""

    def forward(self, pixels):
        """pixels [N, 3, H, H] -> [N, W, H / P, H / P]"""
        return self.product(pixels) if pixels.is_cuda else super().forward(pixels)

    def product(self, pixels):
        """The same, as a product of patches [N, H / P, H / P, 3 P P] and weights."""
        P = self.kernel_size[0]
        patches = pixels.unfold(2, P, P).unfold(3, P, P).permute(0, 2, 3, 1, 4, 5).flatten(3)
        return nn.functional.linear(patches, self.weight.flatten(1), self.bias).movedim(-1, 1)


def stream(x):
    """x as the residual stream has it: under autocast in autocast's type."""
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def with_own_layers(clip):
    """open_clip's CLIP with these layers in place of its own: weights, names and random draws stay
    as they were."""
    own = {LayerNorm: Norm, ResidualAttentionBlock: Block}
    for module in clip.modules():
        scaled = isinstance(getattr(module, 'ls_1', None), LayerScale)  # what `through` leaves out
        if type(module) in own and not scaled:
            module.__class__ = own[type(module)]
    clip.visual.conv1.__class__ = PatchEmbedding
    clip.visual.transformer.resblocks[-1].first_only = True
    return clip
