"""The annotation files of five sets, and one's own: the same table from each, and bad input told by file, row and field."""
import collections
import functools
import json
import os
import pickle
import re
import warnings

import pytest
from trees import TREES, make_tree, say

from glscl.config import Config
from glscl.datasets.readers import benchmarks, files, find_videos, load_table
from glscl.datasets.readers.files import EmptySplit
from glscl.datasets.splits import load_split

COLUMNS = ['video_id', 'path', 'caption', 'start', 'end']
SETS = ('msrvtt', 'msrvtt7k', 'msvd', 'lsmdc', 'didemo', 'activitynet')


def annotations(dataset, tmp_path, **counts):
    return make_tree(dataset, tmp_path / dataset, videos=False, **counts)


READ_ONCE = {name: functools.cache(getattr(benchmarks, name)) for name in ('_msrvtt_data', 'read_json')}


@pytest.fixture
def originals(shared, monkeypatch):
    """The folder of the original files; the largest of them are read once for all tests."""
    for name, read_once in READ_ONCE.items():
        monkeypatch.setattr(benchmarks, name, read_once)
    return shared / 'annotations'


def read(dataset, split, root, select_on='val'):
    return load_table(dataset, split, root, select_on, require_videos=False)


# ---- the original files

@pytest.mark.parametrize('dataset, split, select_on, videos, captions', [
    ('msrvtt', 'train', 'test', 9000, 180_000), ('msrvtt', 'train', 'val', 8500, 170_000), ('msrvtt', 'val', 'val', 500, 500),
    ('msrvtt', 'val', 'test', 1000, 1000), ('msrvtt', 'test', 'val', 1000, 1000), ('msrvtt', 'bank', 'test', 9000, 9000),
    ('msrvtt7k', 'train', 'test', 7010, 140_200), ('msrvtt7k', 'train', 'val', 6513, 130_260),
    ('msrvtt7k', 'val', 'val', 497, 497),
    ('msvd', 'train', 'val', 1200, 48_774), ('msvd', 'val', 'val', 100, 4290), ('msvd', 'test', 'val', 670, 27_763),
    ('didemo', 'val', 'val', 1065, 1065), ('didemo', 'val', 'test', 1004, 1004), ('didemo', 'test', 'val', 1004, 1004),
    ('activitynet', 'train', 'test', 10_009, 10_009), ('activitynet', 'train', 'val', 9509, 9509),
    ('activitynet', 'val', 'val', 500, 500), ('activitynet', 'test', 'val', 4917, 4917)])
def test_the_published_counts(originals, dataset, split, select_on, videos, captions):
    """All sets in one folder, one level down: two of them have a train_list.txt."""
    table = read(dataset, split, originals, select_on)
    assert (table['video_id'].nunique(), len(table)) == (videos, captions)
    assert list(table.columns) == COLUMNS


def test_what_the_files_say_word_by_word(originals):
    root = originals
    test = read('msrvtt', 'test', root)
    assert test['caption'][0] == 'a person is connecting something to system' and test['caption'].nunique() == 995
    train = read('msrvtt', 'train', root, 'test')
    data = json.loads((root / 'msrvtt/MSRVTT_data.json').read_text())
    assert not set(train['video_id']) & set(test['video_id'])
    listed = set(train['video_id'])
    assert train['caption'].tolist() == [s['caption'] for s in data['sentences'] if s['video_id'] in listed]
    val = read('activitynet', 'val', root)
    paragraphs = json.loads((root / 'activitynet/train.json').read_text())
    for video_id, caption, start, end in val.drop(columns='path').itertuples(index=False):
        assert caption == ' '.join(paragraphs[video_id]['sentences']) and start == 0
        assert 0 <= end - paragraphs[video_id]['duration'] < 1
    assert len(files.read_list(root / 'didemo/train_list.txt', any_dot=True)) == 8392
    didemo = read('didemo', 'test', root)
    moments = json.loads((root / 'didemo/test_data.json').read_text())
    told = collections.defaultdict(list)
    for moment in moments:
        told[moment['video']].append(moment['description'])
    assert didemo['caption'].tolist() == [' '.join(told[i]) for i in told if i in set(didemo['video_id'])]
    assert set(didemo['start']) == {0} and set(didemo['end']) == {31}


# ---- trees as the originals

