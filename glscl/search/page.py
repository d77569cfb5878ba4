"""Results to look at: lines of text, and an HTML page with the frames that a text weighed most."""
import base64
import html
import io
from pathlib import Path

from PIL import Image

from ..data.sampling import VideoError
from ..data.video import read_frames
from ..runtime.terminal import show, shown, warned, warnings_as_lines  # noqa: F401, for `index`

THUMBNAIL = 240  # pixels of the longer side
STYLE = ('body{font:15px sans-serif;margin:2em;max-width:60em}li{margin:0 0 1.5em}'
         'figure{display:inline-block;margin:.3em .6em 0 0}figcaption{color:#555;font-size:13px}'
         '.none{color:#a00}code{overflow-wrap:anywhere}q{color:#333}video{max-width:24em}')
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
    """One HTML page of results: per text the videos found, each to be played from the moment that
    the text weighed most, with thumbnails that lead to theirs, and the caption of a table.

    Pictures are in the page; videos stay where they are. queries: T strings; results: T lists of
    Result; config: as for `thumbnails`."""
    parts = ['<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>glscl search</title>'
             f'<style>{STYLE}</style>']
    for query, found in zip(queries, results, strict=True):
        parts.append(f'<h2>{html.escape(query)}</h2><ol>')
        parts += [_item(result, config) for result in found]
        parts.append('</ol>')
    return '\n'.join([*parts, '</html>', ''])


def _item(result, config):
    """A result as HTML."""
    name, caption = html.escape(result.path), ''
    if result.caption:
        caption = f'<br><q>{html.escape(result.caption)}</q>'
    video = ''
    if result.state != 'missing' and result.frames:
        best = _moment(result, result.frames[0])
        video = f'<video controls preload="none" src="{best}"></video><br>'
    return (f'<li><a href="{_moment(result)}"><code>{name}</code></a> score {result.score:.3f}'
            f'{caption}<br>{video}{_figures(result, config)}</li>')


def _moment(result, frame=None):
    """The address of a video, from a frame of it on."""
    address = Path(result.path).as_uri()
    return html.escape(f'{address}#t={frame["seconds"]}' if frame else address)


def _figures(result, config):
    """The thumbnails of a result as HTML, or why there are none."""
    try:
        if result.state in NOTES:
            raise VideoError(f'the video {NOTES[result.state]}')
        return ''.join(f'<figure><a href="{_moment(result, frame)}"><img alt="frame '
                       f'{frame["index"]}" src="{uri}"></a><figcaption>{frame["seconds"]:.1f} s, '
                       f'weight {frame["weight"]:.2f}</figcaption></figure>'
                       for uri, frame in thumbnails(result, config))
    except (VideoError, OSError) as error:
        return f'<span class="none">no pictures: {html.escape(str(error))}</span>'
