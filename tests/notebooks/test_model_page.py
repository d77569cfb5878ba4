"""What 02 says in words is what its cells print; and the box in which a reader types."""
import importlib.machinery
import re
import sys
import types
from pathlib import Path

import nbformat
import pytest

from glscl.notebook import typed

NOTEBOOK = Path(__file__).parents[2] / 'notebooks' / '02_model.ipynb'
MEASURED = ('order', 'weights', 'worth-figure', 'attention', 'matrix', 'pad')  # on whichever model the reader has


@pytest.fixture(scope='module')
def cells():
    return {cell.id: cell for cell in nbformat.read(NOTEBOOK, 4).cells}


@pytest.fixture(scope='module')
def says(cells):
    """Whether the prose has each of these phrases."""
    prose = ' '.join(' '.join(cell.source.split()) for cell in cells.values() if cell.cell_type == 'markdown')
    return lambda *phrases: all(phrase in prose for phrase in phrases)


@pytest.fixture(scope='module')
def shown(cells):
    return lambda cell: ''.join(output.get('text', '') for output in cells[cell].outputs)


def numbers(text):
    return [float(n) for n in re.findall(r'[-+]?\d+(?:\.\d+)?', text)]


def test_the_page_is_short_and_has_two_exercises(cells):
    prose = '\n'.join(cell.source for cell in cells.values() if cell.cell_type == 'markdown')
    assert len(re.sub(r'```.*?```', '', prose, flags=re.S).split()) <= 2350
    assert sum('exercise' in cell.metadata.get('tags', []) for cell in cells.values()) == 2


@pytest.mark.parametrize('cell', MEASURED)
def test_what_depends_on_the_readers_model_is_kept_from_comparison(shown, cell):
    assert shown(cell) and all(line.startswith('→ ') for line in shown(cell).splitlines())


def test_company_counts_for_much_and_order_for_little(shown, says):
    blocks, company, order, without_E = numbers(shown('order'))
    assert blocks > company > 5 * order > 0 and without_E == 0
    assert says('company counts for much, order for little, and for nothing at all without $E$')


def test_the_sentence_picks_its_frames(shown, says):
    own, even = numbers(shown('weights'))
    assert own > 90 > 2 * even and says('the weight moves with the caption')
    assert '[[0.949, 1.0], [0.949, 0.0]]' in shown('global-hand') and says(r'$3/\sqrt{10} \approx 0.949$')


def test_why_tau_is_15(shown, says):
    lines = shown('lengths').splitlines()
    e, x, y = numbers(lines[0])
    assert min(e, x) > 12 and y > 2 * x and says('whose features are about 10 long', 'the temporal transformer adds length')
    own, paper = map(numbers, lines[1:3])  # tau, the rise before training, the rise after it
    assert own[1] < 10 * 10 / 3 < own[2] and paper[1] > 2 * 10 * 10 / 3 and says('the rise lies around CLIP\'s 33, with 3 far above it')
    intervals = [numbers(line.split('(')[1]) for line in lines[3:]]
    assert [low < 0 < high for low, high in intervals] == [False, True, True]
    assert says('Neither 7 nor 30 is surely better or worse; 3 may be too sharp')


def test_most_of_the_gain_is_there_before_training(shown, says):
    found = {}
    for kind, *rest in re.findall(r'→ (\w+): .*?([\d.]+) \((\d+) to (\d+)\).*?([\d.]+) \((\d+) to (\d+)\)', shown('worth-figure')):
        mean, _, high, untrained, low, _ = map(float, rest)
        assert high < low, kind  # the intervals lie apart
        found[kind] = untrained - mean
    assert set(found) == {'all', 'scene', 'order'} and found['scene'] > found['order'] > 0
    assert says('A caption of one scene gains most', 'A caption of two scenes gains less')
    won, all_won = numbers(shown('worth-figure').splitlines()[-1])
    assert won > 0.7 * all_won and says('most of what GLSCL gains over mean pooling here is there before training')


def test_the_local_module_starts_alike_and_ends_alike(shown, says):
    cosine, query, frame = numbers(shown('start'))
    assert cosine == 0.75 and 2 * query < frame and says('less than half as long as what they read')
    assert all(numbers(line)[0] < 0.01 for line in shown('attention').splitlines()) and says('all rows are alike')
    _, by_global, by_local, by_sum, spread_g, spread_l = numbers(shown('matrix'))
    assert by_local < by_global / 3 and abs(by_sum - by_global) <= 1 and spread_l < spread_g / 20
    assert says('the sum has the dots of $S_g$, or nearly', 'is almost the same number for every pair')


def test_what_the_released_code_does(shown, says):
    ours, released = numbers(shown('pad'))
    assert ours == 0 and released >= 0.01 and says('a score depends on `max_words`')
    D = 512
    assert says(f'{2 * D * 4 * D + 4 * D:,} multiply-adds')


def test_the_stored_answer_is_the_plain_one(cells):
    [output] = cells['ask'].outputs
    assert set(output.data) == {'image/png', 'text/plain'}


# ---- the box

class Box:
    """ipywidgets, as far as `typed` needs it."""
    made = []

    def __init__(self, value, **options):
        self.value, self.options = value, options
        Box.made.append(self)


@pytest.fixture
def front_end(monkeypatch):
    """A kernel whose front end lets people type, or not; with ipywidgets, or not."""
    def begin(anybody, widgets):
        Box.made, displayed = [], []
        kernel = types.SimpleNamespace(_allow_stdin=anybody)
        ipython, display = types.ModuleType('IPython'), types.ModuleType('IPython.display')
        ipython.get_ipython = lambda: types.SimpleNamespace(kernel=kernel)
        display.display = lambda *things: displayed.extend(things)
        ipywidgets = None
        if widgets:
            ipywidgets = types.ModuleType('ipywidgets')
            ipywidgets.__spec__ = importlib.machinery.ModuleSpec('ipywidgets', None)
            ipywidgets.Text = Box
            ipywidgets.interactive_output = lambda answer, boxes: (answer(boxes['sentence'].value), answer)[1]
        for name, module in {'IPython': ipython, 'IPython.display': display, 'ipywidgets': ipywidgets}.items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr('glscl.notebook.find_spec', lambda name: sys.modules[name])
        return displayed
    return begin


@pytest.mark.parametrize('anybody, widgets', [(False, True), (True, False), (False, False)])
def test_without_a_reader_or_widgets_it_is_a_plain_call(front_end, anybody, widgets):
    displayed, asked = front_end(anybody, widgets), []
    typed(asked.append, 'a red ring')
    assert asked == ['a red ring'] and not displayed and not Box.made


def test_outside_a_notebook_it_is_a_plain_call():
    asked = []
    typed(asked.append, 'a red ring')
    assert asked == ['a red ring']


def test_a_reader_with_widgets_gets_a_box(front_end):
    displayed, asked = front_end(True, True), []
    typed(asked.append, 'a red ring')
    [box] = Box.made
    assert asked == ['a red ring'] and displayed[0] is box and box.value == 'a red ring'
    answer = displayed[1]
    answer('a blue star')
    answer('  ')  # an emptied box asks nothing
    assert asked == ['a red ring', 'a blue star'] and box.options['continuous_update'] is False
