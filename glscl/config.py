"""Every setting of the method in one place, with its symbol in the paper; recipes are files of settings."""
import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

import yaml

REPOSITORY = 'https://github.com/glscl/glscl'


@dataclass
class Config:
    """Settings of model and training. Symbols as in the paper; defaults are its MSR-VTT recipe with ViT-B/32."""
    # data
    dataset: str = 'shapes'             # "shapes" | "msrvtt" | "msrvtt7k" | "msvd" | "lsmdc" | "didemo" | "activitynet" | "own"
    sampling: str = 'stride'            # "stride": MSR-VTT, MSVD, LSMDC; "seconds": DiDeMo, ActivityNet (as their released loaders)
    cache_frames: bool = True           # keep decoded frames on disk; False: decode in workers at every use
    select_on: str = 'val'              # the split that picks the best checkpoint; "test": as the released code for three of the sets
    # encoders
    clip: str = 'ViT-B-32'              # open_clip's name, or "small": the shipped one
    clip_pretrained: str | None = 'openai'  # open_clip's tag or a local file; None: random weights
    freeze_clip: bool = False           # train what stands on top of CLIP only
    grad_checkpointing: bool = False    # recompute CLIP's activations in the backward pass: slower, far less memory
    compile: bool = False               # torch.compile of the image tower: needs a C++ compiler, and minutes at the start
    max_words: int = 32                 # L, tokens, start and end included
    max_frames: int = 12                # F
    framerate: float = 1.0              # frames a second before thinning to max_frames
    temporal: str = 'transformer'       # "transformer" | "none" | "lstm"
    temporal_layers: int = 4
    # interaction
    head: str = 'GLSCL'                 # or a rival of `heads.HEADS`, "X-Pool" say: same encoders, same training, its own loss
    pooling: str = 'text'               # "text": the global module; "mean": CLIP4Clip's mean over frames
    temperature: float = 3.0            # tau of the global module, on un-normalised features
    global_weight: float = 1.0          # of S_g in the score; 0: the local module alone (for ablations; no symbol in the paper)
    local_weight: float = 0.5           # lambda; 0 leaves the local module out
    num_queries: int = 8                # Q
    decoder_layers: int = 3
    share_queries: bool = True
    share_decoder: bool = True
    mask_padding: bool = True           # False: padded words and frames are attended to, as released
    # losses
    consistency: bool = True            # False: training without the inter-consistency loss (beta 0 would leave its first term)
    consistency_weight: float = 0.005   # beta
    consistency_target: float = 0.75    # the cosine that a text and a video concept are drawn to
    diversity_weight: float = 1e-4      # alpha
    diversity_margin: float = 0.1       # m
    diversity_sides: str = 'both'       # "both": as the paper says; "visual": as released
    released_losses: bool = False       # the released code's losses, under this optimizer and mask
    released: bool = False              # the released code's behaviour wherever it differs (losses, padding, optimizer)
    # training
    optimizer: str = 'adamw'            # "adamw": torch's; "bert_adam": the released code's
    batch_size: int = 128               # captions a step, over all processes: each is contrasted with all others
    chunk: int = 0                      # captions encoded at a time (gradient caching): less memory, same gradients; 0: all
    epochs: float = 5
    lr: float = 1e-4                    # new modules
    clip_lr: float = 1e-7               # CLIP
    weight_decay: float = 0.2
    warmup: float = 0.1                 # share of all steps
    grad_clip: float = 1.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if field.type in (int, float):
                setattr(self, field.name, _number(field.name, getattr(self, field.name), field.type))
        if self.released:
            self.mask_padding, self.released_losses, self.optimizer = False, True, 'bert_adam'
        if self.released_losses:
            self.diversity_sides = 'visual'
        for name, allowed in dict(temporal=('transformer', 'none', 'lstm'), pooling=('text', 'mean'), sampling=('stride', 'seconds'),
                                  diversity_sides=('both', 'visual'), optimizer=('adamw', 'bert_adam'), select_on=('val', 'test')).items():
            if getattr(self, name) not in allowed:
                raise ValueError(f'{name} is one of {", ".join(allowed)}, not {getattr(self, name)!r}')
        for name in ('temperature', 'max_words', 'max_frames', 'num_queries', 'batch_size', 'framerate', 'lr'):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name} must be positive, not {getattr(self, name)!r}')
        if not self.global_weight and not self.local_weight:
            raise ValueError('global_weight and local_weight are both 0: nothing is left to score with')
        if self.chunk < 0:
            raise ValueError(f'chunk is a number of captions, or 0 for the whole batch at once, not {self.chunk!r}')
        if self.chunk and self.released and self.temporal == 'lstm':
            raise ValueError('chunk cannot give the gradients of the whole batch here: what the released LSTM makes of padding '
                             'depends on the longest video beside it; set chunk to 0')

    def replace(self, **changes):
        """A copy with some settings changed; an unknown name raises ValueError."""
        return dataclasses.replace(self, **_known(changes, 'settings'))


def _number(name, value, kind):
    """The value as int or float: YAML takes 1e-4, written without a point, for text."""
    try:
        number = kind(value)
        if number != float(value):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f'{name} must be a {"whole " if kind is int else ""}number, not {value!r}') from None
    return number


def _known(settings, source):
    names = [f.name for f in dataclasses.fields(Config)]
    for key in settings:
        if key not in names:
            import difflib
            near = difflib.get_close_matches(key, names, 1)
            raise ValueError(f'{source}: unknown key {key!r}' + (f'; did you mean {near[0]!r}?' if near else '')
                             + f' Known keys: {", ".join(names)}')
    return settings


def load_config(recipe='shapes', **changes):
    """The Config of a recipe: a name in data/recipes, or a path to a YAML file; `changes` override it."""
    if isinstance(recipe, Config):
        return recipe.replace(**changes)
    path = Path(recipe)
    if path.suffix not in ('.yaml', '.yml'):
        try:
            path = data_path(f'recipes/{recipe}.yaml')
        except FileNotFoundError:
            have = sorted(p.stem for p in data_path('recipes').glob('*.yaml'))
            raise ValueError(f'unknown recipe {recipe!r}; there are {", ".join(have)}, or give a .yaml file') from None
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such recipe file')
    settings = yaml.safe_load(path.read_text(encoding='utf-8')) or {}
    return Config(**{**_known(settings, path), **_known(changes, 'overrides')})


def data_path(name):
    """A file shipped in data/: beside the package in a clone, inside it once installed."""
    here = Path(__file__).parent
    for root in (here.parent / 'data', here / 'shipped'):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(f'{name} is not among the files shipped with glscl: is the installation complete?')


def cache_dir():
    """Where rendered videos, decoded frames and runs go unless named: $GLSCL_CACHE, else ~/.cache/glscl."""
    return Path(os.environ.get('GLSCL_CACHE') or Path.home() / '.cache' / 'glscl')
