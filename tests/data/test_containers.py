"""Whatever a container or a codec does: the frames that decoding from the start gives, or one error
that names the file and what to do."""
import errno
import os
import random
import re
import sys
import time
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
from data.films import encode, number, numbered
from PIL import Image

from glscl.data import video
from glscl.data.errors import VideoError
from glscl.data.video import frame_rate, frame_seconds, read_frames

GROUPS = {'g': 12, 'bf': 2}
CODECS = {  # name of the encoder, its options
    'h264': ('libx264', GROUPS), 'mpeg4': ('mpeg4', GROUPS), 'mpeg2': ('mpeg2video', GROUPS),
    'hevc': ('libx265', {'x265_params': 'log-level=none:keyint=12:bframes=3:open-gop=1:temporal-layers=3'}),
    'hevc in one layer': ('libx265', {'x265_params': 'log-level=none:keyint=12:bframes=4:b-pyramid=0:open-gop=1'}),
    'vp8': ('libvpx', {'g': 20, 'auto_alt_ref': 1, 'lag_in_frames': 10, 'deadline': 'realtime', 'cpu_used': 8}),
    'vp9': ('libvpx-vp9', {'g': 20, 'deadline': 'realtime', 'cpu_used': 8}),
    'av1': ('libsvtav1', {'preset': 12, 'g': 20, 'svtav1_params': 'lp=1'}),
    'open': ('libx264', {'x264_params': 'open-gop=1:keyint=12:bframes=3:b-pyramid=2'}),
    'refresh': ('libx264', {'x264_params': 'intra-refresh=1:keyint=12'}),
    'interlaced': ('libx264', {'x264_params': 'tff=1:keyint=12:bframes=2'}),
    'short groups': ('libx264', {'g': 3, 'bf': 2}),
    'mjpeg': ('mjpeg', {}), 'ffv1': ('ffv1', {'g': 12}), 'wmv2': ('wmv2', {'g': 12}),
    'flv1': ('flv', {'g': 12}), 'theora': ('libtheora', {'g': 12}), 'gif': ('gif', {}),
    'h263': ('h263', {'g': 12}), 'zmbv': ('zmbv', {'g': 12}), 'qtrle': ('qtrle', {})}
PIXELS = {'mjpeg': 'yuvj420p', 'gif': 'rgb8', 'zmbv': 'bgr0', 'qtrle': 'rgb24'}
SUFFIXES = 'mp4 mov mkv webm avi ts flv wmv mpg m4v ogv 3gp gif'.split()


def in_order(path, codec=None):
    """Every frame of a file as FFmpeg decodes it from the start."""
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        if codec and (context is None or context.codec.name not in codec and context.codec.canonical_name not in codec):
            raise ValueError('what was written is not what is found')  # as VP9 in .mpg, on which PyAV 17.1 dies
        return [frame.to_ndarray(format='rgb24') for frame in container.decode(video=0)]


def read(path, indices, monkeypatch):
    """The frames at any indices, by the way that `read_frames` takes for them."""
    with monkeypatch.context() as patch:
        patch.setattr(video, 'choose', lambda *film: list(indices))
        frames, same = read_frames(path)
    assert same == list(indices)
    return frames


@pytest.mark.parametrize('codec', CODECS)
def test_frames_asked_for_in_any_way_are_those_decoded_in_order(codec, tmp_path, monkeypatch):
    encoder, options = CODECS[codec]
    size, rng, tried = ((96, 128) if codec == 'h263' else (64, 96)), random.Random(0), []
    for suffix in SUFFIXES:
        path = tmp_path / f'film.{suffix}'
        try:
            encode(path, numbered(40, *size), encoder, pixels=PIXELS.get(codec, 'yuv420p'), **options)
            every = in_order(path, av.codec.Codec(encoder, 'w').canonical_name)
        except (av.error.FFmpegError, ValueError, IndexError):
            continue  # not for this container, or not in this build
        tried.append(suffix)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            frames, indices = read_frames(path, 100, 10 ** 6)
        assert np.array_equal(frames, every) and indices == list(range(len(every))), suffix
        for indices in *([rng.randrange(len(every))] for _ in range(5)), *(sorted(rng.sample(range(len(every)), n)) for n in (3, 7)):
            expected = [every[i] for i in indices]
            assert np.array_equal(read(path, indices, monkeypatch), expected), (suffix, indices)
    if not tried:
        pytest.skip('no encoder for it')