@pytest.mark.parametrize('dataset', TREES)
def test_every_set_gives_the_same_table(tmp_path, dataset):
    root = make_tree(dataset, tmp_path / 'tree', 4, 2, 5)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        tables = {split: load_table(dataset, split, root) for split in ('train', 'val', 'test', 'bank')}
    ids = {split: set(table['video_id']) for split, table in tables.items()}
    assert not ids['train'] & ids['val'] and not (ids['train'] | ids['val']) & ids['test'] and ids['bank'] == ids['train']
    assert len(ids['test']) == 5 and len(ids['train'] | ids['val']) == 6
    for split, table in tables.items():
        assert list(table.columns) == COLUMNS and all(map(os.path.isfile, table['path']))
        assert all(isinstance(caption, str) and caption for caption in table['caption'])
        seconds = {(s, e) for s, e in zip(table['start'], table['end'])}
        assert all(s is e is None or 0 <= s < e for s, e in seconds), seconds
    first = tables['train'].drop_duplicates('video_id')
    assert tables['bank']['caption'].tolist() == first['caption'].tolist()
    whole = load_table(dataset, 'val', root, 'test')
    assert whole.equals(tables['test'])


def test_held_out_videos_stay_the_same_whatever_is_missing(tmp_path):
    root = make_tree('msrvtt', tmp_path / 'tree', 30, 0, 2)
    held = load_table('msrvtt', 'val', root)
    assert len(held) == held['video_id'].nunique() == 3
    (root / 'videos/all' / f'{held["video_id"][0]}.mp4').unlink()
    with pytest.warns(UserWarning, match=f'1 of 3 videos of the split "val" are missing .* \\({held["video_id"][0]}\\)'):
        rest = load_table('msrvtt', 'val', root)
    assert rest['video_id'].tolist() == held['video_id'].tolist()[1:]
    one = annotations('msrvtt', tmp_path, n_train=1, n_val=0)
    with pytest.raises(ValueError, match='set select_on to "test"'):
        read('msrvtt', 'train', one)
    assert len(read('msrvtt', 'train', one, 'test')) == 20


@pytest.mark.parametrize('dataset', ['msrvtt', 'msvd', 'lsmdc', 'didemo', 'activitynet', 'own'])
def test_training_videos_alone_give_a_hold_out(tmp_path, dataset):
    """A tenth of those that are on disk; the others, and what is missing, stay in train."""
    root = make_tree(dataset, tmp_path / 'tree', 20, 2, 2)
    train, val = (load_table(dataset, split, root, 'held_out') for split in ('train', 'held_out'))
    whole = load_table(dataset, 'train', root, 'test')
    assert set(train['video_id']) | set(val['video_id']) == set(whole['video_id'])
    assert not set(train['video_id']) & set(val['video_id']) and len(val) == val['video_id'].nunique() == 2
    assert load_table(dataset, 'val', root, 'held_out').equals(val)
    assert set(load_table(dataset, 'bank', root, 'held_out')['video_id']) == set(train['video_id'])
    for path in {*load_table(dataset, 'test', root)['path'], val['path'][0], *train['path'].unique()[:8]}:
        os.unlink(path)
    with pytest.warns(UserWarning, match='missing'):
        rest = load_table(dataset, 'train', root, 'held_out')
        held = load_table(dataset, 'val', root, 'held_out')
    assert len(held) == 1 and len(rest.attrs['missing']) == 9 and not set(rest['video_id']) & set(held['video_id'])
    with pytest.raises(EmptySplit, match='none of the 2 videos of the split "test" is there') as empty:
        load_table(dataset, 'test', root, 'held_out')
    assert empty.value.listed == 2


def test_a_split_is_decoded_and_tokenised(tmp_path):
    root = make_tree('msvd', tmp_path / 'tree', 2, 1, 3)
    pairs = load_split(Config(dataset='msvd', clip='small', max_frames=4), 'test', root)
    assert len(pairs) == 15 and pairs.frames.shape == (3, 4, 32, 32, 3) and not pairs.skipped


def test_lsmdc_skips_three_clips_and_keeps_repeated_ones_in_training(tmp_path):
    root = annotations('lsmdc', tmp_path)
    path = root / 'LSMDC16_annos_training.csv'
    times = '\t00.00.01.000\t00.00.02.000\t00.00.01.000\t00.00.02.000\t'
    lines = path.read_text().split('\n')[:2]
    extra = ['0017_Pianist_00.23.28.872-00.23.34.843', '0017_Pianist_00.30.36.767-00.30.38.009',
             '3064_SPARKLE_2012_01.41.07.000-01.41.11.793']
    path.write_text('\n'.join(lines + [f'{clip}{times}SOMEONE plays.' for clip in extra] + lines[:1]))
    table = read('lsmdc', 'train', root)
    clips = [line.split('\t')[0] for line in lines]
    assert table['video_id'].tolist() == [*clips, clips[0]]


