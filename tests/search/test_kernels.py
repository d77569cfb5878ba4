"""Both stages of scoring on CUDA in Triton's interpreter, on the CPU, against the exact form.

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
from search.scoring_cases import WEIGHTS, check_best, check_close, exact, galleries, items, shapes

from glscl import cuda_scoring
from glscl.search import topk

INTERPRETED = os.environ.get('TRITON_INTERPRET') == '1'
inside = pytest.mark.skipif(not INTERPRETED, reason='run by the test that starts the interpreter')
needs_triton = pytest.mark.skipif(not importlib.util.find_spec('triton'), reason='triton comes with torch on Linux only')


@pytest.mark.skipif(INTERPRETED, reason='this is the process')
@needs_triton
def test_all_of_this_file_in_the_interpreter():
    run = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', __file__],
                         capture_output=True, text=True, env={**os.environ, 'TRITON_INTERPRET': '1'})
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]


@pytest.mark.skipif(INTERPRETED, reason='compiles')
@needs_triton
@pytest.mark.parametrize('F, T, lists', [(1, 1, False), (12, 1000, False), (12, 1000, True), (12, 16, False), (16, 1000, True), (64, 1000, True)])
@pytest.mark.parametrize('capability', [80, 90])
def test_the_pass_compiles_without_a_gpu_and_spills_nothing(capability, F, T, lists, tmp_path):
    pytest.importorskip('triton', '3.3')  # the compiler's own interface was another before
    built = compiled(F, T, lists, capability)
    usage = resources(built, tmp_path)
    if usage:
        assert usage['STACK'] == 0 and usage['REG'] <= (80 if F == 12 else 168)


def compiled(F, T, lists, capability):
    """The pass as `cuda_scoring.score` starts it, pointers as they mostly are; one text is a constant to triton."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from glscl.kernels import score_pass
    TB = 32 if T <= 32 else 256
    constants = dict(F=F, TB=TB, WALK=8, PLACES=256 if lists else 0)
    constants.update(dict.fromkeys(['out'] if lists else ['least', 'count', 'scores', 'places']))
    constants.update(dict(T=1) if T == 1 else {})
    types = dict(T='i32', V='i32', sharpness='fp32', weight='fp32', count='*i32', places='*i32')
    signature, values, attributes = {}, {}, {}
    for i, name in enumerate(score_pass.arg_names):
        if name in constants:
            signature[name], values[i,] = 'constexpr', constants[name]
            continue
        signature[name] = types.get(name, '*fp32')
        if name not in ('V', 'sharpness', 'weight'):
            attributes[i,] = [['tt.divisibility', 16]]
    source = ASTSource(score_pass, signature, values, attributes)
    return triton.compile(source, GPUTarget('cuda', capability, 32), dict(num_warps=max(1, TB // 64)))


def resources(built, folder):
    """{'REG': registers of a thread, 'STACK': bytes that it spills, …}; None without the tool that tells."""
    import triton
    tool = Path(triton.__file__).parent / 'backends/nvidia/bin/cuobjdump'
    if not tool.is_file():
        return None
    (folder / 'kernel.cubin').write_bytes(built.asm['cubin'])
    usage = subprocess.run([tool, '--dump-resource-usage', folder / 'kernel.cubin'], capture_output=True, text=True).stdout
    return {name: int(n) for name, n in re.findall(r'(\w+):(\d+)', usage)}


@inside
@shapes
def test_scores_are_those_of_the_exact_form(T, V, F, D, dtype):
    texts, videos = items(T, V, F, D, dtype=dtype)
    S = cuda_scoring.similarity(texts, videos, **WEIGHTS)
    check_close(S, exact(texts, videos, **WEIGHTS))
    assert S.T.is_contiguous()  # as the plain form lays it out


@inside
def test_one_video_a_block(monkeypatch):
    texts, videos = items(4, 3, 2)
    monkeypatch.setattr(cuda_scoring, 'DOTS', 1)
    assert cuda_scoring.block_size(texts, videos) == 1
    check_close(cuda_scoring.similarity(texts, videos), exact(texts, videos))


@inside
@pytest.mark.parametrize('T, V', [(0, 3), (3, 0)])
def test_nothing_to_score(T, V):
    texts, videos = items(4, 6)
    assert cuda_scoring.similarity(texts[:T], videos[:V]).shape == (T, V)
    assert topk.top_k(texts[:T], videos[:V], 2)[1].shape == (T, min(V, 2))


@inside
@pytest.mark.parametrize('name', ['sentence', 'concepts'])
def test_what_autocast_left_in_float32_beside_half_precision(name):
    texts, videos = items(4, 6, 2)
    setattr(texts, name, getattr(texts, name).float())
    check_close(cuda_scoring.similarity(texts, videos), exact(texts, videos))


@inside
@pytest.mark.parametrize('F', [2, 17])
def test_an_empty_video_scores_zero_and_a_large_logit_does_not_overflow(F):
    texts, videos = items(2, 3, F, size=30.0)
    texts.concepts = videos.concepts = None
    S = cuda_scoring.similarity(texts, videos)
    assert (S[:, 1] == 0).all() and S.isfinite().all()
    check_close(S, exact(texts, videos))


@inside
@pytest.mark.parametrize('changes', [{}, dict(local_weight=0.0), dict(global_weight=0.0), dict(pooling='mean')])
def test_the_model_takes_the_two_stages_by_itself_where_they_can(config, changes, monkeypatch):
    import dataclasses

    from glscl import GLSCL
    model = GLSCL(dataclasses.replace(config, **changes)).eval()
    texts, videos = items(3, 4, F=4, D=32)
    if not changes.get('local_weight', 1):
        texts.concepts = videos.concepts = None
    plain, taken = model.similarity(texts, videos), []
    monkeypatch.setattr(cuda_scoring, 'can_score', lambda *_: True)
    score = cuda_scoring.score
    monkeypatch.setattr(cuda_scoring, 'score', lambda *a, **k: (taken.append(1), score(*a, **k)))
    S = model.similarity(texts, videos)
    check_close(S, plain.double())
    assert bool(taken) == (changes != dict(pooling='mean'))


def test_what_is_not_on_a_gpu_takes_the_plain_form():
    assert not cuda_scoring.can_score(*items(2, 3))


def test_without_a_compiler_the_plain_form_is_taken_and_one_line_says_so(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError('Failed to find C compiler')
    monkeypatch.setattr(torch.version, 'cuda', '13.0')
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda _: (9, 0))
    monkeypatch.setattr(cuda_scoring, 'similarity', broken)
    monkeypatch.setattr(importlib.util, 'find_spec', lambda _: True)
    cuda_scoring._works.cache_clear()
    with pytest.warns(UserWarning, match='takes the plain form, which is slower: RuntimeError: Failed to find C compiler'):
        assert not cuda_scoring._works(torch.device('cpu'))
    cuda_scoring._works.cache_clear()


@inside
def test_the_pair_that_tells_whether_triton_works(monkeypatch):
    monkeypatch.setattr(torch.version, 'cuda', '13.0')
    for capability in (9, 0), (7, 5):
        cuda_scoring._works.cache_clear()
        monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda _: capability)
        assert cuda_scoring._works(torch.device('cpu')) == (capability >= (8, 0))
    cuda_scoring._works.cache_clear()


# the k best, of which test_topk.py has what does not need the pass

def small_parts(monkeypatch, places):
    """Short lists and blocks, so that a small gallery has several of both."""
    monkeypatch.setattr(topk, 'PLACES', places)
    monkeypatch.setattr(cuda_scoring, 'block_size', lambda texts, videos: 30)


@inside
@galleries
def test_the_best_of_the_lists_are_the_best_of_all(T, V, F, k, monkeypatch):
    small_parts(monkeypatch, places=16)
    check_best(*items(T, V, F, D=8), k, **WEIGHTS)


@inside
def test_a_list_that_overflows_counts_on_and_writes_nothing_beyond_its_end():
    texts, videos = items(3, 12, 1, D=8)
    videos = videos[torch.tensor([0, 1] * 5)]
    least, count, scores, places = torch.tensor([-2.0, 2.0, -2.0]), torch.zeros(3).int(), torch.full((3, 4), 9.0), torch.full((3, 4), -9).int()
    cuda_scoring.score(texts, videos, lists=(least, count, scores, places))
    assert count.tolist() == [10, 0, 10]
    assert (scores[1] == 9).all() and (places[1] == -9).all() and places[0].unique().numel() == 4 and ((places[0] >= 0) & (places[0] < 10)).all()
    S = cuda_scoring.similarity(texts, videos)
    assert torch.equal(scores[2], S[2, places[2].long()])


@inside
def test_of_equal_scores_the_first_video_and_of_broken_ones_none(monkeypatch):
    small_parts(monkeypatch, places=4)
    texts, videos = items(2, 6, 2)
    texts.sentence, texts.concepts = texts.sentence.round(), None  # dots are exact, in blocks of any size
    videos.frames = videos.frames.round()
    videos = videos[torch.tensor([3, 1, 3, 3, 0, 2, 3, 3, 1])]
    videos.frames[1] = float('nan')
    places = topk.top_k(texts, videos, 9)[1]
    assert (places.sort().values == torch.arange(9)).all() and (places[:, -1] == 1).all()
    alike = places[torch.isin(places, torch.tensor([0, 2, 3, 6, 7]))].view(2, 5)
    assert alike.tolist() == [[0, 2, 3, 6, 7]] * 2
    check_best(texts, videos, 3)
    videos.frames[:] = float('nan')
    assert topk.top_k(texts, videos, 3)[1].tolist() == [[0, 1, 2]] * 2