def remux(source, path, keep, **options):
    """A copy of the packets for which keep(number) holds, none decoded."""
    with av.open(str(source)) as old, av.open(str(path), 'w', options=options) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for n, packet in enumerate(old.demux(video=0)):
            if packet.size and keep(n):
                packet.stream = stream
                new.mux(packet)
    return path


@pytest.mark.parametrize('suffix', ['mp4', 'mkv', 'flv', 'ts', 'mov'])
def test_a_clip_cut_without_its_key_frame_gives_what_can_be_decoded_and_says_so(suffix, tmp_path):
    whole = encode(tmp_path / 'whole.mkv', numbered(75), **GROUPS)
    clip = remux(whole, tmp_path / f'clip.{suffix}', lambda n: n >= 5)
    with pytest.warns(UserWarning, match=f'clip.{suffix}: its first frames cannot be decoded.*left out'):
        frames, indices = read_frames(clip, 100, 25)
    assert [number(frame) for frame in frames] == list(range(12, 75)) and indices == list(range(63))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        part, of_it = read_frames(clip, 3, 3, start=1, end=2)
    assert np.array_equal(part, frames[of_it])
    seconds = frame_seconds(clip, of_it)
    assert (seconds > 0.9).all() and (seconds <= 2).all()


def test_packed_b_frames_in_avi_are_each_themselves(tmp_path, monkeypatch):
    """As DivX wrote them: two pictures in one packet, and an empty one after it."""
    made = encode(tmp_path / 'made.avi', numbered(49), 'mpeg4', g=12, bf=1, flags='+bitexact')
    with av.open(str(made)) as old:
        packets = [bytes(packet) for packet in old.demux(video=0) if packet.size]
        stream = old.streams.video[0]
        pictures = [data[data.find(b'\0\0\1\xb6'):] for data in packets]
        with av.open(str(tmp_path / 'packed.avi'), 'w') as new:
            copy = new.add_stream_from_template(stream)
            packed, at = [], 0
            while at < len(packets):
                is_pair = at + 1 < len(packets) and pictures[at + 1][4] >> 6 == 2
                packed += [packets[at] + packets[at + 1], pictures[at][:5] + b'\x7f'] if is_pair else [packets[at]]
                at += 1 + is_pair
            for n, data in enumerate(packed):
                if n == 0:
                    data = data.replace(b'\0\0\1\xb6', b'\0\0\1\xb2DivX503b1393p\0\0\1\xb6', 1)
                packet = av.Packet(data)
                packet.stream, packet.pts, packet.dts, packet.time_base = copy, n, n, 1 / stream.average_rate
                packet.is_keyframe = pictures[0][4] >> 6 == 0 and n == 0
                new.mux(packet)
    every = in_order(tmp_path / 'packed.avi')
    assert len(every) > 40
    for indices in ([0], [7], [8], [30], [3, 20, 21], [len(every) - 1]):
        assert np.array_equal(read(tmp_path / 'packed.avi', indices, monkeypatch), [every[i] for i in indices])


def test_layers_of_h265_may_need_what_their_own_layer_does_not(tmp_path, monkeypatch):
    """A picture marked as not referred to is so by its own layer alone (ITU-T H.265, table 7-1)."""
    encoder, options = CODECS['hevc']
    made = encode(tmp_path / 'made.mkv', numbered(24), encoder, **options)
    path, changed = tmp_path / 'layers.mkv', 0
    with av.open(str(made)) as old, av.open(str(path), 'w') as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            data, at = bytearray(packet), 0
            while at + 6 < len(data):  # each unit: 4 bytes of its length, kind and layer
                kind, layer = data[at + 4] >> 1, (data[at + 5] & 7) - 1
                if layer == 1 and kind in (1, 3, 5):
                    data[at + 4] -= 2
                    changed += 1
                at += 4 + int.from_bytes(data[at:at + 4], 'big')
            if data:
                copy = av.Packet(bytes(data))
                copy.stream, copy.pts, copy.dts, copy.time_base = stream, packet.pts, packet.dts, packet.time_base
                copy.is_keyframe, copy.duration = packet.is_keyframe, packet.duration
                new.mux(copy)
    every = in_order(path)
    assert len(every) == 24 and changed > 3
    monkeypatch.setattr(video, '_decode_in_order', None)  # where FFmpeg misses what a frame needs
    for n in range(24):
        assert np.array_equal(read(path, [n], monkeypatch), [every[n]]), n


