"""Which frames, in which pixels, of which containers, and the words for a file that is no video."""
import gc
import json
import math
import random
import struct
import sys
from fractions import Fraction
from functools import partial

import av
import numpy as np
import pytest
import torch
from data.films import FILES, encode, number, numbered
from PIL import Image

from glscl.data import video
from glscl.data.errors import VideoError
from glscl.data.frames import load_frames
from glscl.data.pixels import CLIP_MEAN, CLIP_STD, normalise, resize
from glscl.data.sampling import sample_frame_indices
from glscl.data.video import frame_indices, frame_seconds, read_frames
from glscl.datasets import shapes
from glscl.datasets.shapes import random_video, render


@pytest.fixture(scope='module')
def film(tmp_path_factory):
    """A rendered film of 3 frames a second and its file."""
    path = tmp_path_factory.mktemp('film') / 'film.mp4'
    pixels = render(random_video(random.Random(3)))
    shapes.write_video(path, pixels, 3)
    return path, pixels


@pytest.mark.parametrize('n_frames, fps, max_frames, framerate, expected', [
    (300, 30, 12, 1, [0, 30, 60, 90, 120, 150, 180, 210, 240, 270]),
    (450, 29.97, 12, 1, [0, 30, 60, 90, 150, 180, 210, 240, 300, 330, 360, 420]),
    (2000, 23.976, 12, 1, [0, 168, 360, 528, 720, 888, 1080, 1248, 1440, 1608, 1800, 1992]),
    (200, 12.5, 12, 1, [0, 12, 24, 48, 60, 84, 96, 120, 132, 156, 168, 192]),  # half to even: 12
    (30, 10, 12, 1, [0, 10, 20]), (1, 30, 12, 1, [0]), (9, 3, 12, 3, list(range(9))),
    (5, 0.4, 12, 1, [0, 1, 2, 3, 4]),  # slower than asked: every frame
    (100, 25, 1, 1, [0])])
def test_sampled_frames_by_number(n_frames, fps, max_frames, framerate, expected):
    assert sample_frame_indices(n_frames, fps, max_frames, framerate) == expected


def test_strides_are_the_released_codes(shared):
    cases = json.loads((shared / 'fixtures/frame_sampling_decord.json').read_text())
    assert len(cases) >= 20
    for e in cases:
        indices = sample_frame_indices(e['n_frames'], e['fps'], e['max_frames'],
                                       e['video_framerate'], e['start'], e['end'])
        if e['error']:  # a stride of 0 there
            every = np.linspace(0, e['n_frames'] - 1, e['max_frames'], dtype=int)
            assert indices == every.tolist(), e
        else:
            assert indices == e['indices'], e


def test_seconds_are_the_released_codes(shared):
    cases = json.loads((shared / 'fixtures/frame_sampling_cv2.json').read_text())
    assert len(cases) >= 7
    for e in cases:
        read, selected = (sample_frame_indices(e['n_frames'], e['fps'], max_frames, 1, e['start'],
                                               e['end'], 'seconds')
                          for max_frames in (10 ** 9, e['max_frames']))
        assert read == e['positions_read'] and selected == e['selected'], e


@pytest.mark.parametrize('sampling, n_frames, fps, framerate, start, end, expected', [
    ('stride', 900, 30, 1, 3.9, 7.2, [90, 120, 150, 180, 210]),
    ('stride', 300, 30, 1, 20, 25, []),
    ('stride', 300, 30, 1, 7, None, [210, 240, 270]),
    ('stride', 300, 30, 1, float('nan'), float('nan'), list(range(0, 300, 30))),
    ('stride', 100, 29.97, 1, 3, 3, [89]),
    ('seconds', 900, 29.97, 1, 5, 8, [145, 174, 203, 232]),
    ('seconds', 900, 30, 1, 8, 5, [150, 180, 210, 240]),
    ('seconds', 900, 30, 1, 4, 4, [120, 150]), ('seconds', 100, 25, 2, 0, 1, [0, 12, 25, 37]),
    ('seconds', 100, 25, 1, 31, 40, []),
    ('seconds', 100, 10, 0.5, 0, 6, [0, 20, 40, 60]),
    ('seconds', 4, 0.4, 1, None, None, [0, 1, 2, 3]),
    ('seconds', 10, 4, 9, 0, 0, [0, 1, 2, 3, 4, 5, 6, 7])])
def test_a_part_of_a_video_by_number(sampling, n_frames, fps, framerate, start, end, expected):
    assert sample_frame_indices(n_frames, fps, 64, framerate, start, end, sampling) == expected


