"""CLIP4Clip tightTransf: text and frames of each pair go through one transformer together."""
import torch
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention

from ..encoders import additive_mask, run_blocks
from ..losses import contrastive
from .base import Cost, Head, Kept, hide, small_weights, transformer


class CrossTransformer(Head):
    """Z = [e; x_1 … x_F] + E, four pre-LN blocks, then from token 0:  S = w2 QuickGELU(W1 LN(z_0) + b1) + b2.

    No cosine, no logit scale. Padded frames are masked as keys. Hoisted: the first layer's LN and projections hang on one
    token and are kept per item; the last layer is read at token 0 only, so queries, output and MLP are run for it alone."""
    tile = 32

    def __init__(self, width=512, clip=None, temporal_layers=4, **shared):
        super().__init__(width, clip=clip, temporal_layers=temporal_layers, **shared)
        start = transformer(width, clip, temporal_layers)
        self.positions, self.blocks = start.positions, start.blocks
        self.dropout = nn.Dropout(0.1)
        self.pooler = small_weights(nn.Sequential(nn.LayerNorm(width, eps=1e-12), nn.Linear(width, width),
                                                  type(self.blocks[0].mlp.gelu)(), nn.Linear(width, 1)))

    def keep_texts(self, sentence, words, mask):
        z = sentence[:, None] + self.positions[:1]
        return Kept(tokens=z, qkv=self._first(z))                                    # [T, 1, D], [T, 1, 3D]

    def keep_videos(self, frames, mask):
        z = hide(frames, mask) + self.positions[1:frames.shape[1] + 1]
        return Kept(tokens=z, qkv=self._first(z), mask=mask)                         # [V, F, D], [V, F, 3D]

    def _first(self, z):
        attn = self.blocks[0].attn
        return linear(self.blocks[0].ln_1(z), attn.in_proj_weight, attn.in_proj_bias)

    @staticmethod
    def _pairs(t, v):
        """Tokens of every pair side by side: [T, k, n], [V, F, n] -> [T V, k + F, n]"""
        return torch.cat([t[:, None].expand(-1, len(v), -1, -1), v[None].expand(len(t), -1, -1, -1)], 2).flatten(0, 1)

    def score(self, t, v):
        z = self.dropout(self._pairs(t.tokens, v.tokens))                            # [N, S, D]
        qkv = self._first(z) if self.training else self._pairs(t.qkv, v.qkv)         # [N, S, 3D]; each pair drops its own
        allowed = self._pairs(torch.ones_like(t.tokens[..., :1], dtype=torch.bool), v.mask[..., None]).squeeze(-1)
        bias = additive_mask(allowed, z, -1e6)[:, None, None]                            # [N, 1, 1, S]
        for i, block in enumerate(self.blocks):
            attn, D = block.attn, self.width
            read = slice(0, 1) if i == len(self.blocks) - 1 else slice(None)
            if i == 0:
                q, k, v = qkv[:, read, :D], *qkv[..., D:].chunk(2, -1)
            else:
                x, W, b = block.ln_1(z), attn.in_proj_weight, attn.in_proj_bias
                q, (k, v) = linear(x[:, read], W[:D], b[:D]), linear(x, W[D:], b[D:]).chunk(2, -1)
            q, k, v = (x.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
            seen = scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)
            z = z[:, read] + attn.out_proj(seen)
            z = z + block.mlp(block.ln_2(z))
        return self.pooler(z[:, 0]).view(len(t), -1)

    def score_direct(self, t, v):
        z = self.dropout(self._pairs(t.tokens, v.tokens))
        allowed = self._pairs(torch.ones_like(t.tokens[..., :1], dtype=torch.bool), v.mask[..., None]).squeeze(-1)
        z = run_blocks(self.blocks, z, additive_mask(allowed[:, None].expand(-1, z.shape[1], -1), z, -1e6))
        return self.pooler(z[:, 0]).view(len(t), -1)

    def loss(self, texts, videos, scale, video_ids=None):
        """The symmetric contrastive loss of S itself, without a scale."""
        return contrastive(self.similarity(texts, videos), 1.0, video_ids)

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8, layers=4):
        S = F + 1
        whole = layers * (12 * S * D * D + 2 * S * S * D) + D * D + D
        lean = whole - 3 * S * D * D - F * (10 * D * D + 2 * S * D)
        return Cost(pair=lean, coded=whole, gram=lean, direct=whole, video=3 * F * D * D, text=3 * D * D,
                    video_bytes=16 * F * D + F, text_bytes=16 * D)
