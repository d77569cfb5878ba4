"""Search over a gallery of `glscl index`: the exact best videos for a text, in memory that does not grow with the gallery.

    glscl search gallery/ "a red ring shrinks after a blue square moved left" -k 5
"""
import argparse
import base64
import dataclasses
import html
import io
import json
import sys
import warnings
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import torch
from PIL import Image

from ..data.tokens import tokenize
from ..interaction import frame_weights
from ..model import Texts
from ..runtime.devices import autocast
from .shards import ShardError, clip_lines, features, fingerprint, opened, pick_model, read_manifest, stat_of
from ..data.video import VideoError, read_frames

CHUNK = 1024               # videos scored at once, never across shards: however a gallery is split, the same numbers
EMPTY = -2 ** 63           # less than any key of `ordered`
THUMBNAIL = 240            # pixels, the longer side


@dataclass
class Result:
    """One video found. score: S of the paper; frames: {index, seconds, weight} each, those first that the text weighed most;
    state: "ok", "changed" or "missing", by the file as it is today."""
    path: str
    id: str
    score: float
    start: float | None
    end: float | None
    state: str
    frames: list


# ---- top-k

def ordered(scores, places):
    """A whole number a score, the greater the better, and of equal scores the smaller place: [T, n] float32 -> [T, n] int64.

    places [n]: of each column. Upper half: the float's bits, made to grow with its value; lower half: the place, falling. So a
    plain top-k of these numbers is exact, with ties told apart, in whatever chunks they come. NaN counts as -inf."""
    low = float('-inf')
    bits = (scores.nan_to_num(low, float('inf'), low) + 0.0).contiguous().view(torch.int32).long()  # + 0.0: -0 is 0
    bits = torch.where(bits < 0, bits ^ 0x7fffffff, bits)
    return bits << 32 | 0xffffffff - places


def undo(keys):
    """(scores float32, places int64) of the numbers of `ordered`."""
    bits = keys >> 32
    bits = torch.where(bits < 0, bits ^ 0x7fffffff, bits)
    return bits.int().view(torch.float32), 0xffffffff - (keys & 0xffffffff)


def best_of(keys, k):
    """The k greatest of each row, falling."""
    return keys.topk(min(k, keys.shape[1]), sorted=True).values


# ---- the gallery

