"""What the README says in numbers is what the stored results say."""
import json
import re
from pathlib import Path

import numpy as np
import pytest

from glscl import load_model
from glscl.config import data_path
from glscl.datasets import shapes
from glscl.experiments import significance, tables
from glscl.heads import HEADS
from glscl.plots.heads import METHODS

README = ' '.join((Path(__file__).parents[2] / 'README.md').read_text(encoding='utf-8').split())


def mean_and_sd(numbers):
    return f'{np.mean(numbers):.1f} ± {np.std(numbers, ddof=1):.1f}'


@pytest.mark.parametrize('row, name', [('mean pooling over frames', 'mean pooling'), ('global module only', 'global only'),
                                       ('GLSCL: global, local, all losses', 'GLSCL')])
def test_three_methods(row, name):
    runs, _ = tables.stored('methods')
    cells = [mean_and_sd(tables.each_seed(tables.on_captions(runs, kind), f't2v R@{k}')[name])
             for kind, k in (('one', 1), ('one', 5), ('one', 10), ('scene', 1), ('order', 1))]
    assert f'| {row} | {" | ".join(cells)} |' in README


def test_what_is_significant_among_them():
    runs, _ = tables.stored('methods')
    found = {kind: tables.pairs(tables.on_captions(runs, kind)).set_index('compared').loc['global only − mean pooling']
             for kind in ('one', 'order')}
    gain, lead = found['one'], found['order']
    assert f"({gain['R@1 difference']:.0f} points of R@1, 95 % interval {float(gain['low']):.0f} to {float(gain['high']):.0f})" in README
    assert f"({-lead['R@1 difference']:.0f} points, {-float(lead['high']):.0f} to {-float(lead['low']):.0f})" in README


def test_the_heads():
    runs, owner = tables.stored('heads')
    recall = {name: r['mean'] for name, r in tables.recalls(runs, owner).items()}
    alone = [recall[name] for name in HEADS if METHODS[name].meet == 'vector']
    weighed = [r for name, r in recall.items() if METHODS[name].meet != 'vector' and name != 'CLIP4Clip tightTransf']
    assert f'an R@1 of {min(alone):.0f} to {max(alone):.0f}' in README
    assert f'weighs the frames {min(weighed):.0f} to {max(weighed):.0f}' in README
    each, groups = tables.each_seed(runs), tables.variants(runs)
    assert f"GLSCL {mean_and_sd(each['GLSCL'])}, a transformer over each pair {mean_and_sd(each['CLIP4Clip tightTransf'])}" in README
    found = tables.differences(runs, owner, 'GLSCL').drop(index='GLSCL', errors='ignore')
    assert not ((found['after_holm'] != 'not significant') & (found['difference'] > 0)).any()
    ten = significance.difference(groups['X-CLIP'], groups['GLSCL'], 10, owner=owner)
    cost = {name: HEADS[name].cost(F=12, L=32, D=128, Q=8).gram for name in ('X-CLIP', 'GLSCL')}
    assert f"by {ten['difference']:.1f} points, at R@10, for {cost['X-CLIP'] / cost['GLSCL']:.0f} times the multiply-adds" in README


def test_what_needs_no_run():
    assert f"{sum(p.numel() for p in load_model().clip.parameters()) / 1e6:.1f} M parameters" in README
    splits = ' / '.join(f'{n:,}' for n in shapes.SPLITS.values())
    assert f'{splits} H.264 videos' in README and f"chance is {100 / shapes.SPLITS['test']:g} %" in README
    listed = [word for of_kind in shapes.WORDS.values() for words in of_kind.values() for word in words]
    words = set(re.findall(r'[a-z]+', ' '.join([*listed, *shapes.ORDER, *shapes.PLURAL_VERB.values()])))
    assert 100 < len(words) < 150 and 'hundred-odd words' in README
    scored = json.loads(data_path('results/gpu_h200.json').read_text())['scoring_ms']
    times = [row[form] / row['products'] for row in scored for form in ('two stages', 'two stages, top 10')
             if row['texts'] == 10_000 and form in row]
    assert f'took {min(times):.1f} to {max(times):.1f} times its products' in README
