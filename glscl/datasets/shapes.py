"""The embedded data set: short videos of moving shapes, made and captioned from a seed.

A video is two or three scenes of three to five seconds (3 frames a second, 64 x 64 pixels, H.264).
A scene is a background and a main object that stands, moves, grows or shrinks, perhaps beside a
small distractor. A caption tells one scene (kind `scene`: the frames that matter are a few of many)
or two scenes in order (kind `order`: the same frames in another order are another video). A *fact*
is what a caption asserts; in the test split each caption's facts hold for exactly one video, by
construction. Whoever changes the order of the random draws changes the data set."""
import itertools
import json
import os
import random
import shutil
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ..data.workers import start_pool
from ..runtime.progress import told

SIZE, FPS = 64, 3  # pixels, frames per second
SPLITS = {'train': 2000, 'val': 200, 'test': 500}
COLOURS = {'red': (225, 45, 45), 'orange': (245, 145, 30), 'yellow': (245, 225, 60),
           'green': (60, 200, 75), 'blue': (60, 105, 240), 'purple': (155, 70, 205),
           'pink': (250, 150, 195), 'white': (250, 250, 250)}
SHAPES = ('circle', 'square', 'triangle', 'ring', 'star', 'cross')
MOTIONS = ('still', 'left', 'right', 'up', 'down', 'grow', 'shrink')
PLACES = {'left': (15, 32), 'right': (49, 32), 'top': (32, 15), 'bottom': (32, 49),
          'middle': (32, 32)}
BACKGROUNDS = {'night': (14, 14, 40), 'snow': (196, 204, 214), 'grass': (48, 86, 44),
               'sand': (178, 152, 108), 'sea': (24, 92, 112)}
RADIUS = {'small': 6.5, 'big': 12.0}

# The first word of each list is the plain one; difficulty 0 uses no other.
WORDS = {
    'colour': {'red': ['red', 'crimson', 'scarlet'], 'orange': ['orange', 'tangerine'],
               'yellow': ['yellow', 'golden'], 'green': ['green', 'emerald'],
               'blue': ['blue', 'azure'], 'purple': ['purple', 'violet'], 'pink': ['pink', 'rosy'],
               'white': ['white', 'pale']},
    'shape': {'circle': ['circle', 'disc', 'ball'], 'square': ['square', 'box'],
              'triangle': ['triangle', 'wedge'], 'ring': ['ring', 'hoop'], 'star': ['star'],
              'cross': ['cross', 'plus']},
    'size': {'small': ['small', 'little', 'tiny'], 'big': ['big', 'large', 'huge']},
    'count': {1: ['a', 'one', 'a single'], 2: ['two', 'a pair of'], 3: ['three', 'a trio of']},
    'motion': {'still': ['stays still', 'stands still', 'does not move'],
               'left': ['moves left', 'slides to the left', 'drifts leftwards'],
               'right': ['moves right', 'slides to the right', 'drifts rightwards'],
               'up': ['moves up', 'rises', 'climbs upwards'],
               'down': ['moves down', 'falls', 'sinks downwards'],
               'grow': ['grows', 'gets bigger', 'expands'],
               'shrink': ['shrinks', 'gets smaller', 'dwindles']},
    'place': {'left': ['on the left', 'at the left side'],
              'right': ['on the right', 'at the right side'],
              'top': ['at the top', 'near the upper edge'],
              'bottom': ['at the bottom', 'near the lower edge'],
              'middle': ['in the middle', 'in the centre']},
    'background': {'night': ['at night', 'in the dark'], 'snow': ['in the snow', 'on white snow'],
                   'grass': ['on the grass', 'on a lawn'], 'sand': ['on the sand', 'at the beach'],
                   'sea': ['in the sea', 'in the water']}}
ORDER = ['{a}, then {b}', 'first {a}, then {b}', '{a}, followed by {b}', '{a} before {b}',
         '{b} after {a}', 'after {a}, {b}']
