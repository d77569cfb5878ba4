"""Your own videos: a folder, or a CSV or JSONL file with path and caption."""
from pathlib import Path, PureWindowsPath

from .benchmarks import hold_out
from .files import VIDEOS, checked_ids, field, folder_of, plain_id, read_csv, read_json, read_text, walk

SPLITS = ('train', 'val', 'test')


def own(data_dir, split, select_on):
    """Rows {video_id, path, caption, start, end, where}.

    A folder: each video below it once, with an empty caption, as split "test": what searching needs. A .csv or .jsonl file:
    columns `path` (relative to the file, never leaving its folder) and `caption`; optionally `video_id` (else the path),
    `start`, `end` (seconds) and `split`. Without `split` all rows are "test"; without "val", it is held out of "train"."""
    file = Path(data_dir or '').expanduser()
    if not data_dir or not file.is_file():
        return _folder(folder_of(data_dir), split)
    rows = _rows(file)
    _one_clip_an_id(rows)
    chosen = [row for row in rows if row['split'] == split]
    if not chosen and split == 'val':
        return hold_out([row for row in rows if row['split'] == 'train'], split)
    if split == 'train' and select_on == 'val' and not any(row['split'] == 'val' for row in rows):
        chosen = hold_out(chosen, split) if chosen else []
    if not chosen:
        raise ValueError(f'{file}: no row has "{split}" in the column split; write train, val or test in it for each row')
    return chosen


def _folder(folder, split):
    if split != 'test':
        raise ValueError(f'{folder}: a folder of videos has no captions, so no split "{split}"; '
                         f'give a CSV file with path, caption, split')
    paths = [here / name for here, names in walk(folder) for name in names if name.lower().endswith(VIDEOS)]
    if not paths:
        raise FileNotFoundError(f'{folder}: no video below it ({", ".join(VIDEOS)})')
    return [dict(video_id=path.relative_to(folder).as_posix(), path=str(path), caption='', start=None, end=None, where=str(path))
            for path in paths]


def _rows(file):
    if file.suffix.lower() not in ('.csv', '.jsonl'):
        raise ValueError(f'{file}: expected a folder, a .csv or a .jsonl file')
    if file.suffix.lower() == '.csv':
        raw = read_csv(file, ('path', 'caption'))
    else:
        lines = [(n, line) for n, line in enumerate(read_text(file).split('\n'), 1) if line.strip()]
        raw = [(f'{file}, row {n}', read_json(file, line, n)) for n, line in lines]
    rows = []
    for where, row in raw:
        path, caption = _inside(file.parent, field(row, 'path', str, where), where), field(row, 'caption', str, where)
        start, end = (_seconds(row.get(name), where, name) for name in ('start', 'end'))
        if start is not None and end is not None and not start < end:
            raise ValueError(f'{where}, field end: {end} s is not after the start, {start} s')
        split = row.get('split', 'test')
        if split not in SPLITS:
            raise ValueError(f'{where}, field split: expected train, val or test, found {split!r}')
        video_id = plain_id(row['video_id'], where) if 'video_id' in row else row['path']
        rows.append(dict(video_id=video_id, path=path, caption=caption, start=start, end=end, where=where, split=split))
    if raw and 'video_id' in raw[0][1]:
        checked_ids({row['video_id']: (row['where'], row['video_id']) for row in reversed(rows)}.values())
    return rows


def _inside(folder, path, where):
    """folder / path, if that stays in the folder: a table from elsewhere must not reach other files."""
    parts = PureWindowsPath(path)  # knows both separators, and drives
    if not path.strip() or '\0' in path:
        raise ValueError(f'{where}, field path: expected the path of a video, found {path!r}')
    if parts.anchor or '..' in parts.parts or not (folder / path).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f'{where}, field path: {path!r} points outside {folder}; paths are relative to the table, '
                         f'so put the table into the folder that holds all videos')
    return str(folder / path)


def _seconds(value, where, name):
    if value in (None, ''):
        return None
    try:
        seconds = float(value)
        if not 0 <= seconds < float('inf') or isinstance(value, bool):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(f'{where}, field {name}: expected seconds from the start of the video, found {value!r}') from None
    return seconds


def _one_clip_an_id(rows):
    """Several captions of a video share its id; two clips, or one in two splits, must not."""
    seen = {}
    for row in rows:
        first = seen.setdefault(row['video_id'], row)
        for name in ('path', 'start', 'end', 'split'):
            if row[name] != first[name]:
                raise ValueError(f'{row["where"]}, field video_id: {row["video_id"]!r} is listed twice with another {name} '
                                 f'({first[name]!r} in {first["where"]}); give each clip an id of its own, in one split')
