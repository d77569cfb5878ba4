"""The embedded data set: the same everywhere, each caption true, each test caption of one video
only, built whole or not at all.

What captions say is read back from their text by a parser that knows nothing of the package but
the meaning of words."""
import errno
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import numpy as np
import pytest

from glscl.config import data_path
from glscl.data.tokens import tokenizer
from glscl.data.video import read_frames
from glscl.datasets import shapes, twins


def meanings(**words_of):
    """{word: meaning} of words by meaning, "|" between them."""
    return {word: meaning for meaning, words in words_of.items() for word in words.split('|')}


COUNT = {'a single': 1, 'an': 1, 'a': 1, 'one': 1, 'two': 2, 'a pair of': 2, 'three': 3,
         'a trio of': 3}
SIZE = meanings(small='small|little|tiny', big='big|large|huge')
COLOUR = meanings(red='red|crimson|scarlet', orange='orange|tangerine', yellow='yellow|golden',
                  green='green|emerald', blue='blue|azure', purple='purple|violet',
                  pink='pink|rosy', white='white|pale')
NOUN = meanings(circle='circle|disc|ball', square='square|box', triangle='triangle|wedge',
                ring='ring|hoop', star='star', cross='cross|plus')
VERB = {'still': ['{stay/stays} still', '{stand/stands} still', '{do/does} not move'],
        'left': ['{move/moves} left', '{slide/slides} to the left', '{drift/drifts} leftwards'],
        'right': ['{move/moves} right', '{slide/slides} to the right', '{drift/drifts} rightwards'],
        'up': ['{move/moves} up', '{rise/rises}', '{climb/climbs} upwards'],
        'down': ['{move/moves} down', '{fall/falls}', '{sink/sinks} downwards'],
        'grow': ['{grow/grows}', '{get/gets} bigger', '{expand/expands}'],
        'shrink': ['{shrink/shrinks}', '{get/gets} smaller', '{dwindle/dwindles}']}
PLACE = meanings(left='on the left|at the left side', right='on the right|at the right side',
                 top='at the top|near the upper edge', bottom='at the bottom|near the lower edge',
                 middle='in the middle|in the centre')
GROUND = meanings(night='at night|in the dark', snow='in the snow|on white snow',
                  grass='on the grass|on a lawn', sand='on the sand|at the beach',
                  sea='in the sea|in the water')


def inflected(is_plural):
    """Nouns and verbs, {word: meaning}, in the singular or the plural."""
    nouns, verbs = {}, {}
    for noun, shape in NOUN.items():
        ending = 'es' if noun in ('box', 'cross', 'plus') else 's'
        nouns[noun + ending if is_plural else noun] = shape
    for motion, phrases in VERB.items():
        for phrase in phrases:
            chosen = re.sub(r'{(\w+)/(\w+)}', r'\1' if is_plural else r'\2', phrase)
            verbs[chosen] = motion
    return nouns, verbs


def one_of(name, words, optional=True):
    longest_first = '|'.join(sorted(words, key=len, reverse=True))
    return f'(?:(?P<{name}>{longest_first})(?: |$))' + ('?' if optional else '')


def clause(text):
    """'two tiny stars fall' -> {count: 2, size: small, ...}; what is no English fails."""
    for is_plural in (False, True):
        nouns, verbs = inflected(is_plural)
        counts = {word: count for word, count in COUNT.items() if (count > 1) == is_plural}
        tables = {'count': counts, 'size': SIZE, 'colour': COLOUR, 'shape': nouns, 'motion': verbs,
                  'place': PLACE, 'background': GROUND}
        pattern = ''.join(one_of(name, words, name not in ('count', 'colour', 'shape'))
                          for name, words in tables.items())
        found = re.fullmatch(pattern, text)
        if found:
            article, word = text.split()[:2]
            if article in ('a', 'an') and word not in ('single', 'pair', 'trio'):
                assert (article == 'an') == (word[0] in 'aeiou'), text
            return {name: tables[name][word] for name, word in found.groupdict().items() if word}
    raise AssertionError(f'not understood: {text!r}')


ORDERS = ['first (?P<a>.*), then (?P<b>.*)', 'after (?P<a>.*), (?P<b>.*)',
          '(?P<a>.*), then (?P<b>.*)', '(?P<a>.*), followed by (?P<b>.*)',
          '(?P<a>.*) before (?P<b>.*)', '(?P<b>.*) after (?P<a>.*)']


def parse(caption):
    """A caption as a list of facts, in the order in which they happen."""
    for pattern in ORDERS:
        found = re.fullmatch(pattern, caption)
        if found:
            return [clause(found['a']), clause(found['b'])]
    return [clause(caption)]


