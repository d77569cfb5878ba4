"""The global and the local module against plain loops."""
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import frame_weights as loop_weights
from reference import global_similarity as loop_global
from reference import local_similarity as loop_local
from reference import mean_similarity as loop_mean
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from glscl.interaction import (
    LocalInteraction,
    frame_weights,
    global_similarity,
    global_similarity_printed,
    gram,
    local_similarity,
    local_similarity_printed,
    mean_similarity,
)
from glscl.plots import query_weights


def items(T, V, F, D, dtype=torch.float64, holes=True):
    """Sentences, frames and a mask: each video has at least one frame, and not all the valid ones come first."""
    generator = torch.Generator().manual_seed(T + 10 * V + 100 * F + 1000 * D)
    sentence, frames = (torch.randn(*s, D, generator=generator, dtype=dtype) * 3 for s in ((T,), (V, F)))
    mask = torch.rand(V, F, generator=generator) > 0.4
    mask[torch.arange(V), torch.arange(V) % F] = True
    return sentence, frames, mask if holes else torch.ones_like(mask)


def direct(sentence, frames, mask, temperature):
    """The textbook form with its [T, V, D] tensor, differentiable."""
    a = (torch.einsum('td,vfd->tvf', sentence, frames) / temperature).masked_fill(~mask, float('-inf')).softmax(-1)
    return torch.cosine_similarity(sentence[:, None], torch.einsum('tvf,vfd->tvd', a, frames), dim=-1)


SIZES = [(5, 3, 4, 8), (3, 5, 1, 16), (1, 4, 12, 8), (4, 1, 6, 3), (1, 1, 1, 2), (7, 7, 12, 32)]


@pytest.mark.parametrize('temperature', [0.7, 3.0, 50.0])
@pytest.mark.parametrize('sizes', SIZES)
def test_global_similarity_is_the_loop(sizes, temperature):
    x = items(*sizes)
    expected = torch.tensor(loop_global(*x, temperature), dtype=torch.float64)
    for chunk in (1, 2, 100):
        torch.testing.assert_close(global_similarity(*x, temperature, chunk=chunk), expected)
    torch.testing.assert_close(global_similarity(*x, temperature, gram(x[1]), chunk=2), expected)


# ---- each equation as printed, and its fast form

some = st.integers(1, 9)
TOLERANCE = {torch.float64: dict(atol=1e-10, rtol=0), torch.float32: dict(atol=2e-5, rtol=0)}


def drawn(seed, dtype, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def drawn_mask(seed, V, F):
    """Each video has a valid frame, but not always the first."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(V, F, generator=generator) > 0.5
    mask[torch.arange(V), torch.randint(F, (V,), generator=generator)] = True
    return mask


@settings(max_examples=60, deadline=None, derandomize=True)
@given(some, some, some, st.integers(2, 40), st.sampled_from([0.5, 1.0, 3.0, 20.0]), st.sampled_from(list(TOLERANCE)), st.integers(0, 999))
def test_the_printed_and_the_fast_global_similarity_are_one(T, V, F, D, temperature, dtype, seed):
    e, y = drawn(seed, dtype, (T, D), (V, F, D))
    mask = drawn_mask(seed, V, F)
    printed = global_similarity_printed(e, y, mask, temperature, chunk=2)
    fast = global_similarity(e, y, mask, temperature)
    assert printed.shape == fast.shape == (T, V) and fast.dtype == dtype
    torch.testing.assert_close(fast, printed, **TOLERANCE[dtype])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(some, some, some, st.integers(2, 40), st.sampled_from(list(TOLERANCE)), st.integers(0, 999))
def test_the_printed_and_the_fast_local_similarity_are_one(T, V, Q, D, dtype, seed):
    c_t, c_v = (torch.nn.functional.normalize(c, dim=-1) for c in drawn(seed, dtype, (T, Q, D), (V, Q, D)))
    printed, fast = local_similarity_printed(c_t, c_v), local_similarity(c_t, c_v)
    assert printed.shape == fast.shape == (T, V) and fast.dtype == dtype
    torch.testing.assert_close(fast, printed, **TOLERANCE[dtype])


@pytest.mark.parametrize('temperature', [0.1, 3.0, 50.0])
def test_the_temperature_may_be_folded_into_the_sentence(temperature):
    """The logits see e / tau only, and the cosine does not see the length of e: S_g(e, tau) = S_g(c e, c tau)."""
    e, y, mask = items(5, 4, 6, 16)
    at_once = global_similarity_printed(e, y, mask, temperature)
    for factor in (1 / temperature, 0.01, 7.0, 1000.0):
        torch.testing.assert_close(global_similarity(factor * e, y, mask, factor * temperature), at_once)
    other = global_similarity(e / temperature, y, mask, temperature)  # folded in twice is another temperature
    assert temperature != 3.0 or (other - at_once).abs().max() > 0.01


@pytest.mark.parametrize('sizes', SIZES)
def test_frame_weights_are_the_loop(sizes):
    x = items(*sizes)
    torch.testing.assert_close(frame_weights(*x, 3.0), torch.tensor(loop_weights(*x, 3.0), dtype=torch.float64))


def test_masking_before_or_after_the_softmax_is_the_same():
    x = items(4, 5, 6, 8)
    assert not x[2].all()
    before, after = (torch.tensor(loop_global(*x, 3.0, mask_after=m)) for m in (False, True))
    torch.testing.assert_close(before, after)
    a, b = (torch.tensor(loop_weights(*x, 3.0, mask_after=m)) for m in (False, True))
    assert (a - b).abs().max() > 0.1  # the weights themselves do differ: it is the cosine that forgives


def test_gradients_are_those_of_the_direct_form():
    sentence, frames, mask = items(4, 3, 5, 6)
    toward = torch.randn(4, 3, dtype=torch.float64)
    grads = []
    for form in (lambda e, y: global_similarity(e, y, mask, 3.0, chunk=2), lambda e, y: direct(e, y, mask, 3.0)):
        e, y = sentence.clone().requires_grad_(), frames.clone().requires_grad_()
        grads.append(torch.autograd.grad((form(e, y) * toward).sum(), (e, y)))
    for ours, theirs in zip(*grads):
        torch.testing.assert_close(ours, theirs)
    assert grads[0][1][~mask].abs().max() == 0  # a padded frame is never pulled anywhere


@pytest.mark.parametrize('size', [1e-2, 1.0, 30.0])
def test_large_and_small_features_stay_exact_in_float32(size):
    sentence, frames, mask = items(5, 4, 6, 16)
    sentence, frames = size * sentence, size * frames
    expected = torch.tensor(loop_global(sentence, frames, mask, 3.0))
    torch.testing.assert_close(global_similarity(sentence.float(), frames.float(), mask), expected.float(), atol=2e-6, rtol=1e-5)


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that any operation makes."""
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(t.numel() for t in tree_leaves(out) if isinstance(t, torch.Tensor))])
        return out


