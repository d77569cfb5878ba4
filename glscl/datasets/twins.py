"""Videos of `shapes` in pairs whose frames are the same in another order.

Kind `order`: the scenes of the twin come in the reverse order. Kind `direction`: one object of the
twin travels the other way. At a frame a second, without thinning, both videos of a pair give the
same pixels (up to H.264): whoever adds up frames and forgets their order can only guess which of
the two a caption means."""
import random
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..data.pairs import load_pairs
from . import shapes
from .splits import kept, shapes_table

KINDS = ('order', 'direction')
OPPOSITE = {'left': 'right', 'right': 'left', 'up': 'down', 'down': 'up'}
MOST_SECONDS = 12  # of a video: more are thinned out, and a twin would keep other frames


def load_twins(config, kind='order', count=200, data_dir=None, seed=0, log=None):
    """Render (once) and load `count` pairs of twins: Pairs of 2 `count` videos, a caption each.

    data_dir: where `shapes` is kept. Errors as `describe`, `shapes.build` and `load_pairs`."""
    root = kept(data_dir)
    return load_pairs(twins(root, kind, count, seed), config, cache=root / 'frames', log=log)


def twins(root, kind='order', count=200, seed=0):
    """Render (once) under `root` and list: a DataFrame as `shapes_table`, and the column `twin`,
    the video_id of the other one of the pair. Errors as `describe` and `shapes.build`."""
    folder = Path(root) / f'twins-{kind}-{seed}-{count}'
    table = shapes_table(shapes.render_splits(folder, [(kind, *describe(kind, count, seed))]), kind)
    ids = table['video_id'].to_numpy().reshape(-1, 2)
    return table.assign(twin=ids[:, ::-1].ravel())


def describe(kind='order', count=200, seed=0):
    """2 `count` videos, twins side by side, without a pixel: for each a list of its scenes, and one
    of its caption rows, as `shapes.describe`.

    The two captions of a pair say the same but for what differs, and each fits one video alone.
    ValueError for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f'the kind of twins is one of {", ".join(KINDS)}, not {kind!r}')
    rng = random.Random(f'twins {kind} {seed}')
    videos, rows = [], []
    while len(videos) < 2 * count:
        pair, told = {'order': _order_pair, 'direction': _direction_pair}[kind](rng)
        if pair and _tells_apart(videos + pair, rows + told):
            videos += pair
            rows += told
    return videos, [[dict(row, kind=kind, primary=True)] for row in rows]


def _order_pair(rng):
    """Two videos and a row {caption, facts} of each; ([], []) if the dice give none."""
    scenes = shapes.random_video(rng)
    facts = shapes.random_facts(scenes, 'order', rng, rng.choice([1, 2]))
    a, b = (shapes.say(fact, rng) for fact in facts)
    template = rng.choice(shapes.ORDER)
    if sum(scene.seconds for scene in scenes) > MOST_SECONDS:
        return [], []
    rows = [dict(caption=template.format(a=a, b=b), facts=facts),
            dict(caption=template.format(a=b, b=a), facts=facts[::-1])]
    return [scenes, scenes[::-1]], rows


def _direction_pair(rng):
    """As `_order_pair`."""
    scenes = shapes.random_video(rng)
    s = rng.randrange(len(scenes))
    scene, others = scenes[s], rng.sample(['size', 'background'], rng.choice([1, 2]))
    wording = rng.random()  # the same for both: the phrases of opposite motions stand in one order
    thing = scene.things[0]
    if thing.motion not in OPPOSITE or sum(each.seconds for each in scenes) > MOST_SECONDS:
        return [], []
    videos, rows = [], []
    for motion, path in zip((thing.motion, OPPOSITE[thing.motion]), _both_ways(thing, scene)):
        own = replace(thing, motion=motion, path=path)
        turned = replace(scene, things=[own, *scene.things[1:]])
        videos.append([*scenes[:s], turned, *scenes[s + 1:]])
        fact = shapes.fact_of(own, turned, {'count', 'colour', 'shape', 'motion', *others})
        rows.append(dict(caption=shapes.say(fact, random.Random(wording)), facts=[fact]))
    return videos, rows


def _both_ways(thing, scene):
    """Its path and the one back, moved so that the frames taken each second show it at the same
    places both ways: the last of them comes FPS - 1 frames before the end of the scene."""
    start, end = np.array(thing.path[:3]), np.array(thing.path[3:])
    frames = scene.seconds * shapes.FPS
    middle, step = (start + end) / 2, (end - start) / (frames - 1)
    before = (frames - shapes.FPS) / 2  # steps from the start to the middle
    after = frames - 1 - before
    return [[*(middle - way * before).tolist(), *(middle + way * after).tolist()]
            for way in (step, -step)]


def _tells_apart(videos, rows):
    """Does each caption fit its own video alone? Asked of the last two videos and captions, and of
    what they change for the rest."""
    new = len(videos) - 2
    pairs = [(i, v) for i in range(new) for v in (new, new + 1)]
    pairs += [(i, v) for i in (new, new + 1) for v in range(len(videos))]
    return all(shapes.fits(rows[i]['facts'], videos[v]) == (i == v) for i, v in pairs)