def true_of(facts, scenes):
    """Do the facts hold in this order, each in a scene of its own? Every choice is tried."""
    def is_true(key, value, thing, scene):
        if key == 'place':
            return value in thing['places']
        return value == (scene if key == 'background' else thing)[key]

    def holds(fact, scene):
        return any(all(is_true(key, value, thing, scene) for key, value in fact.items())
                   for thing in scene['things'])
    chosen = itertools.combinations(scenes, len(facts))
    return any(all(map(holds, facts, some)) for some in chosen)


@pytest.fixture(scope='module')
def test_split():
    """The real one: 500 videos, (scenes as objects, caption rows, scenes as plain dicts)."""
    videos, rows = shapes.describe('test', 500)
    return videos, rows, [[asdict(scene) for scene in video] for video in videos]


@pytest.mark.parametrize('difficulty', [0, 1, 2])
@pytest.mark.parametrize('split, count', [('train', 150), ('val', 40)])
def test_captions_say_their_facts_and_are_true(split, count, difficulty):
    videos, rows = shapes.describe(split, count, seed=3, difficulty=difficulty)
    for scenes, captions in zip(videos, rows, strict=False):
        times = 3 if split == 'train' else 2
        assert [row['kind'] for row in captions] == ['scene', 'order'] * times
        for row in captions:
            facts = parse(row['caption'])
            assert facts == row['facts'], row
            assert len(facts) == {'scene': 1, 'order': 2}[row['kind']]
            assert true_of(facts, [asdict(scene) for scene in scenes]), row
            assert shapes.fits(row['facts'], scenes), row


def test_each_test_caption_fits_one_video_by_its_facts(test_split):
    videos, rows, _ = test_split
    assert len(videos) == len(rows) == 500 and all(len(row) == 4 for row in rows)
    for i, captions in enumerate(rows):
        for facts in {json.dumps(row['facts']): row['facts'] for row in captions}.values():
            fitting = [j for j, scenes in enumerate(videos) if shapes.fits(facts, scenes)]
            assert fitting == [i], facts


def test_each_test_caption_fits_one_video_by_its_text(test_split):
    _, rows, plain = test_split
    having = {}  # colour and shape -> videos that show it, to try fewer
    for j, scenes in enumerate(plain):
        for scene in scenes:
            for thing in scene['things']:
                having.setdefault((thing['colour'], thing['shape']), set()).add(j)
    for i, captions in enumerate(rows):
        assert [row['primary'] for row in captions].count(True) == 1
        assert [row['kind'] for row in captions if row['primary']] == [('scene', 'order')[i % 2]]
        for row in captions:
            facts = parse(row['caption'])
            assert facts == row['facts'], row
            maybe = set.intersection(*(having[fact['colour'], fact['shape']] for fact in facts))
            assert [j for j in sorted(maybe) if true_of(facts, plain[j])] == [i], row['caption']


@pytest.mark.parametrize('kind', twins.KINDS)
def test_each_caption_of_twins_fits_one_video_by_its_text(kind):
    videos, rows = twins.describe(kind, 40)
    plain = [[asdict(scene) for scene in scenes] for scenes in videos]
    for i, [row] in enumerate(rows):
        facts = parse(row['caption'])
        assert facts == row['facts'] and row['kind'] == kind
        assert [v for v, scenes in enumerate(plain) if true_of(facts, scenes)] == [i]


def test_order_matters():
    """The facts of a caption of two scenes do not hold when they are turned round, unless the film
    shows both ways."""
    videos, rows = shapes.describe('val', 40)
    turned = [shapes.fits(row['facts'][::-1], scenes)
              for scenes, captions in zip(videos, rows, strict=True)
              for row in captions if row['kind'] == 'order']
    assert len(turned) == 80 and sum(turned) < 4


def test_two_facts_need_two_scenes():
    scenes = [scene_of('still', place='left'), scene_of('grow', size=None)]
    keys = {'count', 'colour', 'shape', 'motion'}
    a, b = (shapes.fact_of(scene.things[0], scene, keys) for scene in scenes)
    assert shapes.fits([a], scenes) and shapes.fits([b], scenes) and shapes.fits([a, b], scenes)
    assert not shapes.fits([b, a], scenes) and not shapes.fits([a, a], scenes)
    assert shapes.fits([a, a], scenes[:1] * 2)


def test_describe_depends_on_seed_split_and_difficulty_only():
    first = shapes.describe('val', 6)
    random.seed(99), np.random.seed(99)
    assert shapes.describe('val', 6) == first
    for other in (shapes.describe('val', 6, seed=1), shapes.describe('train', 6),
                  shapes.describe('val', 6, difficulty=2)):
        assert other[0] != first[0]