PLURAL_VERB = {'stays': 'stay', 'stands': 'stand', 'does': 'do', 'moves': 'move', 'slides': 'slide',
               'drifts': 'drift', 'rises': 'rise', 'climbs': 'climb', 'falls': 'fall',
               'sinks': 'sink', 'grows': 'grow', 'gets': 'get', 'expands': 'expand',
               'shrinks': 'shrink', 'dwindles': 'dwindle'}


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
        places = ['left' if x < 32 else 'right', 'top' if y < 32 else 'bottom']
        return Thing(colour, shape, 'small', 1, 'still', places, [x, y, 5, x, y, 5])
    size, motion = rng.choice(['small', 'big']), rng.choice(MOTIONS)
    count = rng.choice([1, 2, 3]) if size == 'small' else 1
    place = rng.choice(list(PLACES))
    x = PLACES[place][0] + rng.uniform(-2, 2)
    y = PLACES[place][1] + rng.uniform(-2, 2)
    across, r, reach = rng.uniform(20, 44), RADIUS[size], 15
    if count == 3:  # three in a row fit between the edges only around the middle
        x, reach = 32 + (x - 32) * 0.3, 8
    paths = {'left': [32 + reach, across, r, 32 - reach, across, r],
             'right': [32 - reach, across, r, 32 + reach, across, r],
             'up': [x, 48, r, x, 16, r], 'down': [x, 16, r, x, 48, r],
             'grow': [x, y, 0.55 * r, x, y, 1.35 * r],
             'shrink': [x, y, 1.35 * r, x, y, 0.55 * r], 'still': [x, y, r, x, y, r]}
    places = [place] if motion in ('still', 'grow', 'shrink') else []
    size = None if motion in ('grow', 'shrink') else size
    return Thing(colour, shape, size, count, motion, places, paths[motion])


def random_video(rng, difficulty=1):
    """A list of scenes. difficulty 0: two, no distractor; 1: two or three, a distractor in half of
    them; 2: three, always a distractor."""
    drawn = rng.choice([2, 3, 3])  # at every difficulty: the draws that follow depend on it
    n_scenes, share_of_distractors = [(2, 0), (drawn, 0.5), (3, 1)][difficulty]
    scenes = []
    for _ in range(n_scenes):
        things = [random_thing(rng)]
        if rng.random() < share_of_distractors:
            things.append(random_thing(rng, main=False))
        others = [b for b in BACKGROUNDS if not scenes or b != scenes[-1].background]
        background, seconds = rng.choice(others), rng.choice([3, 4, 5])
        scenes.append(Scene(background, seconds, things, texture=rng.randrange(2 ** 31)))
    return scenes


def fact_of(thing, scene, keys):
    """What a caption asserts of a thing: a dict of those `keys` (of count, colour, shape, size,
    motion, place, background) that hold for it."""
    every = {'count': thing.count, 'colour': thing.colour, 'shape': thing.shape,
             'size': thing.size, 'motion': thing.motion,
             'place': thing.places[0] if thing.places else None, 'background': scene.background}
    return {key: value for key, value in every.items() if key in keys and value is not None}


def fits_scene(fact, scene):
    """Does some thing of this scene satisfy every item of the fact?"""
    for thing in scene.things:
        if thing.colour != fact['colour'] or thing.shape != fact['shape']:
            continue  # most things fail here: the rest is slower
        if 'place' in fact and fact['place'] not in thing.places:
            continue
        true = {**vars(thing), 'place': fact.get('place'), 'background': scene.background}
        if all(true[key] == value for key, value in fact.items()):
            return True
    return False


def fits(facts, scenes):
    """Do the facts hold, each in a scene of its own, in the order given?"""
    found = 0
    for scene in scenes:
        if found < len(facts) and fits_scene(facts[found], scene):
            found += 1
    return found == len(facts)


def say(fact, rng, plain=False):
    """One clause in words: 'two small red stars drift leftwards at night'."""
    words = {}
    for key, value in fact.items():
        choices = WORDS[key][value]
        words[key] = choices[0] if plain else rng.choice(choices)
    if fact['count'] > 1:
        words['shape'] += 'es' if words['shape'] in ('box', 'cross', 'plus') else 's'
        if 'motion' in words:
            verb, _, rest = words['motion'].partition(' ')
            words['motion'] = f'{PLURAL_VERB[verb]} {rest}'.strip()
    order = ('count', 'size', 'colour', 'shape', 'motion', 'place', 'background')
    clause = ' '.join(words[key] for key in order if key in words)
    if clause.startswith(('a orange ', 'a azure ', 'a emerald ')):
        clause = 'an' + clause[1:]
    return clause


