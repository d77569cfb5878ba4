"""The five benchmarks: their original annotation files, in the order of the released loaders.

A reader takes (data_dir, split "train" | "val" | "test", select_on) and returns a DataFrame, one
row a caption: where (file and row, for messages), video_id, caption; start, end where cut."""
import hashlib
import math

from . import files
from .files import checked_ids, find, read_json, read_lines, rows_of, table

FILES = {
    'msrvtt': ('MSRVTT_train.9k.csv', 'MSRVTT_data.json', 'MSRVTT_JSFUSION_test.csv'),
    'msrvtt7k': ('MSRVTT_data.json', 'MSRVTT_JSFUSION_test.csv'),
    'msvd': ('raw-captions.pkl', 'train_list.txt', 'val_list.txt', 'test_list.txt'),
    'lsmdc': ('LSMDC16_annos_training.csv', 'LSMDC16_annos_val.csv',
              'LSMDC16_challenge_1000_publictect.csv'),
    'didemo': ('train_list.txt', 'train_data.json', 'val_list.txt', 'val_data.json',
               'test_list.txt', 'test_data.json'),
    'activitynet': ('train_ids.json', 'train.json', 'val_ids.json', 'val_1.json'),
}
HELD_OUT = 500  # videos, 5 % of the training ones: R@1 within about 2 points, enough to choose by
HELD_OUT_INSTEAD = (', or train with select_on=held_out, which needs training videos alone and '
                    'measures on a tenth that it holds out of them')
LSMDC_SKIPPED = ('0017_Pianist_00.23.28.872-00.23.34.843', '0017_Pianist_00.30.36.767-00.30.38.009',
                 '3064_SPARKLE_2012_01.41.07.000-01.41.11.793')


