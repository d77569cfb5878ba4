"""CLIP's weights: where they are found, how they are read, and which activation they were trained with."""
import difflib
import warnings
import zipfile
from pathlib import Path

import huggingface_hub
import open_clip
import torch
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.pretrained import download_pretrained, get_pretrained_cfg, list_pretrained_tags_by_model
from safetensors.torch import load_file

# What archives hold beside the weights.
NOT_WEIGHTS = ('input_resolution', 'context_length', 'vocab_size', 'attn_mask')


def architecture(name):
    """open_clip's settings of a CLIP of OpenAI's kind (a plain ViT beside a causal text transformer over its 49,408 tokens).

    `ViT-B/32` and `ViT-B-32` are one name. Any other kind raises ValueError: word features and tokenizer here are OpenAI's."""
    name = name.replace('/', '-')
    names = open_clip.list_models()
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        raise ValueError(f'unknown CLIP {name!r}' + (f', did you mean {near[0]!r}?' if near else '')
                         + ' Take "small", or one of open_clip.list_models(), such as ViT-B-32 or ViT-B-16')
    cfg = open_clip.get_model_config(name)
    if (not cfg.keys() <= {'embed_dim', 'vision_cfg', 'text_cfg', 'quick_gelu'}
            or not cfg['text_cfg'].keys() <= {'context_length', 'vocab_size', 'width', 'heads', 'layers'}
            or 'timm_model_name' in cfg['vision_cfg'] or not isinstance(cfg['vision_cfg'].get('layers'), int)):
        raise ValueError(f'{name} is not built as OpenAI\'s ViT CLIPs are (other towers or another tokenizer): take ViT-B-32, '
                         f'ViT-B-16, ViT-L-14 or another of that kind')
    return cfg


def load_weights(name, pretrained):
    """(weights by name, whether they need QuickGELU) for an architecture and open_clip's tag or a local file.

    Which activation the weights were trained with is not among them. A tag knows. A file follows the architecture's name
    (`ViT-B-32-quickgelu` has it, `ViT-B-32` has not), unless it is OpenAI's, which needs it under either name: a JIT archive,
    or a file whose image projection holds float16 numbers only, as OpenAI published it."""
    name, quick_gelu = name.replace('/', '-'), bool(architecture(name).get('quick_gelu'))
    cfg, path = get_pretrained_cfg(name, str(pretrained)), find_weights(name, pretrained)
    if cfg:
        if (cfg['mean'], cfg['std']) != (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD):
            raise ValueError(f'{name} with pretrained={pretrained!r} wants pixels normalised in another way than OpenAI\'s: '
                             f'take another tag, one of {", ".join(list_pretrained_tags_by_model(name))}')
        return read_weights(path or _download(name, pretrained, cfg))[0], cfg.get('quick_gelu', False)
    if path is None:
        raise FileNotFoundError(f'clip_pretrained={str(pretrained)!r} is neither a file on this machine nor one of '
                                f'open_clip\'s tags for {name}: {", ".join(list_pretrained_tags_by_model(name)) or "(none)"}')
    state, archive = read_weights(path)
    if quick_gelu or archive or _float16_numbers(state.get('visual.proj')):
        return state, True
    warnings.warn(f'{path} is read with plain GELU, as {name} says. If its training began from OpenAI\'s weights, set '
                  f'clip: {name}-quickgelu', stacklevel=3)
    return state, False


def find_weights(name, pretrained):
    """The file of a tag, or a local file, if this machine has it, else None; asks no network.

    A tag's file is looked for where OpenAI's own package and open_clip keep theirs: ~/.cache/clip, then Hugging Face's cache."""
    cfg = get_pretrained_cfg(name.replace('/', '-'), str(pretrained))
    places = [_place(cfg)] if cfg else [Path(pretrained).expanduser()]
    if cfg:
        found = [huggingface_hub.try_to_load_from_cache(cfg['hf_hub'].rstrip('/'), file)
                 for file in (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)]
        places += [Path(path) for path in found if isinstance(path, str)]
    return next((path for path in places if path.is_file()), None)


