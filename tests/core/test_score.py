"""Captions and files as a user has them, scored in one call."""
import pytest
import torch

from glscl import encode
from glscl.data.video import VideoError
from glscl.heads import build


@pytest.mark.parametrize('head', ['GLSCL', 'X-Pool'])
def test_the_scores_are_those_of_an_evaluation(config, splits, head):
    model, test = build(config.replace(head=head)).eval(), splits['test']
    expected = model.similarity(*encode(model, test)).detach()
    rows = test.table.drop_duplicates('video')
    captions, paths = test.table['caption'].tolist(), rows['path'].tolist()
    S = model.score(captions, paths)
    torch.testing.assert_close(S, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.score(captions[1], paths), S[1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(model.score(captions, paths[2]), S[:, 2], atol=1e-5, rtol=1e-5)
    one = model.score(captions[1], paths[2])
    assert isinstance(one, float) and one == pytest.approx(S[1, 2].item(), abs=1e-5)


def test_a_model_in_training_stays_so_and_draws_no_dropout(model, splits):
    caption, path = splits['test'].table.iloc[0][['caption', 'path']]
    model.train()
    assert model.score(caption, path) == model.score(caption, path) and model.training


def test_what_cannot_be_scored_is_named(model, splits, tmp_path):
    caption, path = splits['test'].table.iloc[0][['caption', 'path']]
    for captions, paths in (([], path), (caption, [])):
        with pytest.raises(ValueError, match='give a caption and a video file'):
            model.score(captions, paths)
    with pytest.raises(ValueError, match='caption'):
        model.score('', path)
    with pytest.raises(VideoError, match='none.mp4: no such file'):
        model.score(caption, tmp_path / 'none.mp4')
