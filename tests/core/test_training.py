"""The loop: resumable to the bit, the same with the same seed, plain about what went wrong."""
import dataclasses
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from runtime.holding import hold
from torch.utils._python_dispatch import TorchDispatchMode

from glscl import GLSCL, Trainer, gradient_caching, load_model, save_model, training
from glscl.checkpoints import save_result
from glscl.data import frames as store
from glscl.data.feature_cache import word_features
from glscl.data.pairs import load_pairs
from glscl.data.video import VideoError
from glscl.datasets.splits import load_shapes, shapes_table
from glscl.evaluation import evaluate
from glscl.journal import read_history
from glscl.runtime.devices import seed_everything
from glscl.training import warmup_cosine


def seeded(config, seed=0):
    seed_everything(seed)
    return GLSCL(config)


def trainer(config, splits, run_dir=None, seed=0, steps=6, eval_every=3):
    return Trainer(seeded(config, seed), splits['train'], splits['val'], run_dir, seed, steps, eval_every)


def on(pairs, config, run_dir=None, **settings):
    """A trainer that validates on what it trains on."""
    return Trainer(seeded(config), pairs, pairs, run_dir, **{**dict(steps=3), **settings})


def losses(history):
    return [step['total'] for step in history]


@pytest.fixture(scope='module')
def finished(config, splits, tmp_path_factory):
    """A run of six steps without interruption: its folder and trainer."""
    run_dir = tmp_path_factory.mktemp('run')
    t = trainer(config, splits, run_dir)
    t.run(log=None)
    return run_dir, t


# ---- one run

def test_a_run_leaves_its_files_and_says_how_it_goes(config, splits, tmp_path):
    told = []
    t = trainer(config, splits, tmp_path / 'new' / 'run', steps=2, eval_every=1)
    model = t.run(log=told.append)
    assert sorted(p.name for p in t.run_dir.iterdir()) == ['best.safetensors', 'history.json', 'last.pt', 'lock']
    history = json.loads((t.run_dir / 'history.json').read_text())
    assert [h['step'] for h in history] == [1, 2] and all('val R@1' in h for h in history) and len(told) == 2
    for h in history:
        assert h['total'] == pytest.approx(h['contrastive'] + h['inter_consistency'] + h['intra_diversity'], rel=1e-5)
    assert not model.training
    best = load_model(t.run_dir)
    for a, b in zip(model.parameters(), best.parameters()):
        assert torch.equal(a, b)
    assert t.best == max(h['val R@1'] for h in history) == evaluate(best, splits['val'])[1]['t2v']['R@1']


def test_an_epoch_takes_each_caption_once_in_an_order_of_its_own(config, splits):
    t = trainer(config, splits)
    assert t.per_epoch == 24 and len(splits['train']) == 144
    epochs = [np.concatenate([t.batch_rows(e * 24 + i) for i in range(24)]) for e in range(2)]
    assert all(sorted(epoch) == list(range(144)) for epoch in epochs)
    assert not np.array_equal(*epochs) and len(t.batch_rows(23)) == 6
    assert not np.array_equal(trainer(config, splits, seed=1).batch_rows(0), t.batch_rows(0))


def test_a_problem_small_enough_is_learnt_by_heart(config, splits):
    train = splits['val']  # eight captions of eight videos in one batch
    t = on(train, config.replace(batch_size=8, lr=1e-3, clip_lr=1e-3, warmup=0.05), steps=40, eval_every=40)
    model = t.run(log=None)
    first, last = (np.mean([h['contrastive'] for h in part]) for part in (t.history[:3], t.history[-3:]))
    assert last < 0.4 * first
    assert evaluate(model, train)[1]['t2v']['R@1'] > 60


def test_the_schedule_climbs_then_falls_to_zero_and_stays():
    assert [warmup_cosine(s, 20, 0.25) for s in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1])
    assert warmup_cosine(12.5, 20, 0.25) == pytest.approx(0.5)
    assert warmup_cosine(8, 20, 0.25) == pytest.approx((1 + math.cos(math.pi / 5)) / 2)
    assert warmup_cosine(20, 20, 0.25) == warmup_cosine(35, 20, 0.25) == pytest.approx(0)  # the released one climbs again
    assert warmup_cosine(0, 1, 0.1) == 1 and warmup_cosine(0, 100, 0) == 1


def test_both_rates_follow_the_schedule(finished):
    t = finished[1]
    assert [h['lr'] / t.history[0]['lr'] for h in t.history] == pytest.approx(
        [warmup_cosine(s, 6, 0.1) / warmup_cosine(1, 6, 0.1) for s in range(1, 7)])
    assert sorted(set(group['initial_lr'] for group in t.optimizer.param_groups)) == [1e-4, 5e-4]


