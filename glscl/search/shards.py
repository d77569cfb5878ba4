"""A gallery on disk: encoded videos in half precision, in files that never change once they count.

`gallery.json` says which model made the gallery, which shards count and which videos cannot be
read. A shard is one safetensors file of up to ROWS videos under a name of its own; it counts from
the moment that a gallery.json which names it is moved into place. A process killed at any point
leaves the previous state, and at most files that nobody reads.
"""
import contextlib
import hashlib
import json
import math
import os
import time
import uuid
import zlib
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from safetensors import safe_open
from torch import nn

from ..checkpoints import load_model
from ..model import GLSCL, Videos
from ..runtime.devices import pick_device
from ..runtime.files import atomic_write, one_line
from ..runtime.records import read_json
from .zero_shot import ZeroShot

Place = str | os.PathLike
ROWS = 1024  # videos of a shard, at most
MOST = 2 ** 20  # rows that anybody's shard may claim
NUMBERS = dict(start=(int, float, None), end=(int, float, None), size=(int,),
               mtime=(int,))  # of a clip
# Features depend on these settings, and no weight tells them.
SETTINGS = ('sampling', 'max_frames', 'framerate', 'mask_padding', 'released')


class ShardError(ValueError):
    """A shard that cannot be used; the message names it and says why."""


def fingerprint(model: GLSCL) -> str:
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


def place(folder: Place) -> Path:
    """The Path of a gallery; ValueError for what names none."""
    try:
        return Path(os.fsdecode(folder))
    except TypeError:
        raise ValueError(f'a gallery is named by the path of its folder, not {folder!r:.60}') \
            from None


def pick_model(model: GLSCL | Place | None = None, manifest: dict | None = None,
               device: str = 'auto') -> tuple[GLSCL, dict]:
    """The model of a gallery, and what gallery.json is to say of it: {model: the path of its
    checkpoint, or None, clip: `ZeroShot.record`, or None}.

    model: a GLSCL, taken as it is; or the path of a checkpoint; or None for the one that the
    manifest tells, and without that for the shipped checkpoint. ValueError for a device that is
    not here, FileNotFoundError for a checkpoint or weights that are not."""
    path, clip = (manifest.get('model'), manifest.get('clip')) if manifest else (None, None)
    if isinstance(model, ZeroShot):
        path = None
        if clip and clip['temperature'] and not model.fitted:
            model.set_temperature(clip['temperature'])
    elif not isinstance(model, (str, os.PathLike, nn.Module, type(None))):
        raise ValueError(f'model is a GLSCL, a checkpoint or a run\'s folder, not {model!r:.60}')
    elif not isinstance(model, nn.Module):
        device = pick_device(device)
        if clip and not model:
            model = _recorded_clip(clip).to(device)
        else:
            if path and not model and not os.path.exists(path):
                raise FileNotFoundError(f'{path}, the checkpoint that made the gallery, is not '
                                        f'there any more: name the place where it is now as '
                                        f'--model')
            path = model or path
            model = load_model(path, device=device)
            clip = None
    if not isinstance(model, GLSCL):
        head = getattr(model, 'config', None) and f'has the head {model.config.head}'
        raise ValueError(f"a gallery keeps what GLSCL's score reads of a video; this model "
                         f'{head or "is a " + type(model).__name__}: name another')
    clip = model.record if isinstance(model, ZeroShot) else clip
    return model.eval(), {'model': os.path.abspath(path) if path else None, 'clip': clip}


def _recorded_clip(clip):
    """The ZeroShot of a record; FileNotFoundError where its weights have gone."""
    file = clip['pretrained']
    if file and os.path.isabs(file) and not os.path.exists(file):
        raise FileNotFoundError(
            f'{file}, the weights of {clip["name"]} that made the gallery, are not there any more: '
            f'put them back, or name the place where they are now in `glscl index VIDEOS --out '
            f'GALLERY --clip {clip["name"]} --pretrained FILE`')
    return ZeroShot(clip['name'], file, clip['temperature'])


