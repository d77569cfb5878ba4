"""Settings: what is not known, or cannot be, is said at once and by name."""
import dataclasses

import pytest
import yaml

from glscl.config import CHOICES, RANGES, Config, cache_dir, data_path, load_config
from glscl.notebook import PROFILES, begin


def test_the_shipped_recipe_and_its_overrides():
    assert load_config().clip == 'small' and load_config('shapes') == load_config(data_path('recipes/shapes.yaml'))
    changed = load_config('shapes', temperature=5, local_weight=0)
    assert (changed.temperature, changed.local_weight, changed.clip) == (5, 0, 'small')
    assert load_config(changed, num_queries=2) == dataclasses.replace(changed, num_queries=2)


def test_every_recipe_file_loads():
    recipes = sorted(data_path('recipes').glob('*.yaml'))
    assert recipes
    for path in recipes:
        assert isinstance(load_config(path.stem), Config)


# SPEC 5: batch, epochs, words, frames, tau, alpha, beta, Q, lambda
TABLE = {
    'msrvtt': (128, 5, 32, 12, 3, 1e-4, 0.005, 8, 0.5),
    'msvd': (128, 5, 32, 12, 3, 1e-4, 0.005, 8, 0.5),
    'lsmdc': (128, 5, 32, 12, 5, 0.01, 0.005, 8, 0.5),
    'didemo': (32, 5, 64, 64, 3, 1e-4, 0.005, 8, 0.5),
    'activitynet': (64, 10, 64, 64, 3, 1e-4, 0.005, 12, 0.5),
}


@pytest.mark.parametrize('name', TABLE)
def test_a_recipe_is_the_papers(name):
    c = load_config(name)
    assert (c.batch_size, c.epochs, c.max_words, c.max_frames, c.temperature, c.diversity_weight, c.consistency_weight, c.num_queries,
            c.local_weight) == TABLE[name]
    assert (c.dataset, c.clip, c.clip_pretrained, c.lr, c.clip_lr, c.framerate) == (name, 'ViT-B-32', 'openai', 1e-4, 1e-7, 1)
    assert c.sampling == ('seconds' if name in ('didemo', 'activitynet') else 'stride')
    assert c.select_on == 'val' and not c.released  # held-out selection and the sound reading, unless asked otherwise
    assert c == Config(**{f: getattr(c, f) for f in (
        'dataset', 'sampling', 'batch_size', 'epochs', 'max_words', 'max_frames', 'temperature', 'diversity_weight', 'num_queries')})


def test_a_recipe_lists_every_setting_of_the_table():
    """A default changed later must not change a published recipe."""
    for name in TABLE:
        told = yaml.safe_load(data_path(f'recipes/{name}.yaml').read_text(encoding='utf-8'))
        assert set(told) >= {'dataset', 'sampling', 'select_on', 'clip', 'clip_pretrained', 'max_words', 'max_frames', 'framerate',
                             'temperature', 'local_weight', 'num_queries', 'consistency_weight', 'diversity_weight', 'batch_size',
                             'epochs', 'lr', 'clip_lr'}
        assert all(not isinstance(value, str) for key, value in told.items() if key in ('lr', 'clip_lr', 'diversity_weight'))


def test_defaults_are_the_papers():
    c = Config()
    assert (c.temperature, c.local_weight, c.num_queries, c.decoder_layers, c.diversity_weight, c.diversity_margin) == (3, 0.5, 8, 3, 1e-4, 0.1)
    assert (c.max_words, c.max_frames, c.temporal_layers, c.batch_size, c.epochs, c.lr, c.clip_lr) == (32, 12, 4, 128, 5, 1e-4, 1e-7)
    assert Config(released=True).mask_padding is False and Config(released=True).diversity_sides == 'visual'


def test_an_unknown_recipe_is_answered_with_those_there():
    with pytest.raises(ValueError, match="unknown recipe 'shape'; there are .*shapes"):
        load_config('shape')
    with pytest.raises(FileNotFoundError, match='nowhere.yaml: no such recipe file'):
        load_config('nowhere.yaml')


@pytest.mark.parametrize('source', ['file', 'override', 'replace'])
def test_an_unknown_key_is_answered_with_its_nearest(tmp_path, source):
    path = tmp_path / 'mine.yaml'
    path.write_text('temprature: 5\n' if source == 'file' else '')
    with pytest.raises(ValueError, match="unknown key 'temprature'; did you mean 'temperature'") as caught:
        if source == 'replace':
            Config().replace(temprature=5)
        load_config(path, **(dict(temprature=5) if source == 'override' else {}))
    assert source != 'file' or str(path) in str(caught.value)
    with pytest.raises(ValueError, match="unknown key 'zzz' Known keys: dataset, "):
        load_config('shapes', zzz=1)


def test_something_must_be_left_to_score_with():
    with pytest.raises(ValueError, match='global_weight and local_weight are both 0'):
        load_config('shapes', global_weight=0, local_weight=0)


def test_the_released_losses_come_alone_or_with_all_that_is_released():
    alone, whole = Config(released_losses=True), Config(released=True)
    assert (alone.mask_padding, alone.optimizer, alone.diversity_sides) == (True, 'adamw', 'visual')
    assert (whole.mask_padding, whole.optimizer, whole.diversity_sides, whole.released_losses) == (False, 'bert_adam', 'visual', True)


WORDS = [('temporal', 'gru'), ('pooling', 'max'), ('diversity_sides', 'text'), ('sampling', 'frames'), ('reader', 'opencv'),
         ('select_on', 'train'), ('optimizer', 'sgd'), ('clip', 3), ('dataset', None)]


