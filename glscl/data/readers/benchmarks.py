"""The five benchmarks: original annotation files in, caption rows out, in the order of the released loaders.

A reader takes (data_dir, split "train" | "val" | "test", select_on) and returns rows {video_id, caption, start, end, where};
`where` is file and row, for messages."""
import hashlib
import math

from .files import checked_ids, field, find, plain_id, read_csv, read_json, read_list, read_pickle, read_text

_MSRVTT = ('MSRVTT_train.9k.csv', 'MSRVTT_data.json', 'MSRVTT_JSFUSION_test.csv')
FILES = {
    'msrvtt': _MSRVTT,
    'msrvtt7k': _MSRVTT[1:],
    'msvd': ('raw-captions.pkl', 'train_list.txt', 'val_list.txt', 'test_list.txt'),
    'lsmdc': ('LSMDC16_annos_training.csv', 'LSMDC16_annos_val.csv', 'LSMDC16_challenge_1000_publictect.csv'),
    'didemo': tuple(f'{split}_{kind}' for split in ('train', 'val', 'test') for kind in ('list.txt', 'data.json')),
    'activitynet': ('train_ids.json', 'train.json', 'val_ids.json', 'val_1.json'),
}
HELD_OUT = 500  # videos: enough to tell checkpoints apart (R@1 within about 2 points), 5 % of the training videos
LSMDC_SKIPPED = ('0017_Pianist_00.23.28.872-00.23.34.843', '0017_Pianist_00.30.36.767-00.30.38.009',
                 '3064_SPARKLE_2012_01.41.07.000-01.41.11.793')


def first_captions(rows):
    """The first row of each video."""
    return list({row['video_id']: row for row in reversed(rows)}.values())[::-1]


