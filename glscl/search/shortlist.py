"""An approximate first stage for galleries beyond memory: which videos to score exactly.

On faiss (pip install glscl[search]). A video is one vector, its mean frame and its concepts; a text
is its sentence and its concepts, so weighed that their inner product is the score of the paper with
mean pooling in place of the global module: cos(e, mean y) + lambda S_l. The nearest vectors are the
shortlist; `Gallery.search(..., shortlist=n)` gives these their exact scores.
"""
import hashlib
import math
import zlib

import numpy as np
import torch
import torch.nn.functional as F

from ..runtime.files import atomic_write

SMALL = 10_000  # videos: up to here every vector is kept and compared as it is
TRAIN = 20_000  # vectors that a larger index is learnt from
SIGN = b'crc:'  # at the end of the file, before the checksum of what comes before it


def video_vectors(videos, local_weight):
    """Videos -> float32 [V, D + Q D]; only [V, D] without a local module."""
    mean = (videos.frames.float() * videos.mask[..., None]).sum(1)  # its length does not count
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
    """The module. Raises ImportError with a word on how to get it."""
    try:
        import faiss as module
    except ImportError:
        raise ImportError('a shortlist needs faiss: pip install faiss-cpu (or glscl[search]). '
                          'Search without one is exact, and needs nothing more') from None
    return module


def path_of(gallery):
    """Where the index of a Gallery lies. The name depends on its shards, so that a gallery that
    has changed has none."""
    mark = hashlib.sha256(repr([name for name, _ in gallery.shards]).encode()).hexdigest()[:16]
    return gallery.folder / f'shortlist-{mark}.faiss'


def build(gallery):
    """Make and keep the index of a Gallery; returns its path.

    Every vector as it is up to SMALL videos; from there on 128 bytes a video, each compared (on
    generated features, inverted lists and product codes lost more). A shard at a time is in
    memory, and the vectors learnt from."""
    library = faiss()
    share = min(1, TRAIN / len(gallery))
    learnt = np.concatenate(list(_vectors(gallery, share)))
    width = learnt.shape[1]
    kind = 'Flat' if len(gallery) <= SMALL else f'PCA{min(128, width)},SQ8'
    index = library.index_factory(width, kind, library.METRIC_INNER_PRODUCT)
    index.train(learnt)
    for vectors in _vectors(gallery):
        index.add(vectors)
    path, data = path_of(gallery), library.serialize_index(index)
    with atomic_write(path) as half:
        half.write_bytes(data.tobytes() + SIGN + zlib.crc32(data).to_bytes(4, 'big'))
    for old in set(gallery.folder.glob('shortlist-*.faiss')) - {path}:
        old.unlink()
    return path


def _vectors(gallery, share=1):
    """Yields the vectors of each shard, or of a share of its videos, evenly spread."""
    for name, entry in gallery.shards:
        n = max(1, round(share * entry['rows']))
        rows = np.linspace(0, entry['rows'] - 1, n).astype(int)
        _, videos = gallery.read(name, entry, rows)
        yield video_vectors(videos, gallery.model.config.local_weight)


def candidates(gallery, texts, n):
    """Places in a Gallery of the n nearest videos of each text: int64 [T, at most n].

    -1 where faiss found fewer. A damaged index is built again. Raises ValueError where the gallery
    has none as it is now."""
    path = path_of(gallery)
    vectors = text_vectors(texts, gallery.model.config.local_weight)
    if path != gallery.nearest[0]:
        if not path.is_file():
            raise ValueError(f'{gallery.folder} has no shortlist, or has changed since; '
                             f'`glscl index … --shortlist` makes one')
        if _read(path, vectors.shape[1], len(gallery)) is None:
            gallery.log(f'{path} is damaged, and is built again')
            build(gallery)
        gallery.nearest = path, _read(path, vectors.shape[1], len(gallery))
    return gallery.nearest[1].search(vectors, min(n, len(gallery)))[1]


def _read(path, width, videos):
    """The index in a file; None where it is damaged, or of another number of videos."""
    library, data = faiss(), path.read_bytes()
    index, sign, mark = data[:-8], data[-8:-4], data[-4:]
    if sign != SIGN:  # an older one, without a checksum
        index = data
    elif zlib.crc32(index).to_bytes(4, 'big') != mark:
        return None
    try:
        index = library.deserialize_index(np.frombuffer(index, np.uint8))
    except Exception:  # whatever faiss says
        return None
    return index if (index.d, index.ntotal) == (width, videos) else None
