"""The CUDA kernel in Triton's interpreter, on the CPU, against the exact form.

Triton decides at import whether it interprets: the tests of this file run in a process of their own."""
import importlib.util
import os
import subprocess
import sys

import pytest
import torch

from glscl import Texts, Videos
from glscl.interaction import global_similarity, gram, local_similarity

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
inside = pytest.mark.skipif(not INTERPRETED, reason='run by test_all_of_this_file_in_the_interpreter')


@pytest.mark.skipif(INTERPRETED, reason='this is the process')
@pytest.mark.skipif(not importlib.util.find_spec('triton'), reason='triton comes with torch on Linux only')
def test_all_of_this_file_in_the_interpreter():
    run = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', __file__],
                         capture_output=True, text=True, env={**os.environ, 'TRITON_INTERPRET': '1'})
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


def items(T, V, F=12, D=40, Q=3, dtype=torch.float16, size=1.0):
    """Texts and Videos with holes in the masks; the last video but one has no frame at all."""
    mask = torch.rand(V, F) > 0.3
    mask[:, 0] = True
    mask[V - 2:V - 1] = False
    sentence, frames = ((size * torch.randn(*s, D)).to(dtype) for s in ((T,), (V, F)))
    c_t, c_v = (torch.nn.functional.normalize(torch.randn(n, Q, D), dim=-1).to(dtype) for n in (T, V))
    return Texts(sentence, sentence[:, None], torch.ones(T, 1, dtype=torch.bool), c_t), Videos(frames, mask, gram(frames), c_v)


def exact(texts, videos, temperature=3.0, weight=0.5):
    S = global_similarity(texts.sentence.double(), videos.frames.double(), videos.mask, temperature)
    return S + weight * local_similarity(texts.concepts.double(), videos.concepts.double())


@inside
@pytest.mark.parametrize('T, V, F, D', [(5, 19, 12, 40), (130, 9, 12, 64), (1, 1, 1, 16), (3, 4, 20, 100), (2, 3, 64, 32)])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_the_kernel_is_the_exact_form(T, V, F, D, dtype):
    from glscl import kernels
    texts, videos = items(T, V, F, D, dtype=dtype)
    S = kernels.similarity(texts, videos, temperature=0.7, local_weight=0.3)
    assert S.dtype == torch.float32
    torch.testing.assert_close(S.double(), exact(texts, videos, 0.7, 0.3), atol=2e-6, rtol=1e-5)


@inside
def test_concepts_that_autocast_left_in_float32():
    from glscl import kernels
    texts, videos = items(4, 6)
    texts.concepts, videos.concepts = texts.concepts.float(), videos.concepts.float()
    torch.testing.assert_close(kernels.similarity(texts, videos).double(), exact(texts, videos), atol=2e-6, rtol=1e-5)


@inside
def test_an_empty_video_scores_zero_and_a_large_logit_does_not_overflow():
    from glscl import kernels
    texts, videos = items(4, 6, size=30.0)
    texts.concepts = None
    S = kernels.similarity(texts, videos)
    assert (S[:, 4] == 0).all() and S.isfinite().all()
    torch.testing.assert_close(S, global_similarity(texts.sentence, videos.frames, videos.mask), atol=2e-6, rtol=1e-5)


@inside
@pytest.mark.parametrize('block', [1, 4, 100])
def test_the_best_of_blocks_are_the_best_of_all(block):
    from glscl import kernels
    texts, videos = items(4, 11)
    scores, index = kernels.top_k(texts, videos, 5, block=block)
    best = kernels.similarity(texts, videos).topk(5, dim=1)
    assert torch.equal(index, best.indices) and torch.equal(scores, best.values)
    assert kernels.top_k(texts, videos, 50, block=block)[1].sort().values.tolist() == [list(range(11))] * 4