def test_the_data_set_is_the_one_of_the_shipped_checkpoints(test_split):
    """Scenes and captions come of Python's generator alone: the same on every machine. Pixels may
    be rounded otherwise elsewhere, one in a million at most."""
    videos, rows, plain = test_split
    text = json.dumps([plain, rows, shapes.describe('train', 20, 3, 2)[1],
                       shapes.frame_captions(5, 100)[1], shapes.vocabulary()])
    assert hashlib.sha256(text.encode()).hexdigest() == (
        '4959291c934c36dfbea55a93e8141b6b3260a224706e0908e5f3374cb14be9bb')
    film = np.concatenate([shapes.render(scenes) for scenes in videos[:20]])
    assert film.sum(dtype=int) == pytest.approx(920_593_987, rel=1e-6)


def test_difficulty_adds_scenes_distractors_and_synonyms():
    lengths, distractors, words = {}, {}, {}
    for difficulty in (0, 1, 2):
        videos, rows = shapes.describe('train', 60, difficulty=difficulty)
        lengths[difficulty] = {len(scenes) for scenes in videos}
        scenes = list(itertools.chain(*videos))
        distractors[difficulty] = np.mean([len(scene.things) - 1 for scene in scenes])
        captions = [row['caption'] for row in itertools.chain(*rows)]
        words[difficulty] = set(' '.join(captions).split())
    assert lengths == {0: {2}, 1: {2, 3}, 2: {3}}
    assert distractors[0] == 0 and 0.3 < distractors[1] < 0.7 and distractors[2] == 1
    synonyms = {'crimson', 'disc', 'tiny', 'before', 'lawn'}
    assert not words[0] & synonyms and words[1] >= synonyms
    with pytest.raises(ValueError, match='0, 1 or 2'):
        shapes.build('nowhere', difficulty=3)


def test_no_word_is_unknown_to_the_small_clip(test_split):
    captions = set(shapes.frame_captions(5, 60)[1])
    train = [shapes.describe('train', 150, 1, difficulty)[1] for difficulty in (0, 1, 2)]
    for rows in itertools.chain(test_split[1], *train):
        captions |= {row['caption'] for row in rows}
    used = set().union(*map(tokenizer().encode, captions))
    from safetensors import safe_open
    with safe_open(data_path('clip_small.safetensors'), 'pt') as file:
        shipped = set(json.loads(file.metadata()['token_ids']))
    assert used <= set().union(*map(tokenizer().encode, shapes.vocabulary())) and used <= shipped
    assert max(len(tokenizer().encode(caption)) for caption in captions) <= 30  # none is cut at 32


def scene_of(motion='still', place='middle', count=1, shape='circle', size='big'):
    """One red thing at night, made by the package's own dice."""
    for n in itertools.count():
        thing = shapes.random_thing(random.Random(n))
        is_wanted = (thing.motion, thing.count, thing.shape) == (motion, count, shape)
        if is_wanted and place in [*thing.places, None] and size in (thing.size, None):
            thing.colour = 'red'
            return shapes.Scene('night', 4, [thing], 7)


def seen(film):
    """Where the red is: area [F] and centre [F, 2] in pixels."""
    red = (film[..., 0] > 150) & (film[..., 1] < 90) & (film[..., 2] < 90)
    return red.sum((1, 2)), np.array([np.argwhere(r).mean(0)[::-1] for r in red])


@pytest.mark.parametrize('motion, axis, sign', [('left', 0, -1), ('right', 0, 1), ('up', 1, -1),
                                                ('down', 1, 1)])
def test_what_moves_moves_that_way_in_the_pixels(motion, axis, sign):
    area, centre = seen(shapes.render([scene_of(motion, place=None)]))
    assert (np.diff(centre[:, axis]) * sign > 0).all()
    assert abs(np.diff(centre[:, 1 - axis])).max() < 1
    assert np.ptp(area) < 0.15 * area.mean()


def test_what_grows_grows_and_what_stays_stays():
    assert (np.diff(seen(shapes.render([scene_of('grow', size=None)]))[0]) >= 0).all()
    assert (np.diff(seen(shapes.render([scene_of('shrink', size=None)]))[0]) <= 0).all()
    film = shapes.render([scene_of('still')])
    assert len(film) == 12 and (film == film[0]).all()


@pytest.mark.parametrize('place', list(shapes.PLACES))
def test_places_are_where_they_say(place):
    x, y = seen(shapes.render([scene_of(place=place)]))[1][0]
    distance = {name: np.hypot(x - px, y - py) for name, (px, py) in shapes.PLACES.items()}
    assert min(distance, key=distance.get) == place


def test_counts_and_sizes_show_in_the_area():
    area = {}
    for n in (1, 2, 3):
        area[n] = seen(shapes.render([scene_of(count=n, size='small', place='middle')]))[0][0]
    assert area[2] / area[1] == pytest.approx(2, rel=0.1)
    assert area[3] / area[1] == pytest.approx(3, rel=0.1)
    assert seen(shapes.render([scene_of(size='big')]))[0][0] > 2.5 * area[1]


