"""The command line, `glscl COMMAND …` or `python -m glscl COMMAND …`: each command hands its
arguments to one function of the package, imported only then, since help needs no torch."""
import os
import re
import sys
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional, UseAppendAction, arg
from tyro.extras import SubcommandApp

from . import __version__
from .runtime.files import read_value
from .runtime.places import writable_files, writable_folders
from .runtime.signals import ended_as_interrupted
from .runtime.terminal import shown, warnings_as_lines

app = SubcommandApp()
bench = SubcommandApp()

Recipe = Annotated[str, arg(help='A recipe of data/recipes, or a YAML file of settings.')]
DataDir = Annotated[str | None, arg(
    metavar='DIR', help='The folder with annotation files and videos; layout: data/README.md.')]
Split = Literal['test', 'val', 'train']
Device = Annotated[str, arg(help='auto, cpu, cuda, cuda:1, mps, …')]
Model = Annotated[str | None, arg(metavar='FILE', help="A checkpoint or a run's folder.")]
Clip = Annotated[str | None, arg(
    metavar='NAME', help="Search with this CLIP as it is, untrained on videos: open_clip's name.")]
Settings = Annotated[tuple[tuple[str, ...], ...], UseAppendAction, arg(
    name='set', metavar='KEY=VALUE [KEY=VALUE …]', help='Settings that override the recipe.')]
Parameters = Annotated[tuple[tuple[str, str], ...], UseAppendAction, arg(
    name='parameter', aliases=['-p'], metavar='NAME VALUE', help='A parameter of all notebooks.')]


@app.command
def train(recipe: Recipe = 'shapes', run_dir: str = 'runs/default', data_dir: DataDir = None,
          seed: int = 0, device: Device = 'auto', settings: Settings = ()):
    """Train a recipe on its data set, evaluate it on the test split, write result.json.

    Example: glscl train --recipe msrvtt --data-dir MSRVTT --set epochs=3 batch_size=64

    Args:
        run_dir: Where checkpoints and results lie; a run that lies there goes on.
    """
    settings = parse_settings(settings)
    writable_folders(run_dir=run_dir)
    from .config import load_config
    load_config(recipe, **settings)  # its mistakes are told before torch is loaded
    from .experiments import runs
    runs.train(recipe, run_dir, data_dir, seed, device, settings)


@app.command
def evaluate(run: Positional[str], /, data_dir: DataDir = None, split: Split = 'test',
             device: Device = 'auto', rescored: bool = False, out: str | None = None,
             similarity: str | None = None):
    """Evaluate a trained model on a split of its data set.

    Example: glscl evaluate runs/msrvtt --data-dir MSRVTT --rescored

    Args:
        run: A run's folder, or a checkpoint.
        rescored: Also with QB-Norm and with dual softmax, each apart.
        out: Write the measures to this JSON file too.
        similarity: Write the similarity matrix to this .npz file too, for `glscl rescore`.
    """
    writable_files(out=out, similarity=similarity)
    from .experiments import runs
    runs.evaluate_run(run, data_dir, split, device, out, rescored, similarity)


@app.command
def export(run: Positional[str], /, out: str, data_dir: DataDir = None, split: Split = 'test',
           device: Device = 'auto'):
    """Write the features of all captions and videos of a split to one file.

    Example: glscl export runs/msrvtt --data-dir MSRVTT --out features.npz

    Args:
        run: A run's folder, or a checkpoint.
        out: A file that ends in .npz or .safetensors; ids and captions go beside it, as .csv.
    """
    writable_files(out=out)
    from .experiments import runs
    runs.export_features(run, out, data_dir, split, device)


@app.command
def curves(run_dirs: Positional[tuple[str, ...]], /, out: str = 'curves.png'):
    """Draw the losses and validation recalls of runs, also of one that still goes on.

    Example: glscl curves runs/first runs/second --out curves.png

    Args:
        run_dirs: Folders of runs; several are drawn side by side.
        out: The picture: .png, .svg or .pdf.
    """
    writable_files(out=out)
    from .experiments import runs
    runs.draw_curves(run_dirs, out)


@app.command
def check(recipe: Recipe = 'shapes', data_dir: DataDir = None, decode: bool = False,
          missing: str | None = None, settings: Settings = ()):
    """Say what training a recipe needs and what of it is missing; exit status 1 if something is.

    Example: glscl check --recipe msrvtt --data-dir MSRVTT --decode

    Args:
        decode: Decode every video too (slow on a large set).
        missing: Write the ids of all missing videos to this file, one a line, for a downloader.
    """
    settings = parse_settings(settings)
    writable_files(missing=missing)
    from .config import load_config
    config = load_config(recipe, **settings)
    from .experiments import doctor
    return int(bool(doctor.check(config, data_dir, decode, missing=missing)))


