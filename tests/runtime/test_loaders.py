"""What is loaded is right, or a sentence that names the file: each fault on each loader, and bytes changed by chance."""
import json
import random
import re
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from glscl import GLSCL, Trainer, load_model, save_model
from glscl.clip_models import load_clip
from glscl.clip_weights import read_weights
from glscl.data.tokens import tokenize
from glscl.experiments.pretrain import save as save_clip
from glscl.experiments.rescore import load_similarity, save_similarity
from glscl.experiments.tables import read_results
from glscl.interaction import LocalInteraction
from glscl.runtime.devices import seed_everything
from glscl.runtime.files import read_tensors, write_tensors
from glscl.runtime.records import read_json
from glscl.runtime.torch_files import read_torch
from glscl.search import shards

ENOUGH = 15  # seconds of chance


def run(config, splits, folder=None):
    seed_everything(0)
    return Trainer(GLSCL(config), splits['train'], splits['val'], folder, steps=2, eval_every=2)


@pytest.fixture(scope='module')
def files(config, splits, tmp_path_factory):
    """One file of each kind, by the name of its loader."""
    folder = tmp_path_factory.mktemp('files')
    trainer = run(config, splits, folder)
    trainer.run(log=None)
    clip, token_ids = trainer.model.clip, (trainer.model.clip.rows > 1).nonzero().flatten()
    save_clip(clip, token_ids, dict(out=str(folder / 'clip.safetensors')))
    torch.save(clip.clip.state_dict(), folder / 'weights.pt')
    save_similarity(folder / 'S.npz', torch.rand(4, 5), [0, 1, 2, 3])
    (folder / 'results.json').write_text(json.dumps(dict(runs=[dict(name='a', seed=0)])))
    manifest = dict(fingerprint='0' * 32, model=None, shards={}, unreadable=[])
    writer = shards.Writer(folder, manifest)
    clips = [json.dumps(dict(id='a', path='/a', start=None, end=None, size=1, mtime=1, fps=1.0, indices=[0]))] * 3
    F, Q, D = config.max_frames, config.num_queries, clip.width
    writer.add(clips, shards.Videos(torch.randn(3, F, D).half(), torch.ones(3, F, dtype=torch.bool),
                                    torch.randn(3, F, F), torch.randn(3, Q, D).half()))
    writer.commit()
    return folder


def loaders(config, splits, files, model):
    """{file: what loads it, to something that can be compared}."""
    manifest = shards.read_manifest(files)
    [(name, entry)] = manifest['shards'].items()

    def shard(path):
        folder, file = path.parent, path.name
        return (shards.check_shard(folder, file, entry, manifest['fingerprint'], model),
                vars(shards.read_shard(folder, file, entry, manifest['fingerprint'])[1]))

    def manifest_of(path):
        path.replace(path.with_name('gallery.json'))
        return {k: v for k, v in shards.read_manifest(path.parent).items() if k != 'damaged'}

    def resume(path):
        path.replace(path.with_name('last.pt'))
        trainer = run(config, splits, path.parent)
        trainer.resume()
        return trainer.model.state_dict(), trainer.optimizer.state_dict(), trainer.history
    return {'best.safetensors': lambda path: load_model(path).state_dict(), 'last.pt': resume,
            'clip.safetensors': lambda path: load_clip('small', path).state_dict(),
            'weights.pt': lambda path: read_weights(path)[0], name: shard, 'gallery.json': manifest_of,
            'S.npz': load_similarity, 'results.json': read_results}


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def changed(data, draw):
    """Bytes cut off, flipped, replaced, taken out or put in, at places that are drawn."""
    data, at = bytearray(data), draw.randrange(len(data))
    if draw.random() < 0.5:
        at = draw.randrange(min(len(data), 2000))  # where headers are
    what, n = draw.randrange(5), draw.choice((1, 1, 8, 64))
    if what == 0:
        del data[at:]
    elif what == 1:
        data[at] ^= 1 << draw.randrange(8)
    elif what == 2:
        data[at:at + n] = draw.randbytes(n)
    elif what == 3:
        del data[at:at + n]
    else:
        data[at:at] = draw.randbytes(n)
    return bytes(data)


# What JSON has no checksum for: other text may be other content, and is right as it stands.
PLAIN = ('gallery.json', 'results.json')


def test_whatever_bytes_change_it_is_the_same_or_told_by_name(config, splits, files, tmp_path):
    draw, every = random.Random(0), loaders(config, splits, files, GLSCL(config))
    data = {name: (files / name).read_bytes() for name in every}
    quick = [name for name in every if name != 'last.pt']  # building a model each time is slow
    right = {}
    for name in every:
        (tmp_path / name).write_bytes(data[name])
        right[name] = every[name](tmp_path / name)
    began, told = time.monotonic(), dict.fromkeys(every, 0)
    while time.monotonic() - began < ENOUGH:
        for name in [*quick * 3, 'last.pt']:
            path = tmp_path / name
            path.write_bytes(changed(data[name], draw))
            try:
                found = every[name](path)
            except (ValueError, OSError) as error:
                told[name] += 1
                assert str(tmp_path) in str(error) and '\n' not in str(error), (name, error)
            else:
                assert name in PLAIN or same(found, right[name]), name
    assert min(told.values()) > 5, told


