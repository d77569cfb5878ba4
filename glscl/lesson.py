"""What each notebook begins with: a profile turned into settings, data and a model."""
from dataclasses import dataclass
from pathlib import Path

from .config import Config, cache_dir, load_config
from .datasets import load_shapes
from .runtime import machine, pick_device
from .training import load_model

# videos: how many of each split (None: all); settings: what changes in the recipe
PROFILES = {
    'tiny': dict(videos=dict(train=64, val=16, test=24), settings=dict(batch_size=16, epochs=0.5)),  # a smoke test
    'small': dict(videos=None, settings={}),                                                         # minutes on 2 cores
    'large': dict(videos=None, settings=dict(batch_size=128, epochs=20)),                            # for a GPU
}


@dataclass
class Lesson:
    """config; videos {split: number} or None; seed; device; data_dir and run_dir as paths."""
    config: Config
    videos: dict | None
    seed: int
    device: object
    data_dir: Path
    run_dir: Path

    def load(self, split, captions='one'):
        """Pairs of a split of `shapes` (rendered and decoded on first use)."""
        return load_shapes(self.config, split, captions, self.data_dir, self.videos)

    def model(self):
        """The model that 04_training left in run_dir, else the shipped one."""
        trained = self.run_dir / 'best.safetensors'
        return load_model(trained if trained.exists() else None, device=self.device)

    def report(self):
        """A few lines about the machine and where things are kept."""
        facts = machine()
        trained = (self.run_dir / 'best.safetensors').exists()
        print(f"device {self.device} on {facts['hardware']}; Python {facts['python']}, "
              + ', '.join(f'{k} {v}' for k, v in facts['versions'].items()))
        print(f"seed {self.seed}; model: {'of your own run' if trained else 'the shipped checkpoint'}")


def begin(profile='small', seed=0, device='auto', data_dir='', run_dir='', recipe='shapes', **settings):
    """Turn a notebook's parameters into a Lesson; `settings` override the profile's. Empty folders mean the user's cache."""
    if profile not in PROFILES:
        raise ValueError(f'unknown profile {profile!r}; there are {", ".join(PROFILES)}')
    chosen = PROFILES[profile]
    config = load_config(recipe, **{**chosen['settings'], **settings})
    root = cache_dir()
    return Lesson(config, chosen['videos'], seed, pick_device(device), Path(data_dir).expanduser() if data_dir else root,
                  Path(run_dir).expanduser() if run_dir else root / 'runs' / f'{profile}-{seed}')
