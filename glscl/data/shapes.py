"""The embedded data set: short films of moving shapes, rendered, encoded and captioned from a seed.

A video is two or three scenes of three to five seconds (3 frames a second, 64 x 64 pixels, H.264). A scene
is a background and a main object that stands, moves, grows or shrinks, perhaps beside a small distractor.
A caption tells one scene (kind `scene`: the frames that matter are a few of many) or two scenes in order
(kind `order`: the same frames in another order are another video). A *fact* is what a caption asserts; in
the test split each caption's facts hold for exactly one video, by construction.
"""
import json
import os
import random
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .video import write_video

SIZE, FPS = 64, 3  # pixels, frames per second
SPLITS = {'train': 2000, 'val': 200, 'test': 500}
COLOURS = {'red': (225, 45, 45), 'orange': (245, 145, 30), 'yellow': (245, 225, 60), 'green': (60, 200, 75),
           'blue': (60, 105, 240), 'purple': (155, 70, 205), 'pink': (250, 150, 195), 'white': (250, 250, 250)}
SHAPES = ('circle', 'square', 'triangle', 'ring', 'star', 'cross')
MOTIONS = ('still', 'left', 'right', 'up', 'down', 'grow', 'shrink')
PLACES = {'left': (15, 32), 'right': (49, 32), 'top': (32, 15), 'bottom': (32, 49), 'middle': (32, 32)}
BACKGROUNDS = ('night', 'snow', 'grass', 'sand', 'sea')
RADIUS = {'small': 6.5, 'big': 12.0}

# The first word of each list is the plain one; difficulty 0 uses no other.
WORDS = {
    'colour': {'red': ['red', 'crimson', 'scarlet'], 'orange': ['orange', 'tangerine'],
               'yellow': ['yellow', 'golden'], 'green': ['green', 'emerald'], 'blue': ['blue', 'azure'],
               'purple': ['purple', 'violet'], 'pink': ['pink', 'rosy'], 'white': ['white', 'pale']},
    'shape': {'circle': ['circle', 'disc', 'ball'], 'square': ['square', 'box'], 'triangle': ['triangle', 'wedge'],
              'ring': ['ring', 'hoop'], 'star': ['star'], 'cross': ['cross', 'plus']},
    'size': {'small': ['small', 'little', 'tiny'], 'big': ['big', 'large', 'huge']},
    'count': {1: ['a', 'one', 'a single'], 2: ['two', 'a pair of'], 3: ['three', 'a trio of']},
    'motion': {'still': ['stays still', 'stands still', 'does not move'],
               'left': ['moves left', 'slides to the left', 'drifts leftwards'],
               'right': ['moves right', 'slides to the right', 'drifts rightwards'],
               'up': ['moves up', 'rises', 'climbs upwards'], 'down': ['moves down', 'falls', 'sinks downwards'],
               'grow': ['grows', 'gets bigger', 'expands'], 'shrink': ['shrinks', 'gets smaller', 'dwindles']},
    'place': {'left': ['on the left', 'at the left side'], 'right': ['on the right', 'at the right side'],
              'top': ['at the top', 'near the upper edge'], 'bottom': ['at the bottom', 'near the lower edge'],
              'middle': ['in the middle', 'in the centre']},
    'background': {'night': ['at night', 'in the dark'], 'snow': ['in the snow', 'on white snow'],
                   'grass': ['on the grass', 'on a lawn'], 'sand': ['on the sand', 'at the beach'],
                   'sea': ['in the sea', 'in the water']}}
ORDER = ['{a}, then {b}', 'first {a}, then {b}', '{a}, followed by {b}', '{a} before {b}', '{b} after {a}',
         'after {a}, {b}']
PLURAL_VERB = {'stays': 'stay', 'stands': 'stand', 'does': 'do', 'moves': 'move', 'slides': 'slide',
               'drifts': 'drift', 'rises': 'rise', 'climbs': 'climb', 'falls': 'fall', 'sinks': 'sink',
               'grows': 'grow', 'gets': 'get', 'expands': 'expand', 'shrinks': 'shrink', 'dwindles': 'dwindle'}


@dataclass
class Thing:
    """One kind of object in a scene: `count` equal copies side by side on one path."""
    colour: str
    shape: str
    size: str | None   # None where it grows or shrinks: then no word for its size stays true
    count: int
    motion: str
    places: list    # names of PLACES that hold for it; empty where it travels
    path: list      # [x0, y0, r0, x1, y1, r1] in pixels, straight and at constant speed


@dataclass
class Scene:
    """A background, how long it lasts, and what is seen before it."""
    background: str
    seconds: int
    things: list    # the main object first
    texture: int    # seed of the background's texture


