"""CLIP's weights: where they are found, how they are read, which activation they need."""
import difflib
import os
import warnings
from pathlib import Path

import huggingface_hub
import open_clip
import torch
from open_clip import constants
from open_clip.pretrained import download_pretrained, get_pretrained_cfg

from .runtime.files import one_line
from .runtime.torch_files import read_torch

# Stored beside the weights: by OpenAI alone, but for the last.
NOT_WEIGHTS = ('input_resolution', 'context_length', 'vocab_size', 'attn_mask')


def architecture(name: str) -> dict:
    """open_clip's settings of a CLIP of OpenAI's kind: a plain ViT, a text tower on its tokens.

    `ViT-B/32` and `ViT-B-32` are one name. Any other kind raises ValueError."""
    name = name.replace('/', '-')
    cfg = open_clip.get_model_config(name)
    if cfg is None:
        near = difflib.get_close_matches(name, open_clip.list_models(), 1)
        hint = f', did you mean {near[0]!r}?' if near else '.'
        raise ValueError(f'unknown CLIP {name!r}{hint} Take "small", or one of '
                         f'open_clip.list_models(), such as ViT-B-32 or ViT-B-16')
    vision, text = cfg['vision_cfg'], cfg['text_cfg']
    if (not cfg.keys() <= {'embed_dim', 'vision_cfg', 'text_cfg', 'quick_gelu'}
            or not text.keys() <= {'context_length', 'vocab_size', 'width', 'heads', 'layers'}
            or 'timm_model_name' in vision or not isinstance(vision.get('layers'), int)):
        raise ValueError(f'{name} is not built as OpenAI\'s ViT CLIPs are (other towers or another '
                         f'tokenizer): take ViT-B-32, ViT-B-16, ViT-L-14 or another of that kind')
    return cfg


def load_weights(name: str, pretrained: str | os.PathLike) -> tuple[dict[str, torch.Tensor], bool]:
    """(weights by name, whether they need QuickGELU) for open_clip's tag or a local file.

    No weight tells which activation it was trained with. A tag knows. A file follows the name of
    the architecture (`ViT-B-32-quickgelu` has it, `ViT-B-32` has not) unless it is OpenAI's, which
    has the picture's size beside the weights, or float16 numbers only in its image projection."""
    name = name.replace('/', '-')
    quick_gelu = architecture(name).get('quick_gelu', False)
    tag = get_pretrained_cfg(name, str(pretrained))
    tags = ', '.join(open_clip.list_pretrained_tags_by_model(name)) or '(none)'
    path = find_weights(name, pretrained)
    if tag:
        if tag['mean'] != constants.OPENAI_DATASET_MEAN:
            raise ValueError(f'{name} with pretrained={pretrained!r} wants pixels normalised in '
                             f'another way than OpenAI\'s: take another tag, one of {tags}')
        path = path or _download(name, pretrained, tag)
        return read_weights(path)[0], tag.get('quick_gelu', False)
    if path is None:
        raise FileNotFoundError(f'clip_pretrained={str(pretrained)!r} is neither a file on this '
                                f'machine nor one of open_clip\'s tags for {name}: {tags}')
    state, openai = read_weights(path)
    projection = state.get('visual.proj', torch.tensor(torch.pi))
    if quick_gelu or openai or torch.equal(projection.float(), projection.half().float()):
        return state, True
    warnings.warn(f'{path} is read with plain GELU, as {name} says. If its training began from '
                  f'OpenAI\'s weights, set clip: {name}-quickgelu', stacklevel=3)
    return state, False


def find_weights(name: str, pretrained: str | os.PathLike) -> str | os.PathLike | None:
    """The file of a tag (in ~/.cache/clip, as OpenAI's package keeps it, or in Hugging Face's
    cache), or a local file, if this machine has it, else None; asks no network."""
    tag = get_pretrained_cfg(name.replace('/', '-'), str(pretrained))
    if not tag:
        places = [pretrained]
    else:
        cached = [huggingface_hub.try_to_load_from_cache(tag['hf_hub'].rstrip('/'), file)
                  for file in (constants.HF_SAFE_WEIGHTS_NAME, constants.HF_WEIGHTS_NAME)]
        places = [_place(tag), *(file for file in cached if isinstance(file, str))]
    return next((p for p in (Path(place).expanduser() for place in places) if p.is_file()), None)


def _place(tag):
    """Where a tag's file belongs if it is put on the machine by hand."""
    file = Path(tag['url']).name or f'{Path(tag["hf_hub"]).name}.safetensors'
    return Path.home() / '.cache' / 'clip' / file


def _download(name, pretrained, tag):
    repository = tag['hf_hub'].rstrip('/')
    try:
        huggingface_hub.model_info(repository, timeout=5)  # the download would try for a minute
        return download_pretrained(tag)
    except Exception as error:  # a missing network has another class in each version
        openai = f' or {tag["url"]}' if tag['url'] else ''
        raise FileNotFoundError(
            f'the weights of {name} ({pretrained}) are not on this machine and cannot be '
            f'downloaded ({one_line(error)}). Where there is a network, fetch '
            f'{constants.HF_SAFE_WEIGHTS_NAME} from https://huggingface.co/{repository}{openai}; '
            f'save it here as {_place(tag)}, or anywhere and set clip_pretrained to its path. '
            f'clip="small" needs nothing but this package.') from None


def read_weights(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], bool]:
    """(weights by name, whether the file has OpenAI's marks) of a file that `read_torch` reads.

    The weights lie bare in it, or under `state_dict` as open_clip's training leaves them. Whatever
    else it holds raises ValueError with its name."""
    state = read_torch(path, remedy='Is the download complete, and a .safetensors file, OpenAI\'s '
                                    '.pt archive, or a state_dict saved by torch?')
    if isinstance(state, dict):
        state = state.get('state_dict', state)
    if not state or not isinstance(state, dict) or not all(
            isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()):
        raise ValueError(f'{path} holds no state_dict (names and tensors)')
    if any(name.startswith(('text_model.', 'vision_model.')) for name in state):
        raise ValueError(f'{path} is in the layout of Hugging Face\'s transformers; the same '
                         f'weights in open_clip\'s layout are in open_clip_model.safetensors '
                         f'of most such repositories, or in OpenAI\'s own .pt')
    weights = {k.removeprefix('module.'): v for k, v in state.items() if k not in NOT_WEIGHTS}
    return weights, 'input_resolution' in state