def test_no_tensor_of_size_texts_times_videos_times_width():
    T, V, F, D = 40, 30, 4, 64
    x = items(T, V, F, D)
    with Largest() as largest:
        global_similarity(*x)
    assert largest.numel <= max(T * V * F, V * F * D, T * D)
    with Largest() as largest:
        direct(*x, 3.0)
    assert largest.numel >= T * V * D  # the probe sees what it is meant to see


def test_a_video_without_frames_scores_zero_and_spoils_nothing():
    sentence, frames, mask = items(3, 4, 5, 6)
    whole = global_similarity(sentence, frames, mask)
    mask[2] = False
    leaf = frames.clone().requires_grad_()
    S = global_similarity(sentence, leaf, mask)
    S.sum().backward()
    assert (S[:, 2] == 0).all() and leaf.grad.isfinite().all()
    torch.testing.assert_close(S[:, [0, 1, 3]].detach(), whole[:, [0, 1, 3]])
    assert (frame_weights(sentence, frames, mask)[:, 2] == 0).all()
    assert (mean_similarity(sentence, frames, mask)[:, 2] == 0).all()


def test_mean_similarity_is_the_loop():
    x = items(5, 3, 4, 8)
    torch.testing.assert_close(mean_similarity(*x), torch.tensor(loop_mean(*x), dtype=torch.float64))


@pytest.mark.parametrize('T, V, Q, D', [(5, 3, 8, 4), (1, 4, 1, 6), (3, 1, 2, 5)])
def test_local_similarity_is_the_loop(T, V, Q, D):
    c_t, c_v = (torch.nn.functional.normalize(torch.randn(n, Q, D, dtype=torch.float64), dim=-1) for n in (T, V))
    torch.testing.assert_close(local_similarity(c_t, c_v), torch.tensor(loop_local(c_t, c_v), dtype=torch.float64))


def test_features_of_two_models_are_refused_by_name():
    with pytest.raises(ValueError, match=r'are wanted, not .*8.*6'):
        global_similarity(torch.randn(2, 8), torch.randn(3, 4, 6), torch.ones(3, 4))
    with pytest.raises(ValueError, match='queries'):
        local_similarity(torch.randn(2, 3, 8), torch.randn(2, 4, 8))


# ---- the local module

def local(**settings):
    return LocalInteraction(16, num_queries=3, layers=2, heads=4, **settings).eval()


