"""How near scoring comes to the hardware: GLSCL's similarity beside its two matrix products.

Random features, float32, concepts and Gram matrices cached. Every round times each form once, so
that a ratio compares neighbours in time. Wall time needs a quiet machine: the load average is
printed, and with one thread the CPU time is a fair measure also on a busy one. All of it on the
CPU: a GPU's numbers are in `bench.gpu`."""
import itertools
import json
import os
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F

from ..heads.costs import concept_cost, pair_cost
from ..interaction import (
    LocalInteraction,
    global_similarity,
    global_similarity_printed,
    gram,
    local_similarity,
)
from ..model import GLSCL, Texts, Videos
from ..runtime.files import atomic_write
from ..runtime.records import machine, read_json
from .timing import rounds, spread, working_memory


@torch.no_grad()
def scoring(out='runs/bench/scoring.json', texts=1000, videos=1000, repeats=30, slow_repeats=3,
            threads=2):
    """Time scoring beside its matrix products; print the numbers, and write them as JSON.

    repeats: rounds; of the slow forms `slow_repeats`. out: a file of more rounds is not replaced
    (ValueError)."""
    stored = read_json(out) if Path(out).exists() else {}
    if stored.get('rounds', {}).get('scoring', 0) > repeats:
        raise ValueError(f'{out} holds more than this would measure: name another file')
    torch.set_num_threads(threads)
    T, V, (t, v) = texts, videos, features(texts, videos)
    model = GLSCL('shapes').eval()  # similarity takes features of any width
    before = _load_average()
    times = rounds(forms(t, v, model), repeats)
    slow = rounds(slow_forms(t, v, LocalInteraction(512).eval(), model), slow_repeats)
    load = dict(before=before, after=_load_average())
    ms = {name: dict(wall=spread(wall, 1e3), cpu=spread(cpu, 1e3))
          for name, (wall, cpu) in {**times, **slow}.items()}
    changes, S = {}, model.similarity(t, v)
    for name, dtype in (('bfloat16', torch.bfloat16), ('float16', torch.float16)):
        changes[name] = rank_changes(S, model.similarity(rounded(t, dtype), rounded(v, dtype)))
    macs = dict(products=T * V * (12 + 8) * 512, similarity=T * V * pair_cost('GLSCL', gram=True),
                concepts=T * concept_cost(32) + V * concept_cost(12))
    result = dict(
        command=f'glscl bench scoring --texts {T} --videos {V} --threads {threads} '
                f'--repeats {repeats} --slow-repeats {slow_repeats}',
        sizes=dict(T=T, V=V, F=12, D=512, Q=8, L=32), dtype='float32',
        rounds=dict(scoring=repeats, stage=slow_repeats), load_average=load, ms=ms,
        ratio=ratios(times), multiply_adds=macs, rank_changes=changes,
        working_memory_mb=round(working_memory(lambda: model.similarity(t, v)), 1), **machine())
    report(result)
    with atomic_write(out) as half:
        half.write_text(json.dumps(result, indent=1) + '\n')


def _load_average():
    return os.getloadavg() if hasattr(os, 'getloadavg') else None


def features(T, V, frames=12, D=512, Q=8, words=32, device='cpu', seed=0):
    """Random Texts and Videos at CLIP's scale (|e| about 10); every tenth frame is padding."""
    generator = torch.Generator(device).manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, device=device)
    e, w, y = 0.45 * draw(T, D), 0.45 * draw(T, words, D), 0.45 * draw(V, frames, D)
    mask = torch.rand(V, frames, generator=generator, device=device) > 0.1
    mask[:, 0] = True
    c_t, c_v = F.normalize(draw(T, Q, D), dim=-1), F.normalize(draw(V, Q, D), dim=-1)
    texts = Texts(e, w, torch.ones(T, words, dtype=torch.bool, device=device), c_t)
    return texts, Videos(y, mask, gram(y), c_v)


