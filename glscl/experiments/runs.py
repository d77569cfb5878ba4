"""One run from a recipe to result.json, and the evaluation of a saved one."""
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from .. import heads
from ..checkpoints import checkpoint_file, read_run_state, save_result, writing
from ..clip_models import ClipModel
from ..config import Config, load_config
from ..data.pairs import Pairs
from ..datasets.splits import bank_captions, load_shapes, load_split, load_test
from ..evaluation import encode, evaluate, measure
from ..journal import read_history
from ..metrics import KS
from ..runtime import distributed, turns
from ..runtime.devices import pick_device, seed_everything
from ..runtime.locks import one_writer
from ..runtime.terminal import shown
from ..score import encode_captions
from ..training import Trainer
from .rescore import rescore, save_similarity

Folder = str | os.PathLike


def train(recipe: str | os.PathLike = 'shapes', run_dir: str | os.PathLike = 'runs/default',
          data_dir: Folder | None = None, seed: int = 0, device: str = 'auto',
          settings: dict[str, Any] | None = None) -> None:
    """Train a recipe on its data set, evaluate on the test split, write run_dir/result.json.

    recipe: a name, or a YAML file; settings {name: value} override it. Goes on where run_dir was
    left. Started by torchrun, all processes train together. Errors as `load_config`, `load_split`
    and `Trainer` raise them, before a video is decoded where it can be known."""
    settings, asked = settings or {}, device
    config = load_config(recipe, **settings)
    with distributed.processes(device) as device, one_writer(run_dir):
        device = pick_device(device)
        seed_everything(seed)
        model = heads.build(config).to(device)
        model.check_lengths()
        if config.batch_size < 2:
            raise ValueError('a batch of 1 caption has nothing to contrast: raise batch_size')
        check_run_dir(run_dir, config, seed)
        with turns.first_here():
            pairs, absent = load_splits(config, data_dir)
        trainer = Trainer(model, pairs['train'], pairs[config.select_on], run_dir, seed)
        if trainer.resume():
            say(f'going on at step {trainer.step}')
        model = trainer.run(log=say)
        measured = 'test' if 'test' in pairs else config.select_on
        metrics = evaluate(model, pairs[measured])[1]
        extra = by_kind(model, config, data_dir)
        if not trainer.writes:
            return
        command = ['glscl', 'train', '--recipe', recipe, '--run-dir', run_dir, '--seed', seed]
        command += ['--data-dir', data_dir] if data_dir else []
        command += ['--device', asked] if asked != 'auto' else []
        command += ['--set', *(f'{k}={v}' for k, v in settings.items())] if settings else []
        save_result(Path(run_dir) / 'result.json', data=config.dataset, split=measured,
                    selected_on=config.select_on, recipe=str(recipe), overrides=settings,
                    seed=seed, steps=trainer.total, processes=distributed.world(),
                    train_seconds=round(trainer.seconds), metrics=metrics, **extra,
                    pairs=pairs, videos=absent,
                    command=shlex.join(map(str, command)))
        if measured != 'test':
            print(f'measured on the split "{measured}", which also picked the checkpoint: '
                  f'optimistic')
        print_metrics(metrics, pairs[measured])


def load_splits(config: Config,
                data_dir: Folder | None = None) -> tuple[dict[str, Pairs], dict[str, dict]]:
    """What a run needs: {split: Pairs} of train, the one that picks the checkpoint and test, and
    {split: its counts} of a test split of which nothing is there, under select_on="held_out"."""
    measured, absent = load_test(config, data_dir, log=say)  # the smallest is decoded first
    others = {split: load_split(config, split, data_dir, log=say)
              for split in ('train', config.select_on) if split not in measured}
    return {**others, **measured}, absent


def say(line: str) -> None:
    """print one line, in the first process only; what comes from files in it steers no terminal."""
    distributed.say(shown(line))


def check_run_dir(run_dir: Folder, config: Config, seed: int) -> None:
    """Refuse, before anything long begins, a folder that cannot be written to (OSError), or that
    holds a run with other settings (ValueError)."""
    run_dir = Path(run_dir)
    with writing(run_dir / 'run_dir') as half_written:
        half_written.touch()
    (run_dir / 'run_dir').unlink(missing_ok=True)  # another process may have been as far
    if (run_dir / 'last.pt').exists():
        read_run_state(run_dir / 'last.pt', config, seed=seed)


def by_kind(model: ClipModel, config: Config, data_dir: Folder | None) -> dict:
    """The metrics of each kind of caption, on `shapes`: {'by_kind': {kind: metrics}}, else {}."""
    if config.dataset != 'shapes':
        return {}
    return dict(by_kind={kind: evaluate(model, load_shapes(config, 'test', kind, data_dir))[1]
                         for kind in ('scene', 'order')})