@app.command
def index(videos: Positional[tuple[str, ...]], /, out: str, model: Model = None,
          device: Device = 'auto', batch: int = 16, workers: int | None = None,
          shortlist: bool = False, sync: bool = False, yes: bool = False, clip: Clip = None,
          pretrained: str | None = None,
          share: Annotated[str | None, arg(metavar='K/N')] = None):
    """Encode your own videos into a gallery to search; a later run adds more and goes on.

    Example: glscl index VIDEOS/ --out gallery/ --clip ViT-B-32 --pretrained openai

    Args:
        videos: Folders (videos at any depth), video files, or tables (.csv, .jsonl) of paths.
        out: The folder of the gallery; what it holds stays, and these videos are added.
        batch: Videos encoded at once.
        workers: Processes that decode.
        shortlist: Also make the index (faiss) for `glscl search --shortlist`.
        sync: Remove from the gallery what is not among these videos, and say how many.
        yes: With --sync, also where that is more than half of them; else it asks.
        pretrained: The weights of --clip: a file, or open_clip's tag (downloaded if not here).
        share: Encode the K-th of N shares, as in 3/16; the last of them to end joins all.
    """
    if not videos:
        raise ValueError('name the videos: folders, files, or tables of paths')
    writable_folders(out=out)
    from .search.index import index_command
    return index_command(videos, out, model, device, batch, workers, shortlist, sync, yes, clip,
                         pretrained, share)


@app.command
def search(gallery: Positional[str], query: Positional[tuple[str, ...]], /,
           k: Annotated[int, arg(aliases=['-k'])] = 5, shortlist: int | None = None,
           json: bool = False, html: str | None = None, model: Model = None,
           device: Device = 'auto'):
    """Find videos in a gallery by what a text says of them.

    Example: glscl search gallery/ "a red ring shrinks" -k 5 --html page.html

    Args:
        gallery: A folder of `glscl index`.
        query: What the video shows; several texts, each in quotes, are searched in one go.
        k: How many videos.
        shortlist: Score only so many, the nearest by an approximate index.
        json: Print JSON.
        html: Write a page with pictures to this file.
    """
    if not query:
        raise ValueError('say what the video shows, in quotes')
    writable_files(html=html)
    from .search.gallery import search_command
    return search_command(gallery, query, k, shortlist, json, html, model, device)


@app.command
def demo(gallery: Annotated[str | None, tyro.conf.Positional] = None, /, model: Model = None,
         host: str = '127.0.0.1', port: int | None = None, share: bool = False,
         device: Device = 'auto'):
    """Open a page to search by text, the videos playing from the moment found (extra: demo).

    Example: glscl demo gallery/ --port 7861

    Args:
        gallery: A folder of `glscl index`; the test split of `shapes` if none is given.
        host: Who may come: 127.0.0.1 for this machine only, 0.0.0.0 for its whole network.
        port: The first free one from 7860 on if none is given.
        share: Ask Gradio for a public address too; only this needs a network.
    """
    from .search.demo import demo_command
    demo_command(gallery, model, device, host, port, share)


@app.command
def sweep(file: Positional[str], /, out: str | None = None, jobs: int = 2,
          results: str | None = None):
    """Run the notebooks over many settings and seeds; the same command goes on with the rest.

    Example: glscl sweep data/sweeps/ablations.yaml --jobs 2

    Args:
        file: A YAML file, as data/sweeps/ablations.yaml.
        out: Where each run has its folder; runs/sweeps/ and the name of the file if not named.
        jobs: Runs at a time.
        results: One JSON file of all finished runs.
    """
    at_least_one(jobs=jobs)
    writable_folders(out=out)
    writable_files(results=results)
    from .experiments.sweep import sweep
    return sweep(file, out, jobs, results)


@app.command
def rescore(similarity: Positional[str], /, bank: str | None = None, dual_softmax: bool = False,
            ties: Literal['mean', 'released'] = 'mean'):
    """Score a saved similarity matrix again, without the model: plain, QB-Norm, dual softmax.

    Example: glscl rescore similarity.npz --bank bank.npz --dual-softmax

    Args:
        similarity: An .npz file of `glscl.experiments.rescore.save_similarity`.
        bank: One of `save_bank`: scores of training queries, for QB-Norm.
        ties: How equal scores are ranked; see `glscl.metrics.ranks`.
    """
    from .experiments.rescore import rescore_file
    rescore_file(similarity, bank, dual_softmax, ties)


