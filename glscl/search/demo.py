"""A page to try a search: type a caption, see the videos found play from the moment that it weighs
most, with the weights of the frames and both parts of the score.

    glscl demo              # the test split of `shapes`, with the shipped model
    glscl demo gallery/     # a gallery of `glscl index`

In a notebook, also in Colab (needs `pip install "glscl[demo]"`, as the command does):

    from glscl.search.demo import demo
    demo()
"""
import hashlib
import os
import warnings
from collections.abc import Callable
from pathlib import Path

from ..config import cache_dir
from ..data.tokens import tokenizer
from ..datasets import shapes
from ..datasets.readers.files import VIDEOS
from ..datasets.splits import shapes_table
from ..model import GLSCL
from ..runtime.files import atomic_write, one_line
from ..runtime.terminal import shown
from ..score import unknown_words
from .gallery import Gallery
from .index import index_videos
from .page import PLAYS, STYLE, cards, escaped, show, warned
from .shards import fingerprint, pick_model

Place = str | os.PathLike
MISSING = 'the page needs Gradio: pip install "glscl[demo]"'
MOST = 20        # videos of an answer
LONGEST = 2000   # characters of a text that are read; no CLIP reads as many
EMPTY = 'Type what the video shows, as in “a red ring shrinks”.'


def demo(gallery: Place | None = None, model: GLSCL | Place | None = None, device: str = 'auto',
         host: str = '127.0.0.1', port: int | None = None, share: bool = False,
         inline: bool | None = None):
    """Open the page and return it, a running gradio.Blocks; `.close()` ends it.

    gallery: a folder of `glscl index`, or None for the test split of `shapes` (`shapes_gallery`);
    model: as for `Gallery`. host: 127.0.0.1 lets this machine in, 0.0.0.0 everybody in its network;
    port: None takes the first free one from 7860 on. share: ask Gradio for a public address, which
    needs a network; nothing else does. inline: show it below the cell (None: where there is one).

    ImportError without Gradio, OSError for a port that is taken, and what Gallery raises."""
    try:
        import gradio  # an extra, and seconds to import
    except ImportError as error:
        raise ImportError(f'{MISSING} ({one_line(error)})') from None
    if port is not None and not 0 < port < 2 ** 16:
        raise ValueError(f'a port is a number from 1 to 65535, not {port}')
    answers = Answers(gallery or shapes_gallery(model, device), model, device)
    blocks = _layout(gradio, answers, examples=not gallery)
    return _launch(gradio, blocks, answers, host, port, share, inline)


def demo_command(gallery: Place | None = None, model: Place | None = None, device: str = 'auto',
                 host: str = '127.0.0.1', port: int | None = None, share: bool = False) -> None:
    """`demo` on the command line: it serves the page until Ctrl-C."""
    demo(gallery, model, device, host, port, share, inline=False).block_thread()


def shapes_gallery(model: GLSCL | Place | None = None, device: str = 'auto',
                   log: Callable[[str], None] | None = print) -> Path:
    """The folder of a gallery of the 500 test videos of `shapes`, with their captions.

    Made on first use (the videos too, where they are not there) and kept in the cache, one a
    model."""
    model, _ = pick_model(model, None, device)
    folder = cache_dir() / 'galleries' / f'shapes-{fingerprint(model)[:12]}'
    table = shapes_table(shapes.build(cache_dir()))
    with atomic_write(folder / 'videos.csv') as half:
        table[['video_id', 'path', 'caption']].to_csv(half, index=False)
    index_videos(folder / 'videos.csv', folder, model, log=log)
    return folder


