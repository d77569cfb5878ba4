"""The approximate first stage."""
import sys

import numpy as np
import pytest
import torch
from search.galleries import TEXTS, everything, index, open_gallery

from glscl.search import gallery as gallery_module
from glscl.search import shortlist
from glscl.search.index import index_command


def test_vectors_give_the_score_with_mean_pooling(shared_gallery):
    found = open_gallery(shared_gallery)
    videos, texts = everything(shared_gallery)[1], found.encode_texts(TEXTS)
    weight = found.model.config.local_weight
    products = (shortlist.text_vectors(texts, weight)
                @ shortlist.video_vectors(videos, weight).T)
    for t in range(len(TEXTS)):
        for v in range(len(videos)):
            y = videos.frames[v][videos.mask[v]].float().mean(0)
            cosine = torch.cosine_similarity(texts.sentence[t], y, dim=0)
            local = sum(texts.concepts[t, q] @ videos.concepts[v, q].float() for q in range(3)) / 3
            assert products[t, v] == pytest.approx(float(cosine + weight * local), abs=1e-4)


def test_what_is_on_the_shortlist_has_its_exact_score(shared_gallery, monkeypatch):
    found = open_gallery(shared_gallery)
    exact = found.search(TEXTS, 12)
    places = np.array([[7, 0, 11], [0, 5, -1], [4, 7, 0]])
    monkeypatch.setattr(gallery_module, 'candidates', lambda *_: places)
    paths = everything(shared_gallery)[0]
    for some, of_all in zip(found.search(TEXTS, 12, shortlist=5), exact, strict=True):
        expected = [r for r in of_all if paths.index(r.path) in (0, 4, 5, 7, 11)]
        assert [r.path for r in some] == [r.path for r in expected]
        assert [r.score for r in some] == pytest.approx([r.score for r in expected], abs=1e-6)


def test_as_long_as_the_gallery_it_is_exact_and_of_another_state_it_is_refused(gallery, films):
    pytest.importorskip('faiss')
    found = open_gallery(gallery)
    shortlist.build(found)
    assert found.search(TEXTS, 5, shortlist=12) == found.search(TEXTS, 5)
    near = found.search(TEXTS[0], 2, shortlist=3)
    assert len(near) == 2
    assert {r.path for r in near} <= {r.path for r in found.search(TEXTS[0], 12)}
    (films / 'test0003.mp4').unlink()
    index(films, gallery, sync=True)
    with pytest.raises(ValueError, match='has changed since'):
        open_gallery(gallery).search(TEXTS, 5, shortlist=12)
    assert index_command([films], gallery, device='cpu', workers=1, shortlist=True) == 0
    assert len(open_gallery(gallery).search(TEXTS[0], 20, shortlist=12)) == 11
    assert len(list(gallery.glob('*.faiss'))) == 1


def test_a_large_gallery_learns_from_some_of_its_videos(shared_gallery):
    found = open_gallery(shared_gallery)
    share = list(shortlist._vectors(found, 0.5))
    whole = list(shortlist._vectors(found))
    assert [len(part) for part in whole] == [5, 5, 2] and [len(part) for part in share] == [2, 2, 1]
    for part, of_all in zip(share, whole, strict=True):
        assert (part[0] == of_all[0]).all() and (len(part) == 1 or (part[-1] == of_all[-1]).all())


def test_without_faiss_a_shortlist_says_how_to_get_it(shared_gallery, monkeypatch):
    monkeypatch.setitem(sys.modules, 'faiss', None)
    with pytest.raises(ImportError, match='pip install'):
        shortlist.build(open_gallery(shared_gallery))


@pytest.mark.parametrize('damage', [lambda b: b[:-100], lambda b: b[:50] + bytes([b[50] ^ 1]) + b[51:], lambda b: b'', lambda b: b'x' * 99])
def test_a_damaged_shortlist_is_built_again_and_an_older_one_is_read(gallery, damage):
    library = pytest.importorskip('faiss')
    path = shortlist.build(open_gallery(gallery))
    data = path.read_bytes()
    library.write_index(library.deserialize_index(np.frombuffer(data[:-8], np.uint8)), str(path))  # as of before
    lines = []
    expected = open_gallery(gallery, log=lines.append).search(TEXTS, 5, shortlist=12)
    assert lines == []
    path.write_bytes(damage(data))
    for _ in range(2):
        assert open_gallery(gallery, log=lines.append).search(TEXTS, 5, shortlist=12) == expected
    assert len(lines) == 1 and 'is damaged, and is built again' in lines[0] and path.read_bytes() == data
