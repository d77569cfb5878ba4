"""What README and data/README print of one's own videos is typed here, on tiny rendered ones.

Only CLIP differs: OpenAI's weights are not here, so the small one takes their place."""
import csv
import inspect
import io
import json
import re
import shlex
import shutil
import typing
from pathlib import Path

import pytest
import torch

from glscl import Gallery, ZeroShot, score
from glscl.__main__ import main
from glscl.data.video import read_frames
from glscl.datasets.readers.own import own
from glscl.datasets.splits import shapes_table
from glscl.search import shards
from glscl.search.clips import find_clips
from glscl.search.gallery import search_command
from glscl.search.index import index_command, index_videos

ROOT = Path(__file__).parents[2]
SHORT = {'--clip ViT-B-32 --pretrained openai': '--clip small'}  # what is not here
TRAINED = '--set clip=small clip_pretrained=null'  # as data/README says of trying a table
QUICK = 'temporal_layers=1 decoder_layers=1 max_frames=4 batch_size=8 epochs=1'


def blocks(name, heading, kind=''):
    """The code blocks of a section of a README."""
    text = (ROOT / name).read_text(encoding='utf-8').split(f'\n## {heading}')[1].split('\n## ')[0]
    return [code for of, code in re.findall(r'^```(\w*)\n(.*?)^```$', text, re.M | re.S) if of == kind]


def commands(block):
    return [re.sub(r'\s+#.*', '', line) for line in block.splitlines()]


def typed(line):
    assert line.startswith('glscl ')
    return main([*shlex.split(line)[1:], *(['--device', 'cpu'] if ' check ' not in line else [])])


unknown_words = pytest.mark.filterwarnings("ignore:.*not in the small CLIP's vocabulary")  # such as dog


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_data_readmes_table_is_one(here):
    """The table that data/README prints, read as it stands."""
    (table,) = blocks('data/README.md', 'Your own videos', 'csv')
    (here / 'films/street').mkdir(parents=True)
    (here / 'films/captions.csv').write_text(table)
    for row in csv.DictReader(io.StringIO(table)):
        (here / 'films' / row['path']).touch()
    rows = {split: own('films/captions.csv', split, 'test') for split in ('train', 'test')}
    assert [row['caption'] for row in rows['test']] == ['a dog digs a hole']
    assert [row['caption'] for row in rows['train']] == ['a man cuts an onion', 'someone cooks, humming', 'a tram passes']


@unknown_words
def test_data_readmes_commands_run_from_a_table_to_a_page(world_folder, here, capsys):
    (here / 'films').mkdir()
    with open('films/captions.csv', 'w', newline='') as file:
        out = csv.writer(file)
        out.writerow(['path', 'caption', 'split'])
        for split in ('train', 'test'):
            for row in shapes_table(world_folder, split).to_dict('records'):
                shutil.copy(row['path'], 'films')
                out.writerow([Path(row['path']).name, row['caption'], split])
    (block,) = (block for block in blocks('data/README.md', 'Your own videos') if block.startswith('glscl '))
    lines = commands(block)
    assert [line.split()[1] for line in lines] == ['check', 'train', 'evaluate', 'index', 'search']
    assert TRAINED in (ROOT / 'data/README.md').read_text(encoding='utf-8')
    for line in lines:
        if '--recipe own' in line:
            line += f' {TRAINED} {QUICK}'
        if ' index ' in line:
            line += ' --workers 1'
        assert typed(line) == 0, line
        printed = capsys.readouterr().out
        if ' check ' in line:
            assert 'Nothing is missing.' in printed
    result = json.loads(Path('runs/own/result.json').read_text())
    assert result['data'] == 'own' and result['recipe'] == 'own' and result['metrics']['t2v']['queries'] == 12
    page = Path('page.html').read_text('utf-8')
    assert page.count('<video ') == 5 and page.count('<q>') == 5
    assert len(json.loads(Path('gallery/gallery.json').read_text())['shards']) == 1


@unknown_words
def test_readmes_search_commands_run(films, here, capsys):
    films.rename('VIDEOS')
    Path('MORE').mkdir()
    for n, place in enumerate(('MORE/a.mp4', 'film.mp4', 'listed.mp4'), 3):
        shutil.move(f'VIDEOS/test000{n}.mp4', place)
    Path('list.csv').write_text('path\nlisted.mp4\n')
    (block,) = (block for block in blocks('README.md', 'On the real data sets') if 'glscl index' in block)
    for line in commands(block):
        for long, short in SHORT.items():
            line = line.replace(long, short)
        line += ' --workers 1' if ' index ' in line else ''
        assert typed(line) == 0, line
    printed = capsys.readouterr().out
    assert 'gallery/ holds 9 videos: 9 added' in printed and 'gallery/ holds 12 videos: 3 added' in printed
    assert len(json.loads(Path('gallery/gallery.json').read_text())['shards']) >= 1
    assert Path('page.html').read_text('utf-8').count('<video ') == 5


def test_readmes_python_runs_as_printed(films, here, capsys):
    shutil.copy(films / 'test0003.mp4', 'film.mp4')
    (block,) = blocks('README.md', 'The code', 'python')
    assert block.splitlines()[:2] == ['import glscl', block.splitlines()[1]] and 'model.score("' in block.splitlines()[2]
    names = {}
    exec(block, names)
    model, S = names['model'], names['S']
    assert S.shape == (1, 1)
    torch.testing.assert_close(S.item(), model.score('a red ring shrinks', 'film.mp4'), atol=1e-4, rtol=1e-4)
    assert len(names['indices']) == len(read_frames('film.mp4')[1])
    assert str(round(S.item(), 3)) in capsys.readouterr().out


@pytest.mark.parametrize('word', ['null', 'None', 'none', ''])
def test_no_weights_may_be_named_in_every_way(word, monkeypatch):
    """`-p clip_pretrained null` and `None` alike, and the same of --set."""
    given = {}
    monkeypatch.setattr('glscl.notebook.walkthrough', lambda *a, **options: given.update(options['parameters']))
    monkeypatch.setattr('glscl.experiments.doctor.check', lambda config, *a, **k: given.update(checked=config.clip_pretrained))
    assert main(['walkthrough', '-p', 'clip_pretrained', word]) == 0
    assert main(['check', '--set', f'clip_pretrained={word}', 'clip=small']) == 0
    from glscl.config import load_config
    assert load_config('msrvtt', clip='small', **{'clip_pretrained': given['clip_pretrained']}).clip_pretrained is None
    assert given['checked'] is None


@pytest.mark.parametrize('function', [score.score, score.encode_captions, score.encode_files, Gallery.__init__, Gallery.search,
                                      Gallery.encode_texts, Gallery.read, index_videos, find_clips, index_command, search_command,
                                      shards.fingerprint, shards.pick_model, shards.read_manifest, shards.read_shard, ZeroShot.__init__])
def test_what_a_user_calls_has_type_hints(function):
    told = typing.get_type_hints(function)  # each name in them is there
    names = [name for name in inspect.signature(function).parameters if name != 'self']
    assert set(told) >= {*names, *([] if function.__name__ == '__init__' else ['return'])}
