"""Your own videos: a folder, or a CSV or JSONL file with path and caption; for a search also single
files, and tables of paths alone."""
import contextlib
from pathlib import Path, PureWindowsPath

import pandas as pd

from . import files
from .benchmarks import HELD_OUT_INSTEAD, hold_out

FIELDS = ['where', 'video_id', 'path', 'caption', 'start', 'end', 'split']
TABLES = ('.csv', '.jsonl')


def own(data_dir, split, select_on):
    """The captions of a split: rows {where, video_id, path, caption, start, end, split}.

    A folder: each video below it once, with an empty caption, as split "test": what searching
    needs. A .csv or .jsonl file: columns `path` (relative to the file, never leaving its folder)
    and `caption`; optionally `video_id` (else the path), `start`, `end` (seconds) and `split`.
    Without `split` all rows are "test"; without "val", it is held out of "train"."""
    file = Path(data_dir or '').expanduser()
    rows = _of_file(file) if file.is_file() else _of_folder(data_dir, file, split)
    rows = pd.DataFrame(rows, dtype=object, columns=FIELDS)
    held_out = split != 'test' and select_on == 'val' and 'val' not in set(rows['split'])
    wanted = 'train' if held_out else split
    rows = rows[rows['split'] == wanted]
    if rows.empty:
        raise files.EmptySplit(f'{file}: no row has "{wanted}" in the column split; write it there'
                               + HELD_OUT_INSTEAD * (split == 'test'))
    return (hold_out(rows, split) if held_out else rows).to_dict('records')


def listed(source, log=None):
    """The videos of a folder, a table or a single file, for a search: rows as `own` returns them.

    A table needs no column `caption`, and all its rows count, whatever its `split` says. Its paths
    may be absolute or lead anywhere: unlike a table to train on, which comes from elsewhere with
    its videos, this one was named by who wants these files looked at, and nothing but a search
    reads them. log: is told how many files of a folder are passed over."""
    file = Path(source or '').expanduser()
    if file.is_file() and file.suffix.lower() in TABLES:
        rows = _of_file(file, to_train=False)
    elif file.is_file() and file.suffix.lower() in files.VIDEOS:
        rows = [dict(zip(FIELDS, _of_video(file, file.name)))]
    elif file.is_file():
        raise ValueError(f'{file}: expected a folder, a .csv or .jsonl file, or a video '
                         f'({", ".join(files.VIDEOS)})')
    else:
        rows = [dict(zip(FIELDS, row)) for row in _of_folder(source, file, 'test', log)]
    if not rows:
        raise ValueError(f'{file}: holds no row')
    return rows


def _of_video(path, video_id):
    return str(path), video_id, str(path), '', None, None, 'test'


def _of_folder(data_dir, folder, split, log=None):
    names = [here / name for here, names in files.walk(data_dir) for name in names]
    paths = [path for path in names if path.name.lower().endswith(files.VIDEOS)]
    if log and len(paths) < len(names):
        kinds = sorted({path.suffix.lower() or 'no suffix' for path in {*names} - {*paths}})
        more = ', …' if len(kinds) > 8 else ''
        log(f'{folder}: {len(names) - len(paths)} files are passed over, whose names are not those '
            f'of videos ({", ".join(kinds[:8])}{more})')
    if split != 'test':
        raise ValueError(f'{folder} has no captions, so no split "{split}"; give a CSV with them')
    if not paths:
        raise FileNotFoundError(f'{folder}: no video below it ({", ".join(files.VIDEOS)})')
    return [_of_video(path, path.relative_to(folder).as_posix()) for path in paths]


def _of_file(file, to_train=True):
    """The rows of a table, checked: those to train on more strictly than those to search."""
    if file.suffix.lower() == '.csv':
        given = files.read_csv(file, 'path', *(['caption'] if to_train else []))
    elif file.suffix.lower() == '.jsonl':
        given = [(where, files.read_json(file, line, where))
                 for where, line in files.read_lines(file)]
    else:
        raise ValueError(f'{file}: expected a folder, a .csv or a .jsonl file')
    if not to_train:
        given = [(where, _to_search(where, row)) for where, row in given]
    rows = [_row(where, row, file.parent, to_train) for where, row in given]
    ids = {row['video_id']: where for where, row in given if 'video_id' in row}
    files.checked_ids((where, video_id) for video_id, where in ids.items())
    first = {}
    for row in rows:  # several captions may share an id; two clips must not, nor one in two splits
        seen = first.setdefault(row['video_id'], row)
        for name in ('path', 'start', 'end', 'split'):
            if row[name] != seen[name]:
                raise ValueError(f'{row["where"]}, field video_id: {row["video_id"]!r} is listed '
                                 f'twice with another {name}, first in {seen["where"]}; give each '
                                 f'clip an id of its own, in one split')
    return rows


def _to_search(where, row):
    """A row without its split, with an empty caption where it has none."""
    row = {**files.expect(row, 'an object', where), 'split': 'test'}
    return {**row, 'caption': '' if row.get('caption') is None else row['caption']}


def _row(where, row, folder, to_train):
    """A row, checked: as `own` returns it. A table to train on must not reach other files."""
    path = files.field(row, 'path', 'text', where)
    files.expect(path, 'the path of a video', where, 'path')
    parts = PureWindowsPath(path)  # knows both separators, and drives
    if to_train and (parts.anchor or '..' in parts.parts
                     or not (folder / path).resolve().is_relative_to(folder.resolve())):
        raise ValueError(f'{where}, field path: {path!r} points outside {folder}; put the table '
                         f'into the folder that holds all videos')
    start, end = _seconds(row, 'start', where), _seconds(row, 'end', where)
    if None not in (start, end) and start >= end:
        raise ValueError(f'{where}, field end: {end} s is not after the start, {start} s')
    place = folder / path
    if '\\' in path and not parts.anchor and not place.exists():  # a table from Windows
        place = folder.joinpath(*parts.parts)
    return {'where': where, 'path': str(place), 'start': start, 'end': end,
            'caption': files.field(row, 'caption', 'text', where),
            'video_id': files.expect(row.get('video_id', path), 'an id', where, 'video_id'),
            'split': files.expect(row.get('split', 'test'), 'train, val or test', where, 'split')}


def _seconds(row, name, where):
    """A time as a float, from a number or its text; None where there is nothing."""
    value = row.get(name)
    if value in (None, ''):
        return None
    if not isinstance(value, bool):
        with contextlib.suppress(TypeError, ValueError):
            value = float(value)
    return files.expect(value, 'seconds from the start of the video', where, name)