def test_the_logit_scale_stays_at_a_hundred_at_most(config, splits):
    t = trainer(config, splits)
    with torch.no_grad():
        t.model.logit_scale.fill_(math.log(250))
    t.train_step()
    assert float(t.model.scale.detach()) == pytest.approx(100, rel=1e-5)


def test_gradients_are_clipped_to_the_norm_given(config, splits):
    t = trainer(config.replace(grad_clip=0.01), splits)
    t.train_step()
    norm = torch.stack([p.grad.norm() for p in t.model.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(0.01, rel=1e-3)


# ---- seeds and resuming

def test_the_same_seed_gives_the_same_run_and_another_one_another(config, splits, finished):
    torch.randn(7)  # whatever happened before
    for seed, same in ((0, True), (1, False)):
        t = trainer(config, splits, seed=seed)
        model = t.run(until=3, log=None)
        assert (losses(t.history) == losses(finished[1].history[:3])) == same
        S, metrics = evaluate(model, splits['test'])
        again = trainer(config, splits, seed=seed)
        S_again, metrics_again = evaluate(again.run(until=3, log=None), splits['test'])
        assert torch.equal(S, S_again) and metrics == metrics_again


def test_a_run_broken_off_in_mid_epoch_ends_bit_equal(config, splits, finished, tmp_path):
    run_dir, whole = finished
    t = trainer(config, splits, tmp_path)
    t.run(until=5, log=None, save_every=2)  # saved at 2 and 4; step 5 is lost
    del t
    torch.randn(99)
    t = trainer(config, splits, tmp_path)
    assert t.resume() and t.step == 4
    assert 0 < t.step % t.per_epoch < t.per_epoch
    t.run(log=None)
    assert losses(t.history) == losses(whole.history)
    assert [h.get('val R@1') for h in t.history] == [h.get('val R@1') for h in whole.history]
    a, b = (torch.load(folder / 'last.pt', weights_only=True) for folder in (run_dir, tmp_path))
    assert a['step'] == b['step'] == 6 and torch.equal(a['rng'], b['rng'])
    for name in a['model']:
        assert torch.equal(a['model'][name], b['model'][name]), name
    for k, state in a['optimizer']['state'].items():
        assert torch.equal(state['exp_avg_sq'], b['optimizer']['state'][k]['exp_avg_sq'])
    a, b = (load_model(folder).state_dict() for folder in (run_dir, tmp_path))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_what_a_killed_process_left_half_written_is_swept_away(config, splits, tmp_path):
    halves, others = ['.last.pt.4711.12.half', '.tmpR70bTB'], ['.gitignore', '.keep.me', 'notes.1', 'last.pt.bak', 'my.half']
    for name in halves + others:
        (tmp_path / name).write_text('')
    assert trainer(config, splits, tmp_path).resume() is False
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*others, 'lock'])


def test_of_two_trainers_in_one_folder_the_second_is_told(config, splits, tmp_path):
    process = hold(tmp_path)
    (tmp_path / '.last.pt.1.2.half').write_text('the other is writing')
    try:
        t = trainer(config, splits, tmp_path)
        for step in (t.resume, t.run):
            with pytest.raises(ValueError, match=f'process {process.pid} on .* is writing to'):
                step()
        assert t.step == 0 and (tmp_path / '.last.pt.1.2.half').exists()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    t.run(until=1, log=None)  # a killed one leaves no lock
    assert t.step == 1


def test_nothing_to_resume_is_no_error(config, splits, tmp_path):
    assert trainer(config, splits, tmp_path).resume() is False and trainer(config, splits).resume() is False


@pytest.mark.parametrize('change, named', [(dict(config=dict(lr=1e-3)), 'lr'), (dict(config=dict(num_queries=2)), 'num_queries'),
                                           (dict(seed=5), 'seed'), (dict(steps=9), 'total')])
def test_another_run_is_not_resumed_and_what_differs_is_named(config, splits, finished, change, named):
    settings = {**dict(config=config, seed=0, steps=6), **change}
    if isinstance(settings['config'], dict):
        settings['config'] = config.replace(**settings['config'])
    with pytest.raises(ValueError, match=rf'last.pt was made with other settings \({named}\): name a new run_dir'):
        trainer(splits=splits, run_dir=finished[0], **settings).resume()


def test_a_last_pt_written_before_a_setting_came_goes_on_with_its_default(config, splits, finished, tmp_path):
    """`reader` came after the first runs; what decoded their frames then is its default now."""
    trainer(config, splits, tmp_path).run(until=3, log=None)
    state = torch.load(tmp_path / 'last.pt', weights_only=True)
    assert state['config'].pop('reader') == 'auto' and state['step'] == 3
    state['config']['epochs'] = '0.25'  # numbers were text where YAML took them for that
    torch.save(state, tmp_path / 'last.pt')
    with pytest.raises(ValueError, match=r'made with other settings \(reader\)'):
        trainer(config.replace(reader='decord'), splits, tmp_path).resume()
    again = trainer(config, splits, tmp_path)
    assert again.resume() and again.step == 3
    again.run(log=None)
    assert again.history == finished[1].history
    assert all(torch.equal(a, b) for a, b in zip(again.model.parameters(), finished[1].model.parameters()))


