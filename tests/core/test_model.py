"""The whole model: what it returns, what padding and batching may not change, what trains at which rate."""
import pytest
import reference
import torch

from glscl import GLSCL, Texts, Videos, encode, evaluate
from glscl.interaction import gram

VARIANTS = [dict(temporal='none'), dict(temporal='lstm'), dict(pooling='mean'), dict(local_weight=0.0), dict(released=True),
            dict(share_queries=False, share_decoder=False), dict(num_queries=1)]


def encoded(model, batch):
    ids, words_mask, pixels, frame_mask = batch
    return model.encode_texts(ids, words_mask), model.encode_videos(pixels, frame_mask)


def test_shapes_and_the_sum_of_both_similarities(model, batch):
    with torch.no_grad():
        texts, videos = encoded(model, batch)
        S = model.similarity(texts, videos)
    L, D, Q = batch[0].shape[1], model.clip.width, 3
    assert [tuple(x.shape) for x in (texts.sentence, texts.words, texts.mask, texts.concepts)] == [(6, D), (6, L, D), (6, L), (6, Q, D)]
    assert [tuple(x.shape) for x in (videos.frames, videos.mask, videos.gram, videos.concepts)] == [(4, 4, D), (4, 4), (4, 4, 4), (4, Q, D)]
    assert S.shape == (6, 4) and torch.equal(videos.gram, gram(videos.frames))
    expected = reference.similarity(reference.global_similarity(texts.sentence, videos.frames, videos.mask, 3.0),
                                    reference.local_similarity(texts.concepts, videos.concepts), 0.5)
    torch.testing.assert_close(S, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_losses_are_those_of_the_loops(model, batch):
    with torch.no_grad():
        texts, videos = encoded(model, batch)
        texts, ids = texts[:4], torch.tensor([5, 6, 5, 7])
        losses, S = model.losses(texts, videos, ids), model.similarity(texts, videos)
        c_t, c_v = texts.concepts, videos.concepts
        assert float(losses.contrastive) == pytest.approx(reference.contrastive(S, float(model.scale), ids), rel=1e-4)
        assert float(losses.inter_consistency) == pytest.approx(
            reference.inter_consistency(c_v, c_t, 0.005, 0.75, False), rel=1e-4)
        assert float(losses.intra_diversity) == pytest.approx(
            reference.intra_diversity(c_v, 1e-4, 0.1) + reference.intra_diversity(c_t, 1e-4, 0.1), rel=1e-4)
        assert losses.total == losses.contrastive + losses.inter_consistency + losses.intra_diversity

        model.config = model.config.replace(released=True)  # diagonal only, the other consistency, visual side only
        losses = model.losses(texts, videos, ids)
        assert float(losses.contrastive) == pytest.approx(reference.contrastive(S, float(model.scale)), rel=1e-4)
        assert float(losses.inter_consistency) == pytest.approx(
            reference.inter_consistency(c_v, c_t, 0.005, 0.75, True), rel=1e-4)
        assert float(losses.intra_diversity) == pytest.approx(reference.intra_diversity(c_v, 1e-4, 0.1), rel=1e-4)


@torch.no_grad()
def test_the_ablations_leave_out_what_they_say(model, batch):
    texts, videos = encoded(model, batch)
    texts, ids = texts[:4], torch.tensor([5, 6, 5, 7])
    full, S, config = model.losses(texts, videos, ids), model.similarity(texts, videos), model.config
    S_l = torch.einsum('tqd,vqd->tv', texts.concepts, videos.concepts) / config.num_queries
    model.config = config.replace(global_weight=0, local_weight=1)
    torch.testing.assert_close(model.similarity(texts, videos), S_l)
    model.config = config.replace(global_weight=2)
    torch.testing.assert_close(model.similarity(texts, videos), 2 * S - config.local_weight * S_l)
    model.config = config.replace(consistency=False)
    losses = model.losses(texts, videos, ids)
    assert losses.inter_consistency == 0 and (losses.contrastive, losses.intra_diversity) == (full.contrastive, full.intra_diversity)
    model.config = config.replace(released_losses=True)
    losses = model.losses(texts, videos, ids)
    model.config = config.replace(released=True)
    assert losses == model.losses(texts, videos, ids) and losses.inter_consistency != full.inter_consistency


@pytest.mark.parametrize('settings', VARIANTS, ids=lambda s: '-'.join(map(str, s)) + str(next(iter(s.values()))))
def test_every_variant_trains(config, batch, settings):
    model = GLSCL(config.replace(**settings)).train()
    texts, videos = encoded(model, batch)
    losses = model.losses(texts[:4], videos)
    losses.total.backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())]
    assert unused == []
    assert bool(model.local) == (config.replace(**settings).local_weight > 0) == bool(losses.inter_consistency > 0)
    if settings.get('temporal') == 'none':
        x = model.clip.encode_frames(batch[2].flatten(0, 1)).view(4, 4, -1)
        torch.testing.assert_close(videos.frames[videos.mask], x[videos.mask])  # y = x


@pytest.mark.parametrize('settings', [{}, *VARIANTS[:3]], ids=str)
def test_padding_changes_no_score_of_ours(config, batch, settings):
    assert padding_moves_scores(GLSCL(config.replace(**settings)).eval(), batch) < 2e-5


def test_padding_changes_the_scores_of_the_released_code(config, batch):
    assert padding_moves_scores(GLSCL(config.replace(released=True)).eval(), batch) > 1e-3


