"""W processes take the step that one would take: here over Gloo, in worlds of two and three."""
import csv
import dataclasses
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from glscl import Trainer, distributed, store
from glscl.datasets import load_pairs, load_shapes, shapes_table
from glscl.evaluation import evaluate
from glscl.losses import contrastive

WORLD = dict(train=24, val=8, test=12)
SETTINGS = {'plain': {}, 'chunks': dict(chunk=2), 'released': dict(released=True), 'padding': dict(mask_padding=False),
            'global only': dict(local_weight=0.0)}


def gradients(config, train, steps=1):
    """The losses of `steps` steps without dropout, and the gradients of the last."""
    t = Trainer(config, train, train, None, 0, 'cpu', steps=4)
    for module in t.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0
    told = [t.train_step() for _ in range(steps)]
    return told, {name: p.grad.clone() for name, p in t.model.named_parameters() if p.grad is not None}


def poisoned(config, train):
    t = Trainer(config, train, train, None, 0, 'cpu', steps=4)
    encode = t.encode

    def spoilt(ids, *rest):
        texts, videos = encode(ids, *rest)
        if distributed.rank() == 1:
            texts.sentence = texts.sentence * float('nan')
        return texts, videos
    t.encode = spoilt
    with pytest.raises(FloatingPointError, match='loss is nan at step 0 .caption rows') as error:
        t.train_step()
    return str(error.value)


def resumed(config, splits, folder):
    """Weights and history with dropout on: of a run in one go, and of one that was broken off after three steps of five."""
    def run(name, until):
        t = Trainer(config, splits['train'], splits['val'], folder / name, 0, 'cpu', steps=5, eval_every=2)
        found = t.resume()
        t.run(until=until, log=None, save_every=3)
        return found, t
    _, whole = run('whole', 5)
    run('broken', 4)
    found, again = run('broken', 5)
    assert found
    return [(t.step, [h['total'] for h in t.history], t.model.state_dict()) for t in (whole, again)]


def gathered():
    """Every process holds other rows, more of them the higher its rank, and has a loss of its own."""
    rank = distributed.rank()
    x = torch.full((rank + 1, 2), float(rank), requires_grad=True)
    all_x, flags = distributed.gather(x, torch.tensor([True] * (rank + 1)))
    (all_x * (rank + 1)).sum().backward()
    return all_x.detach(), flags, x.grad


def lost(config, folder, missing):
    """A step in which some videos have gone since they were counted."""
    store.MEMORY = 0
    table = pairs_of(folder)
    pairs = load_pairs(table, config, cache=folder / 'cache')
    distributed.objects('loaded')
    if distributed.rank() == 0:
        for v in missing:
            (folder / Path(table['path'][v]).name).rename(folder / f'gone{v}')
            pairs.frames.files[v].unlink()
    distributed.objects('taken away')
    result = gradients(config.replace(batch_size=12), pairs)
    distributed.objects('done')
    if distributed.rank() == 0:
        for v in missing:
            (folder / f'gone{v}').rename(folder / Path(table['path'][v]).name)
    distributed.objects('put back')
    return result


def pairs_of(folder):
    return shapes_table(folder.parent / 'world', 'test').pipe(
        lambda t: t.assign(path=[str(folder / Path(p).name) for p in t['path']]))


