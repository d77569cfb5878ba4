"""A gallery that several make: each its share, in a gallery of its own below the whole one.

    glscl index VIDEOS/ --out gallery/ --share 3/16

The first share to begin writes the plan, `shares/plan.json`: what is to be encoded, in order. Each
share then is a gallery `shares/K` of its part of that list, made as any other, with a lock of its
own. Once all have ended, one of them moves their shards into the whole gallery, in the order of the
plan. Until then the whole one is as it was, so that a plan holds for all shares, whenever they
begin. All processes must see one file system, with locks."""
import contextlib
import datetime
import json
import os
import re
import shutil
from pathlib import Path

from ..runtime.distributed import part
from ..runtime.files import atomic_write
from ..runtime.locks import locked
from ..runtime.records import read_json
from . import shards


def parse(text: str) -> tuple[int, int]:
    """(K, N) of "K/N", share K of N with K from 1; ValueError for anything else."""
    found = re.fullmatch(r'(\d+)/(\d+)', text)
    k, n = map(int, found.groups()) if found else (0, 0)
    if not 1 <= k <= n:
        raise ValueError(f'--share must be K/N with K from 1 to N, as in 3/16, not {text}')
    return k, n


def checked(share: tuple[int, int]) -> tuple[int, int]:
    """(K, N) as it is; ValueError for anything else."""
    if (not isinstance(share, (tuple, list)) or [type(number) for number in share] != [int, int]
            or not 1 <= share[0] <= share[1]):
        raise ValueError(f'share is (K, N) with K from 1 to N, as (3, 16), not {share!r:.60}')
    return tuple(share)


def folder(out: Path, k: int) -> Path:
    """Where share k of a gallery lies, k from 1."""
    return out / 'shares' / str(k)


def _folders(out):
    """The shares that are there, in their order."""
    return sorted((path for path in out.glob('shares/*') if path.name.isdecimal()),
                  key=lambda path: int(path.name))


def plan_file(out: Path) -> Path:
    """Where the plan of a gallery's shares lies."""
    return out / 'shares/plan.json'


def _there(file, out):
    """Whether a file below `out` is there, by listing the folders that lead to it: a disk of a
    network may still remember that there was none, and looks at what it lists."""
    way = [path for path in (*reversed(file.parents), file) if out in path.parents]
    return all(path.name in os.listdir(path.parent) for path in way)


def make_plan(out: Path, clips: list[dict], **facts) -> dict:
    """A plan of these clips, which all shares keep to from here on; with none there is nothing to
    keep to, and nothing is written. facts: what else it is to say (shares, batch, …)."""
    plan = dict(facts, made=datetime.datetime.now().isoformat(' ', 'minutes'), clips=clips)
    if clips:
        with atomic_write(plan_file(out)) as half:
            half.write_text(json.dumps(plan))
    return plan


def read_plan(out: Path, **asked) -> dict | None:
    """The plan of a gallery; None where it has none. ValueError where it is damaged, or was made
    for something else than `asked` (its sources, how many shares, …)."""
    file = plan_file(out)
    if not _there(file, out):
        return None
    again = (f'Let those end, or run `glscl index` with --out {out} and without --share, which '
             f'keeps what they have encoded and goes on alone')
    plan = read_json(file, again)
    for name, value in asked.items():
        if plan.get(name) != value:
            raise ValueError(f'{out} is being made in shares by another command ({name}: '
                             f'{plan.get(name)!r:.200}; here {value!r:.200}). {again}')
    return plan


def clips_of(plan: dict, k: int) -> list[dict]:
    """What share k encodes, k from 1: whole batches, as one process would encode them."""
    clips, batch = plan['clips'], plan['batch']
    starts = part(range(0, len(clips), batch), k - 1, plan['shares'])
    return [clip for start in starts for clip in clips[start:start + batch]]


def end(place: Path, manifest: dict) -> None:
    """Say in the gallery.json of a share that nothing of it is left to do."""
    shards.write_manifest(place, dict(manifest, ended=True))


def not_ended(out: Path) -> list[int]:
    """The shares of the gallery's plan that have not ended; none where there is no plan."""
    plan = read_plan(out)
    return [k for k in range(1, plan['shares'] + 1 if plan else 1)
            if not _there(folder(out, k) / 'gallery.json', out)
            or not shards.read_manifest(folder(out, k)).get('ended')]


def join(out: Path, mark: str, timeout: float) -> None:
    """Move what all shares have, ended or not, into the gallery, whose lock is held.

    mark: the model's fingerprint. Killed at any point it is done again from the beginning.
    ValueError where somebody still works at a share (timeout: seconds to wait), or where one is
    damaged."""
    if not (out / 'shares').exists() or not (out / 'gallery.json').exists():
        return
    with contextlib.ExitStack() as stack:
        for path in _folders(out):
            stack.enter_context(locked(path, timeout))
    plan_file(out).unlink(missing_ok=True)  # first: no share looks for what is moved from here on
    manifest = shards.read_manifest(out, mark)
    known = {_place(bad) for bad in manifest['unreadable']}
    for path in _folders(out):
        if not _there(path / 'gallery.json', out):  # killed before it had begun
            continue
        of_share = shards.read_manifest(path, mark)
        for name in of_share['shards']:
            with contextlib.suppress(FileNotFoundError):  # moved already; or lost, as search says
                os.replace(path / name, out / name)
        manifest['shards'].update(of_share['shards'])
        manifest['unreadable'] += [bad for bad in of_share['unreadable']
                                   if _place(bad) not in known]
        if not (manifest.get('clip') or {}).get('temperature'):
            manifest['clip'] = of_share.get('clip')
    shards.write_manifest(out, manifest)
    shutil.rmtree(out / 'shares', ignore_errors=True)


def _place(bad):
    return bad['path'], bad['start'], bad['end']
