"""A gallery on disk: encoded videos in half precision, in files that are never changed once they count.

`gallery.json` says which model made the gallery, which shards count and which videos cannot be read. A shard is one safetensors
file of up to ROWS videos under a name of its own; it counts from the moment that a gallery.json which names it is moved into
place. A process killed at any point leaves the previous state, and at most files that nobody reads.
"""
import contextlib
import hashlib
import json
import os
import time
import uuid
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..checkpoints import load_model
from ..model import GLSCL, Videos
from ..runtime.devices import pick_device

NAMES = ('frames', 'mask', 'gram', 'concepts')
ROWS = 1024     # videos a shard, at most
SETTINGS = ('sampling', 'max_frames', 'framerate', 'mask_padding', 'released')  # features depend on them, weights don't tell them


class ShardError(ValueError):
    """A shard that cannot be used; the message names it and says why."""


def fingerprint(model):
    """A hash of the weights that features depend on, and of the settings that no weight tells."""
    clip, c = model.clip, model.config
    mark = hashlib.sha256(json.dumps([clip.quick_gelu, clip.image_size, *(getattr(c, name) for name in SETTINGS)]).encode())
    state = {k: v for k, v in model.state_dict().items() if not k.endswith('logit_scale')}
    for name, value in sorted({**state, **({} if clip.rows is None else dict(rows=clip.rows))}.items()):
        mark.update(f'{name} {list(value.shape)}'.encode())
        mark.update(value.detach().float().cpu().contiguous().numpy())
    return mark.hexdigest()[:32]


def pick_model(model, recorded=None, device='auto'):
    """(model, its path or None): a GLSCL as it is, a path, else the recorded one, else the shipped one."""
    path = None if isinstance(model, nn.Module) else model or recorded
    chosen = model.eval() if isinstance(model, nn.Module) else load_model(path, device=pick_device(device))
    if not isinstance(chosen, GLSCL):
        raise ValueError(f"a gallery keeps what GLSCL's score reads of a video; this model has the head {chosen.config.head}: name another")
    return chosen, os.path.abspath(path) if path else recorded


def read_manifest(folder, mark=None):
    """gallery.json as a dict. ValueError if it is damaged, or made by a model with another fingerprint than `mark`."""
    path = Path(folder) / 'gallery.json'
    try:
        manifest = json.loads(path.read_text(encoding='utf-8'))
        made_by = manifest['fingerprint'], manifest['model'], manifest['shards'], manifest['unreadable']
        if any(Path(name).name != name or not name.endswith('.safetensors') for name in made_by[2]):
            raise ValueError('a shard lies outside the folder')
    except FileNotFoundError:
        raise FileNotFoundError(f'{path}: no such file, so {folder} is not a gallery; `glscl index VIDEOS --out {folder}` '
                                f'makes one') from None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f'{path} is damaged ({error!r}). Delete the folder and index again') from None
    if mark not in (None, made_by[0]):
        raise ValueError(f'{folder} was made by another model ({made_by[1] or "no file named"}, fingerprint {made_by[0][:8]}; '
                         f'this one: {mark[:8]}), and features of two models cannot be compared. Name that model, or index the '
                         f'videos with this one into another folder')
    return manifest


@contextlib.contextmanager
def opened(folder, name, entry, mark):
    """A shard that gallery.json names, memory-mapped: a safetensors handle. ShardError if it is missing, cut or foreign."""
    path = Path(folder) / name
    try:
        size = path.stat().st_size
        if size != entry['bytes']:
            raise ShardError(f'{path}: has {size} bytes instead of {entry["bytes"]}, it is truncated or was overwritten')
        with safe_open(path, 'pt') as shard:
            if (shard.metadata() or {}).get('fingerprint') != mark:
                raise ShardError(f'{path}: comes from another model than the rest of the gallery')
            yield shard
    except FileNotFoundError:
        raise ShardError(f'{path}: is missing') from None
    except (OSError, SafetensorError) as error:
        raise ShardError(f'{path}: cannot be read ({error})') from None


def features(shard, rows=slice(None)):
    """Videos of a slice of rows; frames and concepts float16, gram float32."""
    names = shard.keys()
    return Videos(**{name: shard.get_slice(name)[rows] if name in names else None for name in NAMES})


def clip_lines(shard):
    """One JSON object a row: id, path, start, end, size, mtime, fps, indices."""
    return shard.metadata()['clips'].split('\n')


def put(path, data):
    """Write beside the place and move there, on the disk before it counts."""
    half = path.with_name(f'.{path.name}.half')
    with open(half, 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(half, path)


def stat_of(path):
    """(bytes, time of change in nanoseconds); None where the file cannot be asked."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return None
    return [stat.st_size, stat.st_mtime_ns]


class Writer:
    """Collects rows, writes them as shards, and makes them count."""

    def __init__(self, folder, manifest):
        self.folder, self.manifest, self.lines, self.parts = folder, manifest, [], []
        self.shards, self.saved = {}, time.monotonic()  # shards: written, not counted yet

    def add(self, lines, videos):
        """lines: a row's JSON each."""
        self.lines += lines
        self.parts.append(videos)
        while len(self.lines) >= ROWS:
            self._shard()

    def _shard(self):
        videos, lines, name = Videos.cat(self.parts), self.lines[:ROWS], f'{uuid.uuid4().hex}.safetensors'
        state = {name: x[:ROWS].contiguous() for name in NAMES if (x := getattr(videos, name)) is not None}
        data = safetensors.torch.save(state, dict(fingerprint=self.manifest['fingerprint'], clips='\n'.join(lines)))
        put(self.folder / name, data)
        self.shards[name] = dict(bytes=len(data), rows=len(lines))
        self.lines, self.parts = self.lines[ROWS:], [videos[ROWS:]] if len(self.lines) > ROWS else []

    def commit(self, without=(), rest=True):
        """The shards written so far count (`rest`: and the rows of one that is not full); those of `without` no longer do."""
        if self.lines and rest:
            self._shard()
        kept = {name: entry for name, entry in self.manifest['shards'].items() if name not in without}
        self.manifest['shards'] = {**kept, **self.shards}
        put(self.folder / 'gallery.json', json.dumps(self.manifest, indent=0).encode())
        for name in without:
            with contextlib.suppress(OSError):  # missing already, or (Windows) being searched: the next run sweeps it
                (self.folder / name).unlink()
        self.shards, self.saved = {}, time.monotonic()
