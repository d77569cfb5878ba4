"""Finding and reading annotation files and videos. Every complaint names file, row and field, and what to do."""
import csv
import io
import json
import os
import pickle
from pathlib import Path

VIDEOS = ('.mp4', '.webm', '.avi', '.mkv', '.mov')


def folder_of(data_dir):
    """data_dir as a Path to a folder that exists; else ValueError or FileNotFoundError."""
    if not data_dir:
        raise ValueError('this data set needs data_dir, the folder with its annotation files and videos (layout: data/README.md)')
    folder = Path(data_dir).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder}: no such folder. data_dir holds the annotations and the videos (data/README.md)')
    return folder


def walk(root, depth=None):
    """(folder, file names) below root, sorted, at most `depth` levels down. Links are followed; no folder is entered twice."""
    root, seen = Path(root), set()
    for here, folders, names in os.walk(root, followlinks=True):
        seen_before, real = len(seen), os.path.realpath(here)
        seen.add(real)
        level = len(Path(here).relative_to(root).parts)
        folders[:] = [] if len(seen) == seen_before or level == depth else sorted(f for f in folders if not f.startswith('.'))
        if len(seen) > seen_before:
            yield Path(here), sorted(n for n in names if not n.startswith('.'))


def locate(data_dir, names):
    """{name: path} of those annotation files that are there: in data_dir or up to two levels below.

    A name found twice is taken from the folder that holds most of `names`: MSVD and DiDeMo both have a train_list.txt."""
    folders = [(here, set(names) & set(have)) for here, have in walk(folder_of(data_dir), 2)]
    folders.sort(key=lambda f: (-len(f[1]), len(f[0].parts)))  # stable: walk's order among equals
    return {name: next(here / name for here, have in folders if name in have)
            for name in names if any(name in have for _, have in folders)}


def find(data_dir, names, name):
    """The path of annotation file `name`, one of the set's `names`; FileNotFoundError if it is missing."""
    have = locate(data_dir, names)
    if name not in have:
        raise FileNotFoundError(f'{name} is neither in {data_dir} nor up to two levels below it'
                                + (f' (found: {", ".join(have)})' if have else '') + '; data/README.md says where it comes from')
    return have[name]


def index_videos(data_dir):
    """({file name: path}, {name without its video extension: path}) of all files below data_dir; of two alike the first."""
    names, stems = {}, {}
    for here, have in walk(folder_of(data_dir)):
        for name in have:
            path = os.path.join(here, name)
            names.setdefault(name, path)
            stem, extension = os.path.splitext(name)
            if extension.lower() in VIDEOS:
                stems.setdefault(stem, path)
    return names, stems


# ---- text, tables, JSON

def read_text(path):
    """A text file in UTF-8 (with or without a byte-order mark), line ends as newlines."""
    raw = Path(path).read_bytes()
    try:
        return raw.decode('utf-8-sig').replace('\r\n', '\n')
    except UnicodeDecodeError as error:
        raise ValueError(f'{path}, row {raw[:error.start].count(10) + 1}: not UTF-8 text (byte {raw[error.start]:#04x}); '
                         f'save the file as UTF-8, or download it again') from None


def read_json(path, text=None, row=None):
    """The content of a JSON file, or of one `row` of it (its `text`)."""
    text = read_text(path) if text is None else text

    def unique(pairs):
        """json alone would keep the last of two entries with one key, such as a video id."""
        row = dict(pairs)
        if len(row) < len(pairs):
            key = next(key for n, (key, _) in enumerate(pairs) if key in dict(pairs[:n]))
            quoted = json.dumps(key)
            raise json.JSONDecodeError(f'{quoted} is listed twice', text, text.find(quoted, text.find(quoted) + 1))
        return row

    try:
        return json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of too many digits
        line, column = row or getattr(error, 'lineno', 1), getattr(error, 'colno', 1)
        raise ValueError(f'{path}, row {line}, column {column}: broken JSON ({getattr(error, "msg", error)}); '
                         f'download it again, or mend this line') from None


