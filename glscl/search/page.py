"""Results to look at: lines of text, and an HTML page with the frames that a text weighed most."""
import base64
import html
import io
from pathlib import Path

from PIL import Image

from ..data.errors import VideoError
from ..data.video import read_frames
from ..runtime.terminal import show, shown, warned, warnings_as_lines  # noqa: F401, for `index`

THUMBNAIL = 240  # pixels of the longer side
# What a browser plays, and as what it is to be told so; a .mov is laid out as an .mp4.
PLAYS = {'.mp4': 'video/mp4', '.m4v': 'video/mp4', '.mov': 'video/mp4', '.webm': 'video/webm',
         '.ogv': 'video/ogg'}
# A click on a moment lets the result's own player go there; without one the link is followed.
JUMP = ("const v=this.closest('li').querySelector('video');"
        "if(v){v.currentTime=this.hash.slice(3);v.play();return false}")
# In colours of the text around it, so that it stands on a dark page as on a light one.
STYLE = '''
.glscl { list-style: none; padding: 0; margin: 0; counter-reset: rank }
.glscl li { display: flex; flex-wrap: wrap; gap: .6em 1.4em; margin: 0; padding: 1.1em 0;
            counter-increment: rank;
            border-top: 1px solid color-mix(in srgb, currentColor 18%, transparent) }
.glscl .player { flex: 0 1 17em }
.glscl video { display: block; width: 100%; max-height: 17em; border-radius: 6px }
.glscl .told { flex: 1 1 20em; min-width: 0 }
.glscl .told > * { margin: 0 0 .5em }
.glscl a { color: inherit; text-decoration: underline }
.glscl p { margin: 0 0 .8em }
.glscl code { background: none; border: 0; padding: 0; font-size: 13px; color: inherit;
              overflow-wrap: anywhere }
.glscl .name::before { content: counter(rank) ". " }
.glscl q { display: block; font-style: italic }
.glscl .soft, .glscl figcaption { font-size: 13px; opacity: .75 }
.glscl .none { color: #d0453a }
.glscl .weights { display: flex; align-items: flex-end; gap: 2px; height: 3em; max-width: 30em }
.glscl .weights a { flex: 1; height: 100%; display: flex; align-items: flex-end }
.glscl .weights i { flex: 1; min-height: 2px; border-radius: 2px 2px 0 0; background: #8fb3d9 }
.glscl .weights a:hover i, .glscl .weights .most i { background: #2a6fbb }
.glscl figure { display: inline-block; margin: .2em .6em 0 0 }
.glscl img { display: block; border-radius: 4px; max-width: 8em; max-height: 7em }
'''
PAGE = '''
:root { color-scheme: light dark }
body { font: 15px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em }
'''
NOTES = {'changed': 'has changed since it was indexed', 'missing': 'is no longer there'}


def results_table(queries, results):
    """Lines of text: rank, score, path, the moments that the text weighed most.

    queries: T strings; results: T lists of Result."""
    lines = []
    for query, found in zip(queries, results, strict=True):
        lines.append(shown(query))
        for rank, result in enumerate(found, 1):
            moments = ', '.join(f'{frame["seconds"]:.1f} s' for frame in result.frames[:3])
            note = f'   ({NOTES[result.state]})' if result.state in NOTES else ''
            path = shown(result.path)
            lines.append(f'{rank:4}  {result.score:6.3f}  {path}   at {moments}{note}')
            if result.caption:
                lines.append(f'{"":14}{shown(result.caption)}')
        lines.append('')
    return '\n'.join(lines[:-1])


def thumbnails(result, config, best=3):
    """[(data URI of a JPEG, frame)] of the `best` frames that the text weighed most.

    config: of the gallery's model, which says how frames are sampled. Raises VideoError where the
    video cannot be read or has other frames than when it was indexed, or OSError."""
    frames, indices = read_frames(result.path, config.max_frames, config.framerate, None,
                                  result.start, result.end, config.sampling, config.reader)
    by_index = {int(index): frame for index, frame in zip(indices, frames, strict=True)}
    pictures = []
    for frame in result.frames[:best]:
        if frame['index'] not in by_index:
            raise VideoError(f'{result.path}: its frames are others than when it was indexed')
        picture, file = Image.fromarray(by_index[frame['index']]), io.BytesIO()
        picture.thumbnail((THUMBNAIL, THUMBNAIL))
        picture.save(file, 'JPEG', quality=80)
        data = base64.b64encode(file.getvalue()).decode()
        pictures.append((f'data:image/jpeg;base64,{data}', frame))
    return pictures


