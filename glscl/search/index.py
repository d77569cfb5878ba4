"""Making and changing a gallery, by one process or by several.

    glscl index VIDEOS/ --out gallery/

`clips` tells which videos are to be encoded, `encoding` decodes and encodes them, `shards` writes
them, `shares` divides the work."""
import contextlib
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..model import GLSCL
from ..runtime import distributed, turns
from ..runtime.devices import pick_device
from ..runtime.files import remove_halves
from ..runtime.locks import in_turn, locked, one_writer
from ..runtime.terminal import shown
from ..score import at_least_one, beyond_shapes
from . import encoding, shards, shares
from . import shortlist as shortlists
from .clips import Source, as_sources, compare, find_clips, key_of
from .gallery import ANOTHER, Gallery
from .page import show, warned, warnings_as_lines
from .zero_shot import ZeroShot

LOCK_TIMEOUT = 2  # seconds; the workers of a killed indexer have ended by then
LISTED = 20       # unreadable videos that `report` names


def index_videos(sources: Source | list[Source], out: str | os.PathLike,
                 model: GLSCL | str | os.PathLike | None = None, device: str = 'auto',
                 batch: int = 16, workers: int | None = None,
                 log: Callable[[str], None] | None = print, sync: bool = False,
                 confirm: Callable[[int, int], bool] | None = None,
                 warn: Callable[[str], None] = warnings.warn,
                 share: tuple[int, int] | None = None) -> dict:
    """Add videos to the gallery `out`, which is made; only new and changed ones are encoded.

    sources: a folder, a video, a table of paths (`datasets.readers.own.listed`), or a list of
    such. model: a GLSCL (`ZeroShot`: a CLIP without training), a checkpoint, a run's folder, or
    None for the one that made the gallery (at first the shipped one, which knows moving shapes
    only: `warn` is told where the first videos are others). batch: videos encoded at once;
    workers: processes that decode. Size and time tell whether a file has changed. A video that
    cannot be read is listed, and tried again once it has changed. A run that was broken off goes
    on; after SIGTERM or Ctrl-C it keeps what it has encoded, says so, and raises SystemExit(143) or
    KeyboardInterrupt.

    Several processes (torchrun's) divide the videos among them; so do runs that know nothing of
    each other, of which each is told its share, (K, N) with K from 1 (`shares`). Rows and their
    order are those of one process.

    sync: also remove what `sources` do not name. More than half of the gallery, and `clips.LARGE`
    at least, only if confirm(how many, of how many) says so; else ValueError. Returns {videos,
    added, changed, removed: numbers; unreadable: {path: why}; pace: an `encoding.Pace` a process;
    left: the shares that have not ended, before which videos and unreadable are those of this share
    alone}. Raises ValueError if a source has no video, another model made the gallery or another
    process is at it, before anything is changed; OSError if it cannot be written."""
    out, log = shards.place(out), log or (lambda line: None)
    workers = workers or max(1, min(8, (os.cpu_count() or 1) // turns.on_this_machine()))
    at_least_one(batch=batch, workers=workers)
    share = shares.checked(share) if share else None
    if share and distributed.world() > 1:
        raise ValueError('torchrun divides the videos among its processes: leave out the share')
    sources = as_sources(sources)
    run = _Run(sources, out, batch, workers, log, sync, confirm, warn)
    if not share:  # which mostly finds the list in the plan of another
        turns.by_first(lambda: run.wanted and None)
    run.model, run.made_by = _same_model(out, model, device)
    try:
        if share:
            return run.share(*share)
        with one_writer(out, LOCK_TIMEOUT):
            return run.alone() if distributed.world() == 1 else run.together()
    except (FileNotFoundError, BrokenPipeError):  # the latter: whoever read the lines has gone
        raise
    except OSError as error:
        if error.errno is None:  # not the system's own: it says all
            raise
        raise OSError(f'cannot write the gallery {out}: {error}. What it held before is intact; '
                      f'make room, or name another folder') from error


@dataclass
class _Run:
    """One call of `index_videos`, with its arguments."""
    sources: list
    out: Path
    batch: int
    workers: int
    log: Callable
    sync: bool
    confirm: Callable | None
    warn: Callable
    model: GLSCL | None = None
    made_by: dict | None = None

    @cached_property
    def wanted(self):
        clips = find_clips(self.sources, self.log)
        if not clips:
            raise ValueError('no video is named')
        return clips

    @cached_property
    def mark(self):
        return shards.fingerprint(self.model)

    def alone(self):
        """All of it in this process, which has the gallery's lock."""
        writer, todo, counts = self._compare()
        added, pace = self._add(writer, todo)
        return _told(writer.manifest, counts, added, [pace])

    def together(self):
        """A share in each of torchrun's processes; the first has the gallery's lock for all."""
        plan = turns.by_first(lambda: self._plan(distributed.world(), alone=True))
        if not plan['todo']:
            return _told(shards.read_manifest(self.out), plan, 0, [])
        k = distributed.rank() + 1
        with locked(shares.folder(self.out, k), LOCK_TIMEOUT):
            _, added, pace = self._encode(k)
        added, paces = zip(*distributed.objects((added, pace)))
        turns.by_first(lambda: shares.join(self.out, self.mark, LOCK_TIMEOUT))
        return _told(shards.read_manifest(self.out), plan, sum(added), list(paces))

    def share(self, k, n):
        """Share k of n, whose other shares are runs of their own; the last one joins them."""
        with contextlib.ExitStack() as stack:
            with in_turn(self.out, LOCK_TIMEOUT, self.log):
                plan = self._plan(n)
                if not plan['todo']:
                    return _told(shards.read_manifest(self.out), plan, 0, [])
                # from here on nobody else joins this share
                stack.enter_context(locked(shares.folder(self.out, k), LOCK_TIMEOUT))
            manifest, added, pace = self._encode(k)
        with in_turn(self.out, LOCK_TIMEOUT, self.log):
            left = shares.not_ended(self.out)
            if not left:
                shares.join(self.out, self.mark, LOCK_TIMEOUT)
                manifest = shards.read_manifest(self.out)
        return dict(_told(manifest, plan, added, [pace]), left=left)

    def _compare(self):
        """(Writer of the gallery, what is to be encoded, counts); the gallery's lock is held."""
        line = beyond_shapes(self.model, [clip.path for clip in self.wanted])
        if line:
            self.warn(f'{line} {ANOTHER}')
        shares.join(self.out, self.mark, LOCK_TIMEOUT)  # what was broken off
        writer = shards.Writer(self.out, _begin(self.out, self.model, self.made_by))
        return writer, *compare(writer, self.model, self.wanted, self.log, self.sync, self.confirm)

    def _plan(self, n, alone=False):
        """What `shares.read_plan` gives but for the clips, of the plan that is there or of a new
        one, which is written if there is something to do; the gallery's lock is held.

        alone: nobody else will come for a share of another plan."""
        asked = dict(sources=[os.path.abspath(source) for source in self.sources], shares=n,
                     batch=self.batch, sync=self.sync)
        try:
            plan = shares.read_plan(self.out, **asked)
        except ValueError:
            if not alone:
                raise
            plan = None
        if plan:
            shards.read_manifest(self.out, self.mark)
            self.log(f'{self.out}: {plan["todo"]} videos are to be encoded in {n} shares, as '
                     f'listed on {plan["made"]}')
        else:
            writer, todo, counts = self._compare()
            writer.commit()
            clips = [{**clip._asdict(), **label} for clip, (label, _) in todo.items()]
            plan = shares.make_plan(self.out, clips, **asked, **counts)
        return {name: value for name, value in plan.items() if name != 'clips'}

    def _encode(self, k):
        """Encode share k of the plan, whose lock is held, and say that it has ended: (its
        gallery.json, how many were encoded, a Pace)."""
        plan, place = shares.read_plan(self.out), shares.folder(self.out, k)
        if not plan:
            raise FileNotFoundError(f'{shares.plan_file(self.out)}, which another process has '
                                    f'written, is not seen by this one: name a folder on a disk '
                                    f'that all share')
        _, made_by = _same_model(place, self.model, self.model.device)
        writer = shards.Writer(place, _begin(place, self.model, made_by))
        mine = {key_of(row): {name: row[name] for name in ('id', 'caption') if name in row}
                for row in shares.clips_of(plan, k)}
        todo, _ = compare(writer, self.model, mine, self.log)
        added, pace = self._add(writer, todo)
        shares.end(place, writer.manifest)
        return writer.manifest, added, pace

    def _add(self, writer, todo):
        return encoding.add(writer, self.model, todo, self.batch, self.workers, self.log)


def _told(manifest, counts, added, paces):
    """What `index_videos` returns."""
    return {'videos': sum(entry['rows'] for entry in manifest['shards'].values()), 'added': added,
            'changed': counts['changed'], 'removed': counts['removed'],
            'unreadable': {bad['path']: bad['reason'] for bad in manifest['unreadable']},
            'pace': paces, 'left': []}


def _same_model(out, model, device):
    """What `shards.pick_model` returns; ValueError unless it can go on with what is in `out`."""
    old = shards.read_manifest(out) if (out / 'gallery.json').exists() else None
    stray = next(out.glob('*.safetensors'), next(out.glob('shares/*/*.safetensors'), None))
    if stray and not old:
        raise ValueError(f'{out} holds {stray.name} but no gallery.json, which says what '
                         f'counts. Delete the folder, or name another')
    model, made_by = shards.pick_model(model, old, device)
    if old:
        shards.read_manifest(out, shards.fingerprint(model))
    return model, made_by


def _begin(out, model, made_by):
    """The manifest of an old or a new gallery; what a killed run left is swept away."""
    mark = shards.fingerprint(model)
    manifest = {'fingerprint': mark, 'shards': {}, 'unreadable': [], 'damaged': []}
    if (out / 'gallery.json').exists():
        manifest = shards.read_manifest(out, mark)
    manifest.update(made_by)
    shards.write_manifest(out, manifest)
    with contextlib.suppress(OSError):  # (on Windows) being read: the next run takes it away
        remove_halves(out)
        for file in out.glob('*.safetensors'):
            if file.name not in manifest['shards']:
                file.unlink()
    return manifest


@warnings_as_lines()
def index_command(videos: Sequence[Source], out: str | os.PathLike, model: str | None = None,
                  device: str = 'auto', batch: int = 16, workers: int | None = None,
                  shortlist: bool = False, sync: bool = False, yes: bool = False,
                  clip: str | None = None, pretrained: str | None = None,
                  share: str | None = None) -> int:
    """Encode videos into a gallery that `glscl search` searches.

    A later run adds and goes on. videos: folders, files and tables; clip, pretrained: of a
    `ZeroShot` in place of `model`; shortlist: also build what `glscl search --shortlist` needs
    (with faiss); sync: remove what is not among the videos, where it is much only with `yes` or
    when the terminal says so; share: "K/N"; the rest as for `index_videos`. Started by torchrun,
    all processes share the videos. Prints progress and a report, and warnings on stderr; returns 0,
    or 1 if the gallery holds no video. Raises ValueError, OSError or ImportError with a message for
    the user."""
    if shortlist:
        shortlists.faiss()
    if model and (clip or pretrained):
        raise ValueError('--model names a trained model and --clip one without training: name one '
                         'of the two')
    if pretrained and not clip:
        raise ValueError(f'--pretrained {pretrained} are the weights of which architecture? Name '
                         f'it too, as in --clip ViT-B-32')
    share = shares.parse(share) if share else None
    with distributed.processes(device) as device:
        if clip:
            device = pick_device(device)
            with turns.first_here():  # downloads the weights
                model = ZeroShot(clip, pretrained).to(device)
        first = distributed.rank() == 0
        log = (lambda line: show(shown(line))) if first else None
        done = index_videos(videos, out, model, device, batch, workers, log, sync,
                            lambda *n: yes or _ask(*n), warned, share)
        if first and shortlist and done['videos'] and not done['left']:
            shortlists.build(Gallery(out, model, device))
        if first:
            report(done, out)
    return 0 if done['videos'] or done['left'] else 1


def _ask(removed, total):
    """Whether whoever sits at the terminal wants it; nobody there does not."""
    if not sys.stdin or not sys.stdin.isatty():
        return False
    answer = input(f'Remove {removed} of the {total} videos from the gallery? [y/N] ')
    return answer.strip().lower() in ('y', 'yes')


def report(done: dict, out: Source) -> None:
    """Print what `index_videos` returned for the gallery `out`."""
    unreadable, left = list(done['unreadable'].values()), done['left']
    whole = f'this share of {shown(out)}' if left else shown(out)
    show(f'{whole} holds {done["videos"]} videos: {done["added"]} added or encoded again, '
         f'{done["removed"]} removed, {len(unreadable)} unreadable')
    for reason in unreadable[:LISTED]:
        show(f'  unreadable: {shown(reason)}')
    if len(unreadable) > LISTED:
        show(f'  … and {len(unreadable) - LISTED} more, all in '
             f'{shown(Path(out) / "gallery.json")}')
    if any(pace.frames for pace in done['pace']):
        show(_bottleneck(done['pace']))
    if left:
        show(f'not ended yet: share {", ".join(map(str, left[:LISTED]))}'
             f'{", …" if left[LISTED:] else ""}. The last to end joins them all in {shown(out)}')


def _bottleneck(paces):
    """A line on what a run's time went into, from the Pace of each process."""
    frames, seconds = sum(pace.frames for pace in paces), sum(pace.seconds for pace in paces)
    longest, waiting = max(pace.seconds for pace in paces), sum(pace.waiting for pace in paces)
    slower = 'decoding' if waiting > seconds / 2 else 'encoding'
    return (f'{frames:,} frames in {longest:.0f} s, {frames / longest:,.1f} a second; '
            f'{waiting / seconds:.0%} of the time was spent waiting for frames: {slower} is the '
            f'bottleneck')
