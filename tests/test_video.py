"""Which frames, in which pixels, by which decoder, and what is said of a file that is no video."""
import json
import random

import numpy as np
import pytest
import torch

from glscl import video
from glscl.datasets import load_frames
from glscl.shapes import random_video, render
from glscl.video import VideoError, normalise, read_frames, resize, sample_frame_indices


@pytest.fixture(scope='module')
def film(tmp_path_factory):
    """A rendered film of 3 frames a second and its file."""
    path = tmp_path_factory.mktemp('film') / 'film.mp4'
    pixels = render(random_video(random.Random(3)))
    video.write_video(path, pixels, 3)
    return path, pixels


@pytest.mark.parametrize('n_frames, fps, max_frames, framerate, expected', [
    (300, 30, 12, 1, [0, 30, 60, 90, 120, 150, 180, 210, 240, 270]),
    (450, 29.97, 12, 1, [0, 30, 60, 90, 150, 180, 210, 240, 300, 330, 360, 420]),
    (2000, 23.976, 12, 1, [0, 168, 360, 528, 720, 888, 1080, 1248, 1440, 1608, 1800, 1992]),
    (200, 12.5, 12, 1, [0, 12, 24, 48, 60, 84, 96, 120, 132, 156, 168, 192]),  # 12.5 rounds to 12: half to even
    (30, 10, 12, 1, [0, 10, 20]), (1, 30, 12, 1, [0]), (9, 3, 12, 3, list(range(9))),
    (5, 0.4, 12, 1, [0, 1, 2, 3, 4]),  # slower than asked: every frame
    (100, 25, 1, 1, [0])])
def test_sampled_frames_by_number(n_frames, fps, max_frames, framerate, expected):
    assert sample_frame_indices(n_frames, fps, max_frames, framerate) == expected


def test_sampled_frames_are_the_released_codes(shared):
    whole = [e for e in json.loads((shared / 'fixtures/frame_sampling_decord.json').read_text())
             if not e['error'] and e['start'] is None]
    assert len(whole) >= 11
    for e in whole:
        assert sample_frame_indices(e['n_frames'], e['fps'], e['max_frames'], e['video_framerate']) == e['indices'], e


@pytest.mark.parametrize('n_frames, fps', [(0, 30), (10, 0), (10, float('nan'))])
def test_a_video_without_frames_or_speed_is_refused(n_frames, fps):
    with pytest.raises(ValueError):
        sample_frame_indices(n_frames, fps, 12)


def test_transform_is_the_released_codes(shared):
    arrays = np.load(shared / 'fixtures/image_transform.npz')
    names = {key.split('/')[0] for key in arrays}
    assert len(names) == 3
    for name in names:
        expected = torch.tensor(arrays[f'{name}/out_chw'])
        torch.testing.assert_close(normalise(resize(arrays[f'{name}/uint8_hwc'], expected.shape[-1])), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize('height, width', [(48, 64), (64, 48), (32, 32), (33, 200), (20, 24)])
def test_resize_gives_a_square_that_torch_may_write_to(height, width):
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    small = resize(frame, 32)
    assert small.shape == (32, 32, 3) and small.dtype == np.uint8 and small.flags.writeable
    assert np.array_equal(small, frame) == ((height, width) == (32, 32))
    x = normalise(small[None, None])
    assert x.shape == (1, 1, 3, 32, 32)
    torch.testing.assert_close(x[0, 0, 1, 5, 7], torch.tensor((small[5, 7, 1] / 255 - 0.4578275) / 0.26130258).float())


def test_written_video_reads_back(film):
    path, pixels = film
    frames, indices = read_frames(path, 100, 3)
    assert indices == list(range(len(pixels))) and frames.shape == pixels.shape and frames.dtype == np.uint8
    error = abs(frames[:, None].astype(int) - pixels[None, :, ]).mean((2, 3, 4))  # [read, written]
    assert error.diagonal().max() < 6
    frames, indices = read_frames(path, 4, 1, size=32)
    assert frames.shape == (4, 32, 32, 3) and len(set(indices)) == 4


def test_decord_and_pyav_give_the_same_frames(film):
    pytest.importorskip('decord')
    for count, rate in ((12, 1), (100, 3), (1, 1)):
        (a, i), (b, j) = (decode(film[0], count, rate) for decode in (video._decode, video._decode_av))
        assert i == j and np.array_equal(a, b)  # both are FFmpeg: no tolerance


def test_decord_and_pyav_agree_on_videos_from_elsewhere(shared):
    """Different containers, sizes and rates, one file with two video streams. Tolerance: 2 of 255 (colour conversion of other builds)."""
    pytest.importorskip('decord')
    clips = sorted((shared / 'clips').iterdir())
    assert len(clips) >= 7
    for clip in clips:
        (a, i), (b, j) = (decode(clip, 3, 1) for decode in (video._decode, video._decode_av))
        assert i == j and a.shape == b.shape, clip.name
        assert abs(a.astype(int) - b).max() <= 2, clip.name


def faststart(path, pixels):
    """A film whose index comes first, so that a truncated copy still opens."""
    import av
    with av.open(str(path), 'w', options={'movflags': 'faststart'}) as container:
        stream = container.add_stream('libx264', rate=3)
        stream.height, stream.width, stream.pix_fmt = *pixels.shape[1:3], 'yuv420p'
        for frame in pixels:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())


