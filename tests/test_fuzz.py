"""Whatever is written into a setting, a recipe or an annotation file: it is right, or a message names the thing.

(Containers: data/test_containers.py; what is loaded: runtime/test_loaders.py.) Bounded in time: a slow machine tries
fewer cases of the same sequence."""
import dataclasses
import math
import random
import shutil
import time
import warnings

import pytest
import yaml
from trees import make_tree

from glscl.config import CHOICES, RANGES, SETTINGS, Config, load_config
from glscl.datasets.readers import load_table
from glscl.datasets.readers.benchmarks import FILES

ENOUGH = 6  # seconds each
ODD = (None, True, False, 0, -1, 1, 3, 0.5, -0.0, 10 ** 18, -10 ** 30, 1e300, math.inf, -math.inf, math.nan, '', ' ', 'none',
       'null', 'true', 'False', 'yes', '1', '1e-4', '0x10', '1_000', 'nan', 'inf', 'é\u202e\n', 'a' * 10_000, b'1', [1], [], {}, {'a': 1},
       (1,), {1}, 1j, object(), Config, lambda: 1)


def test_every_setting_takes_a_value_that_it_can_have_or_names_itself():
    kinds = {field.name: field.type for field in dataclasses.fields(Config)}
    for name in SETTINGS:
        for value in ODD:
            try:
                taken = getattr(Config(**{name: value}), name)
            except ValueError as error:
                assert name in str(error), (name, value)
                continue
            if name in RANGES:
                least, greatest = RANGES[name]
                assert type(taken) is kinds[name] and least <= taken <= greatest, (name, value)
            elif name in CHOICES:
                assert taken in CHOICES[name], (name, value)
            else:
                assert taken is None or type(taken) in (bool, str), (name, value)


def mutated(raw, rng):
    """The bytes with something cut, flipped, doubled, put in or exchanged."""
    raw, at = bytearray(raw), rng.randrange(len(raw) + 1)
    how = rng.randrange(6)
    if how == 0:
        del raw[at:]
    elif how == 1:
        del raw[at:at + rng.randint(1, 40)]
    elif how == 2:
        raw[at:at] = rng.choice([b'\0', b'\xff\xfe', b'"', b'{', b']', b'\n\n', b'\t', b': ', b',', b'- ', b'!!python/object:os.system ',
                                 b'1e999', b'null', '\u202e'.encode(), b'&a *a ', b'\r', b'--- '])
    elif how == 3 and at < len(raw):
        raw[at] ^= 1 << rng.randrange(8)
    elif how == 4:
        raw[at:at] = raw[:at][-60:]
    else:
        return raw.decode('utf-8', 'replace').encode(rng.choice(['utf-16', 'utf-8-sig', 'utf-7']))
    return bytes(raw)


def tries(seed):
    """Numbered generators of random numbers, as long as there is time."""
    end, n = time.monotonic() + ENOUGH, 0
    while time.monotonic() < end:
        yield random.Random(f'{seed} {n}')
        n += 1
    assert n > 20


def test_a_recipe_is_read_or_named(tmp_path):
    whole = yaml.safe_dump({name: value for name, value in dataclasses.asdict(Config()).items()}).encode()
    path, read = tmp_path / 'mine.yaml', 0
    for rng in tries('recipe'):
        raw = whole
        for _ in range(rng.randint(1, 3)):
            raw = mutated(raw, rng)
        path.write_bytes(raw)
        try:
            assert isinstance(load_config(path), Config)
            read += 1
        except ValueError as error:
            text = str(error)
            assert 'mine.yaml' in text or any(name in text for name in SETTINGS), raw
    assert read


@pytest.mark.parametrize('dataset', [*FILES, 'own'])
def test_annotations_are_read_or_named(dataset, tmp_path):
    root = tmp_path / 'set'
    make_tree(dataset, root) if dataset != 'own' else own_tree(root)
    data_dir = root / 'mine.csv' if dataset == 'own' else root
    names = ['mine.csv'] if dataset == 'own' else FILES[dataset]
    files = [path for path in sorted(root.rglob('*')) if path.name in names]
    whole = {path: path.read_bytes() for path in files}
    end, read = time.monotonic() + ENOUGH / 3, 0
    for rng in tries(dataset):
        if time.monotonic() > end:
            break
        path = rng.choice(files)
        path.write_bytes(mutated(whole[path], rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                read += len(load_table(dataset, rng.choice(['train', 'val', 'test']), data_dir, require_videos=False)) > 0
        except (ValueError, FileNotFoundError) as error:
            assert any(name in str(error) for name in (*names, str(data_dir))), (path.name, path.read_bytes())
        path.write_bytes(whole[path])
    assert read
    shutil.rmtree(root)


def own_tree(root):
    root.mkdir()
    rows = [f'a{n}.mp4,"a red, round thing {n}",{n},{n + 2.5},{split}' for n, split in enumerate(['train'] * 6 + ['val', 'test'] * 2)]
    (root / 'mine.csv').write_text('\n'.join(['path,caption,start,end,split', *rows]) + '\n', encoding='utf-8')