def test_an_unknown_sampling_is_refused():
    with pytest.raises(ValueError, match='"stride" or "seconds", not \'random\''):
        sample_frame_indices(10, 10, 5, sampling='random')


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
        frame = resize(arrays[f'{name}/uint8_hwc'], expected.shape[-1])
        torch.testing.assert_close(normalise(frame), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize('height, width', [(48, 64), (64, 48), (32, 32), (33, 200), (20, 24)])
def test_resize_gives_a_square_that_torch_may_write_to(height, width):
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    small = resize(frame, 32)
    assert small.shape == (32, 32, 3) and small.dtype == np.uint8 and small.flags.writeable
    assert np.array_equal(small, frame) == ((height, width) == (32, 32))
    x = normalise(small[None, None])
    assert x.shape == (1, 1, 3, 32, 32)
    green = (small[5, 7, 1] / 255 - 0.4578275) / 0.26130258
    torch.testing.assert_close(x[0, 0, 1, 5, 7], torch.tensor(green).float())


@pytest.mark.parametrize('height, width', [(360, 640), (641, 359), (97, 97), (240, 427), (33, 500),
                                           (224, 225), (20, 31)])
def test_transform_is_torchvisions_at_any_shape(height, width):
    from torchvision import transforms as T
    frame = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    theirs = T.Compose([T.Resize(224, T.InterpolationMode.BICUBIC), T.CenterCrop(224), T.ToTensor(),
                        T.Normalize(CLIP_MEAN, CLIP_STD)])
    ours = normalise(resize(frame, 224))
    torch.testing.assert_close(ours, theirs(Image.fromarray(frame)), atol=1e-6, rtol=0)


def test_written_video_reads_back(film):
    path, pixels = film
    frames, indices = read_frames(path, 100, 3)
    assert indices == list(range(len(pixels)))
    assert frames.shape == pixels.shape and frames.dtype == np.uint8
    error = abs(frames[:, None].astype(int) - pixels[None, :, ]).mean((2, 3, 4))  # [read, written]
    assert error.diagonal().max() < 6
    frames, indices = read_frames(path, 4, 1, size=32)
    assert frames.shape == (4, 32, 32, 3) and len(set(indices)) == 4


def by_decord(path, indices):
    """As the released code calls it: (frames, their number in the file, its rate)."""
    decord = pytest.importorskip('decord')
    reader = decord.VideoReader(str(path), ctx=decord.cpu(0), num_threads=1)
    return reader.get_batch(indices).asnumpy(), len(reader), reader.get_avg_fps()


def test_both_readers_read_the_same_of_videos_from_elsewhere(shared):
    """Different containers, sizes and rates, one file with two video streams. Tolerance: 2 of 255,
    for colour conversion of other builds; 0 on all seven with decord 0.6.0 and PyAV 18.1.0."""
    pytest.importorskip('decord')
    clips = sorted((shared / 'clips').iterdir())
    assert len(clips) >= 7
    for clip in clips:
        frames, indices = read_frames(clip, 3, 1)
        theirs, again = read_frames(clip, 3, 1, reader='decord')
        assert indices == again and frames.shape == theirs.shape, clip.name
        assert abs(frames.astype(int) - theirs).max() <= 2, clip.name


def test_decord_is_read_as_the_released_code_does(shared):
    for name in ('166766.mp4', 'flipping_a_pancake.mkv', 'test.avi'):
        clip = shared / 'clips' / name
        frames, indices = read_frames(clip, 3, 1, 32, reader='decord')
        theirs, count, fps = by_decord(clip, indices)
        assert indices == sample_frame_indices(count, fps, 3, 1), name
        assert frame_seconds(clip, indices).tolist() == pytest.approx([i / fps for i in indices]), name
        assert indices == frame_indices(clip, 3, 1, reader='decord').tolist(), name
        assert np.array_equal(frames, [resize(frame, 32) for frame in theirs]), name


def test_an_unknown_reader_is_refused(film):
    with pytest.raises(ValueError, match='"auto", "pyav" or "decord", not \'opencv\''):
        read_frames(film[0], reader='opencv')


def test_decord_where_it_is_not_installed(film, monkeypatch):
    monkeypatch.setitem(sys.modules, 'decord', None)
    assert read_frames(film[0], reader='auto')[1]
    with pytest.raises(ImportError, match='pip install decord, or set reader to "auto"'):
        frame_indices(film[0], reader='decord')


@pytest.mark.parametrize('name', FILES)
def test_every_container_gives_exactly_the_frames_asked_for(name, tmp_path):
    path = encode(tmp_path / name, numbered(90), **FILES[name])
    for count, rate in ((4, 1), (12, 3), (100, 25)):
        frames, indices = read_frames(path, count, rate)
        assert [number(frame) for frame in frames] == indices, (count, rate)
        assert len(indices) >= min(count, 3), (count, rate)
    if name == 'ntsc.mp4':
        assert read_frames(path, 12)[1] == [0, 30, 60]
    part = read_frames(path, 12, start=1, end=2)[1]
    assert part == frame_indices(path, 12, start=1, end=2).tolist() != read_frames(path, 12)[1]


@pytest.mark.parametrize('name', ['open groups.mp4', 'b frames.avi', 'stream.ts'])
def test_where_decord_gives_other_frames_pyav_is_right(name, tmp_path):
    pytest.importorskip('decord')
    path = encode(tmp_path / name, numbered(90), **FILES[name])
    for reader, is_right in (('decord', False), ('auto', True)):
        frames, indices = read_frames(path, 12, 3, reader=reader)
        assert indices == list(range(0, 90, 8)), reader
        assert ([number(frame) for frame in frames] == indices) is is_right, reader


@pytest.mark.parametrize('name', ['one.mp4', 'one.mkv', 'one.avi', 'one.webm'])
def test_a_single_frame_is_a_video(name, tmp_path):
    codec = {'one.avi': 'mpeg4', 'one.webm': 'libvpx-vp9'}.get(name, 'libx264')
    path = encode(tmp_path / name, numbered(1), codec)
    for sampling in ('stride', 'seconds'):
        frames, indices = read_frames(path, 12, size=32, sampling=sampling)
        assert indices == [0] and frames.shape == (1, 32, 32, 3)


def shown(path, a, b, c, d):
    """The same .mp4, to be shown with (x, y) at (a x + c y, b x + d y), by its matrix."""
    data = bytearray(path.read_bytes())
    at = data.find(b'tkhd') + 44
    matrix = [a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30]
    data[at:at + 36] = struct.pack('>9i', *matrix)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize('mirrored', [False, True])
@pytest.mark.parametrize('quarters', range(4))
def test_a_portrait_film_stands_upright(quarters, mirrored, tmp_path):
    """As it is stored, and as its file says it was held; decord turns it too, but mirrors none."""
    path = encode(tmp_path / 'portrait.mp4', numbered(30, 128, 96), g=12)
    plain = read_frames(path)[0]
    assert plain.shape == (2, 128, 96, 3)
    cos, sin = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarters]
    sign = -1 if mirrored else 1  # left and right change places, then the film is turned
    shown(path, sign * cos, sign * sin, -sin, cos)
    frames, indices = read_frames(path)
    expected = plain[:, :, ::-1] if mirrored else plain
    assert np.array_equal(frames, np.rot90(expected, -quarters, (1, 2)))
    assert frames.flags.c_contiguous
    theirs = by_decord(path, indices)[0]
    assert np.array_equal(read_frames(path, reader='decord')[0], theirs)
    assert np.array_equal(frames, theirs) is not mirrored


