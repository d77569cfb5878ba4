"""Weights under the released code's names give the released code's numbers: features, similarities, losses, gradients."""
import json

import numpy as np
import open_clip
import pytest
import torch

from glscl import GLSCL, global_similarity, local_similarity, released
from glscl.config import Config
from glscl.encoders import Clip

CASES = ('case0_seqTransf_share11', 'case1_None_share00')


@pytest.fixture(scope='module', params=CASES)
def case(request, shared):
    """(the fixture's arrays as tensors by name, our model with its weights)"""
    folder = shared / 'fixtures'
    weights = {k: torch.tensor(v) for k, v in np.load(folder / f'{request.param}_weights.npz').items()}
    settings = json.loads((folder / 'cases.json').read_text())[request.param]['config']
    arrays = np.load(folder / f'{request.param}.npz')
    return (lambda name: torch.tensor(arrays[name])), arrays.files, released.load(weights, settings)


def encoded(model, array, split):
    texts = model.encode_texts(array(f'{split}_text_ids'), array(f'{split}_text_mask').bool())
    return texts, model.encode_videos(array(f'{split}_video'), array(f'{split}_video_mask').bool())


def close(ours, theirs, atol, rtol=0.0):
    torch.testing.assert_close(ours.detach(), theirs, atol=atol, rtol=rtol)


@pytest.mark.parametrize('split', ['train', 'eval'])
def test_features_concepts_and_similarities(case, split):
    array, _, model = case
    with torch.no_grad():
        texts, videos = encoded(model.eval(), array, split)
        x = model.clip.encode_frames(array(f'{split}_video').flatten(0, 1)).view_as(videos.frames)
        S = model.similarity(texts, videos)
    close(x, array(f'{split}_frame_feat'), 1e-4)
    close(texts.words, array(f'{split}_text_feat'), 1e-4)
    close(texts.sentence, array(f'{split}_cls'), 1e-4)
    close(videos.frames, array(f'{split}_video_feat'), 1e-4)
    close(texts.concepts, array(f'{split}_text_concepts'), 1e-5)
    close(videos.concepts, array(f'{split}_visual_concepts'), 1e-5)
    close(global_similarity(texts.sentence, videos.frames, videos.mask, model.config.temperature), array(f'{split}_gim'), 1e-5)
    close(local_similarity(texts.concepts, videos.concepts), array(f'{split}_lim'), 1e-5)
    close(S, array(f'{split}_sim_total'), 1e-5)


def our_name(theirs):
    """The name of a parameter of the released code in our model."""
    for old, new in (('frame_position_embeddings.weight', 'temporal.positions'), ('transformerClip.resblocks', 'temporal.blocks'),
                     ('spatial_queries', 'local.video_queries'), ('noun_queries', 'local.text_queries'),
                     ('transformer_decoder_spatial', 'local.video_decoder'), ('transformer_decoder_noun', 'local.text_decoder'),
                     ('clip.', 'clip.clip.')):
        if theirs.startswith(old):
            return theirs.replace(old, new, 1)
    raise AssertionError(f'{theirs} has no place in our model')


