"""The small CLIP is trained again, for a few steps."""
import json

import numpy as np
from safetensors.torch import load_file

from glscl.config import data_path
from glscl.data.pixels import resize
from glscl.data.tokens import tokenize
from glscl.datasets import shapes
from glscl.experiments import pretrain


def test_weights_and_their_provenance_go_where_they_are_wanted(tmp_path, monkeypatch, capsys):
    frames, captions = shapes.frame_captions(0, 60)
    pool = np.stack([resize(frame, 32) for frame in frames]), *tokenize(captions)
    monkeypatch.setattr(pretrain, 'frame_pool', lambda n, seed: pool)
    monkeypatch.setattr(pretrain, 'HELD_OUT', 20)
    monkeypatch.setattr(pretrain, 'EVERY', 2)
    shipped = data_path('clip_small.safetensors').read_bytes()
    monkeypatch.chdir(tmp_path)
    pretrain.pretrain(steps=9, stop=3, batch=4, frames=60)
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(':')[0] for line in printed] == ['step 2', 'step 3']
    [out] = tmp_path.rglob('*.safetensors')
    assert out == tmp_path / 'runs/pretrain/clip_small.safetensors' and data_path('clip_small.safetensors').read_bytes() == shipped
    assert {k: v.shape for k, v in load_file(out).items()} == {
        k: v.shape for k, v in load_file(data_path('clip_small.safetensors')).items()}
    told = json.loads(out.with_suffix('.json').read_text())
    assert (told['steps_done'], told['steps'], told['batch'], told['seed'], told['weights']) == (3, 9, 4, 10_000_000, 'float16')
    assert set(json.loads(data_path('clip_small.json').read_text())) <= set(told)