def test_concepts_ignore_padding_and_the_released_ones_do_not():
    tokens, mask = torch.randn(2, 5, 16), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    other = tokens.clone()
    other[0, 3:] += 10
    for mask_padding in (True, False):
        lim = local(mask_padding=mask_padding)
        same = torch.allclose(lim.video_concepts(tokens, mask)[0], lim.video_concepts(other, mask)[0], atol=1e-6)
        cut = torch.allclose(lim.text_concepts(tokens[:1], mask[:1]), lim.text_concepts(tokens[:1, :3], mask[:1, :3]), atol=1e-6)
        assert same == cut == mask_padding


def test_concepts_have_length_one_and_an_empty_item_has_none():
    concepts = local().video_concepts(torch.randn(2, 4, 16), torch.tensor([[1, 1, 0, 0], [0, 0, 0, 0]]))
    torch.testing.assert_close(concepts[0].norm(dim=-1), torch.ones(3))
    assert (concepts[1] == 0).all()


@pytest.mark.parametrize('queries, decoder', [(True, True), (True, False), (False, True), (False, False)])
def test_what_is_shared_is_one_and_what_is_not_is_two(queries, decoder):
    lim = local(share_queries=queries, share_decoder=decoder)
    assert (lim.text_queries is lim.video_queries) == queries and (lim.text_decoder is lim.video_decoder) == decoder
    tokens, mask = torch.randn(1, 4, 16), torch.ones(1, 4)
    same = torch.equal(lim.text_concepts(tokens, mask), lim.video_concepts(tokens, mask))
    assert same == (queries and decoder)
    one = sum(p.numel() for p in lim.video_decoder.parameters())
    assert sum(p.numel() for p in lim.parameters()) == (2 - queries) * 3 * 16 + (2 - decoder) * one


def test_layers_start_as_copies_and_queries_in_the_unit_interval():
    lim = local()
    for a, b in zip(*(layer.parameters() for layer in lim.video_decoder.layers)):
        assert torch.equal(a, b)
    assert 0 <= lim.video_queries.min() and 0.8 < lim.video_queries.max() < 1


def test_attention_is_a_distribution_over_valid_tokens():
    lim, tokens, mask = local(), torch.randn(2, 5, 16), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    a = query_weights(lim, tokens, mask)
    assert a.shape == (2, 3, 5) and (a[0, :, 3:] == 0).all() and (a >= 0).all()
    torch.testing.assert_close(a.sum(-1), torch.ones(2, 3))


# ---- what scoring keeps under any input

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_scored_with_float32_sums(dtype):
    sentence, frames, mask = items(6, 5, 12, 64, torch.float32)
    low = sentence.to(dtype), frames.to(dtype)
    S = global_similarity(*low, mask)
    assert S.dtype == torch.float32
    torch.testing.assert_close(S.double(), global_similarity(*(x.double() for x in low), mask), atol=2e-6, rtol=1e-5)
    c_t, c_v = (torch.nn.functional.normalize(torch.randn(n, 3, 64), dim=-1).to(dtype) for n in (4, 2))
    torch.testing.assert_close(local_similarity(c_t, c_v), torch.einsum('tqd,vqd->tv', c_t.float(), c_v.float()) / 3)


