"""What the tests of this folder share: making, opening and reading galleries."""
import json
import shutil

from safetensors import safe_open

import glscl
from glscl.model import Videos
from glscl.search.index import index_videos

TEXTS = ['a red ring shrinks', 'a blue square moves left, then a green circle grows',
         'a yellow star']
ODD_NAMES = ('a name with spaces & <tags>.mp4', 'Кіно 映画 ü.mp4', 'sub/UPPER.MP4')


def copy_films(world_folder, folder):
    """Copies of the twelve test videos, a few of them under odd names."""
    shutil.copytree(world_folder / 'test', folder)
    (folder / 'sub').mkdir()
    for n, name in enumerate(ODD_NAMES):
        (folder / f'test000{n}.mp4').rename(folder / name)
    return folder


def index(films, folder, model=None, **kwargs):
    return index_videos(films, folder, model, 'cpu', **{'workers': 1, 'log': None, 'warn': lambda line: None, **kwargs})


def open_gallery(folder, **kwargs):
    return glscl.Gallery(folder, device='cpu', **kwargs)


def shard_files(folder):
    return [folder / name for name in json.loads((folder / 'gallery.json').read_text())['shards']]


def everything(folder):
    """(paths, Videos) of a whole gallery, in its order and read by other code than its own."""
    paths, parts = [], []
    for file in shard_files(folder):
        with safe_open(file, 'pt') as shard:
            paths += [json.loads(line)['path'] for line in shard.metadata()['clips'].split('\n')]
            parts.append(Videos(*map(shard.get_tensor, ('frames', 'mask', 'gram', 'concepts'))))
    return paths, Videos.cat(parts)


def paths_in(folder):
    return sorted(everything(folder)[0])


def videos_below(folder):
    return sorted(str(path) for path in folder.rglob('*') if path.suffix.lower() == '.mp4')
