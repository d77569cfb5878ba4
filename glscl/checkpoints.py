"""What a run leaves behind: weights with their configuration, results with their provenance."""
import dataclasses
import json
import os
from collections.abc import Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from .clip_models import ClipModel, build_clip, clip_sizes, small_clip_of, token_ids_of
from .config import SETTINGS, Config, data_path
from .model import GLSCL
from .runtime.files import atomic_write, one_line, read_tensors, write_tensors
from .runtime.weights import finite, misfits

# What the shapes of the weights depend on, besides whether there is a local module.
ARCHITECTURE = ('clip', 'head', 'temporal', 'temporal_layers', 'num_queries', 'decoder_layers',
                'share_queries', 'share_decoder', 'local_form', 'local_centred')

# What a run goes on from: the entries of last.pt.
RUN_STATE = dict(model=dict, optimizer=dict, schedule=dict, scaler=dict, step=int,
                 best=(int, float), history=list, seconds=(int, float), seed=int, total=int,
                 config=dict, rng=torch.Tensor)
CONV1 = 'clip.clip.visual.conv1.weight'
ANEW = 'Delete it to begin anew, or name a new run_dir.'
ANOTHER = 'Copy it again, or name another checkpoint.'


def save_model(model: ClipModel, path: str | os.PathLike, half: bool = False) -> None:
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
        write_tensors(half_written, state, meta)


def load_model(path: str | os.PathLike | None = None, config: Config | None = None,
               device: str | torch.device = 'cpu') -> GLSCL:
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
    state, meta = read_tensors(path, ANOTHER)
    try:
        saved = Config(**json.loads(meta['config']))
        token_ids = token_ids_of(meta['token_ids'])
        quick_gelu = json.loads(meta.get('quick_gelu', 'true')) is True
        cfg = clip_sizes(saved.clip)['vision_cfg']
    except (TypeError, KeyError, ValueError, RecursionError) as error:
        raise ValueError(f'{path} is not a checkpoint of this package, or is damaged '
                         f'({one_line(error)}). {ANOTHER}') from error
    if config is not None:
        _same_architecture(path, saved, config)
    if saved.clip == 'small':  # built for the tokens of the checkpoint, whatever ships today
        return saved, small_clip_of(token_ids), state
    first = state.get(CONV1)
    if first is not None and len(first) != cfg['width']:  # before memory for a billion is asked
        raise ValueError(f'{path}: its weights do not fit its configuration ({CONV1} is '
                         f'{list(first.shape)}, of {saved.clip} {cfg["width"]}). {ANOTHER}')
    return saved, build_clip(saved.clip, quick_gelu), state


def checkpoint_file(path: str | os.PathLike | None = None) -> Path:
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
    wanted = model.state_dict()
    places = {name: x.data_ptr() for name, x in wanted.items()}
    filled = {places[name] for name in state if name in places}  # what is shared is stored once
    wrong = misfits({name: x for name, x in wanted.items()
                     if name in state or places[name] not in filled}, state)
    if wrong:
        raise ValueError(f'{path}: its weights do not fit its configuration ({wrong}). {ANOTHER}')
    model.load_state_dict(state, strict=False)


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
    from .runtime.torch_files import read_torch  # a run that begins needs none of it
    state = read_torch(path, remedy=ANEW)
    wrong = [name for name, kind in RUN_STATE.items()
             if not isinstance(state, dict) or not isinstance(state.get(name), kind)]
    if not wrong and (state['rng'].dtype != torch.uint8 or state['rng'].ndim != 2):
        wrong = ['rng']
    if wrong:
        raise ValueError(f'{path} is no checkpoint of a run (it has no {", ".join(wrong)}, or not '
                         f'as a run writes it). {ANEW}')
    try:  # a setting that an older file does not have counts as its default
        saved = Config(**{k: v for k, v in state['config'].items() if k in SETTINGS})
    except ValueError as error:
        raise ValueError(f'{path} holds a wrong setting ({error}). {ANEW}') from None
    differ = [name for name in SETTINGS if getattr(saved, name) != getattr(config, name)]
    differ += [name for name, value in expected.items() if state[name] != value]
    if differ:
        raise ValueError(f'{path} was made with other settings ({", ".join(differ)}): name a new '
                         f'run_dir, or delete it')
    return state


def restore(path, state, model, optimizer, **parts):
    """Put what `read_run_state` returned into a run; ValueError where it does not fit."""
    wrong = misfits(model.state_dict(), state['model'])
    try:
        if not wrong:
            for name, part in dict(parts, optimizer=optimizer, model=model).items():
                if state[name] or name != 'scaler':  # {}: a device that scales no losses
                    part.load_state_dict(state[name])
            wrong = ', '.join(_spoilt(optimizer))
    except Exception as error:  # each part has its own
        wrong = one_line(error)
    if wrong:
        raise ValueError(f'{path} does not fit this run ({wrong}). {ANEW}')


def _spoilt(optimizer):
    """Which of an optimizer's averages have another shape than their weights, or hold NaN."""
    for weight, averages in optimizer.state.items():
        for name, x in averages.items():
            if torch.is_tensor(x) and (x.shape not in (weight.shape, ()) or not finite(x)):
                yield f'{name} of a weight {list(weight.shape)}'


def one_writer(run_dir):
    """`locks.one_writer`, of which a run without a folder needs none."""
    if not run_dir:
        return nullcontext()
    from .runtime.locks import one_writer
    return one_writer(run_dir)


def save_result(path: str | os.PathLike, pairs: Mapping | None = None, **result: Any) -> None:
    """One JSON a run: what was measured, with the machine, versions, commit and date.

    pairs: {split: Pairs} of what it was trained and measured on; their videos are counted."""
    from .runtime.records import machine
    if pairs:
        result['videos'] = {**result.get('videos', {}), **{k: p.counts for k, p in pairs.items()}}
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
