"""The CUDA kernel in Triton's interpreter, on the CPU, against the exact form.

Triton decides at import whether it interprets: most tests of this file run in a process of their
own, started by one of them."""
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from glscl import Texts, Videos
from glscl.interaction import global_similarity, gram, local_similarity
from glscl.search.topk import sortable_keys

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
inside = pytest.mark.skipif(not INTERPRETED, reason='run by the test that starts the interpreter')

if INTERPRETED:
    import triton
    import triton.language as tl

    from glscl.search import kernels

    @triton.jit
    def _keys_of(scores, places, out, V: tl.constexpr, T: tl.constexpr):
        v, t = tl.arange(0, V), tl.arange(0, T)
        at = v[:, None] * T + t[None, :]
        tl.store(out + at, kernels._sortable_keys(tl.load(scores + at), tl.load(places + v)))


@pytest.mark.skipif(INTERPRETED, reason='this is the process')
@pytest.mark.skipif(not importlib.util.find_spec('triton'),
                    reason='triton comes with torch on Linux only')
def test_all_of_this_file_in_the_interpreter():
    run = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', __file__],
                         capture_output=True, text=True,
                         env={**os.environ, 'TRITON_INTERPRET': '1'})
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


@pytest.mark.skipif(INTERPRETED, reason='compiles')
@pytest.mark.parametrize('F', [12, 32, 64])
@pytest.mark.parametrize('capability', [80, 90])
def test_the_kernels_compile_without_a_gpu_and_fit_one(capability, F, tmp_path):
    """Shared memory within the 99 KB that every GPU from 8.0 on has, and at most some registers
    spilled."""
    pytest.importorskip('triton', '3.3', reason='triton comes with torch on Linux only')
    from glscl.search import kernels
    texts, videos = items(1, 1, F)
    _, sizes = kernels._global_inputs(texts, videos)
    options = {name: sizes.pop(name) for name in ('num_warps', 'num_stages')}
    constants = {kernels._global_kernel: sizes,
                 kernels._local_kernel: {'VB': 128, 'TB': 128, 'BLOCK': 32}}
    if F == 12:
        constants[kernels._top_k_kernel] = {**sizes, 'K': 16, 'TILES': 64}
    for kernel in constants:
        built = compiled(kernel, constants[kernel], capability, options)
        assert built.metadata.shared <= 99 * 1024
        stack = stack_bytes(built, tmp_path)
        if stack is not None:
            assert stack <= (512 if kernel is kernels._top_k_kernel else 64)


