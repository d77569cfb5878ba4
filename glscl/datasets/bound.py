"""Videos in pairs that differ in nothing but what belongs to what: a red star and then a blue ring,
or a blue star and then a red ring. Who sees only what there is cannot tell them apart."""
import copy
import json
import random
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict

import pandas as pd

from ..data.pairs import load_pairs
from . import shapes
from .splits import kept


def load_bound(config, data_dir=None, videos=400, seed=0, log=None):
    """Render (once) and load these videos: Pairs of one caption a video; videos 2k and 2k + 1 are
    twins, and their captions differ by the colours alone.

    data_dir: where they are kept, as for `shapes`."""
    root = kept(data_dir)
    folder = _build(root / f'bound-{seed}-{videos}', videos, seed)
    rows = [json.loads(line) for line in
            (folder / 'test.jsonl').read_text(encoding='utf-8').splitlines()]
    table = pd.DataFrame([dict(video_id=row['video_id'], caption=row['caption'],
                               path=str(folder / f'{row["video_id"]}.mp4')) for row in rows])
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


def _build(folder, videos, seed):
    if (folder / 'test.jsonl').exists():
        return folder
    half = folder.with_name(f'.{folder.name}')
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(parents=True)
    jobs = []
    with open(half / 'test.jsonl', 'w', encoding='utf-8') as file:
        for i, (scenes, facts, caption) in enumerate(twins(videos, seed)):
            row = dict(video_id=f'bound{i:04d}', caption=caption, facts=facts,
                       scenes=[asdict(scene) for scene in scenes])
            file.write(json.dumps(row) + '\n')
            jobs.append((half / f'bound{i:04d}.mp4', scenes))
    with ProcessPoolExecutor(2) as pool:
        list(pool.map(_write, jobs, chunksize=32))
    half.rename(folder)
    return folder


def _write(job):
    path, scenes = job
    shapes.write_video(path, shapes.render(scenes), shapes.FPS)