def test_logits_beyond_float16_do_not_overflow():
    sentence, frames, mask = items(3, 4, 5, 16)
    sentence, frames = (200 * sentence).half(), (200 * frames).half()   # <e, y> reaches millions, float16 ends at 65504
    expected = global_similarity(sentence.double(), frames.double(), mask)
    torch.testing.assert_close(global_similarity(sentence, frames, mask).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize('offset', [-30000.0, -300.0, 300.0])
def test_padding_with_far_larger_or_smaller_logits_changes_nothing(offset):
    sentence, frames, mask = items(3, 4, 5, 16, torch.float32)
    spoilt = frames.masked_fill(~mask[..., None], 0) + offset * ~mask[..., None] * sentence[0]
    assert not mask.all()
    torch.testing.assert_close(global_similarity(sentence, spoilt, mask), global_similarity(sentence, frames, mask))


def test_identical_frames_score_as_one():
    sentence, frames, mask = items(3, 4, 1, 16)
    whole = torch.ones(4, 7, dtype=torch.bool)
    S = global_similarity(sentence, frames.expand(-1, 7, -1), whole)
    torch.testing.assert_close(S, global_similarity(sentence, frames, mask))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_frames_that_cancel_score_near_zero(dtype):
    frames = torch.randn(2, 1, 16, dtype=dtype)
    frames = torch.cat([frames, -frames], 1).requires_grad_()
    sentence = torch.randn(3, 16, dtype=dtype)
    sentence -= sum((sentence @ y)[:, None] * y / (y @ y) for y in torch.linalg.qr(frames[:, 0].detach().T)[0].T)
    S = global_similarity(sentence, frames, torch.ones(2, 2))  # both frames weigh the same: p is zero but for rounding
    S.sum().backward()
    assert S.abs().max() < 0.01 and frames.grad.isfinite().all()


@pytest.mark.parametrize('size', [1e-4, 1.0])
def test_a_short_pooled_vector_keeps_its_cosine(size):
    sentence, _, mask = items(4, 3, 2, 16)
    y = torch.randn(3, 1, 16, dtype=torch.float64)
    frames = size * torch.cat([y, -y + 0.02 * torch.randn(3, 1, 16, dtype=torch.float64)], 1)  # |p| is a hundredth of |y|
    sentence, mask = sentence / 100, torch.ones_like(mask)
    expected = torch.tensor(loop_global(sentence, frames, mask, 3.0), dtype=torch.float64)
    torch.testing.assert_close(global_similarity(sentence.double(), frames, mask), expected)
    torch.testing.assert_close(global_similarity(sentence.float(), frames.float(), mask).double(), expected, atol=5e-3, rtol=0)


def test_no_videos_and_no_texts_have_a_score():
    sentence, frames, mask = items(3, 4, 5, 6)
    assert global_similarity(sentence, frames[:0], mask[:0]).shape == (3, 0)
    assert global_similarity(sentence[:0], frames, mask).shape == (0, 4)


def test_working_memory_does_not_grow_with_the_number_of_pairs():
    sentence, frames, mask = items(2000, 400, 12, 8, torch.float32)
    with Largest() as largest:
        global_similarity(sentence, frames, mask)
    assert largest.numel <= max(2 ** 21, sentence.shape[0] * len(frames))


@pytest.mark.parametrize('layers', [1, 3])
@pytest.mark.parametrize('mask_padding', [True, False])
def test_the_shared_self_attention_is_the_decoder(layers, mask_padding):
    lim = LocalInteraction(16, num_queries=3, layers=layers, heads=4, mask_padding=mask_padding).eval().double()
    for p in lim.parameters():
        torch.nn.init.normal_(p, std=0.3)  # layers start alike: let them differ
    tokens, mask = torch.randn(5, 4, 16, dtype=torch.float64), torch.rand(5, 4) > 0.4
    mask[:, 0] = True
    padding = ~mask if mask_padding else None
    plain = lim.video_decoder(lim.video_queries.expand(5, -1, -1), tokens, memory_key_padding_mask=padding)
    torch.testing.assert_close(lim.video_concepts(tokens, mask), torch.nn.functional.normalize(plain, dim=-1))
    ours, theirs = (torch.autograd.grad(c[..., 0].sum(), lim.video_queries) for c in (
        lim.video_concepts(tokens, mask), torch.nn.functional.normalize(plain, dim=-1)))
    torch.testing.assert_close(ours, theirs)


def test_training_draws_dropout_for_every_item():
    lim = local().train()
    concepts = lim.video_concepts(torch.ones(2, 4, 16), torch.ones(2, 4))
    assert not torch.allclose(concepts[0], concepts[1])


def test_a_long_frame_that_nobody_attends_to_changes_nothing():
    sentence, frames, mask = items(1, 3, 4, 16, torch.float32)
    mask[:] = True
    frames[:, 2] = -1e4 * sentence[0]
    rest = global_similarity(sentence, frames[:, [0, 1, 3]], mask[:, [0, 1, 3]])
    torch.testing.assert_close(global_similarity(sentence, frames, mask), rest)


@pytest.mark.parametrize('sentence, frames, mask', [
    ((2, 8), (3, 4, 8), (2, 4)), ((2, 8), (3, 4, 8), (3, 2)), ((8,), (3, 4, 8), (3, 4)), ((2, 8), (4, 8), (4,)),
    ((2, 6), (3, 4, 8), (3, 4)), ((2, 8), (3, 0, 8), (3, 0))])
def test_shapes_that_do_not_fit_are_named(sentence, frames, mask):
    with pytest.raises(ValueError, match=re.escape(str(list(frames)))):
        global_similarity(torch.rand(sentence), torch.rand(frames), torch.ones(mask))


@pytest.mark.parametrize('settings', [dict(temperature=0), dict(temperature=-1), dict(temperature=float('nan')), dict(chunk=-1)])
def test_a_temperature_and_a_chunk_are_positive(settings):
    with pytest.raises(ValueError, match='are positive'):
        global_similarity(torch.rand(2, 8), torch.rand(3, 4, 8), torch.ones(3, 4), **settings)


@pytest.mark.parametrize('sizes', [(0,), (64, 0), (64, -1), (64, 8, 0)])
def test_a_local_module_of_sizes_that_cannot_be_is_refused(sizes):
    with pytest.raises(ValueError, match=f'a local module of width {sizes[0]}'):
        LocalInteraction(*sizes)
