"""CLIP4Clip: An Empirical Study of CLIP for End to End Video Clip Retrieval (Luo et al. 2021);
released code: ArrowLuo/CLIP4Clip."""
import torch
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention

from ..data.batch import Items
from ..encoders import additive_mask, normalised, run_blocks
from ..losses import contrastive
from .base import Cost, Head, dot_cost, hide, small_weights, temporal_cost, transformer


class MeanPooling(Head):
    """meanP: S = <ê, norm(mean_f x̂_f)> over the valid frames. No parameters.

    Frames that cancel to a mean of length 0 score 0. CenterCLIP and CLIP-ViP score the frames of
    their image towers in the same way."""
    tile = 4096

    def prepare_videos(self, frames, mask):
        y = hide(self.over_time(frames, mask), mask)
        pooled = normalised(y).sum(1)                    # [V, D]; the norm forgets sum or mean
        return Items(unit=normalised(pooled))

    def score(self, texts, videos):
        return texts.unit @ videos.unit.T

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8):
        return dot_cost(D)


class TemporalMean(MeanPooling):
    """seqTransf: a temporal transformer over the frames, then meanP.

    Its evaluation runs the transformer again for every block of 16 texts."""
    has_time = True

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8):
        once = temporal_cost(F, D)
        return dot_cost(D, video=once, repeated=-(-T // 16) * V * once)


class CrossTransformer(Head):
    """tightTransf: text and frames of each pair go through one transformer together.

    Z = [e; x_1 … x_F] + E, four pre-LN blocks, then from token 0:
    S = w2 QuickGELU(W1 LN(z_0) + b1) + b2. No cosine, no logit scale. Padded frames are masked as
    keys. Hoisted: the first layer's LN and projections depend on one token and are stored per
    item; the last layer is read at token 0 only, so its queries, output and MLP run for it alone.
    Raises ValueError for temporal_layers=0."""
    tile = 32

    def __init__(self, width=512, clip=None, temporal_layers=4, **shared):
        if not temporal_layers:
            raise ValueError('CLIP4Clip tightTransf is a transformer and needs a layer: set '
                             'temporal="transformer" and temporal_layers to 1 or more')
        super().__init__(width, clip=clip, temporal_layers=temporal_layers, **shared)
        start = transformer(width, clip, temporal_layers)
        self.positions = start.positions
        self.blocks = start.blocks
        self.dropout = nn.Dropout(0.1)
        quick_gelu = type(self.blocks[0].mlp.gelu)()
        self.pooler = small_weights(nn.Sequential(
            nn.LayerNorm(width, eps=1e-12), nn.Linear(width, width), quick_gelu,
            nn.Linear(width, 1)))

    def prepare_texts(self, sentence, words, mask):
        z = sentence[:, None] + self.positions[:1]                            # [T, 1, D]
        return Items(tokens=z, qkv=self._first_projections(z))                # qkv [T, 1, 3D]

    def prepare_videos(self, frames, mask):
        z = hide(frames, mask) + self.positions[1:frames.shape[1] + 1]        # [V, F, D]
        return Items(tokens=z, qkv=self._first_projections(z), mask=mask)     # qkv [V, F, 3D]

    def _first_projections(self, z):
        attn = self.blocks[0].attn
        return linear(self.blocks[0].ln_1(z), attn.in_proj_weight, attn.in_proj_bias)

    @staticmethod
    def _pairs(text, video):
        """Tokens of every pair side by side: [T, 1, n], [V, F, n] -> [T V, 1 + F, n]"""
        text = text[:, None].expand(-1, len(video), -1, -1)
        video = video[None].expand(len(text), -1, -1, -1)
        return torch.cat([text, video], 2).flatten(0, 1)

    def _allowed(self, texts, videos):
        """The keys that count, the text and the valid frames: [T V, 1 + F]"""
        text = torch.ones_like(texts.tokens[..., :1], dtype=torch.bool)
        return self._pairs(text, videos.mask[..., None]).squeeze(-1)

    def score(self, texts, videos):
        z = self.dropout(self._pairs(texts.tokens, videos.tokens))            # [N, S, D]
        bias = additive_mask(self._allowed(texts, videos), z, -1e6)[:, None, None]
        if self.training:  # each pair drops its own
            qkv = self._first_projections(z)
        else:
            qkv = self._pairs(texts.qkv, videos.qkv)
        q, k, v = qkv.chunk(3, -1)                                            # [N, S, D] each
        for i, block in enumerate(self.blocks):
            last = i == len(self.blocks) - 1
            needed = 1 if last else z.shape[1]
            if i > 0:
                q, k, v = self._projections(block, z, needed)
            z = self._layer(block, z[:, :needed], q[:, :needed], k, v, bias)
        return self.pooler(z[:, 0]).view(len(texts), -1)

    @staticmethod
    def _projections(block, z, needed):
        """Queries of the first `needed` tokens, keys and values of all."""
        x = block.ln_1(z)
        D = x.shape[-1]
        weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
        q = linear(x[:, :needed], weight[:D], bias[:D])
        k, v = linear(x, weight[D:], bias[D:]).chunk(2, -1)
        return q, k, v

    @staticmethod
    def _layer(block, z, q, k, v, bias):
        """One pre-LN block at the tokens z [N, n, D], from q [N, n, D] and k, v [N, S, D]."""
        heads = block.attn.num_heads
        q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        attended = scaled_dot_product_attention(q, k, v, bias).transpose(1, 2).flatten(2)
        z = z + block.attn.out_proj(attended)
        return z + block.mlp(block.ln_2(z))

    def score_direct(self, texts, videos):
        z = self.dropout(self._pairs(texts.tokens, videos.tokens))
        allowed = self._allowed(texts, videos)[:, None].expand(-1, z.shape[1], -1)
        z = run_blocks(self.blocks, z, additive_mask(allowed, z, -1e6))
        return self.pooler(z[:, 0]).view(len(texts), -1)

    def own_loss(self, texts, videos, scale, video_ids):
        """The symmetric contrastive loss of S itself, without a scale."""
        return contrastive(self.similarity(texts, videos), 1.0, video_ids)

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8, layers=4):
        S = F + 1
        whole = layers * (12 * S * D * D + 2 * S * S * D) + D * D + D
        lean = whole - 3 * S * D * D - F * (10 * D * D + 2 * S * D)
        return Cost(pair=lean, coded=whole, gram=lean, video=3 * F * D * D, text=3 * D * D,
                    video_bytes=16 * F * D + F, text_bytes=16 * D)
