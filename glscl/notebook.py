"""What each notebook begins with, and all six in order, bound into one page.

For whoever writes a notebook. It opens with its question and ends with Takeaways, Exercises, Where
next. An exercise is a code cell tagged `exercise`: a function that returns None, and under
`if mine(...) is not None:` the asserts and a print that begins with "right". The cell below folds
the solution, a ```python block in <details><summary>Solution</summary>, with blank lines around it
and in no list, where it would not fold; the tests run it against the check. Drawings are
`plots.pipeline`, `modules`, `forces`, `rivals`; where motion is the subject, `plots.play`; where a
reader types a sentence, `typed`."""
import dataclasses
import datetime
import html
import json
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from . import heads
from .checkpoints import load_model
from .clip_models import ClipModel
from .config import SETTINGS, Config, load_config
from .data.pairs import Pairs
from .datasets.splits import kept, load_split, load_test
from .runtime.devices import pick_device, whole_seed
from .runtime.files import atomic_write
from .runtime.records import machine

REPOSITORY_NOTEBOOKS = Path(__file__).parent.parent / 'notebooks'

# videos: how many of each split of `shapes` (None: all); settings: what changes in its recipe
PROFILES = {
    'tiny': dict(videos=dict(train=64, val=16, test=24), settings=dict(batch_size=16, epochs=0.5)),
    'small': dict(videos=None, settings={}),  # minutes on two cores
    'large': dict(videos=None, settings=dict(batch_size=128, epochs=20)),  # for a GPU
}


@dataclass
class Lesson:
    """A notebook's parameters, worked out.

    videos: {split: how many of `shapes`}, None for all; data_dir and run_dir: existing or not.
    measured: the split that `load('test')` gave; absent: what `save_result` is to say of another
    that was asked for."""
    config: Config
    profile: str
    videos: dict | None
    seed: int
    device: torch.device
    data_dir: Path
    run_dir: Path
    measured: str = 'test'
    absent: dict = dataclasses.field(default_factory=dict)

    def load(self, split: str, captions: str = 'one') -> Pairs:
        """Pairs of a split (`shapes` is rendered on first use); "test" as `load_test` has it."""
        if split != 'test':
            return load_split(self.config, split, self.data_dir, captions, self.videos)
        found, self.absent = load_test(self.config, self.data_dir, captions, self.videos)
        [(self.measured, pairs)] = found.items()
        return pairs

    def model(self) -> ClipModel:
        """The model, of any head, that 04_training left in run_dir; without one, for `shapes`, the
        shipped GLSCL.

        Raises FileNotFoundError for another data set that no model was trained on."""
        trained = self.run_dir / 'best.safetensors'
        if trained.exists():
            return heads.load(trained, device=self.device)
        if self.config.dataset != 'shapes':
            raise FileNotFoundError(
                f'{trained}: no model for {self.config.dataset} yet. Train one with 04_training or '
                f'`glscl train` under the same recipe, and name its folder as run_dir')
        return load_model(device=self.device)

    def at_home(self) -> 'Lesson':
        """This lesson if it is about `shapes`, else one about it, with the shipped model.

        For what needs to know every fact about every video."""
        if self.config.dataset == 'shapes':
            return self
        return begin(self.profile, self.seed, self.device)

    def report(self) -> None:
        """Print a few lines about the machine and where the model comes from."""
        facts, model = machine(), 'none trained yet'
        if (self.run_dir / 'best.safetensors').exists():
            model = 'of your own run'
        elif self.config.dataset == 'shapes':
            model = 'the shipped checkpoint'
        versions = ', '.join(f'{name} {version}' for name, version in facts['versions'].items())
        print(f"device {self.device} on {facts['hardware']}; Python {facts['python']}, {versions}")
        print(f'data {self.config.dataset}; seed {self.seed}; model: {model}')


def given(names: dict[str, Any]) -> dict[str, Any]:
    """The settings among a notebook's variables, set by its parameters cell or by papermill.

    names: globals() of the notebook. Returns {field of `Config`: value}."""
    return {f.name: names[f.name] for f in dataclasses.fields(Config) if f.name in names}


