"""CLIP by open_clip, token by token, and the temporal transformer over frames (notebooks/02_model, sections 1 and 2)."""
import json
import warnings
from functools import partial
from pathlib import Path

warnings.filterwarnings('ignore', message='IProgress not found')  # open_clip's progress bar, in a notebook without widgets
import open_clip
import torch
import torch.nn.functional as F
from open_clip.transformer import QuickGELU, ResidualAttentionBlock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn
from torch.utils.checkpoint import checkpoint

from .config import data_path
from .data.tokens import tokenizer
from .clip_weights import architecture, fill, load_weights

SMALL = dict(embed_dim=128,  # plain GELU: on a CPU it is a third faster to train than QuickGELU
             vision_cfg=dict(image_size=32, patch_size=8, width=128, head_width=64, layers=4),
             text_cfg=dict(context_length=48, width=128, heads=4, layers=4))


class Clip(nn.Module):
    """open_clip's CLIP, read at every token and frame.

    `token_ids` (int64 [n], sorted; the small CLIP only) are the tokens that the embedding table has rows for: row 0 is
    padding, row 1 stands for every other token. OpenAI's CLIP has a row for each token and needs none."""

    def __init__(self, clip, token_ids=None):
        super().__init__()
        self.clip = clip
        self.width = clip.text_projection.shape[1]  # D
        self.image_size = clip.visual.image_size[0]
        rows = None
        if token_ids is not None:
            rows = torch.ones(tokenizer().vocab_size, dtype=torch.long)
            rows[0] = 0
            rows[token_ids] = torch.arange(2, len(token_ids) + 2)
        self.register_buffer('rows', rows, persistent=False)

    @property
    def quick_gelu(self):
        """Whether the towers use QuickGELU: no weight tells, so a checkpoint keeps it."""
        return isinstance(self.clip.transformer.resblocks[0].mlp.gelu, QuickGELU)

    def encode_frames(self, pixels):
        """pixels [N, 3, H, W] normalised -> x [N, D], not L2-normalised (the class token after post-LN and projection)."""
        return self.clip.visual(pixels)

    def encode_words(self, ids, mask):
        """ids, mask [T, L] -> (e [T, D] at the end token, w [T, L, D] at every position), not L2-normalised."""
        if ids.shape[1] > self.clip.positional_embedding.shape[0]:
            raise ValueError(f'{ids.shape[1]} words do not fit this CLIP: its text tower has '
                             f'{self.clip.positional_embedding.shape[0]} positions; lower max_words')
        mask = mask.bool()
        if self.rows is not None:
            rows = self.rows[ids]
            if (strange := int(((rows == 1) & mask).sum())):
                warnings.warn(f'{strange} tokens are not in the small CLIP\'s vocabulary and all count as one unknown word; '
                              f'a CLIP with OpenAI weights reads them', stacklevel=2)
        else:
            rows = ids
        clip, L = self.clip, ids.shape[1]
        x = clip.token_embedding(rows) + clip.positional_embedding[:L]               # [T, L, width]
        # Padding is masked as a key although the causal mask keeps it from the end token: the released code does so too,
        # and word features at padded positions depend on it.
        allowed = torch.ones(L, L, dtype=torch.bool, device=ids.device).tril() & mask[:, None, :]
        allowed = additive_mask(allowed, x, float('-inf'))
        x = run_blocks(clip.transformer.resblocks, x, allowed, clip.transformer.grad_checkpointing)
        words = clip.ln_final(x) @ clip.text_projection                              # [T, L, D]
        end = mask.sum(1) - 1                                                        # the end token is the last real one
        return words[torch.arange(len(ids), device=ids.device), end], words


def additive_mask(allowed, x, low):
    """A boolean [B, L, L] as a float mask to add to the attention logits."""
    return torch.zeros(allowed.shape, dtype=x.dtype, device=x.device).masked_fill(~allowed, low)


def run_blocks(blocks, x, mask, recompute=False):
    """Pre-LN transformer blocks under a mask [B, L, L] that each head shares; `recompute`: activations again in backward."""
    mask = mask.repeat_interleave(blocks[0].attn.num_heads, 0)                       # [B * heads, L, L]
    for block in blocks:
        if recompute and torch.is_grad_enabled():
            x = checkpoint(block, x, attn_mask=mask, use_reentrant=False)
        else:
            x = block(x, attn_mask=mask)
    return x


