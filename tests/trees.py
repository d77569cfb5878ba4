"""Tiny trees of generated videos, named, laid out and annotated as the real sets are."""
import csv
import functools
import json
import pickle
import tempfile
from pathlib import Path

import numpy as np

from glscl.datasets.shapes import write_video

CAPTIONS = {'msrvtt': 20, 'msvd': 5}  # a video; MSR-VTT has exactly 20
COLOURS = ('red', 'green', 'blue', 'yellow', 'purple', 'white', 'cyan')
RGB = ((220, 30, 30), (30, 200, 60), (40, 60, 230), (230, 220, 40), (160, 40, 200), (240, 240, 240), (40, 210, 220))


def film(n, seconds=3, fps=5):
    """uint8 [F, 64, 64, 3]: a square whose colour, height and pace tell film n from others, on a grey of its own."""
    frames = np.full((seconds * fps, 64, 64, 3), 20 + n * 37 % 120, np.uint8)
    y, pace = n * 11 % 48, 1 + n % 5
    for f, frame in enumerate(frames):
        x = (n * 7 + f * pace) % 48
        frame[y:y + 16, x:x + 16] = RGB[n % 7]
    return frames


def say(n, k=0):
    """The k-th caption of film n."""
    return f'a {COLOURS[n % 7]} square number {n} moves to the right' + (f', take {k}' if k else '')


def write_film(path, n):
    path.parent.mkdir(parents=True, exist_ok=True)
    container = path.suffix if path.suffix in ('.mp4', '.avi', '.mkv', '.mov') else '.mp4'
    path.write_bytes(encoded(n, container))


@functools.cache
def encoded(n, container):
    """The bytes of film n: many trees hold the same few films."""
    fps = 3 + n % 8
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f'film{container}'
        write_video(file, film(n, 2 + n % 3, fps), fps)
        return file.read_bytes()


def _json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding='utf-8')


def _lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def _csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, 'w', newline='', encoding='utf-8') as file:
        csv.writer(file, lineterminator='\n').writerows(rows)


def msrvtt(root, splits):
    """The "validate" videos are among the training videos of the 9k list, as in the original."""
    of = {f'video{n}': {'train': 'train', 'val': 'validate', 'test': 'test'}[split] for split, ns in splits.items() for n in ns}
    _csv(root / 'MSRVTT_train.9k.csv', [['video_id'], *([i] for i in of if of[i] != 'test')])
    tests = [[f'ret{k}', f'msr{n}', f'video{n}', say(n)] for k, n in enumerate(splits['test'])]
    _csv(root / 'MSRVTT_JSFUSION_test.csv', [['key', 'vid_key', 'video_id', 'sentence'], *tests])
    videos = [{'category': n % 20, 'url': 'https://example.org/watch', 'video_id': i, 'start time': 1.5, 'end time': 4.5,
               'split': split, 'id': n} for n, (i, split) in enumerate(of.items())]
    mixed = list(of)[1::2] + list(of)[::2]  # sentences do not come in the order of the videos
    sentences = [dict(caption=say(int(i[5:]), k), video_id=i) for i in mixed for k in range(CAPTIONS['msrvtt'])]
    _json(root / 'MSRVTT_data.json', dict(info={'version': '1.0'}, videos=videos,
                                          sentences=[dict(s, sen_id=k) for k, s in enumerate(sentences)]))
    return {n: f'videos/all/video{n}.mp4' for ns in splits.values() for n in ns}


def msvd(root, splits):
    name = '-4wsu{:03d}_jw_5_15'.format
    for split, ns in splits.items():
        _lines(root / f'{split}_list.txt', map(name, ns))
    captions = {name(n): [say(n, k).split() for k in range(CAPTIONS['msvd'])] for ns in splits.values() for n in ns}
    (root / 'raw-captions.pkl').write_bytes(pickle.dumps(captions))
    return {n: f'YouTubeClips/{name(n)}.avi' for ns in splits.values() for n in ns}