def test_an_edit_list_may_begin_between_key_frames(tmp_path):
    """The frames before it are decoded and not shown."""
    path = encode(tmp_path / 'edited.mp4', numbered(60), g=24, bf=0)
    data = bytearray(path.read_bytes())
    at = data.find(b'elst') + 4 + 4 + 4 + 4  # version, count, length: then the first time shown
    with av.open(str(path)) as container:
        tick = int(1 / 25 / container.streams.video[0].time_base)
    data[at:at + 4] = (10 * tick).to_bytes(4, 'big')
    path.write_bytes(data)
    every = in_order(path)
    assert [number(frame) for frame in every] == list(range(10, 60))
    frames, indices = read_frames(path, 100, 25)
    assert np.array_equal(frames, every) and indices == list(range(50))


@pytest.mark.parametrize('matrix', ['bt709', 'smpte170m'])
@pytest.mark.parametrize('full', ['off', 'on'])
def test_colours_are_those_that_the_file_names(matrix, full, tmp_path):
    """One colour by the equations of BT.601 and BT.709, in the range of television or in full."""
    y, cb, cr = colour = (100, 110, 170)
    path = tmp_path / 'colour.mp4'
    with av.open(str(path), 'w') as out:
        stream = out.add_stream('libx264', rate=5, options={'x264-params': f'qp=0:colormatrix={matrix}:fullrange={full}'})
        stream.width = stream.height = 64
        stream.pix_fmt = 'yuv420p'
        for _ in range(5):
            frame = av.VideoFrame(64, 64, 'yuv420p')
            for plane, value in zip(frame.planes, colour):
                plane.update(bytes([value]) * plane.buffer_size)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    scale, light = (255 / 224, (y - 16) * 255 / 219) if full == 'off' else (1, y)
    kr, kb = {'bt709': (0.2126, 0.0722), 'smpte170m': (0.299, 0.114)}[matrix]
    red, blue = light + 2 * (1 - kr) * (cr - 128) * scale, light + 2 * (1 - kb) * (cb - 128) * scale
    green = (light - kr * red - kb * blue) / (1 - kr - kb)
    assert abs(read_frames(path)[0] - np.array([red, green, blue])).max() < 3


# ---- moments

def rate_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return float(stream.average_rate or stream.guessed_rate)


TIMES = [i * 16 for i in range(120)] + [2000 + i * 200 for i in range(50)]  # 2 s fast, 10 s slow


@pytest.mark.parametrize('suffix', ['mkv', 'mp4', 'flv'])
@pytest.mark.parametrize('sampling', ['stride', 'seconds'])
def test_a_part_of_a_film_whose_rate_varies_is_found_by_its_time_stamps(suffix, sampling, tmp_path):
    path = encode(tmp_path / f'film.{suffix}', numbered(170), times=TIMES)
    for start, end in (4, 6), (9, 11), (1, 3), (11, None):
        frames, indices = read_frames(path, start=start, end=end, sampling=sampling)
        moments = [TIMES[number(frame)] / 1000 for frame in frames]
        assert moments == pytest.approx(np.arange(start, (end or 11) + 1), abs=0.016), (start, end)
        assert frame_seconds(path, indices) == pytest.approx(moments, abs=0.002)
    with pytest.raises(VideoError, match=r'it is 1[12].. s long, the part begins at 20 s'):
        read_frames(path, start=20, end=22, sampling=sampling)
    released = read_frames(path)[1]
    fps = rate_of(path)
    assert released == list(range(0, 170, round(fps)))


@pytest.mark.parametrize('rate', [25, 30, '30000/1001', '24000/1001'])
@pytest.mark.parametrize('suffix', ['mkv', 'mp4', 'ts', 'avi'])
def test_at_a_constant_rate_the_released_indices_stay(rate, suffix, tmp_path):
    path = encode(tmp_path / f'film.{suffix}', numbered(300), 'mpeg4', rate=rate, g=30)
    fps = rate_of(path)
    for start, end in (1, 4), (3, 9), (7, None):
        last = 299 if end is None else min(int(end * fps), 299)
        expected = list(range(int(start * fps), last + 1, round(fps)))
        assert read_frames(path, start=start, end=end)[1] == expected


