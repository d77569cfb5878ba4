"""How near scoring comes to the hardware: GLSCL's similarity beside the two matrix products that it cannot avoid.

    python -m glscl.bench.scoring --out data/results/scoring.json

Random features, float32, concepts and Gram matrices cached. Every round times each form once, so that a ratio compares
neighbours in time; a warm-up round is dropped. Wall time needs a quiet machine: the load average is printed, and with
--threads 1 the CPU time is a fair measure also on a busy one."""
import argparse
import json
import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

from ..heads.costs import concept_cost, pair_cost
from ..interaction import (
    LocalInteraction,
    global_similarity,
    global_similarity_printed,
    gram,
    local_similarity,
)
from ..model import GLSCL, Texts, Videos
from ..runtime.devices import machine


def features(T, V, frames=12, D=512, Q=8, words=32, device='cpu'):
    """Random Texts and Videos at CLIP's scale (|e| about 10); every tenth frame is padding."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator)
    e, w, y = (0.45 * draw(*s, D) for s in ((T,), (T, words), (V, frames)))
    mask = torch.rand(V, frames, generator=generator) > 0.1
    mask[:, 0] = True
    c_t, c_v = (F.normalize(draw(n, Q, D), dim=-1) for n in (T, V))
    return Texts(e, w, torch.ones(T, words, dtype=torch.bool), c_t).to(device), Videos(y, mask, gram(y), c_v).to(device)


def forms(texts, videos, model):
    """name -> what is timed in every round."""
    e, y = texts.sentence, videos.frames.flatten(0, 1)
    c_t, c_v = texts.concepts.flatten(1), videos.concepts.flatten(1)
    dots, concepts = e.new_empty(len(y), len(e)), e.new_empty(len(c_v), len(e))
    compiled = torch.compile(global_similarity)

    def similarity_compiled():
        S = compiled(e, videos.frames, videos.mask, model.config.temperature, videos.gram)
        return S.add_(local_similarity(texts.concepts, videos.concepts), alpha=model.config.local_weight)
    return {'products': lambda: (e @ y.T, c_t @ c_v.T),
            'products into memory held ready': lambda: (torch.mm(y, e.T, out=dots), torch.mm(c_v, c_t.T, out=concepts)),
            'similarity': lambda: model.similarity(texts, videos),
            'similarity compiled': similarity_compiled}


def slow_forms(texts, videos, local, model, batch=100):
    """name -> what is timed in a few rounds only: concepts by both routes, the whole stage, the scores term by term."""
    def concepts(decode):
        return (torch.cat([decode(w, m) for w, m in zip(texts.words.split(batch), texts.mask.split(batch))]),
                torch.cat([decode(y, m) for y, m in zip(videos.frames.split(batch), videos.mask.split(batch))]))

    def plain(tokens, mask):
        c = local.video_decoder(local.video_queries.expand(len(tokens), -1, -1), tokens, memory_key_padding_mask=~mask)
        return F.normalize(c, dim=-1)

    def stage():
        c_t, c_v = concepts(local.video_concepts)
        return model.similarity(Texts(texts.sentence, texts.words, texts.mask, c_t),
                                Videos(videos.frames, videos.mask, gram(videos.frames), c_v))

    def direct():
        S_l = torch.einsum('tqd,vqd->tv', texts.concepts, videos.concepts) / texts.concepts.shape[1]
        S_g = global_similarity_printed(texts.sentence, videos.frames, videos.mask, model.config.temperature)
        return S_g + model.config.local_weight * S_l
    return {'concepts': lambda: concepts(local.video_concepts), 'concepts, all layers per item': lambda: concepts(plain),
            'whole stage': stage, 'direct form': direct}


def rounds(fns, repeats):
    """name -> ([wall seconds], [CPU seconds]) of `repeats` rounds over all of them, after one that is dropped.

    A form that cannot run here (no compiler for torch.compile) is reported and left out."""
    times, fns = {}, dict(fns)
    for turn in range(repeats + 1):
        for name, fn in list(fns.items()):
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                fn()
            except Exception as error:  # torch.compile raises many kinds
                if turn:
                    raise
                print(f'{name}: cannot run here ({type(error).__name__})')
                del fns[name]
                continue
            if turn:
                w, c = times.setdefault(name, ([], []))
                w.append(time.perf_counter() - wall)
                c.append(time.process_time() - cpu)
    return times


def spread(values, unit=1.0):
    """Quartiles and ends."""
    low, middle, high = statistics.quantiles(values, n=4)
    return {k: round(unit * x, 4) for k, x in dict(median=middle, q1=low, q3=high, min=min(values), max=max(values)).items()}


def working_memory(fn):
    """Largest number of MB that fn() holds at one time beyond its result, as torch.profiler sees torch's allocations."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        result = fn()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, 'trace.json')
        prof.export_chrome_trace(str(trace))
        events = [e for e in json.loads(trace.read_text())['traceEvents'] if e.get('name') == '[memory]']
    level = peak = 0
    for event in sorted(events, key=lambda e: e['ts']):
        level += event['args']['Bytes']
        peak = max(peak, level)
    return (peak - result.numel() * result.element_size()) / 1e6


