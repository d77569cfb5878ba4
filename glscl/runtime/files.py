"""Files that appear whole or not at all, and files of others that are read without a risk."""
import contextlib
import json
import os
import re
import threading
import time
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

# What a NumPy number in a file of torch.save is rebuilt from, under its names in NumPy 1 and 2.
NUMPY_SCALAR = np.float64().__reduce__()[0]
NUMPY_NUMBERS = [(NUMPY_SCALAR, 'numpy.core.multiarray.scalar'),
                 (NUMPY_SCALAR, 'numpy._core.multiarray.scalar'),
                 np.dtype, *(type(np.dtype(kind)) for kind in '?bhilqBHILQefd')]


@contextlib.contextmanager
def atomic_write(path, durable=True):
    """A path to write to instead of `path`; what was written there moves to its place at the end.

        with atomic_write('runs/mine/result.json') as half:
            half.write_text(text)

    A reader never meets half a file, a machine that goes down leaves the old one or the new one,
    and of two writers either may win. The folder is made where it is missing; an error, also one
    of the caller's, leaves `path` as it was. durable=False does not wait for the disk: for caches
    of very many small files. Raises whatever the system says (OSError)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f'.{path.name}.{os.getpid()}.{threading.get_ident()}.half')
    try:
        yield half
        if durable:  # else the name may outlive a power cut and the bytes not
            with open(half, 'rb+') as written:
                os.fsync(written.fileno())
        _replace(half, path, durable)
    finally:
        with contextlib.suppress(OSError):
            half.unlink()


def _replace(half, path, durable):
    for wait in (0.05, 0.1, 0.2, 0.4, None):
        try:
            return os.replace(half, path)
        except PermissionError:  # Windows, while another process reads the very file
            if not path.exists() or (durable and wait is None):
                raise
        if not durable:
            return None
        time.sleep(wait)


def remove_halves(folder):
    """Take away what `atomic_write` left where its process was killed.

    Nobody else may be writing in that folder."""
    for half in Path(folder).glob('.*'):
        # safetensors writes a half of its own beside ours
        if half.suffix == '.half' or re.fullmatch(r'\.tmp\w{6}', half.name):
            half.unlink(missing_ok=True)


def read_text(path, unit='row'):
    """A text file in UTF-8 (with or without a byte-order mark), line ends as newlines.

    Raises ValueError with file and row (or what else `unit` calls a line) for any other text."""
    raw = Path(path).read_bytes()
    try:
        return raw.decode('utf-8-sig').replace('\r\n', '\n')
    except UnicodeDecodeError as error:
        line = raw[:error.start].count(b'\n') + 1
        raise ValueError(f'{path}, {unit} {line}: not UTF-8 text (byte {raw[error.start]:#04x}); '
                         f'save the file as UTF-8, or download it again') from None


class _PlainLoader(yaml.SafeLoader):
    """YAML of plain values alone: no key twice, and `1:30` is text, not the number 90."""

    def resolve(self, kind, value, implicit):
        if kind is yaml.ScalarNode and ':' in value:
            return self.DEFAULT_SCALAR_TAG
        return super().resolve(kind, value, implicit)

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f'the key {name!r} is there twice',
                                           problem_mark=key.start_mark)
            seen.add(name)
        return super().construct_mapping(node, deep)


def read_yaml(path):
    """The settings in a YAML file as a dict, empty where the file says nothing.

    Raises ValueError with file and line for what is not one mapping of plain values in UTF-8:
    broken YAML, tabs, a key twice, a tag that asks for an object of Python, several documents."""
    text = read_text(path, 'line')
    line = 1
    try:
        settings = yaml.load(text, _PlainLoader)
        if settings is None or isinstance(settings, dict):
            return settings or {}
        problem = f'found {settings!r:.60}'
    except yaml.MarkedYAMLError as error:
        line, problem = error.problem_mark.line + 1, error.problem
    except yaml.reader.ReaderError as error:  # a character that no text has
        line, problem = text.count('\n', 0, error.position) + 1, error.reason
    except (TypeError, ValueError, RecursionError) as error:  # such as a date of no calendar
        problem = error
    raise ValueError(f'{path}, line {line}: expected one mapping, a `name: value` on each line, '
                     f'indented by spaces; {problem}')


def one_line(error):
    """The beginning of an error's text on one line; its type where it has none."""
    return ' '.join(str(error).split())[:160] or type(error).__name__