@app.command
def pretrain(out: str = 'runs/pretrain/clip_small.safetensors', steps: int = 3000,
             stop: int = 2250, batch: int = 256, frames: int = 40_000, lr: float = 1e-3,
             seed: int = 10_000_000):
    """Train the small CLIP again.

    Example: glscl pretrain --out clip.safetensors --steps 3000

    Args:
        stop: End at this step of the schedule of all steps.
        batch: Frames a step, each with its caption; `frames` are drawn in all.
    """
    at_least_one(steps=steps, stop=stop)
    writable_files(out=out)
    if batch < 2 or not 0 < lr < 10:
        raise ValueError(f'--batch must be 2 or more and --lr between 0 and 10, not {batch}, {lr}')
    if frames < 2000:
        raise ValueError(f'--frames must be 2000 or more, as 1000 are held out, not {frames}')
    from .experiments.pretrain import pretrain
    pretrain(out, steps, stop, batch, frames, lr, seed)


@app.command
def walkthrough(name: str | None = None, profile: str = 'small', notebooks: str | None = None,
                out: str = 'runs', parameters: Parameters = ()):
    """Run the six notebooks in order; results and one HTML page land in a folder of that name.

    Example: glscl walkthrough --name mine --profile small -p seed 1

    Args:
        name: The name of the run; the date and time if none is given.
        notebooks: The folder of the notebooks; the repository's if none is given.
        out: Where the runs lie.
    """
    parameters = {key: read_value(key, text) for key, text in parameters}
    writable_folders(out=out)
    from .notebook import walkthrough
    walkthrough(name, profile, out=out, parameters=parameters, **given(notebooks=notebooks))


@bench.command
def scoring(threads: int = 2, repeats: int = 30, out: str = 'runs/bench/scoring.json'):
    """Time scoring beside the matrix products that it cannot do without.

    Example: glscl bench scoring --threads 2 --out scoring.json

    Args:
        out: The JSON file for the numbers.
    """
    at_least_one(threads=threads, repeats=repeats)
    writable_files(out=out)
    from .bench.scoring import scoring
    scoring(out=out, repeats=repeats, threads=threads)


@bench.command
def gpu(out: str = 'runs/bench/gpu.json', repeats: int = 20):
    """Measure scoring, training, encoding and indexing on this machine's GPU, in five minutes.

    Example: glscl bench gpu --out gpu.json

    Args:
        out: The JSON file for the numbers.
        repeats: Rounds of what takes milliseconds.
    """
    at_least_one(repeats=repeats)
    writable_files(out=out)
    from .bench.gpu import gpu
    gpu(out, repeats)


@bench.command
def heads(heads: tuple[str, ...] = (), videos: tuple[int, ...] = (),
          out: str = 'runs/bench/costs.json', memory_gb: float | None = None, seconds: float = 20,
          repeats: int = 9, threads: int = 1):
    """Measure every head on growing galleries, row by row into a JSON file.

    Example: glscl bench heads --heads GLSCL X-Pool --videos 1000 10000 --out costs.json

    Args:
        heads: Their names; all if none is given.
        videos: Sizes of the gallery; from a thousand to a million if none is given.
        out: The JSON file; what it holds is not measured again.
        memory_gb: The largest gallery; 60 % of what is free if not given.
        seconds: For a query, all its repeats; a quarter of it for the pairs.
    """
    at_least_one(videos=videos, repeats=repeats, threads=threads)
    if not seconds > 0 or (memory_gb is not None and not memory_gb > 0):
        raise ValueError('--seconds and --memory-gb are above 0')
    writable_files(out=out)
    from .bench.heads import heads as measure
    measure(out=out, memory_gb=memory_gb, seconds=seconds, repeats=repeats, threads=threads,
            **given(heads=heads, videos=videos))


@bench.command
def costs():
    """Count multiply-adds and bytes of every head, beside the published column.

    Example: glscl bench costs
    """
    from .heads.costs import report
    report()


@bench.command
def data(videos: str | None = None, seconds: tuple[float, ...] = (10, 20, 40), copies: int = 1,
         frames: int = 12, size: int = 224, workers: int | None = None, mix: bool = True,
         total: int = 10_000):
    """Read a mix of videos in several ways and print frames per second.

    Example: glscl bench data --videos VIDEOS/ --no-mix

    Args:
        videos: A folder of videos to make the mix of; drawn ones if none is given.
        seconds: Lengths of the videos, in turn.
        copies: How often each video is read.
        size: The side of a frame in pixels.
        workers: Processes that read ahead; one a core if not given.
        mix: Make the mix; --no-mix reads the videos as they are, 50 at most, on one core.
        total: Of how many such videos the hours are printed.
    """
    at_least_one(copies=copies, frames=frames, size=size, workers=workers, seconds=seconds,
                 total=total)
    from .bench.data import data
    data(videos, seconds, copies, frames, size, workers, mix, total)