def random_thing(rng, main=True):
    """A main object, or (`main=False`) a small still distractor in a corner."""
    colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
    if not main:
        x, y = rng.choice([8, 56]), rng.choice([8, 56])
        return Thing(colour, shape, 'small', 1, 'still',
                     ['left' if x < 32 else 'right', 'top' if y < 32 else 'bottom'], [x, y, 5, x, y, 5])
    size, motion = rng.choice(['small', 'big']), rng.choice(MOTIONS)
    count = rng.choice([1, 2, 3]) if size == 'small' else 1
    r, place = RADIUS[size], rng.choice(list(PLACES))
    x, y = (c + rng.uniform(-2, 2) for c in PLACES[place])
    if count == 3:  # three in a row fit between the edges only around the middle
        x = 32 + (x - 32) * 0.3
    reach, across = (8 if count == 3 else 15), rng.uniform(20, 44)
    path = {'left': [32 + reach, across, r, 32 - reach, across, r], 'right': [32 - reach, across, r, 32 + reach, across, r],
            'up': [x, 48, r, x, 16, r], 'down': [x, 16, r, x, 48, r], 'grow': [x, y, 0.55 * r, x, y, 1.35 * r],
            'shrink': [x, y, 1.35 * r, x, y, 0.55 * r]}.get(motion, [x, y, r, x, y, r])
    return Thing(colour, shape, None if motion in ('grow', 'shrink') else size, count, motion,
                 [place] if motion in ('still', 'grow', 'shrink') else [], path)


def random_video(rng, difficulty=1):
    """A list of scenes. `difficulty` 0: two scenes, no distractor; 1: two or three, one in half of them; 2: three, always."""
    scenes = []
    for _ in range((2, rng.choice([2, 3, 3]), 3)[difficulty]):
        things = [random_thing(rng)]
        if rng.random() < (0, 0.5, 1)[difficulty]:
            things.append(random_thing(rng, main=False))
        others = [b for b in BACKGROUNDS if not scenes or b != scenes[-1].background]
        scenes.append(Scene(rng.choice(others), rng.choice([3, 4, 5]), things, rng.randrange(2 ** 31)))
    return scenes


# ---- facts and captions

def fact_of(thing, scene, keys):
    """What a caption asserts of a thing: a dict with the chosen `keys` of count, colour, shape, size, motion, place, background."""
    every = dict(count=thing.count, colour=thing.colour, shape=thing.shape, size=thing.size, motion=thing.motion,
                 place=thing.places[0] if thing.places else None, background=scene.background)
    return {k: every[k] for k in every if k in keys and every[k] is not None}


def fits_scene(fact, scene):
    """Does some thing of this scene satisfy every item of the fact?"""
    for thing in scene.things:
        if thing.colour == fact['colour'] and thing.shape == fact['shape'] and all(
                v in thing.places if k == 'place' else v == (scene.background if k == 'background' else getattr(thing, k))
                for k, v in fact.items()):
            return True
    return False


def fits(facts, scenes):
    """Do the facts hold, each in a scene of its own, in the order given?"""
    at = 0
    for fact in facts:
        while at < len(scenes) and not fits_scene(fact, scenes[at]):
            at += 1
        if at == len(scenes):
            return False
        at += 1
    return True


def say(fact, rng, plain=False):
    """One clause in words: 'two small red stars drift leftwards at night'."""
    word = {k: (lambda c: c[0] if plain else rng.choice(c))(WORDS[k][v]) for k, v in fact.items()}
    many = fact['count'] > 1
    noun = word['shape'] + ({'box': 'es', 'cross': 'es', 'plus': 'es'}.get(word['shape'], 's') if many else '')
    if 'motion' in word and many:
        verb, *rest = word['motion'].split()
        word['motion'] = ' '.join([PLURAL_VERB[verb], *rest])
    clause = ' '.join(word[k] for k in ('count', 'size', 'colour') if k in word)
    if clause.split()[:2] == ['a', 'orange'] or clause.split()[:2] in (['a', 'azure'], ['a', 'emerald']):
        clause = 'an' + clause[1:]
    return ' '.join([clause, noun, *(word[k] for k in ('motion', 'place', 'background') if k in word)])


def say_order(facts, rng, plain=False):
    """One clause, or two in order: 'first a red star, then a blue ring'."""
    clauses = [say(fact, rng, plain) for fact in facts]
    return clauses[0] if len(clauses) == 1 else (ORDER[0] if plain else rng.choice(ORDER)).format(a=clauses[0], b=clauses[1])


def random_facts(scenes, kind, rng, extra):
    """Facts about one scene, or two in order; `extra` of the optional items size, motion, place, background in each."""
    chosen = [rng.randrange(len(scenes))] if kind == 'scene' else sorted(rng.sample(range(len(scenes)), 2))
    facts = []
    for s in chosen:
        optional = rng.sample(['size', 'motion', 'place', 'background'], extra)
        facts.append(fact_of(scenes[s].things[0], scenes[s], {'count', 'colour', 'shape', *optional}))
    return facts