# ---- tensors with text beside them: a checkpoint, and a small CLIP

def rewritten(source, path, state=None, **meta):
    """A safetensors file as somebody else would write it: other tensors or texts, and no checksum."""
    tensors, said = read_tensors(source)
    said.update({name: value if isinstance(value, str) else json.dumps(value) for name, value in meta.items()})
    for name, change in (state or {}).items():
        x = change(tensors.pop(name, None))
        if x is not None:
            tensors[name] = x
    save_file(tensors, path, {name: value for name, value in said.items() if value != 'null'})
    return path


def first_ids(ids):
    return lambda source: json.loads(read_tensors(source)[1]['token_ids'])[:-2] + ids


WEIGHT = {'best.safetensors': 'clip.clip.ln_final.weight', 'clip.safetensors': 'ln_final.weight'}
STATES = {'missing': (lambda x: None, 'is missing'), 'narrower': (lambda x: x[:3].clone(), r'is \[3\], not \[\d+\]'),
          'a scalar': (lambda x: x[0].clone(), r'is \[\], not'), 'whole numbers': (lambda x: x.long(), 'holds torch.int64, not floats'),
          'NaN': (lambda x: x * torch.nan, 'holds NaN or infinity'), 'infinity': (lambda x: x / 0, 'holds NaN or infinity')}
IDS = {'negative': [-1, 49000], 'doubled': [48000, 48000], 'unsorted': [48001, 48000], 'a fraction': [48000.5, 48001],
       'text': ['a', 'b'], 'true': [True, False], 'beyond': [48000, 10 ** 9], 'nothing': None, 'a number': 5, 'an object': {}}
CONFIGS = {'a list': [], 'text': 'x', 'no JSON': '{', 'an unknown key': {'nothing': 1}, 'a wrong value': {'sampling': 'x'},
           'a billion queries': {'num_queries': 10 ** 9}, 'missing': None}


@pytest.mark.parametrize('kind', WEIGHT)
@pytest.mark.parametrize('fault', STATES)
def test_weights_that_do_not_fit(files, tmp_path, kind, fault):
    load = load_model if kind == 'best.safetensors' else lambda path: load_clip('small', path)
    change, match = STATES[fault]
    path = rewritten(files / kind, tmp_path / 'x.safetensors', {WEIGHT[kind]: change})
    with pytest.raises(ValueError, match=f'{re.escape(str(path))}.*{re.escape(WEIGHT[kind])} {match}'):
        load(path)
    path = rewritten(files / kind, tmp_path / 'y.safetensors', {'foreign': lambda x: torch.ones(1)})
    with pytest.raises(ValueError, match=f'{re.escape(str(path))}.*foreign is unknown'):
        load(path)
    load(rewritten(files / kind, tmp_path / 'z.safetensors'))  # one without a checksum, as of before


@pytest.mark.parametrize('kind', WEIGHT)
@pytest.mark.parametrize('fault', IDS)
def test_token_ids_that_cannot_be(files, tmp_path, kind, fault):
    load = load_model if kind == 'best.safetensors' else lambda path: load_clip('small', path)
    ids = first_ids(IDS[fault])(files / kind) if isinstance(IDS[fault], list) else IDS[fault]
    path = rewritten(files / kind, tmp_path / 'x.safetensors', token_ids=ids)
    with pytest.raises(ValueError, match=f'{re.escape(str(path))} is not a .* of this package.*token_ids'):
        load(path)


@pytest.mark.parametrize('fault', CONFIGS)
def test_configurations_that_cannot_be(files, tmp_path, fault):
    path = rewritten(files / 'best.safetensors', tmp_path / 'x.safetensors', config=CONFIGS[fault])
    with pytest.raises(ValueError, match=f'{re.escape(str(path))} is not a checkpoint of this package, or is damaged'):
        load_model(path)


def test_another_clips_weights_are_refused_before_memory_is_asked_for(files, config, tmp_path, monkeypatch):
    import glscl.checkpoints
    monkeypatch.setattr(glscl.checkpoints, 'build_clip', lambda *_: pytest.fail('built'))
    settings = json.loads(read_tensors(files / 'best.safetensors')[1]['config'])
    path = rewritten(files / 'best.safetensors', tmp_path / 'x.safetensors', config={**settings, 'clip': 'ViT-bigG-14'})
    with pytest.raises(ValueError, match='do not fit its configuration .*conv1'):
        load_model(path)