@torch.no_grad()
def padding_moves_scores(model, batch):
    ids, words_mask, pixels, frame_mask = batch
    S = model.similarity(*encoded(model, batch))
    ids, words_mask = (torch.nn.functional.pad(x, (0, 7)) for x in (ids, words_mask))
    more = torch.zeros_like(pixels[:, :3])
    longer = model.similarity(*encoded(model, (ids, words_mask, torch.cat([pixels, more], 1),
                                               torch.nn.functional.pad(frame_mask, (0, 3)))))
    return float((S - longer).abs().max())


@pytest.mark.parametrize('texts, videos', [(1, 1), (1, 4), (6, 1), (3, 4)])
def test_any_number_of_texts_and_videos(model, batch, texts, videos):
    with torch.no_grad():
        whole = model.similarity(*encoded(model, batch))
        S = model.similarity(*encoded(model, (*(x[:texts] for x in batch[:2]), *(x[:videos] for x in batch[2:]))))
    torch.testing.assert_close(S, whole[:texts, :videos], atol=1e-5, rtol=1e-5)


def test_a_batch_of_one_has_a_loss_and_a_gradient(model, batch):
    model.train()
    losses = model.losses(*encoded(model, [x[:1] for x in batch]))
    losses.total.backward()
    assert losses.contrastive == 0 and losses.total.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize('settings', [{}, dict(temporal='none'), dict(pooling='mean'), dict(released=True)], ids=str)
def test_a_video_without_frames_scores_zero_and_spoils_no_gradient(config, batch, settings):
    ids, words_mask, pixels, frame_mask = batch
    frame_mask[2] = False
    model = GLSCL(config.replace(**settings)).train()
    texts, videos = encoded(model, (ids[:4], words_mask[:4], pixels, frame_mask))
    assert (model.similarity(texts, videos)[:, 2] == 0).all()
    losses = model.losses(texts, videos)
    losses.total.backward()
    assert losses.total.isfinite() and all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    optimizer = torch.optim.AdamW(model.parameter_groups())
    optimizer.step()
    with torch.no_grad():
        assert model.similarity(*encoded(model.eval(), batch)).isfinite().all()


def test_half_precision_features_are_scored_in_float32(model, batch):
    with torch.no_grad():
        texts, videos = encoded(model, batch)
        S = model.similarity(texts, videos)
        half = [x.map(lambda v: v.bfloat16() if v.is_floating_point() else v) for x in (texts, videos)]
        with torch.autocast('cpu', torch.bfloat16):
            low = model.similarity(*half)
    assert low.dtype == torch.float32 and len(low.unique()) == low.numel()  # bfloat16 scores would tie
    assert (S - low).abs().max() < 0.05


# ---- items

def test_items_index_join_and_move(model, batch):
    with torch.no_grad():
        texts, videos = encoded(model, batch)
    assert len(texts) == 6 and len(videos) == 4
    assert len(videos[1:3]) == 2 and torch.equal(videos[[2, 0]].concepts, videos.concepts[[2, 0]])
    assert torch.equal(texts[torch.tensor([True] + [False] * 5)].sentence, texts.sentence[:1])
    joined = Videos.cat([videos[:1], videos[1:]])
    for name in ('frames', 'mask', 'gram', 'concepts'):
        assert torch.equal(getattr(joined, name), getattr(videos, name))
    bare = Texts(texts.sentence, texts.words, texts.mask)
    assert bare[2:].concepts is None and Texts.cat([bare, bare]).concepts is None and len(Texts.cat([bare, bare])) == 12
    assert bare.to('cpu').concepts is None and isinstance(bare.to('cpu'), Texts)


def test_encoding_in_blocks_is_encoding_at_once(model, splits):
    pairs = splits['test']
    model.train()
    one, many = (encode(model, pairs, n) for n in (100, 5))
    assert model.training  # as it was, though dropout was off meanwhile
    for a, b in zip(one, many):
        for name in vars(a):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), atol=2e-5, rtol=1e-4)
    S, metrics = evaluate(model, pairs)
    torch.testing.assert_close(S, model.similarity(*one).detach())
    expected = reference.metrics(S.tolist(), pairs.text_to_video.tolist())
    assert metrics['t2v']['R@5'] == pytest.approx(expected['t2v']['R@5']) and metrics['v2t']['MnR'] == expected['v2t']['MnR']


# ---- parameters

def test_parameter_groups_hold_each_parameter_once_at_its_rate(model):
    model.clip.requires_grad_(True)
    model.clip.clip.visual.conv1.requires_grad_(False)
    groups, where = model.parameter_groups(), {}
    for group in groups:
        for p in group['params']:
            assert id(p) not in where
            where[id(p)] = group
    names = dict(model.named_parameters())
    assert set(where) == {id(p) for p in names.values() if p.requires_grad} and len(where) == len(names) - 1
    for name, p in names.items():
        if p.requires_grad:
            assert where[id(p)]['lr'] == (1e-4 if name.startswith('clip.') else 5e-4), name
            assert where[id(p)]['weight_decay'] == (0.2 if p.ndim > 1 else 0), name
    assert where[id(model.clip.clip.logit_scale)]['weight_decay'] == 0


def test_a_recipe_by_name_makes_a_model():
    assert GLSCL('shapes').config.num_queries == 8
