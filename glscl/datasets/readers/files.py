"""Annotation files: where they lie, and what their tables, JSON and pickles hold.

Every complaint names file, row and field, what was expected, and what to do."""
import csv
import io
import json
import math
import os
import pickle
import warnings
from pathlib import Path

import pandas as pd

from ...runtime.files import read_text

VIDEOS = ('.mp4', '.webm', '.avi', '.mkv', '.mov', '.m4v', '.mpg', '.mpeg', '.ts', '.m2ts', '.flv',
          '.wmv', '.asf', '.3gp', '.ogv', '.mts', '.vob', '.f4v', '.divx', '.rm', '.rmvb', '.mxf',
          '.3g2', '.m2v', '.ogm', '.gif')  # a .gif may also be a picture: reading it tells
PACKED = ('.zip', '.tar', '.tgz', '.gz', '.7z', '.rar', '.bz2', '.xz')
SPLITS = ('train', 'val', 'test')
csv.field_size_limit(2 ** 31 - 1)  # Python's own limit is shorter than a long caption
KINDS = {  # what a value can be expected to be, in the words of the message
    'text': lambda x: isinstance(x, str),
    'an id': lambda x: isinstance(x, str) and x.strip(),
    'the path of a video': lambda x: isinstance(x, str) and x.strip() and '\0' not in x,
    'a list': lambda x: isinstance(x, list),
    'a list of words': lambda x: isinstance(x, list) and all(isinstance(word, str) for word in x),
    'an object': lambda x: isinstance(x, dict),
    'a finite number': lambda x: type(x) in (int, float) and abs(x) < math.inf,  # True is none
    'seconds from the start of the video': lambda x: type(x) is float and 0 <= x < math.inf,
    'train, val or test': lambda x: x in SPLITS,
}


class EmptySplit(FileNotFoundError, ValueError):
    """A split of which nothing is there; `listed`: how many videos it names."""

    def __init__(self, message, listed=0):
        super().__init__(message)
        self.listed = listed


def expect(value, kind, where, name=None):
    """The value itself, if it is of that kind (a key of KINDS); else ValueError."""
    if not KINDS[kind](value):
        where = f'{where}, field {name}' if name else where
        raise ValueError(f'{where}: expected {kind}, found {value!r:.60}')
    return value


def field(row, name, kind, where):
    """row[name], if it is there and of that kind; else ValueError."""
    expect(row, 'an object', where)
    if name not in row:
        raise ValueError(f'{where}, field {name}: missing; there are {", ".join(map(str, row))}')
    return expect(row[name], kind, where, name)


def table(rows, **kinds):
    """[(where, row)] as a DataFrame of `where` and the fields in `kinds`, each one checked."""
    values = [[where, *(field(row, name, kind, where) for name, kind in kinds.items())]
              for where, row in rows]
    return pd.DataFrame(values, columns=['where', *kinds], dtype=object)


def walk(data_dir, depth=None):
    """(folder, file names) of a folder and those below, sorted, at most `depth` levels down.

    Hidden ones are passed over. Links are followed, but no folder is entered twice. A warning names
    a folder that cannot be read; OSError where it is `data_dir` itself."""
    if not data_dir:
        raise ValueError('this data set needs data_dir, its folder (layout: data/README.md)')
    root, entered = Path(data_dir).expanduser(), set()
    if root.is_file():
        raise ValueError(f'{root} is a file: name the folder that it lies in as data_dir')
    if not root.is_dir():
        raise FileNotFoundError(f'{root}: no such folder to be data_dir (layout: data/README.md)')
    os.scandir(root).close()
    for here, folders, names in os.walk(root, followlinks=True, onerror=_passed_over):
        here, real = Path(here), os.path.realpath(here)
        if real not in entered:
            yield here, sorted(name for name in names if not name.startswith('.'))
        if real in entered or len(here.relative_to(root).parts) == depth:
            folders.clear()
        folders[:] = sorted(name for name in folders if not name.startswith('.'))
        entered.add(real)


def _passed_over(error):
    warnings.warn(f'{error.filename} is passed over: it cannot be read ({error.strerror})')


def locate(data_dir, names):
    """{name: path} of those annotation files that are in `data_dir` or up to two levels below.

    A name found twice is taken from the folder with most of `names`, of equals from the higher
    one: MSVD and DiDeMo both have a train_list.txt."""
    folders = [(here, set(names) & set(have)) for here, have in walk(data_dir, 2)]
    folders.sort(key=lambda folder: (-len(folder[1]), len(folder[0].parts)))
    found = {}
    for here, have in folders:
        for name in have:
            found.setdefault(name, here / name)
    return found


def find(data_dir, names, *wanted):
    """Paths of the `wanted` ones of a set's annotation files; FileNotFoundError if one lacks."""
    found = locate(data_dir, names)
    for name in wanted:
        if name not in found:
            raise FileNotFoundError(f'{name} is neither in {data_dir} nor up to two levels below '
                                    f'it; data/README.md says where it comes from'
                                    f'{instead(data_dir, [name])}')
    return [found[name] for name in wanted]


