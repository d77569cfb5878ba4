"""W processes take the step that one would take: here over Gloo, in worlds of two and three."""
import csv
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from glscl import GLSCL, Trainer
from glscl.data import frames as store
from glscl.data.feature_cache import clip_features
from glscl.data.pairs import load_pairs
from glscl.datasets.splits import load_shapes, shapes_table
from glscl.evaluation import evaluate
from glscl.runtime import distributed, turns
from glscl.runtime.devices import seed_everything

WORLD = dict(train=24, val=8, test=12)
SETTINGS = {'plain': {}, 'chunks': dict(chunk=2), 'released': dict(released=True), 'padding': dict(mask_padding=False),
            'global only': dict(local_weight=0.0), 'frozen': dict(freeze_clip=True)}
ROWS = np.array([0, 6, 12, 18, 1, 7, 30])  # six captions a video


def trainer(config, train, val=None, run_dir=None, **settings):
    seed_everything(0)
    return Trainer(GLSCL(config), train, val or train, run_dir, 0, **{**dict(steps=4), **settings})


def gradients(config, train, rows=None):
    """The losses of a step without dropout, and the gradients as they are before they are clipped."""
    t = trainer(config, train)
    for module in t.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0
        elif isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0
    if rows is not None:
        t.batch_rows = lambda step: rows
    seen = {}

    def kept(optimizer):
        seen.update({name: p.grad.clone() for name, p in t.model.named_parameters() if p.grad is not None})
    t.scaler.unscale_ = kept  # all gradients are there
    return t.train_step(), seen


def poisoned(config, train):
    t = trainer(config, train)
    encode = t.model.encode

    def spoilt(batch):
        texts, videos = encode(batch)
        if distributed.rank() == 1:
            texts.sentence = texts.sentence * float('nan')
        return texts, videos
    t.model.encode = spoilt
    with pytest.raises(FloatingPointError, match='loss is nan at step 0 .caption rows') as error:
        t.train_step()
    return str(error.value)


def resumed(config, splits, folder):
    """Weights and history with dropout on: of a run in one go, and of one in which one process got SIGTERM in step 3 of 5."""
    def run(name, stop=None):
        t = trainer(config, splits['train'], splits['val'], folder / name, steps=5, eval_every=2)
        assert t.resume() == (name == 'broken' and not stop)
        step = t.train_step

        def train_step(batch):
            if t.step + 1 == stop and distributed.rank() == 1:
                signal.raise_signal(signal.SIGTERM)
            return step(batch)
        t.train_step = train_step
        t.run(log=None)
        return t
    whole = run('whole')
    with pytest.raises(SystemExit, match='143'):
        run('broken', stop=3)
    again = run('broken')
    assert 'val R@1' not in again.history[2]  # where it was stopped and saved, nothing else was due
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


def features(config, folder, disk, local=('0', '1')):
    """How many videos this process encoded for CLIP's features, and these. local: its LOCAL_RANK and LOCAL_WORLD_SIZE; by
    default as if it were a machine of its own, whose disk others see or not."""
    before = [os.environ[name] for name in ('LOCAL_RANK', 'LOCAL_WORLD_SIZE')]
    os.environ.update(zip(('LOCAL_RANK', 'LOCAL_WORLD_SIZE'), local))
    seed_everything(0)
    model, encoded = GLSCL(config.replace(freeze_clip=True)), []
    pairs = load_pairs(pairs_of(folder / 'videos'), config, cache=folder / disk)
    encode = model.clip.encode_frames
    model.clip.encode_frames = lambda x: encoded.append(len(x)) or encode(x)
    x = clip_features(model, pairs, batch=1)[:]
    os.environ.update(zip(('LOCAL_RANK', 'LOCAL_WORLD_SIZE'), before))
    return len(encoded), x


