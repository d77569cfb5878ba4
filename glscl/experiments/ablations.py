"""What the runs of a sweep say: each variant against the full model."""
import json

from ..config import data_path, load_config
from . import significance as statistics

MAIN = ('mean pooling', 'global only', 'local only', 'full')
THEMES = {  # a setting, perhaps with its value -> what it is about; the first that a variant changes decides
    'pooling': 'modules', 'global_weight': 'modules', 'local_weight=0': 'modules',
    'consistency': 'losses', 'diversity_weight=0': 'losses',
    'num_queries': 'queries, Q', 'decoder_layers': 'decoder layers', 'share_queries': 'sharing', 'share_decoder': 'sharing',
    'temperature': 'temperature, τ', 'local_weight': 'local module, λ', 'diversity_weight': 'intra-diversity, α',
    'consistency_weight': 'inter-consistency, β', 'max_frames': 'frames, F',
    'mask_padding': 'as released', 'diversity_sides': 'as released', 'released_losses': 'as released', 'released': 'as released'}


def stored(name):
    """(runs, owner): the finished runs of data/results/NAME.json, and the video of each caption (None if it does not tell).

    Without that file ([], None), and the command that makes it is printed."""
    try:
        kept = json.loads(data_path(f'results/{name}.json').read_text(encoding='utf-8'))
    except FileNotFoundError:
        print(f'no results yet; they are made by: glscl sweep data/sweeps/{name}.yaml --results data/results/{name}.json')
        return [], None
    return kept['runs'], kept.get('text_to_video')


def variants(runs):
    """name -> its runs"""
    groups = {}
    for r in runs:
        groups.setdefault(r['name'], []).append(r)
    return groups


def changes(groups, baseline='full'):
    """name -> {parameter: value}: where its parameters are not the baseline's (all of them where there is no baseline)"""
    start = groups[baseline][0]['parameters'] if baseline in groups else {}
    return {name: {k: v for k, v in mine[0]['parameters'].items() if k not in start or start[k] != v} for name, mine in groups.items()}


def theme(changed):
    """What a variant's changes are about: one of THEMES, or 'other'"""
    given = [*(f'{k}={v:g}' for k, v in changed.items() if isinstance(v, (int, float))), *changed]
    return next((THEMES[key] for key in THEMES if key in given), 'other')


def by_theme(groups, baseline='full'):
    """The groups in the order of THEMES, the baseline first"""
    order, changed = list(dict.fromkeys(THEMES.values())), changes(groups, baseline)
    places = {name: order.index(about) if (about := theme(changed[name])) in order else len(order) for name in groups}
    return {name: groups[name] for name in sorted(groups, key=lambda name: (name != baseline, places[name]))}


def differences(runs, owner=None, baseline='full'):
    """Every variant against the baseline (`statistics.differences`), with its `theme`; without a baseline no rows."""
    groups = variants(runs)
    found = statistics.differences(by_theme(groups, baseline) if baseline in groups else {}, baseline, owner)
    changed = changes(groups, baseline)
    return found.assign(theme=[theme(changed[name]) for name in found.index])


def table(runs, owner=None, baseline='full'):
    """One row a variant: what it changes, its recalls, and its t2v R@1 beside the baseline's, alone and after Holm's correction."""
    groups = by_theme(variants(runs), baseline)
    found = statistics.table(groups, baseline, owner, (('t2v', 1), ('t2v', 5), ('t2v', 10), ('v2t', 1)))
    changed = changes(groups, baseline)
    found.insert(0, 'changes', [', '.join(f'{k}={v}' for k, v in changed[name].items()) or '–' for name in groups])
    return found.rename_axis('variant').reset_index()


def curve(runs, parameter, owner=None, baseline='full'):
    """[(value, dict(mean, sd, low, high))] of t2v R@1: the baseline and the variants that change this parameter alone.

    Of the seeds that all of them have, so that no point is higher for having been luckier. (framerate may go with it: more frames
    than a film has at one rate must be taken at a higher one.)"""
    groups = variants(runs)
    alone = [groups[name] for name, changed in changes(groups, baseline).items()
             if name == baseline or set(changed) - {'framerate'} == {parameter}]
    shared = set.intersection(*({r['seed'] for r in mine} for mine in alone)) if alone else ()
    alone = [[r for r in mine if r['seed'] in shared] for mine in alone]
    values = [getattr(load_config(mine[0]['data'], **mine[0]['settings']), parameter) for mine in alone]
    return sorted(zip(values, (statistics.recall(mine, owner=owner) for mine in alone)), key=lambda point: point[0])