class TemporalTransformer(nn.Module):
    """y = x + Blocks(x + E[0:F]) with padded frames masked as keys (`seqTransf` of the released code).

    E and the blocks start as copies of CLIP's text positions and first text blocks; blocks beyond CLIP's, where it has fewer,
    start as the released code draws them: N(0, 0.02^2), biases 0."""

    def __init__(self, clip, layers=4):
        super().__init__()
        width = clip.width
        text = clip.clip.transformer.resblocks
        if text[0].attn.embed_dim != width:
            raise ValueError(f'the temporal transformer copies text blocks of width {width}; those of this CLIP have width '
                             f'{text[0].attn.embed_dim}: set temporal="none"')
        self.positions = nn.Parameter(clip.clip.positional_embedding.detach().clone())
        self.blocks = nn.ModuleList(ResidualAttentionBlock(
            width, text[0].attn.num_heads, act_layer=QuickGELU, norm_layer=partial(nn.LayerNorm, eps=1e-12))
            for _ in range(layers))
        for mine, theirs in zip(self.blocks, text):
            mine.load_state_dict(theirs.state_dict())
        for linear in (m for block in self.blocks[len(text):] for m in block.modules() if isinstance(m, nn.Linear)):
            nn.init.normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)

    def forward(self, x, mask):
        """x [V, F, D], mask [V, F] -> y [V, F, D]"""
        n = x.shape[1]
        if n > len(self.positions):
            raise ValueError(f'{n} frames, but only {len(self.positions)} temporal positions: lower max_frames')
        allowed = mask.bool()[:, None, :].expand(-1, n, -1)
        # The released -1e6 does not fit float16, in which the frames come on older GPUs; after the softmax both are 0.
        return x + run_blocks(self.blocks, x + self.positions[:n], additive_mask(allowed, x, -3e4))


class TemporalLSTM(nn.Module):
    """y = x + LSTM(x), one direction, padded frames left as they are.

    `released`: there frames past the batch's longest video become x + x (the packed output is filled up with the input before
    the residual is added), so that what the local module attends to depends on the batch."""

    def __init__(self, width, released=False):
        super().__init__()
        self.released = released
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, x, mask):
        """x [V, F, D], mask [V, F] -> y [V, F, D]; padding is at the tail, so no valid frame ever sees it."""
        y = x + self.lstm(x)[0] * mask[..., None]
        if self.released:
            longest = int(mask.sum(1).max())
            y[:, longest:] = 2 * x[:, longest:]
        return y


def small_clip(vocabulary):
    """An untrained small CLIP with rows for the tokens of the given words."""
    ids = {tokenizer().sot_token_id, tokenizer().eot_token_id}
    for word in vocabulary:
        ids.update(tokenizer().encode(word))
    ids = torch.tensor(sorted(ids - {0}))
    return small_clip_of(ids), ids


def small_clip_of(token_ids):
    """An untrained small CLIP with rows for these tokens (int64 [n], sorted)."""
    cfg = {**SMALL, 'text_cfg': {**SMALL['text_cfg'], 'vocab_size': len(token_ids) + 2}}
    return Clip(open_clip.model.CLIP(**cfg), token_ids)


def build_clip(name, quick_gelu):
    """An untrained CLIP of one of open_clip's architectures, with QuickGELU or plain GELU in both towers."""
    return Clip(open_clip.CLIP(**{**architecture(name), 'quick_gelu': quick_gelu}))


def load_clip(name='small', pretrained=None):
    """A CLIP by name, in float32.

    `small`: the shipped one, trained on frames of `shapes`. Any open_clip architecture of OpenAI's kind (`ViT-B-32`,
    `ViT-B-16`) with `pretrained` an open_clip tag (`openai`), a local weights file (.safetensors, OpenAI's .pt, a state_dict by
    torch.save), or None for random weights. `weights.load_weights` says which get QuickGELU; random ones follow the name.
    Raises ValueError for a file that does not fit and FileNotFoundError for weights that cannot be had, with what to do."""
    if name == 'small':
        return _load_small(Path(pretrained) if pretrained else data_path('clip_small.safetensors'))
    if pretrained is None:
        return build_clip(name, bool(architecture(name).get('quick_gelu')))
    state, quick_gelu = load_weights(name, pretrained)
    clip = build_clip(name, quick_gelu)
    fill(clip.clip, state, pretrained, name)
    return clip


def _load_small(path):
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file. With clip="small", clip_pretrained is null for the shipped weights, '
                                f'or a file written by glscl.pretraining')
    try:
        with safe_open(path, 'pt') as file:
            ids = torch.tensor(json.loads(file.metadata()['token_ids']))
    except (SafetensorError, TypeError, KeyError):
        raise ValueError(f'{path} is not a small CLIP of this package, or is damaged; name the architecture of other weights '
                         f'in clip, such as ViT-B-32') from None
    small = small_clip_of(ids)
    small.clip.load_state_dict({k: v.float() for k, v in load_file(path).items()})
    return small


def image_size(name='small'):
    """The side in pixels of the square that a CLIP looks at, without building it."""
    return (SMALL if name == 'small' else architecture(name))['vision_cfg']['image_size']


def normalised(x):
    """L2-normalised along the last axis; a zero vector stays zero."""
    return F.normalize(x, dim=-1)
