"""Exact search in a gallery: the best videos for a text, in memory that does not grow with it.

    glscl search gallery/ "a red ring shrinks after a blue square moved left" -k 5
"""
import dataclasses
import json
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch

from ..interaction import frame_weights, local_similarity
from ..model import GLSCL, Texts, Videos
from ..runtime.distributed import objects, rank, world
from ..runtime.files import atomic_write
from ..runtime.terminal import show, warned, warnings_as_lines
from ..score import at_least_one, beyond_shapes, encode_captions
from . import page, shards
from .shortlist import candidates
from .topk import EMPTY, merge_top_k, scores_and_places, sortable_keys

# What to do about `score.beyond_shapes`.
ANOTHER = ('Name a CLIP, as in `glscl index VIDEOS --out NEW_FOLDER --clip ViT-B-32 --pretrained '
           'openai`, or a run trained on such videos as --model')
CHUNK = 1024  # videos scored at once, never across shards: however a gallery is split, same numbers


@dataclass
class Result:
    """One video found."""
    path: str
    id: str
    score: float         # S of the paper
    start: float | None  # the part of the file, in seconds (None: no limit)
    end: float | None
    state: str           # "ok", "changed" or "missing", by the file as it is today
    frames: list[dict]   # {index, seconds, weight} each, those first that the text weighed most
    caption: str = ''    # the video's own, where a table gave one
    parts: dict = field(default_factory=dict)  # of S: {global: S_g, local: lambda S_l}, by weight


