"""A gallery on disk: encoded videos in half precision, in files that never change once they count.

`gallery.json` says which model made the gallery, which shards count and which videos cannot be
read. A shard is one safetensors file of up to ROWS videos under a name of its own; it counts from
the moment that a gallery.json which names it is moved into place. A process killed at any point
leaves the previous state, and at most files that nobody reads.
"""
import contextlib
import hashlib
import json
import os
import time
import uuid
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ..checkpoints import load_model
from ..model import GLSCL, Videos
from ..runtime.devices import pick_device
from ..runtime.files import atomic_write

ROWS = 1024  # videos of a shard, at most
# Features depend on these settings, and no weight tells them.
SETTINGS = ('sampling', 'max_frames', 'framerate', 'mask_padding', 'released')


class ShardError(ValueError):
    """A shard that cannot be used; the message names it and says why."""


def fingerprint(model):
    """A hash of the weights that features depend on, and of the settings that no weight tells."""
    clip = model.clip
    settings = [getattr(model.config, name) for name in SETTINGS]
    if model.config.reader == 'decord':  # it gives other frames of some files
        settings.append('decord')
    mark = hashlib.sha256(json.dumps([clip.quick_gelu, clip.image_size, *settings]).encode())
    tensors = {name: value for name, value in model.state_dict().items()
               if not name.endswith('logit_scale')}
    if clip.rows is not None:
        tensors['rows'] = clip.rows
    for name, value in sorted(tensors.items()):
        mark.update(f'{name} {list(value.shape)}'.encode())
        mark.update(value.detach().float().cpu().contiguous().numpy())
    return mark.hexdigest()[:32]


def pick_model(model, recorded=None, device='auto'):
    """The model of a gallery, and the path of its checkpoint (None where no file is known).

    model: a GLSCL, taken as it is; or the path of a checkpoint; or None for `recorded`, the path
    in gallery.json, and without that for the shipped checkpoint."""
    if isinstance(model, nn.Module):
        path = recorded
    else:
        path = model or recorded
        model = load_model(path, device=pick_device(device))
    if not isinstance(model, GLSCL):
        raise ValueError(f"a gallery keeps what GLSCL's score reads of a video; this model has "
                         f'the head {model.config.head}: name another')
    return model.eval(), os.path.abspath(path) if path else None


def read_manifest(folder, mark=None):
    """gallery.json as a dict: fingerprint, model, shards, unreadable.

    Raises FileNotFoundError where there is none, ValueError if it is damaged or made by a model
    with another fingerprint than `mark`."""
    path = Path(folder) / 'gallery.json'
    try:
        manifest = json.loads(path.read_text(encoding='utf-8'))
        made_with, model = manifest['fingerprint'], manifest['model']
        _ = manifest['unreadable']
        for name in manifest['shards']:
            if Path(name).name != name or not name.endswith('.safetensors'):
                raise ValueError('a shard lies outside the folder')
    except FileNotFoundError:
        raise FileNotFoundError(f'{path}: no such file, so {folder} is not a gallery; '
                                f'`glscl index VIDEOS --out {folder}` makes one') from None
    except (ValueError, KeyError, TypeError) as error:
        reason = f'{path} is damaged ({error!r}). Delete the folder and index again'
        raise ValueError(reason) from None
    if mark is not None and mark != made_with:
        raise ValueError(
            f'{folder} was made by another model ({model or "no file named"}, fingerprint '
            f'{made_with[:8]}; this one: {mark[:8]}), and features of two models cannot be '
            f'compared. Name that model, or index the videos with this one into another folder')
    return manifest


def write_manifest(folder, manifest):
    """From here on this is what counts."""
    with atomic_write(Path(folder) / 'gallery.json') as half:
        half.write_bytes(json.dumps(manifest, indent=0).encode())


