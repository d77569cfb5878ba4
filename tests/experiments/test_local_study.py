"""What the study of the local module measures, and how its runs are taken."""
import json

import pytest
import torch

from glscl import GLSCL, Trainer, load_config
from glscl.config import data_path
from glscl.experiments import attributes, concepts, in_process, sweep
from glscl.notebook import begin
from glscl.runtime.files import read_yaml

normal = torch.nn.functional.normalize


def test_alike_by_loops():
    torch.manual_seed(0)
    c = normal(torch.randn(4, 3, 5), dim=-1)
    within = [float(c[n, i] @ c[n, j]) for n in range(4) for i in range(3) for j in range(3) if i != j]
    between = [float(c[n, q] @ c[m, q]) for q in range(3) for n in range(4) for m in range(4) if n != m]
    found = concepts.alike(c)
    assert found['within'] == pytest.approx(sum(within) / len(within), abs=1e-6)
    assert found['between'] == pytest.approx(sum(between) / len(between), abs=1e-6)
    one = concepts.alike(c[:1, :1].expand(4, 3, 5))
    assert one['within'] == pytest.approx(1) and one['between'] == pytest.approx(1)


def test_concepts_are_followed_through_the_layers_of_a_decoder():
    torch.manual_seed(0)
    local = GLSCL(load_config('shapes', num_queries=3, decoder_layers=2)).local.eval()
    frames, mask = torch.randn(5, 4, 128), torch.ones(5, 4, dtype=torch.bool)
    read, became = concepts.layer_by_layer(local, frames, mask).T
    assert len(read) == 2 and became[-1] == pytest.approx(concepts.alike(local.video_concepts(frames, mask))['within'])
    del local.video_decoder.layers[1]
    assert concepts.layer_by_layer(local, frames, mask)[0] == pytest.approx([read[0], became[0]])


def test_a_run_in_process_stores_what_the_tables_need(tmp_path):
    videos = dict(train=64, val=16, test=24, bound=8, twins=4)
    spec = dict(in_process=True, base=dict(freeze_clip=True, steps=4, batch_size=16, captions=['all', 'bound', 'order twins'], videos=videos),
                variants={'global only': dict(local_weight=0), 'slots': dict(local_form='slots', local_loss=1, alone_first=2),
                          'watched': dict(watch=1, stop=2)})
    found = sweep.run(spec, tmp_path, say=lambda _: None)
    assert not found['failed'] and [run['name'] for run in found['runs']] == list(spec['variants'])
    plain, slots, watched = found['runs']
    assert len(found['text_to_video']) == len(slots['ranks']['t2v']) == len(slots['local_ranks']) == 96
    assert set(slots['by_kind']) == {'scene', 'order'} and slots['captions'] == 'all'
    twins = slots['more_captions']['bound']['before_twin']
    assert set(twins) == {'both', 'global', 'local'} and {len(hits) for hits in twins.values()} == {8}
    first = slots['more_captions']['order twins']['own_first']
    assert set(first) == {'both', 'global', 'local'} and {len(hits) for hits in first.values()} == {8}
    assert plain['parameters_of_local'] == 0 and 'concepts' not in plain and slots['parameters_of_local'] == 67072
    assert [look['step'] for look in watched['curve']] == [0, 1, 2]
    assert {'hardware', 'versions', 'date', 'commit', 'threads'} <= set(slots)
    assert len(watched['layers']) == 3 and 'layers' not in slots
    again = sweep.run(spec, tmp_path, say=lambda _: None)  # what is finished is left as it is
    assert [run['date'] for run in again['runs']] == [run['date'] for run in found['runs']]
    assert json.loads((tmp_path / 'results.json').read_text())['runs'][1]['ranks'] == slots['ranks']


