"""Blocks in half precision, and a forward pass that never waits for the GPU: all of it proven without one."""
import contextlib
import weakref

import open_clip
import pytest
import torch
from open_clip.transformer import QuickGELU
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from glscl import GLSCL, half_blocks
from glscl.clip_blocks import Block, Norm, with_own_layers
from glscl.data import pixels
from glscl.data.batch import Batch
from glscl.training import Step


def masked(n, copies, dtype):
    return torch.zeros(copies, n, n, dtype=dtype).masked_fill(torch.ones(n, n).triu(1).bool(), float('-inf'))


@pytest.mark.parametrize('large', [0, 2 ** 24], ids=['computed again', 'kept'])
@pytest.mark.parametrize('act', [torch.nn.GELU, QuickGELU])
def test_the_half_form_is_open_clips_block(act, large, monkeypatch):
    monkeypatch.setattr(half_blocks, 'LARGE', large)
    block = Block(64, 4, act_layer=act, norm_layer=Norm).double()
    x = torch.randn(3, 7, 64, dtype=torch.float64, requires_grad=True)
    for mask in (None, masked(7, 12, torch.float64)):
        found = []
        for y in (block(x, attn_mask=mask), half_blocks.through(block, x, mask)):
            found.append((y, *torch.autograd.grad(y.sin().sum(), [x, *block.parameters()])))
        for mine, theirs in zip(*found):
            torch.testing.assert_close(mine, theirs)
    whole = block(x)
    block.first_only = True
    torch.testing.assert_close(half_blocks.through(block, x), whole[:, :1])


def test_without_autocast_layers_are_open_clips_to_the_bit():
    sizes = dict(embed_dim=32, vision_cfg=dict(image_size=32, patch_size=16, width=64, head_width=32, layers=2),
                 text_cfg=dict(context_length=9, vocab_size=20, width=32, heads=2, layers=2))
    theirs = open_clip.CLIP(**sizes)
    torch.manual_seed(1)
    mine = open_clip.CLIP(**sizes)
    names = list(mine.state_dict())
    mine.load_state_dict(theirs.state_dict())
    assert list(with_own_layers(mine).state_dict()) == names
    assert {type(b) for b in [*mine.visual.transformer.resblocks, *mine.transformer.resblocks]} == {Block}
    pixels, ids = torch.randn(3, 3, 32, 32), torch.randint(20, (3, 9))
    for method, x in (('encode_image', pixels), ('encode_text', ids)):
        a, b = getattr(mine, method)(x), getattr(theirs, method)(x)
        assert torch.equal(a, b)
        a.sin().sum().backward()
        b.sin().sum().backward()
    for p, q in zip(mine.parameters(), theirs.parameters()):
        assert (p.grad is None) == (q.grad is None) and (p.grad is None or torch.equal(p.grad, q.grad))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_under_autocast_the_residual_stream_is_half(config, splits, dtype):
    model, seen = GLSCL(config).train(), {}
    for name, module in model.named_modules():
        if isinstance(module, Block | Norm):
            module.register_forward_hook(lambda m, args, out, name=name: seen.update({name: (args[0].dtype, out.dtype)}))
    batch = next(splits['train'].batches([range(6)]))
    with torch.autocast('cpu', dtype):
        texts, videos = model.encode(batch)
        losses = model.losses(texts, videos, batch.video_ids)
    blocks = {name: types for name, types in seen.items() if not name.rpartition('.')[2].startswith('ln_')}
    assert len(blocks) == 4 + 4 + 1 and {out for _, out in blocks.values()} == {dtype}
    # the first block of each tower takes it as the embedding gives it; nothing widens it after that
    assert {given for name, (given, _) in blocks.items() if not name.endswith('.0')} == {dtype}
    assert all(out == given for name, (given, out) in seen.items() if name not in blocks)
    assert losses.total.dtype == torch.float32
    losses.total.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)
    wide = model.eval().losses(*model.encode(batch), batch.video_ids).total
    with torch.autocast('cpu', dtype):
        half = model.losses(*model.encode(batch), batch.video_ids).total
    assert float(half.detach()) == pytest.approx(float(wide.detach()), rel=0.02)