def say_order(facts, rng, plain=False):
    """One clause, or two in order: 'first a red star, then a blue ring'."""
    first, *second = [say(fact, rng, plain) for fact in facts]
    if not second:
        return first
    template = ORDER[0] if plain else rng.choice(ORDER)
    return template.format(a=first, b=second[0])


def random_facts(scenes, kind, rng, extra):
    """Facts about one scene (kind "scene") or two in order (kind "order"), each with up to `extra`
    of the optional items size, motion, place, background."""
    if kind == 'scene':
        chosen = [rng.randrange(len(scenes))]
    else:
        chosen = sorted(rng.sample(range(len(scenes)), 2))
    facts = []
    for scene in (scenes[s] for s in chosen):
        optional = rng.sample(['size', 'motion', 'place', 'background'], extra)
        facts.append(fact_of(scene.things[0], scene, {'count', 'colour', 'shape', *optional}))
    return facts


def caption_train(scenes, rng, difficulty=1):
    """Six captions, three of each kind, as rows {caption, kind, facts}."""
    rows = []
    for kind in ('scene', 'order') * 3:
        extra = rng.choice([2, 3, 4] if kind == 'scene' else [0, 1, 2])
        facts = random_facts(scenes, kind, rng, extra)
        caption = say_order(facts, rng, plain=difficulty == 0)
        rows.append({'caption': caption, 'kind': kind, 'facts': facts})
    return rows


def holds_elsewhere(facts, i, videos):
    """Do the facts of video `i` hold for another video too?"""
    return any(fits(facts, other) for j, other in enumerate(videos) if j != i)


def unique_facts(i, videos, kind, rng):
    """Facts that hold for video `i` alone, about as many as a training caption has, or None."""
    for extra in range(2 if kind == 'scene' else 1, 5):
        for _ in range(4):
            facts = random_facts(videos[i], kind, rng, extra)
            if not holds_elsewhere(facts, i, videos):
                return facts
    return None


def caption_unique(videos, rng, difficulty=1):
    """For each video four rows {caption, kind, facts, primary}: one of each kind, in two wordings.

    Each fits exactly one video of the split. A video with no facts of its own is drawn again
    (`videos` is changed in place); then every earlier choice is checked against it."""
    facts, kinds = {}, ('scene', 'order')
    while True:
        for i, kind in itertools.product(range(len(videos)), kinds):
            known = facts.get((i, kind))
            if known is None or holds_elsewhere(known, i, videos):
                facts[i, kind] = unique_facts(i, videos, kind, rng)
        lost = sorted({i for (i, _), found in facts.items() if found is None})
        if not lost:
            break
        for i in lost:
            videos[i] = random_video(rng, difficulty)
            del facts[i, 'scene'], facts[i, 'order']
    rows = [[] for _ in videos]
    for i, wording, kind in itertools.product(range(len(videos)), (0, 1), kinds):
        # the one caption of the plain test set: in turn of either kind
        primary = wording == 0 and kind == kinds[i % 2]
        known = facts[i, kind]
        caption = say_order(known, rng, plain=difficulty == 0)
        rows[i].append({'caption': caption, 'kind': kind, 'facts': known, 'primary': primary})
    return rows


def vocabulary():
    """Every word that a caption can hold, sorted."""
    templates = ' '.join(ORDER).format(a='', b='')
    words = {'beside', 'an', ',', *PLURAL_VERB.values(), *templates.split()}
    for choices in WORDS.values():
        for phrases in choices.values():
            words.update(' '.join(phrases).split())
    for nouns in WORDS['shape'].values():
        words.update(noun + ending for noun in nouns for ending in ('s', 'es'))
    return sorted(words)