def begin(profile: str = 'small', seed: int = 0, device: str | torch.device = 'auto',
          data_dir: str | os.PathLike = '', run_dir: str | os.PathLike = '',
          **settings: Any) -> Lesson:
    """Turn a notebook's parameters into a Lesson; `settings` override the profile's.

    Empty folders mean the user's cache. A data set other than `shapes` starts from the paper's
    defaults and needs its data_dir; without it, or with an unknown profile: ValueError."""
    seed = whole_seed(seed)
    if profile not in [*PROFILES]:
        raise ValueError(f'unknown profile {profile!r}; there are {", ".join(PROFILES)}')
    chosen, dataset = PROFILES[profile], settings.get('dataset', 'shapes')
    if dataset == 'shapes':
        config = load_config('shapes', **{**chosen['settings'], **settings})
        name = f'{profile}-{seed}'
    elif data_dir:
        config = Config(**settings)
        name = f'{dataset}-{seed}'
    else:
        raise ValueError(f'{dataset} lies where you keep it: name its folder as data_dir '
                         f'(layout: data/README.md)')
    run_dir = Path(run_dir or kept() / 'runs' / name).expanduser()
    return Lesson(config, profile, chosen['videos'], seed, pick_device(device), kept(data_dir),
                  run_dir)


def typed(answer: Callable[[str], Any], sentence: str) -> None:
    """answer(sentence), a function that shows something; below a box for other sentences, which it
    answers at Enter, where there are ipywidgets and somebody who can type.

    papermill, nbval and nbconvert say of themselves that nobody can: no box is ever stored."""
    shell = sys.modules['IPython'].get_ipython() if 'IPython' in sys.modules else None
    # What the front end said when it sent this cell: whether input() would be answered.
    anybody = getattr(getattr(shell, 'kernel', None), '_allow_stdin', False)
    if not anybody or not find_spec('ipywidgets'):
        answer(sentence)
        return
    import ipywidgets
    from IPython.display import display
    box = ipywidgets.Text(sentence, continuous_update=False, description='Caption:',
                          layout=dict(width='98%'))
    below = ipywidgets.interactive_output(
        lambda sentence: answer(sentence) if sentence.strip() else None, dict(sentence=box))
    display(box, below)


def walkthrough(name: str | None = None, profile: str = 'small',
                notebooks: str | os.PathLike = REPOSITORY_NOTEBOOKS,
                out: str | os.PathLike = 'runs', parameters: dict[str, Any] | None = None) -> Path:
    """Run the six notebooks in order; results and one HTML page land in OUT/NAME.

    name: of the run (by default the time); profile: one of PROFILES; notebooks: their folder;
    parameters: {name: value} for all six. Returns OUT/NAME. ValueError for a wrong name, profile,
    parameter or setting, before anything runs; SystemExit if there are no notebooks, if one lacks
    a parameter, or at the first cell that fails."""
    import papermill
    name = name or datetime.datetime.now().strftime('%Y%m%d-%H%M')
    folder = Path(out).resolve() / name
    if Path(name).name != name or name == '..':
        raise ValueError(f'the name of a run is the name of a folder, not {name!r}')
    chosen = {'profile': profile, 'run_dir': str(folder / 'model'), **(parameters or {})}
    known = ('profile', 'seed', 'device', 'data_dir', *SETTINGS)
    begin(**{key: value for key, value in chosen.items() if key in known})  # refuses what is wrong
    paths = sorted(Path(notebooks).glob('0*.ipynb'))
    if not paths:
        raise SystemExit(f'no notebooks in {notebooks}: run this in a clone of the repository, '
                         f'or name their folder with --notebooks')
    for path in paths:
        known = papermill.inspect_notebook(path)
        if strange := [parameter for parameter in chosen if parameter not in known]:
            raise SystemExit(f'{path.name} has no parameter {", ".join(strange)}; '
                             f'it has {", ".join(known)}')
    folder.mkdir(parents=True, exist_ok=True)
    begun = time.time()
    for i, path in enumerate(paths):
        print(f'[{i + 1}/{len(paths)}] {path.stem} …', end=' ', flush=True)
        start = time.time()
        try:
            papermill.execute_notebook(path, folder / path.name, chosen, cwd=str(folder),
                                       kernel_name='python3', progress_bar=False,
                                       extra_arguments=['--log-level=50'])
        except papermill.PapermillExecutionError as error:
            raise SystemExit(
                f'stopped: {path.name}, cell {error.exec_count}: {error.ename}: {error.evalue}\n'
                f'The notebook with the whole message: {folder / path.name}') from None
        print(f'{time.time() - start:.0f} s', flush=True)
    page = bind(folder)
    print(f'done in {(time.time() - begun) / 60:.1f} minutes. Open {page}', flush=True)
    return folder