def write_tensors(path, tensors, metadata):
    """A safetensors file of tensors by name and {text: text}, a checksum among them."""
    save_file(tensors, path, {**metadata, 'checksum': _checksum(tensors, metadata)})


def read_tensors(path, remedy='Copy or make the file again.'):
    """(tensors by name, on the CPU; {text: text}) of a safetensors file.

    Raises ValueError where it is damaged: no byte may be another than `write_tensors` wrote (files
    of others have no checksum). FileNotFoundError, remedy: as for `read_torch`."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'{path} is not a regular file. {remedy}')
    try:
        with safe_open(path, 'pt') as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # there is a class for each way in which a file can be damaged
        raise ValueError(f'{path} is damaged, or is no safetensors file ({one_line(error)}). '
                         f'{remedy}') from None
    written = metadata.pop('checksum', None)
    if written and written != _checksum(tensors, metadata):
        raise ValueError(f'{path} is damaged (its checksum is another). {remedy}')
    return tensors, metadata


def _checksum(tensors, metadata):
    mark = zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
    for name, x in sorted(tensors.items()):
        mark = zlib.crc32(f'{name} {x.dtype} {list(x.shape)}'.encode(), mark)
        mark = zlib.crc32(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), mark)
    return f'{mark:08x}'


def read_torch(path, map_location='cpu', remedy='Is it complete, and written by torch.save?'):
    """The tensors in a file and what lies beside them; nothing in the file is executed.

    Takes what torch.save or safetensors wrote, or a TorchScript archive (of which it returns the
    state_dict), told apart by content. Beside tensors, plain Python values and NumPy numbers are
    read. Any other type raises ValueError with its name, since a file can ask for one that runs
    code; so does a damaged file. FileNotFoundError where no regular file lies: a pipe could be
    waited for forever. remedy: the end of each message."""
    if not Path(path).is_file():
        raise FileNotFoundError(f'{path} is not a regular file. {remedy}')
    try:
        with open(path, 'rb') as file:
            head = file.read(9)
        if head[8:] == b'{':  # eight bytes of length, then JSON
            return {name: x.to(map_location) for name, x in read_tensors(path)[0].items()}
        if head.startswith(b'PK') and zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                _refuse_flipped(archive)
                if any(name.endswith('/constants.pkl') for name in archive.namelist()):
                    return _read_torchscript(archive, map_location)
        with torch.serialization.safe_globals(NUMPY_NUMBERS):
            return torch.load(path, map_location=map_location, weights_only=True)
    except Exception as error:  # there is a class for each way in which a file can be damaged
        text = str(error) or type(error).__name__
    # Around what was found, torch's text says how to switch this safety off.
    text = text.rpartition('WeightsUnpickler error: ')[2].partition('Check the documentation')[0]
    refused = re.search(r'(?<=GLOBAL )\S+|__setstate__', text)
    if refused:
        raise ValueError(f'{path} is refused: reading it could run code ({refused[0]}). {remedy}')
    raise ValueError(f'{path} cannot be read ({one_line(text)}). {remedy}')


def _refuse_flipped(archive):
    """torch writes the checksum of each entry, and does not look at it."""
    for entry in archive.infolist():
        if entry.CRC:  # 0 where torch was told to write none
            with archive.open(entry) as file:
                while file.read(2 ** 24):  # raises at the end
                    pass


def _read_torchscript(archive, map_location):
    """The state_dict of a TorchScript archive. Loading calls none of its code but `__setstate__`,
    which could write files: an archive that has one is refused."""
    for entry in archive.infolist():
        if entry.filename.endswith('.py') and b'__setstate__' in archive.read(entry):
            raise ValueError('it has a __setstate__')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', FutureWarning)  # torch asks authors for another format
        return torch.jit.load(archive.filename, map_location=map_location).state_dict()