def _place(cfg):
    """Where a tag's file belongs if it is put on the machine by hand."""
    file = cfg['url'].rpartition('/')[2] or f'{cfg["hf_hub"].strip("/").rpartition("/")[2]}.safetensors'
    return Path.home() / '.cache' / 'clip' / file


def _download(name, tag, cfg):
    repository = cfg['hf_hub'].rstrip('/')
    try:
        huggingface_hub.model_info(repository, timeout=5)  # asked once: the download itself would try for a minute
        return download_pretrained(cfg)
    except Exception as error:  # each version of huggingface_hub has its own classes for a missing network
        from_openai = f' or {cfg["url"]}' if cfg['url'] else ''
        raise FileNotFoundError(
            f'the weights of {name} ({tag}) are not on this machine and cannot be downloaded ({_line(error)}). Where there is a '
            f'network, fetch {HF_SAFE_WEIGHTS_NAME} from https://huggingface.co/{repository}{from_openai}; save it here as '
            f'{_place(cfg)}, or anywhere and set clip_pretrained to its path. '
            f'clip="small" needs nothing but this package.') from None


def read_weights(path):
    """(weights by name, whether the file is a JIT archive) of a safetensors file, OpenAI's JIT archive, or a state_dict by
    torch.save (bare, or under `state_dict` as open_clip's training leaves it), told apart by content, not by suffix.
    Nothing in the file is executed."""
    path, archive = Path(path), False
    try:
        if archive := _is_archive(path):
            with warnings.catch_warnings():
                warnings.simplefilter('ignore', FutureWarning)  # torch asks authors of such files for another format
                state = torch.jit.load(path, map_location='cpu').state_dict()
        elif _is_safetensors(path):
            state = load_file(path)
        else:
            state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch and safetensors have a class for each way in which a file can be damaged
        raise ValueError(f'{path} cannot be read as weights ({_line(error)}): is the download complete, and a .safetensors file, '
                         f'OpenAI\'s .pt archive, or a state_dict saved by torch?') from None
    state = state.get('state_dict', state) if isinstance(state, dict) else None
    if not state or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items()):
        raise ValueError(f'{path} holds no state_dict (names and tensors)')
    if any(k.startswith(('text_model.', 'vision_model.')) for k in state):
        raise ValueError(f'{path} is in the layout of Hugging Face\'s transformers; the same weights in open_clip\'s layout '
                         f'are in the file {HF_SAFE_WEIGHTS_NAME} of most such repositories, or in OpenAI\'s own .pt')
    return {k.removeprefix('module.'): v for k, v in state.items() if k not in NOT_WEIGHTS}, archive


def fill(clip, state, source, name):
    """Put weights into open_clip's CLIP; whatever does not fit raises ValueError that says what the file is instead."""
    wanted = clip.state_dict()
    if 'logit_scale' in state and state['logit_scale'].numel() == 1:
        state['logit_scale'] = state['logit_scale'].reshape(())  # some files hold it as a list of one
    wrong = [f'{k} is missing' for k in wanted if k not in state] + [f'{k} is unknown' for k in state if k not in wanted]
    wrong += [f'{k} is {list(state[k].shape)}, not {list(v.shape)}' for k, v in wanted.items()
              if k in state and state[k].shape != v.shape]
    if wrong:
        raise ValueError(f'{source} does not hold the weights of {name}: {"; ".join(wrong[:3])}'
                         + (f' and {len(wrong) - 3} more' if len(wrong) > 3 else '') + '. Is it another architecture\'s file?')
    clip.load_state_dict(state)  # OpenAI's float16 becomes float32 on the way in


def _is_archive(path):
    """Whether a file is a TorchScript archive, which torch.load refuses."""
    return zipfile.is_zipfile(path) and any(n.endswith('/constants.pkl') for n in zipfile.ZipFile(path).namelist())


def _is_safetensors(path):
    """Whether a file begins as safetensors does: eight bytes of length, then JSON."""
    with path.open('rb') as file:
        return file.read(9)[8:] == b'{'


def _float16_numbers(weights):
    return weights is not None and torch.equal(weights.float(), weights.half().float())


def _line(error):
    """The beginning of an error's text, on one line."""
    return ' '.join(str(error).split())[:160] or type(error).__name__
