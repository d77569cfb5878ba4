"""What one sees of the results."""
import html
import io
import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from data.films import encode, numbered
from search.galleries import TEXTS, everything, index, open_gallery

from glscl.__main__ import main
from glscl.interaction import local_similarity
from glscl.runtime import terminal
from glscl.search import page
from glscl.search.gallery import search_command
from glscl.search.index import index_command


def test_page_shows_the_frames_that_weigh_most(gallery):
    found = open_gallery(gallery)
    results = found.search(TEXTS[:1], 12)
    changed, missing = results[0][0].path, results[0][1].path
    os.utime(changed, (0, 0))
    os.unlink(missing)
    results = found.search(TEXTS[:1], 12)
    assert [r.state for r in results[0][:3]] == ['changed', 'missing', 'ok']
    text = page.html_page(['<b>'], results, found.model.config)
    assert text.count('data:image/jpeg;base64,') == 3 * 10
    assert '&lt;b&gt;' in text and '<b>' not in text and '&amp; &lt;tags&gt;.mp4' in text
    assert 'the video is no longer there' in text and 'the video has changed since' in text
    uri, frame = page.thumbnails(results[0][2], found.model.config)[0]
    assert frame == results[0][2].frames[0] and len(uri) > 500
    lines = page.results_table(['<b>'], results).split('\n')
    assert lines[0] == '<b>' and len(lines) == 13
    assert 'has changed' in lines[1] and 'no longer there' in lines[2] and '(' not in lines[3]


def test_a_page_says_what_a_browser_does_not_play(tmp_path, checkpoint):
    encode(tmp_path / 'old.avi', numbered(60), codec='mpeg4')
    encode(tmp_path / 'new.webm', numbered(60), codec='libvpx')
    shutil.copy(tmp_path / 'new.webm', tmp_path / 'such <i>')
    (tmp_path / 'table.csv').write_text('path\nold.avi\nnew.webm\nsuch <i>\n')
    index(tmp_path / 'table.csv', tmp_path / 'g', checkpoint)
    found = open_gallery(tmp_path / 'g', log=lambda line: None)
    text = page.html_page(TEXTS[:1], [found.search(TEXTS[0])], found.model.config)
    assert text.count('<video ') == 1 and 'new.webm#t=' in text and text.count('data:image/jpeg') == 3 * 3
    assert text.count('a browser does not play .avi: <a href="file://') == 1
    assert text.count('a browser does not play such files: <a href="file://') == 1


def test_the_weights_and_the_parts_of_the_score_stand_on_the_page(shared_gallery):
    found = open_gallery(shared_gallery)
    (result, *_), config = found.search(TEXTS[0]), found.model.config
    texts, (paths, videos) = found.encode_texts(TEXTS[:1]), everything(shared_gallery)
    v = paths.index(result.path)
    S_l = local_similarity(texts.concepts, videos[v:v + 1].concepts).item()
    text = page.cards([result], config)
    said = f'score {result.score:.3f} <span class="soft">= global {result.score - 0.5 * S_l:.3f} + local {0.5 * S_l:.3f}<'
    assert said in text and config.local_weight == 0.5
    bars = [float(height) for height in re.findall(r'<i style="height:(\d+)%">', text)]
    in_time = sorted(result.frames, key=lambda frame: frame['index'])
    assert bars == pytest.approx([100 * frame['weight'] / result.frames[0]['weight'] for frame in in_time], abs=0.5)


def test_search_command(shared_gallery, tmp_path, capsys):
    search_command(shared_gallery, TEXTS, k=2, html=tmp_path / 'page.html', device='cpu')
    printed = capsys.readouterr().out
    assert all(text in printed for text in TEXTS)
    assert printed.lower().count('.mp4') == 6
    assert (tmp_path / 'page.html').read_text('utf-8').count('<li>') == 6


