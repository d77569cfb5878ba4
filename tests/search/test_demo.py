"""The page of `glscl demo`: what it answers and gives out, without Gradio; then served; then in a browser."""
import csv
import json
import os
import shutil
import socket
import sys
import urllib.error
import urllib.parse
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest
from data.films import encode, numbered
from search.galleries import TEXTS, index, shard_files

import glscl
from glscl.__main__ import main
from glscl.datasets import shapes
from glscl.runtime.terminal import shown
from glscl.search.demo import EMPTY, MOST, Answers, demo, remarks, shapes_gallery

NAMES = ['"q" \'s\' <script>window.hacked=1;<b>.mp4', 'new\nline.mp4', 'Кіно 映画 ü.mp4', 'a#b?c%41&d;e.mp4',
         '${window.hacked=1} {{#each x}} @children `.mp4', '\u202egpj.mp4', os.fsdecode(b'caf\xe9.mp4'), '<img src=x onerror=window.hacked=1>.mp4']
SHOWN = [shown(name) for name in NAMES]
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)


@pytest.fixture(scope='session')
def hostile_gallery(world_folder, checkpoint, tmp_path_factory):
    """A gallery of videos under hostile names and with such captions, of those that no browser plays, of one that has gone."""
    if sys.platform != 'linux':
        pytest.skip('other systems have no such names')
    films = tmp_path_factory.mktemp('hostile') / 'films'
    films.mkdir()
    for n, name in enumerate([*NAMES, 'gone.mp4']):
        shutil.copy(world_folder / f'test/test{n:04d}.mp4', films / name)
    encode(films / 'old.avi', numbered(60), codec='mpeg4')
    encode(films / 'no codec of browsers.mp4', numbered(60), codec='mpeg4')
    encode(films / 'new.webm', numbered(60), codec='libvpx')
    encode(films / 'quick.mov', numbered(60))
    with open(films.parent / 'said.csv', 'w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([['path', 'caption'], *([films / name, f'said {name}'] for name in NAMES[:5])])
    index([films.parent / 'said.csv', films], films.parent / 'gallery', checkpoint)
    (films / 'gone.mp4').unlink()
    return films.parent / 'gallery'


@pytest.fixture
def answers(shared_gallery):
    return Answers(shared_gallery, device='cpu')


# ---- what it answers

def test_an_answer_has_the_k_best_at_their_moments(answers):
    text = answers('a red ring', 3)
    found = answers.gallery.search('a red ring', 3)
    assert text.count('<li>') == text.count('<video ') == 3 == len(answers.files)
    for result, (key, path) in zip(found, answers.files.items()):
        assert path == result.path and f'src="video/{key}#t={result.frames[0]["seconds"]}"' in text
        assert text.count(f'href="video/{key}#t=') == len(result.frames) + 3
    assert 'file:' not in text


def test_a_clip_without_training_answers_too(films, tmp_path):
    index(films, tmp_path / 'g', glscl.ZeroShot('small'))
    text = Answers(tmp_path / 'g', device='cpu')('a red ring', 2)
    assert text.count('<video ') == 2 and text.count('= global ') == 2 and 'local' not in text


@pytest.mark.parametrize('k, shown', [(1, 1), (0, 1), (-5, 1), (None, 1), (2.0, 2), (10 ** 9, 12)])
def test_any_number_is_answered(answers, k, shown):
    assert answers('a red ring', k).count('<li>') == shown <= MOST


@pytest.mark.parametrize('text', ['', '  ', '\n\t', None])
def test_without_a_text_it_says_what_to_type(answers, text):
    assert EMPTY in answers(text, 5) and '<li>' not in answers(text, 5)


@pytest.mark.parametrize('text, said', [
    ('a red ring shrinks', None),
    ('a cat, a ring, a piano', 'does not know: cat, piano. To it'),
    (' '.join(['ring'] * 50), 'the first 30 of its 50 tokens count'),
    ('x' * 10 ** 6, 'tokens count'), ('<b>cat</b>', 'does not know: &lt;, b, &gt;'), ('{{cat}}', '&#123;&#123;, cat'),
    ('\ud800 ring', 'does not know: ?'), ('\0\x1b[31m', 'does not know: '), ('映画 🎬', '映画')])
def test_what_the_model_does_not_read_is_said(answers, text, said):
    shown = answers(text, 2)
    assert shown.count('<li>') == 2
    if said:
        assert said in shown
    else:
        assert '<p' not in shown


def test_a_clip_with_a_row_for_every_token_knows_every_word(model):
    assert remarks(model, 'a cat')
    model.clip.rows = None
    assert remarks(model, 'a cat') == []


def test_what_the_gallery_has_to_say_is_said_with_each_answer(gallery, capsys):
    files = shard_files(gallery)
    files[0].unlink()
    answers = Answers(gallery, device='cpu')
    assert all(f'{files[0].name}: is missing' in answers(text, 2) for text in TEXTS)
    assert capsys.readouterr().err.count('warning: ') == 1
    for file in files[1:]:
        file.unlink()
    assert 'none of the 3 shards can be read' in answers('a red ring', 2)


def test_hostile_names_and_captions_are_text(hostile_gallery):
    text = Answers(hostile_gallery, device='cpu')('a red ring', MOST)
    assert text.count('<li>') == 13 and text.count('<q>') == 5 and text.encode()
    for harm in ('<script', '<img src=x', '{{', '${', '@children', '\u202e', '<b>'):
        assert harm not in text
    assert 'new\\nline.mp4' in text and 'caf\\udce9.mp4' in text and 'Кіно 映画 ü.mp4' in text


def test_what_cannot_play_is_said(hostile_gallery):
    text = Answers(hostile_gallery, device='cpu')('a red ring', MOST)
    assert text.count('<video ') == 11
    assert text.count('a browser does not play .avi: <a href="video/') == 1
    assert text.count('the video is no longer there') == 1


# ---- what it gives out

def test_only_what_was_shown_is_given_out(answers):
    answers('a red ring', 2)
    given = {key: answers.file(key) for key in answers.files}
    assert len(given) == 2 and all(map(os.path.isfile, given.values()))
    path = next(iter(given.values()))
    for key in ('', '0', path, Path(path).name, '../../etc/passwd', '/etc/passwd', 'gallery.json'):
        assert answers.file(key) is None


def test_a_gallery_of_others_gives_out_videos_alone(answers, tmp_path):
    """Its clips may name any file of this machine."""
    (tmp_path / 'secret.txt').write_text('secret')
    (tmp_path / 'folder.mp4').mkdir()
    shutil.copy(tmp_path / 'secret.txt', tmp_path / 'film.MP4')
    served = [answers.file(answers.address(str(tmp_path / name)).removeprefix('video/'))
              for name in ('secret.txt', 'folder.mp4', 'gone.mp4', 'film.MP4')]
    assert served == [None, None, None, str(tmp_path / 'film.MP4')]


def test_an_address_is_the_files_own(answers, hostile_gallery):
    """Else a browser would show what it keeps of another gallery."""
    addresses = [answers.address(path) for path in ('/a.mp4', '/b.mp4', '/a.mp4', '/' + NAMES[6])]
    assert addresses[0] == addresses[2] and len(set(addresses)) == 3
    assert Answers(hostile_gallery, device='cpu').address('/a.mp4') == addresses[0]


# ---- galleries of `shapes`

def test_shapes_is_made_into_a_gallery_once(world_folder, checkpoint, monkeypatch):
    monkeypatch.setattr(shapes, 'build', lambda root: world_folder)
    lines = []
    folder = shapes_gallery(checkpoint, 'cpu', lines.append)
    assert '12 are to be encoded' in lines[0] and folder.is_relative_to(glscl.config.cache_dir())
    assert shapes_gallery(checkpoint, 'cpu', lines.append) == folder
    assert '0 are to be encoded' in lines[-1]
    found = glscl.Gallery(folder, checkpoint, 'cpu').search('a red ring', 12)
    table = glscl.datasets.splits.shapes_table(world_folder).set_index('video_id')
    assert {result.id: result.caption for result in found} == table['caption'].to_dict()


# ---- without Gradio

def test_without_gradio_one_line_says_what_to_install(shared_gallery, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    assert main(['demo', str(shared_gallery)]) == 1
    said = capsys.readouterr().err
    assert said.startswith('glscl demo: the page needs Gradio: pip install "glscl[demo]"') and said.count('\n') == 1


# ---- served

needs_gradio = pytest.mark.skipif(not find_spec('gradio'), reason='needs the extra demo')


@pytest.fixture(scope='module')
def served(hostile_gallery, tmp_path_factory):
    """A running page, and all hosts that were looked up meanwhile."""
    pytest.importorskip('gradio', '6.18')
    asked, look_up = set(), socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, 'getaddrinfo', lambda host, *rest, **more: asked.add(host) or look_up(host, *rest, **more))
        patch.setenv('GRADIO_TEMP_DIR', str(tmp_path_factory.mktemp('gradio')))
        page = demo(hostile_gallery, device='cpu', inline=False)
        yield page, asked
        page.close(verbose=False)


def get(page, path, data=None, **headers):
    """(status, bytes, headers)"""
    request = urllib.request.Request(page.local_url + path, data, headers)
    try:
        with urllib.request.urlopen(request) as reply:
            return reply.status, reply.read(), reply.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


def ask(page, text='a red ring', k=MOST):
    """What the page answers. Not by Gradio's own client, which asks the network."""
    way = f'gradio_api/call/{page.config["dependencies"][0]["api_name"]}'
    event = json.loads(get(page, way, json.dumps({'data': [text, k]}).encode(), **{'Content-Type': 'application/json'})[1])['event_id']
    return json.loads(get(page, f'{way}/{event}')[1].decode().split('event: complete\ndata: ')[1])[0]


def test_served_to_this_machine_alone_and_no_other_is_asked(served, capsys):
    page, asked = served
    status, text, _ = get(page, '')
    assert status == 200 and b'glscl demo' in text
    assert page.local_url.startswith('http://127.0.0.1:') and page.share_url is None and not page.analytics_enabled
    assert asked <= {'127.0.0.1', 'localhost'}


def test_nobody_leaves_a_file_behind(served):
    page, _ = served
    body = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\n\r\nhello\r\n--x--\r\n'
    status, *_ = get(page, 'gradio_api/upload', body, **{'Content-Type': 'multipart/form-data; boundary=x'})
    assert status == 413


def test_the_videos_shown_are_served_in_parts_and_nothing_else_is(served, hostile_gallery):
    page, _ = served
    text = ask(page)
    films = hostile_gallery.parent / 'films'
    keys = {part.partition('"')[0].partition('#')[0] for part in text.split('href="video/')[1:]}
    assert len(keys) == 13
    sent = {}
    for key in keys:
        status, body, headers = get(page, f'video/{key}')
        sent[key] = status, headers['Content-Type'], body
    assert sorted(status for status, *_ in sent.values()) == [200] * 12 + [404]
    assert {kind for status, kind, _ in sent.values() if status == 200} == {'video/mp4', 'video/webm', 'application/octet-stream'}
    bodies = {body for status, _, body in sent.values() if status == 200}
    assert bodies == {path.read_bytes() for path in films.iterdir()}
    key = next(key for key in keys if sent[key][1] == 'video/mp4')
    assert get(page, f'video/{key}', Range='bytes=5-9')[:2] == (206, sent[key][2][5:10])
    (film,) = films.glob('quick.mov')
    (films.parent / 'secret.mp4').write_bytes(b'secret')
    try:
        for path in (film, films.parent / 'secret.mp4', '/etc/passwd', hostile_gallery / 'gallery.json'):
            quoted = urllib.parse.quote(str(path))
            for way in (f'video/{quoted}', f'video/{urllib.parse.quote(str(path), safe="")}', f'video/..%2f..{quoted}', f'video/../../..{quoted}',
                        f'gradio_api/file={quoted}', f'file={quoted}', f'gradio_api/file=../../../../../..{quoted}', quoted[1:]):
                status, body, _ = get(page, way)
                assert status in (307, 400, 403, 404) or b'<!doctype html>' in body[:20], way
    finally:
        (films.parent / 'secret.mp4').unlink()


@needs_gradio
def test_a_port_that_is_taken_or_none_is_told(shared_gallery, capsys):
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(['demo', str(shared_gallery), '--port', str(port), '--device', 'cpu']) == 1
    said = capsys.readouterr().err
    assert said.startswith(f'glscl demo: 127.0.0.1, port {port} cannot be had: taken by another program') and said.count('\n') == 1
    assert main(['demo', str(shared_gallery), '--port', '70000']) == 1
    assert 'a port is a number from 1 to 65535, not 70000' in capsys.readouterr().err
    assert main(['demo', 'nowhere', '--device', 'cpu']) == 1
    assert 'nowhere is not a gallery' in capsys.readouterr().err


@needs_gradio
def test_in_a_notebook_it_stands_below_the_cell(shared_gallery, monkeypatch):
    display = pytest.importorskip('IPython.display')
    shown = []
    monkeypatch.setattr(display, 'display', shown.append)
    page = demo(shared_gallery, device='cpu', inline=True)
    try:
        assert f'<iframe src="{page.local_url}"' in shown[0].data
    finally:
        page.close(verbose=False)


# ---- in a browser

@pytest.fixture(scope='module')
def browser():
    api = pytest.importorskip('playwright.sync_api')
    if not CHROMIUM:
        pytest.skip('needs Chromium')
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


VIDEOS = """() => [...document.querySelectorAll('.glscl video')].map(video => ({
    key: video.getAttribute('src').split('#')[0], moment: +video.getAttribute('src').split('#t=')[1],
    loaded: video.readyState > 0 && video.videoWidth > 0, time: video.currentTime,
    began: video.played.length ? video.played.start(0) : null}))"""


@pytest.mark.parametrize('width, scheme', [(1280, 'light'), (390, 'dark')])
def test_typed_in_a_browser_the_videos_play_from_the_moment_found(served, browser, width, scheme):
    page, asked = served
    tab = browser.new_context(viewport=dict(width=width, height=900), color_scheme=scheme).new_page()
    tab.set_default_timeout(100_000)
    requests, errors = [], []
    tab.on('request', lambda request: requests.append(request.url))
    tab.on('pageerror', lambda error: errors.append(error))
    tab.goto(page.local_url)
    tab.locator('input[type=number]').fill(str(MOST))
    tab.locator('textarea, input[type=text]').first.fill('a cat, a red ring')
    tab.get_by_role('button', name='Search').click()
    tab.wait_for_selector('.glscl li')
    # all but old.avi and gone.mp4 have a player, of which one finds that it cannot
    tab.wait_for_function("document.querySelectorAll('.glscl video').length == 10")
    tab.wait_for_function("[...document.querySelectorAll('.glscl video')].every(video => video.readyState > 1 && !video.seeking)")
    videos = tab.evaluate(VIDEOS)
    for video in videos:
        assert video['loaded'] and video['time'] >= video['moment'] - 0.05
        if video['began'] is None:  # below what is seen: it waits there
            assert video['time'] == pytest.approx(video['moment'], abs=0.05)
        else:
            assert video['began'] == pytest.approx(video['moment'], abs=0.05)
    assert tab.wait_for_function("document.querySelector('.glscl video').played.length")
    told = tab.locator('.glscl').all_inner_texts()
    text = '\n'.join(told)
    assert 'does not know: cat' in text and 'this browser cannot play it: open it elsewhere' in text
    assert 'a browser does not play .avi: open it elsewhere' in text and 'the video is no longer there' in text
    assert all(name in text for name in SHOWN), text
    assert tab.evaluate('window.hacked') is None and errors == []
    assert tab.evaluate('document.documentElement.scrollWidth') <= width
    bar = tab.locator('.glscl .weights').first.locator('a').last
    moment = float(bar.get_attribute('href').split('#t=')[1])
    bar.click()  # the player of the same card goes there
    assert tab.evaluate("document.querySelector('.glscl video').currentTime") >= moment - 0.05
    assert tab.url == page.local_url and len(browser.contexts[-1].pages) == 1
    assert all(url.startswith((page.local_url, 'data:', 'blob:')) for url in requests), requests
    assert asked <= {'127.0.0.1', 'localhost'}
    tab.locator('textarea, input[type=text]').first.fill('')
    tab.keyboard.press('Enter')
    tab.wait_for_function(f"document.querySelector('.glscl').innerText.includes({EMPTY!r})")