def hold_out(rows, split):
    """Training rows without the held-out videos ("train"), or the first caption of each of those ("val").

    Held out are the HELD_OUT videos (a tenth, if that is less) whose ids come first by SHA-256: the same everywhere, and
    the same whichever files are missing."""
    ids = sorted({row['video_id'] for row in rows}, key=lambda i: hashlib.sha256(i.encode()).hexdigest())
    if len(ids) == 1:
        raise ValueError(f'{rows[0]["where"]}: one training video leaves none for validation; set select_on to "test"')
    held = set(ids[:min(HELD_OUT, max(1, len(ids) // 10))])
    if split == 'train':
        return [row for row in rows if row['video_id'] not in held]
    return first_captions([row for row in rows if row['video_id'] in held])


def _row(where, video_id, caption, start=None, end=None):
    return dict(video_id=video_id, caption=caption, start=start, end=end, where=where)


# ---- MSR-VTT

def _msrvtt_data(data_dir):
    """All caption rows of MSRVTT_data.json, and {video_id: its "split"}."""
    path = find(data_dir, _MSRVTT, 'MSRVTT_data.json')
    data = read_json(path)
    videos = [(f'{path}, row {n} of "videos"', v) for n, v in enumerate(field(data, 'videos', list, path), 1)]
    split_of = {field(v, 'video_id', str, where): field(v, 'split', str, where) for where, v in videos}
    checked_ids([(where, v['video_id']) for where, v in videos])
    rows = []
    for n, sentence in enumerate(field(data, 'sentences', list, path), 1):
        where = f'{path}, row {n} of "sentences"'
        video_id = field(sentence, 'video_id', str, where)
        if video_id not in split_of:
            raise ValueError(f'{where}, field video_id: a caption for the unknown video {video_id!r}; "videos" does not list it')
        rows.append(_row(where, video_id, field(sentence, 'caption', str, where)))
    return rows, split_of


def _msrvtt_test(data_dir):
    path = find(data_dir, _MSRVTT, 'MSRVTT_JSFUSION_test.csv')
    rows = [_row(where, row['video_id'], row['sentence']) for where, row in read_csv(path, ('video_id', 'sentence'))]
    checked_ids([(row['where'], row['video_id']) for row in rows])
    return rows


def msrvtt(data_dir, split, select_on):
    """1k-A with the 9,000 training videos, all captions samples in the order of MSRVTT_data.json; val is held out of them."""
    if split == 'test':
        return _msrvtt_test(data_dir)
    listed = find(data_dir, _MSRVTT, 'MSRVTT_train.9k.csv')
    listed = checked_ids([(where, row['video_id']) for where, row in read_csv(listed, ('video_id',))])
    rows, split_of = _msrvtt_data(data_dir)
    unknown = next((i for i in listed if i not in split_of), None)
    if unknown:
        raise ValueError(f'{listed[unknown]}, field video_id: MSRVTT_data.json does not list {unknown!r}; ids look like video0')
    rows = [row for row in rows if row['video_id'] in listed]
    return rows if select_on == 'test' else hold_out(rows, split)


def msrvtt7k(data_dir, split, select_on):
    """1k-A with the "7k" training videos: what MSRVTT_data.json marks "train" (6,513) or "validate" (497).

    The literature's 7k is both, 7,010: that is train under select_on="test". Otherwise the 497 are val, as they were meant."""
    if split == 'test':
        return _msrvtt_test(data_dir)
    rows, split_of = _msrvtt_data(data_dir)
    wanted = ('train', 'validate') if select_on == 'test' else ('train',) if split == 'train' else ('validate',)
    rows = [row for row in rows if split_of[row['video_id']] in wanted]
    return rows if split == 'train' else first_captions(rows)


# ---- MSVD, LSMDC

def msvd(data_dir, split, select_on):
    """Every caption of every listed video, in all three splits (evaluation takes several captions a video)."""
    listed = read_list(find(data_dir, FILES['msvd'], f'{split}_list.txt'))
    path = find(data_dir, FILES['msvd'], 'raw-captions.pkl')
    captions, rows = read_pickle(path), []
    if not isinstance(captions, dict):
        raise ValueError(f'{path}: expected a dict of video ids, found a {type(captions).__name__}')
    for video_id, where in listed.items():
        if video_id not in captions:
            raise ValueError(f'{where}, field video_id: {video_id!r} has no captions in {path}')
        place = f'{path}, row {video_id!r}'
        for tokens in field(captions, video_id, list, path):
            if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
                raise ValueError(f'{place}, field caption: expected a list of words, found {tokens!r:.60}')
            rows.append(_row(place, video_id, ' '.join(tokens)))
    return rows


def lsmdc(data_dir, split, select_on):
    """One clip and one sentence a line; the times are not used, as the files are cut. Three clips are skipped, as released."""
    name = FILES['lsmdc'][('train', 'val', 'test').index(split)]
    path, rows = find(data_dir, FILES['lsmdc'], name), []
    for n, line in enumerate(read_text(path).split('\n'), 1):
        where, fields = f'{path}, row {n}', line.split('\t')
        if not line.strip():
            continue
        if len(fields) != 6:
            raise ValueError(f'{where}: {len(fields)} fields, expected 6 between tabs (clip, four times, sentence)')
        if plain_id(fields[0], where) not in LSMDC_SKIPPED:
            rows.append(_row(where, fields[0], fields[5]))
    once = rows if split == 'test' else first_captions(rows)  # in training a clip may have several lines
    checked_ids([(row['where'], row['video_id']) for row in once])
    return rows


# ---- DiDeMo, ActivityNet: one paragraph a video

def didemo(data_dir, split, select_on):
    """All descriptions of a video joined, 0 to 31 s, in the order in which the JSON first names the videos.

    The annotated moments are not used: annotators saw 30 s of each video, and the released loaders take those whole."""
    listed = read_list(find(data_dir, FILES['didemo'], f'{split}_list.txt'), any_dot=True)
    path, said = find(data_dir, FILES['didemo'], f'{split}_data.json'), {}
    data = read_json(path)
    if not isinstance(data, list):
        raise ValueError(f'{path}: expected a list of descriptions, found {data!r:.60}')
    for n, moment in enumerate(data, 1):
        where = f'{path}, row {n}'
        video_id, text = field(moment, 'video', str, where), field(moment, 'description', str, where)
        if video_id in listed:  # the files describe some videos that no list names: left out, as released
            said.setdefault(video_id, (where, []))[1].append(text)
    return [_row(where, video_id, ' '.join(texts), 0, 31) for video_id, (where, texts) in said.items()]


def activitynet(data_dir, split, select_on):
    """All sentences of a video joined, 0 s to the end, in the order of the ids file; test is val_1, val held out of train."""
    ids, captions = (FILES['activitynet'][2:] if split == 'test' else FILES['activitynet'][:2])
    ids, path, rows = find(data_dir, FILES['activitynet'], ids), find(data_dir, FILES['activitynet'], captions), []
    listed, data = read_json(ids), read_json(path)
    if not isinstance(listed, list) or not isinstance(data, dict):
        wrong, kind = (path, 'an object of video ids') if isinstance(listed, list) else (ids, 'a list of video ids')
        raise ValueError(f'{wrong}: expected {kind}')
    for video_id in checked_ids([(f'{ids}, row {n}', video_id) for n, video_id in enumerate(listed, 1)]):
        if video_id not in data:
            continue  # 15 and 9 listed ids have no captions in the original files
        where = f'{path}, row {video_id!r}'
        sentences, duration = field(data[video_id], 'sentences', list, where), field(data[video_id], 'duration', float, where)
        if not all(isinstance(s, str) for s in sentences):
            raise ValueError(f'{where}, field sentences: expected a list of texts, found {sentences!r:.60}')
        if not duration > 0:
            raise ValueError(f'{where}, field duration: expected seconds above 0, found {duration!r}')
        rows.append(_row(where, video_id, ' '.join(sentences), 0, math.ceil(duration)))
    return rows if split == 'test' or select_on == 'test' else hold_out(rows, split)