def read_csv(path, columns):
    """[(where, {column: text})] of a comma-separated file with a header that holds at least `columns`."""
    reader, rows = csv.DictReader(io.StringIO(read_text(path), newline=''), strict=True), []
    try:
        have = reader.fieldnames or []
        for column in columns:
            if column not in have:
                raise ValueError(f'{path}, row 1: the column {column!r} is missing; it has {", ".join(have) or "none"}')
        for row in reader:
            where = f'{path}, row {reader.line_num}'
            if None in row:
                raise ValueError(f'{where}: {len(have) + len(row[None])} fields, the header has {len(have)}; '
                                 f'put quotes around text with a comma')
            short = [column for column in have if row[column] is None]
            if short:
                raise ValueError(f'{where}, field {short[0]}: missing; the row has {len(have) - len(short)} fields, '
                                 f'the header {len(have)}')
            rows.append((where, row))
    except csv.Error as error:
        raise ValueError(f'{path}, row {reader.line_num + 1}: broken CSV ({error}); is a quote never closed?') from None
    return rows


def field(row, name, kind, where):
    """row[name], checked to be of `kind` (str, list, dict, or float for any finite number)."""
    words = {str: 'text', list: 'a list', dict: 'an object', float: 'a finite number'}
    if not isinstance(row, dict):
        raise ValueError(f'{where}: expected an object with the field {name}, found {_short(row)}')
    if name not in row:
        raise ValueError(f'{where}, field {name}: missing; there are {", ".join(map(str, row)) or "none"}')
    value = row[name]
    fits = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float('inf') \
        if kind is float else isinstance(value, kind)
    if not fits:
        raise ValueError(f'{where}, field {name}: expected {words[kind]}, found {_short(value)}')
    return value


def _short(value):
    return repr(value)[:60]


# ---- video ids

def plain_id(video_id, where):
    """The id itself, if it is text that names no folder."""
    if not isinstance(video_id, str) or not video_id.strip():
        raise ValueError(f'{where}, field video_id: expected an id, found {_short(video_id)}')
    if video_id in ('.', '..') or set(video_id) & set('/\\\0'):
        raise ValueError(f'{where}, field video_id: {video_id!r} is a path, not an id; leave the folder out')
    return video_id


def checked_ids(rows, any_dot=False):
    """{id: where} of [(where, id)]: no path, none twice, and either all or none with an extension.

    any_dot: whatever follows a dot is an extension (DiDeMo has .3gp, .m2ts and an empty one); else only those of VIDEOS."""
    seen, first = {}, {}
    for where, video_id in rows:
        if plain_id(video_id, where) in seen:
            raise ValueError(f'{where}, field video_id: {video_id!r} is listed twice, first in {seen[video_id]}; delete one')
        seen[video_id] = where
        first.setdefault('.' in video_id if any_dot else video_id.lower().endswith(VIDEOS), (where, video_id))
    if len(first) == 2:
        (where, named), (other, bare) = first[True], first[False]
        raise ValueError(f'{where}, field video_id: {named!r} has an extension, {bare!r} ({other}) has none; '
                         f'write all ids one way')
    return seen


def read_list(path, any_dot=False):
    """{id: where} of a file with one id a line; blank lines are passed over."""
    lines = enumerate(read_text(path).split('\n'), 1)
    return checked_ids([(f'{path}, row {n}', line.strip()) for n, line in lines if line.strip()], any_dot)


# ---- pickle

class _Forbidden(Exception):
    """A name that a pickle wants imported."""


class _Plain(pickle.Unpickler):
    """Builds containers, text and numbers. Whatever would import a name, and so could run code, is refused."""

    def find_class(self, module, name):
        raise _Forbidden(f'{module}.{name}')


def read_pickle(path):
    """The content of a pickle of plain containers, without ever executing it; ValueError for any other."""
    with open(path, 'rb') as file:
        try:
            return _Plain(file).load()
        except _Forbidden as error:
            raise ValueError(f'{path}: refused, it asks for {error}. A caption file holds lists, text and numbers only; this one '
                             f'could run code. Get it from its original source.') from None
        except Exception as error:  # a damaged pickle can raise nearly anything
            raise ValueError(f'{path}: damaged, or not a pickle ({type(error).__name__}: {error}); download it again') from None