class Gallery:
    """The videos of a gallery, to be searched by text. model: as for `index_videos`; by default the one that made it.

    `problems` lists the shards that the last search had to leave out; each is also given to `log` (default: a warning)."""

    def __init__(self, folder, model=None, device='auto', log=None):
        self.folder, self.log, self.problems = Path(folder), log or warnings.warn, []
        self.model, _ = pick_model(model, read_manifest(folder)['model'], device)
        self.mark = fingerprint(self.model)
        self._refresh()

    def _refresh(self):
        """Follow gallery.json where an indexer has changed it; returns whether it had."""
        stat = stat_of(self.folder / 'gallery.json')
        if stat and stat == getattr(self, '_stat', None):
            return False
        self._stat, self.manifest = stat, read_manifest(self.folder, self.mark)
        self.shards = list(self.manifest['shards'].items())
        self.ends = list(accumulate(entry['rows'] for _, entry in self.shards))
        return True

    def __len__(self):
        return self.ends[-1] if self.ends else 0

    @torch.no_grad()
    def encode_texts(self, queries, batch=200):
        """list[str] -> Texts"""
        ids, mask = tokenize(queries, self.model.config.max_words)
        device, longest = next(self.model.parameters()).device, int(mask.sum(1).max())
        ids, mask = ids[:, :longest].to(device), mask[:, :longest].to(device)
        with autocast(device):
            return Texts.cat([self.model.encode_texts(*part) for part in zip(ids.split(batch), mask.split(batch))])

    def search(self, queries, k=5, chunk=CHUNK, shortlist=None):
        """The k best videos of a text: list[Result], best first; of several (a list of texts, or Texts): one such list each.

        Exact: the scores of GLSCL.similarity over the features as stored, ties by place in the gallery. Working memory grows
        with chunk and the number of texts. Under torch.distributed each process reads its share of the shards, and all get
        the same answer. A shard that cannot be used is named and left out; with none left, ValueError.
        shortlist=n: only the videos that `glscl.shortlist` finds nearest, n a text, are scored (exactly, for all texts): it
        pays where that is a small part of the gallery."""
        if k < 1:
            raise ValueError(f'k must be 1 or more, not {k}')
        if not isinstance(queries, str) and not len(queries):
            return []
        texts = queries
        if not isinstance(queries, Texts):
            texts = self.encode_texts([queries] if isinstance(queries, str) else list(queries))
        for _ in range(3):
            self._refresh()
            self.problems = []
            results = self._results(texts, *undo(self._best(texts, k, chunk, shortlist)))
            if not self.problems or _rank_and_world()[1] > 1 or not self._refresh():
                break  # else a shard was gone because an indexer had put another in its place
        for problem in self.problems:
            self.log(f'{problem}. The rest was searched; `glscl index` encodes its videos again')
        if not any(results):
            raise ValueError(f'{self.folder}: none of the {len(self.shards)} shards can be read' if self.shards
                             else f'{self.folder} holds no videos yet')
        return results[0] if isinstance(queries, str) else results

    @torch.no_grad()
    def _best(self, texts, k, chunk, shortlist):
        """Keys of the k best: [T, k] int64, EMPTY where there are fewer."""
        best, places = torch.full((len(texts), k), EMPTY), None
        if shortlist and len(self):
            from .shortlist import candidates
            places = torch.from_numpy(candidates(self, texts, shortlist)).unique()  # sorted; -1 lies in no shard
        rank, world = _rank_and_world()
        for (name, entry), end in list(zip(self.shards, self.ends))[rank::world]:
            first = end - entry['rows']
            rows = torch.arange(entry['rows']) if places is None else places[(places >= first) & (places < end)] - first
            try:
                for S, part in self._scores(name, entry, texts, rows, chunk):
                    best = best_of(torch.cat([best, ordered(S, first + part)], 1), k)
            except ShardError as error:
                self.problems.append(str(error))
        if world > 1:
            parts = [None] * world
            torch.distributed.all_gather_object(parts, (best, self.problems))
            best = best_of(torch.cat([part for part, _ in parts], 1), k)
            self.problems = [problem for _, problems in parts for problem in problems]
        return best

    def _scores(self, name, entry, texts, rows, chunk):
        """(S [T, n], rows [n]) of these rows of a shard, a chunk at a time; a shard without any is not opened."""
        for part in rows.split(chunk) if len(rows) else ():
            with opened(self.folder, name, entry, self.mark) as shard:
                whole = len(part) == part[-1] - part[0] + 1
                videos = features(shard, slice(int(part[0]), int(part[-1]) + 1)) if whole else features(shard)[part]
                yield self.model.similarity(texts, videos.to(texts.sentence.device)).float().cpu(), part

    def _results(self, texts, scores, places):
        """list[list[Result]] of scores, places [T, k]; what `ordered` never gave (EMPTY) has no place in the gallery."""
        there, rows = (places < len(self)) & (scores > float('-inf')), {}
        for place in places[there].unique().tolist():
            rows.setdefault(bisect_right(self.ends, place), []).append(place)
        found, c = {}, self.model.config
        for s, wanted in rows.items():
            (name, entry), first = self.shards[s], self.ends[s] - self.shards[s][1]['rows']
            try:
                with opened(self.folder, name, entry, self.mark) as shard:
                    lines, videos = clip_lines(shard), features(shard)[[place - first for place in wanted]].float()
                found.update((place, (json.loads(lines[place - first]), videos[n:n + 1])) for n, place in enumerate(wanted))
            except ShardError as error:
                self.problems.append(str(error))
        results = []
        for t in range(len(texts)):
            e = texts.sentence[t:t + 1].float().cpu()
            results.append([_result(*found[i], e, score, c) for i, score in zip(places[t].tolist(), scores[t].tolist())
                            if i in found])
        return results


def _rank_and_world():
    dist = torch.distributed
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def _result(clip, video, sentence, score, config):
    if config.pooling == 'mean':
        weights = video.mask[0] / video.mask.sum()
    else:
        weights = frame_weights(sentence, video.frames, video.mask, config.temperature)[0, 0]
    frames = [dict(index=index, seconds=round(index / clip['fps'], 2), weight=round(float(weight), 4))
              for index, weight in zip(clip['indices'], weights)]
    frames.sort(key=lambda frame: -frame['weight'])
    stat = stat_of(clip['path'])
    state = 'missing' if stat is None else 'ok' if stat == [clip['size'], clip['mtime']] else 'changed'
    return Result(clip['path'], clip['id'], score, clip['start'], clip['end'], state, frames)


