"""The stored notebooks, without running them; and proof that nbval would notice a changed output."""
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

from glscl.config import Config, load_config
from glscl.data.sampling import sample_frame_indices
from glscl.datasets import shapes
from glscl.experiments import tables
from glscl.heads import HEADS, costs
from glscl.interaction import LocalInteraction
from glscl.notebook import bind, walkthrough

ROOT = Path(__file__).parents[2]
NAMES = ('01_data', '02_model', '03_losses', '04_training', '05_evaluation', '06_efficiency')
ENVIRONMENT = dict(os.environ)  # nbval uses the reader's own cache, as `make test` does
COMMON = ['profile', 'seed', 'device', 'data_dir', 'run_dir']


def read(name):
    path = ROOT / 'notebooks' / f'{name}.ipynb'
    if not path.exists():
        pytest.fail(f'{path.name} is missing')
    return nbformat.read(path, 4)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


@pytest.fixture
def notebook(name):
    return read(name)


@pytest.fixture(scope='module')
def repository():
    return tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['urls']['Repository']


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == 'code']


def tagged(notebook, tag):
    return [cell for cell in notebook.cells if tag in cell.metadata.get('tags', [])]


def assigned(cell):
    return re.findall(r'^(\w+)\s*(?::[^=]+)?=', cell.source, re.M)


def texts(notebook):
    """(cell id, every piece of text that a reader sees, pictures aside)"""
    for cell in notebook.cells:
        yield cell.id, cell.source
        for output in cell.get('outputs', []):
            yield cell.id, output.get('text', '')
            for kind, data in output.get('data', {}).items():
                if not kind.startswith('image/'):
                    yield cell.id, data if isinstance(data, str) else json.dumps(data)


def test_there_are_exactly_six():
    assert sorted(p.stem for p in (ROOT / 'notebooks').glob('*.ipynb')) == list(NAMES)


def test_format_ids_and_kernel(notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) >= (4, 5)
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for i in ids:  # readable: words, not a hexadecimal draw
        assert re.fullmatch(r'[a-z][a-z0-9]*([-_][a-z0-9]+)*', i) and not re.fullmatch(r'[0-9a-f]{8}(-[0-9a-f]+)*', i), i
    assert notebook.metadata.kernelspec == dict(name='python3', display_name='Python 3 (ipykernel)', language='python')


def test_parameters_are_the_common_ones_first(notebook):
    [cell] = tagged(notebook, 'parameters')
    assert cell.cell_type == 'code' and assigned(cell)[:5] == COMMON
    space = {}
    exec(cell.source, space)
    assert [space[k] for k in COMMON] == ['small', 0, 'auto', '', '']  # what nbval runs is what a laptop can
    assert all(re.match(r'\w+: \w+', line) for line in cell.source.splitlines() if line and line[0] != '#'), 'type hints'


def test_no_trace_of_papermill(notebook):
    assert not tagged(notebook, 'injected-parameters') and not tagged(notebook, 'papermill-error-cell-tag')
    for thing in (notebook, *notebook.cells):
        assert not {'papermill', 'execution', 'widgets'} & set(thing.metadata)
    assert 'version' not in notebook.metadata.get('language_info', {})