def read_shard(folder, name, entry, mark, rows=None):
    """The clips of a shard, one JSON text each, and the Videos of some of its rows.

    A clip is {id, path, start, end, size, mtime, indices, seconds}; Videos have frames and concepts
    in float16, gram in float32. entry: {bytes, rows} in gallery.json; rows: in rising order, by
    default all; only their span is read. Raises ShardError if the file is missing, cut, or of a
    model with another fingerprint than `mark`."""
    path = Path(folder) / name
    rows = torch.arange(entry['rows']) if rows is None else torch.as_tensor(rows)
    first, end = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
    try:
        size = path.stat().st_size
        if size != entry['bytes']:
            raise ShardError(f'{path}: has {size} bytes instead of {entry["bytes"]}, it is '
                             f'truncated or was overwritten')
        with safe_open(path, 'pt') as shard:
            metadata = shard.metadata() or {}
            if metadata.get('fingerprint') != mark:
                raise ShardError(f'{path}: comes from another model than the rest of the gallery')
            tensors = {name: shard.get_slice(name)[first:end] for name in shard.keys()}
    except FileNotFoundError:
        raise ShardError(f'{path}: is missing') from None
    except (OSError, SafetensorError) as error:
        raise ShardError(f'{path}: cannot be read ({error})') from None
    videos = Videos(**{'concepts': None, **tensors})  # None: of a model without a local module
    if len(rows) < end - first:
        videos = videos[rows - first]
    return metadata['clips'].split('\n'), videos


def stat_of(path):
    """[bytes, time of change in nanoseconds]; None where the file cannot be asked."""
    try:
        stat = os.stat(path)
    except (OSError, ValueError):
        return None
    return [stat.st_size, stat.st_mtime_ns]


class Writer:
    """Collects rows, writes them as shards, and makes them count.

    folder: of the gallery, which exists; manifest: its gallery.json, changed by `commit`."""

    def __init__(self, folder, manifest):
        self.folder, self.manifest = folder, manifest
        self.lines, self.parts = [], []
        self.uncommitted, self.saved = 0, time.monotonic()  # shards that do not count yet

    def add(self, lines, videos):
        """lines: one JSON text a clip, as `read_shard` returns them; videos: their Videos."""
        self.lines += lines
        self.parts.append(videos)
        while len(self.lines) >= ROWS:
            self._write_shard()

    def _write_shard(self):
        videos, lines = Videos.cat(self.parts), self.lines[:ROWS]
        self.lines, self.parts = self.lines[ROWS:], [videos[ROWS:]]
        tensors = {name: x.contiguous() for name, x in vars(videos[:ROWS]).items() if x is not None}
        metadata = {'fingerprint': self.manifest['fingerprint'], 'clips': '\n'.join(lines)}
        data = safetensors.torch.save(tensors, metadata)
        name = f'{uuid.uuid4().hex}.safetensors'
        with atomic_write(self.folder / name) as half:
            half.write_bytes(data)
        self.manifest['shards'][name] = {'bytes': len(data), 'rows': len(lines)}
        self.uncommitted += 1

    def commit(self, without=(), rest=True):
        """The shards written so far count, and those of `without` no longer do.

        rest: also the rows that do not fill a shard."""
        if self.lines and rest:
            self._write_shard()
        for name in without:
            del self.manifest['shards'][name]
        write_manifest(self.folder, self.manifest)
        for name in without:
            # missing already, or (on Windows) being searched: the next run takes it away
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()
        self.uncommitted, self.saved = 0, time.monotonic()

    def repack(self, keep):
        """Write shards that lose rows anew without them, together with short ones, so that many
        small runs leave few files. keep: {name: the rows that stay, rising}."""
        shards = self.manifest['shards']
        short = [name for name, rows in keep.items() if len(rows) <= ROWS // 2]
        touched = [name for name, rows in keep.items()
                   if len(rows) < shards[name]['rows'] or (name in short and len(short) > 1)]
        for name in touched:
            if keep[name]:
                lines, videos = read_shard(self.folder, name, shards[name],
                                           self.manifest['fingerprint'], keep[name])
                self.add([lines[row] for row in keep[name]], videos)
        if touched:
            self.commit(without=touched)