class Gallery:
    """The videos of a folder that `glscl index` made, to be searched by text.

    model: a GLSCL, a checkpoint or a run's folder; by default the one that made the gallery, also
    where that was a CLIP without training (`ZeroShot`). The first search says where the model knows
    moving shapes only and the videos found are others.
    `problems` lists the shards that the last search had to leave out; each is also given to `log`
    (by default a warning)."""

    def __init__(self, folder: str | os.PathLike, model: GLSCL | str | os.PathLike | None = None,
                 device: str = 'auto', log: Callable[[str], None] | None = None):
        self.folder, self.log, self.problems = shards.place(folder), log or warnings.warn, []
        manifest = shards.read_manifest(self.folder)
        self.model, _ = shards.pick_model(model, manifest, device)
        self.mark = shards.fingerprint(self.model)
        self.manifest_stat, self.nearest = None, (None, None)  # nearest: of `shortlist.candidates`
        self.checked, self.told = set(), set()  # shards found whole; problems that were logged
        self.looked = False  # whether what was found is what the model knows
        self._refresh()

    def _refresh(self):
        """Follow gallery.json where an indexer has changed it; returns whether it had."""
        stat = shards.stat_of(self.folder / 'gallery.json')
        if stat and stat == self.manifest_stat:
            return False
        manifest = shards.read_manifest(self.folder, self.mark)
        self.manifest_stat, self.shards = stat, list(manifest['shards'].items())
        self.damaged = manifest['damaged']
        return True

    def read(self, name: str, entry: dict,
             rows: torch.Tensor | None = None) -> tuple[list[str], Videos]:
        """`shards.read_shard`, after a look at the whole shard when it is read for the first time.

        ShardError also where its features are not of this model's sizes."""
        key = name, *(shards.stat_of(self.folder / name) or ())
        if key not in self.checked:
            shards.check_shard(self.folder, name, entry, self.mark, self.model)
            self.checked.add(key)
        return shards.read_shard(self.folder, name, entry, self.mark, rows)

    def __len__(self) -> int:
        return sum(entry['rows'] for _, entry in self.shards)

    def encode_texts(self, queries: Sequence[str], batch: int = 200) -> Texts:
        """Texts of a list of strings, `batch` at a time."""
        return encode_captions(self.model, queries, batch)

    def search(self, queries: str | Sequence[str] | Texts, k: int = 5, chunk: int = CHUNK,
               shortlist: int | None = None) -> list[Result] | list[list[Result]]:
        """The k best videos of a text: list[Result], best first; of several texts one list each.

        queries: a string, a list of strings, or Texts. chunk: videos scored at once, which bounds
        the working memory. shortlist=n: score only what `shortlist.candidates` finds nearest, n a
        text (each for all texts): it pays where that is a small part of the gallery.

        Exact: the scores of GLSCL.similarity over the features as stored, ties by place in the
        gallery. Of several processes each reads its share of the shards, and all get the same
        answer. A shard that cannot be used is named and left out; with none left, ValueError."""
        at_least_one(k=k, chunk=chunk, shortlist=1 if shortlist is None else shortlist)
        one = isinstance(queries, str)
        if not one and not isinstance(queries, Texts) and (
                not hasattr(queries, '__len__') or not all(isinstance(q, str) for q in queries)):
            raise ValueError(f'a search takes a text or a list of texts, not {queries!r:.60}')
        if not one and not len(queries):
            return []
        texts = queries
        if not isinstance(queries, Texts):
            texts = self.encode_texts([queries] if one else list(queries))
        for _ in range(3):
            self._refresh()
            self.problems = []
            most = min(k, max(1, len(self)))  # no answer is longer, and memory is asked for it
            results = self._results(texts, self._best_keys(texts, most, chunk, shortlist))
            # A shard may be gone because an indexer has put another in its place: then again.
            if not self.problems or world() > 1 or not self._refresh():
                break
        self.problems = list(dict.fromkeys([*self.damaged, *self.problems]))
        for problem in sorted(set(self.problems) - self.told):
            self.log(f'{problem}. The rest was searched; `glscl index` encodes its videos again')
        self.told.update(self.problems)
        if not any(results):
            raise ValueError(self._why_none())
        self._look_at([result.path for row in results for result in row])
        return results[0] if one else results

    def _why_none(self):
        total = len(self.shards) + len(self.damaged)
        if total:
            return (f'{self.folder}: none of the {total} shards can be read; `glscl index VIDEOS '
                    f'--out {self.folder}` encodes the videos again')
        at_work = (self.folder / 'shares').exists()
        return f'{self.folder} holds no videos yet' + (
            ': its shares are joined when the last one has ended' if at_work else '')

    def _look_at(self, paths):
        line = not self.looked and beyond_shapes(self.model, paths)
        if line:
            self.log(f'{line} {ANOTHER}')
        self.looked = True

    @torch.no_grad()
    def _best_keys(self, texts, k, chunk, shortlist):
        """Keys of the k best videos: [T, k] int64, EMPTY where there are fewer."""
        device, places = texts.sentence.device, None
        best = torch.full((len(texts), k), EMPTY, device=device)
        if shortlist and len(self):
            places = torch.from_numpy(candidates(self, texts, shortlist)).unique()
        for name, entry, first, rows in islice(self._rows(places), rank(), None, world()):
            try:
                for part in rows.split(chunk):
                    _, videos = self.read(name, entry, part)
                    S = self.model.similarity(texts, videos.to(device))     # [T, n]
                    best = merge_top_k([best, sortable_keys(S, (first + part).to(device))], k)
            except shards.ShardError as error:
                self.problems.append(str(error))
        every = objects((best.cpu(), self.problems))
        self.problems = [problem for _, problems in every for problem in problems]
        return merge_top_k([best for best, _ in every], k)

    def _rows(self, places=None):
        """Yields (name, entry, place of the first row, rows [n]) of each shard that has rows at
        these places of the gallery (rising order), or of all with all rows."""
        first = 0
        for name, entry in self.shards:
            end = first + entry['rows']
            if places is None:
                rows = torch.arange(entry['rows'])
            else:
                rows = places[(places >= first) & (places < end)] - first
            if len(rows):
                yield name, entry, first, rows
            first = end

    def _results(self, texts, keys):
        """A list[Result] for each row of the keys [T, k]."""
        scores, places = scores_and_places(keys)
        usable = (places < len(self)) & (scores > float('-inf'))
        found = {}  # {place: (the clip's JSON object, Videos of one)}
        for name, entry, first, rows in self._rows(places[usable].unique()):
            try:
                lines, videos = self.read(name, entry, rows)
                for n, row in enumerate(rows.tolist()):
                    found[first + row] = json.loads(lines[row]), videos[n:n + 1].float()
            except shards.ShardError as error:
                self.problems.append(str(error))
        texts = texts.to('cpu').float()
        return [[self._result(*found[place], texts[t:t + 1], float(scores[t, n]))
                 for n, place in enumerate(places[t].tolist()) if place in found]
                for t in range(len(texts))]

    def _result(self, clip, video, text, score):
        """The Result of a clip's JSON object, Videos of one, Texts of one and score."""
        c, y, mask = self.model.config, video.frames, video.mask
        if c.pooling == 'mean':
            weights = mask[0] / mask.sum()  # [F]
        else:
            weights = frame_weights(text.sentence, y, mask, c.temperature)[0, 0]  # [F]
        frames = []
        indices = clip['indices']
        # galleries used to hold the file's frames a second in their place
        seconds = clip.get('seconds') or [index / clip['fps'] for index in indices]
        for f, index in enumerate(indices):
            weight = round(float(weights[f]), 4)
            frames.append({'index': index, 'seconds': round(seconds[f], 2), 'weight': weight})
        frames.sort(key=lambda frame: -frame['weight'])
        stat = shards.stat_of(clip['path'])
        if stat is None:
            state = 'missing'
        else:
            state = 'ok' if stat == [clip['size'], clip['mtime']] else 'changed'
        parts = {'global': score}
        if self.model.local:
            local = c.local_weight * local_similarity(text.concepts, video.concepts).item()
            parts = {'global': score - local, 'local': local}
        return Result(clip['path'], clip['id'], score, clip['start'], clip['end'], state, frames,
                      clip.get('caption', ''), parts)


@warnings_as_lines()
def search_command(gallery: str | os.PathLike, queries: Sequence[str], k: int = 5,
                   shortlist: int | None = None, as_json: bool = False,
                   html: str | os.PathLike | None = None, model: str | None = None,
                   device: str = 'auto') -> None:
    """Find videos in a gallery by what a text says of them.

    gallery: a folder of `glscl index`; queries: texts, searched in one go; k: how many videos;
    shortlist: score only so many by an approximate index; as_json: print JSON; html: a file for
    a page with pictures; model: a checkpoint or a run's folder (default: the one that made the
    gallery). Shards left out are named on stderr. Raises ValueError, OSError or ImportError with
    a message for the user."""
    found = Gallery(gallery, model, device, warned)
    results = found.search(queries, k, shortlist=shortlist)
    if html:
        text = page.html_page(queries, results, found.model.config)
        with atomic_write(html) as half:
            half.write_text(text, 'utf-8', 'backslashreplace')
    if as_json:
        rows = [[dataclasses.asdict(result) for result in row] for row in results]
        answers = [{'query': query, 'results': rows[t]} for t, query in enumerate(queries)]
        show(json.dumps(answers, indent=1))
    else:
        show(page.results_table(queries, results))