@pytest.mark.parametrize('cut', ['rng', 'config', 'total', 'model', None])
def test_a_file_that_holds_no_run_says_what_it_lacks(config, splits, finished, tmp_path, cut):
    state = torch.load(finished[0] / 'last.pt', weights_only=True)
    state = {name: value for name, value in state.items() if name != cut} if cut else [state]
    torch.save(state, tmp_path / 'last.pt')
    with pytest.raises(ValueError, match=f'last.pt is no checkpoint of a run .it has no {cut or "model, .*rng"}, .*Delete it'):
        trainer(config, splits, tmp_path).resume()


def test_a_run_that_scaled_no_losses_goes_on_where_they_are_scaled(config, splits, finished, tmp_path, monkeypatch):
    shutil.copy(finished[0] / 'last.pt', tmp_path)
    t = trainer(config, splits, tmp_path)
    t.scaler = torch.amp.GradScaler('cpu', enabled=True)
    assert torch.load(tmp_path / 'last.pt', weights_only=True)['scaler'] == {}
    assert t.resume() and t.step == 6 and t.scaler.get_scale() == 2 ** 16


def test_on_the_cpu_kernels_are_deterministic_whatever_is_asked(config, splits):
    for asked in (False, True):
        torch.use_deterministic_algorithms(False)
        Trainer(GLSCL(config.replace(deterministic=asked)), splits['train'], splits['val'])
        assert torch.are_deterministic_algorithms_enabled() and torch.is_deterministic_algorithms_warn_only_enabled()