def _distance(shape, x, y):
    """Signed distance (about) to the outline of a shape of radius 1, negative inside."""
    if shape == 'square':
        return np.maximum(abs(x), abs(y)) - 0.85
    if shape == 'triangle':
        return np.maximum(0.9 * abs(x) - 0.45 * y - 0.45, y - 0.75)
    if shape == 'cross':
        upright = np.maximum(abs(x) - 0.32, abs(y) - 1)
        return np.minimum(upright, np.maximum(abs(y) - 0.32, abs(x) - 1))
    radius = np.hypot(x, y)
    if shape == 'ring':
        return abs(radius - 0.74) - 0.26
    if shape == 'star':
        angle = (np.arctan2(x, -y) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5
        return radius * (np.cos(angle) + 1.25 * abs(np.sin(angle))) * 0.9 - 0.6
    return radius - 1


def _background(name, texture):
    """A muted texture of our own, so that bright objects stand out on it: float [64, 64, 3]."""
    rng, square = np.random.default_rng(texture), (SIZE, SIZE)
    y, x = np.mgrid[:SIZE, :SIZE]
    # all five are drawn, whichever is wanted: the pixels of a seed must stay what they are
    patterns = {'night': (rng.random(square) > 0.985) * 120.0,
                'snow': rng.normal(0, 7, square),
                'grass': rng.normal(0, 9, (1, SIZE)) + rng.normal(0, 5, square),
                'sand': rng.normal(0, 10, square),
                'sea': 12 * np.sin(y * 0.55 + 1.5 * np.sin(x * 0.2 + rng.uniform(0, 6)))}
    return np.array(BACKGROUNDS[name]) + patterns[name][..., None]


def render(scenes):
    """uint8 [frames, 64, 64, 3], the same pixels for the same scenes."""
    video = []
    for scene in scenes:
        n = scene.seconds * FPS
        frames = np.repeat(_background(scene.background, scene.texture)[None], n, 0)
        for thing in reversed(scene.things):
            frames = _draw(thing, frames)
        video.append(frames)
    return np.clip(np.concatenate(video), 0, 255).astype(np.uint8)


def _draw(thing, frames):
    """The frames of a scene, float [n, 64, 64, 3], with a thing on its way through them."""
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5
    start, end = np.array(thing.path[:3]), np.array(thing.path[3:])
    path = start + np.linspace(0, 1, len(frames))[:, None] * (end - start)  # [n, 3] x, y, radius
    centre_x, centre_y, radius = (path[:, k, None, None] for k in range(3))
    gap = 2.3 * max(thing.path[2], thing.path[5])
    for copy in range(thing.count):
        shift = (copy - (thing.count - 1) / 2) * gap
        unit_x, unit_y = (x - centre_x - shift) / radius, (y - centre_y) / radius
        distance = _distance(thing.shape, unit_x, unit_y) * radius  # [n, 64, 64] pixels
        edge = np.clip(1.5 - distance, 0, 1)[..., None]
        inside = np.clip(0.5 - distance, 0, 1)[..., None]
        frames = frames * (1 - edge) + edge * 20  # a dark outline keeps pale on pale visible
        frames = frames * (1 - inside) + inside * np.array(COLOURS[thing.colour])
    return frames


def frame_captions(seed, n, difficulty=1):
    """Single frames and what can be said of one frame (no motion, no order), for pretraining the
    small CLIP: (uint8 [n, 64, 64, 3], n captions)."""
    rng = random.Random(f'frames {seed}')
    frames, captions = [], []
    while len(frames) < n:
        scenes = random_video(rng, difficulty)
        video = np.split(render(scenes), np.cumsum([scene.seconds * FPS for scene in scenes])[:-1])
        for scene, shown in zip(scenes, video, strict=True):
            k = rng.randrange(len(shown))
            frames.append(shown[k])
            captions.append(_caption_frame(scene, k / (len(shown) - 1), rng))
    return np.stack(frames[:n]), captions[:n]


def _caption_frame(scene, share, rng):
    """A caption of one frame, that share (0 to 1) of the way through its scene."""
    thing = scene.things[0]
    x, y, _ = (start + share * (end - start)
               for start, end in zip(thing.path[:3], thing.path[3:], strict=True))
    keys = [key for key in ('size', 'place', 'background') if rng.random() < 0.7]
    fact = fact_of(thing, scene, {'count', 'colour', 'shape', *keys})
    if 'place' in keys:  # also of a thing that travels
        fact['place'] = min(PLACES, key=lambda p: (x - PLACES[p][0])**2 + (y - PLACES[p][1])**2)
    caption = say(fact, rng)
    if len(scene.things) > 1 and rng.random() < 0.3:
        other = fact_of(scene.things[1], scene, {'count', 'colour', 'shape', 'size'})
        caption += ' beside ' + say(other, rng)
    return caption


def describe(split, count, seed=0, difficulty=1):
    """A split without a pixel: for each video a list of its scenes, and one of its caption rows."""
    rng = random.Random(f'{split} {seed} {difficulty}')  # a text seeds the same on every machine
    videos = [random_video(rng, difficulty) for _ in range(count)]
    if split == 'train':
        return videos, [caption_train(scenes, rng, difficulty) for scenes in videos]
    return videos, caption_unique(videos, rng, difficulty)


def build(root, splits=None, seed=0, difficulty=1, workers=None):
    """Render the data set under `root` unless it is there already; returns its folder.

    root/<name>/{train,val,test}/*.mp4 and {train,val,test}.jsonl. splits: {split: how many videos}.
    The folder appears whole or not at all: it is rendered beside its place and moved there last.
    Raises OSError where it cannot be written."""
    if difficulty not in (0, 1, 2):
        raise ValueError(f'difficulty is 0, 1 or 2, not {difficulty!r}')
    splits = {**SPLITS, **(splits or {})}
    name = f'shapes-{seed}-{difficulty}-' + '-'.join(str(splits[split]) for split in SPLITS)
    described = ((split, *describe(split, splits[split], seed, difficulty)) for split in splits)
    return render_splits(Path(root).expanduser() / name, described, workers)


def render_splits(folder, splits, workers=None):
    """Write splits to a folder, whole or not at all, unless it is there already; returns it.

    splits: (name, videos, caption rows) each, as `describe` gives them, drawn only when needed.
    OSError where the folder cannot be written."""
    if any(folder.glob('*.jsonl')):
        return folder
    half = folder.with_name(f'.{folder.name}.{os.getpid()}')
    try:
        jobs = [job for split in splits for job in _write_captions(half, *split)]
        with start_pool(workers or min(8, os.cpu_count() or 1)) as pool:
            rendered = pool.map(_render, jobs, chunksize=8)  # whoever stops it waits for a few
            list(told(rendered, 'rendering', 'videos', len(jobs)))
        try:
            half.rename(folder)
        except OSError:
            if not any(folder.glob('*.jsonl')):  # else another process made the same one
                raise
    except OSError as error:
        raise OSError(f'cannot write the shapes data set to {folder}: {error}. Name a folder that '
                      f'you may write to, with 80 MB free, as data_dir (or in the variable '
                      f'GLSCL_CACHE).') from error
    finally:
        shutil.rmtree(half, ignore_errors=True)
    return folder


def _write_captions(folder, split, videos, rows):
    """Write a split's .jsonl; returns (path, scenes) of each video that is still to be rendered."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    jobs = []
    with open(folder / f'{split}.jsonl', 'w', encoding='utf-8') as file:
        for i, (scenes, captions) in enumerate(zip(videos, rows, strict=True)):
            video_id = f'{split}{i:04d}'
            jobs.append((folder / split / f'{video_id}.mp4', scenes))
            shown = [asdict(scene) for scene in scenes]
            row = {'video_id': video_id, 'scenes': shown, 'captions': captions}
            file.write(json.dumps(row) + '\n')
    return jobs


def write_video(path, frames, fps):
    """Write uint8 [F, H, W, 3] (even height and width) as an H.264 .mp4.

    The file is the same to the byte for the same frames: without x264's lookahead (`zerolatency`),
    with which one in twenty came out differently from process to process."""
    options = {'crf': '18', 'preset': 'veryfast', 'tune': 'zerolatency', 'threads': '1', 'g': '12'}
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('libx264', rate=Fraction(fps), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = 'yuv420p'
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())


def _render(job):
    path, scenes = job
    write_video(path, render(scenes), FPS)