def read_manifest(folder: Place, mark: str | None = None) -> dict:
    """gallery.json as a dict: fingerprint, model, clip (not in older ones), shards, unreadable; and
    `damaged`, a line for each of its entries that cannot be used and is left out.

    Raises FileNotFoundError where there is none, OSError where it cannot be read, ValueError if it
    is damaged as a whole or made by a model with another fingerprint than `mark`."""
    path = Path(folder) / 'gallery.json'
    again = 'Delete the folder and index again.'
    try:
        if not path.is_file():
            raise FileNotFoundError(f'{path}: no such file, so {folder} is not a gallery; '
                                    f'`glscl index VIDEOS --out {folder}` makes one')
        manifest = read_json(path, again)
        kinds = dict(fingerprint=str, model=(str, type(None)), shards=dict, unreadable=list)
        for name, kind in kinds.items():
            if not isinstance(manifest.get(name, ...), kind):
                raise ValueError(f'{path}: {name} is missing, or not as it was written. {again}')
        if not _is_record(manifest.get('clip')):
            raise ValueError(f'{path}: clip is not as it was written. {again}')
    except ValueError as error:
        raise ValueError(f'gallery.json is damaged: {error}') from None
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(f'{path}: cannot be read ({error.strerror}). Is it yours to read? Allow it '
                      f'(chmod u+r), or ask its owner') from None
    made_with = manifest['fingerprint']
    if mark is not None and mark != made_with:
        clip = manifest.get('clip')
        maker = f'{clip["name"]} {clip["pretrained"]}' if clip else manifest['model']
        raise ValueError(
            f'{folder} was made by another model ({maker or "no file named"}, fingerprint '
            f'{made_with[:8]}; this one: {mark[:8]}), and features of two models '
            f'cannot be compared. Name that model, or index the videos with this one into another '
            f'folder')
    damaged = [f'{path}: its entry of {name[:60]!r} is damaged'
               for name, entry in manifest['shards'].items() if not _is_entry(name, entry)]
    manifest['shards'] = {name: entry for name, entry in manifest['shards'].items()
                          if _is_entry(name, entry)}
    bad = [entry for entry in manifest['unreadable'] if not _is_unreadable(entry)]
    damaged += [f'{path}: its entry of an unreadable video is damaged ({entry!r:.60})'
                for entry in bad]
    manifest['unreadable'] = [entry for entry in manifest['unreadable'] if entry not in bad]
    return dict(manifest, damaged=damaged)


def _is_record(clip):
    """Whether gallery.json may say so of the CLIP that made it."""
    if clip is None:
        return True
    kinds = dict(name=str, pretrained=(str, type(None)), temperature=(int, float, type(None)))
    return (isinstance(clip, dict)
            and all(isinstance(clip.get(name, ...), kind) for name, kind in kinds.items())
            and (clip['temperature'] is None or 0 < clip['temperature'] < math.inf))


def _is_entry(name, entry):
    """Whether gallery.json may say so of a shard: {bytes, rows, perhaps crc32}."""
    if Path(name).name != name or '\\' in name or not name.endswith('.safetensors'):
        return False  # it would lie outside the folder
    return (isinstance(entry, dict) and type(entry.get('bytes')) is int
            and type(entry.get('rows')) is int and 0 < entry['rows'] <= MOST
            and type(entry.get('crc32', 0)) is int)


def _is_unreadable(entry):
    return (_is_clip(entry, ('start', 'end')) and isinstance(entry.get('reason'), str)
            and 'final' in entry and 'stat' in entry)


def _is_clip(clip, numbers=tuple(NUMBERS)):
    """Whether a clip has a path, an id and finite numbers."""
    if not isinstance(clip, dict):
        return False
    values = {name: clip.get(name, '') for name in numbers}
    return (isinstance(clip.get('path'), str) and isinstance(clip.get('id'), str)
            and '\0' not in clip['path'] and isinstance(clip.get('caption', ''), str)
            and all(type(x) in NUMBERS[name] or (x is None and None in NUMBERS[name])
                    for name, x in values.items())
            and all(x is None or math.isfinite(x) for x in values.values()))


def write_manifest(folder: Place, manifest: dict) -> None:
    """From here on this is what counts."""
    manifest = {name: value for name, value in manifest.items() if name != 'damaged'}
    with atomic_write(Path(folder) / 'gallery.json') as half:
        half.write_bytes(json.dumps(manifest, indent=0).encode())


def read_shard(folder: Place, name: str, entry: dict, mark: str,
               rows: Sequence[int] | torch.Tensor | None = None) -> tuple[list[str], Videos]:
    """The clips of a shard, one JSON text each, and the Videos of some of its rows.

    A clip is {id, path, start, end, size, mtime, indices, seconds} (in older galleries fps in place
    of seconds), with caption where a table gave one; Videos have frames and concepts in float16,
    gram in float32. entry: {bytes, rows} in gallery.json; rows: in rising order, by default all;
    only their span is read. Raises ShardError if the file is missing, cut, of a model with another
    fingerprint than `mark`, or not as it should be; flipped bytes among its numbers are what
    `check_shard` finds."""
    path = Path(folder) / name
    rows = torch.arange(entry['rows']) if rows is None else torch.as_tensor(rows)
    first, end = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
    _same_size(path, entry)
    try:
        with safe_open(path, 'pt') as shard:
            metadata = shard.metadata() or {}
            slices = {name: shard.get_slice(name) for name in shard.keys()}
            shapes = {name: (x.get_dtype(), x.get_shape()) for name, x in slices.items()}
            if metadata.get('fingerprint') == mark:
                _check_header(path, entry['rows'], metadata.get('clips', ''), shapes)
            tensors = {name: x[first:end] for name, x in slices.items()}
    except ShardError:
        raise
    except Exception as error:  # a class for each way in which a file can be damaged
        raise ShardError(f'{path}: cannot be read ({one_line(error)})') from None
    if metadata.get('fingerprint') != mark:
        raise ShardError(f'{path}: comes from another model than the rest of the gallery')
    videos = Videos(**{'concepts': None, **tensors})  # None: of a model without a local module
    if len(rows) < end - first:
        videos = videos[rows - first]
    return metadata['clips'].split('\n'), videos


