"""What runs on an NVIDIA GPU, against the same on the CPU or in float64; skipped where there is none."""
import pytest
import torch
from core.test_cuda_graph import LENGTHS, whole
from search.galleries import TEXTS, copy_films
from search.scoring_cases import WEIGHTS, check_best, check_close, exact, galleries, items, shapes

from glscl import GLSCL, Gallery, Trainer, cuda_scoring, save_model
from glscl.data.prefetch import ahead
from glscl.evaluation import evaluate
from glscl.runtime.devices import autocast, precision, seed_everything
from glscl.search import topk
from glscl.search.index import index_videos

CARD = 'cuda'
pytestmark = [pytest.mark.skipif(not torch.cuda.is_available(), reason='needs an NVIDIA GPU'),
              pytest.mark.filterwarnings('ignore:.*deterministic')]
two_stages = pytest.mark.skipif(torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 0), reason='older cards take the plain form')


# ---- scoring

def on_card(both):
    return [x.to(CARD) for x in both]


@two_stages
def test_triton_works_here():
    assert cuda_scoring.can_score(*on_card(items(2, 3)))


@two_stages
@shapes
@pytest.mark.parametrize('kind', [torch.float16, torch.bfloat16, torch.float32])
def test_both_stages_are_the_exact_form(T, V, F, D, dtype, kind):
    for n in (V, 40 * V):
        texts, videos = on_card(items(T, n, F, D, dtype=kind))
        check_close(cuda_scoring.similarity(texts, videos, **WEIGHTS), exact(texts, videos, **WEIGHTS))


@two_stages
@pytest.mark.parametrize('kind', [torch.float16, torch.bfloat16, torch.float32])
def test_both_stages_at_the_size_of_a_benchmark(kind):
    texts, videos = on_card(items(1000, 1003, 12, 512, 8, dtype=kind, size=0.45))
    check_close(cuda_scoring.similarity(texts, videos), exact(texts, videos))


@two_stages
@galleries
def test_the_best_by_lists(T, V, F, k):
    check_best(*on_card(items(T, V, F, D=8)), k, **WEIGHTS)


@two_stages
@pytest.mark.parametrize('k', [1, 10, 300])
def test_the_best_of_many(k):
    check_best(*on_card(items(100, 30_000, 4, D=16)), k)


@two_stages
def test_a_list_that_overflows_is_done_again(monkeypatch):
    texts, videos = on_card(items(3, 5000, 2, D=16))
    order, full, best = cuda_scoring.similarity(texts, videos)[1].argsort(), [], topk._best_of_all
    monkeypatch.setattr(topk, '_best_of_all', lambda *given: full.append(given[3]) or best(*given))
    check_best(texts, videos[order], 10)
    assert len(full) > 1


@pytest.mark.parametrize('half', [True, False])
def test_the_model_scores_as_the_plain_form_does(config, half, monkeypatch):
    texts, videos = on_card(items(60, 80, 4, D=32, dtype=torch.bfloat16 if half else torch.float32))
    model = GLSCL(config)
    S = model.similarity(texts, videos)
    monkeypatch.setattr(cuda_scoring, 'can_score', lambda *_: False)
    check_close(S, model.similarity(texts, videos).double())


def test_where_a_gradient_is_asked_for_there_is_one(config):
    texts, videos = on_card(items(6, 7, 4, D=32, dtype=torch.float32))
    texts.sentence.requires_grad_()
    GLSCL(config).similarity(texts, videos).sum().backward()
    assert texts.sentence.grad.abs().sum() > 0


# ---- the model

def test_an_evaluation_ranks_as_the_cpu_does(config, splits, monkeypatch):
    monkeypatch.setattr('glscl.runtime.devices.precision', lambda device: None)  # in float32 on both
    monkeypatch.setattr('glscl.clip_models.precision', lambda device: None)
    model = GLSCL(config).eval()
    S, metrics = evaluate(model, splits['test'])
    mine, same = evaluate(model.to(CARD), splits['test'])
    torch.testing.assert_close(mine, S, atol=1e-4, rtol=0)
    assert mine.device.type == 'cpu' and same['t2v']['queries'] == metrics['t2v']['queries']


def test_memory_comes_back(config, splits):
    model = GLSCL(config).to(CARD).eval()
    evaluate(model, splits['test'])  # the libraries keep a working space from the first time on
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    evaluate(model, splits['test'])
    assert torch.cuda.memory_allocated() == before


# ---- training

def trainer(config, splits, device=CARD, run_dir=None, steps=4, **settings):
    seed_everything(0)
    return Trainer(GLSCL(config.replace(**settings)).to(device), splits['train'], splits['val'], run_dir, steps=steps, eval_every=2)


def one_step(config, splits, device):
    """(losses, gradients in float64 on the CPU) of a step without dropout."""
    t = trainer(config, splits, device)
    t.model.eval()
    losses = t.train_step()
    return losses, {name: p.grad.double().cpu() for name, p in t.model.named_parameters() if p.grad is not None}


def test_a_step_is_the_cpus(config, splits):
    (expected, gradients), (losses, mine) = (one_step(config, splits, device) for device in ('cpu', CARD))
    assert losses['total'] == pytest.approx(expected['total'], rel=0.02)  # half precision
    assert mine.keys() == gradients.keys()
    flat, wanted = (torch.cat([g.flatten() for g in of.values()]) for of in (mine, gradients))
    assert torch.cosine_similarity(flat, wanted, dim=0) > 0.98


def test_batches_arrive_as_they_were_read(splits):
    blocks = [list(range(i, i + 6)) for i in range(0, 60, 6)]
    for mine, read in zip(ahead(splits['test'].batches(blocks), torch.device(CARD)), splits['test'].batches(blocks)):
        assert mine.frames.is_cuda and torch.equal(mine.frames.cpu(), read.frames) and torch.equal(mine.token_ids.cpu(), read.token_ids)