def forms(texts, videos, model):
    """{name: what is timed in every round}"""
    e, y = texts.sentence, videos.frames.flatten(0, 1)                   # [T, D], [V F, D]
    c_t, c_v = texts.concepts.flatten(1), videos.concepts.flatten(1)     # [T, Q D], [V, Q D]
    dots, concepts = e.new_empty(len(y), len(e)), e.new_empty(len(c_v), len(e))
    compiled = torch.compile(global_similarity)

    def products_into_memory():
        torch.mm(y, e.T, out=dots)
        torch.mm(c_v, c_t.T, out=concepts)

    def similarity_compiled():
        S = compiled(e, videos.frames, videos.mask, model.config.temperature, videos.gram)
        S_l = local_similarity(texts.concepts, videos.concepts)
        return S.add_(S_l, alpha=model.config.local_weight)
    return {'products': lambda: (e @ y.T, c_t @ c_v.T),
            'products into memory held ready': products_into_memory,
            'similarity': lambda: model.similarity(texts, videos),
            'similarity compiled': similarity_compiled}


def slow_forms(texts, videos, local, model, batch=100):
    """{name: what is timed in a few rounds only}: concepts by both routes, the whole stage, the
    scores term by term."""
    def concepts(decode):
        words, frames = texts.words.split(batch), videos.frames.split(batch)
        return (torch.cat([decode(*part) for part in zip(words, texts.mask.split(batch))]),
                torch.cat([decode(*part) for part in zip(frames, videos.mask.split(batch))]))

    def every_layer(tokens, mask):
        queries = local.video_queries.expand(len(tokens), -1, -1)
        c = local.video_decoder(queries, tokens, memory_key_padding_mask=~mask)
        return F.normalize(c, dim=-1)

    def stage():
        c_t, c_v = concepts(local.video_concepts)
        return model.similarity(
            Texts(texts.sentence, texts.words, texts.mask, c_t),
            Videos(videos.frames, videos.mask, gram(videos.frames), c_v))

    def direct():
        Q = texts.concepts.shape[1]
        S_l = torch.einsum('tqd,vqd->tv', texts.concepts, videos.concepts) / Q
        S_g = global_similarity_printed(texts.sentence, videos.frames, videos.mask,
                                        model.config.temperature)
        return S_g + model.config.local_weight * S_l
    return {'concepts': lambda: concepts(local.video_concepts),
            'concepts, all layers per item': lambda: concepts(every_layer),
            'whole stage': stage, 'direct form': direct}


def ratios(times):
    """Each way of scoring over each way of the products, round by round, by both clocks."""
    found = {}
    for name, floor in itertools.product(times, times):
        if name.startswith('similarity') and floor.startswith('products'):
            both = zip(('wall', 'cpu'), times[name], times[floor])
            found[f'{name} / {floor}'] = {clock: spread([a / b for a, b in zip(mine, least)])
                                          for clock, mine, least in both}
    return found


def rank_changes(S, other, k=10):
    """Texts whose k best videos differ between two score matrices [T, V]: {'lists': in another
    order, 'sets': other members, 'first'}."""
    a, b = S.topk(k, dim=1).indices, other.topk(k, dim=1).indices
    return dict(lists=int((a != b).any(1).sum()),
                sets=int((a.sort(1).values != b.sort(1).values).any(1).sum()),
                first=int((a[:, 0] != b[:, 0]).sum()))


def rounded(items, dtype):
    """What half-precision storage leaves of the features, the Gram matrix anew from them."""
    items = items.map(lambda x: x.to(dtype) if x.is_floating_point() else x)
    if isinstance(items, Videos):
        items.gram = gram(items.frames)
    return items


def report(result):
    """Print the numbers; of the times medians, quartiles and ends."""
    for part, about in result.items():
        if part in ('ms', 'ratio'):
            rows = {f'{name}, {clock}': numbers for name, clocks in about.items()
                    for clock, numbers in clocks.items()}
            about = f'\n{pd.DataFrame.from_dict(rows, "index").to_string()}'
        print(f'{part}: {about}')
