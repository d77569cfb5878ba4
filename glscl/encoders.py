"""CLIP read at every token and frame, and what runs over the frames in time: the paper's encoders
(section 1 and 2 of notebooks/02_model)."""
import warnings
from functools import partial

import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU
from torch import nn
from torch.utils.checkpoint import checkpoint

from .clip_blocks import Block, Norm, stream, with_own_layers
from .data.tokens import tokenizer


class Clip(nn.Module):
    """open_clip's CLIP, read at every token and every frame.

    token_ids (int64 [n], sorted; the small CLIP only): the tokens that the embedding table has
    rows for. Row 0 is padding, row 1 stands for every other token. OpenAI's CLIP has a row for
    each token and needs none."""

    def __init__(self, clip, token_ids=None):
        super().__init__()
        self.clip = with_own_layers(clip)
        self.width = clip.text_projection.shape[1]  # D
        self.image_size = clip.visual.image_size[0]
        rows = None
        if token_ids is not None:
            rows = torch.ones(tokenizer().vocab_size, dtype=torch.long)
            rows[0] = 0
            rows[token_ids] = torch.arange(2, len(token_ids) + 2)
        self.register_buffer('rows', rows, persistent=False)

    @property
    def visual(self):
        """open_clip's image tower."""
        return self.clip.visual

    @property
    def text_blocks(self):
        """The blocks of the text tower, a ModuleList."""
        return self.clip.transformer.resblocks

    @property
    def logit_scale(self):
        """log s, a scalar parameter."""
        return self.clip.logit_scale

    @property
    def quick_gelu(self):
        """Whether the towers use QuickGELU: no weight tells, so a checkpoint records it."""
        return isinstance(self.text_blocks[0].mlp.gelu, QuickGELU)

    def encode_frames(self, pixels):
        """Normalised pixels [N, 3, H, W] -> x [N, D], not L2-normalised: the class token after
        post-LayerNorm and visual projection."""
        return self.visual(pixels)

    def encode_words(self, token_ids, mask):
        """token_ids, mask [T, L] -> (e [T, D] at the end token, w [T, L, D] at every position),
        not L2-normalised. More words than the tower has positions raise ValueError."""
        clip, mask, L = self.clip, mask.bool(), token_ids.shape[1]
        if L > len(clip.positional_embedding):
            raise ValueError(f'{L} words do not fit this CLIP: its text tower has '
                             f'{len(clip.positional_embedding)} positions; lower max_words')
        x = clip.token_embedding(self._embedding_rows(token_ids, mask))
        x = stream(x + clip.positional_embedding[:L])                       # [T, L, width]
        # The causal mask alone keeps padding from the end token. The released code masks it as a
        # key all the same, and word features at padded positions depend on that.
        causal = torch.ones(L, L, dtype=torch.bool, device=token_ids.device).tril()
        allowed = additive_mask(causal & mask[:, None, :], x, float('-inf'))  # [T, L, L]
        x = run_blocks(self.text_blocks, x, allowed, clip.transformer.grad_checkpointing)
        words = clip.ln_final(x) @ clip.text_projection                     # [T, L, D]
        end = mask.sum(1) - 1                          # the end token is the last real one
        return words[torch.arange(len(words), device=words.device), end], words

    def _embedding_rows(self, token_ids, mask):
        """Where the embedding table has each token. [T, L]"""
        if self.rows is None:
            return token_ids
        rows = self.rows[token_ids]
        if self.training and mask.is_cuda:  # asking would wait for the GPU; validation asks
            return rows
        unknown = int(((rows == 1) & mask).sum())
        if unknown:
            warnings.warn(f'{unknown} tokens are not in the small CLIP\'s vocabulary and all count '
                          f'as one unknown word; a CLIP with OpenAI weights reads them',
                          stacklevel=3)
        return rows


def additive_mask(allowed, x, low):
    """A boolean mask as numbers of x's type to add to attention logits: 0 where allowed, else
    `low`."""
    zeros = torch.zeros(allowed.shape, dtype=x.dtype, device=x.device)
    return zeros.masked_fill(~allowed, low)


def run_blocks(blocks, x, mask, recompute=False):
    """x [B, n, W] through pre-LN transformer blocks under a mask [B, n, n] that each head shares.

    recompute: make the activations again in the backward pass instead of keeping them."""
    mask = mask.repeat_interleave(blocks[0].attn.num_heads, 0)              # [B * heads, n, n]
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            x = checkpoint(block, x, attn_mask=mask, use_reentrant=False)
        else:
            x = block(x, attn_mask=mask)
    return x


class TemporalTransformer(nn.Module):
    """y = x + Blocks(x + E[0:F]), padded frames masked as keys (`seqTransf` of the released code).

    E and the blocks start as copies of CLIP's text positions and first text blocks. Blocks beyond
    those that CLIP has start as the released code draws them: N(0, 0.02^2), biases 0. A CLIP
    whose text tower has another width than D raises ValueError."""

    def __init__(self, clip, layers=4):
        super().__init__()
        width, text_blocks = clip.width, clip.text_blocks
        if text_blocks[0].attn.embed_dim != width:
            raise ValueError(f'the temporal transformer copies text blocks of width {width}; those '
                             f'of this CLIP have width {text_blocks[0].attn.embed_dim}: set '
                             f'temporal="none"')
        self.positions = nn.Parameter(clip.clip.positional_embedding.detach().clone())
        norm = partial(Norm, eps=1e-12)  # here only; CLIP and the decoder have 1e-5
        heads = text_blocks[0].attn.num_heads
        self.blocks = nn.ModuleList(
            Block(width, heads, act_layer=QuickGELU, norm_layer=norm)
            for _ in range(layers))
        for block, text_block in zip(self.blocks, text_blocks):
            block.load_state_dict(text_block.state_dict())
        for module in self.blocks[len(text_blocks):].modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x, mask):
        """x [V, F, D], mask [V, F] -> y [V, F, D]"""
        n = x.shape[1]
        if n > len(self.positions):
            raise ValueError(f'{n} frames, but only {len(self.positions)} temporal positions: '
                             f'lower max_frames')
        allowed = mask.bool()[:, None, :].expand(-1, n, -1)                 # [V, F, F]
        # The released -1e6 does not fit float16, in which older GPUs have the frames; after the
        # softmax both are 0.
        allowed = additive_mask(allowed, x, -3e4)
        return x + run_blocks(self.blocks, x + self.positions[:n], allowed)


class TemporalLSTM(nn.Module):
    """y = x + LSTM(x), one direction, padded frames left as they are.

    released: there, frames past the longest video of the batch become x + x (the packed output is
    filled up with the input before the residual is added), so that what the local module attends
    to depends on the batch."""

    def __init__(self, width, released=False):
        super().__init__()
        self.released = released
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, x, mask):
        """x [V, F, D], mask [V, F] -> y [V, F, D]. Padding is at the tail, where no valid frame
        ever sees it."""
        y = x + self.lstm(x)[0] * mask[..., None]
        if self.released:
            longest = int(mask.sum(1).max())
            y[:, longest:] = 2 * x[:, longest:]
        return y


def normalised(x):
    """x / |x| along the last axis; a zero vector stays zero."""
    return F.normalize(x, dim=-1)
