"""Whatever is handed to a function that a user calls: a sentence on what it takes, never an error from the depths."""
import numpy as np
import pytest
import torch
from search.galleries import open_gallery

import glscl
from glscl.data.errors import VideoError
from glscl.score import encode_captions, encode_files
from glscl.search.index import index_videos

FRAMES = np.zeros((1, 2, 32, 32, 3), np.uint8)
CALLS = {  # what is called: [(with what, what is said)]
    glscl.tokenize: [((None,), 'captions are a list'), (('a red ring',), 'captions are a list .* not .a red'), (([b'a'],), 'row 0 is empty, or no text'),
                     ((['a', 3],), 'row 1 is empty, or no text'), ((['a'], '32'), 'max_words must be a whole'), ((['a'], 4.5), 'max_words must be a whole')],
    glscl.pixels: [(([[1]], [1]), r'frames are uint8 \[n, F, H, W, 3\]'), ((FRAMES[0], [1, 1]), 'frames are uint8'), ((FRAMES / 255, [[1, 1]]), 'frames are uint8'),
                   ((FRAMES.transpose(0, 1, 4, 2, 3), [[1, 1]]), 'frames are uint8'), ((FRAMES, [[1] * 3]), r'their mask is \[n, F\]'), ((FRAMES, None), r'their mask is \[n, F\]'),
                   ((FRAMES, [[1, 1]], 'gpu'), "device 'gpu' cannot be used")],
    glscl.ZeroShot: [((None,), 'clip is the name of a CLIP'), (('small', None, 0), 'temperature must be'), (('small', None, 'x'), 'temperature must be')],
    glscl.Gallery: [((None,), 'named by the path of its folder, not None'), ((3,), 'named by the path of its folder')],
    'gallery': [((None,), 'takes a text or a list'), (('',), 'row 0 is empty'), (([''],), 'row 0 is empty'), ((('a' for _ in 'a'),), 'takes a text or a list'),
                *((('a ring', k), 'k must be a whole number of 1 or more') for k in ('5', 2.0, True, 0, None)), (('a ring', 1, 8, 0), 'shortlist must be')],
    'encode_captions': [((None,), 'captions are a list'), (('a',), 'captions are a list'), (([],), 'no texts to encode'), ((['a'], 0), 'batch must be')],
    'encode_files': [(([],), 'paths are a list'), (('a.mp4',), 'paths are a list')],
    'score': [((None, 'a.mp4'), 'give a caption and a video file'), (('a', None), 'give a caption and a video file'), (('a', 3), 'give a caption'), (([None], 'a.mp4'), 'row 0 is empty, or no text'),
              ((b'a', 'a.mp4'), 'row 0 is empty, or no text'), (('a', [3]), 'is not the path of a video'), (('a', FRAMES), 'is not the path of a video')],
    index_videos: [((None, 'g'), 'named by the path of a folder'), ((3, 'g'), 'named by the path of a folder'), (([None], 'g'), 'not by None'), (('', 'g'), "not by ''"),
                   (('.', None), 'named by the path of its folder, not None'), (('.', 'g', 3), "model is a GLSCL, a checkpoint or a run's folder, not 3"),
                   (('.', 'g', torch.nn.Linear(2, 2)), 'this model is a Linear'), (('.', 'g', None, 'gpu'), "device 'gpu' cannot be used")]}


@pytest.mark.parametrize('function, arguments, said', [(f, *call) for f, calls in CALLS.items() for call in calls])
def test_a_wrong_call_is_told_what_it_takes(function, arguments, said, model, shared_gallery, films, tmp_path, monkeypatch):
    monkeypatch.chdir(films)
    given = {'gallery': lambda *a: open_gallery(shared_gallery).search(*a), 'score': model.score,
             'encode_captions': lambda *a: encode_captions(model, *a), 'encode_files': lambda *a: encode_files(model, *a)}
    with pytest.raises(ValueError, match=said):
        given.get(function, function)(*arguments)
    assert not (films / 'g').exists()


@pytest.mark.parametrize('share', ['1/2', (3, 2), (0, 2), (1,), (1.0, 2), 3])
def test_a_share_is_two_numbers(share, films, tmp_path):
    with pytest.raises(ValueError, match=r'share is \(K, N\) with K from 1 to N'):
        index_videos(films, tmp_path / 'g', device='cpu', share=share, log=None)
    assert not (tmp_path / 'g').exists()


@pytest.mark.parametrize('wrong', [dict(max_frames=0), dict(max_frames=2.5), dict(max_frames='4'), dict(framerate=None), dict(framerate=float('nan')), dict(size='32'),
                                   dict(size=(32, 32)), dict(size=0), dict(start='x'), dict(end=float('inf')), dict(sampling='x'), dict(reader=None)])
def test_a_wrong_setting_is_not_the_videos_fault(wrong, films):
    for function in glscl.read_frames, glscl.data.video.frame_indices:
        if 'size' in wrong and function != glscl.read_frames:
            continue
        with pytest.raises(ValueError) as caught:
            function(films / 'test0003.mp4', **wrong)
        assert not isinstance(caught.value, VideoError) and 'test0003' not in str(caught.value) and 'copy it again' not in str(caught.value)


def test_what_holds_texts_or_paths_will_do(model, films):
    """Generators, arrays, columns of a table; text, Path and bytes."""
    import pandas as pd
    path = films / 'test0003.mp4'
    S = model.score(['a ring', 'a star'], [path])
    for captions in (np.array(['a ring', 'a star']), pd.Series(['a ring', 'a star'], index=[7, 9]), (text for text in ('a ring', 'a star'))):
        assert torch.equal(model.score(captions, (p for p in [str(path)])), S)
    assert model.score('a ring', str(path)) == model.score('a ring', bytes(path)) == S[0, 0].item()
    assert torch.equal(glscl.tokenize(text for text in ['a ring'])[0], glscl.tokenize(['a ring'])[0])