def rank_changes(S, other, k=10):
    """Texts whose k best videos differ between two score matrices: {'lists': other order, 'sets': other members, 'first'}."""
    a, b = (x.topk(k, dim=1).indices for x in (S, other))
    return dict(lists=int((a != b).any(1).sum()), sets=int((a.sort(1).values != b.sort(1).values).any(1).sum()),
                first=int((a[:, 0] != b[:, 0]).sum()))


def rounded(items, dtype):
    """What half-precision storage leaves of the features, the Gram matrix anew from them."""
    items = items.map(lambda x: x.to(dtype) if x.is_floating_point() else x)
    return Videos(items.frames, items.mask, gram(items.frames), items.concepts) if isinstance(items, Videos) else items


def on_cuda(T, V, model, repeats, **sizes):
    """The fused kernel in bfloat16, and with its top 10, beside plain matrix products of the same size, and its rank changes;
    None without a GPU that it runs on."""
    if not torch.cuda.is_available():
        return None
    from ..search import kernels
    exact = [x.to('cuda') for x in features(T, V, **sizes)]
    S = model.similarity(*exact)
    items = texts, videos = [rounded(x, torch.bfloat16) for x in exact]
    if not kernels.can_score(*items):
        return None
    y, c_t, c_v = videos.frames.flatten(0, 1), texts.concepts.flatten(1), videos.concepts.flatten(1)
    fns = {'products': lambda: (texts.sentence @ y.T, c_t @ c_v.T), 'kernel': lambda: kernels.similarity(*items),
           'kernel, top 10': lambda: kernels.top_k(*items, 10), 'similarity': lambda: model.similarity(*items)}

    def finished(fn):
        fn()
        torch.cuda.synchronize()
    times = {name: wall for name, (wall, _) in rounds({n: partial(finished, fn) for n, fn in fns.items()}, repeats).items()}
    return dict(device=torch.cuda.get_device_name(), sizes=dict(T=T, V=V), ms={n: spread(w, 1e3) for n, w in times.items()},
                rate={n: spread([p / s for p, s in zip(times['products'], w)]) for n, w in times.items() if n != 'products'},
                rank_changes=rank_changes(S, kernels.similarity(*items)))


@torch.no_grad()
def run(T=1000, V=1000, repeats=30, slow_repeats=3):
    """All of it: a dict for the JSON."""
    texts, videos = features(T, V)
    model, local = GLSCL('shapes').eval(), LocalInteraction(512).eval()   # similarity takes features of any width
    load = os.getloadavg() if hasattr(os, 'getloadavg') else None
    times = rounds(forms(texts, videos, model), repeats)
    slow = rounds(slow_forms(texts, videos, local, model), slow_repeats)
    S = model.similarity(texts, videos)
    ratios = {f'{name} / {floor}': {clock: spread([a / b for a, b in zip(times[name][i], times[floor][i])])
                                    for i, clock in enumerate(('wall', 'cpu'))}
              for name in times if name.startswith('similarity') for floor in times if floor.startswith('products')}
    macs = dict(products=T * V * (12 + 8) * 512, similarity=T * V * pair_cost('GLSCL', gram=True),
                concepts=T * concept_cost(32) + V * concept_cost(12))
    return dict(
        command='python -m glscl.bench.scoring', sizes=dict(T=T, V=V, F=12, D=512, Q=8, L=32), dtype='float32',
        rounds=dict(scoring=repeats, stage=slow_repeats), load_average=dict(before=load, after=os.getloadavg() if load else None),
        ms={n: dict(wall=spread(w, 1e3), cpu=spread(c, 1e3)) for n, (w, c) in {**times, **slow}.items()},
        ratio=ratios, multiply_adds=macs, working_memory_mb=round(working_memory(lambda: model.similarity(texts, videos)), 1),
        rank_changes={str(d).split('.')[1]: rank_changes(S, model.similarity(rounded(texts, d), rounded(videos, d)))
                      for d in (torch.bfloat16, torch.float16)},
        cuda=on_cuda(T, V, model, repeats) or 'not measured', **machine())


def report(result):
    """The numbers in plain lines: median (fastest, quartiles, slowest)."""
    sizes = ', '.join(f'{k} = {v}' for k, v in result['sizes'].items())
    lines = [f'{sizes}, {result["dtype"]}; {result["threads"]} threads; {result["hardware"]}; torch {torch.__version__}; '
             f'load average {result["load_average"]}']
    for part, unit, digits in (('ms', ' ms', 1), ('ratio', '', 3)):
        for name, clocks in result[part].items():
            for clock, s in clocks.items():
                around = ', '.join(f'{s[k]:.{digits}f}' for k in ('min', 'q1', 'q3', 'max'))
                lines.append(f'{name}, {clock}: {s["median"]:.{digits}f}{unit} ({around})')
    lines.append(f'working memory beyond inputs and result (torch.profiler): {result["working_memory_mb"]} MB')
    lines.append(f'texts of {result["sizes"]["T"]} whose top 10 changes with stored precision: {result["rank_changes"]}')
    return '\n'.join([*lines, f'CUDA: {result["cuda"]}'])


def main():
    """Time scoring beside its matrix products; print, and keep as JSON with --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--threads', type=int, default=2)
    parser.add_argument('--repeats', type=int, default=30)
    parser.add_argument('--out', help='where to keep the numbers as JSON')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result = run(repeats=args.repeats)
    result['command'] += f' --threads {args.threads} --repeats {args.repeats}'
    print(report(result))
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=1) + '\n')


if __name__ == '__main__':
    main()