def test_a_caption_of_one_frame_names_what_that_frame_shows():
    frames, captions = shapes.frame_captions(11, 40)
    assert frames.shape == (40, 64, 64, 3) and frames.dtype == np.uint8
    for frame, caption in zip(frames, captions, strict=False):
        fact = clause(caption.split(' beside ')[0])
        assert 'motion' not in fact
        wanted = np.array(shapes.COLOURS[fact['colour']])
        assert (abs(frame.astype(int) - wanted).max(-1) < 3).sum() >= 20, caption


def test_many_files_are_the_same_to_the_byte_in_other_processes(tmp_path):
    """With x264's lookahead about one in twenty was not: a few files would not show it."""
    many = {'train': 100, 'val': 1, 'test': 1}
    a, b = (shapes.build(tmp_path / name, many, workers=2) for name in 'ab')
    twins = [(path, b / path.relative_to(a)) for path in a.rglob('*.mp4')]
    assert len(twins) == 102
    assert [path for path, twin in twins if path.read_bytes() != twin.read_bytes()] == []


def test_the_same_seed_gives_the_same_files(world_folder, tmp_path):
    small = {'train': 3, 'val': 2, 'test': 2}
    a, b, other = (shapes.build(tmp_path / name, small, seed)
                   for name, seed in (('a', 0), ('b', 0), ('c', 1)))
    assert a.name == b.name != other.name
    paths = sorted((p.relative_to(a) for p in a.rglob('*') if p.is_file()), key=lambda p: p.name)
    assert [p.name for p in paths] == [
        'test.jsonl', 'test0000.mp4', 'test0001.mp4', 'train.jsonl', 'train0000.mp4',
        'train0001.mp4', 'train0002.mp4', 'val.jsonl', 'val0000.mp4', 'val0001.mp4']
    for path in paths:
        if path.suffix == '.mp4':
            frames = [read_frames(folder / path, 100, 3)[0] for folder in (a, b)]
            assert np.array_equal(*frames)
            assert not np.array_equal(frames[0][:9], read_frames(other / path, 100, 3)[0][:9])
        else:
            assert (a / path).read_text() == (b / path).read_text()
    # and the files hold what describe() and render() say
    scenes = shapes.describe('train', 24)[0][5]
    film = shapes.render(scenes)
    decoded = read_frames(world_folder / 'train' / 'train0005.mp4', 100, 3)[0]
    assert np.array_equal(film, shapes.render(scenes))
    assert film.shape == decoded.shape
    assert abs(film.astype(int) - decoded).mean() < 4  # H.264 is lossy


def test_a_built_world_is_not_built_again(world, world_folder, monkeypatch):
    monkeypatch.setattr(shapes, 'write_video', None)
    before = (world_folder / 'test.jsonl').stat().st_mtime_ns
    assert shapes.build(world, {'train': 24, 'val': 8, 'test': 12}) == world_folder
    assert (world_folder / 'test.jsonl').stat().st_mtime_ns == before


def breaks_at(n, how):
    calls, write = itertools.count(1), shapes.write_video

    def broken(*args):
        if next(calls) == n:
            how()
        return write(*args)
    return broken


def no_space():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


SMALL = {'train': 6, 'val': 2, 'test': 2}


@pytest.mark.parametrize('error', [OSError, RuntimeError, KeyboardInterrupt])
def test_a_build_that_fails_leaves_nothing(tmp_path, monkeypatch, error):
    def fail():
        raise error('broken')
    monkeypatch.setattr(shapes, 'start_pool', ThreadPoolExecutor)
    monkeypatch.setattr(shapes, 'write_video', breaks_at(4, fail))
    with pytest.raises(error, match='broken'):
        shapes.build(tmp_path, SMALL)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_with_the_folder_and_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(shapes, 'start_pool', ThreadPoolExecutor)
    monkeypatch.setattr(shapes, 'write_video', breaks_at(4, no_space))
    with pytest.raises(OSError, match='(?s)cannot write.*No space left.*data_dir') as caught:
        shapes.build(tmp_path, SMALL)
    assert str(tmp_path) in str(caught.value)


def test_a_killed_build_leaves_no_half_world(tmp_path, monkeypatch):
    def build():
        shapes.start_pool = ThreadPoolExecutor
        shapes.write_video = breaks_at(5, lambda: os.kill(os.getpid(), signal.SIGKILL))
        shapes.build(tmp_path, SMALL)
    child = multiprocessing.get_context('fork').Process(target=build)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir() if not p.name.startswith('.')] == []
    folder = shapes.build(tmp_path, SMALL)
    assert len(list(folder.rglob('*.mp4'))) == 10


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('in the way')  # also root cannot make a folder below a file
    with pytest.raises(OSError, match='(?s)cannot write the shapes.*Name a folder.*data_dir'):
        shapes.build(tmp_path / 'file', SMALL)
