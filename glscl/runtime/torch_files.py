"""Files of torch.save, read without a risk: nothing in them is executed."""
import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from .files import one_line, read_tensors

# What a NumPy number in a file of torch.save is rebuilt from, under its names in NumPy 1 and 2.
NUMPY_SCALAR = np.float64().__reduce__()[0]
NUMPY_NUMBERS = [(NUMPY_SCALAR, 'numpy.core.multiarray.scalar'),
                 (NUMPY_SCALAR, 'numpy._core.multiarray.scalar'),
                 np.dtype, *(type(np.dtype(kind)) for kind in '?bhilqBHILQefd')]


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
