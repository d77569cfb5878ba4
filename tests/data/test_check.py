"""The doctor names what is there and what is missing, and its exit status says which."""
from types import SimpleNamespace

import pytest
import torch

from glscl.data import doctor as check
from glscl import clip_weights as weights
from glscl.config import Config, data_path, load_config
from trees import make_tree


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    """No weights of this machine's caches are found."""
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.setenv('USERPROFILE', str(tmp_path / 'home'))
    monkeypatch.setattr(weights.huggingface_hub, 'try_to_load_from_cache', lambda *_: None)


@pytest.fixture
def recipe(tmp_path):
    """A recipe file of a data set with the small CLIP: nothing but the data can be missing."""
    def write(dataset, **settings):
        lines = dict(dataset=dataset, clip='small', clip_pretrained='null', **settings)
        path = tmp_path / f'{dataset}.yaml'
        path.write_text(''.join(f'{key}: {value}\n' for key, value in lines.items()))
        return str(path)
    return write


@pytest.mark.parametrize('dataset', ['msrvtt', 'msrvtt7k', 'msvd', 'lsmdc', 'didemo', 'activitynet', 'own'])
def test_a_whole_tree_passes(tmp_path, recipe, capsys, dataset):
    root = make_tree(dataset, tmp_path / 'tree')
    assert check.main(['--recipe', recipe(dataset), '--data-dir', str(root), '--decode']) == 0
    said = capsys.readouterr().out
    assert 'test: ' in said and 'of 3 videos, 3 of them on disk' in said and 'Nothing is missing.' in said
    assert '9 of 9 videos can be decoded' in said


def test_a_missing_annotation_file_is_named_once_with_the_remedy(tmp_path, recipe, capsys):
    root = make_tree('didemo', tmp_path / 'tree')
    (root / 'train_data.json').unlink()
    assert check.main(['--recipe', recipe('didemo'), '--data-dir', str(root)]) == 1
    said, todo = capsys.readouterr().out.split('To do:')
    assert 'train_data.json: MISSING' in said and f'test_data.json: {root}' in said and '3 of them on disk' in said
    assert todo.count('train_data.json') == 1 and f'put train_data.json into {root}' in todo


def test_missing_videos_are_counted_and_the_first_named(tmp_path, recipe, capsys):
    root = make_tree('lsmdc', tmp_path / 'tree', n_train=1, n_val=1, n_test=6)
    for film in sorted((root / 'videos').iterdir())[3:]:
        for clip in film.iterdir():
            clip.unlink()
    assert check.main(['--recipe', recipe('lsmdc'), '--data-dir', str(root)]) == 1
    said, todo = capsys.readouterr().out.split('To do:')
    assert 'test: 6 captions of 6 videos, 1 of them on disk' in said
    assert 'test: 5 MISSING: 0003_A_Film_00.00.53.926-00.00.54.129, 0004_A_Film' in said and '0006_A_Film' not in said
    assert 'put the 5 missing videos' in todo and 'train: ' not in todo


def test_unreadable_videos_are_found_on_request(tmp_path, recipe, capsys):
    root = make_tree('msrvtt', tmp_path / 'tree')
    (root / 'videos/all/video6.mp4').write_bytes(b'no film ' * 100)
    arguments = ['--recipe', recipe('msrvtt'), '--data-dir', str(root)]
    assert check.main(arguments) == 0
    capsys.readouterr()
    assert check.main([*arguments, '--decode']) == 1
    said = capsys.readouterr().out
    assert '8 of 9 videos can be decoded' in said and 'video6.mp4: cannot be decoded' in said
    assert 'copy the 1 unreadable videos again' in said


def test_many_videos_are_decoded_by_several_processes(tmp_path):
    lines, remedies = check.decoded(Config(), [str(tmp_path / f'{n}.mp4') for n in range(101)])
    assert lines[0] == '0 of 101 videos can be decoded' and lines[1].startswith(str(tmp_path / '0.mp4')) and len(lines) == 7
    assert remedies == ['copy the 101 unreadable videos again; training skips and counts them']


def test_broken_annotations_and_dropped_captions_are_told(tmp_path, recipe, capsys):
    root = make_tree('msvd', tmp_path / 'tree')
    (root / 'val_list.txt').write_text('a/b\n')
    (root / 'test_list.txt').write_text((root / 'test_list.txt').read_text() + '-nowhere\n')
    assert check.main(['--recipe', recipe('msvd'), '--data-dir', str(root)]) == 1
    todo = capsys.readouterr().out.split('To do:')[1]
    assert "val_list.txt, row 1, field video_id: 'a/b' is a path" in todo
    assert "test_list.txt, row 4, field video_id: '-nowhere'" in todo
    path = tmp_path / 'mine.csv'
    path.write_text('path,caption,split\na.mp4,,test\nb.mp4,b,test\n')
    check.main(['--recipe', recipe('own', select_on='test'), '--data-dir', str(path)])
    assert '1 of 2 captions are empty and left out' in capsys.readouterr().out


