"""What a run leaves behind: weights with their configuration, results with their provenance; whole or not at all."""
import contextlib
import dataclasses
import json
import os
import re
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from .config import Config, data_path
from .encoders import build_clip, small_clip_of
from .model import GLSCL
from .runtime.devices import machine


def atomic(path, write):
    """Write beside the place and move there: a reader never meets half a file."""
    half = Path(path).with_name(f'.{Path(path).name}.{os.getpid()}')
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        write(half)
        with open(half, 'rb+') as written:
            os.fsync(written.fileno())  # else a machine that goes down may leave the name and not the bytes
        os.replace(half, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(f'cannot write {path}: {error}. Is the disk full, or the folder not yours to write to? '
                      f'Name another run_dir.') from error
    finally:
        with contextlib.suppress(OSError):
            half.unlink()


def sweep(folder):
    """Take away the halves that `atomic` left where its process was killed; nobody else may be writing there."""
    for half in Path(folder).glob('.*'):
        if half.suffix[1:].isdigit() or re.fullmatch(r'\.tmp\w{6}', half.name):  # safetensors writes a half of its own first
            half.unlink(missing_ok=True)


def save_model(model, path, half=False):
    """Weights and configuration in one .safetensors file (`half`: as float16, half the size)."""
    seen, state = set(), {}
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen:  # shared queries and decoder are stored once
            seen.add(value.data_ptr())
            state[name] = (value.half() if half else value).detach().cpu().contiguous()
    ids = model.clip.rows
    words = [] if ids is None else [int(t) for t in (ids > 1).nonzero().flatten()]
    meta = dict(config=json.dumps(dataclasses.asdict(model.config)), token_ids=json.dumps(words),
                quick_gelu=json.dumps(model.clip.quick_gelu))
    atomic(path, lambda p: save_file(state, p, meta))


def read_checkpoint(path=None, config=None):
    """(config, clip, state) of a checkpoint: its Config, an untrained CLIP of its kind, its weights.

    path: a .safetensors file, a run's folder, or None for the shipped one. With `config`, the
    checkpoint must have been made with the same architecture; else ValueError names what differs."""
    path = Path(path) if path else data_path('glscl_small.safetensors')
    if path.is_dir():
        path = path / 'best.safetensors'
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such checkpoint. Train one (04_training), or leave the path out for the shipped one')
    try:
        with safe_open(path, 'pt') as file:
            meta = file.metadata()
        saved, token_ids = Config(**json.loads(meta['config'])), json.loads(meta['token_ids'])
        quick_gelu = json.loads(meta.get('quick_gelu', 'true'))
        state = load_file(path)
    except (SafetensorError, TypeError, KeyError) as error:
        raise ValueError(f'{path} is not a checkpoint of this package, or is damaged ({error})') from error
    if config is not None:
        _same_architecture(path, saved, config)
    if saved.clip == 'small':  # built for the tokens of the checkpoint, whatever CLIP ships today
        return saved, small_clip_of(torch.tensor(token_ids)), state
    return saved, build_clip(saved.clip, quick_gelu), state


def fill_model(model, state, path):
    """Load the weights of `read_checkpoint` into a model; ValueError, naming `path`, if they do not fit."""
    tied = {k: v.data_ptr() for k, v in model.state_dict().items()}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # a shape
        raise ValueError(f'{path}: its weights do not fit its configuration ({" ".join(str(error).split())[:200]})') from None
    loaded = {tied[k] for k in state if k in tied}
    if unexpected or any(tied[k] not in loaded for k in missing):
        raise ValueError(f'{path}: its weights do not fit its configuration (missing {missing[:3]}, unexpected {unexpected[:3]})')


def load_model(path=None, config=None, device='cpu'):
    """The GLSCL of a checkpoint, in eval mode; `heads.load` opens those of other heads too.

    path, config and errors as in `read_checkpoint`."""
    config, clip, state = read_checkpoint(path, config)
    model = GLSCL(config, clip)
    fill_model(model, state, path)
    return model.to(device).eval()


def _same_architecture(path, saved, wanted):
    fields = ('clip', 'head', 'temporal', 'temporal_layers', 'num_queries', 'decoder_layers', 'share_queries', 'share_decoder')
    differ = [f'{f}: {getattr(saved, f)!r} in the file, {getattr(wanted, f)!r} wanted' for f in fields
              if getattr(saved, f) != getattr(wanted, f)]
    if bool(saved.local_weight) != bool(wanted.local_weight):
        differ.append(f'local_weight: {saved.local_weight} in the file, {wanted.local_weight} wanted')
    if differ:
        raise ValueError(f'{path} was made with another configuration ({"; ".join(differ)}). Change the settings, '
                         f'or name a new run_dir.')


def save_result(path, **result):
    """One JSON a run: what was measured, with the machine, versions, commit and date."""
    atomic(path, lambda p: p.write_text(json.dumps({**result, **machine()}, indent=1) + '\n', encoding='utf-8'))