def caption_train(scenes, rng, difficulty=1):
    """Six captions, three of each kind, as rows {caption, kind, facts}."""
    rows = []
    for kind in ('scene', 'order') * 3:
        facts = random_facts(scenes, kind, rng, rng.choice([2, 3, 4]) if kind == 'scene' else rng.choice([0, 1, 2]))
        rows.append(dict(caption=say_order(facts, rng, difficulty == 0), kind=kind, facts=facts))
    return rows


def holds_elsewhere(facts, i, videos):
    """Do the facts of video `i` hold for another video too?"""
    return any(fits(facts, other) for j, other in enumerate(videos) if j != i)


def unique_facts(i, videos, kind, rng):
    """Facts that hold for video `i` and for no other, about as many as a training caption has; None if there are none."""
    for extra in range(2 if kind == 'scene' else 1, 5):
        for _ in range(4):
            facts = random_facts(videos[i], kind, rng, extra)
            if not holds_elsewhere(facts, i, videos):
                return facts
    return None


def caption_unique(videos, rng, difficulty=1):
    """Captions for a split in which each caption fits exactly one video: one of each kind, each said twice.

    A video with no facts of its own is drawn again; then every earlier choice is checked against it."""
    facts = {}
    while True:
        for i in range(len(videos)):
            for kind in ('scene', 'order'):
                known = facts.get((i, kind))
                if known is None or holds_elsewhere(known, i, videos):
                    facts[i, kind] = unique_facts(i, videos, kind, rng)
        lost = sorted({i for (i, _), f in facts.items() if f is None})
        if not lost:
            break
        for i in lost:
            videos[i] = random_video(rng, difficulty)
            facts.pop((i, 'scene')), facts.pop((i, 'order'))
    rows = []
    for i in range(len(videos)):
        first = ('scene', 'order')[i % 2]  # the one caption of the plain test set: half of each kind
        rows.append([dict(caption=say_order(facts[i, kind], rng, difficulty == 0), kind=kind, facts=facts[i, kind],
                          primary=turn == 0 and kind == first) for turn in range(2) for kind in ('scene', 'order')])
    return rows


def vocabulary():
    """Every word that a caption can hold."""
    words = {'beside', 'an', ',', *PLURAL_VERB.values(), *' '.join(ORDER).replace('{a}', '').replace('{b}', '').split()}
    for choices in WORDS.values():
        for phrases in choices.values():
            words.update(' '.join(phrases).split())
    for nouns in WORDS['shape'].values():
        words.update(noun + ending for noun in nouns for ending in ('s', 'es'))
    return sorted(words)


# ---- pixels