def evaluate_run(run: Folder, data_dir: Folder | None = None, split: str = 'test',
                 device: str = 'auto', out: Folder | None = None, rescored: bool = False,
                 similarity: Folder | None = None) -> dict:
    """Evaluate a saved checkpoint on a split of its data set, and print the metrics.

    run: a run's folder or a .safetensors file. rescored: also with QB-Norm (its bank is the first
    caption of each training video) and with dual softmax, each apart. out: also a JSON file of the
    metrics. similarity: also an .npz file for `glscl rescore`. Of torchrun's processes, which
    encode together, only the first does so; the others return None."""
    encoded = _encoded(run, data_dir, split, device)
    if encoded is None:
        return None
    model, split, pairs, texts, videos = encoded
    config = model.config
    S, metrics = measure(model, texts, videos, pairs)
    print_metrics(metrics, pairs)
    if similarity:
        print(f'wrote {save_similarity(similarity, S, pairs.text_to_video)}')
    after = {}
    if rescored:
        bank = encode_captions(model, bank_captions(config, data_dir))
        bank = model.similarity(bank, videos).float().cpu()
        after = rescore(S, pairs.text_to_video, dict(t2v=bank), dual=True)
        after.pop('plain')
        for name, sides in after.items():
            print(f'{name}, which sees many queries at once:')
            print_metrics(sides)
    if out:
        save_result(out, data=config.dataset, split=split, metrics=metrics,
                    pairs={split: pairs}, checkpoint=checkpoint_file(run).name, **after)
    return metrics


def _encoded(run, data_dir, split, device):
    """(model, split, Pairs, Texts, Videos) of a split, encoded by all of torchrun's processes and
    given to the first; None in the others."""
    with distributed.processes(device) as device:
        model = heads.load(run, device=pick_device(device))
        with turns.first_here():
            if split == 'test':
                [(split, pairs)] = load_test(model.config, data_dir, log=say)[0].items()
            else:
                pairs = load_split(model.config, split, data_dir, log=say)
        texts, videos = encode(model, pairs)
        return (model, split, pairs, texts, videos) if distributed.rank() == 0 else None


def export_features(run: Folder, out: Folder, data_dir: Folder | None = None, split: str = 'test',
                    device: str = 'auto') -> None:
    """Everything that a model encodes of a split into one file, .npz or .safetensors.

    The arrays are those of its Texts and Videos, named text_… and video_… (`text_sentence` [T, D],
    `video_frames` [V, F, D], `video_mask` [V, F], …), and `text_to_video` [T]; ids and captions
    lie beside them in a table of the same name, .csv."""
    out = Path(out)
    if out.suffix not in ('.npz', '.safetensors'):
        raise ValueError(f'{out}: name a file that ends in .npz or .safetensors')
    encoded = _encoded(run, data_dir, split, device)
    if encoded is None:  # not the first of torchrun's processes
        return
    _, _, pairs, *both = encoded
    arrays = {'text_to_video': pairs.text_to_video}
    for side, items in zip(('text', 'video'), both):
        arrays |= {f'{side}_{name}': x.cpu().contiguous() for name, x in vars(items).items()
                   if x is not None}
    with writing(out) as half:
        if out.suffix == '.safetensors':
            save_file(arrays, half)
        else:
            with open(half, 'wb') as file:  # given a name, numpy would add .npz
                np.savez(file, **{name: _numpy(x) for name, x in arrays.items()})
    with writing(out.with_suffix('.csv')) as half:
        pairs.table.to_csv(half, index=False)
    shapes = ', '.join(f'{name} {list(x.shape)}' for name, x in arrays.items())
    print(f'wrote {out}: {shapes}; captions and ids are in {out.with_suffix(".csv").name}')


def _numpy(x):
    return (x.float() if x.dtype == torch.bfloat16 else x).numpy()  # NumPy has no bfloat16


def draw_curves(run_dirs: Sequence[Folder], out: Folder) -> None:
    """Draw the learning curves of runs, from the history.json of each, into a picture.

    FileNotFoundError for a folder without one; ValueError for one that is none."""
    import matplotlib.pyplot as plt

    from .. import plots
    if not run_dirs:
        raise ValueError('name the folders of the runs')
    kind = Path(out).suffix[1:]
    if kind not in ('png', 'svg', 'pdf'):
        raise ValueError(f'{out}: name a picture that ends in .png, .svg or .pdf')
    histories = {str(run): read_history(run) for run in run_dirs}
    plots.style()
    if len(histories) == 1:
        plots.learning_curves(*histories.values())
    else:
        plots.compare_runs(histories)
    with writing(out) as half:
        plt.savefig(half, format=kind, dpi=150)
    for run, history in histories.items():
        last, recalls = history[-1], [row['val R@1'] for row in history if 'val R@1' in row]
        best = f', best validation R@1 {max(recalls):.1f}' if recalls else ''
        print(f'{run}: {last["step"]} steps, loss {last["total"]:.3f}{best}')
    print(f'wrote {out}')


def print_metrics(metrics: dict, pairs: Pairs | None = None) -> None:
    """A line a direction; and one before them where videos of the split are missing."""
    if pairs is not None and pairs.counts['used'] < pairs.counts['listed']:
        told = '{used:,} of the {listed:,} videos of this split ({missing:,} not there, ' \
               '{unreadable:,} unreadable): no number of the whole split'
        print('measured on', told.format(**pairs.counts))
    for direction, m in metrics.items():
        keys = [f'R@{k}' for k in KS] + ['MdR', 'MnR']
        print(direction, ' '.join(f'{key} {m[key]:.1f}' for key in keys))