def test_a_last_frame_that_is_missing_is_no_reason_to_stop(tmp_path, monkeypatch):
    """The container promises more than the 50 frames that come: a few more are no matter, with 60
    promised it is truncated."""
    path = encode(tmp_path / 'short.avi', numbered(50), codec='mpeg4', bf=2)
    survey = video.survey
    for promised in (51, 55, 60):
        def promise(*args, more=promised - 50):
            film = survey(*args)
            return film._replace(n=film.n + more)
        monkeypatch.setattr(video, 'survey', promise)
        if promised < 60:
            frames, indices = read_frames(path, 4, 25)
            assert indices == [0, 16, 32, 49] == [number(frame) for frame in frames]
            assert frame_indices(path, 4, 25).tolist() == indices
        else:
            with pytest.raises(VideoError, match='only 50 of 60 frames.*truncated'):
                read_frames(path, 4, 25)


def test_a_name_with_a_colon_is_no_address(tmp_path, monkeypatch):
    encode(tmp_path / 'film.mp4', numbered(30)).rename(tmp_path / '2024-05-01T12:30:05.mp4')
    monkeypatch.chdir(tmp_path)
    for reader in ('pyav', 'decord'):
        assert read_frames('2024-05-01T12:30:05.mp4', reader=reader)[1] == [0, 25]


