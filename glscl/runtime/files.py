"""Files that appear whole or not at all."""
import contextlib
import os
import re
import threading
from pathlib import Path


@contextlib.contextmanager
def atomic_write(path, durable=True):
    """A path to write to instead of `path`; what was written there moves to its place at the end.

        with atomic_write('runs/mine/result.json') as half:
            half.write_text(text)

    A reader never meets half a file, a machine that goes down leaves the old one or the new one,
    and of two writers either may win. The folder is made where it is missing; an error, also one
    of the caller's, leaves `path` as it was. durable=False does not wait for the disk: for caches of
    very many small files. Raises whatever the system says (OSError)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f'.{path.name}.{os.getpid()}.{threading.get_ident()}.half')
    try:
        yield half
        if durable:  # else the name may outlive a power cut and the bytes not
            with open(half, 'rb+') as written:
                os.fsync(written.fileno())
        try:
            os.replace(half, path)
        except PermissionError:  # Windows, while another process reads the very file
            if not path.exists():
                raise
    finally:
        with contextlib.suppress(OSError):
            half.unlink()


def remove_halves(folder):
    """Take away what `atomic_write` left where its process was killed.

    Nobody else may be writing in that folder."""
    for half in Path(folder).glob('.*'):
        # safetensors writes a half of its own beside ours
        if half.suffix == '.half' or re.fullmatch(r'\.tmp\w{6}', half.name):
            half.unlink(missing_ok=True)


def read_yaml(path):
    import yaml
    return yaml.safe_load(Path(path).read_text(encoding='utf-8')) or {}
