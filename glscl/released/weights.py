"""Weights under the released code's names (zchoi/GLSCL) into our model, with its behaviour."""
import argparse
import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import open_clip
import torch

from ..config import Config, load_config
from ..encoders import Clip
from ..model import GLSCL
from ..runtime.weights import misfits

# The released code's arguments whose names differ from our settings'.
ARGUMENTS = {'temp': 'temperature', 'loss2_weight': 'local_weight', 'beta': 'consistency_weight',
             'alpha': 'diversity_weight', 'query_share': 'share_queries',
             'cross_att_share': 'share_decoder', 'warmup_proportion': 'warmup',
             'video_framerate': 'framerate'}
# The names of our model's parts that differ in the released code. Its text side is "noun", its
# video side "spatial"; what is shared is `spatial_queries` and the noun decoder.
NAMES = {'clip.clip.': 'clip.', 'temporal.positions': 'frame_position_embeddings.weight',
         'temporal.blocks.': 'transformerClip.resblocks.', 'temporal.lstm.': 'lstm_visual.',
         'local.video_queries': 'spatial_queries', 'local.text_queries': 'noun_queries',
         'local.video_decoder.': 'transformer_decoder_spatial.',
         'local.text_decoder.': 'transformer_decoder_noun.'}
# Stored there in any case, and used by some settings only or, as `weight_fc`, by none.
SPARE = ('weight_fc.', 'decoder_layer_noun.', 'decoder_layer_spatial.', 'noun_queries',
         'spatial_queries', 'transformer_decoder_noun.', 'transformer_decoder_spatial.',
         'frame_position_embeddings.')
# The weights that tell the sizes, with their number of axes.
SIZES = {'clip.visual.conv1.weight': 4, 'clip.visual.positional_embedding': 2,
         'clip.token_embedding.weight': 2, 'clip.positional_embedding': 2,
         'clip.text_projection': 2, 'spatial_queries': 2}
HEAD_WIDTH = 64  # of each attention head in CLIP


def load(state_dict: Mapping[str, Any],
         config: Config | str | dict | argparse.Namespace | None = None) -> GLSCL:
    """A GLSCL with `released=True` from a state_dict of the released code, in evaluation mode.

    state_dict: tensors or arrays of any float type by name, with or without `module.` in front;
    used in float32. config: a Config, a recipe's name, or a dict or argparse.Namespace with our
    names of settings or the released code's of arguments (others are passed over). Sizes and parts
    are read from the weights; what is shared must be in config (`share_queries`, `share_decoder`),
    since the released code stores both sides anyway. Raises ValueError with the released name of a
    weight that is missing, unknown, of another shape, or holds NaN."""
    state = _tensors(state_dict)
    temporal_layers = _layers(state, 'transformerClip.resblocks.')
    settings = _settings(config)
    settings.update(released=True, num_queries=len(state['spatial_queries']),
                    decoder_layers=_layers(state, 'transformer_decoder_noun.layers.'),
                    temporal='transformer' if temporal_layers else 'none',
                    temporal_layers=temporal_layers or 1)
    if any(name.startswith('lstm_visual.') for name in state):
        settings['temporal'] = 'lstm'
    width, _, patch, _ = state['clip.visual.conv1.weight'].shape
    if width == 768:
        settings['clip'] = f'ViT-B-{patch}'
    model = GLSCL(Config(**settings), clip=Clip(_clip(state)))
    names = {name: released_name(name, model.config) for name in model.state_dict()}
    wanted = {names[name]: value for name, value in model.state_dict().items()}
    given = {name: value for name, value in state.items()
             if name in wanted or not name.startswith(SPARE)}
    wrong = misfits(wanted, given)
    if wrong:
        raise ValueError(f'the weights do not fit the released code\'s model: {wrong}')
    model.load_state_dict({ours: state[theirs] for ours, theirs in names.items()})
    return model.eval()