@pytest.mark.parametrize('key, value', WORDS)
def test_a_wrong_word_is_named_with_its_key_and_what_there_is(key, value):
    allowed = '.*'.join(CHOICES.get(key, ['text']))
    with pytest.raises(ValueError, match=f'^{key} .*{allowed}.*, not {value!r}$'):
        load_config('shapes', **{key: value})


NUMBERS = [('temperature', 0), ('temperature', -3.0), ('temperature', float('nan')), ('temperature', float('inf')), ('temperature', 'hot'),
           ('max_words', 0), ('max_words', 31.5), ('max_words', True), ('max_words', 10 ** 400), ('max_frames', -1), ('max_frames', None),
           ('num_queries', 0), ('num_queries', 10 ** 18), ('batch_size', 0), ('batch_size', float('inf')), ('framerate', 0),
           ('framerate', -1), ('lr', 0), ('lr', [1e-4]), ('lr', 'inf'), ('clip_lr', -1e-7), ('weight_decay', float('nan')),
           ('global_weight', -1), ('local_weight', -0.5), ('consistency_weight', -1), ('diversity_weight', -1e-4),
           ('consistency_target', 2), ('diversity_margin', -0.1), ('grad_clip', -1), ('grad_clip', 0), ('grad_clip', float('inf')),
           ('epochs', -1), ('epochs', 0), ('warmup', 1.5), ('temporal_layers', 0), ('decoder_layers', 0), ('decoder_layers', '0'),
           ('chunk', -1)]


@pytest.mark.parametrize('key, value', NUMBERS)
def test_a_wrong_number_is_named_with_its_key_and_what_is_allowed(key, value):
    least, greatest = RANGES[key]
    with pytest.raises(ValueError) as caught:
        load_config('shapes', **{key: value})
    kind = 'a whole number' if isinstance(getattr(Config(), key), int) else 'a number'
    assert str(caught.value) == f'{key} must be {kind} from {least:g} to {greatest:g}, not {value!r}'


def test_every_number_has_a_range_and_the_ends_of_it_are_allowed():
    fields = {field.name: field.type for field in dataclasses.fields(Config)}
    assert set(RANGES) == {name for name, kind in fields.items() if kind in (int, float)}
    for name, ends in RANGES.items():
        for value in ends:
            assert getattr(Config(**{name: value}), name) == value


@pytest.mark.parametrize('text, value', [('false', False), ('False', False), ('0', False), (0, False), ('true', True), ('TRUE', True), (1, True)])
def test_a_switch_takes_its_value_as_text(text, value):
    """bool('false') is True; papermill and a shell hand over text."""
    for name in ('mask_padding', 'consistency', 'freeze_clip'):
        assert getattr(Config(**{name: text}), name) is value


@pytest.mark.parametrize('value', ['maybe', '', 'nope', 2, None, [True]])
def test_what_is_no_switch_is_refused_by_name(value):
    with pytest.raises(ValueError) as caught:
        Config(mask_padding=value)
    assert str(caught.value) == f'mask_padding must be true or false, not {value!r}'


@pytest.mark.parametrize('name', ['released', 'released_losses'])
def test_released_can_be_taken_back(name):
    assert Config(**{name: True}).replace(**{name: False}) == Config()
    assert Config().replace(**{name: True}).replace(lr=1e-3).replace(**{name: False}) == Config(lr=1e-3)
    assert Config(**{name: True}).replace(lr=1e-3) == Config(**{name: True}, lr=1e-3)


def test_what_was_set_beside_released_is_kept():
    own = Config(mask_padding=False, diversity_sides='visual')
    assert own.replace(released=True).replace(released=False) == own
    assert own.replace(released=True).replace(released=False).mask_padding is False
    assert Config(released=True, released_losses=True).replace(released=False) == Config(released_losses=True)


def test_a_number_as_yaml_reads_it_is_a_number(tmp_path):
    """YAML 1.1 takes 1e-4, without a point, for text."""
    path = tmp_path / 'mine.yaml'
    path.write_text('lr: 1e-4\nclip_lr: 1e-7\n')
    c = load_config(path)
    assert (c.lr, c.clip_lr) == (1e-4, 1e-7)


def test_lessons_take_profiles_and_folders(tmp_path):
    lesson = begin('tiny', 3, 'cpu', str(tmp_path / 'data'), str(tmp_path / 'run'))
    assert lesson.config.batch_size == PROFILES['tiny']['settings']['batch_size'] and lesson.videos['test'] == 24
    assert lesson.data_dir == tmp_path / 'data' and lesson.run_dir == tmp_path / 'run' and lesson.seed == 3
    assert begin('small', device='cpu').run_dir == cache_dir() / 'runs' / 'small-0'
    assert begin('tiny', device='cpu', temperature=7.0).config.temperature == 7
    with pytest.raises(ValueError, match="unknown profile 'huge'; there are tiny, small, large"):
        begin('huge')


@pytest.mark.parametrize('text, value', [('yes', True), ('On', True), (' true ', True), ('no', False), ('OFF', False)])
def test_a_switch_as_text_is_what_yaml_would_make_of_it(text, value):
    assert Config(compile=text).compile is value


@pytest.mark.parametrize('text', ['~', 'null', ' None ', ''])
def test_nothing_as_text_is_nothing(text):
    assert Config(clip_pretrained=text).clip_pretrained is None