@pytest.mark.parametrize('arguments, message', [
    (['--recipe', 'msrvt'], "unknown recipe 'msrvt'"), (['--recipe', 'msrvtt'], 'this data set needs data_dir'),
    (['--recipe', 'msrvtt', '--data-dir', 'no/such'], 'such: no such folder')])
def test_nothing_to_look_at(capsys, arguments, message):
    assert check.main(arguments) == 1
    assert message in capsys.readouterr().out.split('To do:')[1]


def test_shapes_needs_nothing(capsys):
    assert check.main([]) == 0
    assert '2,700 videos, rendered at first use' in capsys.readouterr().out


def test_weights_are_looked_for_without_a_network(tmp_path, monkeypatch):
    openai = Config(clip='ViT-B-32')
    lines, remedies = check.weights(openai)
    assert 'MISSING' in lines[0] and 'ViT-B-32.pt into ~/.cache/clip' in remedies[0]
    for config in (openai.replace(clip_pretrained='nowhere.pt'), Config(clip='small', clip_pretrained='nowhere.safetensors')):
        assert 'is neither a file nor a tag of open_clip' in check.weights(config)[1][0]
    assert check.weights(openai.replace(clip_pretrained=None))[1] == []
    file = tmp_path / 'mine.pt'
    file.touch()
    assert check.weights(openai.replace(clip_pretrained=str(file))) == ([f'ViT-B-32: {file}'], [])
    monkeypatch.setattr(weights.huggingface_hub, 'try_to_load_from_cache', lambda repository, name: str(file))
    assert check.weights(openai) == ([f'ViT-B-32 (openai): {file}'], [])
    kept = tmp_path / 'home/.cache/clip/ViT-B-32.pt'
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert check.weights(openai) == ([f'ViT-B-32 (openai): {kept}'], [])


def test_room_for_frames(monkeypatch):
    config = load_config('msrvtt')
    assert check.frame_bytes(config, 10_000) == 10_000 * 12 * 224 * 224 * 3
    monkeypatch.setattr(check.shutil, 'disk_usage', lambda path: SimpleNamespace(free=18e9))
    lines, remedies = check.disk(config, 10_000)
    assert '18.1 GB at most' in lines[0] and '18.0 GB free' in lines[0] and 'GLSCL_CACHE' in remedies[0]
    assert check.disk(config, 9000)[1] == [] and check.disk(config.replace(cache_frames=False), 10 ** 9)[1] == []


def test_memory_counted_by_hand_and_what_lowers_it():
    config = load_config('msrvtt')
    vision, text = 128 * 12 * 50 * 768 * 12 * 34, 128 * 32 * 512 * 12 * 34
    clip = 12 * 12 * 768 ** 2 + 12 * 12 * 512 ** 2 + 49408 * 512
    head = 4 * 12 * 512 ** 2 + 3 * (8 * 512 ** 2 + 2 * 512 * 2048)
    assert check.training_bytes(config) == vision + text + 16 * (clip + head)
    assert check.training_bytes(config.replace(freeze_clip=True)) == 4 * clip + 16 * head
    assert check.training_bytes(config.replace(grad_checkpointing=True)) == (
        (vision + text) * (12 * 2 + 34) // (12 * 34) + 16 * (clip + head))


def test_the_gpu_is_held_against_the_estimate(monkeypatch):
    config = load_config('msrvtt')
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    lines, remedies = check.memory(config)
    assert 'estimate' in lines[0] and 'no GPU' in lines[1] and not remedies
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    for size, fits in ((16e9, False), (80e9, True)):
        gpu = SimpleNamespace(name='a GPU', total_memory=size)
        monkeypatch.setattr(torch.cuda, 'get_device_properties', lambda device, gpu=gpu: gpu)
        lines, remedies = check.memory(config)
        assert lines[1] == f'a GPU: {size / 1e9:.1f} GB' and (not remedies) == fits
    assert check.memory(config.replace(batch_size=512))[1][0].startswith('set grad_checkpointing: true')


def test_the_estimates_of_the_data_page_are_these():
    page = data_path('README.md').read_text(encoding='utf-8')
    for name in ('msrvtt', 'msvd', 'lsmdc', 'didemo', 'activitynet'):
        config = load_config(name)
        row = next(line for line in page.split('\n') if line.startswith(f'| {name} |'))
        assert [f'{check.training_bytes(c) / 1e9:.1f} GB' for c in (config, config.replace(grad_checkpointing=True))] == [
            cell.strip() for cell in row.split('|')[5:7]]
