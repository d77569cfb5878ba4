"""Each head against plain loops; its two forms against each other; its cost against torch's counter."""
import pytest
import reference as loops
import torch

from glscl import interaction
from glscl.clip_models import small_clip
from glscl.data.batch import Items
from glscl.encoders import TemporalTransformer
from glscl.heads import HEADS, ts2net
from glscl.heads.base import bytes_per_item, compact, temporal_cost
from glscl.heads.costs import counted
from glscl.heads.ts2net import perturbed_top_k
from glscl.losses import contrastive

D, F, L, T, V = 16, 4, 5, 5, 3
TEMPORAL = ('CLIP4Clip seqTransf', 'X-CLIP', 'TS2-Net', 'DiCoSA', 'GLSCL', 'DRL', 'TeachCLIP')


def build(name, width=D, dtype=torch.float64, moved=0.1, temporal_layers=0, **settings):
    """A head in eval mode whose weights have moved away from where they start."""
    if name == 'CLIP4Clip tightTransf':
        temporal_layers = temporal_layers or 2
    settings = {'max_frames': F, 'max_words': L, 'temporal_layers': temporal_layers, **settings}
    head = HEADS[name](width, **settings).eval().to(dtype)
    with torch.no_grad():
        for p in head.parameters():
            p += moved * torch.randn_like(p)
    return head


def items(T=T, V=V, F=F, L=L, D=D, dtype=torch.float64, size=2.0):
    """e, w, word mask, x, frame mask: the last video is whole, the others have holes; some words are padding."""
    e, w, x = (size * torch.randn(*s, D, dtype=dtype) for s in ((T,), (T, L), (V, F)))
    words = torch.arange(L) < torch.randint(1, L + 1, (T, 1))
    frames = torch.rand(V, F) > 0.4
    frames[torch.arange(V), torch.arange(V) % F] = True
    frames[-1] = True
    return e, w, words, x, frames


def encoded(head, e, w, words, x, frames):
    return head.encode_texts(e, w, words), head.encode_videos(x, frames)


def one_pair(name, head, e, w, words, x, frames):
    """The plain loop of one text and one video."""
    seen_words, seen = (m if head.mask_padding else [True] * len(m) for m in (words.tolist(), frames.tolist()))
    mask = frames.tolist()
    if name == 'X-CLIP':
        return loops.xclip(head, e, w, x, x, mask, seen_words, seen)
    if name == 'DRL':
        return loops.drl(head, e, w, x, words.tolist(), mask, -2.0 if head.mask_padding else 0.0)
    if name == 'TS2-Net':
        return loops.ts2net(e, x, mask)
    if name == 'DiCoSA':
        return loops.dicosa(head, e, x, mask, seen)
    if name == 'X-Pool':
        return loops.cosine(e, loops.xpool_vector(head, e, x, seen))
    if name == 'T-MASS':
        return loops.tmass(head, e, x, seen, head.noise())
    if name == 'TeachCLIP':
        return loops.teachclip(head, e, x, seen)
    if name == 'LAFF':
        mean = loops.mixed([m / sum(mask) for m in mask], x)
        sides = loops.laff_spaces(head.text, e, []), loops.laff_spaces(head.video, mean, [])
        return sum(loops.cosine(*g) for g in zip(*sides)) / 8
    if name == 'CLIP4Clip tightTransf':
        return loops.cross_transformer(head, e, x, mask)
    if name == 'GLSCL':
        concepts = head.local.text_concepts(w[None], words[None]), head.local.video_concepts(x[None], frames[None])
        return (loops.global_similarity([e], [x], [mask], 3.0)[0][0] + 0.5 * loops.local_similarity(*concepts)[0][0])
    return loops.mean_similarity([e], [x], [seen if name == 'Prompt Switch' else mask])[0][0]


@pytest.mark.parametrize('mask_padding', [False, True])
@pytest.mark.parametrize('name', HEADS)
@torch.no_grad()
def test_the_head_is_the_loop(name, mask_padding):
    head, few = build(name, mask_padding=mask_padding), 2 if 'tight' in name else T
    e, w, words, x, frames = items(few)
    expected = torch.tensor([[one_pair(name, head, e[t], w[t], words[t], x[v], frames[v]) for v in range(V)] for t in range(few)],
                            dtype=torch.float64)
    texts, videos = encoded(head, e, w, words, x, frames)
    torch.testing.assert_close(head.similarity(texts, videos), expected)
    torch.testing.assert_close(head.direct(texts, videos), expected)


