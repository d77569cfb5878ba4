"""A CLIP by its name: the shipped small one, or open_clip's with weights of a tag or a file."""
import json
from pathlib import Path

import open_clip
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from .clip_weights import architecture, fill, load_weights
from .config import data_path
from .data.tokens import tokenizer
from .encoders import Clip

# The shipped CLIP. Plain GELU: on a CPU it is a third faster to train than QuickGELU.
SMALL = dict(embed_dim=128,
             vision_cfg=dict(image_size=32, patch_size=8, width=128, head_width=64, layers=4),
             text_cfg=dict(context_length=48, width=128, heads=4, layers=4))


def load_clip(name='small', pretrained=None):
    """A Clip by name, in float32.

    name: "small", the shipped one, trained on frames of `shapes`; or any open_clip architecture of
    OpenAI's kind (ViT-B-32, ViT-B-16). pretrained: open_clip's tag ("openai"), a local weights
    file (.safetensors, OpenAI's .pt, a state_dict by torch.save), or None: random weights, and
    for "small" the shipped ones. `clip_weights.load_weights` says which get QuickGELU.
    Raises ValueError for a file that does not fit, FileNotFoundError for weights that cannot be
    had, with what to do."""
    if name == 'small':
        return _load_small(Path(pretrained) if pretrained else data_path('clip_small.safetensors'))
    if pretrained is None:
        return build_clip(name, bool(architecture(name).get('quick_gelu')))
    state, quick_gelu = load_weights(name, pretrained)
    clip = build_clip(name, quick_gelu)
    fill(clip.clip, state, pretrained, name)
    return clip


def build_clip(name, quick_gelu):
    """An untrained Clip of one of open_clip's architectures, with QuickGELU or plain GELU."""
    return Clip(open_clip.CLIP(**{**architecture(name), 'quick_gelu': quick_gelu}))


def small_clip(vocabulary):
    """An untrained small Clip with rows for the tokens of these words, and their ids [n]."""
    tok = tokenizer()
    ids = {tok.sot_token_id, tok.eot_token_id}
    for word in vocabulary:
        ids.update(tok.encode(word))
    ids = torch.tensor(sorted(ids - {0}))
    return small_clip_of(ids), ids


def small_clip_of(token_ids):
    """An untrained small Clip with rows for these tokens (int64 [n], sorted)."""
    text = {**SMALL['text_cfg'], 'vocab_size': len(token_ids) + 2}
    return Clip(open_clip.model.CLIP(**{**SMALL, 'text_cfg': text}), token_ids)


def _load_small(path):
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file. With clip="small", clip_pretrained is null '
                                f'for the shipped weights, or a file written by `glscl pretrain`')
    try:
        with safe_open(path, 'pt') as file:
            token_ids = torch.tensor(json.loads(file.metadata()['token_ids']))
    except (SafetensorError, TypeError, KeyError):
        raise ValueError(f'{path} is not a small CLIP of this package, or is damaged; name the '
                         f'architecture of other weights in clip, such as ViT-B-32') from None
    small = small_clip_of(token_ids)
    small.clip.load_state_dict({name: x.float() for name, x in load_file(path).items()})
    return small


def image_size(name='small'):
    """The side in pixels of the square that a CLIP looks at, without building it."""
    sizes = SMALL if name == 'small' else architecture(name)
    return sizes['vision_cfg']['image_size']