def test_a_setting_that_cannot_be_is_said_before_the_first_run(tmp_path):
    spec = dict(in_process=True, variants={'odd': dict(local_form='slot')})
    with pytest.raises(ValueError, match="'odd': local_form is one of"):
        sweep.run(spec, tmp_path / 'out', say=lambda _: None)
    assert not (tmp_path / 'out').exists()


def test_the_shipped_sweeps_can_be():
    for name in ('local', 'tuned', 'collapse', 'attributes'):
        runs = sweep.expand(read_yaml(data_path(f'sweeps/{name}.yaml')))
        in_process.check(runs)
        assert len(runs) >= 9


def test_watching_trains_as_running_does():
    lesson = begin('tiny', 0, 'cpu', '', '')
    train, val = lesson.load('train'), lesson.load('val')
    ends = []
    for watched in (True, False):
        torch.manual_seed(0)
        trainer = Trainer(GLSCL(load_config('shapes', freeze_clip=True, local_form='slots', batch_size=16)), train, val, steps=3)
        if watched:
            looks = concepts.watch(trainer, 2, 3)
            assert [look['step'] for look in looks] == [0, 2]
        trainer.run(log=None)
        ends.append(trainer.model.local.video_queries.detach().clone())
    assert torch.equal(*ends)


def test_a_world_is_seen_twice_in_other_order():
    world = attributes.World(3)
    items = world.items(200)
    assert items.shape == (200, 4) and bool((items // 16 == torch.arange(4)).all())
    tokens, attribute = world.tokens(items)
    nearest = torch.cdist(tokens, world.vectors).argmin(-1)
    shown = items.gather(1, attribute)
    assert (nearest == shown).float().mean() > 0.5  # noisy, but there
    assert not torch.equal(world.tokens(items)[1], attribute)
    assert torch.equal(attributes.World(3).vectors, world.vectors)


def test_more_queries_find_more_and_attention_sums_to_one():
    found = {}
    for Q in (1, 4):
        trained = attributes.train(Q, seed=1, steps=60)
        found[Q] = attributes.evaluate(trained['local'], trained['world'])
        assert torch.allclose(found[Q]['attention'].sum(1), torch.ones(Q), atol=1e-4)
    assert found[4]['recall'] > found[1]['recall'] > 2


def test_a_loss_reaches_what_it_depends_on_and_with_its_length():
    lesson = begin('tiny', 0, 'cpu', '', '')
    torch.manual_seed(0)
    model, pairs = GLSCL(load_config('shapes', freeze_clip=False)).eval(), lesson.load('val')
    rows = torch.arange(4)
    texts, videos = model.encode_texts(*pairs.texts(rows)), model.encode_videos(*pairs.videos(rows))
    losses = model.losses(texts, videos, rows)
    sizes = concepts.gradients(model, losses)
    assert {part for _, part in sizes} == {'text tower', 'image tower', 'scale', 'temporal', 'queries', 'decoder'}
    reached = {loss: {part for (name, part), size in sizes.items() if name == loss and size} for loss, _ in sizes}
    assert 'scale' in reached['contrastive'] and 'scale' not in reached['inter-consistency'] | reached['intra-diversity']
    losses.contrastive.backward()
    by_hand = torch.cat([p.grad.flatten() for p in model.local.video_decoder.parameters()]).double().norm()
    assert sizes['contrastive', 'decoder'] == pytest.approx(float(by_hand), rel=1e-4)


def test_what_two_find_is_counted_seed_by_seed():
    def run(name, seed, local, both):
        return dict(name=name, seed=seed, local_ranks=local, ranks=dict(t2v=both))
    runs = [run('slots', 0, [1, 1, 2, 3], None), run('slots', 1, [1, 2, 2, 1], None), run('slots', 2, [1, 1, 1, 1], None),
            run('global only', 1, None, [1, 4, 1, 1]), run('global only', 0, None, [1, 9, 1, 1])]
    assert concepts.found_by_both(runs, 'slots') == pytest.approx((1 / 2 + 2 / 2) / 2)  # seed 2 has no partner
