"""Films that differ by what belongs to what."""
from collections import Counter

from glscl import load_config
from glscl.datasets import shapes
from glscl.datasets.bound import load_bound, twins


def test_twins_hold_the_same_things_and_each_caption_holds_for_its_own_film():
    found = twins(60)
    assert len(found) == 60 and found == twins(60)
    for (video, facts, caption), (other, swapped, said) in zip(found[::2], found[1::2]):
        assert shapes.fits(facts, video) and not shapes.fits(facts, other)
        assert shapes.fits(swapped, other) and not shapes.fits(swapped, video)
        assert caption != said and Counter(caption.replace('an ', 'a ').split()) == Counter(said.replace('an ', 'a ').split())
        for what in ('colour', 'shape', 'motion', 'size'):
            assert Counter(getattr(s.things[0], what) for s in video) == Counter(getattr(s.things[0], what) for s in other)
        assert [s.background for s in video] == [s.background for s in other]


def test_they_are_rendered_once_and_load_in_pairs(tmp_path):
    config = load_config('shapes')
    pairs = load_bound(config, tmp_path, videos=4)
    assert len(pairs) == 4 and pairs.table['video'].tolist() == [0, 1, 2, 3]
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.mp4')}
    assert len(made) == 4
    assert load_bound(config, tmp_path, videos=4).table['caption'].tolist() == pairs.table['caption'].tolist()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('*.mp4')} == made
