"""The cost table beside the published column."""
import pytest

from glscl import efficiency
from glscl.heads import HEADS


def test_the_table_has_every_head_and_the_published_figures():
    table = efficiency.table().set_index('method')
    assert list(table.index) == list(HEADS)
    columns = ['counted, a pair', 'counted, G', 'in Gram form, G', 'as released, G', 'published, G']
    assert table.loc['GLSCL', columns].tolist() == ['16,896', '16.9', '10.4', '2,116 + 15,551', '1']
    assert table.loc['CLIP4Clip seqTransf', 'published, G'] == '0.5' and table.loc['DRL', 'published, G'] == '–'


def test_the_formulas_give_the_published_figures_to_their_last_digit():
    table = efficiency.explained()
    published = efficiency.published().dropna(subset=['FLOPs (G)'])
    assert set(table['method']) == set(published['method'])
    for _, row in table.iterrows():
        if row['method'] == 'Prompt Switch':
            assert row['gives, G'] == '–'
        else:
            digits = len(row['published, G'].partition('.')[2])
            assert abs(float(row['gives, G']) - float(row['published, G'])) < 10 ** -max(digits, 1), row['method']


def test_a_cost_by_name():
    assert efficiency.pair_cost('CLIP4Clip') == 512 and efficiency.pair_cost('X-Pool', gram=True) == 12_809
    assert round(efficiency.pair_cost('X-CLIP') / efficiency.pair_cost('GLSCL'), 1) == 14.2
    assert efficiency.BYTES['GLSCL'](12, 512, 8) == 4 * 20 * 512 + 4 * 144 + 12
    with pytest.raises(ValueError, match='unknown method .Clip4Clip.: one of CLIP4Clip meanP'):
        efficiency.pair_cost('Clip4Clip')
    parts = efficiency.released_cost(1000, 1000)
    assert parts == {'query decoder': HEADS['GLSCL'].cost().repeated, 'unused MLP': 2_099_200_000_000, 'scores': 16_896_000_000}


def test_the_command_prints_it_all(capsys):
    efficiency.main()
    printed = capsys.readouterr().out
    assert 'T-MASS' in printed and 'cannot be explained' in printed and '14.2' in printed and '23.1' in printed