def test_results_play_from_the_moment_found_with_the_tables_caption(films, checkpoint, tmp_path, capsys):
    said = 'a <b>red</b> ring & "more"'
    rows = [f'test000{n}.mp4,{caption}' for n, caption in ((3, '"a <b>red</b> ring & ""more"""'), (4, 'its second'), (3, 'another'))]
    (films / 'table.csv').write_text('\n'.join(['path,caption', *rows, 'test0005.mp4,']) + '\n')
    where = ['--device', 'cpu']
    assert main(['index', str(films / 'table.csv'), '--out', str(tmp_path / 'g'), '--model', str(checkpoint), '--workers', '1', *where]) == 0
    capsys.readouterr()
    assert main(['search', str(tmp_path / 'g'), 'a red ring', '--json', '--html', str(tmp_path / 'p.html'), *where]) == 0
    found = json.loads(capsys.readouterr().out)[0]['results']
    captions = {Path(row['path']).name: row['caption'] for row in found}
    assert captions == {'test0003.mp4': said, 'test0004.mp4': 'its second', 'test0005.mp4': ''}
    text = (tmp_path / 'p.html').read_text('utf-8')
    assert html.escape(said) in text and said not in text and text.count('<q>') == 2
    assert text.count('<video controls preload="metadata" ') == 3
    for row in found:
        address = Path(row['path']).as_uri()
        assert f'<video controls preload="metadata" src="{address}#t={row["frames"][0]["seconds"]}" ' in text
        for frame in row['frames']:  # a bar each, and a picture of the first three
            pictures = text.count(f'<a href="{address}#t={frame["seconds"]}" target="_blank" ')
            assert pictures == 1 + (frame in row['frames'][:3])
    assert main(['search', str(tmp_path / 'g'), 'a red ring', *where]) == 0
    assert f'\n{"":14}{said}\n' in capsys.readouterr().out
    os.unlink(found[0]['path'])
    assert main(['search', str(tmp_path / 'g'), 'a red ring', '--html', str(tmp_path / 'p.html'), *where]) == 0
    assert (tmp_path / 'p.html').read_text('utf-8').count('<video ') == 2


@pytest.mark.skipif(sys.platform != 'linux', reason='other systems have no such names')
def test_names_that_are_not_text(films, checkpoint, tmp_path, capsys):
    shutil.copy(films / 'test0003.mp4', films / os.fsdecode(b'caf\xe9.mp4'))
    assert index(films, tmp_path / 'g', checkpoint)['videos'] == 13
    search_command(tmp_path / 'g', TEXTS[:1], k=13, html=tmp_path / 'page.html', device='cpu')
    assert 'caf\\udce9.mp4' in capsys.readouterr().out
    text = (tmp_path / 'page.html').read_text('utf-8')
    assert 'caf\\udce9.mp4' in text and 'caf%E9.mp4' in text


@pytest.mark.parametrize('encoding, expected', [
    ('ascii', b'\\u041a\\udce9\n'), ('utf-8', 'К\\udce9\n'.encode()), ('koi8-r', b'\xeb\\udce9\n')])
def test_a_terminal_of_any_encoding(encoding, expected):
    stream = io.TextIOWrapper(io.BytesIO(), encoding, newline='\n')
    terminal.show('К\udce9', stream)
    assert stream.buffer.getvalue() == expected


def test_names_and_queries_steer_no_terminal(films, checkpoint, tmp_path, capsys):
    if sys.platform == 'win32':
        pytest.skip('there are no such names')
    name = 'a\x1b[31m\u202egpj\nb.mp4'
    shutil.copy(films / 'test0003.mp4', films / name)
    (films / ('bad' + name)).write_bytes(b'no video')
    assert index_command([films], tmp_path / 'g', checkpoint, 'cpu', workers=1) == 0
    search_command(tmp_path / 'g', ['a red ring\x1b[0m'], k=13, device='cpu', html=tmp_path / 'page.html')
    printed = capsys.readouterr()
    assert not set('\x1b\u202e') & set(printed.out + printed.err)
    assert printed.out.count('a\\x1b[31m\\u202egpj\\nb.mp4') == 2 and 'a red ring\\x1b[0m' in printed.out
    assert main(['search', str(tmp_path / '\x1b[31m'), 'x']) == 1
    assert '\x1b' not in capsys.readouterr().err


def test_a_page_appears_whole_or_not_at_all(shared_gallery, tmp_path, monkeypatch):
    (tmp_path / 'page.html').write_text('old')
    monkeypatch.setattr(os, 'replace', lambda *names: (_ for _ in ()).throw(OSError(28, 'No space left')))
    with pytest.raises(OSError, match='No space'):
        search_command(shared_gallery, TEXTS, html=tmp_path / 'page.html', device='cpu')
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [('page.html', 'old')]
