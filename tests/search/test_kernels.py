"""The CUDA kernel in Triton's interpreter, on the CPU, against the exact form.

Triton decides at import whether it interprets: the tests of this file run in a process of their own."""
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

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


@pytest.mark.skipif(INTERPRETED, reason='compiles')
@pytest.mark.parametrize('F', [12, 32, 64])
@pytest.mark.parametrize('capability', [80, 90])
def test_the_kernels_compile_without_a_gpu_and_fit_one(capability, F, tmp_path):
    """Shared memory within the 99 KB that every GPU from 8.0 on has, and no more than some registers spilled."""
    triton = pytest.importorskip('triton', '3.3', reason='triton comes with torch on Linux only')
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from glscl.search import kernels
    texts, videos = items(1, 1, F)
    _, sizes = kernels._global_inputs(texts, videos)
    options = {name: sizes.pop(name) for name in ('num_warps', 'num_stages')}
    shapes = {kernels._global: sizes, kernels._local: dict(VB=128, TB=128, BLOCK=32)}
    if F == 12:
        shapes[kernels._best] = dict(sizes, K=16, TILES=64)
    types = dict(dict.fromkeys(('length', 'gram', 'floor', 'out', 'local'), '*fp32'), mask='*i8', keys='*i64',
                 **dict.fromkeys(('T', 'V', 'D', 'width', 'start'), 'i32'), temperature='fp32', weight='fp32')
    for kernel, constants in shapes.items():
        names = kernel.arg_names
        aligned = {(i,): [['tt.divisibility', 16]] for i, name in enumerate(names) if name not in (
            *constants, 'T', 'V', 'start', 'temperature', 'weight')}
        source = ASTSource(kernel, {n: 'constexpr' if n in constants else types.get(n, '*bf16') for n in names},
                           {(names.index(n),): value for n, value in constants.items()}, aligned)
        built = triton.compile(source, GPUTarget('cuda', capability, 32), options)
        assert built.metadata.shared <= 99 * 1024
        tool = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
        if tool.is_file():
            (tmp_path / 'kernel.cubin').write_bytes(built.asm['cubin'])
            told = subprocess.run([tool, '--dump-resource-usage', tmp_path / 'kernel.cubin'], capture_output=True, text=True).stdout
            assert int(re.search(r'STACK:(\d+)', told)[1]) <= (512 if kernel is kernels._best else 64)


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
    from glscl.search import kernels
    texts, videos = items(T, V, F, D, dtype=dtype)
    S = kernels.similarity(texts, videos, temperature=0.7, local_weight=0.3)
    assert S.dtype == torch.float32
    torch.testing.assert_close(S.double(), exact(texts, videos, 0.7, 0.3), atol=2e-6, rtol=1e-5)


@inside
def test_concepts_that_autocast_left_in_float32():
    from glscl.search import kernels
    texts, videos = items(4, 6)
    texts.concepts, videos.concepts = texts.concepts.float(), videos.concepts.float()
    torch.testing.assert_close(kernels.similarity(texts, videos).double(), exact(texts, videos), atol=2e-6, rtol=1e-5)


@inside
def test_an_empty_video_scores_zero_and_a_large_logit_does_not_overflow():
    from glscl.search import kernels
    texts, videos = items(4, 6, size=30.0)
    texts.concepts = None
    S = kernels.similarity(texts, videos)
    assert (S[:, 4] == 0).all() and S.isfinite().all()
    torch.testing.assert_close(S, global_similarity(texts.sentence, videos.frames, videos.mask), atol=2e-6, rtol=1e-5)


@inside
@pytest.mark.parametrize('T, V, F, block, k', [
    (4, 11, 12, 8192, 5), (130, 40, 12, 17, 1), (3, 530, 12, 8192, 10), (5, 6, 12, 8192, 32), (260, 9, 17, 8192, 4), (70, 9, 40, 4, 3)])
def test_the_best_kept_in_registers_are_the_best_of_all(T, V, F, block, k):
    from glscl.search import kernels
    texts, videos = items(T, V, F)
    scores, places = kernels.top_k(texts, videos, k, block=block)
    best = kernels.similarity(texts, videos).topk(min(k, V), dim=1)
    assert torch.equal(places, best.indices) and torch.equal(scores, best.values)


@inside
def test_of_equal_scores_the_first_video_and_of_broken_ones_none():
    from glscl.search import kernels
    texts, videos = items(2, 6)
    videos = videos[torch.tensor([3, 1, 3, 3, 0, 2])]
    videos.frames[1] = float('nan')
    scores, places = kernels.top_k(texts, videos, 6)
    assert (places.sort().values == torch.arange(6)).all() and (places[:, -1] == 1).all()
    alike = places[(places == 0) | (places == 2) | (places == 3)].view(2, 3)
    assert alike.tolist() == [[0, 2, 3]] * 2
    with pytest.raises(ValueError, match='not 33'):
        kernels.top_k(texts, videos, 33)