@pytest.mark.parametrize('damage', [lambda b: b[:len(b) // 2], lambda b: b'', lambda b: b'a letter, not weights' * 50])
def test_damaged_files_are_refused_by_name(config, splits, finished, tmp_path, damage):
    for name in ('last.pt', 'best.safetensors'):
        (tmp_path / name).write_bytes(damage((finished[0] / name).read_bytes()))
    with pytest.raises(ValueError, match='last.pt cannot be read .*Delete it to begin anew'):
        trainer(config, splits, tmp_path).resume()
    with pytest.raises(ValueError, match='best.safetensors is damaged, or is no safetensors file .*Copy it again'):
        load_model(tmp_path)


# ---- what goes wrong

def test_a_loss_that_is_not_a_number_stops_the_run_and_names_the_step(config, splits):
    t = trainer(config, splits)
    t.train_step()
    with torch.no_grad():
        t.model.clip.clip.ln_final.weight[0] = float('nan')
    before = t.model.local.video_queries.detach().clone()
    with pytest.raises(FloatingPointError, match=r'loss is nan at step 1 \(caption rows \[\d+, .*lower lr'):
        t.train_step()
    assert torch.equal(t.model.local.video_queries, before)  # no weight was spoilt by it


# ---- losses that wait on the device

def fused(config, splits, monkeypatch, **settings):
    """A trainer with the optimizer that CUDA has, which passes over a step by itself."""
    plain = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, 'AdamW', lambda *args, **kwargs: plain(*args, **{**kwargs, 'fused': True}))
    return trainer(config, splits, **settings)


def test_losses_are_read_some_steps_at_a_time_and_are_those_of_each_step(config, splits, monkeypatch, tmp_path):
    single = fused(config, splits, monkeypatch, steps=25, eval_every=9)
    rows = [single.train_step(batch) for batch in single.batches(23)]
    assert all(row.keys() == {'step', 'lr', *training.LOSSES} for row in rows)
    told, reads, t = [], [], fused(config, splits, monkeypatch, run_dir=tmp_path, steps=25, eval_every=9)
    read = t.read
    monkeypatch.setattr(t, 'read', lambda: (t.unread and reads.append((t.step, len(t.unread))), read())[1])
    t.run(until=23, log=told.append)
    # ten at a time; before a validation and a checkpoint; and at the end. The read of a tenth comes before its step is counted.
    assert reads == [(9, 9), (18, 9), (23, 5)]
    assert losses(t.history) == losses(rows) and t.read_every == 1 and t.unread == []
    assert [h['step'] for h in read_history(tmp_path)] == list(range(1, 19)) and len(told) == 2
    again = fused(config, splits, monkeypatch, run_dir=tmp_path, steps=25, eval_every=9)
    assert again.resume() and again.step == 18 and losses(again.history) == losses(rows[:18])


def test_a_step_whose_loss_is_no_number_changes_no_weight_though_it_is_read_later(config, splits, monkeypatch, tmp_path):
    t, weights = fused(config, splits, monkeypatch, run_dir=tmp_path, steps=25, eval_every=20), []
    backward = t.backward

    def spoilt(batch):
        weights.append([p.detach().clone() for p in t.model.parameters()])
        if t.step == 3:
            losses = t.forward(batch)
            losses.contrastive = losses.contrastive * float('nan')
            losses.total.backward()
            return losses
        return backward(batch)
    monkeypatch.setattr(t, 'backward', spoilt)
    with pytest.raises(FloatingPointError, match=r'loss is nan at step 3 \(caption rows \[\d+, .*lower lr'):
        t.run(log=None)
    assert len(weights) == 10  # the other steps went on
    same = [all(torch.equal(a, b) for a, b in zip(*pair)) for pair in zip(weights, weights[1:])]
    assert same == [False] * 3 + [True] + [False] * 5 and all(p.isfinite().all() for p in weights[-1])
    assert [h['step'] for h in t.history] == [1, 2, 3, 4] and not (tmp_path / 'last.pt').exists()


def test_gradients_that_are_no_numbers_stop_the_run_before_a_weight_is_spoilt(config, splits, monkeypatch):
    t = trainer(config, splits)
    before = [p.detach().clone() for p in t.model.parameters()]
    t.model.logit_scale.register_hook(lambda gradient: gradient * float('inf'))
    with pytest.raises(FloatingPointError, match=r'loss is \d.*the norm of its gradients (inf|nan)'):
        t.train_step()
    assert all(torch.equal(a, b) for a, b in zip(before, t.model.parameters()))


class Asked(TorchDispatchMode):
    """How often somebody asks for the value of a loss, a norm or another number of the device (masks are the CPU's)."""
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_floating_point():
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize('settings', [{}, dict(chunk=4)], ids=str)
def test_no_step_asks_for_a_number_until_losses_are_read(config, splits, monkeypatch, settings):
    t = fused(config.replace(**settings), splits, monkeypatch, steps=25)
    t.read_every = 10
    with Asked() as asked:
        for batch in t.batches(9):
            t.train_step(batch)
    assert asked.count == 0 and len(t.unread) == 9
    t.read_every = 1
    with Asked() as asked:
        row = t.train_step()
    assert np.isfinite(row['total']) and len(t.unread) == 0


# ---- files that cannot be

def test_a_run_dir_that_cannot_be_written_is_named(config, splits, tmp_path):
    (tmp_path / 'file').write_text('in the way')
    with pytest.raises(OSError, match='cannot write .*file.*Name another run_dir'):
        trainer(config, splits, tmp_path / 'file' / 'run', steps=1).run(log=None)


def test_a_full_disk_keeps_the_checkpoint_before(config, splits, tmp_path, monkeypatch):
    t = trainer(config, splits, tmp_path)
    t.save()
    before = (tmp_path / 'last.pt').read_bytes()

    def full(state, path):
        path.write_bytes(b'half a')
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(torch, 'save', full)
    with pytest.raises(OSError, match='(?s)cannot write .*last.pt.*No space left.*disk full'):
        t.save()
    assert (tmp_path / 'last.pt').read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ['last.pt']


def test_one_caption_is_too_few(config, splits):
    one = dataclasses.replace(splits['val'], table=splits['val'].table.head(1))
    with pytest.raises(ValueError, match='1 captions are too few'):
        Trainer(GLSCL(config), one, splits['val'])


# ---- where frames come from

@pytest.mark.parametrize('memory, settings', [(0, {}), (0, dict(cache_frames=False))], ids=['files', 'decoded at use'])
def test_a_run_is_the_same_wherever_its_frames_come_from(config, world, finished, monkeypatch, memory, settings, tmp_path):
    monkeypatch.setattr(store, 'MEMORY', memory)
    config = config.replace(**settings)
    videos = dict(train=24, val=8, test=12)
    splits = {split: load_shapes(config, split, data_dir=world, videos=videos) for split in ('train', 'val')}
    assert splits['train'].frames.memory is None
    t = trainer(config, splits, tmp_path)
    t.run(until=3, log=None)
    again = trainer(config, splits, tmp_path)
    assert again.resume()
    again.run(log=None)
    assert losses(again.history) == losses(finished[1].history)
    assert [h.get('val R@1') for h in again.history] == [h.get('val R@1') for h in finished[1].history]


@pytest.fixture
def copied(world_folder, config, tmp_path, monkeypatch):
    """Pairs of twelve videos of which any can be taken away, read from their files at every use."""
    monkeypatch.setattr(store, 'MEMORY', 0)
    table = shapes_table(world_folder, 'test')
    table = table.assign(path=[shutil.copy(p, tmp_path) for p in table['path']], end=[2, None] * 6)  # 3 frames, and 4
    return load_pairs(table, config, cache=tmp_path / 'cache')


def take_away(pairs, rows):
    for v in rows:
        os.remove(pairs.table['path'][v])
        pairs.frames.files[v].unlink()


def test_a_video_that_is_lost_in_mid_training_is_left_out_and_told(config, copied, tmp_path):
    told, t = [], on(copied, config.replace(batch_size=12), tmp_path / 'run', eval_every=3)
    take_away(copied, [2, 7])
    t.run(log=told.append)
    assert t.step == 3 and np.isfinite(losses(t.history)).all()
    assert [line for line in told if '2 videos can no longer be read' in line] and sorted(copied.frames.lost) == [2, 7]
    kept = load_pairs(copied.table.drop([2, 7]), config, cache=tmp_path / 'cache')
    t = on(copied, config.replace(batch_size=12))
    batch = t.batch_rows(0)
    rows = batch[~np.isin(batch, [2, 7])]
    again = t.train_step()
    at = [kept.table['video_id'].tolist().index(copied.table['video_id'][r]) for r in rows]
    loss = on(kept, config.replace(batch_size=12)).train_step(next(kept.batches([at])))  # nothing of them
    assert again == pytest.approx(loss, rel=1e-5)


def test_a_lost_video_and_its_captions_are_left_out_of_the_metrics(model, config, copied, tmp_path):
    S, metrics = evaluate(model, copied)
    take_away(copied, [0, 5])
    S_after, after = evaluate(model, copied)
    assert S_after.shape == S.shape and S_after.isfinite().all()
    expected = evaluate(model, load_pairs(copied.table.drop([0, 5]), config, cache=tmp_path / 'cache'))[1]
    assert after == expected and after['t2v']['queries'] == after['v2t']['queries'] == 10


def test_when_no_video_can_be_read_the_run_says_so(config, copied, model):
    t = on(copied, config)
    take_away(copied, range(12))
    with pytest.raises(VideoError, match='none of the videos of step 0 .*no such file.*disk'):
        t.run(log=None)
    with pytest.raises(VideoError, match='none of the 12 videos'):
        evaluate(model, copied)


@pytest.mark.parametrize('settings', [{}, dict(released=True)], ids=['', 'released'])
def test_features_of_a_frozen_clip_give_the_scores_that_frames_give(config, copied, settings, monkeypatch):
    torch.manual_seed(1)
    model = GLSCL(config.replace(freeze_clip=True, **settings)).eval()
    kept = evaluate(model, copied)[0]
    model.config = model.config.replace(freeze_clip=False)
    assert not copied.frame_mask.all()
    torch.testing.assert_close(kept, evaluate(model, copied)[0], atol=2e-6, rtol=0)

    model.config = model.config.replace(freeze_clip=True)
    with monkeypatch.context() as patch:  # the second time nothing is decoded, and CLIP sees no frame
        patch.setattr(copied.frames, 'blocks', lambda blocks: iter(()))
        assert torch.equal(evaluate(model, copied)[0], kept)
    with torch.no_grad():
        model.clip.clip.visual.proj += 0.01  # another CLIP has features of its own
    assert not torch.equal(evaluate(model, copied)[0], kept)


def test_training_on_a_frozen_clip_is_the_same_with_kept_features(config, copied):
    frozen = config.replace(freeze_clip=True)
    histories = []
    for kind in (np.float32, np.uint8):
        t = on(copied, frozen)
        if kind == np.uint8:
            t.batches = lambda until: copied.batches(t.batch_rows(s) for s in range(t.step, until))
        histories.append([t.train_step()['total'] for _ in range(3)])
        assert t.train.source.dtype == kind
    assert histories[0] == pytest.approx(histories[1], rel=1e-5)


def test_words_of_a_frozen_clip_are_computed_once(config, copied, monkeypatch):
    model = GLSCL(config.replace(freeze_clip=True)).eval()
    rows = torch.tensor([5, 0, 3])
    words, mask = word_features(model, copied).texts(rows)
    ids, same = copied.texts(rows)
    torch.testing.assert_close(words[mask], model.clip.encode_words(ids, mask)[1][mask], atol=1e-5, rtol=0)
    assert torch.equal(mask, same) and not words[~mask].any()

    with monkeypatch.context() as patch:  # the second time CLIP reads nothing
        patch.setattr(model.clip, 'encode_words', None)
        assert torch.equal(word_features(model, copied).texts(rows)[0], words)
        patch.setattr(store, 'MEMORY', 0)  # too many to hold
        assert torch.equal(word_features(model, copied).texts(rows)[0], words)
    [file] = copied.frames.files[0].parents[1].glob('words-*.npy')
    file.write_bytes(file.read_bytes()[:1000])  # what a full disk leaves
    assert torch.equal(word_features(model, copied).texts(rows)[0], words)
    with torch.no_grad():
        model.clip.clip.text_projection += 0.01  # another CLIP has features of its own
    assert not torch.equal(word_features(model, copied).texts(rows)[0], words)


# ---- checkpoints

@pytest.mark.parametrize('settings', [{}, dict(share_queries=False, share_decoder=False, temporal='lstm'), dict(local_weight=0.0)], ids=str)
def test_a_model_reads_back_as_it_was(config, splits, tmp_path, settings):
    model = GLSCL(config.replace(**settings)).eval()
    save_model(model, tmp_path / 'whole.safetensors')
    save_model(model, tmp_path / 'half.safetensors', half=True)
    whole, half = (load_model(tmp_path / f'{n}.safetensors') for n in ('whole', 'half'))
    assert whole.config == model.config and not whole.training
    S = evaluate(model, splits['test'])[0]
    assert torch.equal(evaluate(whole, splits['test'])[0], S)
    assert 0 < (evaluate(half, splits['test'])[0] - S).abs().max() < 0.02
    assert next(half.parameters()).dtype == torch.float32
    weights = sum(p.numel() for p in model.parameters())  # a shared part counts, and is stored, once
    assert (tmp_path / 'whole.safetensors').stat().st_size < 4 * weights + 40_000
    assert (tmp_path / 'half.safetensors').stat().st_size < 2 * weights + 40_000


def test_a_checkpoint_stands_alone(config, splits, tmp_path, clip_file):
    """It needs neither the CLIP that it started from nor the one that ships."""
    moved = tmp_path / 'clip.safetensors'
    moved.write_bytes(clip_file.read_bytes())
    save_model(GLSCL(config.replace(clip_pretrained=str(moved))), tmp_path / 'model.safetensors')
    moved.unlink()
    model = load_model(tmp_path / 'model.safetensors')
    assert torch.equal(model.clip.rows, GLSCL(config).clip.rows)


def test_the_shipped_checkpoint_loads():
    model = load_model()
    assert model.config.clip == 'small' and model.local is not None and not model.training


@pytest.mark.parametrize('change', [dict(num_queries=5), dict(temporal='none'), dict(share_queries=False), dict(local_weight=0.0),
                                    dict(decoder_layers=2)])
def test_a_checkpoint_of_another_configuration_is_refused_by_field(config, finished, change):
    [(name, value)] = change.items()
    with pytest.raises(ValueError, match=f'{name}: {getattr(config, name)!r} in the file, {value!r} wanted'):
        load_model(finished[0], config.replace(**change))
    assert load_model(finished[0], config.replace(lr=1.0, temperature=9.0))  # not a matter of weights


def test_a_missing_checkpoint_is_named_with_what_to_do(tmp_path):
    for path in (tmp_path / 'mine.safetensors', tmp_path):
        with pytest.raises(FileNotFoundError, match='no such checkpoint. Train one'):
            load_model(path)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    from safetensors.torch import save_file
    save_file({'x': torch.zeros(2)}, tmp_path / 'other.safetensors')
    with pytest.raises(ValueError, match='other.safetensors is not a checkpoint of this package'):
        load_model(tmp_path / 'other.safetensors')


def test_weights_that_are_missing_are_named(config, finished, tmp_path):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file
    path = finished[0] / 'best.safetensors'
    with safe_open(path, 'pt') as file:
        meta = file.metadata()
    del meta['checksum']
    state = load_file(path)
    del state['local.video_queries']
    save_file(state, tmp_path / 'cut.safetensors', meta)
    with pytest.raises(ValueError, match='do not fit its configuration .*video_queries'):
        load_model(tmp_path / 'cut.safetensors')


def test_a_result_carries_its_provenance(tmp_path):
    save_result(tmp_path / 'deep' / 'result.json', seed=3, metrics=dict(x=1))
    result = json.loads((tmp_path / 'deep' / 'result.json').read_text())
    assert result['seed'] == 3 and {'hardware', 'versions', 'commit', 'date', 'python'} <= set(result)
    assert result['versions']['torch'] == torch.__version__.split('+')[0] or result['versions']['torch'] == torch.__version__


# ---- a batch in chunks

def close(a, b):
    """To 1e-6 of the norm of all: of what the optimizer gets, clipped to norm 1."""
    norm = float(torch.stack([g.norm() for g in b.values()]).norm())
    for name in b:
        torch.testing.assert_close(a[name] / norm, b[name] / norm, atol=1e-6, rtol=0, msg=lambda m: f'{name}: {m}')


def step_gradients(config, pairs, chunk, dropout=True, joined=False):
    """Gradients of one step before clipping. joined: the same chunks, and so the same dropout, in one graph."""
    t = on(pairs, config.replace(batch_size=12, chunk=chunk))
    if not dropout:
        t.model.eval()
    seen, states = {}, []

    def keep(optimizer):
        seen.update({name: p.grad.clone() for name, p in t.model.named_parameters() if p.grad is not None})
        states.append(torch.get_rng_state())
    t.scaler.unscale_ = keep
    with pytest.MonkeyPatch.context() as patch:
        if joined:
            patch.setattr(gradient_caching, 'cached_backward', in_one_graph)
        loss = t.train_step()['total']
    return loss, seen, states[0]


def in_one_graph(t, batch, chunks):
    texts, videos = (items[0].cat(items) for items in zip(*map(t.forward.encode, chunks)))
    losses = t.forward.losses(texts, videos, batch.video_ids)
    losses.total.backward()
    return losses


@pytest.mark.parametrize('settings', [{}, dict(released=True), dict(grad_checkpointing=True), dict(freeze_clip=True)], ids=str)
@pytest.mark.parametrize('chunk', [1, 5, 12])
def test_chunks_give_the_gradients_of_the_whole_batch(config, copied, settings, chunk):
    config = config.replace(**settings)
    whole, chunked = (step_gradients(config, copied, c, dropout=False) for c in (0, chunk))
    assert chunked[0] == pytest.approx(whole[0], abs=1e-6)
    assert chunked[1].keys() == whole[1].keys() and max(g.abs().max() for g in whole[1].values()) > 0.01
    close(chunked[1], whole[1])


def test_chunks_are_encoded_again_with_the_same_dropout(config, copied):
    loss, graph, state = step_gradients(config, copied, 5, joined=True)
    loss_again, cached, state_again = step_gradients(config, copied, 5)
    assert loss == loss_again and torch.equal(state, state_again)
    close(cached, graph)
    without = step_gradients(config, copied, 5, dropout=False)[1]
    assert (without['local.video_queries'] - cached['local.video_queries']).abs().max() > 1e-3


def test_a_chunk_bounds_what_a_backward_pass_keeps(config, copied):
    """Bytes held for a backward pass, at most: with one caption at a time, a fraction of what the whole batch keeps."""
    def kept(chunk):
        t, peak, held = on(copied, config.replace(batch_size=12, chunk=chunk)), [0], {}
        backward = torch.autograd.backward

        def pack(x):
            held[x.data_ptr()] = x.nelement() * x.element_size()
            return x

        def finish(*args, **kwargs):
            peak.append(sum(held.values()))
            backward(*args, **kwargs)
            held.clear()
        with pytest.MonkeyPatch.context() as patch, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            patch.setattr(torch.autograd, 'backward', finish)
            t.train_step()
        return max(peak)
    assert kept(1) < 0.3 * kept(0)


@pytest.mark.parametrize('settings, message', [(dict(chunk=-1), 'chunk must be a whole number from 0'),
                                               (dict(chunk=1.5), 'chunk must be a whole'),
                                               (dict(chunk=4, released=True, temporal='lstm'), 'chunk cannot give .*LSTM')])
def test_a_chunk_that_cannot_be_is_refused(config, settings, message):
    with pytest.raises(ValueError, match=message):
        config.replace(**settings)


# ---- killed

def go(config, splits, run_dir, at=None, say=None):
    """What a process does: go on with the run; `at` {step: what to do after it}."""
    t = trainer(config, splits, run_dir, steps=6)
    t.resume()
    step = t.train_step

    def train_step(batch):
        told = step(batch)
        if say:
            say.send(t.step)
        if at and t.step in at:
            at[t.step]()
        return told
    t.train_step = train_step
    t.run(log=None, save_every=2)


def process(*args, **kwargs):
    fork = multiprocessing.get_context('fork')  # nothing is imported again
    child = fork.Process(target=go, args=args, kwargs=kwargs)
    child.start()
    return child


needs_fork = pytest.mark.skipif('fork' not in multiprocessing.get_all_start_methods(),
                                reason='Windows can neither fork nor kill -9')


@pytest.fixture(scope='module')
def uninterrupted(config, splits, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp('whole')
    go(config, splits, run_dir)
    return run_dir


def same_end(run_dir, other):
    a, b = (torch.load(folder / 'last.pt', weights_only=True) for folder in (run_dir, other))
    assert a['step'] == b['step'] == 6 and losses(a['history']) == losses(b['history']) and torch.equal(a['rng'], b['rng'])
    assert all(torch.equal(a['model'][name], b['model'][name]) for name in a['model'])
    for k, state in a['optimizer']['state'].items():
        assert all(torch.equal(state[name], b['optimizer']['state'][k][name]) for name in state)
    a, b = (load_model(folder).state_dict() for folder in (run_dir, other))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert (run_dir / 'history.json').read_text().count('step') == (other / 'history.json').read_text().count('step') == 6
    assert sorted(p.name for p in other.iterdir()) == ['best.safetensors', 'history.json', 'last.pt', 'lock']


@needs_fork
@pytest.mark.parametrize('draw', range(5))
def test_kill_9_at_any_time_and_going_on_ends_bit_equal(config, splits, uninterrupted, tmp_path, draw):
    step, delay = random.Random(draw).randint(1, 5), random.random() * 0.2  # somewhere in the step after, or in a write
    heard, say = multiprocessing.Pipe(duplex=False)
    child = process(config, splits, tmp_path, say=say)
    while heard.recv() < step:
        pass
    time.sleep(delay)
    child.kill()
    child.join()
    assert child.exitcode in (-signal.SIGKILL, 0)
    go(config, splits, tmp_path)
    same_end(uninterrupted, tmp_path)


@needs_fork
def test_kill_9_in_the_middle_of_a_write_leaves_the_checkpoint_before(config, splits, uninterrupted, tmp_path):
    def cut(state, path):
        path.write_bytes(b'half a checkpoint')
        os.kill(os.getpid(), signal.SIGKILL)
    child = process(config, splits, tmp_path, at={4: lambda: setattr(torch, 'save', cut)})
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith('.last.pt.')]
    assert torch.load(tmp_path / 'last.pt', weights_only=True)['step'] == 2
    go(config, splits, tmp_path)
    same_end(uninterrupted, tmp_path)


@needs_fork
def test_sigterm_saves_at_the_end_of_the_step_and_exits_with_143(config, splits, uninterrupted, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    child = process(config, splits, tmp_path, at={3: lambda: signal.raise_signal(signal.SIGTERM)})
    child.join()
    assert child.exitcode == 143 == 128 + signal.SIGTERM
    assert torch.load(tmp_path / 'last.pt', weights_only=True)['step'] == 3  # between the checkpoints at 2 and 4
    go(config, splits, tmp_path)
    same_end(uninterrupted, tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before


@needs_fork
def test_ctrl_c_saves_at_the_end_of_the_step_and_says_so(config, splits, uninterrupted, tmp_path):
    def interrupted(heard):
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background ignores it
        try:
            go(config, splits, tmp_path, at={3: lambda: signal.raise_signal(signal.SIGINT)})
        except KeyboardInterrupt as stop:
            heard.send(str(stop))
    hears, heard = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context('fork').Process(target=interrupted, args=[heard])
    child.start()
    assert hears.recv() == 'stopped at step 3 of 6; saved: the same command goes on'
    child.join()
    assert torch.load(tmp_path / 'last.pt', weights_only=True)['step'] == 3
    go(config, splits, tmp_path)
    same_end(uninterrupted, tmp_path)


def test_a_checkpoint_is_also_kept_by_time(config, splits, tmp_path, monkeypatch):
    monkeypatch.setattr(training, 'SAVE_SECONDS', -1)
    t = trainer(config, splits, tmp_path, steps=6, eval_every=6)
    saved = []
    monkeypatch.setattr(t, 'save', lambda: saved.append(t.step))
    t.run(until=3, log=None)
    assert saved == [1, 2, 3]


def test_the_history_is_there_while_the_run_goes_on(config, splits, tmp_path, monkeypatch):
    monkeypatch.setattr('glscl.journal.PAUSE', 0)
    t = trainer(config, splits, tmp_path, steps=6, eval_every=6)
    kept = []
    monkeypatch.setattr(t, 'validate', lambda: None)
    monkeypatch.setattr(t, 'train_step', lambda batch: (kept.append(
        read_history(tmp_path) if t.step else []), setattr(t, 'step', t.step + 1),
        dict(step=t.step, total=1.0))[-1])
    t.run(until=3, log=None)
    assert [len(history) for history in kept] == [0, 1, 2]


@pytest.mark.parametrize('text', ['', '[]', '{}', '[1]', '[{"step": 1}]', '[{"step": "a", "total": 1}]'])
def test_a_history_that_is_none_is_named(tmp_path, text):
    with pytest.raises(FileNotFoundError, match='history.json: no history yet'):
        read_history(tmp_path)
    (tmp_path / 'history.json').write_text(text)
    with pytest.raises(ValueError, match='history.json holds no history of a run'):
        read_history(tmp_path)


def test_the_blocks_of_the_image_tower_alone_are_compiled_and_keep_their_names(config, splits, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, 'compile', lambda module: compiled.append(module))
    t = trainer(config.replace(compile=True), splits)
    assert compiled == list(t.model.clip.visual.transformer.resblocks) and compiled
    trainer(config, splits)
    assert len(compiled) == len(t.model.clip.visual.transformer.resblocks)