@torch.no_grad()
def test_laff_fuses_other_features():
    head = build('LAFF', text_features=(3,), video_features=(6, 2))
    e, w, words, x, frames = items()
    others = torch.randn(T, 3), torch.randn(V, 6), torch.randn(V, 2)
    texts, videos = head.encode_texts(e, features=others[:1]), head.encode_videos(x, features=others[1:])
    sides = ([loops.laff_spaces(head.text, e[t], [others[0][t]]) for t in range(T)],
             [loops.laff_spaces(head.video, x[v].mean(0), [o[v] for o in others[1:]]) for v in range(V)])
    expected = [[sum(loops.cosine(*g) for g in zip(t, v)) / 8 for v in sides[1]] for t in sides[0]]
    torch.testing.assert_close(head.similarity(texts, videos), torch.tensor(expected, dtype=torch.float64))
    with pytest.raises(ValueError, match='0 features besides CLIP'):
        head.encode_texts(e)


@pytest.mark.parametrize('name', HEADS)
@torch.no_grad()
def test_both_forms_agree_in_float32_for_any_tile(name):
    head = build(name, 64, torch.float32, max_frames=12, max_words=9, temporal_layers=1)
    x = items(11, 7, 12, 9, 64, torch.float32, size=1.2)  # norms about 10, as CLIP's
    texts, videos = encoded(head, *x)
    S = head.similarity(texts, videos)
    assert S.shape == (11, 7) and S.dtype == torch.float32
    for form, tile in ((head.direct, None), (head.direct, 4), (head.similarity, 1), (head.similarity, 3)):
        other = form(texts, videos, tile)
        torch.testing.assert_close(other, S, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize('name', HEADS)
@torch.no_grad()
def test_a_score_hangs_on_its_pair_alone(name):
    head = build(name, temporal_layers=1)
    e, w, words, x, frames = items(6, 5)
    S = head.similarity(*encoded(head, e, w, words, x, frames))
    rows, columns = torch.randperm(6), torch.randperm(5)
    shuffled = head.similarity(*encoded(head, e[rows], w[rows], words[rows], x[columns], frames[columns]))
    torch.testing.assert_close(shuffled, S[rows][:, columns])
    for form in (head.similarity, head.direct):  # encoded and scored alone
        torch.testing.assert_close(form(*encoded(head, e[2:3], w[2:3], words[2:3], x[1:2], frames[1:2])), S[2:3, 1:2])
        torch.testing.assert_close(form(*encoded(head, e[2:3], w[2:3], words[2:3], x, frames)), S[2:3])
    texts, videos = encoded(head, e, w, words, x, frames)
    assert head.similarity(texts[:0], videos).shape == (0, 5) and head.similarity(texts, videos[:0]).shape == (6, 0)


@pytest.mark.parametrize('mask_padding', [False, True])
@pytest.mark.parametrize('name', HEADS)
def test_a_video_without_frames_scores_zero_and_spoils_nothing(name, mask_padding):
    head = build(name, temporal_layers=1, mask_padding=mask_padding)
    e, w, words, x, frames = items()
    whole = head.similarity(*encoded(head, e, w, words, x, frames)).detach()
    frames[1], words[0] = False, False
    for form in (head.similarity, head.direct):
        head.zero_grad()
        leaf = x.clone().requires_grad_()
        S = form(*encoded(head, e, w, words, leaf, frames))
        assert (S[:, 1] == 0).all() and S.isfinite().all()
        torch.testing.assert_close(S[1:, [0, 2]].detach(), whole[1:, [0, 2]])
        S.sum().backward()
        assert leaf.grad.isfinite().all() and (leaf.grad[1] == 0).all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())


# ---- features out of the ordinary