def check_shard(folder: Place, name: str, entry: dict, mark: str, model: GLSCL) -> list[dict]:
    """The clips of a shard as dicts, once every byte of it has been looked at; else ShardError.

    Against the checksum in its `entry`, which galleries of before do not have; the sizes of its
    features against the model's."""
    path = Path(folder) / name
    _same_size(path, entry)
    try:
        if entry.get('crc32', (crc := zlib.crc32(path.read_bytes()))) != crc:
            raise ShardError(f'{path}: is damaged (its checksum is another)')
    except OSError as error:
        raise ShardError(f'{path}: cannot be read ({one_line(error)})') from None
    lines, videos = read_shard(folder, name, entry, mark)
    try:
        clips = [json.loads(line) for line in lines]
    except (ValueError, RecursionError) as error:
        raise ShardError(f'{path}: what it says of its clips is damaged ({one_line(error)})') \
            from None
    for row, clip in enumerate(clips):
        if not _is_clip(clip) or not _moments(clip, videos.mask.shape[1]):
            raise ShardError(f'{path}: what it says of its clip {row} is damaged')
    D, Q = model.clip.width, model.config.num_queries
    concepts = videos.concepts is not None and videos.concepts.shape[1:]
    if (videos.frames.shape[2], concepts) != (D, model.local is not None and (Q, D)):
        raise ShardError(f'{path}: its features have other sizes than this model\'s')
    for tensor in ('frames', 'gram', 'concepts'):
        x = getattr(videos, tensor)
        if x is not None and not x.float().sum().isfinite():
            raise ShardError(f'{path}: its {tensor} hold NaN or infinity')
    return clips


def _moments(clip, most):
    """Whether a clip tells its frames, `most` at most, and when each is shown."""
    places, seconds, fps = (clip.get(name) for name in ('indices', 'seconds', 'fps'))
    if not isinstance(places, list) or len(places) > most:
        return False
    if seconds is None:  # an older gallery
        return type(fps) in (int, float) and 0 < fps < math.inf and all(
            type(place) is int for place in places)
    return (isinstance(seconds, list) and len(seconds) == len(places)
            and all(type(place) is int for place in places)
            and all(type(x) in (int, float) and math.isfinite(x) for x in seconds))


def _same_size(path, entry):
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise ShardError(f'{path}: is missing') from None
    except (OSError, ValueError) as error:
        raise ShardError(f'{path}: cannot be read ({one_line(error)})') from None
    if size != entry['bytes'] or not path.is_file():
        raise ShardError(f'{path}: has {size} bytes instead of {entry["bytes"]}, it is truncated '
                         f'or was overwritten')


def _check_header(path, rows, clips, shapes):
    """ShardError unless a shard has what `Videos` needs, `rows` of each. shapes: {name: (dtype,
    shape)}; clips: its JSON lines."""
    kinds = dict(frames=('F16', 3), mask=('BOOL', 2), gram=('F32', 3), concepts=('F16', 3))
    axes = {name: (kind, len(shape)) for name, (kind, shape) in shapes.items()}
    right = axes.items() <= kinds.items() and axes.keys() >= {'frames', 'mask', 'gram'}
    if right:
        R, F, D = shapes['frames'][1]
        want = dict(frames=[R, F, D], mask=[R, F], gram=[R, F, F])
        right = (R == rows == clips.count('\n') + 1
                 and all(shapes[name][1] == shape for name, shape in want.items())
                 and shapes.get('concepts', [0, [R, 1, D]])[1][::2] == [R, D])
    if not right:
        raise ShardError(f'{path}: is not laid out as its entry in gallery.json says')


def stat_of(path: Place) -> list[int] | None:
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
        self.manifest['shards'][name] = {
            'bytes': len(data), 'rows': len(lines), 'crc32': zlib.crc32(data)}
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
                   if not rows or len(rows) < shards[name]['rows']
                   or (name in short and len(short) > 1)]
        for name in touched:
            if keep[name]:
                lines, videos = read_shard(self.folder, name, shards[name],
                                           self.manifest['fingerprint'], keep[name])
                self.add([lines[row] for row in keep[name]], videos)
        if touched:
            self.commit(without=touched)
