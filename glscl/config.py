"""Every setting of the method in one place, with its symbol in the paper; recipes are files of
settings."""
import dataclasses
import difflib
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .runtime.files import read_yaml

REPOSITORY = 'https://github.com/glscl/glscl'


@dataclass
class Config:
    """Settings of model and training, checked when they are set: a wrong one raises ValueError
    with its name and what is allowed. Defaults are the paper's MSR-VTT recipe with ViT-B/32."""
    # data
    dataset: str = 'shapes'      # or msrvtt, msrvtt7k, msvd, lsmdc, didemo, activitynet, own
    sampling: str = 'stride'     # as the released loaders: "stride" for MSR-VTT, MSVD, LSMDC;
    #                              "seconds" for DiDeMo and ActivityNet
    reader: str = 'auto'         # "pyav", "decord"; auto is PyAV, which is right on more files
    cache_frames: bool = True    # keep decoded frames on disk; False: decode at every use
    select_on: str = 'val'       # picks the checkpoint; "test" as released, or "held_out" of train
    # encoders
    clip: str = 'ViT-B-32'       # open_clip's name, or "small": the shipped one
    clip_pretrained: str | None = 'openai'  # open_clip's tag or a local file; None: random
    freeze_clip: bool = False    # train what stands on top of CLIP only
    grad_checkpointing: bool = False  # recompute CLIP's activations in backward: slower, smaller
    compile: bool = False        # torch.compile of the image tower: needs a C++ compiler
    cuda_graph: bool = False     # on one CUDA device: record a step, replay it (`glscl.cuda_graph`)
    deterministic: bool = False  # on CUDA the same numbers again, bit by bit; slower
    max_words: int = 32          # L, tokens, start and end included
    max_frames: int = 12         # F
    framerate: float = 1.0       # frames a second before thinning to max_frames
    temporal: str = 'transformer'  # "transformer" | "none" | "lstm"
    temporal_layers: int = 4
    # interaction
    head: str = 'GLSCL'          # or a rival of `glscl.heads`: same encoders, its own loss
    pooling: str = 'text'        # "text": the global module; "mean": CLIP4Clip's mean of frames
    temperature: float = 3.0     # tau of the global module, on un-normalised features
    global_weight: float = 1.0   # of S_g in the score; 0 for an ablation, no symbol in the paper
    local_weight: float = 0.5    # lambda; 0 leaves the local module out
    num_queries: int = 8         # Q
    decoder_layers: int = 3
    share_queries: bool = True
    share_decoder: bool = True
    mask_padding: bool = True    # False: padded words and frames are attended to, as released
    local_form: str = 'decoder'  # the paper's, or another of `glscl.local_forms`
    local_centred: bool = False  # True: tokens less their mean (`glscl.local_forms`)
    # losses
    consistency: bool = True     # False: none (beta 0 would leave its first term)
    consistency_weight: float = 0.005  # beta
    consistency_target: float = 0.75   # the cosine that paired concepts are drawn to
    diversity_weight: float = 1e-4     # alpha
    diversity_margin: float = 0.1      # m
    diversity_sides: str = 'both'      # "both" as the paper says, "visual" as released
    diversity_per_item: bool = False   # True: each item's concepts, not their mean over the batch
    local_loss: float = 0.0            # of a contrastive loss on S_l alone, beside the one on S
    released_losses: bool = False      # the released code's losses, otherwise ours
    released: bool = False             # the released code wherever it differs (RELEASED below)
    # training
    optimizer: str = 'adamw'     # torch's; "bert_adam": the released code's
    batch_size: int = 128        # captions a step, over all processes: the negatives of each
    chunk: int = 0               # captions encoded at a time (gradient caching); 0: all at once
    epochs: float = 5.0
    lr: float = 1e-4             # new modules
    clip_lr: float = 1e-7        # CLIP
    weight_decay: float = 0.2
    warmup: float = 0.1          # share of all steps
    grad_clip: float = 1.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            checked = _checked(field.name, field.type, getattr(self, field.name))
            setattr(self, field.name, checked)
        # `released` stands for several settings; what they were without it is kept for `replace`.
        self._own = {}
        if self.released:
            self._impose(mask_padding=False, released_losses=True, optimizer='bert_adam')
        if self.released_losses:
            self._impose(diversity_sides='visual')
        if not self.global_weight and not self.local_weight:
            raise ValueError('global_weight and local_weight are both 0: nothing is left to score '
                             'with')
        if self.chunk and self.released and self.temporal == 'lstm':
            raise ValueError('chunk cannot give the gradients of the whole batch here: what the '
                             'released LSTM makes of padding depends on the longest video beside '
                             'it; set chunk to 0')

    def _impose(self, **settings):
        for name, value in settings.items():
            self._own[name] = getattr(self, name)
            setattr(self, name, value)

    def replace(self, **changes):
        """A copy with some settings changed; ValueError for an unknown name or a wrong value."""
        refuse_unknown(changes, SETTINGS, 'settings')
        return Config(**{**dataclasses.asdict(self), **self._own, **changes})


