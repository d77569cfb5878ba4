"""One run from a recipe to result.json, and the evaluation of a saved one."""
import shlex
from pathlib import Path

from .. import heads
from ..checkpoints import checkpoint_file, save_result
from ..config import load_config
from ..datasets.splits import load_shapes, load_split
from ..evaluation import evaluate
from ..metrics import KS
from ..runtime import distributed
from ..runtime.devices import pick_device, seed_everything
from ..runtime.locks import one_writer
from ..runtime.terminal import shown
from ..training import Trainer


def train(recipe='shapes', run_dir='runs/default', data_dir=None, seed=0, device='auto',
          settings=None):
    """Train a recipe on its data set, evaluate on the test split, write run_dir/result.json.

    recipe: a name, or a YAML file; settings {name: value} override it. Goes on where run_dir was
    left. Started by torchrun, all processes train together. Errors as `load_config`, `load_split`
    and `Trainer` raise them."""
    settings = settings or {}
    config = load_config(recipe, **settings)
    with distributed.processes(device) as device, one_writer(run_dir):
        with distributed.first_here():
            pairs = {split: load_split(config, split, data_dir, log=say)
                     for split in dict.fromkeys(('train', config.select_on, 'test'))}
        seed_everything(seed)
        model = heads.build(config).to(pick_device(device))
        trainer = Trainer(model, pairs['train'], pairs[config.select_on], run_dir, seed)
        if trainer.resume():
            say(f'going on at step {trainer.step}')
        model = trainer.run()
        metrics = evaluate(model, pairs['test'])[1]
        extra = by_kind(model, config, data_dir)
        if not trainer.writes:
            return
        command = ['glscl', 'train', '--recipe', str(recipe), '--seed', str(seed)]
        if settings:
            command += ['--set', *(f'{k}={v}' for k, v in settings.items())]
        save_result(Path(run_dir) / 'result.json', data=config.dataset, split='test',
                    selected_on=config.select_on, recipe=str(recipe), overrides=settings,
                    seed=seed, steps=trainer.total, processes=distributed.world(),
                    train_seconds=round(trainer.seconds), metrics=metrics, **extra,
                    command=shlex.join(command))
        print_metrics(metrics)


def say(line):
    """print one line, in the first process only; what comes from files in it steers no terminal."""
    distributed.say(shown(line))


def by_kind(model, config, data_dir):
    """The metrics of each kind of caption, on `shapes`: {'by_kind': {kind: metrics}}, else {}."""
    if config.dataset != 'shapes':
        return {}
    return dict(by_kind={kind: evaluate(model, load_shapes(config, 'test', kind, data_dir))[1]
                         for kind in ('scene', 'order')})


def evaluate_run(run, data_dir=None, split='test', device='auto', out=None):
    """Evaluate a saved checkpoint on a split of its data set, and print the metrics.

    run: a run's folder or a .safetensors file. out: also a JSON file of the metrics."""
    model = heads.load(run, device=pick_device(device))
    pairs = load_split(model.config, split, data_dir, log=say)
    metrics = evaluate(model, pairs)[1]
    print_metrics(metrics)
    if out:
        save_result(out, data=model.config.dataset, split=split, metrics=metrics,
                    checkpoint=checkpoint_file(run).name)
    return metrics


def print_metrics(metrics):
    """A line a direction."""
    for direction in ('t2v', 'v2t'):
        m = metrics[direction]
        keys = [f'R@{k}' for k in KS] + ['MdR', 'MnR']
        print(direction, ' '.join(f'{key} {m[key]:.1f}' for key in keys))