def instead(data_dir, names):
    """What lies there in place of the files `names`, as the end of a message, or '': they may lie
    higher up, be spelled otherwise, or still be packed."""
    root = Path(data_dir).expanduser().absolute()
    stems = {Path(name).stem.lower() for name in names}
    for folder in root.parents[:2]:
        if any((folder / name).is_file() for name in names):
            return f'. There are such files in {folder}: name that as data_dir'
    for here, have in walk(data_dir, 2):
        for name in have:
            if Path(name).stem.split('.')[0].lower() in stems or name.lower().endswith(PACKED):
                return f'. There is {here / name}: is it packed, or spelled otherwise?'
    return ''


def rows_of(path, rows, part=''):
    """[(where, row)] of the list that a file holds, or a `part` of it."""
    rows = enumerate(expect(rows, 'a list', path), 1)
    return [(f'{path}, row {n}{part}', row) for n, row in rows]


def read_lines(path):
    """[(where, line)] of a text file; blank lines are passed over."""
    lines = rows_of(path, read_text(path).split('\n'))
    return [(where, line) for where, line in lines if line.strip()]


def read_csv(path, *columns):
    """[(where, {column: text})] of a comma-separated file whose header has these columns."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=''), strict=True)
    rows = []
    try:
        header = reader.fieldnames or []
        for name in columns:
            if name not in header:
                raise ValueError(f'{path}, row 1: the column {name!r} is missing; it has '
                                 f'{", ".join(header) or "none"}. The first row names the '
                                 f'columns, spelled like this, with commas between them')
        for row in reader:
            where = f'{path}, row {reader.line_num}'
            if None in row:
                raise ValueError(f'{where}: {len(header) + len(row[None])} fields, the header has '
                                 f'{len(header)}; put quotes around text with a comma')
            for name in header:
                if row[name] is None:
                    raise ValueError(f'{where}, field {name}: missing, as the row is too short')
            rows.append((where, row))
    except csv.Error as error:
        raise ValueError(f'{path}, row {reader.line_num + 1}: broken CSV ({error}); is a quote '
                         f'never closed?') from None
    return rows


def read_json(path, text=None, where=None):
    """The content of a JSON file, or the `text` of one of its rows and what to call that."""
    text = read_text(path) if text is None else text

    def unique(pairs):
        """json itself would keep the last of two entries with one key, such as a video id."""
        row = dict(pairs)
        if len(row) < len(pairs):
            names = [name for name, _ in pairs]
            twice = json.dumps(next(name for name in names if names.count(name) > 1))
            raise json.JSONDecodeError(f'{twice} is listed twice', text, text.rfind(twice))
        return row

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
        where = where or f'{path}, row {getattr(error, "lineno", 1)}'
        raise ValueError(f'{where}, column {getattr(error, "colno", 1)}: broken JSON '
                         f'({getattr(error, "msg", error)}); download it again, or mend this '
                         f'line') from None


class _Plain(pickle.Unpickler):
    """Builds lists, dicts, text and numbers alone: no name is imported, so no code can run."""

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f'refused: it asks for {module}.{name} and could run code')


def read_pickle(path):
    """The content of a pickle of lists, dicts, text and numbers; ValueError for any other."""
    with open(path, 'rb') as file:
        try:
            return _Plain(file).load()
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise ValueError(f'{path}: damaged, or not a pickle of lists, text and numbers alone '
                             f'({error}); get it again from its original source') from None


def checked_ids(rows, any_dot=False):
    """{id: where} of rows (where, id, …): no path, none twice, all or none with an extension.

    any_dot: whatever follows a dot is an extension (DiDeMo has .3gp, .m2ts and an empty one), not
    only those of VIDEOS."""
    seen = {}
    first = {}  # the first one with, and the first one without an extension
    for where, video_id, *_ in rows:
        where = f'{where}, field video_id'
        expect(video_id, 'an id', where)
        if video_id in ('.', '..') or set(video_id) & set('/\\\0'):
            raise ValueError(f'{where}: {video_id!r} is a path, not an id; leave the folder out')
        if video_id in seen:
            raise ValueError(f'{where}: {video_id!r} is listed twice, first in {seen[video_id]}; '
                             f'delete one')
        seen[video_id] = where
        extended = '.' in video_id if any_dot else video_id.lower().endswith(VIDEOS)
        first.setdefault(extended, f'{where}: {video_id!r}')
    if len(first) == 2:
        raise ValueError(f'{first[True]} has an extension, {first[False]} has none; write all ids '
                         f'one way')
    return seen


def read_list(path, any_dot=False):
    """{id: where} of a file with one id a line."""
    return checked_ids([(where, line.strip()) for where, line in read_lines(path)], any_dot)