# ---- what is no video

def picture(path, kind):
    image = Image.fromarray(next(numbered(1)))
    if kind in ('DPX', 'EXR'):
        encode(path, [np.asarray(image)], kind.lower(), pixels={'DPX': 'rgb24', 'EXR': 'gbrpf32le'}[kind], format='image2')
    else:
        image.save(path, kind)


@pytest.mark.parametrize('kind', ['AVIF', 'BMP', 'DPX', 'EXR', 'GIF', 'ICO', 'JPEG', 'JPEG2000', 'PCX', 'PNG', 'PPM', 'SGI', 'TGA', 'TIFF', 'WEBP'])
def test_a_picture_under_a_videos_name_is_refused_whole_or_cut(kind, tmp_path):
    path = tmp_path / 'still.mp4'
    try:
        picture(path, kind)
    except (KeyError, OSError, av.error.FFmpegError):
        pytest.skip(f'{kind} cannot be written here')
    whole = path.read_bytes()
    for data in whole, whole[:len(whole) * 2 // 3]:
        path.write_bytes(data)
        with pytest.raises(VideoError, match='still.mp4: ') as caught:
            read_frames(path)
        if data == whole and kind != 'TGA':  # which nothing tells from noise
            assert f'is a picture ({"J2K" if kind == "JPEG2000" else kind})' in str(caught.value)


def test_a_picture_of_many_pixels_is_refused_before_they_are_decoded(tmp_path):
    path = tmp_path / 'bomb.mp4'
    Image.new('1', (40000, 40000)).save(path, 'PNG')
    start = time.monotonic()
    with pytest.raises(VideoError, match='bomb.mp4: is a picture'):
        read_frames(path)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize('kind', ['GIF', 'PNG'])
def test_moving_pictures_are_a_film(kind, tmp_path):
    first, *others = map(Image.fromarray, numbered(30))
    path = tmp_path / 'moving.gif'
    first.save(path, kind, save_all=True, append_images=others, duration=100)
    frames, indices = read_frames(path)
    assert indices == [0, 10, 20] == [number(frame) for frame in frames]


@pytest.mark.parametrize('name', ['12:30:05.mp4', 'pipe:1', 'concat:a|b', 'file:x', '%d.mp4', '-i.mp4', 'a b\n.mp4', 'http:x'])
@pytest.mark.skipif(sys.platform == 'win32', reason='no such names')
def test_any_name_is_the_name_of_a_file(name, tmp_path, monkeypatch):
    encode(tmp_path / 'film.mp4', numbered(30)).rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for path in (name, Path(name), os.fsencode(name)):
        assert read_frames(path)[1] == [0, 25]


@pytest.mark.parametrize('path', [None, 5, 0.5, ['a'], '\0.mp4', 'a' * 5000, 'a/' * 2500, '', '/dev/null', 'pipe', 'loop'], ids=lambda path: repr(path)[:20])
@pytest.mark.skipif(sys.platform == 'win32', reason='no such things')
def test_what_is_no_path_of_a_file_is_refused_and_never_waited_for(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo('pipe')
    os.symlink('loop', 'loop')
    with pytest.raises(VideoError, match='no such file|is not the path of a video') as caught:
        read_frames(path)
    assert len(str(caught.value)) < 300


def test_a_link_that_leads_nowhere_is_named_as_that(tmp_path):
    (tmp_path / 'link.mp4').symlink_to('gone.mp4')
    with pytest.raises(VideoError, match='link.mp4: no such file, but a link to gone.mp4, which is not there. Put'):
        read_frames(tmp_path / 'link.mp4')


@pytest.mark.parametrize('text', ['#EXTM3U\n#EXTINF:9,\nhttp://127.0.0.1:9/x.ts\n', 'ffconcat version 1.0\nfile /etc/passwd\n'])
def test_a_playlist_leads_nowhere(text, tmp_path):
    (tmp_path / 'list.mp4').write_text(text)
    with pytest.raises(VideoError, match='list.mp4: cannot be decoded as a video') as caught:
        read_frames(tmp_path / 'list.mp4')
    assert caught.value.final


@pytest.mark.parametrize('error', [PermissionError(errno.EACCES, 'Permission denied'), OSError(errno.EIO, 'Input/output error'), MemoryError()])
def test_what_may_pass_is_told_from_what_stays(error, tmp_path, monkeypatch):
    path = encode(tmp_path / 'film.mp4', numbered(3))

    def failing(*args, **settings):
        raise error
    monkeypatch.setattr(av, 'open', failing)
    with pytest.raises(VideoError, match='film.mp4: cannot be read now') as caught:
        read_frames(path)
    assert not caught.value.final and 'room' not in str(caught.value)
    assert ('chmod' in str(caught.value)) is isinstance(error, PermissionError)


CUT = {'avi': ('mpeg4', {'bf': 2}), 'mp4': ('libx264', {'container': {'movflags': 'faststart'}}),
       'wmv': ('wmv2', {}), 'mkv': ('libx264', {}), 'webm': ('libvpx-vp9', {'deadline': 'realtime', 'cpu_used': 8}), 'flv': ('flv', {})}


@pytest.mark.parametrize('suffix', CUT)
def test_half_a_file_is_told_where_the_whole_ones_length_is_known(suffix, tmp_path):
    codec, options = CUT[suffix]
    path = encode(tmp_path / f'film.{suffix}', numbered(200), codec, **options)
    assert len(read_frames(path)[1]) == 8
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
    with pytest.raises(VideoError, match=rf'film.{suffix}: ends after .* of (8 s|200 frames|[0-9]+ bytes); it looks truncated'):
        read_frames(path)


def test_a_recording_of_a_live_asf_states_no_size(tmp_path):
    """A flag says that the size in its header, here of the whole, means nothing."""
    path = encode(tmp_path / 'live.wmv', numbered(200), 'wmv2')
    data = bytearray(path.read_bytes())
    data[data.find(bytes.fromhex('a1dcab8c47a9cf118ee400c00c205365')) + 88] |= 1
    path.write_bytes(data[:len(data) // 2])
    assert 3 <= len(read_frames(path)[1]) <= 4


ENDS = {  # of a container: the codec, where it may be cut and its frames still be used
    'ts': ('libx264', {}, 0), 'm2ts': ('libx264', {}, 0), 'mpg': ('mpeg2video', {}, 0), 'vob': ('mpeg2video', {}, 0), 'gif': ('gif', {}, 0),
    'mpeg': ('mpeg1video', {}, 0), 'flv': ('flv', {'container': {'flvflags': 'no_duration_filesize'}}, 0), 'ogv': ('libvpx', {'auto_alt_ref': 0}, 0), 'apng': ('apng', {'format': 'apng'}, 1),
    'webm': ('libvpx', {'container': {'live': '1'}, 'auto_alt_ref': 0}, 0), 'mkv': ('libx264', {'container': {'live': '1'}}, 0),
    'whole.mkv': ('libx264', {}, 0.93), 'whole.flv': ('flv', {}, 0.93), 'mp4': ('libx264', {'container': {'movflags': 'faststart'}}, 0.93),
    'fragments.mp4': ('libx264', {'g': 10, 'container': {'movflags': 'frag_keyframe+empty_moov'}}, 0.93), 'wmv': ('wmv2', {}, 0.93), 'avi': ('mpeg4', {}, 0.93)}


@pytest.mark.parametrize('suffix', ENDS)
def test_a_copy_that_broke_off_is_told_of_and_a_whole_one_is_not(suffix, tmp_path):
    """What there is is read, unless more than a tenth of a stated length lacks; bytes behind the end mean nothing."""
    (codec, options, least), kind = ENDS[suffix], suffix.split('.')[-1]
    path = tmp_path / f'film.{kind}'
    try:
        encode(path, numbered(100), codec, pixels={'gif': 'rgb8', 'apng': 'rgb24'}.get(suffix, 'yuv420p'), **options)
    except (av.error.FFmpegError, ValueError):
        pytest.skip('no encoder for it')
    data = path.read_bytes()
    for whole in (data, data + bytes(8) if kind not in ('flv', 'ts', 'm2ts', 'ogv') else data):
        path.write_bytes(whole)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert len(read_frames(path, 100, 1000)[1]) == 100
    for part in range(40, 100, 7):
        cut = len(data) * part // 100
        path.write_bytes(data[:cut - (cut % 4 == 0)])  # never at the end of a packet of 188 or 2048 bytes
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter('always')
            try:
                frames = read_frames(path, 100, 1000)[0]
            except VideoError as error:
                assert 'truncated' in str(error) and part / 100 < least
                continue
        assert 100 * part // 100 - 40 < len(frames) <= 100
        assert re.search(rf'film.{kind}: ends in the midst of its container.*truncated', str(told[-1].message)), part


def test_an_flv_whose_program_repeats_other_lengths_is_whole(tmp_path):
    """Without the tag's own 11 bytes: nothing tells then where it ends."""
    path = encode(tmp_path / 'film.flv', numbered(30), 'flv')
    data, at = bytearray(path.read_bytes()), 13
    while at < len(data):
        length = bytes([0, *data[at + 1:at + 4]])
        at += 11 + int.from_bytes(length, 'big') + 4
        data[at - 4:at] = length
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert len(read_frames(path, 100, 1000)[1]) == 30


@pytest.mark.parametrize('code, is_passing', [(errno.EPERM, False), (errno.EINVAL, False), (errno.EIO, True), (errno.ENOMEM, True)])
def test_a_packet_that_a_decoder_refuses_is_no_frame_and_what_may_pass_is_told(code, is_passing):
    """libtheora's decoder says EPERM of the headers in the midst of a chain of Ogg streams."""
    class Refused:
        def decode(self):
            av.error.err_check(-code)
    if is_passing:
        with pytest.raises(av.error.FFmpegError):
            video._decoded(Refused())
    else:
        assert video._decoded(Refused()) == []


def test_raw_dv_has_the_rate_of_its_frames(tmp_path):
    """FFmpeg 8 gives the ticks of its clock as the average."""
    path = tmp_path / 'tape.avi'
    try:
        encode(path, numbered(50, 576, 720), 'dvvideo', format='dv')
    except av.error.FFmpegError:
        pytest.skip('no encoder for it')
    assert read_frames(path)[1] == [0, 25] and frame_rate(path) == 25


def test_an_avi_that_repeats_frames_is_whole(tmp_path):
    """It says so by chunks without content, and counts them."""
    source = encode(tmp_path / 'film.mkv', numbered(60), 'mpeg4', g=12)
    path = remux(source, tmp_path / 'film.avi', lambda n: n % 3 or n == 0)
    frames, indices = read_frames(path, 100, 1000)
    assert len(indices) == 41 and frame_seconds(path, indices)[-1] == pytest.approx(59 / 25, abs=0.05)


# ---- anything at all

def test_any_bytes_give_frames_or_an_error_that_names_the_file(tmp_path):
    rng, frames, seeds = random.Random(0), list(numbered(20)), []
    for suffix, codec in dict(mp4='libx264', mkv='libx264', avi='mpeg4', ts='mpeg2video', flv='flv', wmv='wmv2', webm='libvpx', mov='mjpeg').items():
        path = tmp_path / f'seed.{suffix}'
        encode(path, frames, codec, pixels=PIXELS.get(codec, 'yuv420p'))
        seeds.append(path.read_bytes())
    for kind in ('GIF', 'PNG', 'JPEG', 'BMP', 'WEBP'):
        picture(path, kind)
        seeds.append(path.read_bytes())
    ends, outcomes = time.monotonic() + 10, {'frames': 0, 'refused': 0}
    while time.monotonic() < ends:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(rng.choice([len(data), min(len(data), 600)]))
            change = rng.choice(['cut', 'flip', 'prepend', 'blank', 'repeat'])
            if change == 'cut':
                del data[at + 1:]
            elif change == 'flip':
                for n in rng.sample(range(at, len(data)), min(len(data) - at, rng.choice([1, 4, 40]))):
                    data[n] = rng.randrange(256)
            elif change == 'prepend':
                data[:0] = rng.randbytes(rng.choice([1, 8, 700]))
            elif change == 'blank':
                data[at:at + 64] = bytes(len(data[at:at + 64]))
            else:
                data += data[at:]
        path = tmp_path / f'fuzzed.{rng.choice(SUFFIXES)}'
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                got, indices = read_frames(path, 4, size=rng.choice([None, 16]), end=rng.choice([None, 1]))
            outcomes['frames'] += len(got) == len(indices) > 0
        except VideoError as error:
            assert str(error).startswith(f'{path}: ') and len(str(error)) < 600
            outcomes['refused'] += 1
    assert min(outcomes.values()) > 20, outcomes
