"""What scoring on CUDA is held against, in Triton's interpreter (test_kernels.py) and on a card (tests/test_cuda.py)."""
import pytest
import torch
from torch.nn.functional import normalize

from glscl import Texts, Videos, cuda_scoring
from glscl.interaction import global_similarity, gram, local_similarity
from glscl.search.topk import merge_top_k, scores_and_places, sortable_keys, top_k

WEIGHTS = dict(temperature=0.7, local_weight=0.3, global_weight=1.5)
shapes = pytest.mark.parametrize('T, V, F, D, dtype', [
    (5, 9, 12, 40, torch.float16), (2, 3, 12, 40, torch.bfloat16), (2, 3, 12, 40, torch.float32), (270, 3, 4, 64, torch.float16),
    (1, 1, 1, 16, torch.float16), (33, 2, 16, 24, torch.bfloat16), (2, 2, 17, 100, torch.float16), (1, 1, 50, 32, torch.bfloat16), (1, 1, 64, 32, torch.float16)])
galleries = pytest.mark.parametrize('T, V, F, k', [(4, 11, 2, 5), (4, 11, 1, 20), (33, 50, 1, 1), (3, 60, 2, 7)])


def items(T, V, F=12, D=40, Q=3, dtype=torch.float16, size=1.0):
    """Texts and Videos with holes in the masks; the last video but one has no frame at all."""
    mask = torch.rand(V, F) > 0.3
    mask[:, 0] = True
    mask[V - 2:V - 1] = False
    sentence, frames = ((size * torch.randn(*s, D)).to(dtype) for s in ((T,), (V, F)))
    c_t, c_v = (normalize(torch.randn(n, Q, D), dim=-1).to(dtype) for n in (T, V))
    texts = Texts(sentence, sentence[:, None], torch.ones(T, 1, dtype=torch.bool), c_t)
    return texts, Videos(frames, mask, gram(frames), c_v)


def exact(texts, videos, temperature=3.0, local_weight=0.5, global_weight=1.0):
    """S in float64, where the texts and videos are."""
    S = global_weight * global_similarity(texts.sentence.double(), videos.frames.double(), videos.mask, temperature)
    if texts.concepts is None:
        return S
    return S + local_weight * local_similarity(texts.concepts.double(), videos.concepts.double())


def check_close(S, expected):
    """Within 1e-6, in float32."""
    assert S.dtype == torch.float32 and S.shape == expected.shape
    torch.testing.assert_close(S.double(), expected, atol=1e-6, rtol=0)


def check_best(texts, videos, k, **weights):
    """`top_k` gives the k best of S, of equal ones the first, NaN last."""
    S = cuda_scoring.similarity(texts, videos, **weights)
    keys = merge_top_k([sortable_keys(S, torch.arange(len(videos), device=S.device))], k)
    scores, places = scores_and_places(keys)
    mine = top_k(texts, videos, k, **weights)
    assert torch.equal(mine[1], places)
    torch.testing.assert_close(mine[0], scores, atol=1e-6, rtol=0)  # in blocks of other sizes the library adds in another order