def released_name(name, config):
    """The released code's name of one of our weights."""
    if config.share_queries and name == 'local.text_queries':
        name = 'local.video_queries'
    if config.share_decoder:
        name = name.replace('local.video_decoder.', 'local.text_decoder.')
    ours = next(prefix for prefix in NAMES if name.startswith(prefix))
    return name.replace(ours, NAMES[ours], 1)


def _tensors(state_dict):
    """{name without `module.`: float32 tensor}; ValueError unless the sizes can be read from it."""
    if not isinstance(state_dict, Mapping):
        raise ValueError(f'a state_dict maps names to weights; this is a '
                         f'{type(state_dict).__name__}')
    state = {}
    for name, value in state_dict.items():
        try:
            x = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f'{name!r} holds a {type(value).__name__} where a weight is expected: '
                             f'give the state_dict itself, not what it is wrapped in') from None
        # others are told by `misfits`
        state[str(name).removeprefix('module.')] = x.float() if x.is_floating_point() else x
    missing = ', '.join(name for name in SIZES if name not in state)
    if missing:
        first = ', '.join(list(state)[:3]) or 'none'
        raise ValueError(f'not a state_dict of the released code: {missing} missing (of its '
                         f'{len(state)} names the first are {first})')
    for name, axes in SIZES.items():
        if state[name].ndim != axes:
            raise ValueError(f'{name} has shape {list(state[name].shape)}: {axes} axes expected')
        if not state[name].numel():
            raise ValueError(f'{name} has shape {list(state[name].shape)}: it is empty')
    widths = len(state['clip.visual.conv1.weight']), state['clip.token_embedding.weight'].shape[1]
    for name, width in zip(('clip.visual.conv1.weight', 'clip.token_embedding.weight'), widths):
        if width < HEAD_WIDTH or width % (width // HEAD_WIDTH):
            raise ValueError(f'{name} has the width {width}: a multiple of {HEAD_WIDTH} expected')
    return state


def _settings(config):
    """{our setting: value} out of whatever form the settings are given in."""
    if isinstance(config, (str, Config)):
        return dataclasses.asdict(load_config(config))
    if isinstance(config, argparse.Namespace):
        config = vars(config)
    if config is not None and not isinstance(config, Mapping):
        raise ValueError(f'config is a Config, a recipe\'s name, a dict or an argparse.Namespace, '
                         f'not a {type(config).__name__}')
    settings = {ARGUMENTS.get(name, name): value for name, value in (config or {}).items()}
    if 'lr' in settings and 'coef_lr' in settings:
        settings.setdefault('clip_lr', settings['lr'] * settings['coef_lr'])
    kinds = {field.name: field.type for field in dataclasses.fields(Config)}
    return {name: bool(value) if kinds[name] is bool else value
            for name, value in settings.items() if name in kinds}


def _layers(state, prefix):
    """One more than the highest index stored, so that a hole shows as missing weights."""
    names = [name for name in state if name.startswith(prefix)]
    layers = [name[len(prefix):].split('.')[0] for name in names]
    for name, layer in zip(names, layers):
        if not re.fullmatch('[0-9]{1,4}', layer) or int(layer) >= len(names):
            raise ValueError(f'{name}: there is no layer {layer} among {len(names)} weights')
    return 1 + max(map(int, layers), default=-1)


def _clip(state):
    """open_clip's CLIP of the sizes that the weights have."""
    width, _, patch, _ = state['clip.visual.conv1.weight'].shape
    grid = round((len(state['clip.visual.positional_embedding']) - 1) ** 0.5)
    blocks = 'transformer.resblocks.'
    vocabulary, text_width = state['clip.token_embedding.weight'].shape
    return open_clip.CLIP(
        state['clip.text_projection'].shape[1], quick_gelu=True,
        vision_cfg={'image_size': grid * patch, 'patch_size': patch, 'width': width,
                    'head_width': HEAD_WIDTH, 'layers': _layers(state, 'clip.visual.' + blocks)},
        text_cfg={'context_length': len(state['clip.positional_embedding']),
                  'vocab_size': vocabulary, 'width': text_width, 'heads': text_width // HEAD_WIDTH,
                  'layers': _layers(state, 'clip.' + blocks)})