def work(rank, world, port, folder, config, root, want):
    """What each process of a test does; the results go to files."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world),
                      MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), GLSCL_CACHE=str(folder / 'own'))
    with distributed.processes('cpu') as device:
        assert device == 'cpu' and distributed.world() == world and distributed.rank() == rank
        splits = {split: load_shapes(config, split, data_dir=root, videos=WORLD) for split in WORLD}
        out = dict(gathered=gathered(), nan=poisoned(config, splits['train']))
        out['gradients'] = {name: gradients(config.replace(**SETTINGS[name]), splits['train'], ROWS) for name in want}
        model = trainer(config, splits['train'], splits['val']).model
        frozen = trainer(config.replace(freeze_clip=True), splits['train'], splits['val']).model
        out['evaluated'] = [evaluate(model, splits['test'], batch) for batch in (5, 12)] + [evaluate(frozen, splits['test'], 5)]
        out['features'] = [features(config, folder, f'shared {world}'), features(config, folder, f'own {world} {rank}'),
                           features(config, folder, f'one machine {world}', (str(rank), str(world)))]
        store.MEMORY = 0
        out['lost'] = [lost(config, folder / 'videos', missing) for missing in ([3], range(1, 12))]
        if world == 2:
            out['resumed'] = resumed(config, splits, folder)
        torch.save(out, folder / f'{world}-{rank}.pt')


@pytest.fixture(scope='module')
def apart(config, world, world_folder, tmp_path_factory):
    """(what each process of two and of three found, the folder it worked in)"""
    if sys.platform == 'win32':
        pytest.skip('torch for Windows comes without libuv, which its rendezvous asks for')
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
        # where it can be had, a fork: it need not import torch again
        start = 'fork' if sys.platform == 'linux' else 'spawn'
        torch.multiprocessing.start_processes(work, (n, port, folder, config.replace(batch_size=7), world, list(want)), nprocs=n,
                                              start_method=start)
        found[n] = [torch.load(folder / f'{n}-{rank}.pt', weights_only=False) for rank in range(n)]
    return found, folder


def close(a, b):
    """To 1e-6 of the norm of all: of what the optimizer gets, clipped to norm 1."""
    norm = float(torch.stack([g.norm() for g in b.values()]).norm())
    for name in a:
        torch.testing.assert_close(a[name] / norm, b[name] / norm, atol=1e-6, rtol=0, msg=lambda m: f'{name}: {m}')


@pytest.mark.parametrize('n, name', [(2, name) for name in SETTINGS] + [(3, 'plain')])
def test_gradients_of_several_processes_are_those_of_one(apart, config, splits, n, name):
    """A batch of seven: shares of four and three, or three, two and two; two videos have captions in both of two shares.

    `released`: the encoders' gradients are 1/W of that, the head's are not."""
    owners = splits['train'].text_to_video[ROWS]
    assert len(set(owners[:4].tolist()) & set(owners[4:].tolist())) == 2
    told, alone = gradients(config.replace(batch_size=7, **SETTINGS[name]), splits['train'], ROWS)
    if name == 'released':
        alone = {k: g if k.startswith('local.') or k == 'clip.clip.logit_scale' else g / n for k, g in alone.items()}
    assert max(g.abs().max() for g in alone.values()) > 0.01
    for of_rank in apart[0][n]:
        theirs, found = of_rank['gradients'][name]
        assert found.keys() == alone.keys() and theirs == pytest.approx(told, abs=1e-6)
        close(found, alone)


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
    model = trainer(config, splits['train'], splits['val']).model
    frozen = trainer(config.replace(freeze_clip=True), splits['train'], splits['val']).model
    alone = [evaluate(model, splits['test'], batch) for batch in (5, 12)] + [evaluate(frozen, splits['test'], 5)]
    for results in apart[0].values():
        for of_rank in results:
            for (S, metrics), (S_alone, metrics_alone) in zip(of_rank['evaluated'][:2], alone):
                assert torch.equal(S, S_alone) and metrics == metrics_alone
            torch.testing.assert_close(of_rank['evaluated'][2][0], alone[2][0], atol=2e-6, rtol=0)


def test_each_computes_its_share_of_the_features_and_what_it_does_not_see(apart, config, splits):
    """On a disk that all see each video is encoded once; on disks of their own each machine has all of its own."""
    for n, results in apart[0].items():
        shared, own, one_machine = zip(*(of_rank['features'] for of_rank in results))
        assert [count for count, _ in shared] == [count for count, _ in one_machine] == [12 // n] * n
        assert [count for count, _ in own] == [12] * n
        whole = shared[0][1]
        assert whole.any((1, 2)).all() and all(np.array_equal(x, whole) for _, x in [*shared, *own, *one_machine])


def test_features_that_were_broken_off_go_on(config, splits, tmp_path):
    model = GLSCL(config.replace(freeze_clip=True))
    pairs = load_pairs(splits['test'].table, config, cache=tmp_path)
    encode, encoded = model.clip.encode_frames, []

    def counted(frames):
        if len(encoded) == 2:
            raise KeyboardInterrupt
        encoded.append(len(frames))
        return encode(frames)
    model.clip.encode_frames = counted
    with pytest.raises(KeyboardInterrupt):
        clip_features(model, pairs, batch=5)
    encoded.clear()
    clip_features(model, pairs, batch=5)
    assert encoded == [2 * 4]  # two blocks of five were kept


@pytest.mark.parametrize('case', [0, 1], ids=['one video', 'all but one'])
def test_videos_lost_on_one_process_leave_the_batch_of_all(apart, config, case, monkeypatch):
    """Where all but one are gone, one process has nothing to encode; the gradients stay those of one process."""
    found, folder = apart
    monkeypatch.setattr(store, 'MEMORY', 0)
    alone = lost(config.replace(batch_size=7), folder / 'videos', [[3], range(1, 12)][case])
    for results in found.values():
        for of_rank in results:
            assert of_rank['lost'][case][0] == pytest.approx(alone[0], abs=1e-6)
            close(of_rank['lost'][case][1], alone[1])


def test_a_loss_that_is_not_a_number_on_one_stops_all(apart):
    for results in apart[0].values():
        assert len({of_rank['nan'] for of_rank in results}) == 1


def test_a_signal_to_one_of_two_stops_both_and_they_go_on_bit_equal_with_dropout(apart, config, splits):
    for of_rank in apart[0][2]:
        (step, losses, whole), (step_again, losses_again, again) = of_rank['resumed']
        assert step == step_again == 5 and losses == losses_again
        assert all(torch.equal(whole[name], again[name]) for name in whole)
    a, b = (of_rank['resumed'][0][2] for of_rank in apart[0][2])
    assert all(torch.equal(a[name], b[name]) for name in a)  # and both hold the same model
    state = torch.load(apart[1] / 'whole' / 'last.pt', weights_only=True)
    assert len(state['rng']) == 2 and not torch.equal(*state['rng'])  # each draws dropout of its own
    alone = trainer(config.replace(batch_size=7), splits['train'], splits['val'], apart[1] / 'whole', steps=5)
    assert alone.resume() and alone.step == 5  # one process can go on with what two have saved


def test_in_one_process_nothing_is_sent():
    x, blocks = torch.ones(3, requires_grad=True), [[0, 1], [2]]
    assert distributed.world() == 1 and distributed.rank() == 0
    assert distributed.gather(x)[0] is x and distributed.joined(blocks) is blocks and distributed.share(blocks) == blocks
    assert distributed.objects(7) == [7] and np.array_equal(distributed.share(np.arange(5)), np.arange(5))
    assert list(turns.part_here(range(3))) == [0, 1, 2]
    with distributed.processes('cpu') as device, turns.first_here():
        assert device == 'cpu' and not torch.distributed.is_initialized()


def test_a_batch_smaller_than_the_number_of_processes_is_refused(config, splits, monkeypatch):
    monkeypatch.setattr(distributed, 'world', lambda: 8)
    with pytest.raises(ValueError, match='a batch of 6 captions is too small for 8 processes'):
        trainer(config, splits['train'], splits['val'], steps=1)


def test_a_checkpoint_that_not_all_processes_see_is_refused(config, splits, monkeypatch, tmp_path):
    t = trainer(config, splits['train'], splits['val'], tmp_path, steps=1)
    t.save()
    monkeypatch.setattr(distributed, 'objects', lambda x: [x, False])
    with pytest.raises(FileNotFoundError, match='last.pt is seen by 1 of 2 processes: put it on a disk that all share'):
        t.resume()


@pytest.mark.parametrize('gpus, kind, message', [(1, 'cuda', '2 processes on a machine with 1 GPUs.*nproc-per-node=1'),
                                                 (0, 'mps', 'several processes train on CUDA or on the CPU, not on mps')])
def test_too_many_processes_for_the_machine_are_refused(monkeypatch, gpus, kind, message):
    for name, value in dict(WORLD_SIZE=2, LOCAL_WORLD_SIZE=2, LOCAL_RANK=1).items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
    with pytest.raises(ValueError, match=message):
        with distributed.processes(kind):
            pass


@pytest.mark.skipif(sys.platform == 'win32', reason='torch for Windows comes without libuv')
def test_torchrun_trains_a_recipe(config, world_folder, tmp_path):
    with open(tmp_path / 'captions.csv', 'w', newline='') as file:
        out = csv.writer(file)
        out.writerow(['path', 'caption', 'split'])
        for split in ('val', 'test'):
            for row in shapes_table(world_folder, split).itertuples():
                shutil.copy(row.path, tmp_path / f'{split}-{Path(row.path).name}')
                out.writerow([f'{split}-{Path(row.path).name}', row.caption, {'val': 'test', 'test': 'train'}[split]])
    recipe = config.replace(dataset='own', select_on='test', batch_size=5, epochs=1)
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump(dataclasses.asdict(recipe)))
    run = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node=2', '-m', 'glscl', 'train',
           '--recipe', str(tmp_path / 'mine.yaml'), '--data-dir', str(tmp_path / 'captions.csv'),
           '--run-dir', str(tmp_path / 'run'), '--device', 'cpu']
    told = subprocess.run(run, capture_output=True, text=True, timeout=240, env={**os.environ, 'OMP_NUM_THREADS': '1'},
                          cwd=Path(__file__).parents[2])
    assert told.returncode == 0, told.stderr[-3000:]
    assert 'warning' not in told.stderr
    assert told.stdout.count('of 2: loss') == 2 and told.stdout.count('t2v R@1') == 1  # the first process alone speaks
    result = json.loads((tmp_path / 'run' / 'result.json').read_text())
    assert result['processes'] == 2 and result['steps'] == 2 and result['metrics']['t2v']['queries'] == 8
    again = [*run[:run.index('train')], 'evaluate', str(tmp_path / 'run'), *run[run.index('--data-dir'):run.index('--run-dir')],
             '--device', 'cpu', '--out', str(tmp_path / 'measured.json')]
    told = subprocess.run(again, capture_output=True, text=True, timeout=240, env={**os.environ, 'OMP_NUM_THREADS': '1'},
                          cwd=Path(__file__).parents[2])
    assert told.returncode == 0, told.stderr[-3000:]
    assert told.stdout.count('t2v R@1') == 1
    assert json.loads((tmp_path / 'measured.json').read_text())['metrics'] == result['metrics']
    assert sorted(p.name for p in (tmp_path / 'run').iterdir()) == ['best.safetensors', 'history.json', 'last.pt', 'lock', 'result.json']
