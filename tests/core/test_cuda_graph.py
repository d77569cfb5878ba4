"""A recorded step against the plain one, on a stand-in for CUDA's recorder that runs on a CPU."""
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from glscl import GLSCL, Trainer, cuda_graph
from glscl.cuda_graph import EAGER, RecordedBackward, recorded
from glscl.data.batch import Batch
from glscl.runtime.devices import seed_everything


class Tape(TorchDispatchMode):
    """What a CUDA graph is: a list of operations on fixed tensors. Python does not run again: a number that it was
    told must be the same in each replay. (On a card asking for one is an error; that a step there asks none,
    test_half_blocks tells. On a CPU it asks whether all frames are there, and whether all words are known.)"""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, out in self.done:
            for old, new in zip(tree_leaves(out), tree_leaves(func(*args, **kwargs))):
                if isinstance(old, torch.Tensor):
                    old.copy_(new)
                else:
                    assert old == new, f'{func} told {old} when the step was recorded, and now {new}'


def tape(work, beside=None):
    state = torch.get_rng_state()
    with Tape() as found:
        out = work()
    torch.set_rng_state(state)  # CUDA runs nothing while it records, and draws nothing
    return found, out


@pytest.fixture
def recorder(monkeypatch):
    """Shapes that were recorded, in turn."""
    shapes = []

    def kept(work, beside=None):
        shapes.append(beside)
        return tape(work)
    monkeypatch.setattr(cuda_graph, 'capture', kept)
    return shapes


def trainer(config, splits, steps=9, **settings):
    seed_everything(0)
    return Trainer(GLSCL(config.replace(**settings)), splits['train'], splits['val'], seed=0, steps=steps)


def whole(splits, lengths, size=6):
    """Batches whose videos lack no frame, of captions of these lengths."""
    for i, length in enumerate(lengths):
        rows = range(i * size, (i + 1) * size)
        batch = next(splits['train'].batches([rows]))
        batch.frame_mask = torch.ones_like(batch.frame_mask)
        batch.token_ids, batch.text_mask = splits['train'].texts(rows, length=length)
        yield batch


LENGTHS = (12, 13, 12, 12, 13, 12, 13, 12)


@pytest.mark.parametrize('half', [None, torch.bfloat16])
@pytest.mark.parametrize('settings', [{}, dict(local_loss=1.0, temporal='none'), dict(released=True)], ids=str)
def test_a_recorded_step_is_the_plain_step(config, splits, recorder, monkeypatch, half, settings):
    if half:
        monkeypatch.setattr('glscl.runtime.devices.precision', lambda device: half)
    plain, mine = trainer(config, splits, **settings), trainer(config, splits, **settings)
    mine.backward = RecordedBackward(mine)
    rows = []
    for t in (plain, mine):
        torch.manual_seed(1)  # dropout's draws
        rows.append([t.train_step(batch) for batch in whole(splits, LENGTHS)])
    assert len({row['total'] for row in rows[0]}) == len(LENGTHS) and rows[0] == rows[1]
    assert all(torch.equal(a, b) for a, b in zip(plain.model.parameters(), mine.model.parameters()))
    assert len(recorder) == 2 and recorder[0] is None and recorder[1] is not None  # two lengths, one memory


def test_a_video_that_lacks_frames_takes_the_plain_step(config, splits, recorder):
    mine = trainer(config, splits)
    mine.backward = RecordedBackward(mine)
    for batch in whole(splits, [12] * (EAGER + 2)):
        batch.frame_mask[2, 1:] = False
        mine.train_step(batch)
    assert recorder == []
    for batch in whole(splits, [12] * (EAGER + 1)):  # the first that can be recorded come after it
        mine.train_step(batch)
    assert len(recorder) == 1


def test_features_are_recorded_whatever_frames_they_lack(config, splits, recorder):
    plain, mine = (trainer(config, splits, freeze_clip=True) for _ in 'ab')
    mine.backward = RecordedBackward(mine)
    rows = []
    for t in (plain, mine):
        torch.manual_seed(1)
        found, draw = [], torch.Generator().manual_seed(2)
        for step in range(EAGER + 3):
            batch = Batch(torch.arange(6), None, torch.randn(6, 9, 128, generator=draw), torch.ones(6, 9, dtype=torch.bool),
                          None, torch.randn(6, 4, 128, generator=draw), torch.arange(4) < torch.tensor([4, 1, 2, 3, 4, 1 + step % 4])[:, None])
            found.append(t.train_step(batch))
        rows.append(found)
    assert rows[0] == rows[1] and len(recorder) == 1


def test_a_step_that_asks_the_cpu_is_told(config, splits, recorder):
    mine = trainer(config, splits)
    mine.backward = RecordedBackward(mine)
    losses = mine.model.losses

    def asking(*args):
        if mine.step >= EAGER:
            raise RuntimeError('operation not permitted when stream is capturing')
        return losses(*args)
    mine.model.losses = asking
    with pytest.raises(RuntimeError, match='cannot be recorded as a CUDA graph: leave out cuda_graph .*not permitted'):
        for batch in whole(splits, LENGTHS):
            mine.train_step(batch)


def test_on_a_cpu_the_setting_changes_nothing(config, splits):
    mine = trainer(config, splits, cuda_graph=True)
    assert mine.backward.__func__ is Trainer.backward and recorded(mine) == mine.backward
