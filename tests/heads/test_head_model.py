"""Rivals' heads under the same Trainer, evaluation and checkpoints as GLSCL."""
import math

import pytest
import reference as loops
import torch

from glscl import GLSCL, Trainer, evaluate, load_model, save_model
from glscl.heads import HEADS, HeadModel, build, load

RIVALS = [name for name in HEADS if name != 'GLSCL']


@pytest.mark.parametrize('name', RIVALS)
def test_every_head_trains_evaluates_and_reads_back(name, config, splits, tmp_path):
    settings = config.replace(head=name, freeze_clip=True, lr=1e-3)
    trainer = Trainer(build(settings), splits['train'], splits['val'], tmp_path, steps=2)
    start = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    model = trainer.run(log=None)
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(p, start[n])}
    assert not [n for n in moved if n.startswith('clip.') and not n.endswith('logit_scale')]
    parts = {n for n, p in start.items() if not n.startswith('clip.') and p.numel() > 1}
    assert moved & parts or not parts  # meanP and its like have the scale alone
    S, metrics = evaluate(model, splits['test'])
    assert S.shape == (12, 12) and S.isfinite().all() and not S.requires_grad
    again = load(tmp_path)
    assert isinstance(again, HeadModel) and not again.training and torch.equal(evaluate(again, splits['test'])[0], S)


@pytest.mark.parametrize('name', ['X-CLIP', 'X-Pool', 'DRL'])
def test_chunks_give_the_gradients_of_the_whole_batch(name, config, splits):
    gradients = []
    for chunk in (0, 4):
        torch.manual_seed(0)
        model = build(config.replace(head=name, freeze_clip=True, chunk=chunk))
        t = Trainer(model, splits['train'], splits['val'], steps=1)
        t.model.eval()  # no dropout
        for module in t.model.modules():
            module.training = False
        t.model.training = True
        t.train_step()
        gradients.append({n: p.grad for n, p in t.model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for n, g in gradients[0].items():  # rtol of the whole: clipped to a common length, some entries are next to nothing
        torch.testing.assert_close(gradients[1][n], g, atol=1e-6 + 1e-5 * float(g.abs().max()), rtol=1e-4, msg=n)


def test_a_score_hangs_on_its_pair_alone(config, splits):
    from glscl.evaluation import encode
    model = build(config.replace(head='T-MASS')).eval()
    texts, videos = encode(model, splits['test'])
    S, order = model.similarity(texts, videos), torch.randperm(12)
    torch.testing.assert_close(model.similarity(texts[order], videos), S[order])
    torch.testing.assert_close(model.similarity(texts, videos[order]), S[:, order])
    torch.testing.assert_close(model.similarity(texts[:1], videos[5:6]), S[:1, 5:6])


@torch.no_grad()
def test_xclip_as_released_reads_padded_words_of_an_unmasked_text_tower(config, splits):
    """The tower once more without any mask but the causal one, the scores by loops."""
    model = build(config.replace(head='X-CLIP', mask_padding=False, max_words=20)).eval()
    clip, (ids, mask) = model.clip, splits['test'].texts([0, 1, 2])
    assert ids.shape[1] < 20 and not mask.all()
    padded = torch.nn.functional.pad(ids, (0, 20 - ids.shape[1]))
    x = clip.clip.token_embedding(clip.rows[padded]) + clip.clip.positional_embedding[:20]
    for block in clip.clip.transformer.resblocks:
        x = block(x, attn_mask=torch.full((20, 20), float('-inf')).triu(1))
    words = clip.clip.ln_final(x) @ clip.clip.text_projection
    sentence = words[range(3), mask.sum(1) - 1]
    torch.testing.assert_close(clip.encode_words(ids, mask)[0], sentence, atol=1e-5, rtol=1e-5)
    frames, frame_mask = torch.randn(2, 4, clip.width), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    texts, videos = model.encode_texts(ids, mask), model.encode_features(frames, frame_mask)
    y = model.head.temporal(frames, frame_mask)
    expected = [[loops.xclip(model.head, sentence[t], words[t], frames[v], y[v], frame_mask[v].tolist(), [True] * 20, [True] * 4)
                 for v in range(2)] for t in range(3)]
    S = model.similarity(texts, videos)
    torch.testing.assert_close(S, torch.tensor(expected), atol=1e-5, rtol=1e-4)
    alone = int(mask[0].sum())  # a caption by itself, without the padding that longer ones brought
    torch.testing.assert_close(model.similarity(model.encode_texts(ids[:1, :alone], mask[:1, :alone]), videos), S[:1])
    with pytest.raises(ValueError, match='build it with max_words=21'):
        model.encode_texts(padded[:1].repeat(1, 2)[:, :21], torch.ones(1, 21, dtype=torch.bool))
    masked = build(config.replace(head='X-CLIP', max_words=20)).eval()
    masked.load_state_dict(model.state_dict())
    assert (masked.similarity(masked.encode_texts(ids, mask), videos) - S).abs().max() > 1e-3


def test_clipvip_starts_its_logit_scale_anew_and_keeps_what_it_has_learnt(config, tmp_path):
    model = build(config.replace(head='CLIP-ViP'))
    assert model.logit_scale.item() == pytest.approx(4.60) and model.logit_scale.requires_grad
    assert build(config.replace(head='CenterCLIP')).logit_scale.item() == pytest.approx(math.log(1 / 0.07))  # CLIP's own
    with torch.no_grad():
        model.logit_scale.fill_(3.5)
    save_model(model, tmp_path / 'best.safetensors')
    assert load(tmp_path).logit_scale.item() == 3.5


def test_the_released_selection_comes_with_released(config):
    for released in (False, True):
        assert build(config.replace(head='TS2-Net', released=released)).head.select.released == released


def test_names_that_are_no_heads_are_refused(config):
    with pytest.raises(ValueError, match="unknown head 'X-Ray': one of CLIP4Clip meanP"):
        build(config.replace(head='X-Ray'))
    with pytest.raises(ValueError, match='of another head, X-Pool'):
        GLSCL(config.replace(head='X-Pool'))


def test_a_temporal_module_that_a_head_cannot_have_is_refused(config):
    with pytest.raises(ValueError, match='temporal="lstm" is for the head GLSCL only'):
        build(config.replace(head='DRL', temporal='lstm'))
    with pytest.raises(ValueError, match='tightTransf is a transformer and needs a layer'):
        build(config.replace(head='CLIP4Clip tightTransf', temporal='none'))


def test_glscls_own_checkpoint_loads_like_any_other(model, tmp_path):
    save_model(model, tmp_path / 'best.safetensors')
    again = load(tmp_path, model.config)
    assert isinstance(again, GLSCL)
    assert all(torch.equal(x, y) for x, y in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_checkpoint_of_another_head_is_not_taken_for_glscl(config, tmp_path):
    save_model(build(config.replace(head='X-Pool')), tmp_path / 'best.safetensors')
    with pytest.raises(ValueError, match="head: 'X-Pool' in the file, 'GLSCL' wanted"):
        load_model(tmp_path, config)
    with pytest.raises(ValueError, match='of another head, X-Pool'):
        load_model(tmp_path)


def test_a_gallery_takes_no_other_head(config, world_folder, tmp_path):
    from glscl.search.index import index_videos
    with pytest.raises(ValueError, match='has the head X-Pool'):
        index_videos(world_folder / 'test', tmp_path / 'gallery', build(config.replace(head='X-Pool')), log=None)
