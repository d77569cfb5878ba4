"""The recall bench: which rate is chosen, that every seed runs at it, and what the table says."""
import pytest

from glscl.experiments import bench_recall, significance as statistics, sweep

SPEC = dict(base=dict(steps=1), seeds=[0, 1, 2], grid=dict(head=['GLSCL', 'X-Pool'], lr=[1e-3, 3e-3]))
VALIDATION = {('GLSCL', 1e-3): 40.0, ('GLSCL', 3e-3): 41.0, ('X-Pool', 1e-3): 39.0, ('X-Pool', 3e-3): 39.0}


@pytest.fixture
def pretend(monkeypatch):
    """Runs that give made-up ranks: GLSCL has every query right but the first `seed` ones, X-Pool none."""
    asked = []

    def run(runs, out, **options):
        asked.append(runs)
        done = []
        for r in runs:
            head, lr = r['parameters']['head'], r['parameters']['lr']
            rank = [2] * r['seed'] + [1] * (100 - r['seed']) if head == 'GLSCL' else [2] * 100
            done.append(dict(r, validation=VALIDATION[head, lr], ranks=dict(t2v=rank, v2t=rank[::2]), metrics={}))
        return done, []
    monkeypatch.setattr(sweep, 'run', run)
    return asked


def test_each_head_goes_on_with_the_rate_that_validation_likes(pretend):
    seen = []
    runs, failed = bench_recall.run(SPEC, 'out', after=lambda *both: seen.append(both), say=lambda text: None)
    trials, rest = pretend
    assert len(trials) == 4 and {r['seed'] for r in trials} == {0} and not failed
    assert [(r['parameters']['head'], r['parameters']['lr'], r['seed']) for r in rest] == [
        ('GLSCL', 3e-3, 1), ('X-Pool', 1e-3, 1), ('GLSCL', 3e-3, 2), ('X-Pool', 1e-3, 2)]  # of two alike the smaller
    assert sorted((r['method'], r['lr'], r['seed']) for r in runs if r['final']) == [
        ('GLSCL', 3e-3, s) for s in range(3)] + [('X-Pool', 1e-3, s) for s in range(3)]


def test_the_table_counts_final_runs_only(pretend):
    runs, _ = bench_recall.run(SPEC, 'out', say=lambda text: None)
    table = bench_recall.table(runs).set_index('method')
    assert table.loc['GLSCL', 'seeds'] == 3 and table.loc['GLSCL', 'lr'] == '0.003'
    assert table.loc['GLSCL', 't2v R@1'] == '99.0 ± 1.0' and table.loc['X-Pool', 't2v R@1'] == '0.0 ± 0.0'
    assert table.loc['X-Pool', 't2v R@1 − GLSCL'].startswith('-99.0 (') and table.loc['X-Pool', 'reading'] == 'lower'
    assert bench_recall.summary(runs)['GLSCL'] == statistics.recall([r for r in runs if r['final'] and r['method'] == 'GLSCL'])