def work(rank, world, port, folder, config, root, want):
    """What each process of a test does; the results go to files."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world), MASTER_ADDR='127.0.0.1',
                      MASTER_PORT=str(port), GLSCL_CACHE=str(folder / 'own'))
    with distributed.processes('cpu') as device:
        assert device == 'cpu' and distributed.world() == world and distributed.rank() == rank
        splits = {split: load_shapes(config, split, data_dir=root, videos=WORLD) for split in WORLD}
        out = dict(gathered=gathered(), nan=poisoned(config, splits['train']))
        out['gradients'] = {name: gradients(config.replace(**SETTINGS[name]), splits['train'], 2) for name in want}
        model = Trainer(config, splits['train'], splits['val'], None, 0, 'cpu', steps=4).model
        frozen = Trainer(config.replace(freeze_clip=True), splits['train'], splits['val'], None, 0, 'cpu', steps=4).model
        out['evaluated'] = [evaluate(model, splits['test'], batch) for batch in (5, 12)] + [evaluate(frozen, splits['test'], 5)]
        out['lost'] = [lost(config, folder / 'videos', missing) for missing in ([3], range(1, 12))]
        if world == 2:
            out['resumed'] = resumed(config, splits, folder)
        torch.save(out, folder / f'{world}-{rank}.pt')


@pytest.fixture(scope='module')
def apart(config, world, world_folder, tmp_path_factory):
    """(what each process of two and of three found, the folder it worked in)"""
    folder = tmp_path_factory.mktemp('processes')
    shutil.copytree(world_folder, folder / 'world')
    (folder / 'videos').mkdir()
    for path in shapes_table(world_folder, 'test')['path']:
        shutil.copy(path, folder / 'videos')
    found = {}
    for n, want in ((2, SETTINGS), (3, ['plain'])):
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        torch.multiprocessing.spawn(work, (n, port, folder, config.replace(batch_size=7), world, list(want)), nprocs=n)
        found[n] = [torch.load(folder / f'{n}-{rank}.pt', weights_only=False) for rank in range(n)]
    return found, folder


def close(a, b):
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-6, rtol=0, msg=lambda m: f'{name}: {m}')


@pytest.mark.parametrize('n, name', [(2, name) for name in SETTINGS] + [(3, 'plain')])
def test_gradients_of_several_processes_are_those_of_one(apart, config, splits, n, name):
    """A batch of seven: shares of four and three, or three, two and two."""
    config = config.replace(batch_size=7, **SETTINGS[name])
    told, alone = gradients(config, splits['train'], 1 if name == 'released' else 2)
    for of_rank in apart[0][n]:
        theirs, found = of_rank['gradients'][name]
        assert found.keys() == alone.keys()
        assert theirs[0] == pytest.approx(told[0], abs=1e-6)
        if name != 'released':
            assert theirs[1] == pytest.approx(told[1], abs=1e-5)
            close(found, alone)


def test_released_encoders_get_one_part_in_w_of_the_gradient_and_the_head_all_of_it(config, splits, apart, monkeypatch):
    config = config.replace(batch_size=7, released=True, grad_clip=1e9)
    monkeypatch.setattr(distributed, 'average_gradients', lambda parameters: None)
    monkeypatch.setattr(Trainer, '_share_gradients', Trainer._share_gradients)
    t = Trainer(config, splits['train'], splits['train'], None, 0, 'cpu', steps=4)
    t.model.eval()
    losses = []
    for W in (1, 2):
        t.optimizer = torch.optim.SGD(t.model.parameters(), lr=0)
        t.schedule = torch.optim.lr_scheduler.LambdaLR(t.optimizer, lambda step: 1)
        with monkeypatch.context() as patch:
            share = t._share_gradients
            if W == 2:  # as if there were two, once the features are joined
                def share_of_two():
                    patch.setattr(distributed, 'world', lambda: 2)
                    share()
                    patch.setattr(distributed, 'world', lambda: 1)
                patch.setattr(t, '_share_gradients', share_of_two)
            t.step = 0
            t.train_step()
        losses.append({name: p.grad.clone() for name, p in t.model.named_parameters() if p.grad is not None})
    kinds = {name: 'head' if name.startswith('local.') or name.endswith('logit_scale') else 'encoder' for name in losses[0]}
    assert {'clip.clip.text_projection', 'temporal.positions', 'local.video_queries', 'clip.clip.logit_scale'} <= set(kinds)
    for name, kind in kinds.items():
        torch.testing.assert_close(losses[1][name], losses[0][name] / (2 if kind == 'encoder' else 1))


def test_rows_are_joined_in_rank_order_and_the_gradient_is_the_sum_over_processes(apart):
    for n, results in apart[0].items():
        for rank, of_rank in enumerate(results):
            x, flags, gradient = of_rank['gathered']
            assert x[:, 0].tolist() == [r for r in range(n) for _ in range(r + 1)]
            assert flags.dtype == torch.bool and flags.all() and len(flags) == len(x)
            assert gradient.tolist() == [[n * (n + 1) / 2] * 2] * (rank + 1)


def test_metrics_are_exactly_those_of_one_process(apart, config, splits):
    """Blocks of 5, 5 and 2 videos over two and three processes; a single block of 12, so that some have none."""
    config = config.replace(batch_size=7)
    model = Trainer(config, splits['train'], splits['val'], None, 0, 'cpu', steps=4).model
    frozen = Trainer(config.replace(freeze_clip=True), splits['train'], splits['val'], None, 0, 'cpu', steps=4).model
    alone = [evaluate(model, splits['test'], batch) for batch in (5, 12)] + [evaluate(frozen, splits['test'], 5)]
    for results in apart[0].values():
        for of_rank in results:
            for (S, metrics), (S_alone, metrics_alone) in zip(of_rank['evaluated'][:2], alone):
                assert torch.equal(S, S_alone) and metrics == metrics_alone
            torch.testing.assert_close(of_rank['evaluated'][2][0], alone[2][0], atol=2e-6, rtol=0)


@pytest.mark.parametrize('case', [0, 1], ids=['one video', 'all but one'])
def test_videos_lost_on_one_process_leave_the_batch_of_all(apart, config, case):
    """Where all but one are gone, one process has nothing to encode; the gradients stay those of one process."""
    found, folder = apart
    alone = lost(config.replace(batch_size=7), folder / 'videos', [[3], range(1, 12)][case])
    for results in found.values():
        for of_rank in results:
            assert of_rank['lost'][case][0][0] == pytest.approx(alone[0][0], abs=1e-6)
            close(of_rank['lost'][case][1], alone[1])


def test_a_loss_that_is_not_a_number_on_one_stops_all(apart):
    for results in apart[0].values():
        assert len({of_rank['nan'] for of_rank in results}) == 1


def test_two_processes_resume_bit_equal_with_dropout(apart):
    for of_rank in apart[0][2]:
        (step, losses, whole), (step_again, losses_again, again) = of_rank['resumed']
        assert step == step_again == 5 and losses == losses_again
        assert all(torch.equal(whole[name], again[name]) for name in whole)
    a, b = (of_rank['resumed'][0][2] for of_rank in apart[0][2])
    assert all(torch.equal(a[name], b[name]) for name in a)  # and both hold the same model
    state = torch.load(apart[1] / 'whole' / 'last.pt', weights_only=True)
    assert len(state['rng']) == 2 and not torch.equal(*state['rng'])  # each draws dropout of its own


def test_captions_of_one_video_on_two_processes_are_each_others_positives():
    """Owners are gathered with the features: the target of the joined batch is that of one process."""
    S, owners = torch.randn(4, 4), torch.tensor([0, 1, 1, 2])
    assert not torch.isclose(contrastive(S, 5.0, owners), contrastive(S, 5.0))


def test_in_one_process_nothing_is_sent():
    x, blocks = torch.ones(3, requires_grad=True), [[0, 1], [2]]
    assert distributed.world() == 1 and distributed.rank() == 0
    assert distributed.gather(x)[0] is x and distributed.joined(blocks) is blocks and distributed.share(blocks) == blocks
    assert distributed.objects(7) == [7] and np.array_equal(distributed.rows_of(np.arange(5)), np.arange(5))
    assert list(distributed.part_here(range(3))) == [0, 1, 2]
    with distributed.processes('cpu') as device, distributed.first_here():
        assert device == 'cpu' and not torch.distributed.is_initialized()


def test_a_batch_smaller_than_the_number_of_processes_is_refused(config, splits, monkeypatch):
    monkeypatch.setattr(distributed, 'world', lambda: 8)
    with pytest.raises(ValueError, match='a batch of 6 captions is too small for 8 processes'):
        Trainer(config, splits['train'], splits['val'], None, 0, 'cpu', steps=1)


def test_torchrun_trains_a_recipe_and_one_process_finds_the_same(config, world_folder, tmp_path):
    """From the command line; dropout is each process's own, so that only the start is the same."""
    with open(tmp_path / 'captions.csv', 'w', newline='') as file:
        out = csv.writer(file)
        out.writerow(['path', 'caption', 'split'])
        for split in ('val', 'test'):
            for row in shapes_table(world_folder, split).itertuples():
                shutil.copy(row.path, tmp_path / f'{split}-{Path(row.path).name}')
                out.writerow([f'{split}-{Path(row.path).name}', row.caption, {'val': 'test', 'test': 'train'}[split]])
    recipe = config.replace(dataset='own', select_on='test', batch_size=5, epochs=1)
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
    run = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', '-m', 'glscl.training',
           '--recipe', str(tmp_path / 'mine.yaml'), '--data-dir', str(tmp_path / 'captions.csv'), '--run-dir', str(tmp_path / 'run'),
           '--device', 'cpu']
    told = subprocess.run(run, capture_output=True, text=True, timeout=240, env={**os.environ, 'OMP_NUM_THREADS': '1'},
                          cwd=Path(__file__).parents[1])
    assert told.returncode == 0, told.stderr[-3000:]
    assert told.stdout.count('of 2: loss') == 2 and told.stdout.count('t2v R@1') == 1  # the first process alone speaks
    result = json.loads((tmp_path / 'run' / 'result.json').read_text())
    assert result['processes'] == 2 and result['steps'] == 2 and result['metrics']['t2v']['queries'] == 8
    assert sorted(p.name for p in (tmp_path / 'run').iterdir()) == ['best.safetensors', 'history.json', 'last.pt', 'result.json']
