"""How alike concepts are, how hard the losses pull at them, and how much they say in the score."""
import math

import numpy as np
import pandas as pd
import torch

from ..encoders import normalised
from ..evaluation import encode
from ..interaction import global_similarity, local_similarity
from .tables import variants


@torch.no_grad()
def alike(concepts):
    """Mean cosines of concepts [N, Q, D] of length 1: dict(within, between).

    within: two concepts of one item (nan for Q = 1); between: the q-th concepts of two items.
    1 is one and the same."""
    c = concepts.double()
    N, Q, _ = c.shape
    within = (c.sum(1).square().sum(-1) - Q) / max(1, Q * (Q - 1))          # [N]
    between = (c.sum(0).square().sum(-1) - N) / max(1, N * (N - 1))         # [Q]
    return dict(within=float(within.mean()) if Q > 1 else float('nan'),
                between=float(between.mean()))


@torch.no_grad()
def parts(model, texts, videos):
    """(S_g, S_l) [T, V] of what a GLSCL with a local module encoded, each without its weight."""
    S_g = global_similarity(texts.sentence, videos.frames, videos.mask, model.config.temperature,
                            videos.gram)
    return S_g, local_similarity(texts.concepts, videos.concepts)


@torch.no_grad()
def measures(model, texts, videos):
    """What became of a model's concepts: dict(videos, texts: as `alike`; std_global, std_local: by
    how much S_g and S_l differ from pair to pair)."""
    S_g, S_l = parts(model, texts, videos)
    return dict(videos=alike(videos.concepts), texts=alike(texts.concepts),
                std_global=float(S_g.std()), std_local=float(S_l.std()))


@torch.no_grad()
def layer_by_layer(local, frames, mask):
    """Where the concepts of a video meet on their way through a LocalInteraction's decoder: array
    [layers, 2], of each layer the mean cosine of what two queries read, and of what they became.

    frames [V, F, D], mask [V, F]."""
    seen = []

    def note(module, given, out):
        x = out[0] if isinstance(out, tuple) else out                       # [V, Q, D]
        seen.append(alike(normalised(x))['within'])
    watched = [part for layer in local.video_decoder.layers
               for part in (layer.multihead_attn, layer.norm3)]
    handles = [part.register_forward_hook(note) for part in watched]
    try:
        local.video_concepts(frames, mask)
    finally:
        for handle in handles:
            handle.remove()
    return np.array(seen).reshape(-1, 2)


PARTS = {'clip.clip.visual': 'image tower', 'clip.clip.logit_scale': 'scale', 'clip': 'text tower',
         'temporal': 'temporal', 'local.video_queries': 'queries', 'local': 'decoder'}


def gradients(model, losses):
    """How hard each loss pulls at each part of a GLSCL: {(loss, part): length of its gradient}.

    losses: `Losses` whose graph is still there; it stays. 0 where a loss does not reach."""
    names, tensors = zip(*model.named_parameters())
    parts_of = [next(part for start, part in PARTS.items() if name.startswith(start))
                for name in names]
    sizes = {}
    for loss in ('contrastive', 'inter_consistency', 'intra_diversity'):
        found = torch.autograd.grad(getattr(losses, loss), tensors, retain_graph=True,
                                    allow_unused=True)
        for part, g in zip(parts_of, found):
            key = loss.replace('_', '-'), part
            sizes[key] = math.hypot(sizes.get(key, 0.0), 0.0 if g is None else float(g.norm()))
    return sizes


def watch(trainer, every, until):
    """Train from where a Trainer is to step `until`, with a look at the concepts of its validation
    split now and then: a list of dict(step, and the `measures`), the first before any step."""
    looks = []

    def look():
        trainer.model.eval()
        found = measures(trainer.model, *encode(trainer.model, trainer.val))
        trainer.model.train()
        looks.append(dict(step=trainer.step, **found))
    look()
    for batch in trainer.batches(until):
        trainer.history.append(trainer.train_step(batch))
        if trainer.step % every == 0:
            look()
    return looks


def table(runs):
    """What became of the local module in the stored runs of a sweep (`in_process`), a row a
    variant, means over seeds: R@1 of the sum and of each part alone, cosines of concepts, how much
    S_l varies beside S_g, and how many captions score their video above its twin. A DataFrame;
    nan where there is no local module."""
    rows = {}
    for name, of_name in variants(runs).items():
        seeds = [_row(run) for run in of_name]
        mean = {key: float(np.mean([seed[key] for seed in seeds])) for key in seeds[0]}
        rows[name] = {'seeds': len(seeds), **mean}
    return pd.DataFrame.from_dict(rows, 'index')


def found_by_both(runs, form, other='global only'):
    """Of the captions whose video the S_l of `form` ranks first by itself, the share that `other`
    finds as well; each seed of one with the same seed of the other, the mean over seeds."""
    groups = variants(runs)
    others = {run['seed']: np.array(run['ranks']['t2v']) <= 1 for run in groups[other]}
    shares = [others[run['seed']][np.array(run['local_ranks']) <= 1].mean()
              for run in groups[form] if run['seed'] in others]
    return float(np.mean(shares))


def _row(run):
    nan = float('nan')
    found = run.get('concepts', dict(videos=dict(within=nan, between=nan), std_local=nan,
                                     std_global=nan))
    twins = run['more_captions']['bound']['before_twin']
    return {'R@1': 100 * np.mean(np.array(run['ranks']['t2v']) <= 1),
            'R@1 of S_l': 100 * np.mean(np.array(run['local_ranks']) <= 1)
            if 'local_ranks' in run else nan,
            'within': found['videos']['within'], 'between': found['videos']['between'],
            'S_l / S_g': found['std_local'] / found['std_global'],
            'before twin': 100 * np.mean(twins['both']),
            'before twin, S_l': 100 * np.mean(twins['local']) if 'local' in twins else nan,
            'parameters': run['parameters_of_local']}
