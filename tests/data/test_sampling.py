"""What no frame can be sampled or resized by is refused by name."""
import math

import numpy as np
import pytest

from glscl.data.pixels import resize
from glscl.data.sampling import sample_frame_indices, span


@pytest.mark.parametrize('sampling', ['stride', 'seconds'])
@pytest.mark.parametrize('name, value', [
    *(('n_frames', x) for x in (0, -1, None, '10', 2.5, 10 ** 12, math.nan)),
    *(('fps', x) for x in (0, -5, math.nan, math.inf, '25', None, 1e300)),
    *(('max_frames', x) for x in (0, -1, 2.5, 10 ** 18, 'x', math.nan)),
    *(('framerate', x) for x in (0, -1, math.nan, math.inf, 1e300, None))])
def test_numbers_that_cannot_be(sampling, name, value):
    settings = dict(n_frames=10, fps=25, max_frames=12, framerate=1) | {name: value}
    with pytest.raises(ValueError, match=f'^{name} must be a (whole )?number from '):
        sample_frame_indices(**settings, sampling=sampling)


@pytest.mark.parametrize('value', ['a', math.inf, -math.inf, [1], (1, 2)])
def test_a_part_is_given_in_seconds(value):
    for part in ((value, 4), (0, value)):
        with pytest.raises(ValueError, match='begins and ends at a number of seconds, not at'):
            span(*part)


def test_a_part_far_behind_the_end_has_no_frame():
    for sampling in ('stride', 'seconds'):
        assert sample_frame_indices(10, 25, 12, 1, 1e300, None, sampling) == []


@pytest.mark.parametrize('size', [0, -1, 2.5, 'a', math.nan, 10 ** 9])
def test_a_size_that_cannot_be(size):
    with pytest.raises(ValueError, match='size must be a whole number of pixels'):
        resize(np.zeros((4, 5, 3), np.uint8), size)


@pytest.mark.parametrize('frame', [
    np.zeros((0, 5, 3), np.uint8), np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3), np.float32)])
def test_a_frame_that_is_none(frame):
    with pytest.raises(ValueError, match='a frame is uint8'):
        resize(frame, 8)
