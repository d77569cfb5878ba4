"""Files that appear whole or not at all, and files of others that are read without a risk. Loads
torch only with tensors: a wrong setting is told before that."""
import contextlib
import json
import os
import re
import threading
import time
import zlib
from pathlib import Path

import yaml
from safetensors import safe_open


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
        text = raw.decode('utf-8-sig').replace('\r\n', '\n')
        wrong = raw.find(b'\0')  # as UTF-16 has them
    except UnicodeDecodeError as error:
        text, wrong = '', error.start
    if wrong < 0:
        return text
    line = raw[:wrong].count(b'\n') + 1
    raise ValueError(f'{path}, {unit} {line}: not UTF-8 text (byte {raw[wrong]:#04x}); save the '
                     f'file as UTF-8, or download it again')


class _PlainLoader(yaml.SafeLoader):
    """YAML of plain values alone: no key twice, and what looks like no number is none: `1:30` is
    text, not 90, and `012` too, not 10."""

    def resolve(self, kind, value, implicit):
        if kind is yaml.ScalarNode and re.match(r'.*:|[-+]?0\w', value):
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


def read_value(name, text):
    """One value as it would be read from a YAML file of settings: 3 is a number, true a truth
    value, null is None. ValueError, by the name of the setting, for broken YAML."""
    try:
        return yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, TypeError, ValueError, RecursionError):
        raise ValueError(f'{name}: {text!r} cannot be read as a value; put it in quotes') from None


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
    from safetensors.torch import save_file
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
    import torch
    mark = zlib.crc32(json.dumps(metadata, sort_keys=True).encode())
    for name, x in sorted(tensors.items()):
        mark = zlib.crc32(f'{name} {x.dtype} {list(x.shape)}'.encode(), mark)
        mark = zlib.crc32(x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy(), mark)
    return f'{mark:08x}'
