"""Results to look at: lines of text, and an HTML page with the frames that a text weighed most."""
import base64
import html
import io
import sys
from pathlib import Path

from PIL import Image

from ..data.sampling import VideoError
from ..data.video import read_frames
from ..runtime.terminal import shown

THUMBNAIL = 240  # pixels of the longer side
STYLE = ('body{font:15px sans-serif;margin:2em;max-width:60em}li{margin:0 0 1.5em}'
         'figure{display:inline-block;margin:.3em .6em 0 0}figcaption{color:#555;font-size:13px}'
         '.none{color:#a00}code{overflow-wrap:anywhere}')
NOTES = {'changed': 'has changed since it was indexed', 'missing': 'is no longer there'}


def show(text, stream=None):
    """Print, also what the terminal's encoding lacks: the name of a file may be any bytes."""
    stream = stream or sys.stdout
    encoding = stream.encoding or 'utf-8'
    print(text.encode(encoding, 'backslashreplace').decode(encoding), file=stream, flush=True)


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
    """One HTML page that needs no other file: per text the videos found, with their thumbnails.

    queries: T strings; results: T lists of Result; config: as for `thumbnails`."""
    parts = ['<!DOCTYPE html><html lang="en"><meta charset="utf-8"><title>glscl search</title>'
             f'<style>{STYLE}</style>']
    for query, found in zip(queries, results, strict=True):
        parts.append(f'<h2>{html.escape(query)}</h2><ol>')
        for result in found:
            link, name = html.escape(Path(result.path).as_uri()), html.escape(result.path)
            parts.append(f'<li><a href="{link}"><code>{name}</code></a> score {result.score:.3f}'
                         f'<br>{_figures(result, config)}</li>')
        parts.append('</ol>')
    return '\n'.join([*parts, '</html>', ''])


def _figures(result, config):
    """The thumbnails of a result as HTML, or why there are none."""
    try:
        if result.state in NOTES:
            raise VideoError(f'the video {NOTES[result.state]}')
        return ''.join(f'<figure><img alt="frame {frame["index"]}" src="{uri}"><figcaption>'
                       f'{frame["seconds"]:.1f} s, weight {frame["weight"]:.2f}</figcaption>'
                       f'</figure>' for uri, frame in thumbnails(result, config))
    except (VideoError, OSError) as error:
        return f'<span class="none">no pictures: {html.escape(str(error))}</span>'