def test_one_flipped_byte_is_found_in_weights_and_in_what_is_said_of_them(files, tmp_path):
    source = files / 'best.safetensors'
    data = source.read_bytes()
    path = tmp_path / 'x.safetensors'
    for at in (len(data) - 1, len(data) // 2, data.index(b'temperature') + 16):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1:])
        with pytest.raises(ValueError, match=f'{re.escape(str(path))} .*damaged.*Copy it again'):
            load_model(path)
    with safe_open(source, 'pt') as file:
        assert re.fullmatch('[0-9a-f]{8}', file.metadata()['checksum'])


def test_every_kind_of_tensor_comes_back(tmp_path):
    tensors = {str(kind): torch.arange(6).view(2, 3).to(kind) for kind in
               (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)}
    tensors.update(scalar=torch.tensor(2.5), empty=torch.zeros(0, 3))
    write_tensors(tmp_path / 'x', tensors, {'a': 'ü'})
    back, said = read_tensors(tmp_path / 'x')
    assert same(back, tensors) and said == {'a': 'ü'}
    assert same(read_torch(tmp_path / 'x'), tensors)


def test_a_file_of_torch_without_checksums_still_loads(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(dict(a=torch.ones(3)), tmp_path / 'x.pt')
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_torch(tmp_path / 'x.pt')['a'], torch.ones(3))


# ---- last.pt

def nan_in(state):
    next(iter(state['model'].values())).fill_(torch.nan)


def average_of_another_shape(state):
    next(iter(state['optimizer']['state'].values()))['exp_avg'] = torch.zeros(3)


def nan_average(state):
    next(iter(state['optimizer']['state'].values()))['exp_avg'].fill_(torch.nan)


RUNS = {**{f'{name}: {value!r:.20}': (lambda state, name=name, value=value: state.update({name: value}), match)
           for name, value, match in [
               ('model', [], 'no model'), ('model', {}, 'is missing'), ('optimizer', {}, 'does not fit this run'),
               ('optimizer', dict(state={}, param_groups=[]), 'does not fit this run'), ('step', 'x', 'no step'),
               ('step', None, 'no step'), ('history', 5, 'no history'), ('rng', torch.zeros(3), 'no rng'),
               ('rng', torch.zeros(3, dtype=torch.uint8), 'no rng'), ('config', [], 'no config'), ('best', 'x', 'no best'),
               ('config', dict(num_queries=10 ** 9), 'wrong setting'), ('seconds', None, 'no seconds'), ('schedule', 1, 'no schedule')]},
        'NaN among the weights': (nan_in, 'holds NaN or infinity'), 'another average': (average_of_another_shape, r'exp_avg of a weight'),
        'NaN among the averages': (nan_average, 'exp_avg of a weight')}


@pytest.mark.parametrize('fault', RUNS)
def test_a_run_that_cannot_go_on(config, splits, files, tmp_path, fault):
    change, match = RUNS[fault]
    state = torch.load(files / 'last.pt', weights_only=True)
    change(state)
    torch.save(state, tmp_path / 'last.pt')
    with pytest.raises(ValueError, match=f'{re.escape(str(tmp_path / "last.pt"))} .*{match}.*Delete it to begin anew'):
        run(config, splits, tmp_path).resume()


def test_one_flipped_byte_of_a_run_is_found(config, splits, files, tmp_path):
    data = bytearray((files / 'last.pt').read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / 'last.pt').write_bytes(data)
    with pytest.raises(ValueError, match='last.pt cannot be read .*Bad CRC-32.*Delete it'):
        run(config, splits, tmp_path).resume()


@pytest.mark.parametrize('content', [b'', b'{', b'[]', b'\xff', b'null', b'[' * 100_000, b'1' * 9999])
def test_json_that_is_none_or_another(tmp_path, content):
    path = tmp_path / 'x.json'
    path.write_bytes(content)
    for read in (read_json, read_results):
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read(path)


def test_a_model_that_was_saved_is_the_one_that_is_loaded(config, tmp_path):
    model = GLSCL(config).eval()
    save_model(model, tmp_path / 'x.safetensors')
    assert same(load_model(tmp_path / 'x.safetensors').state_dict(), model.state_dict())


@pytest.mark.parametrize('call, match', [
    (lambda model: model.encode_texts(torch.zeros(0, 4, dtype=torch.long), torch.zeros(0, 4)), 'no texts'),
    (lambda model: model.encode_videos(torch.zeros(0, 4, 3, 32, 32), torch.zeros(0, 4)), 'no videos'),
    (lambda model: tokenize(['a'], 1), 'max_words must be a whole number of 3 or more'),
    (lambda model: LocalInteraction(63), 'a width of 63 does not split into the 8 heads')])
def test_empty_and_odd_sizes_are_told(config, call, match):
    with pytest.raises(ValueError, match=match):
        call(GLSCL(config))
