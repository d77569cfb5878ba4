"""Runs of a sweep without a notebook: one after the other in this process, with CLIP's features
computed once where it is frozen. What a run stores is what 05 would have, and more of the local
module: what became of its concepts, what it scores by itself, what it takes."""
import json
import time
from functools import lru_cache

import numpy as np
import torch

from ..config import SETTINGS, load_config, refuse_unknown
from ..datasets.bound import load_bound
from ..datasets.splits import load_shapes
from ..datasets.twins import load_twins
from ..evaluation import encode
from ..metrics import both_ranks, ranks, retrieval_metrics, summary, whole
from ..model import GLSCL
from ..runtime.devices import pick_device, seed_everything, whole_seed
from ..runtime.files import atomic_write
from ..runtime.records import machine
from ..training import Trainer
from . import attributes
from .concepts import layer_by_layer, measures, parts, watch
from .twins import own_before_twin

# parameters that are no settings
OWN = ('captions', 'steps', 'stop', 'watch', 'alone_first', 'videos', 'world')


def check(runs):
    """Refuse (ValueError) settings that cannot be, before the first run starts."""
    for one in runs:
        try:
            refuse_unknown(one['parameters'], (*OWN, *SETTINGS), 'parameters')
            _config(one['parameters'])
            whole_seed(one['seed'])
        except ValueError as error:
            raise ValueError(f'{one["name"]!r}: {error}') from None


def _config(parameters):
    settings = {key: value for key, value in parameters.items() if key not in OWN}
    return load_config('shapes', **settings)


def attempt(one, folder):
    """Train and evaluate one run of `sweep.expand`, and write folder/run.json; returns what that
    says.

    Its parameters are settings, and: captions, a list of test sets ("one", "scene", "order", "all",
    "bound", and the twins "order twins", "direction twins"); steps; stop, the step to end at;
    watch, so many steps from one look at the concepts of the validation split to the next
    (`concepts.watch`); alone_first, so many steps in which the local module scores alone; videos,
    {split: how many}; or world, "attributes": the world of `attributes` in place of `shapes`."""
    start, parameters, threads = time.time(), one['parameters'], torch.get_num_threads()
    torch.set_num_threads(1)  # so that a run is the same beside others
    try:
        if parameters.get('world'):
            result = attributes.attempt(parameters, one['seed'])
        else:
            result = _of_shapes(parameters, one['seed'])
        result = {**result, **machine(), **one, 'seconds': round(time.time() - start, 1)}
    finally:
        torch.set_num_threads(threads)
    with atomic_write(folder / 'run.json') as half:
        half.write_text(json.dumps(result), encoding='utf-8')
    return result


def _of_shapes(parameters, seed):
    """A GLSCL trained and evaluated on `shapes`."""
    config, videos = _config(parameters), tuple((parameters.get('videos') or {}).items())
    seed_everything(seed)
    model = GLSCL(config).to(pick_device('cpu'))
    train, val = _pairs(config, 'train', videos), _pairs(config, 'val', videos)
    steps = parameters.get('steps')
    trainer = Trainer(model, train, val, seed=seed, steps=steps, eval_every=10 ** 9)
    if alone := parameters.get('alone_first'):
        model.config = config.replace(global_weight=0, local_weight=1)
        trainer.run(until=alone, log=None)
        model.config = config
    curve = watch(trainer, parameters['watch'], parameters['stop']) if 'watch' in parameters else []
    model = trainer.run(until=parameters.get('stop'), log=None)
    result = dict(data='shapes', split='test', steps=trainer.total, batch=trainer.batch_size,
                  train_seconds=round(trainer.seconds, 1), more_captions={}, curve=curve,
                  validation=trainer.history[-1].get('val R@1'),
                  parameters_of_local=sum(p.numel() for p in model.local.parameters())
                  if model.local else 0)
    first, *more = parameters.get('captions', ['one'])
    result.update(_evaluated(model, _pairs(config, first, videos)), captions=first)
    for captions in more:
        result['more_captions'][captions] = _evaluated(model, _pairs(config, captions, videos))
    result['text_to_video'] = _pairs(config, first, videos).text_to_video.tolist()
    return result


@lru_cache(16)
def _kept(split, videos, sampling):
    config = load_config('shapes', **dict(sampling))
    if split == 'bound':
        return load_bound(config, videos=dict(videos).get('bound', 400))
    if split.endswith(' twins'):
        return load_twins(config, split.removesuffix(' twins'), dict(videos).get('twins', 200))
    part, captions = (split, 'one') if split in ('train', 'val') else ('test', split)
    rendered = {name: n for name, n in videos if name not in ('bound', 'twins')} or None
    return load_shapes(config, part, captions, videos=rendered)


def _pairs(config, split, videos):
    """A split, decoded once whatever the model."""
    names = ('max_words', 'max_frames', 'framerate')
    return _kept(split, videos, tuple((name, getattr(config, name)) for name in names))


@torch.no_grad()
def _evaluated(model, pairs):
    """Ranks and metrics on one set of captions, and what the local module has to do with them."""
    texts, videos = encode(model, pairs)
    S, owner = model.similarity(texts, videos), pairs.text_to_video
    both = both_ranks(S, owner)
    found = dict(metrics=retrieval_metrics(S, owner),
                 ranks={way: whole(rank) for way, rank in both.items()})
    scores = {'both': S}
    if model.local:
        scores['global'], scores['local'] = parts(model, texts, videos)
        found.update(concepts=measures(model, texts, videos), local_ms=_milliseconds(model, videos),
                     local_ranks=whole(ranks(scores['local'], owner)))
        if hasattr(model.local.video_decoder, 'layers'):
            found['layers'] = layer_by_layer(model.local, videos.frames, videos.mask).tolist()
    if 'twin' in pairs.table:
        found['own_first'] = {name: own_before_twin(score, pairs).tolist()
                              for name, score in scores.items()}
    elif 'kind' in pairs.table:
        kind = pairs.table['kind'].to_numpy()
        found['by_kind'] = {name: summary(both['t2v'][kind == name]) for name in np.unique(kind)}
    else:  # `bound`: video i and video i ^ 1 are twins
        rows = torch.arange(len(S))
        found['before_twin'] = {
            name: (score[rows, rows] > score[rows, rows ^ 1]).int().tolist()
            for name, score in scores.items()}
    return found


def _milliseconds(model, videos, repeats=3):
    """What the concepts of a video take, in milliseconds: the least of a few repeats."""
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        model.local.video_concepts(videos.frames, videos.mask)
        taken.append(time.perf_counter() - start)
    return round(1000 * min(taken) / len(videos), 4)