def test_a_title_that_is_not_utf8_is_no_matter(tmp_path):
    path = encode(tmp_path / 'cafe.mkv', numbered(30), container={'title': 'XXXX'})
    path.write_bytes(path.read_bytes().replace(b'XXXX', b'Caf\xe9'))
    assert read_frames(path)[1] == [0, 25] and frame_seconds(path, [25]) == [1]


def test_a_film_may_begin_late(tmp_path):
    """Its length then counts from 0, or from its first frame."""
    times = list(range(30_000, 34_000, 40))
    path = encode(tmp_path / 'late.mkv', numbered(100), times=times, g=24)
    assert read_frames(path)[1] == [0, 25, 50, 75]
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    with pytest.raises(VideoError, match='truncated'):
        read_frames(path)


@pytest.mark.parametrize('has_cover', [False, True])
def test_sound_without_pictures_is_refused(has_cover, tmp_path):
    """An album's cover is a video stream of one frame."""
    path = tmp_path / 'sound.mp4'
    silence = np.zeros((1, 44100), np.float32)
    frame = av.AudioFrame.from_ndarray(silence, format='fltp', layout='mono')
    frame.sample_rate = 44100
    with av.open(str(path), 'w') as out:
        sound = out.add_stream('aac', rate=44100)
        if has_cover:
            cover = out.add_stream('mjpeg', rate=1)
            cover.width, cover.height, cover.pix_fmt = 64, 64, 'yuvj420p'
            cover.disposition = av.stream.Disposition.attached_pic
            black = np.zeros((64, 64, 3), np.uint8)
            out.mux(cover.encode(av.VideoFrame.from_ndarray(black, format='rgb24')))
            out.mux(cover.encode())
        out.mux(sound.encode(frame))
        out.mux(sound.encode())
    with pytest.raises(VideoError, match='sound.mp4: holds no video stream'):
        read_frames(path)


def test_a_codec_without_a_decoder_is_named_as_that(tmp_path):
    path = encode(tmp_path / 'raw.mp4', numbered(3))
    data = path.read_bytes()
    path.write_bytes(data[:40] + data[40:].replace(b'avc1', b'braw'))
    with pytest.raises(VideoError, match='raw.mp4: FFmpeg has no decoder for its codec'):
        read_frames(path)


