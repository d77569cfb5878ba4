"""An approximate first stage for galleries beyond memory, on faiss (pip install glscl[search]): whom to score exactly.

A video is one vector, its mean frame and its concepts, a text its sentence and its concepts, so weighed that their inner
product is the score of the paper with mean pooling in place of the global module: cos(e, mean y) + lambda S_l. The nearest
vectors are the shortlist; `Gallery.search(..., shortlist=n)` gives these their exact scores.
"""
import hashlib
import math
import os

import numpy as np
import torch
import torch.nn.functional as F

from .shards import features, opened

SMALL = 10_000    # videos: up to here every vector is kept and compared as it is
TRAIN = 20_000    # vectors that the index is learnt from


def video_vectors(videos, local_weight):
    """Videos -> float32 [V, D + Q D]; only [V, D] without a local module."""
    mean = (videos.frames.float() * videos.mask[..., None]).sum(1)
    return _joined(mean, videos.concepts, local_weight)


def text_vectors(texts, local_weight):
    """Texts -> float32 [T, D + Q D], for the inner product with `video_vectors`."""
    return _joined(texts.sentence, texts.concepts, local_weight)


def _joined(whole, concepts, local_weight):
    parts = [F.normalize(whole.float(), dim=-1)]
    if concepts is not None:
        parts.append(concepts.float().flatten(1) * math.sqrt(local_weight / concepts.shape[1]))
    return torch.cat(parts, 1).cpu().numpy()


def faiss():
    """The module, or a word on how to get it."""
    try:
        import faiss as module
    except ImportError:
        raise ImportError('a shortlist needs faiss: pip install faiss-cpu (or glscl[search]). Search without one is exact, '
                          'and needs nothing more') from None
    return module


def file_of(gallery):
    """Where the index of a gallery lies; its name tells the shards, so that a gallery that has changed has none."""
    mark = hashlib.sha256(repr([name for name, _ in gallery.shards]).encode()).hexdigest()[:16]
    return gallery.folder / f'shortlist-{mark}.faiss'


def build(gallery, kind=None):
    """Make and keep the index of a Gallery; returns its path. A shard at a time is in memory, and the vectors learnt from.

    kind: a string of faiss.index_factory. By default every vector as it is ("Flat") up to SMALL videos; from there on
    "PCA128,SQ8": 128 bytes a video, each compared. On generated features, inverted lists and product codes lost more."""
    lib, weight = faiss(), gallery.model.config.local_weight
    learnt = _sample(gallery, min(len(gallery), TRAIN))
    kind = kind or ('Flat' if len(gallery) <= SMALL else f'PCA{min(128, learnt.shape[1])},SQ8')
    index = lib.index_factory(learnt.shape[1], kind, lib.METRIC_INNER_PRODUCT)
    index.train(learnt)
    for name, entry in gallery.shards:
        with opened(gallery.folder, name, entry, gallery.mark) as shard:
            index.add(video_vectors(features(shard), weight))
    path = file_of(gallery)
    half = path.with_name(f'.{path.name}.half')
    lib.write_index(index, os.fspath(half))
    os.replace(half, path)
    for old in set(gallery.folder.glob('shortlist-*.faiss')) - {path}:
        old.unlink()
    return path


def _sample(gallery, n):
    """Vectors of n videos, evenly from all shards."""
    share, parts = n / len(gallery), []
    for name, entry in gallery.shards:
        rows = np.linspace(0, entry['rows'] - 1, max(1, round(share * entry['rows']))).astype(int)
        with opened(gallery.folder, name, entry, gallery.mark) as shard:
            parts.append(video_vectors(features(shard)[rows], gallery.model.config.local_weight))
    return np.concatenate(parts)


def candidates(gallery, texts, n):
    """Places in the gallery of the n nearest videos of each text: int64 [T, up to n]; -1 where faiss found fewer."""
    path = file_of(gallery)
    if path != getattr(gallery, '_nearest', (None,))[0]:
        if not path.is_file():
            raise ValueError(f'{gallery.folder} has no shortlist, or has changed since; `glscl index … --shortlist` makes one')
        gallery._nearest = path, faiss().read_index(os.fspath(path))
    vectors = text_vectors(texts, gallery.model.config.local_weight)
    return gallery._nearest[1].search(vectors, min(n, len(gallery)))[1]