def hold_out(rows, split):
    """Training rows without the held-out videos ("train"), or the first of each of those ("val").

    Held out are the HELD_OUT videos (a tenth, if that is less) whose ids come first by SHA-256:
    the same everywhere, and the same whichever files are missing."""
    ids = sorted(set(rows['video_id']), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    if len(ids) == 1:
        raise ValueError(f'{rows["where"].iloc[0]}: none left for val beside the only training '
                         f'video; set select_on to "test"')
    held = rows['video_id'].isin(ids[:min(HELD_OUT, max(1, len(ids) // 10))])
    return rows[~held] if split == 'train' else rows[held].drop_duplicates('video_id')


def _msrvtt_data(data_dir):
    """All captions of MSRVTT_data.json, and {video_id: what it has as "split"}."""
    [path] = find(data_dir, FILES['msrvtt'], 'MSRVTT_data.json')
    data = read_json(path)
    videos = rows_of(path, files.field(data, 'videos', 'a list', path), ' of "videos"')
    videos = table(videos, video_id='text', split='text')
    split_of = dict(zip(checked_ids(videos.values), videos['split']))
    rows = rows_of(path, files.field(data, 'sentences', 'a list', path), ' of "sentences"')
    rows = table(rows, video_id='text', caption='text')
    unknown = rows[~rows['video_id'].isin(split_of)]
    for where, video_id, _ in unknown.values[:1]:
        raise ValueError(f'{where}, field video_id: a caption for the unknown video {video_id!r}')
    return rows, split_of


def msrvtt(data_dir, split, select_on):
    """1k-A with the 9,000 training videos, each caption a sample; val is held out of them."""
    if split == 'test':
        [path] = find(data_dir, FILES['msrvtt'], 'MSRVTT_JSFUSION_test.csv')
        rows = table(files.read_csv(path, 'video_id', 'sentence'), video_id='text', sentence='text')
        checked_ids(rows.values)
        return rows.rename(columns={'sentence': 'caption'})
    [path] = find(data_dir, FILES['msrvtt'], 'MSRVTT_train.9k.csv')
    listed = checked_ids(table(files.read_csv(path, 'video_id'), video_id='text').values)
    rows, split_of = _msrvtt_data(data_dir)
    for video_id, where in listed.items():
        if video_id not in split_of:
            raise ValueError(f'{where}: MSRVTT_data.json does not list {video_id!r}; mend the id')
    rows = rows[rows['video_id'].isin(listed)]
    return rows if select_on == 'test' else hold_out(rows, split)


def msrvtt7k(data_dir, split, select_on):
    """1k-A with the "7k" training videos: "train" (6,513) or "validate" (497) in MSRVTT_data.json.

    The literature's 7k is both, 7,010: that is train under select_on="test". Otherwise the 497 are
    val, as they were meant."""
    if split == 'test':
        return msrvtt(data_dir, split, select_on)
    rows, split_of = _msrvtt_data(data_dir)
    wanted = ['train'] if split == 'train' else ['validate']
    if select_on == 'test':
        wanted = ['train', 'validate']
    rows = rows[rows['video_id'].map(split_of).isin(wanted)]
    return rows if split == 'train' else rows.drop_duplicates('video_id')


def msvd(data_dir, split, select_on):
    """Every caption of every listed video, in all splits: evaluation takes several a video."""
    listed, path = find(data_dir, FILES['msvd'], f'{split}_list.txt', 'raw-captions.pkl')
    captions, rows = files.read_pickle(path), []
    if not isinstance(captions, dict):
        raise ValueError(f'{path}: expected a dict of video ids, found a {type(captions).__name__}')
    for video_id, where in files.read_list(listed).items():
        if video_id not in captions:
            raise ValueError(f'{where}: {video_id!r} has no captions in {path}')
        where = f'{path}, row {video_id!r}'
        for words in files.field(captions, video_id, 'a list', path):
            words = files.expect(words, 'a list of words', where, 'caption')
            rows.append((where, {'video_id': video_id, 'caption': ' '.join(words)}))
    return table(rows, video_id='text', caption='text')


def lsmdc(data_dir, split, select_on):
    """One clip and one sentence a line, without three clips that the released loader skips too.

    The times are not used, as the files are cut. In training a clip may have several lines."""
    [path] = find(data_dir, FILES['lsmdc'], FILES['lsmdc'][files.SPLITS.index(split)])
    rows = []
    for where, line in read_lines(path):
        fields = line.split('\t')
        if len(fields) != 6:
            raise ValueError(f'{where}: {len(fields)} fields, expected 6 with tabs between them')
        rows.append((where, {'video_id': fields[0], 'caption': fields[5]}))
    rows = table(rows, video_id='text', caption='text')
    rows = rows[~rows['video_id'].isin(LSMDC_SKIPPED)]
    checked_ids(rows.values if split == 'test' else rows.drop_duplicates('video_id').values)
    return rows


def didemo(data_dir, split, select_on):
    """All descriptions of a video joined, 0 to 31 s; videos as the JSON first names them.

    The annotated moments are not used: annotators saw 30 s of each video, and the released loaders
    take those whole. Some described videos are in no list: left out, as released."""
    listed, path = find(data_dir, FILES['didemo'], f'{split}_list.txt', f'{split}_data.json')
    listed = files.read_list(listed, any_dot=True)
    rows = table(rows_of(path, read_json(path)), video='text', description='text')
    videos = rows[rows['video'].isin(listed)].groupby('video', sort=False)
    rows = videos.agg(where=('where', 'first'), caption=('description', ' '.join))
    return rows.reset_index(names='video_id').assign(start=0, end=31)


def activitynet(data_dir, split, select_on):
    """All sentences of a video joined, 0 s to the end, as the ids file has them; test is val_1."""
    names = FILES['activitynet'][2:] if split == 'test' else FILES['activitynet'][:2]
    listed, path = find(data_dir, FILES['activitynet'], *names)
    listed = checked_ids(rows_of(listed, read_json(listed)))
    data = files.expect(read_json(path), 'an object', path)
    ids = [name for name in listed if name in data]  # 24 have no captions in the original files
    rows = [(f'{path}, row {video_id!r}', data[video_id]) for video_id in ids]
    rows = table(rows, sentences='a list of words', duration='a finite number')
    for where, _, duration in rows[rows['duration'] <= 0].values[:1]:
        raise ValueError(f'{where}, field duration: expected seconds above 0, found {duration}')
    rows = rows.assign(video_id=ids, caption=rows['sentences'].map(' '.join), start=0,
                       end=rows['duration'].map(math.ceil))
    return rows if split == 'test' or select_on == 'test' else hold_out(rows, split)