def html_page(queries, results, config):
    """One HTML page of results: per text the `cards` of the videos found.

    Pictures are in the page; videos stay where they are. queries: T strings; results: T lists of
    Result; config: as for `thumbnails`."""
    parts = ['<!DOCTYPE html><html lang="en"><meta charset="utf-8">'
             '<meta name="viewport" content="width=device-width, initial-scale=1">'
             f'<title>glscl search</title><style>{PAGE}{STYLE}</style>']
    for query, found in zip(queries, results, strict=True):
        parts += [f'<h2>{escaped(query)}</h2>', cards(found, config)]
    return '\n'.join([*parts, '</html>', ''])


def escaped(text):
    """Text of others as HTML, invisible characters as escapes; nor does a page's templating find
    anything in it (Gradio's, which reads braces, dollars and at-signs)."""
    text = html.escape(shown(text))
    return ''.join(f'&#{ord(c)};' if c in '{}$@`' else c for c in text)


def cards(found, config, address=lambda path: Path(path).as_uri(), player='preload="metadata"'):
    """Results as an HTML list, STYLE apart: a player at the moment that the text weighed most, the
    score with its parts, the weight of every frame, the pictures of the first, and the caption of
    a table. Each moment is a link.

    found: a list of Result; config: as for `thumbnails`; address: of a path, the URL in the page;
    player: attributes of <video>."""
    items = [_card(result, config, html.escape(address(result.path)), player) for result in found]
    return '\n'.join(['<ol class="glscl">', *items, '</ol>'])


def _card(result, config, url, player):
    """A result as HTML; url: the escaped address of its video."""
    score = ' + '.join(f'{name} {part:.3f}' for name, part in result.parts.items())
    caption = f'<q>{escaped(result.caption)}</q>' if result.caption else ''
    return (f'<li>{_player(result, url, player)}<div class="told">'
            f'<div class="name"><a href="{url}" target="_blank"><code>{escaped(result.path)}</code>'
            f'</a></div>{caption}<div>score {result.score:.3f} <span class="soft">= {score}</span>'
            f'</div>{_weights(result, url)}{_figures(result, config, url)}</div></li>')


def _player(result, url, player):
    """A result's <video>, or why there is none."""
    suffix, other = Path(result.path).suffix.lower(), f'<a href="{url}" target="_blank">open it</a>'
    if result.state == 'missing':
        said = f'the video {NOTES[result.state]}'
    elif not result.frames:
        said = 'none of its frames is known'
    elif suffix not in PLAYS:
        said = f'a browser does not play {escaped(suffix) or "such files"}: {other} elsewhere'
    else:  # a codec that this browser lacks shows when it tries
        return (f'<div class="player"><video controls {player} '
                f'src="{_moment(result.frames[0], url)}" '
                f'onerror="this.replaceWith(this.nextElementSibling.content)"></video><template>'
                f'<span class="none">this browser cannot play it: {other} elsewhere</span>'
                f'</template></div>')
    return f'<div class="player none">{said}</div>'


def _moment(frame, url):
    """The address of a video from a frame on."""
    return f'{url}#t={frame["seconds"]}'


def _link(frame, url):
    """The beginning of a link to a moment."""
    return (f'<a href="{_moment(frame, url)}" target="_blank" onclick="{JUMP}" '
            f'title="{_said(frame)}"')


def _said(frame):
    return f'{frame["seconds"]:.1f} s, weight {frame["weight"]:.2f}'


def _weights(result, url):
    """The weights of all frames, in order of time, as bars."""
    if not result.frames:
        return ''
    most = max(frame['weight'] for frame in result.frames) or 1
    frames = sorted(result.frames, key=lambda frame: frame['seconds'])
    bars = ''.join(f'{_link(frame, url)}{" class=most" * (frame is result.frames[0])}>'
                   f'<i style="height:{100 * frame["weight"] / most:.0f}%"></i></a>'
                   for frame in frames)
    return (f'<div class="weights">{bars}</div><div class="soft">weights of {len(frames)} frames, '
            f'{frames[0]["seconds"]:.1f} to {frames[-1]["seconds"]:.1f} s</div>')


def _figures(result, config, url):
    """The thumbnails of a result as HTML, or why there are none."""
    if result.state == 'missing':
        return ''
    try:
        if result.state in NOTES:
            raise VideoError(f'the video {NOTES[result.state]}')
        return '<div>' + ''.join(
            f'<figure>{_link(frame, url)}><img alt="frame {frame["index"]}" src="{uri}"></a>'
            f'<figcaption>{_said(frame)}</figcaption></figure>'
            for uri, frame in thumbnails(result, config)) + '</div>'
    except (VideoError, OSError) as error:
        return f'<div class="none">no pictures: {escaped(error)}</div>'
