"""JSON files of results and galleries: read with a word on what is wrong with them, and the
provenance that each result carries."""
import contextlib
import datetime
import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version

import torch

from .files import read_text


def read_json(path: str | os.PathLike, remedy: str = 'Make the file again.') -> dict:
    """The JSON object in a file, a dict; ValueError with file and line, and `remedy`, if it has
    none."""
    text = read_text(path, 'line')
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
        line, what = getattr(error, 'lineno', 1), getattr(error, 'msg', error)
        raise ValueError(f'{path}, line {line}: broken JSON ({what}). {remedy}') from None
    if not isinstance(content, dict):
        raise ValueError(f'{path}: expected an object {{…}}, found {content!r:.60}. {remedy}')
    return content


def machine() -> dict:
    """Provenance of a result: hardware, versions, commit, date."""
    name = f'CPU {platform.machine()}'
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    versions = {}
    for package in ('glscl', 'torch', 'open_clip_torch', 'numpy'):
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    try:
        head = subprocess.run(['git', 'rev-parse', '--short', 'HEAD'], capture_output=True,
                              text=True, check=True, cwd=os.path.dirname(__file__))
        commit = head.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return dict(hardware=f'{name}, {os.cpu_count()} cores', threads=torch.get_num_threads(),
                python=platform.python_version(), versions=versions, commit=commit,
                date=datetime.date.today().isoformat())
