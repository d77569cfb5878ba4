"""What each notebook begins with: a profile turned into settings, data and a model."""
import dataclasses
from dataclasses import dataclass
from pathlib import Path

from .config import Config, cache_dir, load_config
from .data.splits import load_split
from .runtime.devices import machine, pick_device
from .checkpoints import load_model

# videos: how many of each split of `shapes` (None: all); settings: what changes in its recipe
PROFILES = {
    'tiny': dict(videos=dict(train=64, val=16, test=24), settings=dict(batch_size=16, epochs=0.5)),  # a smoke test
    'small': dict(videos=None, settings={}),                                                         # minutes on 2 cores
    'large': dict(videos=None, settings=dict(batch_size=128, epochs=20)),                            # for a GPU
}


@dataclass
class Lesson:
    """config; profile; videos {split: number} or None; seed; device; data_dir and run_dir as paths."""
    config: Config
    profile: str
    videos: dict | None
    seed: int
    device: object
    data_dir: Path
    run_dir: Path

    def load(self, split, captions='one'):
        """Pairs of a split (`shapes` is rendered on first use)."""
        return load_split(self.config, split, self.data_dir, captions, self.videos)

    def model(self):
        """The model that 04_training left in run_dir; for `shapes` the shipped one if there is none."""
        trained = self.run_dir / 'best.safetensors'
        if not trained.exists() and self.config.dataset != 'shapes':
            raise FileNotFoundError(f'{trained}: no model for {self.config.dataset} yet. Train one with 04_training or '
                                    f'`python -m glscl.training` under the same recipe, and name its folder as run_dir')
        return load_model(trained if trained.exists() else None, device=self.device)

    def at_home(self):
        """This lesson if it is about `shapes`, else one with the embedded world and the shipped model: what needs to know
        every fact about every video can be shown nowhere else."""
        return self if self.config.dataset == 'shapes' else begin(self.profile, self.seed, self.device)

    def report(self):
        """A few lines about the machine and where things are kept."""
        facts, trained = machine(), (self.run_dir / 'best.safetensors').exists()
        model = 'of your own run' if trained else 'the shipped checkpoint' if self.config.dataset == 'shapes' else 'none trained yet'
        print(f"device {self.device} on {facts['hardware']}; Python {facts['python']}, "
              + ', '.join(f'{k} {v}' for k, v in facts['versions'].items()))
        print(f"data {self.config.dataset}; seed {self.seed}; model: {model}")


def given(names):
    """The settings among a notebook's variables: what its parameters cell, `papermill -p` or a recipe (`papermill -f`) named.

    names: globals() of the notebook."""
    return {f.name: names[f.name] for f in dataclasses.fields(Config) if f.name in names}


def begin(profile='small', seed=0, device='auto', data_dir='', run_dir='', **settings):
    """Turn a notebook's parameters into a Lesson; `settings` override the profile's.

    Empty folders mean the user's cache. A data set other than `shapes` starts from the paper's defaults and needs its data_dir."""
    if profile not in PROFILES:
        raise ValueError(f'unknown profile {profile!r}; there are {", ".join(PROFILES)}')
    chosen, dataset, root = PROFILES[profile], settings.get('dataset', 'shapes'), cache_dir()
    if dataset == 'shapes':
        config, name = load_config('shapes', **{**chosen['settings'], **settings}), f'{profile}-{seed}'
    elif data_dir:
        config, name = Config(**settings), f'{dataset}-{seed}'
    else:
        raise ValueError(f'{dataset} lies where you keep it: name its folder as data_dir (layout: data/README.md)')
    return Lesson(config, profile, chosen['videos'], seed, pick_device(device), Path(data_dir).expanduser() if data_dir else root,
                  Path(run_dir).expanduser() if run_dir else root / 'runs' / name)