def test_a_palette_that_comes_once_colours_every_frame(tmp_path):
    path = tmp_path / 'palette.avi'
    red = np.full((256, 4), [255, 255, 0, 0], np.uint8)  # alpha, red, green, blue
    with av.open(str(path), 'w') as out:
        stream = out.add_stream('rawvideo', rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 64, 'pal8'
        for i in range(10):
            indices = np.full((64, 64), i, np.uint8)
            out.mux(stream.encode(av.VideoFrame.from_ndarray((indices, red), format='pal8')))
        out.mux(stream.encode())
    frames, indices = read_frames(path)
    assert indices == [0, 5] and (frames == [255, 0, 0]).all()


def test_frames_that_change_size_need_a_size(tmp_path):
    path = tmp_path / 'sizes.mkv'
    with av.open(str(path), 'w') as out:
        stream = out.add_stream('mjpeg', rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, 'yuvj420p'
        for i, size in enumerate([64, 64, 96, 96]):
            codec = av.CodecContext.create('mjpeg', 'w')
            codec.width, codec.height, codec.pix_fmt = size, size, 'yuvj420p'
            codec.time_base = Fraction(1)
            frame = av.VideoFrame.from_ndarray(np.zeros((size, size, 3), np.uint8), format='rgb24')
            for packet in codec.encode(frame.reformat(format='yuvj420p')):
                packet.stream, packet.time_base = stream, Fraction(1)
                packet.pts = packet.dts = i
                out.mux(packet)
    assert read_frames(path, size=32)[0].shape == (4, 32, 32, 3)
    with pytest.raises(VideoError, match='sizes.mkv: its frames differ in height and width'):
        read_frames(path)


BAD = {'missing': 'no such file', 'folder': 'no such file', 'empty': 'empty',
       'truncated': 'truncated', 'index first': 'truncated', 'text': 'cannot be decoded',
       'garbled': '', 'half an mkv': 'truncated', 'GIF': 'is a picture (GIF)',
       'PNG': 'is a picture (PNG)', 'JPEG': 'is a picture (JPEG)'}


def make_bad(kind, path, film):
    good, pixels = film
    whole = good.read_bytes()
    index_first = {'movflags': 'faststart'}  # so that a truncated copy still opens
    if kind == 'folder':
        path.mkdir()
    elif kind == 'empty':
        path.write_bytes(b'')
    elif kind == 'truncated':
        path.write_bytes(whole[:-3000])
    elif kind == 'text':
        path.write_bytes(b'not a film, a letter\n' * 99)
    elif kind == 'index first':
        encode(path, pixels, rate=3, container=index_first)
        path.write_bytes(path.read_bytes()[:-4000])
    elif kind == 'garbled':
        data = encode(path, pixels, rate=3, container=index_first).read_bytes()
        path.write_bytes(data[:200] + data[200:][::-1])
    elif kind == 'half an mkv':
        data = encode(path.with_suffix('.mkv'), numbered(200)).read_bytes()
        path.write_bytes(data[:len(data) // 2])
    elif kind.isupper():
        Image.fromarray(pixels[0]).save(path, kind)


@pytest.mark.parametrize('reader', ['auto', 'decord'])
@pytest.mark.parametrize('kind', BAD)
def test_a_file_that_is_no_video_is_named_with_a_remedy(film, tmp_path, kind, reader, capfd):
    if reader == 'decord':
        pytest.importorskip('decord')
    path = tmp_path / 'bad film.mp4'
    make_bad(kind, path, film)
    capfd.readouterr()
    with pytest.raises(VideoError) as caught:
        read_frames(path, reader=reader)
    message = str(caught.value)
    assert message.startswith(f'{path}: ') and BAD[kind] in message
    assert any(remedy in message for remedy in ('again', 'Is data_dir right', 'in its place'))
    assert '\n' not in message and len(message) < 500
    with pytest.raises(VideoError, match='bad film'):
        frame_indices(path, reader=reader)
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('name', ['one long group.mp4', 'b frames.avi'])
def test_no_frame_outlives_its_reading(name, tmp_path):
    """Else its threads do, and a process that is forked then hangs."""
    path = encode(tmp_path / name, numbered(90), **FILES[name])
    gc.collect()
    gc.disable()
    try:
        read_frames(shown(path, 0, 1, -1, 0) if path.suffix == '.mp4' else path, size=32)
        assert not [x for x in gc.get_objects() if type(x) is av.VideoFrame]
    finally:
        gc.enable()


@pytest.mark.parametrize('reader', ['auto', 'decord'])
def test_a_scratched_film_is_refused_and_nothing_is_printed(reader, tmp_path, capfd):
    if reader == 'decord':
        pytest.importorskip('decord')
    path = encode(tmp_path / 'scratched.mp4', numbered(90), g=12)
    data = bytearray(path.read_bytes())
    at = data.find(b'mdat') + 2000
    data[at:at + 3840] = bytes(range(256)) * 15
    path.write_bytes(data)
    capfd.readouterr()
    with pytest.raises(VideoError, match='scratched.mp4: '):
        read_frames(path, 100, 25, reader=reader)
    assert capfd.readouterr() == ('', '')


def test_a_video_that_ends_before_its_annotated_start_is_named_with_both(film):
    path, pixels = film
    seconds = len(pixels) / 3
    told = rf'film.mp4: ends before its annotated start \(it is {seconds:.1f} s long, .* 60 s'
    for sampling in ('stride', 'seconds'):
        with pytest.raises(VideoError, match=told):
            read_frames(path, start=60, end=70, sampling=sampling)


def test_a_file_without_a_rate_is_named_with_a_remedy(film):
    wish = (12, 1, None, None, 'stride')
    survey = partial(video.Video, fps=0.0, seconds=None, times=None, keys=None, skip=0, begin=None,
                     is_cut=False)
    told = 'film.mp4: does not say how many frames a second .*ffmpeg -r 25'
    with pytest.raises(VideoError, match=told):
        video.choose(film[0], survey(9), wish)
    assert video.choose(film[0], survey(1), wish) == [0]


def test_a_video_shorter_than_the_frames_asked_is_padded_and_masked(film, tmp_path):
    short = tmp_path / 'short.mp4'
    shapes.write_video(short, film[1][:5], 3)  # 5 frames, 3 a second: indices 0 and 3
    paths = [str(short), str(film[0])]
    frames, mask, bad = load_frames(paths, max_frames=8, size=16, cache=tmp_path / 'cache')
    assert mask[0].tolist() == [True] * 2 + [False] * 6 and bad == {}
    assert mask[1].sum() == min(8, math.ceil(len(film[1]) / 3))
    assert (frames[0, 2:] == 0).all() and frames[0, :2].any()
    assert np.array_equal(frames[0, :2], read_frames(short, 8, 1, 16)[0])
