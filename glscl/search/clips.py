"""Which clips: those that are named, and which of them a gallery lacks."""
import os
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ..datasets.readers.own import listed
from . import shards

LARGE = 10  # videos that a sync removes unasked, where they are more than half of all

Source = str | os.PathLike


class ClipKey(NamedTuple):
    """What tells a clip from others: a file, and the part of it in seconds (None: no limit)."""
    path: str
    start: float | None
    end: float | None


def as_sources(sources: Source | Sequence[Source]) -> list[Source]:
    """One source or several as a list; ValueError for what is none."""
    one = isinstance(sources, (str, os.PathLike))
    every = [sources] if one or not isinstance(sources, Iterable) else list(sources)
    for source in every:
        if not isinstance(source, (str, os.PathLike)) or source == '':
            raise ValueError(f'videos are named by the path of a folder, a file or a table, not by '
                             f'{source!r:.60}')
    return every


def find_clips(sources: Sequence[Source],
               log: Callable[[str], None] | None = None) -> dict[ClipKey, dict]:
    """The clips of folders, tables and single files: {ClipKey: {id, and caption where a table gives
    one}}, sorted by path and start.

    sources: a list of what `datasets.readers.own.listed` takes. No file comes twice: where links
    lead to it as well, its own path is taken; of several captions the first."""
    rows = [dict(row, path=os.path.abspath(row['path']))
            for source in sources for row in listed(source, log)]
    rows.sort(key=lambda row: os.path.islink(row['path']))  # so that files come before links
    clips = {}
    for row in rows:
        file = os.path.realpath(row['path'])
        clips.setdefault((file, row['start'], row['end']), row)
    rows = sorted(clips.values(), key=lambda row: (row['path'], row['start'] or 0, row['end'] or 0))
    return {key_of(row): _label(row) for row in rows}


def _label(row):
    """What a gallery keeps of a row besides its ClipKey."""
    label = {'id': row['video_id']}
    if row['caption']:
        label['caption'] = row['caption']
    return label


def key_of(row):
    """The ClipKey of a row of a table, or of a JSON object in a gallery."""
    return ClipKey(row['path'], row['start'], row['end'])


def compare(writer, model, wanted, log, sync=False, confirm=None):
    """Remove from a gallery what has changed, and with sync what is not `wanted`, as `find_clips`
    returns it: (what is to be encoded, {ClipKey: (label, stat)}; numbers {todo, changed, removed}).
    """
    out, manifest = writer.folder, writer.manifest
    for problem in manifest['damaged']:
        log(f'{problem}. Its videos are encoded again, as far as they are here')
    stats = {clip: shards.stat_of(clip.path) for clip in wanted}
    stored = {name: _stored_clips(writer, name, model, log) for name in manifest['shards']}
    before = {clip for rows in stored.values() for clip, _ in rows}
    gone = before - wanted.keys() if sync else set()
    for folder in sorted({os.path.dirname(clip.path) for clip in gone}):
        _look_into(folder)
    if len(gone) >= LARGE and 2 * len(gone) > len(before) and not (
            confirm and confirm(len(gone), len(before))):
        raise ValueError(f'sync would remove {len(gone)} of the {len(before)} videos in {out}, '
                         f'since they are not named. Say --yes if that is meant; without --sync '
                         f'videos are only added')
    keep, unchanged = {}, set()
    for name, rows in stored.items():
        keep[name] = [row for row, (clip, stat) in enumerate(rows)
                      if clip not in gone and stats.get(clip, stat) == stat]
        unchanged.update(rows[row][0] for row in keep[name])
    writer.repack(keep)
    manifest['unreadable'] = [bad for bad in manifest['unreadable'] if _still(bad, stats, sync)
                              and key_of(bad) not in unchanged]
    settled = unchanged | {key_of(bad) for bad in manifest['unreadable']}
    todo = {clip: (label, stats[clip]) for clip, label in wanted.items() if clip not in settled}
    removed, changed = len(gone), len(before & wanted.keys() - unchanged)
    log(f'{out}: {len(unchanged)} videos stay, {removed} go, {changed} have changed, {len(todo)} '
        f'are to be encoded')
    return todo, dict(todo=len(todo), changed=changed, removed=removed)


def _look_into(folder):
    """OSError where a folder is there and cannot be read: its videos are not gone."""
    try:
        os.scandir(folder).close()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        raise OSError(f'{folder} cannot be read ({error.strerror}), so --sync cannot tell whether '
                      f'its videos are gone') from None


def _still(bad, stats, sync):
    """Whether a video that could not be read is left as it is: not tried now."""
    if key_of(bad) not in stats:
        return not sync
    return bad['final'] and stats[key_of(bad)] == bad['stat']


def _stored_clips(writer, name, model, log):
    """[(ClipKey, stat)] of a shard's rows; none of a damaged one: its videos are encoded again."""
    entry, mark = writer.manifest['shards'][name], writer.manifest['fingerprint']
    try:
        clips = shards.check_shard(writer.folder, name, entry, mark, model)
    except shards.ShardError as error:
        log(f'{error}. Its {entry["rows"]} videos are encoded again, as far as they are here')
        return []
    return [(key_of(clip), [clip['size'], clip['mtime']]) for clip in clips]