def lsmdc(root, splits):
    name = '0{:03d}_A_Film_00.00.5{:d}.926-00.00.54.129'
    files = dict(train='LSMDC16_annos_training.csv', val='LSMDC16_annos_val.csv', test='LSMDC16_challenge_1000_publictect.csv')
    for split, ns in splits.items():
        _lines(root / files[split], ('\t'.join([name.format(n, n % 4), '00.00.51.926', '00.00.54.129', '00.00.51.500',
                                                '00.00.54.500', f'SOMEONE sees {say(n)}.']) for n in ns))
    return {n: f'videos/0{n:03d}_A_Film/{name.format(n, n % 4)}.avi' for ns in splits.values() for n in ns}


def didemo(root, splits):
    """Names as users have them: X.mov as downloaded, X.mov.mp4 (GLSCL) and X.mp4, also for the ids that end in a dot."""
    extensions = ('mov', 'avi', '', 'mp4', 'mpg')
    ids = {n: f'{10015567 + n}@N08_36550842{n:02d}_d8b58466fa.{extensions[n % 5]}' for ns in splits.values() for n in ns}
    for split, ns in splits.items():
        _lines(root / f'{split}_list.txt', (ids[n] for n in ns))
        moments = [dict(num_segments=6, description=say(n, k), dl_link='https://example.org', times=[[0, 0], [1, 2]],
                        video=ids[n], annotation_id=100 * n + k) for k in range(3) for n in reversed(ns)]
        _json(root / f'{split}_data.json', moments)
    files = {n: (i, f'{i}.mp4', f'{i.rpartition(".")[0]}.mp4')[n % 3] for n, i in ids.items()}
    return {n: f'videos/{file if file[-1] != "." else file + ".mp4"}' for n, file in files.items()}


def activitynet(root, splits):
    """Both ways of naming, v_ID.mp4 (GLSCL) and ID.mp4 (CLIP4Clip). There is no validation list: "val" is part of train."""
    name = 'v_--0ed{:04d}lz'.format
    for ids, data, ns in (('train_ids', 'train', splits['train'] + splits['val']), ('val_ids', 'val_1', splits['test'])):
        _json(root / f'{ids}.json', [name(n) for n in ns] + [name(9000 + len(ns))])  # the last has no captions: some have none
        _json(root / f'{data}.json', {name(n): dict(duration=2 + n % 3 - 0.3, timestamps=[[0, 1], [1, 1.6]],
                                                    sentences=[say(n) + '.', f' {say(n, 1)}.']) for n in reversed(ns)})
    every = [n for ns in splits.values() for n in ns]
    return {n: f'videos/{name(n) if n % 2 else name(n)[2:]}.{"mkv" if n % 3 == 2 else "mp4"}' for n in every}


def own(root, splits):
    """captions.csv beside the videos: give this file as data_dir."""
    rows = [[f'films/{n}.mp4', say(n), split] for split, ns in splits.items() for n in ns]
    _csv(root / 'captions.csv', [['path', 'caption', 'split'], *rows])
    return {n: f'films/{n}.mp4' for ns in splits.values() for n in ns}


TREES = dict(msrvtt=msrvtt, msrvtt7k=msrvtt, msvd=msvd, lsmdc=lsmdc, didemo=didemo, activitynet=activitynet, own=own)


def make_tree(dataset, root, n_train=4, n_val=2, n_test=3, videos=True):
    """Write a tree below `root`; returns its data_dir. MSR-VTT 9k and ActivityNet count n_train + n_val training videos.

    videos=False: annotation files alone."""
    root.mkdir(parents=True, exist_ok=True)
    at, splits = 0, {}
    for split, count in dict(train=n_train, val=n_val, test=n_test).items():
        splits[split], at = list(range(at, at + count)), at + count
    for n, path in TREES[dataset](root, splits).items():
        if videos:
            write_film(root / path, n)
    return root / 'captions.csv' if dataset == 'own' else root
