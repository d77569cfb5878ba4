"""Weights under the released code's names (zchoi/GLSCL) -> our model with the released behaviour."""
import argparse
import dataclasses
from collections.abc import Mapping

import open_clip
import torch

from ..config import Config, load_config
from ..encoders import Clip
from ..model import GLSCL

# The released code's arguments whose names differ from our settings'; the other way round, what it names alike needs no line.
ARGUMENTS = dict(temp='temperature', loss2_weight='local_weight', beta='consistency_weight', alpha='diversity_weight',
                 query_share='share_queries', cross_att_share='share_decoder', warmup_proportion='warmup',
                 video_framerate='framerate')
# Stored there in any case, and used only by some settings or, as the first three, by none.
SPARE = ('weight_fc.', 'decoder_layer_noun.', 'decoder_layer_spatial.', 'noun_queries', 'spatial_queries',
         'transformer_decoder_noun.', 'transformer_decoder_spatial.', 'frame_position_embeddings.')
# The weights that tell the sizes.
SIZES = ('clip.visual.conv1.weight', 'clip.visual.positional_embedding', 'clip.token_embedding.weight',
         'clip.positional_embedding', 'clip.text_projection', 'spatial_queries')


def load(state_dict, config=None):
    """A GLSCL with `released=True` from a state_dict of the released code, in evaluation mode.

    state_dict: tensors or arrays of any float type by name, with or without `module.` in front; used in float32. config: a
    Config, a recipe's name, or a dict or argparse.Namespace of our settings' or the released code's argument names (others are
    passed over). Sizes, layer counts and which parts exist are read from the weights, whatever config says; what is shared
    must be told (`share_queries`, `share_decoder`), since the released code stores both sides either way. A weight that is
    missing, has another shape or belongs to no part raises ValueError with the released code's name for it."""
    state = _tensors(state_dict)
    vision, text, temporal, decoder = (_layers(state, prefix) for prefix in (
        'clip.visual.transformer.resblocks.', 'clip.transformer.resblocks.', 'transformerClip.resblocks.',
        'transformer_decoder_noun.layers.'))
    lstm = any(name.startswith('lstm_visual.') for name in state)
    width, _, patch, _ = state['clip.visual.conv1.weight'].shape
    told = dict(released=True, num_queries=len(state['spatial_queries']), decoder_layers=decoder, temporal_layers=temporal or 1,
                temporal='lstm' if lstm else 'transformer' if temporal else 'none')
    if width == 768:
        told['clip'] = f'ViT-B-{patch}'
    model = GLSCL(Config(**_settings(config) | told), clip=Clip(_clip(state, vision, text)))
    names = {ours: _released_name(ours, model.config) for ours in model.state_dict()}
    _check(model.state_dict(), state, names)
    model.load_state_dict({ours: state[name] for ours, name in names.items()})
    return model.eval()


def _tensors(state_dict):
    """{name without `module.`: float32 tensor}, the ones that tell the sizes among them."""
    if not isinstance(state_dict, Mapping):
        raise ValueError(f'a state_dict maps names to weights; this is a {type(state_dict).__name__}')
    state = {}
    for name, value in state_dict.items():
        try:
            state[str(name).removeprefix('module.')] = torch.as_tensor(value).float()
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(f'{name!r} holds a {type(value).__name__} where a weight is expected: give the state_dict itself, '
                             f'not what it is wrapped in') from None
    missing = [name for name in SIZES if name not in state]
    if missing:
        raise ValueError(f'not a state_dict of the released code: {", ".join(missing)} missing (of its {len(state)} names the '
                         f'first are {", ".join(list(state)[:3]) or "none"})')
    for name, ndim in (('clip.visual.conv1.weight', 4), ('spatial_queries', 2)):
        if state[name].ndim != ndim:
            raise ValueError(f'{name} has shape {list(state[name].shape)}: {ndim} axes expected')
    return state


def _layers(state, prefix):
    """Number of layers: one more than the highest index stored, so that a hole shows as missing weights."""
    return 1 + max((int(name[len(prefix):].split('.')[0]) for name in state if name.startswith(prefix)), default=-1)


def _settings(config):
    """Our settings out of whatever form they are given in."""
    if config is None:
        return {}
    if isinstance(config, str):
        config = load_config(config)
    if isinstance(config, Config):
        return dataclasses.asdict(config)
    if isinstance(config, argparse.Namespace):
        config = vars(config)
    if not isinstance(config, Mapping):
        raise ValueError(f'config is a Config, a recipe\'s name, a dict or an argparse.Namespace, not a {type(config).__name__}')
    settings = {ARGUMENTS.get(name, name): value for name, value in config.items()}
    if {'lr', 'coef_lr'} <= settings.keys():
        settings.setdefault('clip_lr', settings['lr'] * settings['coef_lr'])
    kinds = {field.name: field.type for field in dataclasses.fields(Config)}
    return {name: bool(value) if kinds[name] is bool else value for name, value in settings.items() if name in kinds}


def _released_name(ours, config):
    """The released code's name of one of our weights; where a part is shared, of the side that it uses for both."""
    decoder = 'transformer_decoder_noun.' if config.share_decoder else 'transformer_decoder_spatial.'
    for new, old in (('clip.clip.', 'clip.'), ('temporal.positions', 'frame_position_embeddings.weight'),
                     ('temporal.blocks.', 'transformerClip.resblocks.'), ('temporal.lstm.', 'lstm_visual.'),
                     ('local.video_queries', 'spatial_queries'),
                     ('local.text_queries', 'spatial_queries' if config.share_queries else 'noun_queries'),
                     ('local.video_decoder.', decoder), ('local.text_decoder.', 'transformer_decoder_noun.')):
        if ours.startswith(new):
            return ours.replace(new, old, 1)
    raise KeyError(ours)


def _check(model_state, state, names):
    wanted = set(names.values())
    missing = sorted(wanted - state.keys())
    unexpected = sorted(name for name in state.keys() - wanted if not name.startswith(SPARE))
    shapes = sorted({f'{name} is {list(state[name].shape)}, expected {list(model_state[ours].shape)}'
                     for ours, name in names.items() if name in state and state[name].shape != model_state[ours].shape})
    wrong = [f'{what}: {", ".join(items[:5])}' + (f' and {len(items) - 5} more' if len(items) > 5 else '')
             for what, items in dict(missing=missing, unexpected=unexpected, shape=shapes).items() if items]
    if wrong:
        raise ValueError(f'the weights do not fit the released code\'s model ({"; ".join(wrong)})')


def _clip(state, vision_layers, text_layers):
    """open_clip's CLIP of the sizes found in OpenAI's layout."""
    width, _, patch, _ = state['clip.visual.conv1.weight'].shape
    grid = round((len(state['clip.visual.positional_embedding']) - 1) ** 0.5)
    vocabulary, text_width = state['clip.token_embedding.weight'].shape
    return open_clip.model.CLIP(
        state['clip.text_projection'].shape[1], quick_gelu=True,
        vision_cfg=dict(image_size=grid * patch, patch_size=patch, width=width, head_width=64, layers=vision_layers),
        text_cfg=dict(context_length=len(state['clip.positional_embedding']), vocab_size=vocabulary, width=text_width,
                      heads=text_width // 64, layers=text_layers))