def test_losses_and_gradients(case):
    """Losses to 1e-5; gradients to rtol 1e-3 + atol 1e-6, but for what float32 rounding leaves open.

    Measured: of case 0's 1,205,185 elements 1 lies outside (by 1.6e-6); our model in float64, which rounds nothing, has 25 outside
    (by 2.5e-6 at most), so that much is the rounding of the reference itself. Sharper than elements, each tensor's error as a
    whole stays below 1e-5 of its length (measured 2.7e-6)."""
    array, names, model = case
    model.train()
    for module in model.modules():  # the fixtures were made without dropout
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    model.zero_grad()
    losses = model.losses(*encoded(model, array, 'train'))
    close(model.scale, array('logit_scale_exp').view(()), 1e-5, 1e-6)
    for ours, theirs in dict(contrastive='contrastive', inter_consistency='consistency', intra_diversity='diversity', total='total').items():
        close(getattr(losses, ours), array(f'loss_{theirs}').view(()).float(), 0.0, 1e-5)
    losses.total.backward()
    parameters = dict(model.named_parameters(remove_duplicate=False))
    grads = [name for name in names if name.startswith('grad/')]
    assert len(grads) in (140, 20)
    outside = elements = 0
    for name in grads:
        mine, theirs = parameters[our_name(name.removeprefix('grad/'))].grad, array(name)
        error = (mine - theirs).abs()
        assert error.norm() <= 1e-5 * theirs.norm() + 1e-9, name
        assert (error <= 1e-3 * theirs.abs() + 4e-6).all(), (name, float(error.max()))
        outside, elements = outside + int((error > 1e-3 * theirs.abs() + 1e-6).sum()), elements + error.numel()
    assert outside <= 2e-5 * elements, f'{outside} of {elements}'
    model.eval()


# ---- without the fixtures: there and back

def as_released(model):
    """Our model's weights under the released code's names, which keep both sides' queries and decoders even where one is used."""
    state = {}
    for name, value in model.state_dict().items():
        for new, old in (('temporal.positions', 'frame_position_embeddings.weight'), ('temporal.blocks', 'transformerClip.resblocks'),
                         ('temporal.lstm', 'lstm_visual'), ('local.video_queries', 'spatial_queries'),
                         ('local.text_queries', 'noun_queries'), ('local.video_decoder', 'transformer_decoder_spatial'),
                         ('local.text_decoder', 'transformer_decoder_noun'), ('clip.clip.', 'clip.')):
            if name.startswith(new):
                state[f'module.{name.replace(new, old, 1)}'] = value.clone()
    if model.config.share_queries:
        state['module.noun_queries'] = torch.randn_like(state['module.noun_queries'])
    if model.config.share_decoder:
        for name in [n for n in state if 'decoder_spatial' in n]:
            state[name] = torch.randn_like(state[name])
    state['module.weight_fc.0.weight'] = torch.randn(4, 4)  # computed there, and never used
    return state


@pytest.mark.parametrize('temporal', ['transformer', 'none', 'lstm'])
@pytest.mark.parametrize('shared_queries, shared_decoder', [(True, True), (False, True), (True, False), (False, False)])
def test_weights_go_there_and_come_back(temporal, shared_queries, shared_decoder):
    config = Config(temporal=temporal, temporal_layers=1, num_queries=3, decoder_layers=2, share_queries=shared_queries,
                    share_decoder=shared_decoder, released=True, temperature=2.0, local_weight=0.7)
    clip = open_clip.model.CLIP(64, quick_gelu=True, vision_cfg=dict(image_size=32, patch_size=16, width=64, head_width=64, layers=1),
                                text_cfg=dict(context_length=12, vocab_size=50, width=64, heads=1, layers=2))
    model = GLSCL(config, Clip(clip)).eval()
    with torch.no_grad():
        for p in model.local.parameters():
            p += 0.05 * torch.randn_like(p)
    arguments = dict(temp=2.0, loss2_weight=0.7, query_share=int(shared_queries), cross_att_share=int(shared_decoder), not_ours='x')
    ids, mask = torch.randint(1, 50, (3, 8)), torch.ones(3, 8, dtype=torch.bool)
    pixels, frame_mask = torch.randn(2, 4, 3, 32, 32), torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])
    with torch.no_grad():
        S = model.similarity(model.encode_texts(ids, mask), model.encode_videos(pixels, frame_mask))
        for settings in (arguments, config):
            back = released.load(as_released(model), settings)
            assert not back.training and back.config.released and (back.config.temporal, back.config.num_queries) == (temporal, 3)
            torch.testing.assert_close(back.similarity(back.encode_texts(ids, mask), back.encode_videos(pixels, frame_mask)), S)
