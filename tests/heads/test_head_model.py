"""Rivals' heads under the same Trainer, evaluation and checkpoints as GLSCL."""
import pytest
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