# ---- where files may lie

def test_annotations_up_to_two_levels_down_and_videos_anywhere(tmp_path):
    root = make_tree('msvd', tmp_path / 'a/b/msvd', 2, 1, 2)
    (tmp_path / 'a/z').mkdir()
    make_tree('didemo', tmp_path / 'a/a', 2, 1, 2)  # its train_list.txt comes first by name
    assert len(load_table('msvd', 'train', tmp_path / 'a')) == 10
    with pytest.raises(FileNotFoundError, match='train_list.txt is neither in .* nor up to two levels below it'):
        load_table('msvd', 'train', root.parents[2] / 'a/z')
    deep = tmp_path / 'x'
    deep.mkdir()
    (tmp_path / 'a').rename(deep / 'y')
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        load_table('msvd', 'train', tmp_path)


@pytest.mark.parametrize('dataset, video_id, names', [
    ('msrvtt', 'video7', ['video7.mp4', 'video7.WEBM', 'video7.Mkv', 'video7.avi', 'video7.mov']),
    ('lsmdc', '0001_A_00.00.51.926-00.00.54.129', ['0001_A_00.00.51.926-00.00.54.129.avi']),
    ('didemo', '1@N08_2_3.mov', ['1@N08_2_3.mov', '1@N08_2_3.mov.mp4', '1@N08_2_3.mp4', '1@N08_2_3.MOV']),
    ('didemo', '1@N08_2_3.mpg', ['1@N08_2_3.mpg', '1@N08_2_3.mpg.mp4', '1@N08_2_3.avi']),
    ('didemo', '1@N08_2_3.', ['1@N08_2_3..mp4', '1@N08_2_3.mp4']),
    ('activitynet', 'v_ab_c', ['v_ab_c.mp4', 'ab_c.mp4', 'v_ab_c.mkv', 'ab_c.webm'])])
def test_every_way_of_naming_a_video(tmp_path, dataset, video_id, names):
    for n, name in enumerate(names):
        folder = tmp_path / str(n) / 'deep' / 'deeper'
        folder.mkdir(parents=True)
        (folder / name).touch()
        (folder / '._hidden.mp4').touch()
        (folder / 'other.mp4').touch()
        assert find_videos(dataset, [video_id, 'video8'], tmp_path / str(n)) == [str(folder / name), None]
    (tmp_path / 'none').mkdir()
    (tmp_path / 'none' / f'{video_id}.txt').touch()
    assert find_videos(dataset, [video_id], tmp_path / 'none') == [None]


def test_links_are_followed_and_a_ring_of_them_ends(tmp_path):
    root = make_tree('msrvtt', tmp_path / 'tree', 2, 1, 2)
    (root / 'videos').rename(tmp_path / 'elsewhere')
    try:
        (root / 'videos').symlink_to(tmp_path / 'elsewhere', target_is_directory=True)
        (tmp_path / 'elsewhere' / 'ring').symlink_to(root, target_is_directory=True)
    except OSError:
        pytest.skip('no right to make links here')
    assert len(load_table('msrvtt', 'test', root)) == 2
    (tmp_path / 'elsewhere/all/video3.mp4').unlink()
    (tmp_path / 'elsewhere/all/video3.mp4').symlink_to(tmp_path / 'nowhere.mp4')
    with pytest.warns(UserWarning, match='video3'):
        assert load_table('msrvtt', 'test', root)['video_id'].tolist() == ['video4']


def test_no_video_at_all_is_an_error_with_the_remedy(tmp_path):
    root = annotations('lsmdc', tmp_path)
    with pytest.raises(FileNotFoundError, match='none of the 3 videos of the split "test" is there.*0006_A_Film.*glscl check'):
        load_table('lsmdc', 'test', root)


@pytest.mark.parametrize('data_dir, error', [('', ValueError), (None, ValueError), ('no/such/folder', FileNotFoundError)])
@pytest.mark.parametrize('dataset', ['msvd', 'own'])
def test_no_folder(dataset, data_dir, error):
    with pytest.raises(error, match='data_dir'):
        load_table(dataset, 'test', data_dir)