SETTINGS = [field.name for field in dataclasses.fields(Config)]

CHOICES = dict(
    sampling=('stride', 'seconds'), reader=('auto', 'pyav', 'decord'),
    select_on=('val', 'test', 'held_out'), temporal=('transformer', 'none', 'lstm'),
    pooling=('text', 'mean'), local_form=('decoder', 'fresh', 'cross', 'slots'),
    diversity_sides=('both', 'visual'), optimizer=('adamw', 'bert_adam'))

# The least and the greatest value of each number: generous, and far below what exhausts memory.
RANGES = dict(
    max_words=(3, 1024), max_frames=(1, 1024), framerate=(1e-3, 1e3), temporal_layers=(1, 48),
    temperature=(1e-6, 1e9), global_weight=(0, 1e6), local_weight=(0, 1e6), num_queries=(1, 1024),
    decoder_layers=(1, 48), consistency_weight=(0, 1e6), consistency_target=(-1, 1),
    diversity_weight=(0, 1e6), diversity_margin=(0, 2), batch_size=(1, 2 ** 20),
    chunk=(0, 2 ** 20), epochs=(1e-6, 1e6), lr=(1e-12, 10), clip_lr=(0, 10),
    weight_decay=(0, 100), warmup=(0, 1), grad_clip=(1e-12, 1e12), local_loss=(0, 1e6))


def _checked(name, kind, value):
    """The value in its own type. YAML takes 1e-4 for text, papermill gives `false` as text."""
    if kind is bool:
        return _switch(name, value)
    if kind in (int, float):
        return _number(name, kind, value)
    if kind == str | None and str(value).strip().lower() in ('none', 'null', '~', ''):
        return None
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f'{name} must be text, not {value!r}')
    if name in CHOICES and value not in CHOICES[name]:
        raise ValueError(f'{name} is one of {", ".join(CHOICES[name])}, not {value!r}')
    return str(value)


def _switch(name, value):
    yes, no = ('true', 'yes', 'on', '1'), ('false', 'no', 'off', '0')  # YAML's, and papermill's
    if (word := str(value).strip().lower()) not in yes + no:
        raise ValueError(f'{name} must be true or false, not {value!r}')
    return word in yes


def _number(name, kind, value):
    least, greatest = RANGES[name]
    a_number = 'a whole number' if kind is int else 'a number'
    wrong = f'{name} must be {a_number} from {least:g} to {greatest:g}, not {value!r}'
    if isinstance(value, bool):
        raise ValueError(wrong)
    try:
        number = kind(value)
        exact = number == float(value)  # 31.5 is no whole number
    except (TypeError, ValueError, OverflowError):
        raise ValueError(wrong) from None
    if not exact or not math.isfinite(number) or not least <= number <= greatest:
        raise ValueError(wrong)
    return number


def refuse_unknown(names, known, source):
    """ValueError for the first of `names` that is not `known`, with the nearest that is."""
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f'; did you mean {near[0]!r}?' if near else ''
            raise ValueError(f'{source}: unknown key {name!r}{hint} Known keys: {", ".join(known)}')


def load_config(recipe: 'str | os.PathLike | Config' = 'shapes', **changes: Any) -> Config:
    """The Config of a recipe: a name in data/recipes, the path of a YAML file, or a Config;
    `changes` override it. ValueError names the file, the setting and what is allowed."""
    refuse_unknown(changes, SETTINGS, 'overrides')
    if isinstance(recipe, Config):
        return recipe.replace(**changes)
    path = Path(recipe)
    if path.suffix not in ('.yaml', '.yml'):
        path = data_path('recipes') / f'{recipe}.yaml'
        if not path.is_file():
            have = ', '.join(sorted(p.stem for p in path.parent.glob('*.yaml')))
            raise ValueError(f'unknown recipe {recipe!r}; there are {have}, or give a .yaml file')
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such recipe file')
    settings = read_yaml(path)
    refuse_unknown(settings, SETTINGS, path)
    return Config(**{**settings, **changes})


def data_path(name):
    """A file shipped in data/: beside the package in a clone, inside it once installed."""
    here = Path(__file__).parent
    for root in (here.parent / 'data', here / 'shipped'):
        if (root / name).exists():
            return root / name
    raise FileNotFoundError(f'{name} is not among the files shipped with glscl: is the '
                            f'installation complete?')


def cache_dir():
    """Where rendered videos, decoded frames and runs go unless named: $GLSCL_CACHE, else
    ~/.cache/glscl."""
    return Path(os.environ.get('GLSCL_CACHE') or Path.home() / '.cache' / 'glscl')
