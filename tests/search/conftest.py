"""Films, a checkpoint, and galleries: one that tests read, one that a test may change."""
import pytest
import torch
from search.galleries import copy_films, index

import glscl
from glscl.search import shards


@pytest.fixture(scope='session')
def checkpoint(config, tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp('model') / 'best.safetensors'
    glscl.save_model(glscl.GLSCL(config), path)
    return path


@pytest.fixture
def films(world_folder, tmp_path):
    """A folder with copies of the twelve test videos, a few of them under odd names."""
    return copy_films(world_folder, tmp_path / 'my films')


@pytest.fixture
def small_shards(monkeypatch):
    """Shards of five videos, so that twelve make three."""
    monkeypatch.setattr(shards, 'ROWS', 5)


@pytest.fixture
def gallery(films, checkpoint, tmp_path, small_shards):
    """The folder of a gallery of the films, for a test that changes either."""
    index(films, tmp_path / 'gallery', checkpoint, batch=4)
    return tmp_path / 'gallery'


@pytest.fixture(scope='session')
def shared_gallery(world_folder, checkpoint, tmp_path_factory):
    """The folder of such a gallery that no test changes."""
    folder = tmp_path_factory.mktemp('shared')
    films = copy_films(world_folder, folder / 'my films')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, 'ROWS', 5)
        index(films, folder / 'gallery', checkpoint, batch=4)
    return folder / 'gallery'
