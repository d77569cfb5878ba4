"""Does a model hear the order in a caption? Its own video against its twin, nothing else."""
import numpy as np
import pandas as pd

from ..checkpoints import load_model
from ..datasets.twins import KINDS, load_twins
from ..evaluation import encode
from ..interaction import mean_similarity
from ..metrics import bootstrap, retrieval_metrics
from ..model import GLSCL
from .tables import variants

TWINS = ('order twins', 'direction twins', 'bound')  # as `in_process` names them


def own_before_twin(S, pairs):
    """1 where a caption scores its own video above its twin, 0 where below, 1/2 where they tie:
    float64 [N].

    S [N, V]: scores of twins' Pairs; a caption whose twin could not be read is left out."""
    row_of = dict(zip(pairs.table['video_id'], pairs.table['video']))
    twin = pairs.table['twin'].map(row_of)
    asked = np.flatnonzero(twin.notna())
    own = S[asked, pairs.text_to_video[asked]]
    other = S[asked, twin.to_numpy()[asked].astype(int)]
    return ((own > other) * 1.0 + (own == other) * 0.5).double().numpy()


def two_way(right):
    """Percent of captions that put their own video first, with its 95 % interval.

    right [N]: of `own_before_twin`, twins side by side. A pair is drawn as one: where the order is
    not heard, one of its two captions wins by necessity. Guessing gives 50. Returns dict(accuracy,
    low, high, pairs)."""
    each = 100 * np.asarray(right).reshape(-1, 2).mean(1)                   # [pairs]
    low, high = np.percentile(bootstrap(each), [2.5, 97.5])
    return dict(accuracy=float(each.mean()), low=float(low), high=float(high), pairs=len(each))


def measure(models=None, count=200, data_dir=None, seed=0):
    """Who hears the order, on `count` pairs of either kind: a DataFrame of method, kind, the
    columns of `two_way`, and R@1 among all videos of the kind.

    models: {name: model of any head}; by default the shipped GLSCL. Before them stand mean pooling
    and the global module on the CLIP of the first, untrained: both forget the order."""
    models = models or {'GLSCL, shipped': load_model()}
    first = next(iter(models.values()))
    rows = []
    for kind in KINDS:
        pairs = load_twins(first.config, kind, count, data_dir, seed)
        for method, S in _scores(models, first, pairs):
            found = retrieval_metrics(S, pairs.text_to_video)['t2v']['R@1']
            rows.append(dict(method=method, kind=kind, **two_way(own_before_twin(S, pairs)),
                             **{'R@1': found}))
    return pd.DataFrame(rows)


def _scores(models, first, pairs):
    """(name, S [N, V] on the CPU) of each method"""
    bare = first.config.replace(head='GLSCL', temporal='none', local_weight=0)
    clip = GLSCL(bare).to(first.device).eval()
    texts, videos = encode(clip, pairs)
    yield 'mean pooling, untrained', mean_similarity(texts.sentence, videos.frames, videos.mask)
    yield 'global module, untrained', clip.similarity(texts, videos)
    for name, model in models.items():
        yield name, model.similarity(*encode(model, pairs))


def table(runs):
    """What the stored runs of a sweep tell apart (`in_process`, asked for the three kinds of
    twins), a row a variant: its seeds, R@1, and for each kind the percent of captions that prefer
    their own video to the twin, over all seeds, with its 95 % interval over pairs. A DataFrame."""
    rows = {}
    for name, of_name in variants(runs).items():
        hits = np.mean([np.array(run['ranks']['t2v']) <= 1 for run in of_name])
        rows[name] = {'seeds': len(of_name), 'R@1': f'{100 * hits:.1f}'}
        for kind in TWINS:
            found = two_way(np.mean([_right(run, kind) for run in of_name], 0))
            rows[name][kind] = '{accuracy:.0f} ({low:.0f} to {high:.0f})'.format(**found)
    return pd.DataFrame.from_dict(rows, 'index')


def _right(run, kind):
    found = run['more_captions'][kind]
    return found.get('own_first', found.get('before_twin'))['both']