# ---- results as text and as a page

def table(queries, results):
    """Lines of text: rank, score, the moments that the text weighed most, path."""
    lines = []
    for query, found in zip(queries, results):
        lines.append(query)
        for rank, result in enumerate(found, 1):
            moments = ', '.join(f'{f["seconds"]:.1f} s' for f in result.frames[:3])
            note = {'ok': '', 'changed': '   (changed since it was indexed)', 'missing': '   (no longer there)'}[result.state]
            lines.append(f'{rank:4}  {result.score:6.3f}  {result.path}   at {moments}{note}')
        lines.append('')
    return '\n'.join(lines)


def thumbnails(result, config, best=3):
    """[(data URI of a JPEG, frame)] of the frames that the text weighed most; raises VideoError or OSError."""
    how = config.max_frames, config.framerate, None, result.start, result.end, config.sampling
    frames, indices = read_frames(result.path, *how)
    pictures, seen = [], {int(index): frame for index, frame in zip(indices, frames)}
    for frame in result.frames[:best]:
        if frame['index'] not in seen:
            raise VideoError(f'{result.path}: its frames are others than when it was indexed')
        picture, file = Image.fromarray(seen[frame['index']]), io.BytesIO()
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        picture.save(file, 'JPEG', quality=80)
        pictures.append((f'data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}', frame))
    return pictures


STYLE = ('body{font:15px sans-serif;margin:2em;max-width:60em}li{margin:0 0 1.5em}'
         'figure{display:inline-block;margin:.3em .6em 0 0}figcaption{color:#555;font-size:13px}'
         '.none{color:#a00}code{overflow-wrap:anywhere}')


def page(queries, results, config):
    """One HTML page that needs no other file: per text the videos found, each with the frames that the text weighed most."""
    parts = [f'<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>glscl search</title><style>{STYLE}</style>']
    for query, found in zip(queries, results):
        parts.append(f'<h2>{html.escape(query)}</h2><ol>')
        for result in found:
            parts.append(f'<li><a href="{html.escape(Path(result.path).as_uri())}"><code>{html.escape(result.path)}</code></a> '
                         f'score {result.score:.3f}<br>{_figures(result, config)}</li>')
        parts.append('</ol>')
    return '\n'.join([*parts, '</html>', ''])


def _figures(result, config):
    if result.state != 'ok':
        why = 'has changed since it was indexed' if result.state == 'changed' else 'is no longer there'
        return f'<span class="none">no pictures: the video {why}</span>'
    try:
        return ''.join(f'<figure><img alt="frame {frame["index"]}" src="{uri}"><figcaption>{frame["seconds"]:.1f} s, '
                       f'weight {frame["weight"]:.2f}</figcaption></figure>' for uri, frame in thumbnails(result, config))
    except (VideoError, OSError) as error:
        return f'<span class="none">no pictures: {html.escape(str(error))}</span>'


def main(argv=None):
    """Find videos in a gallery by what a text says of them."""
    parser = argparse.ArgumentParser(prog='glscl search', description=main.__doc__)
    parser.add_argument('gallery', help='a folder of `glscl index`')
    parser.add_argument('query', nargs='+', help='what the video shows; several texts, each in quotes, are searched in one go')
    parser.add_argument('-k', type=int, default=5, help='how many videos (5)')
    parser.add_argument('--shortlist', type=int, metavar='N', help='score only the N nearest by an approximate index')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.add_argument('--html', metavar='FILE', help='write a page with pictures')
    parser.add_argument('--model', help="a checkpoint or a run's folder (default: the one that made the gallery)")
    parser.add_argument('--device', default='auto')
    args = parser.parse_args(argv)
    try:
        gallery = Gallery(args.gallery, args.model, args.device, lambda line: print(f'warning: {line}', file=sys.stderr))
        results = gallery.search(args.query, args.k, shortlist=args.shortlist)
        if args.html:
            Path(args.html).write_text(page(args.query, results, gallery.model.config), 'utf-8', 'backslashreplace')
    except (ValueError, OSError, ImportError) as error:
        parser.exit(1, f'glscl search: {error}\n')
    if args.json:
        print(json.dumps([dict(query=query, results=[dataclasses.asdict(r) for r in found])
                          for query, found in zip(args.query, results)], indent=1))
    else:
        print(table(args.query, results), end='')
    return 0