STYLE = '''
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --soft: #f5f6f7; --line: #d0d7de;
        --link: #0a5fb4 }
body { font: 16px/1.55 sans-serif; max-width: 52em; margin: 2em auto; padding: 0 1em;
       color: var(--ink); background: var(--paper); overflow-wrap: break-word }
a { color: var(--link) }
.contents { list-style: none; padding: 0 }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; line-height: 1.4 }
.highlight, details { background: var(--soft); border-radius: 4px; padding: .1em .8em }
details { margin: .6em 0; padding: .5em .8em }
summary { cursor: pointer; font-weight: bold }
table { display: block; overflow-x: auto; border: 0; border-collapse: collapse; font-size: 14px }
th, td { padding: .15em .6em; border: 0; border-bottom: 1px solid var(--line); text-align: left }
.dataframe :is(th, td):not(:first-child) { text-align: right }
img { max-width: 100%; height: auto; background: #fff; border-radius: 4px }
math { font-size: 105%; font-family: "Cambria Math", "STIX Two Math", "Latin Modern Math",
       "DejaVu Math TeX Gyre", math }  /* by name: Chromium looks for one of them only */
code { font-size: 90% }
pre code { font-size: inherit }
.formula, .output_png { display: block; overflow-x: auto; overflow-y: hidden; padding: .3em 0 }
@media screen and (max-width: 40em) { .output_png img { max-width: max(100%, 36em) } }
section { border-top: 1px solid var(--line); margin-top: 3em }
@media print {
  section { break-before: page; border: 0 }
  table { display: table }
  img, pre, tr { break-inside: avoid }
}
'''
DARK = '''
:root { --paper: #15181c; --ink: #d8dce1; --soft: #22272e; --line: #3d444d; --link: #79b8ff }
'''


def bind(folder: Path) -> Path:
    """Bind a folder's notebooks into index.html, one page that needs no network; returns its path.

    Ahead of them stand the results of the run, which are also written as results.csv."""
    exporter, contents, sections = _exporter(), [], []
    for path in sorted(folder.glob('0*.ipynb')):
        body, _ = exporter.from_filename(path)
        title = re.search(r'<h1[^>]*>(.*?)</h1>', body)
        title = title[1] if title else path.stem
        contents.append(f'<li><a href="#{path.stem}">{title}</a></li>')
        sections.append(f'<section id="{path.stem}">{body}<p><a href="#top">To the contents</a></p>'
                        f'</section>')
    head = (f'<!DOCTYPE html><html lang="en" id="top"><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<title>GLSCL</title><style>{_style()}</style>'
            f'<h1>GLSCL, the walkthrough</h1><p>Run <code>{html.escape(folder.name)}</code>, '
            f'{datetime.date.today().isoformat()}.</p>{_results(folder)}')
    page = [head, '<ul class="contents">', *contents, '</ul>', *sections, '</html>']
    with atomic_write(folder / 'index.html') as half:
        half.write_text('\n'.join(page), encoding='utf-8')
    return folder / 'index.html'