class Kept(TorchDispatchMode):
    """Bytes of all tensors made within it that are still there."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.made += [weakref.ref(x.untyped_storage()) for x in (out if isinstance(out, (tuple, list)) else [out])
                      if isinstance(x, torch.Tensor)]
        return out

    def bytes(self):
        there = [ref() for ref in self.made]
        return sum({x.data_ptr(): x.nbytes() for x in there if x is not None}.values())


def kept_by(block, x, dtype):
    with torch.autocast('cpu', dtype), Kept() as kept:
        y = block(x)
    return kept.bytes() - y.untyped_storage().nbytes()


def test_large_activations_are_not_kept(monkeypatch):
    block, x = Block(64, 2, norm_layer=Norm), torch.randn(64, 50, 64).bfloat16().requires_grad_()
    whole = kept_by(block, x, torch.bfloat16)
    monkeypatch.setattr(half_blocks, 'LARGE', 0)
    spared = kept_by(block, x, torch.bfloat16)
    width = x.numel() * 2
    assert spared < 10.5 * width < 13.5 * width < whole  # q k v, mixed, x, and h of four widths; weights are small


# ---- a card that is only pretended: fake tensors of the device cuda

PLACES = ('_local_scalar_dense', 'nonzero', 'equal', 'masked_select', 'is_nonzero')


class Waits(TorchDispatchMode):
    """What asks the pretended card for a number, or copies to it without pinned memory."""

    def __init__(self):
        super().__init__()
        self.found, self.copied = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name, x = kwargs or {}, func.__name__.partition('.')[0], args[0] if args else None
        there = isinstance(x, torch.Tensor) and x.is_cuda
        if name == '_to_copy' and 'cuda' in str(kwargs.get('device')) and not there:
            self.copied += 1
            if not kwargs.get('non_blocking'):
                self.found.append('a copy that waits')
        if name == '_to_copy' and 'cpu' in str(kwargs.get('device')) and there:
            self.found.append('a copy back')
        if name in ('index', 'index_put_') and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self.found.append('an index by a mask')
        if name in PLACES and there:
            self.found.append(name)
        return func(*args, **kwargs)


def pretended(model):
    """The model on the pretended card."""
    memo = {}
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for name, x in store.items():
                if x is not None:
                    y = torch.empty(x.shape, dtype=x.dtype, device='cuda')
                    y = torch.nn.Parameter(y, x.requires_grad) if isinstance(x, torch.nn.Parameter) else y
                    store[name] = memo.setdefault(id(x), y)
    return model


@contextlib.contextmanager
def card(monkeypatch):
    monkeypatch.setattr('torch.cuda.amp.common.amp_definitely_not_available', lambda: False)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda *_: True)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda *_: (9, 0))
    monkeypatch.setattr(torch.Tensor, 'pin_memory', lambda x, *_: x)
    pixels._scale.cache_clear()
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield
    pixels._scale.cache_clear()


@pytest.mark.skipif(torch.cuda.is_available(), reason='pretends a card')
@pytest.mark.parametrize('settings', [{}, dict(temporal='lstm'), dict(local_loss=1.0), dict(released=True)], ids=str)
def test_a_forward_pass_never_waits_for_the_card(config, splits, monkeypatch, settings):
    model, real = GLSCL(config.replace(**settings)).train(), next(splits['train'].batches([range(6)]))
    valid = torch.arange(24)[real.frame_mask.flatten()]
    with card(monkeypatch):
        step = Step(pretended(model))
        batch = Batch(**vars(real.map(lambda x: torch.empty(x.shape, dtype=x.dtype, device='cuda'))))
        batch.frame_mask = torch.ones(6, 4, dtype=torch.bool)
        monkeypatch.setattr(torch.Tensor, 'nonzero', lambda mask: torch.empty(len(valid), 1, dtype=torch.long) if not mask.is_cuda else 1 / 0)
        monkeypatch.setattr(torch.Tensor, 'all', lambda mask: 1 / 0 if mask.is_cuda else False)  # some lack frames
        with Waits() as waits:
            losses = step(batch)
    assert losses.total.is_cuda and waits.found == []


@pytest.mark.skipif(torch.cuda.is_available(), reason='pretends a card')
def test_where_no_frame_is_lacking_the_forward_pass_brings_nothing_from_the_cpu(config, splits, monkeypatch):
    """Else a CUDA graph would hold the addresses of what is gone by its replay."""
    model, real = GLSCL(config).train(), next(splits['train'].batches([range(6)]))
    with card(monkeypatch):
        step = Step(pretended(model))
        batch = Batch(**vars(real.map(lambda x: torch.empty(x.shape, dtype=x.dtype, device='cuda'))))
        batch.frame_mask = torch.ones(6, 4, dtype=torch.bool)
        monkeypatch.setattr(torch.Tensor, 'all', lambda mask: 1 / 0 if mask.is_cuda else True)
        step(batch)  # what stays on the card comes with the first
        with Waits() as waits:
            step(batch)
    assert waits.copied == 0 and waits.found == []
