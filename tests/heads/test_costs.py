"""The cost table beside the published column."""
import pytest

from glscl.heads import HEADS, costs


def test_the_table_has_every_head_and_the_published_figures():
    table = costs.table().set_index('method')
    assert list(table.index) == list(HEADS)
    columns = ['counted, a pair', 'counted, G', 'in Gram form, G', 'as released, G', 'published, G']
    assert table.loc['GLSCL', columns].tolist() == ['16,896', '16.9', '10.4', '2,116 + 15,551', '1']
    assert table.loc['CLIP4Clip seqTransf', 'published, G'] == '0.5' and table.loc['DRL', 'published, G'] == '–'


def test_the_formulas_give_the_published_figures_to_their_last_digit():
    table = costs.explained()
    published = costs.published().dropna(subset=['FLOPs (G)'])
    assert set(table['method']) == set(published['method'])
    for _, row in table.iterrows():
        if row['method'] == 'Prompt Switch':
            assert row['gives, G'] == '–'
        else:
            digits = len(row['published, G'].partition('.')[2])
            assert abs(float(row['gives, G']) - float(row['published, G'])) < 10 ** -max(digits, 1), row['method']


def test_a_cost_by_name():
    assert costs.pair_cost('CLIP4Clip') == 512 and costs.pair_cost('X-Pool', gram=True) == 12_809
    assert round(costs.pair_cost('X-CLIP') / costs.pair_cost('GLSCL'), 1) == 14.2
    with pytest.raises(ValueError, match='unknown method .Clip4Clip.: one of CLIP4Clip meanP'):
        costs.pair_cost('Clip4Clip')
    parts = costs.released_cost(1000, 1000)
    assert parts == {'query decoder': HEADS['GLSCL'].cost().repeated, 'unused MLP': 2_099_200_000_000, 'scores': 16_896_000_000}


def test_glscl_as_released_costs_more_than_xclip_as_released():
    """The equations are 14 times cheaper than X-CLIP's; the two loops are the other way round."""
    ours, theirs = costs.looped('GLSCL', 1000, 1000), costs.looped('X-CLIP', 1000, 1000)
    assert ours == sum(costs.released_cost(1000, 1000).values()) and round(ours / 1e9) == 17_667
    assert round(theirs / 1e9) == 4_052
    assert costs.pair_cost('X-CLIP') > 14 * costs.pair_cost('GLSCL')


def test_the_stored_times_are_of_every_head_and_no_gallery_is_missing():
    times = costs.stored('costs')
    there = {(row['method'], row['videos']): row for row in times['rows'] if row['device'] == 'cpu'}
    galleries = {videos for _, videos in there if videos >= 1000}
    assert {(method, videos) for method in HEADS for videos in galleries} <= there.keys()
    assert round(there['GLSCL', 1_000_000]['bytes_gallery'] / 1e9) == 42 and not there['GLSCL', 1_000_000]['fits']
    assert there['CLIP4Clip tightTransf', 100_000]['query']['extrapolated']
    assert all(row['bytes_per_video'] == HEADS[row['method']].cost().video_bytes for row in times['rows'])
    assert costs.stored('no such result') is None


def test_one_thread_counts_in_its_own_time():
    part = dict(cpu_ms=dict(median=1.0), wall_ms=dict(median=2.0))
    row = dict(device='cpu', threads=1, fits=True, query=dict(part, extrapolated=False))
    assert costs.median(row, 'query') == 1.0
    assert costs.median({**row, 'threads': 2}, 'query') == costs.median({**row, 'device': 'cuda'}, 'query') == 2.0


def test_the_command_prints_it_all(capsys):
    costs.report()
    printed = capsys.readouterr().out
    assert 'T-MASS' in printed and 'cannot be explained' in printed and '14.2' in printed and '23.1' in printed
    assert 'X-CLIP : GLSCL 4,052 : 17,667 = 0.23' in printed
