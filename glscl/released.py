"""Weights under the released code's names (zchoi/GLSCL) -> our model with the released behaviour."""
import open_clip
import torch

from .config import Config
from .encoders import Clip
from .model import GLSCL

# Where the released code's argument names differ from ours.
NAMES = dict(temp='temperature', loss2_weight='local_weight', beta='consistency_weight', alpha='diversity_weight')


def load(state_dict, config=None):
    """A GLSCL with `released=True` from a state_dict of the released code.

    config: a Config, or a dict of its fields (or of the released code's arguments); sizes, layer counts and which parts
    exist are read from the weights. Shared parts must be told (`share_queries`, `share_decoder`): the released code keeps
    both sets of weights either way and uses one."""
    state = {k.removeprefix('module.'): torch.as_tensor(v).float() for k, v in state_dict.items()}
    layers = [sum(k.startswith(f'{tower}.') and k.endswith('.ln_1.weight') for k in state)
              for tower in ('clip.visual.transformer', 'clip.transformer', 'transformerClip')]
    decoder_layers = sum(k.startswith('transformer_decoder_spatial.') and k.endswith('.norm1.weight') for k in state)
    settings = config if isinstance(config, dict) else {} if config is None else {
        k: getattr(config, k) for k in config.__dataclass_fields__}
    settings = {NAMES.get(k, k): v for k, v in settings.items()}
    known = {k: v for k, v in settings.items() if k in Config.__dataclass_fields__}
    for ours, theirs in dict(share_queries='query_share', share_decoder='cross_att_share').items():
        if theirs in settings:
            known.setdefault(ours, bool(settings[theirs]))
    lstm = any(k.startswith('lstm_visual') for k in state)
    known |= dict(released=True, num_queries=len(state['spatial_queries']), decoder_layers=decoder_layers,
                  temporal='lstm' if lstm else 'transformer' if layers[2] else 'none', temporal_layers=layers[2] or 1)
    model = GLSCL(Config(**known), clip=Clip(_clip(state, *layers[:2])))
    ours = {'clip.' + k: v for k, v in state.items() if k.startswith('clip.')}
    sides = dict(video='spatial', text='noun')
    for side, name in sides.items():
        source = 'spatial' if model.config.share_queries else name
        ours[f'local.{side}_queries'] = state[f'{source}_queries']
        source = 'noun' if model.config.share_decoder else name
        ours |= {f'local.{side}_decoder.{k.split(".", 1)[1]}': v for k, v in state.items()
                 if k.startswith(f'transformer_decoder_{source}.')}
    if layers[2]:
        ours['temporal.positions'] = state['frame_position_embeddings.weight']
        ours |= {k.replace('transformerClip.resblocks', 'temporal.blocks'): v for k, v in state.items()
                 if k.startswith('transformerClip.')}
    elif lstm:
        ours |= {k.replace('lstm_visual', 'temporal.lstm'): v for k, v in state.items() if k.startswith('lstm_visual')}
    model.load_state_dict(ours)
    return model.eval()


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
