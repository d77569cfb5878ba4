"""Where a command is to write: looked at before anything long begins. Loads no torch."""
import tempfile
from pathlib import Path


def writable_folders(**paths: str | None) -> None:
    """OSError or ValueError, by the name of its flag, for a folder that cannot be written to, or
    not be made there; None is left to others. Nothing is left behind."""
    for flag, path in _named(paths):
        if path.exists() and not path.is_dir():
            raise ValueError(f'{_flag(flag)} {path} is a file: name a folder')
        _try(flag, path, path)


def writable_files(**paths: str | None) -> None:
    """The same of files: their folder is looked at."""
    for flag, path in _named(paths):
        if path.is_dir():
            raise ValueError(f'{_flag(flag)} {path} is a folder: name a file')
        _try(flag, path, path.parent)


def _named(paths):
    for flag, path in paths.items():
        if path == '':
            raise ValueError(f'{_flag(flag)} is empty: is a variable of the shell not set?')
        if path is not None:
            yield flag, Path(path)


def _flag(name):
    return f'--{name.replace("_", "-")}'


def _try(flag, path, folder):
    """Write a byte into `folder`, or into the nearest one above that is there."""
    try:
        there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b' ')
            file.flush()
    except OSError as error:
        raise OSError(f'{_flag(flag)} {path} cannot be written ({error.strerror}): name another '
                      f'place, or make room there') from None