def _style():
    """The page's CSS, code in colours included; dark where the reader's system is, not on paper."""
    from pygments.formatters import HtmlFormatter
    light, dark = (HtmlFormatter(style=name).get_style_defs('.highlight')
                   for name in ('default', 'monokai'))
    return (f'{light}{STYLE}@media screen and (prefers-color-scheme: dark) {{ {dark}{DARK}'
            f'.highlight {{ background: var(--soft) }} }}')


def _exporter():
    """nbconvert's exporter to HTML, but for what would need a network or another file."""
    from latex2mathml.converter import convert
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    class Renderer(IPythonRenderer):
        def inline_math(self, body, display='inline'):
            body = re.sub(r'\\big(?=\\)', '', body)  # the converter knows \big( but not \big\langle
            body = re.sub(r'\\(arccos|cos|ln|log)\b(?!\()', r'\g<0>\\,', body)  # or: "lnx"
            formula = convert(body.replace('\\\n', '\\ '), display=display)
            return formula if display == 'inline' else f'<span class="formula">{formula}</span>'

        def block_math(self, body):
            return self.inline_math(body, 'block')

        def link(self, text, url, title=None):
            notebook = re.fullmatch(r'(\w+)\.ipynb', url)
            return super().link(text, f'#{notebook[1]}' if notebook else url, title)

        def image(self, text, url, title=None):
            return text if url.startswith('http') else super().image(text, url, title)

    markdown = MarkdownWithMath(renderer=Renderer(escape=False, exclude_anchor_links=True))

    def to_html(text):  # the renderer takes what comes right after a list for a part of it
        return markdown.render(text.replace('\n<details>', '\n\n<details>'))

    def describe(notebook, resources):
        """Tell whoever cannot see a picture where it stands, and what the text says of it."""
        heading, words = '', ''
        for cell in notebook.cells:
            if cell.cell_type == 'markdown':
                page = to_html(cell.source)
                heading = (re.findall(r'<h\d[^>]*>(.*?)</h\d>', page, re.S) or [heading])[-1]
                words = _last_words(page)
            pictures = [output for output in cell.get('outputs', [])
                        if 'image/png' in output.get('data', {})]
            for n, picture in enumerate(pictures, 1):
                one_of = f' {n} of {len(pictures)}' if len(pictures) > 1 else ''
                alt = f'Figure{one_of} under “{_text(heading)}”. {words}'
                picture.metadata['image/png'] = dict(picture.metadata.get('image/png', {}), alt=alt)
        return notebook, resources

    exporter = HTMLExporter(template_name='basic', filters={'markdown2html': to_html},
                            exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.register_preprocessor(describe, enabled=True)
    return exporter


def _last_words(page):
    """The last sentence of HTML's last paragraph, as text; if it is short, the last two."""
    paragraph = ' '.join(re.findall(r'<p>(.*?)</p>', page, re.S)[-1:])
    prose = _text(re.sub(r'<span class="formula">.*?</span>', '', paragraph, flags=re.S))
    sentences = re.split(r'(?<=[.!?]) (?=[^a-z])', prose)
    return ' '.join(sentences[-1 if len(sentences[-1]) > 50 else -2:]).rstrip(' ,:')


def _text(page):
    """HTML without its tags, its white space as single spaces."""
    return ' '.join(html.unescape(re.sub(r'<[^>]+>', '', page)).split())


def _results(folder):
    """What 04_training measured, as an HTML table; also written as results.csv."""
    path = folder / 'model' / 'result.json'
    if not path.exists():
        return ''
    result = json.loads(path.read_text(encoding='utf-8'))
    recalls = pd.DataFrame(result['metrics']).T[['R@1', 'R@5', 'R@10', 'R@50', 'MdR', 'MnR']]
    recalls = recalls.astype(float).rename_axis('direction').reset_index()
    with atomic_write(folder / 'results.csv') as half:
        recalls.to_csv(half, index=False, float_format='%.1f')
    return (f'<p>Measured here on the test split of <code>shapes</code> ({result["hardware"]}, '
            f'seed {result["seed"]}):</p>{recalls.to_html(index=False, float_format="%.1f")}')
