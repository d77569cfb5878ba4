"""What a core reads in a second, and what that makes for a whole set of videos."""
import numpy as np
import pytest
from data.films import encode, numbered

from glscl.bench import data as bench


def test_hours_follow_from_the_seconds_of_one_core(tmp_path, monkeypatch, capsys):
    """Two videos of 4 and 2 frames, and a reader that gives other pixels in twice the time."""
    paths = [encode(tmp_path / name, numbered(n), g=12) for name, n in (('a.mp4', 100), ('b.mkv', 50))]
    (tmp_path / 'notes.txt').write_text('no video')

    def double(path, *settings, **more):
        frames, indices = bench.read_frames(path, *settings, **more)
        return 255 - frames, indices
    monkeypatch.setattr(bench, 'by_torchcodec', double)
    monkeypatch.setattr(bench.importlib.util, 'find_spec', lambda name: name == 'torchcodec')
    monkeypatch.setattr(bench, 'rounds', lambda ways, *_: {
        name: ([9], [3.6 * (1 + (name == 'torchcodec')), 9]) for name in ways})
    bench.per_core([*paths, tmp_path / 'notes.txt'], 12, 32, 10_000)
    left_out, here, other = capsys.readouterr().out.splitlines()
    assert left_out.startswith('notes.txt: left out, as here (PyAV) cannot read it')
    assert '0.8 frames/s with the resize,  10.00 hours for 10,000 such videos' in here
    assert '0.4 frames/s with the resize,  20.00 hours' in other and other.endswith('other pixels in 2 of 2')


def test_a_folder_is_read_as_it_is(tmp_path, monkeypatch, capsys):
    encode(tmp_path / 'a.mp4', numbered(60))
    monkeypatch.setattr(bench.importlib.util, 'find_spec', lambda name: None)
    bench.data(str(tmp_path), mix=False, size=16, total=5)
    told, here = capsys.readouterr().out.splitlines()
    assert '1 files; 12 frames of 16 pixels' in told and 'hours for 5 such videos' in here
    with pytest.raises(ValueError, match='name a folder'):
        bench.data(mix=False)


def test_torchcodec_is_timed_on_the_same_frames(tmp_path):
    pytest.importorskip('torchcodec')
    path = encode(tmp_path / 'a.mp4', numbered(100), g=12)
    theirs, ours = bench.by_torchcodec(path, 12, 32), bench.read_frames(path, 12, size=32)
    assert theirs[1] == ours[1] and np.array_equal(theirs[0], ours[0])
