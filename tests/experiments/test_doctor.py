"""The doctor names what is there and what is missing, and returns what to do about it."""
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from trees import make_tree

from glscl import clip_weights
from glscl.config import Config, data_path, load_config
from glscl.experiments import doctor
from glscl.experiments.doctor import Todo


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """No weights of this machine's caches are found."""
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('USERPROFILE', str(tmp_path / 'home'))
    monkeypatch.setattr(clip_weights.huggingface_hub, 'try_to_load_from_cache', lambda *_: None)


def examine(dataset, root=None, decode=False, **settings):
    """(what is printed, remedies) with the small CLIP: nothing but the data can be missing."""
    config = Config(dataset=dataset, clip='small', clip_pretrained=None, **settings)
    lines = []
    remedies = doctor.check(config, root, decode, lines.append)
    assert lines[-1].count('\n- ') == len(remedies)
    return '\n'.join(lines), remedies


def found(lines):
    """(what is printed, remedies) of one of the doctor's looks."""
    lines = list(lines)
    todo = [line for line in lines if isinstance(line, Todo)]
    return [line for line in lines if not isinstance(line, Todo)], todo


@pytest.mark.parametrize('dataset', ['msrvtt', 'msrvtt7k', 'msvd', 'lsmdc', 'didemo',
                                     'activitynet', 'own'])
def test_a_whole_tree_passes(tmp_path, dataset):
    printed, remedies = examine(dataset, make_tree(dataset, tmp_path / 'tree'), decode=True)
    assert remedies == [] and printed.endswith('\nNothing is missing.')
    assert 'test: ' in printed and 'of 3 videos, 3 of them on disk' in printed
    assert '9 of 9 videos can be decoded' in printed


def test_a_missing_annotation_file_is_named_once_with_the_remedy(tmp_path):
    root = make_tree('didemo', tmp_path / 'tree')
    (root / 'train_data.json').unlink()
    printed, remedies = examine('didemo', root)
    assert 'train_data.json: MISSING' in printed and f'test_data.json: {root}' in printed
    assert '3 of them on disk' in printed
    assert remedies == [f'put train_data.json into {root}; data/README.md says where to get it']


def test_missing_videos_are_counted_and_the_first_named(tmp_path):
    root = make_tree('lsmdc', tmp_path / 'tree', n_train=1, n_val=1, n_test=6)
    for film in sorted((root / 'videos').iterdir())[3:]:
        for clip in film.iterdir():
            clip.unlink()
    printed, [remedy] = examine('lsmdc', root)
    printed = printed.split('To do:')[0]
    assert 'test: 6 captions of 6 videos, 1 of them on disk' in printed
    assert ('test: 5 MISSING: 0003_A_Film_00.00.53.926-00.00.54.129, 0004_A_Film' in printed
            and '0006_A_Film' not in printed)
    assert remedy.startswith('test: put the 5 missing videos (0003_A_Film')


def test_unreadable_videos_are_found_on_request(tmp_path):
    root = make_tree('msrvtt', tmp_path / 'tree')
    (root / 'videos/all/video6.mp4').write_bytes(b'no film ' * 100)
    assert examine('msrvtt', root)[1] == []
    printed, remedies = examine('msrvtt', root, decode=True)
    assert '8 of 9 videos can be decoded' in printed
    assert 'video6.mp4: cannot be decoded' in printed
    assert remedies == ['copy the 1 unreadable videos again; training skips and counts them']


def test_of_many_unreadable_videos_the_first_are_named(tmp_path):
    paths = {n: str(tmp_path / f'{n}.mp4') for n in range(101)}
    lines, remedies = found(doctor.decoded(Config(), {**paths, 'missing': None}))
    assert lines[0] == '0 of 101 videos can be decoded' and len(lines) == 7
    assert lines[1].startswith(str(tmp_path / '0.mp4'))
    assert remedies == ['copy the 101 unreadable videos again; training skips and counts them']