def test_unknown_names_are_answered_with_those_there(tmp_path):
    with pytest.raises(ValueError, match="unknown dataset 'msrvt'; there are shapes, msrvtt"):
        load_table('msrvt', 'train', tmp_path)
    with pytest.raises(ValueError, match="unknown split 'valid'; there are train, val, test, bank"):
        load_table('msrvtt', 'valid', tmp_path)


# ---- bad input

def edit(path, old, new, count=1):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


BAD = {  # name: set, split, file, (what stands there, what is put instead), the message
    'a missing column': (
        'msrvtt', 'train', 'MSRVTT_train.9k.csv', ('video_id', 'id'),
        "row 1: the column 'video_id' is missing; it has id"),
    'a missing column in the test list': (
        'msrvtt', 'test', 'MSRVTT_JSFUSION_test.csv', ('sentence', 'text'),
        "row 1: the column 'sentence'"),
    'a field too many': (
        'msrvtt', 'test', 'MSRVTT_JSFUSION_test.csv', ('a cyan', 'a, cyan'),
        'row 2: 5 fields, the header has 4'),
    'a field too few': (
        'msrvtt', 'test', 'MSRVTT_JSFUSION_test.csv', ('video6,', ''),
        'row 2, field sentence: missing'),
    'an open quote': (
        'msrvtt', 'test', 'MSRVTT_JSFUSION_test.csv', ('video6,', 'video6,"'),
        'row 2: broken CSV'),
    'an id twice': (
        'msrvtt', 'train', 'MSRVTT_train.9k.csv', ('video1\n', 'video0\n'),
        "row 3, field video_id: 'video0' is listed twice, first in .*row 2"),
    'an id twice in the test list': (
        'msrvtt', 'test', 'MSRVTT_JSFUSION_test.csv', ('video7', 'video6'),
        "row 3, field video_id: 'video6' is listed twice"),
    'an id twice in videos': (
        'msrvtt', 'train', 'MSRVTT_data.json', ('"video_id": "video1"', '"video_id": "video0"'),
        'row 2 of "videos", field video_id'),
    'an unknown id': (
        'msrvtt', 'train', 'MSRVTT_train.9k.csv', ('video1\n', 'video77\n'),
        'row 3, field video_id: MSRVTT_data.json does not list'),
    'mixed extensions': (
        'msrvtt', 'train', 'MSRVTT_train.9k.csv', ('video1\n', 'video1.MP4\n'),
        'row 3, field video_id.*write all ids one way'),
    'an id with a folder': (
        'msrvtt', 'train', 'MSRVTT_train.9k.csv', ('video1\n', '../video1\n'),
        "row 3, field video_id: '../video1' is a path"),
    'broken JSON': (
        'msrvtt', 'train', 'MSRVTT_data.json', ('"sentences": [', '"sentences": '),
        'row 1, column [0-9]+: broken JSON'),
    'no sentences': (
        'msrvtt7k', 'train', 'MSRVTT_data.json', ('"sentences"', '"captions"'),
        'field sentences: missing'),
    'a caption of a number': (
        'msrvtt', 'train', 'MSRVTT_data.json', ('"a green square number 1 moves to the right"', '7'),
        'row 1 of "sentences", field caption: expected text, found 7'),
    'a caption of no video': (
        'msrvtt', 'train', 'MSRVTT_data.json', ('right", "video_id": "video1"', 'right", "video_id": "video99"'),
        'row 1 of "sentences", field video_id: a caption for the unknown video'),
    'MSVD: an id without captions': (
        'msvd', 'train', 'train_list.txt', ('4wsu001', '4wsu777'),
        "row 2, field video_id: '-4wsu777.*no captions"),
    'MSVD: mixed extensions': (
        'msvd', 'train', 'train_list.txt', ('001_jw_5_15', '001_jw_5_15.avi'),
        'row 2, field video_id.*one way'),
    'MSVD: an id twice': (
        'msvd', 'test', 'test_list.txt', ('4wsu007', '4wsu006'),
        'row 2, field video_id.*listed twice'),
    'LSMDC: a field too few': (
        'lsmdc', 'train', 'LSMDC16_annos_training.csv', ('\t00.00.51.926', ''),
        'row 1: 5 fields, expected 6'),
    'LSMDC: a clip with a folder': (
        'lsmdc', 'val', 'LSMDC16_annos_val.csv', ('0004_A', 'film/0004_A'),
        'row 1, field video_id'),
    'LSMDC: a clip twice': (
        'lsmdc', 'test', 'LSMDC16_challenge_1000_publictect.csv', ('0007_A_Film_00.00.53', '0006_A_Film_00.00.52'),
        'row 2, field video_id.*listed twice'),
    'DiDeMo: no list': (
        'didemo', 'train', 'train_data.json', ('[{', '{"a": [{'),
        'row 1, column'),
    'DiDeMo: no description': (
        'didemo', 'val', 'val_data.json', ('"description"', '"text"'),
        'row 1, field description: missing; there are'),
    'DiDeMo: mixed extensions': (
        'didemo', 'train', 'train_list.txt', ('fa.avi', 'fa'),
        'row 1, field video_id.*one way'),
    'ActivityNet: a duration of text': (
        'activitynet', 'test', 'val_1.json', ('"duration": 3.7', '"duration": "3.7"'),
        "row 'v_.*field duration: expected a finite number, found '3.7'"),
    'ActivityNet: no time': (
        'activitynet', 'test', 'val_1.json', ('"duration": 3.7', '"duration": 0'),
        'field duration: expected seconds above 0'),
    'ActivityNet: no sentences': (
        'activitynet', 'train', 'train.json', ('"sentences"', '"text"'),
        'field sentences: missing'),
    'ActivityNet: a video twice': (
        'activitynet', 'test', 'val_1.json', ('"v_--0ed0007lz"', '"v_--0ed0008lz"'),
        'row 1, column [0-9]+: .*"v_--0ed0008lz" is listed twice'),
    'ActivityNet: an id of a number': (
        'activitynet', 'test', 'val_ids.json', ('"v_--0ed0007lz"', '7'),
        'row 2, field video_id: expected an id, found 7'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_input_is_told_by_file_row_and_field(tmp_path, case):
    dataset, split, name, change, message = BAD[case]
    root = annotations(dataset, tmp_path)
    read(dataset, split, root)  # whole before
    edit(root / name, *change)
    with pytest.raises(ValueError, match=message) as caught:
        read(dataset, split, root)
    assert str(root) in str(caught.value)


@pytest.mark.parametrize('dataset', SETS)
def test_text_in_another_encoding_is_told_with_its_row(tmp_path, dataset):
    root = annotations(dataset, tmp_path)
    path = root / benchmarks.FILES[dataset][-1 if dataset != 'msrvtt7k' else 0]
    path = root / 'test_list.txt' if dataset == 'msvd' else path
    path.write_bytes(path.read_bytes() + b'\n\xe9t\xe9')
    row = path.read_bytes().count(b'\n') + 1
    with pytest.raises(ValueError, match=re.escape(f'{path}, row {row}: not UTF-8 text (byte 0xe9)')):
        read(dataset, 'train' if path.name == 'MSRVTT_data.json' else 'test', root)


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path):
    root = annotations('msrvtt', tmp_path)
    before = read('msrvtt', 'test', root)
    path = root / 'MSRVTT_JSFUSION_test.csv'
    path.write_bytes(b'\xef\xbb\xbf' + path.read_bytes().replace(b'\n', b'\r\n'))
    assert read('msrvtt', 'test', root).equals(before)
    edit(path, say(6), 'null')  # a word like any other
    assert read('msrvtt', 'test', root)['caption'][0] == 'null'


@pytest.mark.parametrize('dataset, name, old, new', [
    ('msrvtt', 'MSRVTT_JSFUSION_test.csv', say(6), ' '), ('didemo', 'test_data.json', None, ''),
    ('lsmdc', 'LSMDC16_challenge_1000_publictect.csv', f'SOMEONE sees {say(6)}.', ''), ('own', 'captions.csv', say(6), '')])
def test_captions_without_words_are_dropped_and_counted(tmp_path, dataset, name, old, new):
    root = annotations(dataset, tmp_path)
    path = (root.parent if dataset == 'own' else root) / name
    for k in range(3 if old is None else 1):
        edit(path, old or say(6, k), new)
    with pytest.warns(UserWarning, match=f'{name}: 1 of 3 captions are empty .* the first: .*row [0-9]+, field caption'):
        assert len(read(dataset, 'test', root)) == 2


def test_captions_that_fit_no_listed_video_leave_nothing(tmp_path):
    root = annotations('activitynet', tmp_path)
    edit(root / 'val_ids.json', 'v_', '', 99)
    with pytest.raises(ValueError, match='no caption of the split "test" is left'):
        read('activitynet', 'test', root)


# ---- pickles

class Evil:
    def __reduce__(self):
        return os.mkdir, ('executed',)


@pytest.mark.parametrize('content, message', [
    (Evil(), 'asks for (posix|nt).mkdir'), ({'a': Evil()}, 'asks for (posix|nt).mkdir'),
    (collections.OrderedDict(a=[['b']]), 'asks for collections.OrderedDict'),
    ([['a']], 'expected a dict of video ids, found a list'),
    ({'-4wsu006_jw_5_15': 'text'}, 'field -4wsu006_jw_5_15: expected a list'),
    ({'-4wsu006_jw_5_15': ['a text']}, 'expected a list of words'),
    ({'-4wsu006_jw_5_15': [['a', 7]]}, "row '-4wsu006_jw_5_15', field caption: expected a list of words")])
@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_a_pickle_of_anything_but_plain_containers_is_refused(tmp_path, monkeypatch, content, message, protocol):
    monkeypatch.chdir(tmp_path)
    root = annotations('msvd', tmp_path)
    path = root / 'raw-captions.pkl'
    path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(ValueError, match=message) as caught:
        read('msvd', 'test', root)
    assert str(path) in str(caught.value) and not (tmp_path / 'executed').exists()


@pytest.mark.parametrize('cut', [0, 1, 40])
def test_a_damaged_pickle_is_told(tmp_path, cut):
    root = annotations('msvd', tmp_path)
    path = root / 'raw-captions.pkl'
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match='raw-captions.pkl: damaged, or not a pickle'):
        read('msvd', 'test', root)


