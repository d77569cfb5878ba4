"""Videos in pairs that differ in nothing but what belongs to what: a red star and then a blue ring,
or a blue star and then a red ring. Who sees only what there is cannot tell them apart."""
import copy
import random

from ..data.pairs import load_pairs
from . import shapes
from .splits import kept, shapes_table


def load_bound(config, data_dir=None, videos=400, seed=0, log=None):
    """Render (once) and load these videos: Pairs of one caption a video; videos 2k and 2k + 1 are
    twins, and their captions differ by the colours alone.

    data_dir: where they are kept, as for `shapes`."""
    root = kept(data_dir)
    scenes, facts, captions = zip(*twins(videos, seed))
    rows = [[dict(caption=caption, kind='order', facts=of)] for caption, of in zip(captions, facts)]
    folder = shapes.render_splits(root / f'twins-bound-{seed}-{videos}', [('bound', scenes, rows)])
    table = shapes_table(folder, 'bound').drop(columns='kind')
    return load_pairs(table, config, cache=root / 'frames', log=log)


def twins(videos=400, seed=0):
    """[(scenes, facts, caption)] of so many videos, without a pixel. Facts are of two scenes in
    order; each caption holds for its own video and not for its twin."""
    rng, found = random.Random(f'bound {seed}'), []
    while len(found) < videos:
        scenes = shapes.random_video(rng)
        first, second = sorted(rng.sample(range(len(scenes)), 2))
        if scenes[first].things[0].shape == scenes[second].things[0].shape:
            continue  # then the twin would be the same scenes in another order
        swapped = copy.deepcopy(scenes)
        swapped[first].things[0].colour = scenes[second].things[0].colour
        swapped[second].things[0].colour = scenes[first].things[0].colour
        both = [[shapes.fact_of(video[s].things[0], video[s], {'count', 'colour', 'shape'})
                 for s in (first, second)] for video in (scenes, swapped)]
        if shapes.fits(both[0], swapped) or shapes.fits(both[1], scenes):
            continue
        wording = rng.getrandbits(32)  # the same words for both
        for video, facts in zip((scenes, swapped), both):
            caption = shapes.say_order(facts, random.Random(wording), plain=True)
            found.append((video, facts, caption))
    return found[:videos]
