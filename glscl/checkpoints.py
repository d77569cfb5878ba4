"""What a run leaves behind: weights with their configuration, results with their provenance."""
import dataclasses
import json
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from .clip_models import build_clip, small_clip_of
from .config import SETTINGS, Config, data_path
from .model import GLSCL
from .runtime.devices import machine
from .runtime.files import atomic_write, one_line, read_torch

# What the shapes of the weights depend on, besides whether there is a local module.
ARCHITECTURE = ('clip', 'head', 'temporal', 'temporal_layers', 'num_queries', 'decoder_layers',
                'share_queries', 'share_decoder', 'local_form', 'local_centred')

# What a run goes on from: the entries of last.pt.
RUN_STATE = ('model', 'optimizer', 'schedule', 'scaler', 'step', 'best', 'history', 'seconds',
             'seed', 'total', 'config', 'rng')


def save_model(model, path, half=False):
    """Weights and configuration in one .safetensors file (`half`: as float16, half the size).

    OSError where it cannot be written."""
    seen, state = set(), {}
    for name, value in model.state_dict().items():
        if value.data_ptr() not in seen:  # shared queries and decoder are stored once
            seen.add(value.data_ptr())
            value = value.half() if half else value
            state[name] = value.detach().cpu().contiguous()
    rows = model.clip.rows
    token_ids = [] if rows is None else (rows > 1).nonzero().flatten().tolist()
    meta = dict(config=json.dumps(dataclasses.asdict(model.config)),
                token_ids=json.dumps(token_ids), quick_gelu=json.dumps(model.clip.quick_gelu))
    with writing(path) as half_written:
        save_file(state, half_written, meta)


def load_model(path=None, config=None, device='cpu'):
    """The GLSCL of a checkpoint, in evaluation mode.

    path: a .safetensors file, a run's folder, or None for the shipped one. With `config` the
    checkpoint must have been made with the same architecture; else ValueError names what differs.
    ValueError also where the file is damaged or of another head (`glscl.heads.load` reads those),
    FileNotFoundError where there is none."""
    saved, clip, state = read_checkpoint(path, config)
    model = GLSCL(saved, clip)
    fill_model(model, state, path)
    return model.to(device).eval()


def read_checkpoint(path=None, config=None):
    """(its Config, an untrained Clip of its sizes, weights by name); arguments and errors as
    `load_model`."""
    path = checkpoint_file(path)
    try:
        with safe_open(path, 'pt') as file:
            meta = file.metadata()
        saved = Config(**json.loads(meta['config']))
        token_ids = json.loads(meta['token_ids'])
        quick_gelu = json.loads(meta.get('quick_gelu', 'true'))
        state = load_file(path)
    except (SafetensorError, TypeError, KeyError) as error:
        raise ValueError(f'{path} is not a checkpoint of this package, or is damaged '
                         f'({error})') from error
    if config is not None:
        _same_architecture(path, saved, config)
    if saved.clip == 'small':  # built for the tokens of the checkpoint, whatever ships today
        return saved, small_clip_of(torch.tensor(token_ids)), state
    return saved, build_clip(saved.clip, quick_gelu), state


def checkpoint_file(path=None):
    """The .safetensors file that is meant: a file, a run's folder, or None for the shipped one."""
    path = Path(path) if path else data_path('glscl_small.safetensors')
    if path.is_dir():
        path = path / 'best.safetensors'
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such checkpoint. Train one (04_training), or leave '
                                f'the path out for the shipped one')
    return path


def fill_model(model, state, path):
    """Put a checkpoint's weights into a model; ValueError where they do not fit it."""
    path = checkpoint_file(path)
    tied = {name: x.data_ptr() for name, x in model.state_dict().items()}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # a shape
        raise ValueError(f'{path}: its weights do not fit its configuration '
                         f'({one_line(error)})') from None
    filled = {tied[name] for name in state if name in tied}
    missing = [name for name in missing if tied[name] not in filled]
    if unexpected or missing:
        raise ValueError(f'{path}: its weights do not fit its configuration (missing '
                         f'{missing[:3]}, unexpected {unexpected[:3]})')


def _same_architecture(path, saved, wanted):
    differ = [f'{name}: {getattr(saved, name)!r} in the file, {getattr(wanted, name)!r} wanted'
              for name in ARCHITECTURE if getattr(saved, name) != getattr(wanted, name)]
    if bool(saved.local_weight) != bool(wanted.local_weight):
        differ.append(f'local_weight: {saved.local_weight} in the file, {wanted.local_weight} '
                      f'wanted')
    if differ:
        raise ValueError(f'{path} was made with another configuration ({"; ".join(differ)}). '
                         f'Change the settings, or name a new run_dir.')


def read_run_state(path, config, **expected):
    """last.pt of a run, as `Trainer.save` writes it: a dict, its tensors on the CPU.

    config, expected (seed, total): what the run that goes on has. ValueError where the file is
    damaged, or was made with other settings, which it names."""
    state = read_torch(path, remedy='Delete it to begin anew, or name a new run_dir')
    absent = [name for name in RUN_STATE if not isinstance(state, dict) or name not in state]
    if absent:
        raise ValueError(f'{path} is no checkpoint of a run (it has no {", ".join(absent)}): '
                         f'delete it to begin anew, or name a new run_dir')
    # a setting that an older file does not have counts as its default
    saved = Config(**{k: v for k, v in state['config'].items() if k in SETTINGS})
    differ = [name for name in SETTINGS if getattr(saved, name) != getattr(config, name)]
    differ += [name for name, value in expected.items() if state[name] != value]
    if differ:
        raise ValueError(f'{path} was made with other settings ({", ".join(differ)}): name a new '
                         f'run_dir, or delete it')
    return state


def save_result(path, **result):
    """One JSON a run: what was measured, with the machine, versions, commit and date."""
    with writing(path) as half_written:
        text = json.dumps({**result, **machine()}, indent=1) + '\n'
        half_written.write_text(text, encoding='utf-8')


@contextmanager
def writing(path):
    """`atomic_write` for what belongs to a run: OSError then says what to do."""
    try:
        with atomic_write(path) as half_written:
            yield half_written
    except (OSError, RuntimeError, SafetensorError) as error:
        raise OSError(f'cannot write {path}: {error}. Is the disk full, or the folder not yours to '
                      f'write to? Name another run_dir.') from error