# ---- own videos

def table_of(tmp_path, *rows, name='mine.csv'):
    path = tmp_path / name
    if name.endswith('.csv'):
        path.write_text('\n'.join(rows) + '\n')
    else:
        path.write_text('\n'.join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_a_folder_is_a_table_without_captions(tmp_path):
    for name in ('b/x.mp4', 'a.MOV', 'notes.txt', '.hidden.mp4', 'b/y.tar'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    table = load_table('own', 'test', tmp_path)
    assert table['video_id'].tolist() == ['a.MOV', 'b/x.mp4'] and table['caption'].tolist() == ['', '']
    assert table['path'].tolist() == [str(tmp_path / 'a.MOV'), str(tmp_path / 'b/x.mp4')]
    with pytest.raises(ValueError, match='no captions, so no split "train"'):
        load_table('own', 'train', tmp_path)
    (tmp_path / 'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='no video below it'):
        load_table('own', 'test', tmp_path / 'empty')


def test_a_csv_and_a_jsonl_say_the_same(tmp_path):
    for name in ('a.mp4', 'b.mp4'):
        (tmp_path / name).touch()
    csv = table_of(tmp_path, 'path,caption,start,end,video_id',
                   'a.mp4,"one, two",0.5,2,m1', 'b.mp4,three,,,m2', 'a.mp4,four,0.5,2,m1')
    lines = table_of(tmp_path, dict(path='a.mp4', caption='one, two', start=0.5, end=2, video_id='m1'), '',
                     dict(path='b.mp4', caption='three', video_id='m2'),
                     dict(path='a.mp4', caption='four', start=0.5, end=2.0, video_id='m1'), name='mine.jsonl')
    one, other = (load_table('own', 'test', path) for path in (csv, lines))
    assert one.equals(other) and one['video_id'].tolist() == ['m1', 'm2', 'm1']
    assert one['start'].tolist() == [0.5, None, 0.5] and one['path'][0] == str(tmp_path / 'a.mp4')


def test_own_training_videos_are_held_out_where_no_split_says_val(tmp_path):
    path = table_of(tmp_path, 'path,caption,split', *(f'{n}.mp4,film {n},train' for n in range(20)))
    train, val = (read('own', split, path) for split in ('train', 'val'))
    assert len(train) == 18 and len(val) == 2 and not set(train['video_id']) & set(val['video_id'])
    assert len(read('own', 'train', path, 'test')) == 20
    with pytest.raises(ValueError, match='no row has "test" in the column split'):
        read('own', 'test', path)
    with pytest.raises(ValueError, match='no row has "train" in the column split'):
        read('own', 'train', table_of(tmp_path, 'path,caption', 'a.mp4,a film'))


@pytest.mark.parametrize('header, rows, message', [
    ('path,text', ['a.mp4,b'], "row 1: the column 'caption' is missing; it has path, text"),
    ('path,caption', ['../a.mp4,b'], "row 2, field path: '../a.mp4' points outside"),
    ('path,caption', ['a.mp4,b', 'c/../../a.mp4,b'], "row 3, field path: .* points outside"),
    ('path,caption', ['..\\a.mp4,b'], 'row 2, field path: .* points outside'),
    ('path,caption', ['/etc/passwd,b'], "row 2, field path: '/etc/passwd' points outside"),
    ('path,caption', ['C:\\a.mp4,b'], 'row 2, field path: .* points outside'),
    ('path,caption', [',b'], 'row 2, field path: expected the path of a video'),
    ('path,caption,video_id', ['a.mp4,b,x/y'], "row 2, field video_id: 'x/y' is a path"),
    ('path,caption,video_id', ['a.mp4,b,'], "row 2, field video_id: expected an id, found ''"),
    ('path,caption,video_id', ['a.mp4,b,x', 'b.mp4,b,x'], "row 3, field video_id: 'x' is listed twice with another path"),
    ('path,caption,video_id', ['a.mp4,b,x', 'b.mp4,b,y.mp4'], 'row 3, field video_id: .*write all ids one way'),
    ('path,caption,split', ['a.mp4,b,train', 'a.mp4,c,test'], 'row 3, field video_id: .*another split'),
    ('path,caption,split', ['a.mp4,b,dev'], "row 2, field split: expected train, val or test, found 'dev'"),
    ('path,caption,start', ['a.mp4,b,soon'], "row 2, field start: expected seconds .* found 'soon'"),
    ('path,caption,start', ['a.mp4,b,-1'], 'row 2, field start'), ('path,caption,end', ['a.mp4,b,nan'], 'row 2, field end'),
    ('path,caption,start,end', ['a.mp4,b,3,3'], 'row 2, field end: 3.0 s is not after the start')])
def test_bad_rows_of_an_own_table(tmp_path, header, rows, message):
    path = table_of(tmp_path, header, *rows)
    with pytest.raises(ValueError, match=message) as caught:
        read('own', 'test', path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize('rows, message', [
    ([dict(path='a.mp4', caption='b'), '{"path": '], 'row 2, column [0-9]+: broken JSON'),
    ([['a.mp4', 'b']], 'row 1: expected an object'),
    ([dict(path=7, caption='b')], 'row 1, field path: expected text, found 7'),
    ([dict(path='a.mp4')], 'row 1, field caption: missing'),
    ([dict(path='a.mp4', caption=None)], 'row 1, field caption: expected text, found None'),
    ([dict(path='a.mp4', caption='b', video_id=7)], 'row 1, field video_id: expected an id, found 7'),
    ([dict(path='a.mp4', caption='b', start=True)], 'row 1, field start'),
    ([dict(path='a.mp4', caption='b', split=['val'])], 'row 1, field split'),
    ([dict(path='a\0.mp4', caption='b')], 'row 1, field path')])
def test_bad_rows_of_an_own_jsonl(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        read('own', 'test', table_of(tmp_path, *rows, name='mine.jsonl'))


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    inside, outside = tmp_path / 'inside', tmp_path / 'outside'
    inside.mkdir(), outside.mkdir()
    (outside / 'a.mp4').touch()
    try:
        (inside / 'link').symlink_to(outside, target_is_directory=True)
    except OSError:
        pytest.skip('no right to make links here')
    path = table_of(inside, 'path,caption', 'link/a.mp4,b')
    with pytest.raises(ValueError, match='row 2, field path: .* points outside'):
        load_table('own', 'test', path)


def test_an_own_video_that_is_missing_is_counted(tmp_path):
    (tmp_path / 'a.mp4').touch()
    path = table_of(tmp_path, 'path,caption', 'a.mp4,b', 'c.mp4,d')
    with pytest.warns(UserWarning, match=r'1 of 2 videos of the split "test" are missing and left out \(c.mp4\)'):
        assert load_table('own', 'test', path)['video_id'].tolist() == ['a.mp4']
    with pytest.raises(ValueError, match='expected a folder, a .csv or a .jsonl file'):
        load_table('own', 'test', tmp_path / 'a.mp4')
