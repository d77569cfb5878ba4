"""BertAdam and its schedule are the released code's, step by step; the Trainer takes them when it is told to."""
import dataclasses

import numpy as np
import pytest
import reference
import torch

from glscl import GLSCL, Trainer
from glscl.released.optimizer import BertAdam, warmup_cosine_released

TAGS = ('small_grads', 'big_grads_internal_clip', 'fp16_lr1e-6', 'fp32_lr1e-6_same_grads')


@pytest.fixture(scope='module')
def trajectories(shared):
    return dict(np.load(shared / 'fixtures/bertadam.npz'))


@pytest.mark.parametrize('tag', TAGS)
def test_every_step_is_the_released_codes(trajectories, tag):
    """Measured: equal bit by bit, but for 1e-9 in the parameters of `big_grads_internal_clip`."""
    dtype = torch.float16 if tag.startswith('fp16') else torch.float32
    lr = 1e-6 if 'lr1e-6' in tag else 1e-2

    def array(name):
        return torch.tensor(trajectories[f'{tag}/{name}'])

    p = {name: torch.nn.Parameter(array(f'{name}0').to(dtype)) for name in 'wcb'}
    optimizer = BertAdam([dict(params=[p['w']], lr=lr / 10), dict(params=[p['c']]),
                          dict(params=[p['b']], weight_decay=0.0)], lr=lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine_released(step, 20))
    for step in range(len(array('lr_w_c_b'))):
        assert schedule.get_last_lr() == pytest.approx(array('lr_w_c_b')[step].tolist(), rel=1e-12)
        for name in p:
            p[name].grad = array(f'grad_{name}')[step].to(dtype)
        optimizer.step()
        schedule.step()
        for name in p:
            for ours, theirs in ((p[name], 'param'), (optimizer.state[p[name]]['exp_avg_sq'], 'next_v'),
                                 (p[name].grad, 'grad_after_internal_clip')):
                torch.testing.assert_close(ours.detach().float(), array(f'{theirs}_{name}')[step], atol=4e-9, rtol=3e-7)


def test_the_schedule_is_the_released_codes(trajectories):
    ours = [warmup_cosine_released(x, 1.0, 0.1) for x in trajectories['warmup_cosine/x']]
    assert ours == pytest.approx(trajectories['warmup_cosine/y_warmup0.1'].tolist(), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize('size', [0.1, 30.0])
def test_every_step_is_the_loop(size):
    generator = torch.Generator().manual_seed(3)
    start, gradients = torch.randn(6, generator=generator), size * torch.randn(12, 6, generator=generator)
    p = torch.nn.Parameter(start.double().view(2, 3))
    optimizer = BertAdam([p], lr=0.01, weight_decay=0.3)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine_released(step, 8, 0.25))
    rates = [0.01 * reference.warmup_cosine_released(step / 8, 0.25) for step in range(12)]
    expected = reference.bert_adam(start.double().tolist(), gradients.double().tolist(), rates, 0.3)
    for gradient, theirs in zip(gradients, expected):
        p.grad = gradient.double().view(2, 3)
        optimizer.step()
        schedule.step()
        torch.testing.assert_close(p.detach().flatten(), torch.tensor(theirs, dtype=torch.float64))


def test_a_parameter_without_a_gradient_is_left_alone():
    used, unused = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = BertAdam([used, unused])
    assert float(optimizer.step(lambda: (used.sum() * 2).backward() or torch.tensor(5.0))) == 5
    assert (used != 1).all() and (unused == 1).all() and unused not in optimizer.state


def test_the_schedule_starts_at_zero_and_climbs_again():
    factors = [warmup_cosine_released(step, 20) for step in range(41)]
    assert factors[0] == 0 and factors[1] == 0.5 and factors[20] == pytest.approx(0) and factors[40] == pytest.approx(1)
    assert all(a < b for a, b in zip(factors[20:], factors[21:]))


def test_decay_reaches_all_but_biases(config):
    model = GLSCL(dataclasses.replace(config, optimizer='bert_adam'))
    name_of = {id(p): name for name, p in model.named_parameters()}
    groups = model.parameter_groups()
    seen = [name_of[id(p)] for group in groups for p in group['params']]
    assert sorted(seen) == sorted(name_of.values())
    for group in groups:
        for name in (name_of[id(p)] for p in group['params']):
            assert group['weight_decay'] == (0.0 if 'bias' in name else config.weight_decay), name
            assert group['lr'] == (config.clip_lr if name.startswith('clip.') else config.lr), name
    decayed = {name for name in seen if 'bias' not in name}
    assert {'clip.clip.logit_scale', 'clip.clip.ln_final.weight', 'local.video_queries', 'temporal.positions',
            'local.video_decoder.layers.0.norm1.weight'} <= decayed


@pytest.mark.parametrize('epochs', [1, 10])
def test_the_trainer_spans_five_epochs_whatever_it_runs(config, splits, epochs):
    trainer = Trainer(GLSCL(dataclasses.replace(config, released=True, epochs=epochs)), splits['train'], splits['val'])
    assert isinstance(trainer.optimizer, BertAdam) and trainer.optimizer.param_groups[0]['betas'] == (0.9, 0.98)
    factor = trainer.schedule.lr_lambdas[0]
    assert [factor(n * trainer.per_epoch) for n in (0, 5, 10)] == pytest.approx([0, 0, 1])
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    for moves in (False, True):  # the first step has rate 0
        assert np.isfinite(trainer.train_step()['total'])
        assert moves == any(not torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())
    frozen = 'clip.clip.visual.conv1.weight'  # as released
    assert torch.equal(trainer.model.get_parameter(frozen), before[frozen])