class Answers:
    """What the page says to a text, and the files that it gives out: those that it has shown.

    folder, model, device: as for Gallery."""

    def __init__(self, folder: Place, model: GLSCL | Place | None = None, device: str = 'auto'):
        self.notes, self.files = [], {}  # what the gallery had to say; {key: path}
        self.gallery = Gallery(folder, model, device, self._note)

    def _note(self, line):
        warned(line)
        self.notes.append(line)

    def __call__(self, text: str, k: int) -> str:
        """The k best videos for a text as HTML, what there is to say ahead of them."""
        text = (text or '')[:LONGEST].encode('utf-8', 'replace').decode()
        if not text.strip():
            return _said([EMPTY])
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')  # `remarks` says it in a visitor's words
                found = self.gallery.search(text, min(max(1, int(k or 1)), MOST))
        except (ValueError, OSError) as error:
            return _said([one_line(error)], 'none')
        lines = [*remarks(self.gallery.model, text), *self.notes]
        player = 'autoplay loop muted playsinline'
        return _said(lines) + cards(found, self.gallery.model.config, self.address, player)

    def address(self, path: str) -> str:
        """The address of a video on the page. No name stands in it, so that none can do harm, and
        it is another for another file, so that a browser's cache is never wrong."""
        key = hashlib.sha256(os.fsencode(path)).hexdigest()[:20]
        self.files[key] = path
        return f'video/{key}'

    def file(self, key: str) -> str | None:
        """The path behind such an address; None for all but readable video files."""
        path = self.files.get(key)
        servable = path and path.lower().endswith(VIDEOS) and os.path.isfile(path)
        return path if servable and os.access(path, os.R_OK) else None


def remarks(model: GLSCL, text: str) -> list[str]:
    """Sentences on what of a text the model does not read: words beyond its length, and those that
    the small CLIP has never met."""
    lines = []
    tokens, room = len(tokenizer().encode(text)), model.config.max_words - 2
    if tokens > room:
        lines.append(f'The text is longer than the model reads: the first {room} of its {tokens} '
                     f'tokens count.')
    unknown = unknown_words(model, [text])
    if unknown:
        lines.append(f'This small model does not know: {unknown}. To it they are all one word.')
    return lines


def _said(lines, kind='soft'):
    """Sentences as HTML, with the style of what follows."""
    told = ''.join(f'<p class="{kind}">{escaped(line)}</p>' for line in lines)
    return f'<style>{STYLE}</style><div class="glscl">{told}</div>'


def _layout(gradio, answers, examples):
    """The page: a gradio.Blocks."""
    gallery = answers.gallery
    name = 'the test split of <code>shapes</code>' if examples else escaped(gallery.folder)
    with gradio.Blocks(title='glscl demo', analytics_enabled=False) as blocks:
        gradio.HTML(f'<h1>Say what the video shows</h1><p>{len(gallery):,} videos: {name}. What is '
                    f'found plays from the moment that the text weighs most.</p>')
        with gradio.Row():
            text = gradio.Textbox(label='Text', placeholder='a red ring shrinks', max_lines=1,
                                  max_length=LONGEST, submit_btn='Search', scale=4,
                                  min_width=280)  # a narrow screen puts the slider below
            k = gradio.Slider(1, MOST, 5, step=1, label='How many videos', scale=1)
        if examples:
            kinds = shapes_table(shapes.build(cache_dir())).groupby('kind', sort=False)
            captions = [[caption] for caption in kinds['caption'].head(2)]
            gradio.Examples(captions, text, label='For example')
        found = gradio.HTML(apply_default_css=False)
        for asked in (text.submit, k.release):
            asked(answers, [text, k], found)
    return blocks


def _launch(gradio, blocks, answers, host, port, share, inline):
    """Serve the page, and say where it is."""
    from starlette.responses import FileResponse, Response
    from starlette.routing import Route

    async def video(request):
        path = answers.file(request.path_params['key'])
        if path is None:
            return Response('no such video', 404)
        kind = PLAYS.get(Path(path).suffix.lower())
        name = None if kind else shown(os.path.basename(path))  # with a name it is downloaded
        return FileResponse(path, filename=name, media_type=kind or 'application/octet-stream',
                            headers={'Cache-Control': 'no-cache',
                                     'X-Content-Type-Options': 'nosniff'})

    theme = gradio.themes.Default(primary_hue='blue')
    where = f'{host}, port {port or "7860 to 7959"}'
    try:
        blocks.launch(inline=inline, share=share, server_name=host, server_port=port, quiet=True,
                      prevent_thread_lock=True, ssr_mode=False, footer_links=[], theme=theme,
                      max_file_size=1,  # byte: nobody need leave a file here
                      app_kwargs={'routes': [Route('/video/{key}', video)]})
    except OSError:
        raise OSError(f'{where} cannot be had: taken by another program, or no address of this '
                      f'machine. Name another with --port or --host') from None
    except Exception as error:  # Gradio's own, where it cannot reach itself, as behind a proxy
        raise OSError(f'the page cannot be served on {where}: {one_line(error)}') from error
    show(f'{blocks.local_url} searches {answers.gallery.folder}')
    return blocks