def test_every_code_cell_was_executed_in_order_and_without_complaint(notebook):
    cells = code(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != 'error' and output.get('name') != 'stderr', cell.id
    compared = [c for c in cells if c.outputs and 'nbval-ignore-output' not in c.metadata.get('tags', [])]
    assert len(compared) >= 3  # something is there for nbval to compare


def test_badge_and_set_up_cell(notebook, name, repository):
    first, second = notebook.cells[:2]
    owner = repository.removeprefix('https://github.com/')
    assert first.cell_type == 'markdown' and re.match(rf'# {name[:2]} · \S', first.source)
    assert ('[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)]'
            f'(https://colab.research.google.com/github/{owner}/blob/main/notebooks/{name}.ipynb)') in first.source
    assert second.cell_type == 'code' and second.source == code(read(NAMES[0]))[0].source and not second.outputs
    assert f'git+{repository}@' in second.source.replace('.git@', '@') and "'google.colab' in sys.modules" in second.source


def test_all_six_name_one_repository(repository):
    from glscl.config import REPOSITORY
    assert REPOSITORY == repository
    elsewhere = {url for name in NAMES for _, text in texts(read(name)) for url in re.findall(r'github\.com/[\w.-]+/glscl\b', text)}
    assert {f'https://{url}' for url in elsewhere} <= {repository}


def test_size_and_width(notebook, name):
    size = (ROOT / 'notebooks' / f'{name}.ipynb').stat().st_size
    assert size <= 300_000, f'{size} bytes'
    for cell in code(notebook):
        lines = cell.source.splitlines()
        assert len(lines) <= 25 and max(map(len, lines), default=0) <= 100, cell.id


def test_no_path_of_a_machine(notebook):
    for where, text in texts(notebook):
        assert not re.search(r'(?<![\w.])/(home|tmp|root|work|content|Users|usr|opt|mnt|var)\b', text), where
        assert not re.search(r'\b[A-Z]:\\', text), where


def test_nothing_that_nbval_cannot_compare(notebook, name):
    for cell in code(notebook):
        assert not re.search(r'clear_output|tqdm|^\s*!|^\s*%%time|display_id', cell.source, re.M), cell.id
        assert not re.search(r';\s*$', cell.source, re.M), cell.id
        assert '#' not in cell.source or 'NBVAL' not in cell.source, cell.id
        for output in cell.outputs:
            assert not re.search(r'0x[0-9a-f]{6,}|<Axes|Text\(', json.dumps(output.get('data', {}).get('text/plain', ''))), cell.id
            if 'nbval-ignore-output' not in cell.metadata.get('tags', []):  # a raw float would differ on the next machine
                assert not re.search(r'\d\.\d{6,}', output.get('text', '') + str(output.get('data', {}).get('text/plain', ''))), cell.id
    # 04 says in words what its own training came to, which another processor rounds otherwise.
    assert len(tagged(notebook, 'nbval-ignore-output')) <= (3 if name == '04_training' else 2)
    assert not tagged(notebook, 'nbval-skip') and not tagged(notebook, 'skip-execution') and not tagged(notebook, 'raises-exception')


def test_text_between_any_two_code_cells(notebook):
    kinds = [cell.cell_type for cell in notebook.cells]
    frame = max(i for i, cell in enumerate(notebook.cells) if cell.id == 'machine')
    assert kinds[:2] == ['markdown', 'code']
    for i in range(frame, len(kinds) - 1):
        assert 'markdown' in kinds[i:i + 2], notebook.cells[i + 1].id
    assert all(cell.source.strip() for cell in notebook.cells)


def test_what_each_lesson_ends_with(notebook):
    headings = [line for cell in notebook.cells if cell.cell_type == 'markdown' for line in cell.source.splitlines() if line.startswith('## ')]
    ends = [h[3:] for h in headings if re.match('## (What we checked|Takeaways|Exercises|Where next)', h)]
    assert ends[0] in ('Takeaways', 'What we checked') and ends[1:] == ['Exercises', 'Where next']
    answers = sum(cell.source.count('<details>') for cell in notebook.cells)
    assert 3 <= answers and answers == sum(cell.source.count('</details>') for cell in notebook.cells)


def test_no_answer_lies_in_a_list(notebook, name):
    """Jupyter ends the list, and with it the fold, at the first line of the answer: the rest stands open."""
    for cell in notebook.cells:
        for question in re.findall(r'(?:^|\n\n)((?:[^\n]+\n)+)<details>', cell.source):
            if re.match(r'(\d+\.|[-*]) ', question):
                pytest.fail(f'{cell.id}: {question}')


def test_links_between_notebooks_and_files_lead_somewhere(notebook):
    for cell in notebook.cells:
        if cell.cell_type == 'markdown':
            for target in re.findall(r'\]\((?!https?:|#|attachment:)([^)#\s]+)', cell.source):
                assert (ROOT / 'notebooks' / target).exists(), f'{cell.id}: {target}'


@pytest.mark.parametrize('name, most', [('01_data', 1950), ('04_training', 1700), ('05_evaluation', 2060), ('06_efficiency', 1550)])
def test_a_page_stays_short(name, most):
    prose = ' '.join(cell.source for cell in read(name).cells if cell.cell_type == 'markdown')
    assert len(re.sub(r'```.*?```', '', prose, flags=re.S).split()) <= most


def told(name):
    """({id: cell} of a notebook, what a cell of this id prints)"""
    cells = {cell.id: cell for cell in read(name).cells}
    return cells, lambda of: ''.join(output.get('text', '') for output in cells[of].outputs)


def says(cell, *phrases):
    text = ' '.join(cell.source.split())
    assert all(phrase in text for phrase in phrases), phrases


def test_what_01_says_in_words_is_what_its_cells_print():
    cells, shown = told('01_data')
    checked, more = map(int, re.findall(r': (\d+)', shown('train-unique')))
    assert 0.45 < more / checked < 0.5
    says(cells['takeaways'], 'Nearly half of the training captions')
    assert 'captions that fit exactly one video: 2000' in shown('unique-all')
    times = int(re.search(r'costs (\d+) times', shown('claim'))[1])
    assert 215 <= times <= 225
    says(cells['claim-text'], 'nearly 220 times')
    assert shown('twins-same').count('in the twin, too: True - at the same second: False') == 2
    scene, order = re.findall(r'([\d.]+) tokens on average, (\d+) at most', shown('caption-lengths'))
    assert float(order[0]) > float(scene[0]) and max(int(scene[1]), int(order[1])) < load_config('shapes').max_words
    says(cells['batch-text'], 'captions of two scenes are longer, and none fills all places')
    assert all(piece in shown('tokens') for piece in (' lef ', ' tw ', ' ards· '))
    says(cells['end-token-text'], '*leftwards* is rare and comes in three pieces')


def test_what_01_says_of_the_world_is_so():
    cells, _ = told('01_data')
    assert sum(shapes.SPLITS.values()) == 2700 and len({name.split()[0] for name in HEADS} - {'GLSCL'}) == 12
    says(cells['title'], '2,700 videos', 'its dozen rivals')
    worlds = [shapes.describe('train', 300, 0, difficulty)[0] for difficulty in (0, 1, 2)]
    assert [{len(scenes) for scenes in videos} for videos in worlds] == [{2}, {2, 3}, {3}]
    assert {scene.seconds for scenes in worlds[1] for scene in scenes} == {3, 4, 5}
    says(cells['six-text'], 'two or three **scenes** of three to five seconds')
    half = [[len(scene.things) == 2 for scenes in videos for scene in scenes] for videos in worlds]
    assert not any(half[0]) and all(half[2]) and 0.45 < sum(half[1]) / len(half[1]) < 0.55
    says(cells['difficulty-text'], '0 (two scenes, no distractor', 'two or three scenes, a distractor in about half of them', 'three scenes, a distractor in every one')
    captions = [shapes.describe(split, 20)[1] for split in ('train', 'test')]
    assert [{len(rows) for rows in of_split} for of_split in captions] == [{6}, {4}]
    assert {sum(row['primary'] for row in rows) for rows in captions[1]} == {1}
    says(cells['splits-text'], 'A training video has six captions', 'a video has four')
    assert (2 * 3 * shapes.FPS, 3 * 5 * shapes.FPS, load_config('shapes').max_frames) == (18, 45, 12)
    assert all(step in (1, 2) for n, fps in ((450, 29.97), (45, 3))
               for i in [sample_frame_indices(n, fps, 12)] for step in [round((b - a) / fps) for a, b in zip(i, i[1:])])
    says(cells['reading-text'], 'gaps of one or two seconds', '32 pixels')
    scenes, captions = shapes.describe('test', shapes.SPLITS['test'])
    turned = [any(shapes.fits(row['facts'][::-1], other) for other in scenes[:v] + scenes[v + 1:])
              for v, rows in enumerate(captions) for row in rows if row['kind'] == 'order']
    assert 0 < sum(turned) < 0.05 * len(turned)
    says(cells['parts-text'], 'Few videos hold the same two objects, so that most `order` captions can be answered without a thought')


def test_what_03_says_in_words_is_what_its_cells_print():
    """Most of it is asserted in the cells themselves; here is what they cannot see, and that the page stays short."""
    cells, shown = told('03_losses')
    prose = ' '.join(cell.source for cell in cells.values() if cell.cell_type == 'markdown')
    assert len(re.sub('(?s)```.*?```', '', prose).split()) <= 3400 and not re.search(r'\bfilms?\b', prose)
    prose = ' '.join(prose.split())
    assert 'no form that we tried makes the whole score better' in prose and 'No form makes the whole score better' in prose
    assert re.search("R@1 higher than the global module's, after Holm's correction: none", shown('study-said'))
    assert re.search(r'costs 9\.30,\nand guessing 4\.85', shown('icl-released')) and 'nearly twice' in prose
    assert shown('icl-released').count('True') == shown('icl-released').count('False') == 1  # we notice a wrong pairing, it does not
    assert re.search(r'^intra-diversity +0 +0 +0$', shown('why-gradient'), re.M)
    pulls, = re.findall(r'→ at the decoder .* pulls (\d+) times', shown('strength-picture'))
    assert int(pulls) > 20
    seeds, = re.findall(r'seeds of a form: (\d+)', shown('study-said'))
    assert int(seeds) >= 3


def test_what_04_says_in_words_is_what_its_cells_print():
    cells, shown = told('04_training')
    assert 2.5 < float(re.search(r'finds ([\d.]+) times', shown('starts-say'))[1]) < 3.5
    says(cells['title'], 'about three times as many')
    says(cells['stored-read'], 'about three times as many')
    assert re.search('kind scene gain most .* of kind order least', shown('starts-say'))
    assert all(word in shown('step-equal') for word in ('steps: True', 'bit by bit: True'))
    a, b, c = map(float, re.findall(r'(\d+\.\d)[;.]', shown('gains').splitlines()[0]))
    assert b - a > c - b > 0
    says(cells['gains-read'], 'averaging to weighing is the larger one', 'cannot tell it from nothing')
    gains = {int(k): tuple(map(float, (gain, low))) for gain, k, low in
             re.findall(r'^ {4}([+-][\d.]+) at R@(\d+) \((-?[\d.]+) to', shown('gains'), re.M)}
    assert all(gains[k][0] > 2 * gains[1][0] and gains[k][1] > 0 for k in (5, 10))  # "more below it", "clearly"
    assert 0 < gains[1][0] < 8 and gains[1][1] <= 0
    high, = re.findall(r'mean pooling, trained.* to ([\d.]+)\)', shown('stored'))
    assert float(high) < b
    says(cells['stored-read'], 'stays below the global module with nothing trained')
    assert re.search('GLSCL less global only.*not significant', shown('stored'))
    assert re.search('global only, trained less untrained.* higher', shown('stored'))
    assert len(cells['step'].source.splitlines()) - 1 == 12  # "a dozen lines"
    first, second, *later = map(float, re.findall(r'validation R@1 ([\d.]+)', shown('train')))
    assert second - first > 2 * (max(later) - second) and max(second, *later) > c
    says(cells['curves-notice'], 'rise steeply at first and then level off')
    assert (shapes.SPLITS['val'], shapes.SPLITS['test']) == (200, 500)
    says(cells['train-text'], 'higher than those of the test split, since it has 200 videos to choose from, not 500')
    assert load_config('shapes').warmup == 0.1 and round(Config().lr / Config().clip_lr) == 1000
    says(cells['global-text'], 'over the first tenth of the steps')
    says(cells['paper-notes'], 'a thousandth of the rate')


def test_what_06_says_in_words_is_what_its_cells_print():
    cells, shown = told('06_efficiency')
    published, direct, gram, dearer = map(float, re.findall(r'GLSCL is ([\d.]+) times', shown('ratio')))
    says(cells['title'], f'{dearer:g} times *more*', 'a fourteenth', 'less than a twentieth')
    says(cells['recall-read'], f'{direct:g} times by one rule, {gram:g} with the exact', f'{dearer:g} times dearer')
    assert dearer == 4.4 and direct == 14 and gram > 20 and 215 < published < 225  # as the opening says
    assert "hold the other's value: 0 - overlap: True" in shown('doubt') and 'DiCoSA' in shown('doubt')  # nearly the cheapest
    mine, low, high = map(float, re.search(r'GLSCL: R@1 ([\d.]+)\..*: ([\d.]+) to ([\d.]+)\.', shown('recall-say'), re.S).groups())
    assert 18 < mine - high < mine - low < 26  # "some twenty points"
    others = re.findall(r'^ {4}(.+): ([\d,.]+) times the cost, R@1 ([+-][\d.]+) .*, (not sure|sure)$', shown('recall-say'), re.M)
    dear = [(float(gain), sure) for _, times, gain, sure in others if float(times.replace(',', '')) > 1]
    assert len(dear) >= 5 and not any(gain > 0 and sure == 'sure' for gain, sure in dear)
    assert float(re.search(r'X-CLIP at R@10: .* \(([-\d.]+) to', shown('recall-say'))[1]) > 0
    assert 'False' not in ''.join(shown(cell.id) for cell in cells.values() if cell.cell_type == 'code')


def test_what_06_says_of_costs_is_so():
    cells, shown = told('06_efficiency')
    paper = Config()
    assert paper.decoder_layers == 3 and -(-1000 // 16) == 63
    hidden = {part.linear1.out_features for part in LocalInteraction(512).modules() if hasattr(part, 'linear1')}
    assert hidden == {2048}
    says(cells['concepts-text'], 'a decoder of three layers', 'H = 2048')
    D, L = 768, 50  # ViT-B/32: twelve layers of 49 patches of 32 x 32 and a class token
    assert round((12 * (12 * L * D ** 2 + 2 * L ** 2 * D) + 49 * 3 * 32 ** 2 * D) / 1e9, 1) == 4.4
    says(cells['released-text'], 'takes 4.4 G a frame', r'\lceil 1000/16 \rceil = 63')
    parts = costs.released_cost(1000, 1000)
    assert parts['scores'] < 0.005 * sum(parts.values()) and parts['query decoder'] > 0.5 * sum(parts.values())
    says(cells['four-text'], 'can hardly be seen')
    assert len(HEADS) == 15 and len(HEADS['CLIP4Clip tightTransf'](width=64).blocks) == 4
    says(cells['others-text'], 'The other eleven')
    says(cells['equations'], 'goes through four layers')
    assert 512 + 8 * 64 == 1024 and paper.num_queries == 8  # 1.0 G for a million pairs
    says(cells['ratio-text'], 'eight concepts of width 64')
    theirs, ours = costs.published_cost(), costs.pair_cost
    assert len(costs.published().query("backbone == 'ViT-B/32' and `post-processing`.isna()")) == 9
    says(cells['measured-text'], 'from nine papers')
    moved = {name: ours(name) / 1e3 / theirs[name] for name in ('GLSCL', 'DiCoSA')}
    assert moved['GLSCL'] > 10 and 60 < moved['DiCoSA'] < 100 and ours('Prompt Switch') == min(map(ours, theirs.index))
    assert 0.5 < ours('GLSCL', gram=True) / ours('X-Pool', gram=True) < 2
    says(cells['doubt-read'], 'by more than a decade, DiCoSA by almost two, and Prompt Switch all the way to the left', 'are neighbours')
    F, D, Q, L = 12, 512, 8, 32
    assert HEADS['GLSCL'].cost().video_bytes == 4 * F * D + 4 * Q * D + 4 * F ** 2 + F
    encode = 12 * (12 * L * D ** 2 + 2 * L ** 2 * D)  # CLIP's text tower alone
    assert [name for name, head in HEADS.items() if 1000 * head.cost().gram > encode] == ['CLIP4Clip tightTransf']
    says(cells['clock-text'], 'as with 1000 videos and all heads but the dearest, the head hardly matters')
    low, high = map(float, re.search(r'power of ([\d.]+) to ([\d.]+)\.', shown('clock-say')).groups())
    assert 0.9 < low < high < 1.1 and float(re.search(r'query: ([\d.]+)$', shown('clock-say'))[1]) > 0.9
    says(cells['clock-read'], 'nearly that of the counts', 'in proportion to the gallery, or nearly')
    runs, _ = tables.stored('heads')
    final = [run for run in runs if run['final']]
    assert {run['steps'] for run in runs} == {100} and {run['captions'] for run in runs} == {'all'}
    assert {len({run['seed'] for run in final if run['variant'] == name}) for name in HEADS} == {3}
    assert {len({run['parameters']['lr'] for run in runs if run['variant'] == name}) for name in HEADS} == {4}
    says(cells['measured-text'], 'the same 100 steps', 'three seeds', 'the best of four learning rates', 'four captions of 500')
    says(cells['recall-say-text'], 'for fourteen tests')


def test_what_a_graphics_card_said_says_where_it_comes_from():
    said = json.loads((ROOT / 'data' / 'results' / 'gpu_h200.json').read_text())
    assert all(said[key] for key in ('hardware', 'date', 'commit', 'versions', 'statistic', 'sizes', 'dtype'))
    forms = {key.removesuffix(', top 10') for row in said['scoring_ms'] for key in row} - {'texts', 'videos'}
    assert forms == set(said['forms'])


# ---- the six as one page

@pytest.fixture(scope='module')
def bound(tmp_path_factory):
    """The folder of a run with the stored notebooks in it, bound."""
    folder = tmp_path_factory.mktemp('bound')
    for name in NAMES:
        shutil.copy(ROOT / 'notebooks' / f'{name}.ipynb', folder)
    (folder / 'model').mkdir()
    summary = {'R@1': 36.62, 'R@5': 80, 'R@10': 92.0, 'R@50': 99.8, 'MdR': 2.0, 'MnR': 4.0, 'R@1 interval': [32, 41]}
    result = dict(hardware='a machine', seed=3, metrics=dict(t2v=summary, v2t={**summary, 'R@1': 40.0}))
    (folder / 'model' / 'result.json').write_text(json.dumps(result))
    bind(folder)
    return folder


@pytest.fixture(scope='module')
def page(bound):
    return (bound / 'index.html').read_text(encoding='utf-8')


def test_the_page_needs_no_network_and_no_other_file(page):
    assert not re.search(r'<script|<link|<iframe|@import|url\(', page)
    assert set(re.findall(r'src="([^,]*)', page)) <= {'data:image/png;base64', 'data:image/webp;base64'}
    links, ids = set(re.findall(r'href="([^"]*)"', page)), set(re.findall(r'id="([^"]*)"', page))
    assert {f'#{name}' for name in NAMES} <= links  # the notebooks name each other
    assert all(link[1:] in ids if link[0] == '#' else link.startswith('https://') for link in links)


def test_the_page_fits_narrow_screens_dark_rooms_and_paper(page):
    style = re.search(r'<style>(.*?)</style>', page, re.S)[1]
    assert 'name="viewport" content="width=device-width' in page
    assert 'white-space: pre-wrap' in style and re.search(r'table {[^}]*overflow-x: auto', style)
    assert '@media screen and (prefers-color-scheme: dark)' in style and '@media print' in style
    wide = page.count('<math display="block"')  # scrolls in a box of its own, not the page with it
    assert wide > 20 and page.count('<span class="formula"><math display="block"') == wide


def test_no_formula_is_left_as_it_was_written(page):
    prose = re.sub(r'<(pre|code|style)\b.*?</\1>', '', page, flags=re.S)
    assert '$' not in prose and not re.search(r'\\[a-zA-Z]', prose)
    assert prose.count('<math') > 100 and 'ns0:math' not in prose


def test_each_picture_is_told_in_words(page):
    pictures = re.findall(r'<img\b[^>]*>', page)
    told = [re.search(r'alt="([^"]*)"', picture) for picture in pictures]
    assert len(pictures) > 40 and all(told)
    told = [words[1] for words in told]
    assert all(re.match(r'Figure( \d of \d)? under “.+?”\. \S.{20,}|moving picture: \S', words) for words in told)
    assert not any(re.search(r'[$\\]|description', words) for words in told) and max(map(len, told)) < 500


def test_the_words_for_a_picture_are_the_last_before_it(tmp_path):
    notebook = nbformat.v4.new_notebook()
    picture = nbformat.v4.new_output('display_data', {'image/png': 'AAAA', 'text/plain': 'a figure'})
    text = '## Weights of $F$ *frames*\n\nNot this.\n\nNor this one here. Each bar is $a_f$, the weight of one of all the frames:'
    notebook.cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell('draw()', outputs=[picture, picture])]
    nbformat.write(notebook, tmp_path / '01_data.ipynb')
    alts = re.findall(r'alt="([^"]*)"', bind(tmp_path).read_text(encoding='utf-8'))
    assert alts == [f'Figure {n} of 2 under “Weights of F frames”. Each bar is af, the weight of one of all the frames' for n in (1, 2)]


def test_answers_stay_folded(page):
    stored = sum(cell.source.count('<details>') for name in NAMES for cell in read(name).cells)
    answers = re.findall(r'<details>(.*?)</details>', page, flags=re.S)
    assert len(answers) == stored and '<details open' not in page
    assert all(re.search(r'</summary>\s*<\w', answer) for answer in answers)  # and the answer lies inside
    assert not re.search(r'<li>(?:(?!</li>).)*<details>', page, flags=re.S)  # which it does not in a list


def test_the_results_lead_the_page(bound, page):
    assert (bound / 'results.csv').read_text() == (
        'direction,R@1,R@5,R@10,R@50,MdR,MnR\nt2v,36.6,80.0,92.0,99.8,2.0,4.0\nv2t,40.0,80.0,92.0,99.8,2.0,4.0\n')
    head = page[:page.index('<section')]
    assert '<td>36.6</td>' in head and 'a machine, seed 3' in head and 'R@1 interval' not in head


def test_a_walkthrough_refuses_what_it_cannot_run(tmp_path):
    with pytest.raises(SystemExit, match='no notebooks in .*name their folder with --notebooks'):
        walkthrough('mine', notebooks=tmp_path, out=tmp_path)
    with pytest.raises(SystemExit, match='01_data.ipynb has no parameter sed; it has profile, seed'):
        walkthrough('mine', out=tmp_path, parameters=dict(sed=1))
    for said, wrong in {"unknown profile 'foo'": dict(profile='foo'), 'temperature must be a number': dict(parameters=dict(temperature='hot')),
                        'seed must be a whole number': dict(parameters=dict(seed='x')), "device 'nix'": dict(parameters=dict(device='nix')),
                        "unknown profile 'bar'": dict(parameters=dict(profile='bar')), 'the name of a folder': dict(name='a/b'), "not '..'": dict(name='..')}.items():
        with pytest.raises(ValueError, match=said):
            walkthrough(**{'name': 'mine', 'out': tmp_path, **wrong})
    assert list(tmp_path.iterdir()) == []  # all of it before anything is begun


# ---- nbval notices

def nbval(path):
    """The verdict of nbval, as `make test` runs it."""
    return subprocess.run([sys.executable, '-m', 'pytest', '-p', 'no:cacheprovider', '--color=no', '--nbval', '--nbval-current-env',
                           '--nbval-sanitize-with', str(ROOT / 'tests' / 'notebooks' / 'sanitize.cfg'), str(path)],
                          capture_output=True, text=True, cwd=path.parent, env=ENVIRONMENT)


def small_notebook(path, printed):
    nb = nbformat.v4.new_notebook(metadata=dict(kernelspec=dict(name='python3', display_name='Python 3', language='python')))
    for n, (source, text) in enumerate((('x = 6', ''), ('print("rank", x * 7)', printed)), 1):
        cell = nbformat.v4.new_code_cell(source, execution_count=n)
        cell.outputs = [nbformat.v4.new_output('stream', name='stdout', text=text)] if text else []
        nb.cells.append(cell)
    nbformat.write(nb, path)
    return path


@pytest.mark.slow
def test_one_changed_digit_turns_nbval_red(tmp_path):
    good, bad = nbval(small_notebook(tmp_path / 'good.ipynb', 'rank 42\n')), nbval(small_notebook(tmp_path / 'bad.ipynb', 'rank 43\n'))
    assert good.returncode == 0, good.stdout
    assert bad.returncode == 1 and bad.stdout.count('FAILED ') == 1 and 'rank 43' in bad.stdout


@pytest.mark.slow
def test_one_changed_digit_of_a_lesson_turns_nbval_red(tmp_path):
    """03_losses up to the first digit that it prints for comparison: the notebook's own cells, before any data is needed."""
    notebook, path = read('03_losses'), tmp_path / '03_losses.ipynb'
    for i, cell in enumerate(notebook.cells):
        for output in cell.get('outputs', []):
            if output.get('name') == 'stdout' and (digit := re.search(r'\d', output.text)) and (
                    'nbval-ignore-output' not in cell.metadata.get('tags', [])):
                notebook.cells = notebook.cells[:i + 1]
                nbformat.write(notebook, path)
                assert (verdict := nbval(path)).returncode == 0, verdict.stdout
                output.text = output.text[:digit.start()] + str((int(digit[0]) + 1) % 10) + output.text[digit.end():]
                nbformat.write(notebook, path)
                assert (verdict := nbval(path)).returncode == 1 and '1 failed' in verdict.stdout, verdict.stdout
                return
    pytest.fail('03_losses prints no digit that nbval would compare')
