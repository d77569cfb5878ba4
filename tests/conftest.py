"""A world small enough to train in: 44 videos, an untrained small CLIP with rows for every word, no shipped checkpoint."""
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from glscl import GLSCL
from glscl.clip_models import small_clip
from glscl.config import Config
from glscl.datasets import shapes
from glscl.datasets.splits import load_shapes

torch.set_num_threads(1)  # everything here is small: more threads only wait for each other
SHARED = Path(__file__).parents[2] / 'shared'
WORLD = dict(train=24, val=8, test=12)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or leaves anything in the user's cache."""
    monkeypatch.setenv('GLSCL_CACHE', str(tmp_path / 'cache'))


@pytest.fixture(scope='session')
def shared():
    if not SHARED.is_dir():
        pytest.skip('the reference values in ../shared are not here')
    return SHARED


@pytest.fixture(scope='session')
def world(tmp_path_factory):
    """The data_dir of a rendered world of 24, 8 and 12 videos."""
    root = tmp_path_factory.mktemp('world')
    shapes.build(root, WORLD)
    return root


@pytest.fixture(scope='session')
def world_folder(world):
    return shapes.build(world, WORLD)


@pytest.fixture(scope='session')
def clip_file(tmp_path_factory):
    """An untrained small CLIP, stored as the shipped one is."""
    torch.manual_seed(0)
    clip, ids = small_clip(shapes.vocabulary())
    path = tmp_path_factory.mktemp('clip') / 'clip.safetensors'
    save_file({k: v.contiguous() for k, v in clip.clip.state_dict().items()}, path, {'token_ids': json.dumps(ids.tolist())})
    return path


@pytest.fixture(scope='session')
def config(clip_file):
    """Few queries, one decoder layer, four frames: small on purpose."""
    return Config(clip='small', clip_pretrained=str(clip_file), max_words=32, max_frames=4, temporal_layers=1, num_queries=3,
                  decoder_layers=1, batch_size=6, epochs=0.25, lr=5e-4, clip_lr=1e-4)


@pytest.fixture(scope='session')
def splits(world, config):
    """{split: Pairs}"""
    return {split: load_shapes(config, split, data_dir=world, videos=WORLD) for split in WORLD}


@pytest.fixture
def model(config):
    return GLSCL(config).eval()


@pytest.fixture
def batch(splits):
    """ids, words_mask, pixels, frame_mask of six captions and four videos; the second video has its last two frames missing."""
    pairs = splits['test']
    pixels, frame_mask = pairs.videos([0, 1, 2, 3])
    frame_mask = frame_mask.clone()
    frame_mask[1, 2:], pixels[1, 2:] = False, 0
    return *pairs.texts(list(range(6))), pixels, frame_mask