@bench.command(name='search')
def bench_search(videos: tuple[int, ...] = (1000, 10_000), shortlist: bool = False,
                 dir: str | None = None, threads: int | None = None):
    """Generate galleries, search them, and print what that takes.

    Example: glscl bench search --videos 1000 100000 --shortlist

    Args:
        videos: Sizes of the galleries.
        shortlist: Also the approximate first stage (needs faiss).
        dir: Where to put them; a temporary folder if not given.
        threads: torch's and faiss's; one a core if not given.
    """
    at_least_one(videos=videos, threads=threads)
    if not videos:
        raise ValueError('--videos: name the sizes of the galleries, as in --videos 1000 10000')
    writable_folders(dir=dir)
    from .bench.search import search
    search(videos, shortlist, dir, threads)


app.command(bench, name='bench', help='Measure seconds and bytes.\n\nExample: glscl bench costs')
COMMANDS = ('train', 'evaluate', 'export', 'curves', 'check', 'index', 'search', 'demo', 'sweep',
            'rescore', 'pretrain', 'walkthrough', 'bench')
CONFIG = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone,
          tyro.conf.PositionalMetavarFromFieldName)
OVERVIEW = 'Text-video retrieval with GLSCL. More by glscl COMMAND --help, and glscl --version.'


def given(**options):
    """The options that were given; the others are left to the function's own defaults."""
    return {name: value for name, value in options.items() if value not in (None, ())}


def at_least_one(**numbers):
    """ValueError for a count below 1, by the name of its flag; None and () are left to others."""
    for name, value in numbers.items():
        for number in value if isinstance(value, tuple) else (value,):
            if number is not None and not number >= 1:
                raise ValueError(f'--{name} must be 1 or more, not {number}')


def parse_settings(groups):
    """{key: value} of --set, which may be repeated and takes several KEY=VALUE each time."""
    settings = {}
    for item in (item for group in groups for item in group):
        key, equals, text = item.partition('=')
        if not equals or not key:
            raise ValueError(f'--set takes KEY=VALUE, as in --set epochs=3, not {item!r}')
        settings[key] = read_value(key, text)
    return settings


def at_home(word):
    """An argument with `~` as the shell would have it, which leaves `--out=~/g` and
    `clip_pretrained=~/w.pt` alone."""
    return re.sub(r'^(-*[\w-]+=)?~(?=[/\\])',
                  lambda found: (found[1] or '') + os.path.expanduser('~'), word)


def run(argv):
    """Call what `argv` names; returns its exit status. SystemExit after help or a mistake."""
    try:
        return app.cli(prog='glscl', args=argv, description=OVERVIEW, config=CONFIG) or 0
    except SystemExit as end:
        if end.code == 2 and argv[0] in COMMANDS:
            print(f'glscl {argv[0]} --help lists what there is', file=sys.stderr)
        raise
    finally:
        sys.stdout.flush()  # so that a closed pipe is met here and not when Python ends


def main(argv=None):
    """The entry point; returns the exit status, 1 where the user has to change something."""
    argv = [at_home(word) for word in (sys.argv[1:] if argv is None else argv)]
    for name in ('stdout', 'stderr'):
        if getattr(sys, name) is None:  # closed by whoever began this, as `>&-` does
            setattr(sys, name, open(os.devnull, 'w'))
        else:  # for names that the terminal cannot show
            getattr(sys, name).reconfigure(errors='backslashreplace')
    if argv == ['--version']:
        print(f'glscl {__version__}')
        return 0
    command = ' '.join(['glscl', *argv[:2 if argv[:1] == ['bench'] else 1]])
    try:
        with warnings_as_lines(), ended_as_interrupted():
            return run(argv or ['--help'])
    except BrokenPipeError:  # whoever read the output has enough, as in `glscl … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt as stop:
        print(f'{command}: {shown(stop) or "stopped"}', file=sys.stderr)
        return getattr(stop, 'status', 130)
    except MemoryError:
        print(f'{command}: out of memory: make the batch smaller', file=sys.stderr)
        return 1
    except RuntimeError as error:
        if 'home directory' not in str(error):
            raise
        print(f'{command}: this user has no home folder: set GLSCL_CACHE, or HOME, to a folder',
              file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        text = str(error)
        if isinstance(error, OSError) and error.filename and error.strerror:  # the system's own
            text = f'{error.filename}: {error.strerror}'
        print(f'{command}: {shown(" ".join(text.splitlines()))}', file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