def test_a_run_broken_off_ends_bit_equal(config, splits, tmp_path):
    whole = trainer(config, splits, deterministic=True)
    whole.run(log=None)
    broken = trainer(config, splits, run_dir=tmp_path, deterministic=True)
    broken.run(until=3, log=None, save_every=1)
    again = trainer(config, splits, run_dir=tmp_path, deterministic=True)
    assert again.resume() and again.step == 3
    again.run(log=None)
    assert [h['total'] for h in again.history] == [h['total'] for h in whole.history]


def test_kernels_are_deterministic_only_where_asked_for(config, splits):
    for asked in (False, True):
        trainer(config, splits, deterministic=asked)
        assert torch.are_deterministic_algorithms_enabled() == asked


def test_a_step_waits_for_nothing_until_losses_are_read(config, splits):
    t = trainer(config, splits, steps=25)
    t.read_every = 10
    for i, batch in enumerate(ahead(t.batches(8), t.device)):
        # the first steps load kernels and libraries, which wait
        torch.cuda.set_sync_debug_mode('error' if i > 2 else 'default')
        try:
            t.train_step(batch)
        finally:
            torch.cuda.set_sync_debug_mode('default')
    assert len(t.unread) == 8
    t.read()
    assert t.unread == []


@pytest.mark.parametrize('capability', [(9, 0), (7, 5)], ids=['bfloat16', 'float16'])
def test_a_recorded_step_is_the_plain_step(config, splits, monkeypatch, capability):
    """Also while the next batch is fetched, with the same dropout, and after a validation."""
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda *_: capability)
    totals, weights = [], []
    for graph in (False, True):
        t = trainer(config, splits, steps=len(LENGTHS), deterministic=True, cuda_graph=graph)
        torch.manual_seed(1)
        rows = []
        for batch in ahead(whole(splits, LENGTHS), t.device):
            rows.append(t.train_step(batch))
            t.history.append(rows[-1])
            if t.step == 5:
                t.validate()
        totals.append([row['total'] for row in rows])
        weights.append(torch.cat([p.detach().double().flatten() for p in t.model.parameters()]))
    assert len(t.backward.graphs) == 2 and totals[1] == pytest.approx(totals[0], rel=1e-3)
    assert float((weights[0] - weights[1]).abs().max()) < 1e-3


def test_a_loss_that_is_no_number_changes_no_weight_though_it_is_read_later(config, splits):
    t = trainer(config, splits, steps=25)
    t.eval_every, forward, weights = 25, t.forward, []

    def spoilt(batch):
        weights.append([p.detach().clone() for p in t.model.parameters()])
        losses = forward(batch)
        if t.step == 3:
            losses.contrastive = losses.contrastive * float('nan')
        return losses
    t.forward = spoilt
    with pytest.raises(FloatingPointError, match='loss is nan at step 3'):
        t.run(log=None)
    assert len(weights) == 10 and all(torch.equal(a, b) for a, b in zip(weights[3], weights[4]))
    assert not all(torch.equal(a, b) for a, b in zip(weights[4], weights[5]))


def test_the_residual_stream_is_half_on_the_card(config, splits):
    model, seen = GLSCL(config).to(CARD), set()
    for block in [*model.clip.visual.transformer.resblocks, *model.clip.text_blocks, *model.temporal.blocks]:
        block.register_forward_hook(lambda block, given, x: seen.add(x.dtype))
    with torch.no_grad(), autocast(model.device):
        model.encode(next(splits['test'].batches([range(6)])).to(CARD))
    assert seen == {precision(torch.device(CARD))}


def test_an_older_card_trains_in_float16_with_a_scaler(config, splits, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda *_: (7, 5))
    assert precision(torch.device(CARD)) == torch.float16
    t = trainer(config, splits)
    assert t.scaler.is_enabled()
    before = [p.detach().clone() for p in t.model.parameters()]
    t.run(log=None)
    assert all(torch.isfinite(torch.tensor(h['total'])) for h in t.history)
    assert any(not torch.equal(a, b) for a, b in zip(before, t.model.parameters()))
    assert 0 < t.scaler.get_scale() <= 2 ** 16


# ---- index and search

def test_a_gallery_made_and_searched_on_the_card(config, world_folder, tmp_path):
    model_file, films = tmp_path / 'model.safetensors', copy_films(world_folder, tmp_path / 'films')
    torch.manual_seed(0)
    save_model(GLSCL(config), model_file)
    found = {}
    for device in ('cpu', CARD):
        done = index_videos(films, tmp_path / device, model_file, device, workers=1, log=None)
        assert done['added'] == 12
        found[device] = Gallery(tmp_path / device, device=device).search(TEXTS, 12)
    for mine, expected in zip(found[CARD], found['cpu']):
        scores = {r.path.removeprefix(str(films)): r.score for r in expected}
        assert {r.path.removeprefix(str(films)): r.score for r in mine} == pytest.approx(scores, abs=0.02)
        assert [r.score for r in mine] == sorted((r.score for r in mine), reverse=True)


def test_autocast_leaves_features_that_are_scored(config, splits):
    """Under autocast a sentence and frames are half, concepts float32: the two stages take them as they are."""
    model = GLSCL(config).to(CARD).eval()
    with torch.no_grad(), autocast(model.device):
        texts, videos = model.encode(next(splits['test'].batches([range(6)])).to(CARD))
    wide = [x.map(lambda y: y.double() if y.is_floating_point() else y) for x in (texts, videos)]
    torch.testing.assert_close(model.similarity(texts, videos).double(), model.similarity(*wide), atol=1e-5, rtol=0)