def test_broken_annotations_and_dropped_captions_are_told(tmp_path):
    root = make_tree('msvd', tmp_path / 'tree', videos=False)
    (root / 'val_list.txt').write_text('a/b\n')
    (root / 'test_list.txt').write_text((root / 'test_list.txt').read_text() + '-nowhere\n')
    remedies = '\n'.join(examine('msvd', root)[1])
    assert "val_list.txt, row 1, field video_id: 'a/b' is a path" in remedies
    assert "test_list.txt, row 4, field video_id: '-nowhere'" in remedies
    path = tmp_path / 'mine.csv'
    path.write_text('path,caption,split\na.mp4,,test\nb.mp4,b,test\n')
    printed, remedies = examine('own', path, select_on='test')
    assert '1 of 2 captions are empty and left out' in printed
    assert any('no row has "train"' in remedy for remedy in remedies)


@pytest.mark.parametrize('data_dir, error, message', [
    (None, ValueError, 'this data set needs data_dir'),
    ('no/such', FileNotFoundError, 'such: no such folder')])
def test_nothing_to_look_at(data_dir, error, message):
    with pytest.raises(error, match=message):
        examine('msrvtt', data_dir)


def test_shapes_needs_nothing():
    printed, remedies = examine('shapes')
    assert remedies == [] and '2,700 videos, rendered at first use' in printed


def test_weights_are_looked_for_without_a_network(tmp_path, monkeypatch):
    openai = Config(clip='ViT-B-32')
    [line], [remedy] = found(doctor.weights(openai))
    assert 'MISSING' in line and 'ViT-B-32.pt into ~/.cache/clip' in remedy
    for config in (openai.replace(clip_pretrained='nowhere.pt'),
                   Config(clip='small', clip_pretrained='nowhere.safetensors')):
        [line], [remedy] = found(doctor.weights(config))
        assert 'MISSING' in line and 'is neither a file nor a tag of open_clip' in remedy
    assert found(doctor.weights(openai.replace(clip_pretrained=None)))[1] == []
    file = tmp_path / 'mine.pt'
    file.touch()
    mine = openai.replace(clip_pretrained=str(file))
    assert found(doctor.weights(mine)) == ([f'ViT-B-32 ({file}): {file}'], [])
    monkeypatch.setattr(clip_weights.huggingface_hub, 'try_to_load_from_cache',
                        lambda repository, name: str(file))
    assert found(doctor.weights(openai)) == ([f'ViT-B-32 (openai): {file}'], [])
    kept = tmp_path / 'home/.cache/clip/ViT-B-32.pt'
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert found(doctor.weights(openai)) == ([f'ViT-B-32 (openai): {kept}'], [])


def test_room_for_frames(monkeypatch):
    config = load_config('msrvtt')
    # 10,000 videos x 12 frames x 224 x 224 pixels x 3 bytes are 18.06 GB
    monkeypatch.setattr(doctor.shutil, 'disk_usage', lambda path: SimpleNamespace(free=18e9))
    [line], [remedy] = found(doctor.disk(config, range(10_000)))
    assert '18.1 GB at most' in line and '18.0 GB free' in line and 'GLSCL_CACHE' in remedy
    assert found(doctor.disk(config, range(9000)))[1] == []
    assert found(doctor.disk(config.replace(cache_frames=False), range(10 ** 9)))[1] == []