@pytest.mark.parametrize('name', HEADS)
@torch.no_grad()
def test_one_frame_and_identical_frames_are_the_same_video(name):
    """Repeating a frame changes nothing, but for heads that know a frame's place or weigh by number."""
    head = build(name, dtype=torch.float32)
    e, w, words, x, _ = items(dtype=torch.float32)
    one, same = (head.similarity(*encoded(head, e, w, words, y, None)) for y in (x[:, :1], x[:, :1].expand(-1, F, -1)))
    assert one.isfinite().all() and same.isfinite().all()
    if name not in ('CLIP4Clip tightTransf', 'X-CLIP', 'T-MASS'):
        torch.testing.assert_close(one, same, atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(head.direct(*encoded(head, e, w, words, x[:, :1], None)), one, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize('left', [0.0, 1e-7, 1e-5, 1e-2])
@pytest.mark.parametrize('name', HEADS)
@torch.no_grad()
def test_frames_that_cancel_stay_in_bounds(name, left):
    """Orthogonal texts weigh opposite frames alike; what is left of the pooled vector is `left` of their length."""
    head = build(name, dtype=torch.float32, moved=0.0)
    e, w, words, x, _ = items(dtype=torch.float32)
    y = x[:, :1]
    e = e - (e @ y[0, 0])[:, None] * y[0, 0] / (y[0, 0] @ y[0, 0])
    y = torch.cat([y, -y, y, -y], 1) + left * x
    texts, videos = encoded(head, e, w, words, y, None)
    S, direct = head.similarity(texts, videos), head.direct(texts, videos)
    assert S.isfinite().all() and direct.isfinite().all()
    if name != 'GLSCL':  # its bounds are global_similarity's own affair
        assert S.abs().max() <= 1 + 1e-5
    gram = name in ('GLSCL', 'DiCoSA')  # |p|^2 from the Gram matrix: what is left of it has few digits
    if left >= 1e-2 or not gram:
        torch.testing.assert_close(S, direct, atol=2e-3 if gram else 2e-4, rtol=1e-3)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@pytest.mark.parametrize('name', HEADS)
@torch.no_grad()
def test_half_precision_features_are_summed_in_float32(name, dtype):
    head = build(name, dtype=torch.float32)
    e, w, words, x, frames = items(dtype=torch.float32, size=9000.0)  # every product overflows float16
    half = [a.to(dtype) for a in (e, w, x)]
    S = head.similarity(*encoded(head, half[0], half[1], words, half[2], frames))
    assert S.dtype == torch.float32 and S.isfinite().all()
    exact = head.similarity(*encoded(head, *(a.float() for a in half[:2]), words, half[2].float(), frames))
    assert torch.equal(S, exact)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(head.similarity(*encoded(head, half[0], half[1], words, half[2], frames)), exact)


@pytest.mark.parametrize('name', HEADS)
@torch.no_grad()
def test_black_frames_and_empty_sentences_are_finite(name):
    head = build(name, dtype=torch.float32)
    e, w, words, x, frames = items(dtype=torch.float32)
    e[0], x[1], x[0, 0], w[0] = 0, 0, 0, 0
    texts, videos = encoded(head, e, w, words, x, frames)
    assert head.similarity(texts, videos).isfinite().all() and head.direct(texts, videos).isfinite().all()


# ---- what padding does

ATTEND_TO_FRAMES = {'X-CLIP', 'X-Pool', 'T-MASS', 'DiCoSA', 'Prompt Switch', 'GLSCL', 'TeachCLIP'}
ATTEND_TO_WORDS = {'X-CLIP', 'GLSCL'}


@pytest.mark.parametrize('name', HEADS)
@torch.no_grad()
def test_padding_counts_where_the_released_code_lets_it(name):
    e, w, words, x, frames = items(4, 4)
    frames[0], words[0] = torch.tensor([1, 1, 0, 0]), torch.tensor([1, 1, 1, 0, 0])
    other_x, other_w = (torch.where(m[..., None], y, 3 * torch.randn_like(y)) for m, y in ((frames, x), (words, w)))
    for mask_padding in (False, True):
        head = build(name, mask_padding=mask_padding, temporal_layers=1)
        S = head.similarity(*encoded(head, e, w, words, x, frames))
        moved = [bool((head.similarity(*encoded(head, e, b, words, a, frames)) - S).abs().max() > 1e-6)
                 for a, b in ((other_x, w), (x, other_w))]
        assert moved == [name in ATTEND_TO_FRAMES and not mask_padding, name in ATTEND_TO_WORDS and not mask_padding]


# ---- where training starts

@torch.no_grad()
def test_xclip_starts_without_its_matrices():
    head = build('X-CLIP', moved=0.0)
    e, w, words, x, _ = items()
    S = head.similarity(*encoded(head, e, w, words, x, None))
    e, w, x = (a / a.norm(dim=-1, keepdim=True) for a in (e, w, x))
    u = x.mean(1) / x.mean(1).norm(dim=-1, keepdim=True)

    def soft(a, dim):
        return ((a / 0.01).softmax(dim) * a).sum(dim)
    G = torch.einsum('tld,vfd->tvlf', w, x)
    expected = (e @ u.T + soft(torch.einsum('tld,vd->tvl', w, u), -1) + soft(torch.einsum('td,vfd->tvf', e, x), -1)
                + (soft(soft(G, 2), -1) + soft(soft(G, 3), -1)) / 2) / 4
    torch.testing.assert_close(S, expected)


@torch.no_grad()
def test_xpool_starts_as_attention_pooling():
    head = build('X-Pool', moved=0.0)
    e, w, words, x, _ = items()

    def norm(a):
        return torch.nn.functional.layer_norm(a, (D,))
    a = (torch.einsum('td,vfd->tvf', norm(e), norm(x)) / D ** 0.5).softmax(-1)
    p = norm(2 * norm(torch.einsum('tvf,vfd->tvd', a, norm(x))))
    S = head.similarity(*encoded(head, e, w, words, x, None))
    torch.testing.assert_close(S, torch.cosine_similarity(e[:, None], p, dim=-1))


@torch.no_grad()
def test_tmass_starts_with_radius_exp_cosine_and_a_fixed_draw():
    head = build('T-MASS', moved=0.0)
    c = torch.rand(3, F, dtype=torch.float64)
    torch.testing.assert_close(head.radii(c), torch.cat([c.exp(), torch.ones(3, D - F, dtype=torch.float64)], -1))
    assert torch.equal(head.noise(), head.noise()) and 0 <= head.noise().min() and head.noise().max() < 1
    e, w, words, x, frames = items()
    small, large = (build('T-MASS', moved=0.0, trials=k) for k in (1, 20))
    more = large.similarity(*encoded(large, e, w, words, x, frames)) - small.similarity(*encoded(small, e, w, words, x, frames))
    assert (more >= -1e-12).all() and more.max() > 0  # the best of 20 that begin with the one


@torch.no_grad()
def test_tmass_pools_the_video_with_its_own_query():
    """The leak of the released evaluation: a score that changes when the video's true caption does."""
    head = build('T-MASS')
    e, w, words, x, frames = items(3, 3)
    S = head.similarity(*encoded(head, e, w, words, x, frames))
    e[1] += 5
    changed = head.similarity(*encoded(head, e, w, words, x, frames))
    torch.testing.assert_close(changed[[0, 2]], S[[0, 2]])
    assert (changed[1] - S[1]).abs().max() > 1e-3


@torch.no_grad()
def test_laffs_feature_layers_start_xavier_uniform_without_bias():
    head = build('LAFF', 64, moved=0.0, text_features=(300,), video_features=(40, 500))
    for layer, *_ in (*head.text.others, *head.video.others):
        bound = (6 / (layer.in_features + layer.out_features)) ** 0.5  # torch's own would be 1 / sqrt(inputs)
        assert not layer.bias.any() and 0.99 * bound < layer.weight.abs().max() <= bound
        assert float(layer.weight.std()) == pytest.approx(bound / 3 ** 0.5, rel=0.03)


def test_transformers_start_as_clips_text_blocks():
    clip, _ = small_clip(['a', 'b'])
    for name in (*TEMPORAL, 'CLIP4Clip tightTransf'):
        head = HEADS[name](128, max_frames=F, clip=clip, temporal_layers=2)
        mine = head.temporal if name in TEMPORAL else head
        assert torch.equal(mine.positions, clip.clip.positional_embedding)
        assert torch.equal(mine.blocks[1].attn.in_proj_weight, clip.clip.transformer.resblocks[1].attn.in_proj_weight)


def test_the_cross_transformer_drops_the_same_tokens_in_both_forms():
    head = build('CLIP4Clip tightTransf').train()
    texts, videos = encoded(head, *items())
    S, direct = (torch.manual_seed(0) and form(texts, videos) for form in (head.similarity, head.direct))
    torch.testing.assert_close(S, direct)
    assert not torch.allclose(S, head.eval().similarity(texts, videos), atol=1e-6)


@pytest.mark.parametrize('name', ['CLIP4Clip seqTransf', 'DiCoSA', 'GLSCL', 'DRL', 'TeachCLIP', 'TS2-Net'])
@torch.no_grad()
def test_the_temporal_transformer_comes_first(name):
    head = build(name, temporal_layers=2)
    assert isinstance(head.temporal, TemporalTransformer)
    e, w, words, x, frames = items()
    S, y = head.similarity(*encoded(head, e, w, words, x, frames)), head.temporal(x, frames)
    head.temporal = None
    torch.testing.assert_close(head.similarity(*encoded(head, e, w, words, y, frames)), S)


def test_glscl_scores_through_the_package(monkeypatch):
    head = build('GLSCL')
    texts, videos = encoded(head, *items())
    expected = interaction.global_similarity(texts.sentence, videos.frames, videos.mask) \
        + 0.5 * interaction.local_similarity(texts.concepts, videos.concepts)
    assert torch.equal(head.similarity(texts, videos), expected)


# ---- TS2-Net's tokens

def test_perturbed_selection_is_the_hard_one_where_scores_differ_much():
    scores = torch.tensor([[0.0, 9.0, 1.0, 5.0, 7.0]], requires_grad=True)
    noise = torch.randn(200, 5)
    chosen = perturbed_top_k(scores, noise, 3, 0.05)
    assert torch.equal(chosen, torch.eye(5)[[1, 3, 4]][None])
    near = perturbed_top_k(scores * 0.001, noise, 3, 0.05)
    torch.testing.assert_close(near.sum(-1), torch.ones(1, 3))
    assert (near[0] > 0.05).sum() > 6


def test_perturbed_selection_has_the_perturbed_gradient():
    noise, weights = torch.randn(20000, 3, dtype=torch.float64), torch.tensor([[[1.0, -2.0, 0.5]]], dtype=torch.float64)

    def expectation(scores):  # of <one-hot of the largest, weights>
        return (perturbed_top_k(scores, noise, 1, 0.5) * weights).sum()
    scores = torch.tensor([[0.1, -0.2, 0.3]], dtype=torch.float64, requires_grad=True)
    grad = torch.autograd.grad(expectation(scores), scores)[0][0]
    for i in range(3):
        step = 0.15 * torch.eye(3, dtype=torch.float64)[i]
        slope = (expectation(scores.detach() + step) - expectation(scores.detach() - step)) / 0.3
        assert float(grad[i]) == pytest.approx(float(slope), abs=0.1)


@pytest.mark.parametrize('diagonal', [False, True])
def test_the_selections_gradient_is_the_loop(diagonal):
    """The whole Jacobian, or its diagonal as in the released code, which has noise for each row."""
    scores = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    noise, weights = torch.randn(3, 40, 6, dtype=torch.float64), torch.randn(3, 2, 6, dtype=torch.float64)
    (perturbed_top_k(scores, noise, 2, 0.7, diagonal) * weights).sum().backward()
    for row in range(3):
        slope, other = (loops.top_k_gradient(scores[row].tolist(), noise[row].tolist(), 2, 0.7, weights[row].tolist(), form)
                        for form in (diagonal, not diagonal))
        assert scores.grad[row].tolist() == pytest.approx(slope) and slope != pytest.approx(other, rel=0.1)


def test_released_the_selection_draws_for_each_frame_in_training_and_keeps_the_diagonal(monkeypatch):
    frames, patches, kept = torch.randn(1, 1, D).expand(1, 2, D), torch.randn(1, 1, 9, D).expand(1, 2, 9, D), []
    whole = ts2net.perturbed_top_k
    monkeypatch.setattr(ts2net, 'perturbed_top_k', lambda *args: kept.append(args[-1]) or whole(*args))
    for released in (False, True):
        select = build('TS2-Net', dtype=torch.float32, moved=0.0, released=released).select
        for training in (False, True):
            first, second = select.train(training)(frames, patches)[0]  # the same frame twice
            assert torch.equal(first, second) == (not (released and training)) and kept.pop() == released


@pytest.mark.parametrize('mask_padding', [False, True])
@torch.no_grad()
def test_ts2net_with_patches_is_the_loop_also_for_clips_shorter_than_f(mask_padding):
    head = build('TS2-Net', mask_padding=mask_padding, temporal_layers=1)
    head.select.samples = 20
    noise = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    e, _, _, x, _ = items(2, 4)
    patches, mask = 2 * torch.randn(4, F, 6, D, dtype=torch.float64), torch.arange(F) < torch.tensor([[1], [2], [3], [4]])
    videos = [loops.ts2net_frames(head, x[v], patches[v], mask[v].tolist(), noise) for v in range(4)]
    expected = [[loops.ts2net(e[t], *video) for video in videos] for t in range(2)]
    S = head.similarity(head.encode_texts(e), head.encode_videos(x, mask, patches=patches))
    torch.testing.assert_close(S, torch.tensor(expected, dtype=torch.float64))
    padding = ~mask[..., None]
    again = head.encode_videos(x + padding, mask, patches=patches - padding[..., None].double())
    moved = (head.similarity(head.encode_texts(e), again) - S).abs().amax(0) > 1e-6
    assert moved.tolist() == [not mask_padding] * 3 + [False]


@torch.no_grad()
def test_ts2net_reads_class_tokens_after_patches_and_tiles_the_mask_as_released():
    x, patches, mask = torch.randn(2, 12, D), torch.randn(2, 12, 9, D), torch.arange(12).expand(2, 12) < torch.tensor([[5], [12]])
    for mask_padding in (False, True):
        head = build('TS2-Net', dtype=torch.float32, temporal_layers=1, max_frames=12, mask_padding=mask_padding)
        videos, again = (head.encode_videos(x, mask, patches=patches) for _ in range(2))
        plain = head.encode_videos(x, mask)
        assert torch.equal(videos.unit, again.unit) and not torch.allclose(videos.unit[1], plain.unit[1], atol=1e-3)
        expected = mask if mask_padding else mask[:, [4 * f % 12 for f in range(12)]]
        assert torch.equal(videos.mask, expected) and torch.equal(videos.mask[1], mask[1])
        alone = head.encode_videos(x[:1], mask[:1], patches=patches[:1])
        torch.testing.assert_close(alone.unit, videos.unit[:1])


# ---- losses

@pytest.mark.parametrize('name', HEADS)
def test_every_parameter_of_every_head_trains(name):
    head = build(name, dtype=torch.float32, temporal_layers=1).train()
    e, w, words, x, frames = items(4, 4, dtype=torch.float32)
    more = {'patches': torch.randn(4, F, 9, D)} if name == 'TS2-Net' else {}
    loss = head.loss(head.encode_texts(e, w, words), head.encode_videos(x, frames, **more), torch.tensor(5.0))
    assert loss.ndim == 0 and loss.isfinite()
    if any(True for _ in head.parameters()):
        loss.backward()
    assert [n for n, p in head.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@torch.no_grad()
def test_losses_that_differ_are_the_loops():
    e, w, words, x, frames = items(4, 4)
    nce = {}
    for name in ('X-CLIP', 'DiCoSA', 'LAFF', 'CLIP4Clip tightTransf', 'GLSCL', 'CLIP-ViP'):
        head = build(name)
        texts, videos = encoded(head, e, w, words, x, frames)
        S = head.similarity(texts, videos)
        nce[name] = float(head.loss(texts, videos, 5.0)), loops.contrastive(S, 1.0 if 'tight' in name else 5.0)
        if name == 'CLIP-ViP':  # the sum of both directions, not their mean
            nce[name] = nce[name][0], 2 * nce[name][1]
        if name == 'LAFF':
            spaces = torch.einsum('thd,vhd->htv', texts.unit, videos.unit).tolist()
            wanted = sum(max(0.0, 0.2 + max(s for j, s in enumerate(row) if j != i) - row[i])
                         for space in spaces for i, row in enumerate(space))
            assert nce[name][0] == pytest.approx(wanted)
        if name == 'DiCoSA':
            nce[name] = nce[name][0] - decorrelation(head, e, x, frames), nce[name][1]
        if name == 'GLSCL':
            extra = loops.inter_consistency(videos.concepts, texts.concepts, 0.005, 0.75, False) + sum(
                loops.intra_diversity(c, 1e-4, 0.1) for c in (videos.concepts, texts.concepts))
            nce[name] = nce[name][0] - extra, nce[name][1]
    for name in ('X-CLIP', 'DiCoSA', 'CLIP4Clip tightTransf', 'GLSCL', 'CLIP-ViP'):
        assert nce[name][0] == pytest.approx(nce[name][1]), name


def decorrelation(head, e, y, mask):
    C, d, B = head.concepts, D // head.concepts, len(e)
    M = [[0.0] * C for _ in range(C)]

    def z_scores(x):
        mean = sum(x) / d
        std = (sum((a - mean) ** 2 for a in x) / (d - 1)) ** 0.5
        return [(a - mean) / std for a in x]
    for b in range(B):
        a = [w * float(m) for w, m in zip(loops.softmax([loops.dot(e[b], f) / 3 for f in y[b]]), mask[b])]
        p = loops.mixed(a, y[b])
        t, v = ([z_scores(loops.floats(x[c * d:c * d + d])) for c in range(C)] for x in (e[b], p))
        M = [[M[i][j] + loops.dot(t[i], v[j]) / B / L for j in range(C)] for i in range(C)]
    return (0.01 * sum((M[i][i] - 1) ** 2 for i in range(C))
            + 0.005 * sum(M[i][j] ** 2 for i in range(C) for j in range(C) if i != j))


@torch.no_grad()
def test_tmass_trains_on_sampled_and_support_texts():
    head = build('T-MASS')
    e, w, words, x, frames = items(3, 3)
    texts, videos = encoded(head, e, w, words, x, frames)
    torch.manual_seed(3)
    loss = head.loss(texts, videos, 5.0)
    torch.manual_seed(3)
    eps, parts = torch.rand(3, D, dtype=torch.float64), []
    p = [[torch.tensor(loops.xpool_vector(head, e[t], x[v], [True] * F)) for v in range(3)] for t in range(3)]
    rho = [head.radii(torch.tensor([loops.cosine(e[i], f) for f in x[i]], dtype=torch.float64)) for i in range(3)]
    for kind in ('sampled', 'support'):
        S = []
        for i in range(3):
            toward = sum(p[t][i] for t in range(3)) / 3 - e[i]
            text = e[i] + (eps[i] if kind == 'sampled' else toward / toward.norm()) * rho[i]
            S.append([loops.cosine(text, p[i][v]) for v in range(3)])
        parts.append(loops.contrastive(S, 5.0))
    assert float(loss) == pytest.approx(parts[0] + 0.8 * parts[1])


@torch.no_grad()
def test_captions_of_one_video_are_no_negatives():
    head = build('X-Pool')
    texts, videos = encoded(head, *items(4, 4))
    ids = torch.tensor([3, 1, 3, 2])
    S = head.similarity(texts, videos)
    assert float(head.loss(texts, videos, 5.0, ids)) == pytest.approx(float(contrastive(S, 5.0, ids)))


# ---- what is kept

@pytest.mark.parametrize('name', HEADS)
@torch.no_grad()
def test_what_is_kept_is_all_that_scoring_needs_and_as_large_as_stated(name):
    head = build(name, 64, torch.float32, max_frames=6, temporal_layers=1)
    texts, videos = encoded(head, *items(5, 4, 6, 5, 64, torch.float32))
    cost = head.cost(F=6, L=5, D=64, Q=8)
    assert (bytes_per_item(texts), bytes_per_item(videos)) == (cost.text_bytes, cost.video_bytes)
    S = head.similarity(texts, videos)
    assert torch.equal(head.similarity(compact(texts), compact(videos)), S)
    joined = Items.cat([videos[:1], videos[1:]])
    assert len(joined) == 4 and torch.equal(head.similarity(texts, joined.to('cpu')), S)
    torch.testing.assert_close(head.similarity(texts, videos[torch.tensor([3, 0])]), S[:, [3, 0]])


def test_what_does_not_fit_is_refused_in_words():
    head = build('X-CLIP')
    e, w, words, x, frames = items()
    with pytest.raises(ValueError, match='width=16.*|built for width 16'):
        head.encode_videos(x[..., :8], frames)
    with pytest.raises(ValueError, match='max_frames=8'):
        head.encode_videos(torch.cat([x, x], 1))
    with pytest.raises(ValueError, match='max_words=10'):
        head.encode_texts(e, torch.cat([w, w], 1))
    with pytest.raises(ValueError, match='reads the words'):
        head.encode_texts(e)
    with pytest.raises(ValueError, match='mask is'):
        head.encode_videos(x, frames[:, :2])
    with pytest.raises(ValueError, match=r'one vector a video is \[V, 1, D\]'):
        HEADS['CLIP-ViP'](16).encode_videos(x[:, 0])
    with pytest.raises(ValueError, match='concepts'):
        HEADS['DiCoSA'](20)
    build('X-Pool', max_frames=2).encode_videos(x, frames)  # no parameter has the size F


@pytest.mark.parametrize('name', HEADS)
def test_extreme_sizes_are_right_or_refused_by_name(name):
    """Right: one frame, one word, a batch of one, no texts, no videos, any width that splits. Else a message with name and size."""
    for width in (2, 63, 130, 200):
        if name in ('GLSCL', 'DiCoSA') and width % 8:
            with pytest.raises(ValueError, match=f'{name}: width {width} does not split into'):
                build(name, width)
            continue
        head = build(name, width, torch.float32, temporal_layers=1)
        S = head.similarity(*encoded(head, *items(2, 3, D=width, dtype=torch.float32)))
        assert S.shape == (2, 3) and S.isfinite().all()
    head = build(name, temporal_layers=1)
    for T, V, F, L in ((0, 2, 3, 4), (2, 0, 3, 4), (0, 0, 3, 4), (1, 1, 1, 1)):
        e, w, x = torch.randn(T, D).double(), torch.randn(T, L, D).double(), torch.randn(V, F, D).double()
        for form in (head.similarity, head.direct):
            assert form(*encoded(head, e, w, None, x, None)).shape == (T, V)
    texts, videos = encoded(head, *items(1, 1))
    for some in ((texts[:0], videos[:0]), (texts, videos[:0])):
        with pytest.raises(ValueError, match='trains on pairs of a text and its video'):
            head.loss(*some, torch.tensor(5.0))
    assert head.loss(texts, videos, torch.tensor(5.0)).isfinite()
    for setting in (dict(width=0), dict(width=63.5), dict(max_frames=0), dict(max_words=-1), dict(temporal_layers=-1)):
        with pytest.raises(ValueError, match=f'{next(iter(setting))} must be a whole number from [01] on'):
            HEADS[name](**{'width': 64, **setting})
    with pytest.raises(ValueError, match='tile must be a whole number from 1 on, not 0'):
        head.similarity(texts, videos, 0)
    for what, encode in (('frames', lambda: head.encode_videos(torch.randn(2, 0, D))),
                         ('words', lambda: head.encode_texts(torch.randn(2, D), torch.randn(2, 0, D)))):
        with pytest.raises(ValueError, match=f'{what} are .*needs one at least'):
            encode()


def test_what_one_head_alone_cannot_take_is_refused_in_words():
    laff = build('LAFF').train()
    with pytest.raises(ValueError, match='LAFF normalises over the batch.*batch_size'):
        laff.encode_texts(torch.randn(1, D).double())
    with pytest.raises(ValueError, match='tightTransf is a transformer and needs a layer.*temporal_layers'):
        HEADS['CLIP4Clip tightTransf'](D, temporal_layers=0)
    x = torch.randn(2, F, D).double()
    with pytest.raises(ValueError, match='selects 3 patches of each frame, and there are 2'):
        build('TS2-Net').encode_videos(x, patches=x[:, :, None].expand(-1, -1, 2, -1))
    with pytest.raises(ValueError, match=r'patches are \[2, 3, 9, 16\], expected'):
        build('TS2-Net').encode_videos(x, patches=torch.randn(2, 3, 9, D))
    with pytest.raises(ValueError, match=r'words are \[3, 5, 16\], expected \[T, L, D\] with T = 2'):
        build('X-CLIP').encode_texts(torch.randn(2, D), torch.randn(3, L, D))
    with pytest.raises(ValueError, match=r'sentences are \[16\], expected \[T, D\]'):
        build('X-CLIP').encode_texts(torch.randn(D), torch.randn(1, L, D))


# ---- what it costs

COUNT = dict(F=6, L=5, D=64, Q=8)


@pytest.mark.parametrize('name', HEADS)
def test_closed_forms_are_what_torch_counts(name):
    head = build(name, 64, torch.float32, max_frames=6, temporal_layers=4)
    texts, videos = encoded(head, *items(3, 4, 6, 5, 64, torch.float32))
    cost = head.cost(**COUNT)
    assert counted(head.similarity, texts, videos) == 3 * 4 * (cost.gram - cost.gram_sums)  # nothing per item is left in it


@pytest.mark.parametrize('name', [n for n in HEADS if n != 'LAFF'])
def test_closed_forms_of_the_one_off_part_are_what_torch_counts(name):
    head = build(name, 64, torch.float32, max_frames=6, temporal_layers=4)
    e, w, words, x, frames = items(3, 4, 6, 5, 64, torch.float32)
    cost, more = head.cost(**COUNT), {}
    if name == 'TS2-Net':
        cost, more = head.cost(**COUNT, P=9), {'patches': torch.randn(4, 6, 9, 64)}
        head.select.requires_grad_(False)  # else the selection prepares its gradient too
    if name == 'GLSCL':
        head.local.train()  # in eval mode its first self-attention runs once for all items
    assert counted(head.encode_videos, x, frames, **more) == 4 * (cost.video + cost.gram_video)
    assert counted(head.encode_texts, e, w, words) == 3 * cost.text


def test_laffs_one_off_part():
    head = build('LAFF', 64, torch.float32, video_features=(10, 20))
    x, features = torch.randn(4, 6, 64), [torch.randn(4, n) for n in (10, 20)]
    assert counted(head.encode_videos, x, features=features) == 4 * head.cost(D=64, video_features=(10, 20)).video


def test_costs_at_the_papers_sizes():
    """F = 12, L = 32, D = 512, Q = 8: per pair A, A*, B; C in M per 1000 videos and texts, as the public code was read."""
    known = {
        'CLIP4Clip meanP': (512, 512, 512, 0), 'CLIP4Clip seqTransf': (512, 512, 512, 151.6), 'CenterCLIP': (512, 512, 512, 0),
        'CLIP4Clip tightTransf': (122_692_096, 122_692_096, 164_532_736, 10.2), 'CLIP-ViP': (512, 512, 512, 0),
        'Prompt Switch': (512, 512, 512, 0), 'TeachCLIP': (512, 512, 512, 154.7), 'LAFF': (4096, 4096, 4096, 0.0),
        'TS2-Net': (6156, 6156, 6156, 771.8), 'GLSCL': (16_896, 10_396, 2_116_096, 398.4),
        'DiCoSA': (39_432, 34_024, 277_000, 153.3),
        'DRL': (196_652, 196_652, 196_652, 163.1), 'X-CLIP': (239_736, 239_736, 262_264, 160.2),
        'X-Pool': (274_944, 12_809, 537_088, 6.55), 'T-MASS': (317_952, 55_952, 647_680, 6.55)}
    assert set(known) == set(HEADS)
    for name, (pair, gram, coded, once) in known.items():
        cost = HEADS[name].cost()
        assert (cost.pair, cost.gram, cost.coded) == (pair, gram, coded), name
        assert (cost.video + cost.text) / 1e6 == pytest.approx(once, abs=0.06), name
    again = {name: round(HEADS[name].cost().repeated / 1e9) for name in HEADS if HEADS[name].cost().repeated}
    assert again == {'CLIP4Clip seqTransf': 9550, 'X-CLIP': 3790, 'TS2-Net': 76677, 'GLSCL': 15551, 'T-MASS': 512}
    for S, millions in ((12, 151.6), (48, 613.4)):
        assert temporal_cost(S, 512) / 1e6 == pytest.approx(millions, abs=0.06)