def _distance(shape, x, y):
    """Signed distance (about) to the outline of a shape of radius 1, negative inside."""
    if shape == 'square':
        return np.maximum(abs(x), abs(y)) - 0.85
    if shape == 'triangle':
        return np.maximum(0.9 * abs(x) - 0.45 * y - 0.45, y - 0.75)
    if shape == 'cross':
        return np.minimum(np.maximum(abs(x) - 0.32, abs(y) - 1), np.maximum(abs(y) - 0.32, abs(x) - 1))
    radius = np.hypot(x, y)
    if shape == 'ring':
        return abs(radius - 0.74) - 0.26
    if shape == 'star':
        angle = (np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5
        return radius * (np.cos(angle) + 1.25 * abs(np.sin(angle))) * 0.9 - 0.6
    return radius - 1


def _background(name, texture):
    """A muted texture of our own, so that bright objects stand out on it. [64, 64, 3] float"""
    rng = np.random.default_rng(texture)
    y, x = np.mgrid[:SIZE, :SIZE]
    base = {'night': (14, 14, 40), 'snow': (196, 204, 214), 'grass': (48, 86, 44), 'sand': (178, 152, 108), 'sea': (24, 92, 112)}[name]
    pattern = {'night': (rng.random((SIZE, SIZE)) > 0.985) * 120.0, 'snow': rng.normal(0, 7, (SIZE, SIZE)),
               'grass': rng.normal(0, 9, (1, SIZE)) + rng.normal(0, 5, (SIZE, SIZE)),
               'sand': rng.normal(0, 10, (SIZE, SIZE)),
               'sea': 12 * np.sin(y * 0.55 + 1.5 * np.sin(x * 0.2 + rng.uniform(0, 6)))}[name]
    return np.array(base) + pattern[..., None]


def render(scenes):
    """uint8 [frames, 64, 64, 3], the same pixels for the same scenes."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    film = []
    for scene in scenes:
        n = scene.seconds * FPS
        frames = np.repeat(_background(scene.background, scene.texture)[None], n, 0)
        for thing in reversed(scene.things):
            start, end = np.array(thing.path[:3]), np.array(thing.path[3:])
            at = start + np.linspace(0, 1, n)[:, None] * (end - start)       # [n, 3] x, y, radius
            for copy in range(thing.count):
                shift = (copy - (thing.count - 1) / 2) * 2.3 * max(thing.path[2], thing.path[5])
                cx, cy, r = (at[:, k, None, None] for k in range(3))
                d = _distance(thing.shape, (x - cx - shift) / r, (y - cy) / r) * r   # [n, 64, 64] pixels
                edge, inside = np.clip(1.5 - d, 0, 1)[..., None], np.clip(0.5 - d, 0, 1)[..., None]
                frames = frames * (1 - edge) + edge * 20                     # a dark outline keeps pale on pale visible
                frames = frames * (1 - inside) + inside * np.array(COLOURS[thing.colour])
        film.append(frames)
    return np.clip(np.concatenate(film), 0, 255).astype(np.uint8)


def frame_captions(seed, n, difficulty=1):
    """Single frames and what can be said of one frame (no motion, no order), for pretraining the small CLIP.

    Returns uint8 [n, 64, 64, 3] and n captions."""
    rng, frames, captions = random.Random(f'frames {seed}'), [], []
    while len(frames) < n:
        scenes = random_video(rng, difficulty)
        film, at = render(scenes), 0
        for scene in scenes:
            k = rng.randrange(scene.seconds * FPS)
            thing, share = scene.things[0], k / (scene.seconds * FPS - 1)
            px, py, _ = (a + share * (b - a) for a, b in zip(thing.path[:3], thing.path[3:]))
            near = min(PLACES, key=lambda p: (px - PLACES[p][0]) ** 2 + (py - PLACES[p][1]) ** 2)
            keys = {'count', 'colour', 'shape', *(key for key in ('size', 'place', 'background') if rng.random() < 0.7)}
            fact = fact_of(thing, scene, keys)
            if 'place' in keys:
                fact['place'] = near
            caption = say(fact, rng)
            if len(scene.things) > 1 and rng.random() < 0.3:
                caption += ' beside ' + say(fact_of(scene.things[1], scene, {'count', 'colour', 'shape', 'size'}), rng)
            frames.append(film[at + k])
            captions.append(caption)
            at += scene.seconds * FPS
    return np.stack(frames[:n]), captions[:n]


# ---- on disk

def describe(split, count, seed=0, difficulty=1):
    """The scenes and caption rows of a split, without a pixel: (list of scene lists, list of row lists)."""
    rng = random.Random(f'{split} {seed} {difficulty}')  # seeded by text: Python hashes it the same everywhere
    videos = [random_video(rng, difficulty) for _ in range(count)]
    rows = caption_unique(videos, rng, difficulty) if split != 'train' else [caption_train(v, rng, difficulty) for v in videos]
    return videos, rows


def _write(job):
    path, scenes = job
    write_video(path, render(scenes), FPS)


def build(root, splits=None, seed=0, difficulty=1, workers=None):
    """Render the data set under `root` unless it is there already; returns its folder.

    root/<fingerprint>/{train,val,test}/*.mp4 and {train,val,test}.jsonl. `splits` gives the number of videos of each
    split. The folder appears whole or not at all: it is rendered beside its place and moved there last."""
    if difficulty not in (0, 1, 2):
        raise ValueError(f'difficulty is 0, 1 or 2, not {difficulty!r}')
    splits = {**SPLITS, **(splits or {})}
    name = f'shapes-{seed}-{difficulty}-' + '-'.join(str(splits[s]) for s in SPLITS)
    folder = Path(root).expanduser() / name
    if (folder / 'test.jsonl').exists():
        return folder
    half = folder.with_name(f'.{name}.{os.getpid()}')
    try:
        jobs = []
        for split, count in splits.items():
            (half / split).mkdir(parents=True, exist_ok=True)
            videos, rows = describe(split, count, seed, difficulty)
            with open(half / f'{split}.jsonl', 'w', encoding='utf-8') as out:
                for i, (scenes, captions) in enumerate(zip(videos, rows)):
                    video_id = f'{split}{i:04d}'
                    jobs.append((half / split / f'{video_id}.mp4', scenes))
                    out.write(json.dumps(dict(video_id=video_id, scenes=[asdict(s) for s in scenes], captions=captions)) + '\n')
        with ProcessPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
            list(pool.map(_write, jobs, chunksize=32))
        try:
            half.rename(folder)
        except OSError:
            if not (folder / 'test.jsonl').exists():  # else another process was faster: its copy is the same
                raise
    except OSError as error:
        raise OSError(f'cannot write the shapes data set to {folder}: {error}. Name a folder that you may write to, '
                      f'with 80 MB free, as data_dir (or in the variable GLSCL_CACHE).') from error
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return folder