@pytest.mark.parametrize('decoder', ['decord', 'pyav'])
@pytest.mark.parametrize('kind, told', [('missing', 'no such file'), ('folder', 'no such file'), ('empty', 'empty'),
                                        ('truncated', 'truncated'), ('index first', 'truncated'), ('text', 'cannot be decoded'),
                                        ('garbled', '')])
def test_a_file_that_is_no_video_is_named_with_a_remedy(film, tmp_path, monkeypatch, kind, told, decoder):
    if decoder == 'pyav':
        monkeypatch.setattr(video, '_decode', video._decode_av)
    path, (good, pixels) = tmp_path / 'bad film.mp4', film
    if kind == 'folder':
        path.mkdir()
    elif kind == 'index first':
        faststart(path, pixels)
        path.write_bytes(path.read_bytes()[:-2000])
    elif kind == 'garbled':
        faststart(path, pixels)
        data = path.read_bytes()
        path.write_bytes(data[:200] + data[200:][::-1])
    elif kind != 'missing':
        path.write_bytes(dict(empty=b'', truncated=good.read_bytes()[:-3000], text=b'not a film, a letter\n' * 99)[kind])
    with pytest.raises(VideoError) as caught:
        read_frames(path)
    message = str(caught.value)
    assert message.startswith(f'{path}: ') and told in message
    assert any(remedy in message for remedy in ('again', 'Is data_dir right'))
    assert '\n' not in message and 'video_reader.cc' not in message and len(message) < 500


def test_sound_without_pictures_is_refused(tmp_path):
    import av
    path = tmp_path / 'sound.mp4'
    with av.open(str(path), 'w') as container:
        stream = container.add_stream('aac', rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format='fltp', layout='mono')
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for decode in (read_frames, lambda p: video._decode_av(p, 12, 1)):
        with pytest.raises(VideoError, match='sound.mp4'):
            decode(path)


def test_a_video_shorter_than_the_frames_asked_is_padded_and_masked(film, tmp_path):
    short = tmp_path / 'short.mp4'
    video.write_video(short, film[1][:5], 3)  # 5 frames, 3 a second: indices 0 and 3
    frames, mask, bad = load_frames([str(short), str(film[0])], max_frames=8, size=16, cache=tmp_path / 'cache')
    assert mask[0].tolist() == [True] * 2 + [False] * 6 and mask[1].sum() == min(8, -(-len(film[1]) // 3)) and bad == {}
    assert (frames[0, 2:] == 0).all() and frames[0, :2].any()
    assert np.array_equal(frames[0, :2], read_frames(short, 8, 1, 16)[0])
