"""The benchmark of all heads, on sizes that say nothing about speed."""
import json
import math

import pytest
import torch

from glscl.bench import heads as bench_heads
from glscl.bench.heads import growth, repeated
from glscl.data.batch import Items
from glscl.heads import HEADS
from glscl.heads.base import bytes_per_item

SMALL = dict(videos=(6, 20), seconds=0.001, repeats=3)


@pytest.fixture
def small(monkeypatch):
    """Width 32, few texts and videos: the heads as they are, the sizes not."""
    monkeypatch.setattr(bench_heads, 'SIZES', dict(F=3, L=4, D=32, Q=8))
    monkeypatch.setattr(bench_heads, 'TEXTS', 2)
    monkeypatch.setattr(bench_heads, 'BLOCK', 5)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)  # rows of the CPU alone
    whole = bench_heads.build
    monkeypatch.setattr(bench_heads, 'build', lambda method, device: whole(method, device, 32, 4))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_head_is_measured_and_keeps_the_bytes_that_are_counted(small, tmp_path):
    result = bench_heads.heads(out=tmp_path / 'costs.json', **SMALL)
    assert [(r['method'], r['videos']) for r in result['rows']] == [(m, V) for m in HEADS for V in SMALL['videos']]
    for row in result['rows']:
        assert row['bytes_per_video'] == row['bytes_counted'] and row['bytes_gallery'] == row['videos'] * row['bytes_counted']
        assert row['query']['cpu_ms']['median'] >= 0 and row['pair']['wall_ns']['q1'] <= row['pair']['wall_ns']['q3']
        assert 1 <= row['query']['videos_measured'] <= row['videos']
        assert row['query']['extrapolated'] == (row['query']['videos_measured'] < row['videos'])
    assert {'threads', 'hardware', 'date', 'versions'} <= set(result['rows'][0])
    assert json.loads((tmp_path / 'costs.json').read_text()) == result


def test_what_is_stored_is_not_measured_again(small, tmp_path, monkeypatch, capsys):
    out = tmp_path / 'costs.json'
    first = bench_heads.heads(['CLIP4Clip meanP'], out=out, **SMALL)
    measured, measure = [], bench_heads.measure_row
    monkeypatch.setattr(bench_heads, 'measure_row', lambda *row: measured.append(row[:2]) or measure(*row))
    again = bench_heads.heads(['CLIP4Clip meanP', 'LAFF'], out=out, **SMALL)
    assert measured == [('LAFF', 6), ('LAFF', 20)] and again['rows'][:2] == first['rows']
    assert '2 galleries to measure, 2 stored' in capsys.readouterr().out
    assert bench_heads.heads(['LAFF'], out=out, **SMALL) == again  # nothing left to do


def test_the_command_is_noted_with_its_settings(small, tmp_path, capsys):
    out = tmp_path / 'a b.json'
    bench_heads.heads(['CLIP4Clip meanP'], (6, 12, 24), out, seconds=60, repeats=3)
    stored = json.loads(out.read_text())
    assert stored['commands'] == [f"glscl bench heads --heads 'CLIP4Clip meanP' --videos 6 12 24 --out '{out}' "
                                  f"--seconds 60 --repeats 3 --threads 1"]
    assert stored['growth'][0]['points'] == 3 and 'seconds grow as V to the' in capsys.readouterr().out


def test_seconds_that_do_not_grow_are_told_too(small, capsys, monkeypatch):
    monkeypatch.setattr(bench_heads, 'median', lambda row, what: 1.0)
    [fit] = bench_heads.heads(['CLIP4Clip meanP'], (6, 12, 24), None, seconds=60, repeats=3)['growth']
    assert fit['exponent'] == 0 and 'seconds grow as V to the 0.000' in capsys.readouterr().out


def test_a_gallery_that_does_not_fit_is_listed_and_tried_again_with_more_memory(small, tmp_path, capsys):
    out = tmp_path / 'costs.json'
    [row] = bench_heads.heads(['GLSCL'], [50], out, memory_gb=1e-6, seconds=1, repeats=3)['rows']
    assert not row['fits'] and 'query' not in row and row['bytes_gallery'] == 50 * HEADS['GLSCL'].cost(F=3, L=4, D=32).video_bytes
    assert 'GLSCL, cpu, 50 videos' in (line := capsys.readouterr().out) and 'does not fit, needs 0.0 GB' in line
    [row] = bench_heads.heads(['GLSCL'], [50], out, memory_gb=1, seconds=60, repeats=3)['rows']
    assert row['fits'] and not row['query']['extrapolated']


def test_beyond_its_time_a_gallery_is_measured_in_part_and_says_so(small, capsys):
    row = bench_heads.heads(['X-CLIP'], [10 ** 6], None, seconds=0.01, repeats=3)['rows'][0]
    assert row['query']['extrapolated'] and row['query']['videos_measured'] < 10 ** 6
    assert f'(extrapolated from {row["query"]["videos_measured"]:,} videos)' in capsys.readouterr().out


def test_a_repeated_gallery_has_memory_of_its_own():
    block = Items(x=torch.arange(6.).view(3, 2), mask=torch.tensor([[True], [False], [True]]))
    gallery = repeated(block, 7)
    assert torch.equal(gallery.x, block.x[[0, 1, 2, 0, 1, 2, 0]]) and gallery.mask.dtype == torch.bool and len(gallery) == 7
    assert gallery.x.untyped_storage().nbytes() == 7 * 2 * 4 and bytes_per_item(gallery) == bytes_per_item(block)
    assert len(repeated(block, 2)) == 2


def row(V, ms, extrapolated=False, fits=True, threads=1):
    return dict(method='GLSCL', device='cpu', videos=V, threads=threads, fits=fits, query=dict(
        cpu_ms=dict(median=ms), wall_ms=dict(median=V ** 2), extrapolated=extrapolated))


def test_growth_is_the_slope_on_logarithmic_axes():
    rows = [row(V, 0.5 * V ** 0.9) for V in (10, 100, 1000)]
    [fit] = growth([*rows, row(10 ** 4, 1e9, extrapolated=True), row(10 ** 5, 1e9, fits=False)])
    assert fit['points'] == 3 and fit['exponent'] == pytest.approx(0.9) and fit['standard_error'] == pytest.approx(0, abs=1e-6)
    [fit] = growth([row(10, 10), row(100, 200), row(1000, 1000)])  # a bump in the middle: slope 1, residuals l/3, -2l/3, l/3
    log2, log10 = math.log(2), math.log(10)
    assert fit['exponent'] == pytest.approx(1)
    assert fit['standard_error'] == pytest.approx(math.sqrt(6 / 9 * log2 ** 2 / (2 * log10 ** 2)), abs=1e-4)
    assert growth([row(V, 1.0, threads=2) for V in (10, 100, 1000)])[0]['exponent'] == pytest.approx(2)  # then wall time counts
    assert growth(rows[:2])[0]['exponent'] is None


def test_an_unknown_head_is_refused_by_name():
    with pytest.raises(ValueError, match=r"unknown heads \['Xpool'\]: choose from CLIP4Clip meanP"):
        bench_heads.heads(['Xpool'])
