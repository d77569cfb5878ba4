"""Warnings on a terminal: a line each, one of a kind, and how many more there were."""
import shlex
import warnings

import pytest
from trees import make_tree

from glscl.__main__ import main
from glscl.runtime.terminal import warnings_as_lines


def test_a_kind_of_warning_is_one_line_and_a_count(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter('default')
        with warnings_as_lines():
            for n in (3, 14, 5):
                warnings.warn(f'{n} tokens are unknown')
            for name in ('a', 'b c/d', 'e'):
                warnings.warn(f'/films/{name}.avi: its first frames cannot be decoded ({len(name)} of 9)')
            for split in ('train', 'val'):
                warnings.warn(f'/data: 1 of 4 videos of the split "{split}" are missing')
            warnings.warn('odd\x1b[2J\nname')
            assert capsys.readouterr().err.splitlines() == [
                'warning: 3 tokens are unknown', 'warning: /films/a.avi: its first frames cannot be decoded (1 of 9)',
                'warning: /data: 1 of 4 videos of the split "train" are missing',
                'warning: /data: 1 of 4 videos of the split "val" are missing', r'warning: odd\x1b[2J\nname']
    assert capsys.readouterr().err.splitlines() == [
        'warning: 2 more of the kind: 3 tokens are unknown',
        'warning: 2 more of the kind: /films/a.avi: its first frames cannot be decoded (1 of 9)']


def test_unknown_words_are_told_once_a_run_and_not_at_each_batch(tmp_path, capsys):
    table = make_tree('own', tmp_path / 'data', 12, 2, 3)
    settings = 'clip=small clip_pretrained=null temporal_layers=1 decoder_layers=1 max_frames=2 batch_size=4 epochs=1'
    with warnings.catch_warnings():
        warnings.simplefilter('default')
        line = f'train --recipe own --data-dir {table} --run-dir {tmp_path}/run --device cpu --set {settings}'
        assert main(shlex.split(line)) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "not in the small CLIP's vocabulary" in line]
    assert len(told) == 2 and told[0].startswith('warning: ') and ' more of the kind: ' in told[1]


@pytest.mark.parametrize('line', ['check --recipe own', 'search nowhere text'])
def test_after_a_command_warnings_are_pythons_own_again(line, capsys):
    shown = warnings.showwarning
    assert main(line.split()) == 1
    assert warnings.showwarning is shown