def test_memory_counted_by_hand_and_what_lowers_it():
    config = load_config('msrvtt')
    vision, text = 128 * 12 * 50 * 768 * 12 * 34, 128 * 32 * 512 * 12 * 34
    clip = 12 * 12 * 768 ** 2 + 12 * 12 * 512 ** 2 + 49408 * 512
    head = 4 * 12 * 512 ** 2 + 3 * (8 * 512 ** 2 + 2 * 512 * 2048)
    assert doctor.training_bytes(config) == vision + text + 16 * (clip + head)
    assert doctor.training_bytes(config.replace(freeze_clip=True)) == 4 * clip + 16 * head
    assert doctor.training_bytes(config.replace(grad_checkpointing=True)) == (
        (vision + text) * (12 * 2 + 34) // (12 * 34) + 16 * (clip + head))
    assert doctor.training_bytes(config.replace(chunk=32)) == (
        (vision + text) // 4 + 16 * (clip + head))


def test_the_gpu_is_held_against_the_estimate(monkeypatch):
    config = load_config('msrvtt')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    lines, remedies = found(doctor.memory(config))
    assert 'estimate' in lines[0] and 'no GPU' in lines[1] and not remedies
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    for size, fits in ((16e9, False), (80e9, True)):
        gpu = SimpleNamespace(name='a GPU', total_memory=size)
        monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device, gpu=gpu: gpu)
        lines, remedies = found(doctor.memory(config))
        assert lines[1] == f'a GPU: {size / 1e9:.1f} GB' and (not remedies) == fits
    [remedy] = found(doctor.memory(config.replace(batch_size=512)))[1]
    assert remedy.startswith('set grad_checkpointing: true')


def test_the_estimates_of_the_data_page_are_these():
    page = data_path('README.md').read_text(encoding='utf-8')
    for name in ('msrvtt', 'msvd', 'lsmdc', 'didemo', 'activitynet'):
        config = load_config(name)
        both = (config, config.replace(grad_checkpointing=True))
        row = next(line for line in page.split('\n') if line.startswith(f'| {name} |'))
        assert [cell.strip() for cell in row.split('|')[5:7]] == [
            f'{doctor.training_bytes(c) / 1e9:.1f} GB' for c in both]


def rewritten(path, change=lambda text: text, encoding='utf-8'):
    path.write_bytes(change(path.read_text(encoding='utf-8')).encode(encoding))


def upper(path):
    os.rename(path, path.with_name(path.name.upper()))


def packed(root):
    shutil.make_archive(str(root / 'videos'), 'zip', root / 'videos')
    shutil.rmtree(root / 'videos')


@pytest.mark.parametrize('change, said', [
    (lambda root: root / 'videos', 'There are such files in {root}: name that as data_dir'),
    (lambda root: root / 'MSRVTT_data.json', 'MSRVTT_data.json is a file: name the folder that it lies in'),
    (lambda root: upper(root / 'MSRVTT_data.json'), 'There is {root}/MSRVTT_DATA.JSON: is it packed, or spelled otherwise?'),
    (lambda root: os.rename(root / 'MSRVTT_data.json', root / 'MSRVTT_data.json.gz'), 'There is {root}/MSRVTT_data.json.gz: is it packed'),
    (packed, 'There is {root}/videos.zip: is it packed'),
    (lambda root: [upper(path) for path in root.rglob('*.mp4')], 'There is {root}/videos/all/VIDEO0.MP4: is it packed, or spelled'),
    (lambda root: rewritten(root / 'MSRVTT_data.json', encoding='utf-16'), 'MSRVTT_data.json, row 1: not UTF-8 text (byte 0xff); save'),
    (lambda root: rewritten(root / 'MSRVTT_JSFUSION_test.csv', encoding='utf-16-le'), 'test.csv, row 1: not UTF-8 text (byte 0x00); save'),
    (lambda root: rewritten(root / 'MSRVTT_JSFUSION_test.csv', lambda text: text.replace(',', ';')), 'with commas between them'),
    (lambda root: rewritten(root / 'MSRVTT_JSFUSION_test.csv', lambda text: text.replace(',', '\t')), 'with commas between them'),
    (lambda root: rewritten(root / 'MSRVTT_train.9k.csv', lambda text: text.replace('video', 'Video')), 'spelled like this'),
    (lambda root: rewritten(root / 'MSRVTT_data.json', lambda text: text.replace('sentences', 'annotations')), 'field sentences: missing; there are')],
    ids=str)
def test_a_tree_that_is_nearly_right_is_told_once_with_what_to_change(tmp_path, change, said):
    root = make_tree('msrvtt', tmp_path / 'tree')
    place = change(root)
    try:
        remedies = examine('msrvtt', place if isinstance(place, Path) else root)[1]
    except ValueError as error:
        remedies = [str(error)]
    assert any(said.format(root=root) in remedy for remedy in remedies), remedies
    assert len(set(remedies)) == len(remedies) <= 3


def test_a_table_of_ones_own_may_come_from_windows_and_hold_a_long_caption(tmp_path):
    table = make_tree('own', tmp_path / 'tree')
    rewritten(table, lambda text: text.replace('films/', 'films\\').replace('a red', 'a very ' * 50_000 + 'red').replace('\n', '\r\n'), 'utf-8-sig')
    printed, remedies = examine('own', table)
    assert remedies == [] and 'train: 4 captions of 4 videos, 4 of them on disk' in printed