def compiled(kernel, constants, capability, options):
    """The kernel for half-precision items, sizes and pointers as they mostly are."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    types = {**dict.fromkeys(('length', 'gram', 'floor', 'out', 'local'), '*fp32'),
             **dict.fromkeys(('T', 'V', 'D', 'width', 'start'), 'i32'),
             'mask': '*i8', 'keys': '*i64', 'temperature': 'fp32', 'weight': 'fp32'}
    signature, values, attributes = {}, {}, {}
    for i, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], values[i,] = 'constexpr', constants[name]
            continue
        signature[name] = types.get(name, '*bf16')
        if name not in ('T', 'V', 'start', 'temperature', 'weight'):
            attributes[i,] = [['tt.divisibility', 16]]
    source = ASTSource(kernel, signature, values, attributes)
    return triton.compile(source, GPUTarget('cuda', capability, 32), options)


def stack_bytes(built, folder):
    """Bytes a thread spills; None without the tool that tells."""
    import triton
    tool = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
    if not tool.is_file():
        return None
    (folder / 'kernel.cubin').write_bytes(built.asm['cubin'])
    usage = subprocess.run([tool, '--dump-resource-usage', folder / 'kernel.cubin'],
                           capture_output=True, text=True).stdout
    return int(re.search(r'STACK:(\d+)', usage)[1])


def items(T, V, F=12, D=40, Q=3, dtype=torch.float16, size=1.0):
    """Texts and Videos with holes in the masks; the last video but one has no frame at all."""
    mask = torch.rand(V, F) > 0.3
    mask[:, 0] = True
    mask[V - 2:V - 1] = False
    sentence, frames = ((size * torch.randn(*s, D)).to(dtype) for s in ((T,), (V, F)))
    c_t, c_v = (normalize(torch.randn(n, Q, D), dim=-1).to(dtype) for n in (T, V))
    texts = Texts(sentence, sentence[:, None], torch.ones(T, 1, dtype=torch.bool), c_t)
    return texts, Videos(frames, mask, gram(frames), c_v)


def exact(texts, videos, temperature=3.0, weight=0.5):
    S = global_similarity(texts.sentence.double(), videos.frames.double(), videos.mask, temperature)
    return S + weight * local_similarity(texts.concepts.double(), videos.concepts.double())


@inside
@pytest.mark.parametrize('T, V, F, D', [(5, 19, 12, 40), (130, 9, 12, 64), (1, 1, 1, 16),
                                        (3, 4, 20, 100), (2, 3, 64, 32)])
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_the_kernel_is_the_exact_form(T, V, F, D, dtype):
    texts, videos = items(T, V, F, D, dtype=dtype)
    S = kernels.similarity(texts, videos, temperature=0.7, local_weight=0.3)
    assert S.dtype == torch.float32
    torch.testing.assert_close(S.double(), exact(texts, videos, 0.7, 0.3), atol=2e-6, rtol=1e-5)


@inside
def test_concepts_that_autocast_left_in_float32():
    texts, videos = items(4, 6)
    texts.concepts, videos.concepts = texts.concepts.float(), videos.concepts.float()
    S = kernels.similarity(texts, videos)
    torch.testing.assert_close(S.double(), exact(texts, videos), atol=2e-6, rtol=1e-5)


@inside
def test_an_empty_video_scores_zero_and_a_large_logit_does_not_overflow():
    texts, videos = items(4, 6, size=30.0)
    texts.concepts = None
    S = kernels.similarity(texts, videos)
    assert (S[:, 4] == 0).all() and S.isfinite().all()
    expected = global_similarity(texts.sentence, videos.frames, videos.mask)
    torch.testing.assert_close(S, expected, atol=2e-6, rtol=1e-5)


@inside
def test_the_kernels_keys_are_those_of_the_search():
    bits = torch.randint(-2 ** 31, 2 ** 31, (8, 16)).int()  # every kind of float32, NaN as well
    special = [0.0, -0.0, float('inf'), -float('inf'), float('nan'), 1e-40, -1e-40, 3e38, -3e38]
    bits[0, :len(special)] = torch.tensor(special).view(torch.int32)
    scores = bits.view(torch.float32)  # [V, T]
    places = torch.tensor([0, 1, 2, 1000, 2 ** 31 - 1, 2 ** 31, 2 ** 32 - 2, 2 ** 32 - 1])
    keys = torch.empty(8, 16, dtype=torch.int64)
    _keys_of[(1,)](scores, places, keys, 8, 16)
    assert torch.equal(keys.T, sortable_keys(scores.T, places))


@inside
@pytest.mark.parametrize('T, V, F, block, k', [
    (4, 11, 12, 8192, 5), (130, 20, 12, 9, 1), (3, 70, 12, 8192, 10), (5, 6, 12, 8192, 32),
    (260, 5, 17, 8192, 4), (70, 5, 40, 2, 3)])
def test_the_best_kept_in_registers_are_the_best_of_all(T, V, F, block, k, monkeypatch):
    monkeypatch.setattr(kernels, 'STRIPE', 32)  # so that 70 videos are more than one program's
    texts, videos = items(T, V, F)
    scores, places = kernels.top_k(texts, videos, k, block=block)
    best = kernels.similarity(texts, videos).topk(min(k, V), dim=1)
    assert torch.equal(places, best.indices) and torch.equal(scores, best.values)


@inside
def test_of_equal_scores_the_first_video_and_of_broken_ones_none():
    texts, videos = items(2, 6)
    videos = videos[torch.tensor([3, 1, 3, 3, 0, 2])]
    videos.frames[1] = float('nan')
    scores, places = kernels.top_k(texts, videos, 6)
    assert (places.sort().values == torch.arange(6)).all() and (places[:, -1] == 1).all()
    alike = places[(places == 0) | (places == 2) | (places == 3)].view(2, 3)
    assert alike.tolist() == [[0, 2, 3]] * 2
    with pytest.raises(ValueError, match='not 33'):
        kernels.top_k(texts, videos, 33)
