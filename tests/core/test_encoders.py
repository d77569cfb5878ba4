"""CLIP token by token equals open_clip's own, the tokenizer equals the released code's, padding changes nothing it should not."""
import json
import warnings

import numpy as np
import open_clip
import pytest
import torch

from glscl.clip_models import load_clip, small_clip
from glscl.data.tokens import tokenize, tokenizer
from glscl.datasets import shapes
from glscl.encoders import Clip, TemporalLSTM, TemporalTransformer

CAPTIONS = ['a red star moves left', 'two tiny golden hoops fall in the dark, then one box stays still', 'a cross']


@pytest.fixture(scope='module')
def small(clip_file):
    return load_clip('small', clip_file).eval()


@pytest.fixture(scope='module')
def openai_like():
    """The layout of OpenAI's CLIP in small: a row for every token, QuickGELU."""
    torch.manual_seed(0)
    return Clip(open_clip.model.CLIP(
        64, quick_gelu=True, vision_cfg=dict(image_size=32, patch_size=16, width=64, head_width=32, layers=1),
        text_cfg=dict(context_length=20, width=64, heads=2, layers=2))).eval()


@pytest.mark.parametrize('which', ['small', 'openai_like'])
def test_sentence_and_frames_are_open_clips_own(request, which):
    clip = request.getfixturevalue(which)
    ids, mask = tokenize(CAPTIONS, 20)
    whole = torch.nn.functional.pad(ids, (0, clip.clip.positional_embedding.shape[0] - 20))
    with torch.no_grad():
        sentence, words = clip.encode_words(ids, mask)
        theirs = clip.clip.encode_text(whole if clip.rows is None else clip.rows[whole])
        torch.testing.assert_close(sentence, theirs, atol=1e-5, rtol=1e-5)
        assert words.shape == (3, 20, clip.width)
        for t, n in enumerate(mask.sum(1)):
            assert torch.equal(words[t, n - 1], sentence[t])
        pixels = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(clip.encode_frames(pixels), clip.clip.encode_image(pixels))


def test_padding_does_not_change_the_words_before_it(small):
    ids, mask = tokenize(CAPTIONS, 48)
    n = int(mask.sum(1).max())
    noise = ids.masked_fill(~mask, int(ids[0, 1]))  # other tokens where nothing is valid
    with torch.no_grad():
        sentence, words = small.encode_words(ids[:, :n], mask[:, :n])
        for padded in (ids, noise):
            again, w = small.encode_words(padded, mask)
            torch.testing.assert_close(again, sentence, atol=1e-6, rtol=1e-5)
            torch.testing.assert_close(w[:, :n][mask[:, :n]], words[mask[:, :n]], atol=1e-6, rtol=1e-5)


def test_a_word_sees_the_words_before_it_only(small):
    ids, mask = tokenize(['a red star moves left', 'a red star moves right'], 10)
    with torch.no_grad():
        words = small.encode_words(ids, mask)[1]
    same = (words[0] - words[1]).norm(dim=-1)[:int(mask[0].sum())] < 1e-6
    assert same.tolist() == [True] * 5 + [False] * 2  # start a red star moves | left end


# ---- tokens

def test_tokens_are_the_released_codes(shared):
    """All captions but the empty one, which is refused here (there: a start and an end token and nothing between)."""
    captions = json.loads((shared / 'fixtures/tokenize_captions.json').read_text(encoding='utf-8'))
    expected = np.load(shared / 'fixtures/tokenize.npz')
    rows = [i for i, caption in enumerate(captions) if caption]
    assert len(rows) == 11
    for length in (32, 64):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            ids, mask = tokenize([captions[i] for i in rows], length)
        assert ids.numpy().tolist() == expected[f'ids_{length}'][rows].tolist()
        assert mask.int().numpy().tolist() == expected[f'mask_{length}'][rows].tolist()


def test_a_caption_that_spells_out_a_token_gets_openais_and_not_open_clips():
    tok = tokenizer()
    assert tok.encode('a <|EndOfText|>') == [320, tok.eot_token_id] and tok.encode('<|startoftext|>') == [tok.sot_token_id]
    assert len(tok.encode('<start_of_text>')) > 3 and tok.decode([tok.eot_token_id]).strip() == '<|endoftext|>'


@pytest.mark.parametrize('empty', ['', ' \n', None, float('nan'), 7])
def test_an_empty_caption_is_refused_with_its_row(empty):
    with pytest.raises(ValueError, match='row 2 is empty'):
        tokenize(['a star', 'a ring', empty])


def test_a_long_caption_is_cut_with_one_warning_and_keeps_its_end():
    with pytest.warns(UserWarning, match='2 of 3 captions are longer than 8 tokens') as caught:
        ids, mask = tokenize(['a star', 'one two three four five six seven', 'word ' * 99], 8)
    assert len(caught) == 1 and caught[0].filename == __file__
    tok = tokenizer()
    assert ids.shape == (3, 8) and mask.sum(1).tolist() == [4, 8, 8]
    assert (ids[:, 0] == tok.sot_token_id).all() and ids[[0, 1, 2], [3, 7, 7]].tolist() == [tok.eot_token_id] * 3
    assert ids[1, 1:7].tolist() == tok.encode('one two three four five six')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        tokenize(['one two three four five six'], 8)  # just fits


def test_what_the_small_clip_cannot_read_warns_and_stays_finite(small):
    ids, mask = tokenize(['ein roter Stern 星', 'a red star'])
    with pytest.warns(UserWarning, match="not in the small CLIP's vocabulary"), torch.no_grad():
        sentence, words = small.encode_words(ids, mask)
    assert sentence.isfinite().all() and words.isfinite().all()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('error')
        known = small.encode_words(ids[1:], mask[1:])[0]
    torch.testing.assert_close(known[0], sentence[1], atol=1e-6, rtol=1e-5)


def test_what_a_whole_clip_reads_in_another_language_is_finite_and_silent(openai_like):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('error')
        sentence = openai_like.encode_words(*tokenize(['一颗星', '星'], 20))[0]
    assert sentence.isfinite().all() and (sentence[0] - sentence[1]).abs().max() > 1e-4


def test_more_words_than_positions_are_refused(small):
    with pytest.raises(ValueError, match='49 words do not fit.*48 positions; lower max_words'):
        small.encode_words(*tokenize(CAPTIONS, 49))


# ---- loading

def test_small_clip_has_a_row_for_each_token_it_was_made_for():
    clip, ids = small_clip(['star', 'antidisestablishmentarianism'])
    tok = tokenizer()
    wanted = {tok.sot_token_id, tok.eot_token_id, *tok.encode('star'), *tok.encode('antidisestablishmentarianism')}
    assert set(ids.tolist()) == wanted and len(clip.clip.token_embedding.weight) == len(wanted) + 2
    rows = clip.rows[sorted(wanted)]
    assert sorted(rows.tolist()) == list(range(2, len(wanted) + 2)) and clip.rows[0] == 0
    assert clip.rows.argmax() == tok.eot_token_id  # open_clip finds the end as the largest id


def test_the_shipped_clip_loads_and_knows_the_world():
    clip = load_clip('small')
    ids, mask = tokenize(shapes.frame_captions(3, 20)[1])
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter('error')
        assert clip.encode_words(ids, mask)[0].isfinite().all()
    assert clip.clip.positional_embedding.dtype == torch.float32


def test_an_unknown_clip_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match="unknown CLIP 'ViT-B32', did you mean 'ViT-B-32'.*\"small\""):
        load_clip('ViT-B32', None)


# ---- the temporal transformer

def test_temporal_transformer_starts_as_a_copy_and_ignores_padding(small):
    temporal = TemporalTransformer(small, 2).eval()
    assert torch.equal(temporal.positions, small.clip.positional_embedding)
    for mine, theirs in zip(temporal.blocks, small.clip.transformer.resblocks):
        for a, b in zip(mine.parameters(), theirs.parameters()):
            assert torch.equal(a, b) and a.data_ptr() != b.data_ptr()
        assert mine.ln_1.eps == 1e-12
    x, mask = torch.randn(2, 5, small.width), torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    other = x.clone()
    other[0, 3:] = 7
    with torch.no_grad():
        y = temporal(x, mask)
        torch.testing.assert_close(temporal(other, mask)[0, :3], y[0, :3])
        torch.testing.assert_close(temporal(x[:1, :3], mask[:1, :3])[0], y[0, :3], atol=1e-5, rtol=1e-5)
        assert (temporal(x.flip(1), torch.ones(2, 5)).flip(1) - temporal(x, torch.ones(2, 5))).abs().max() > 1e-3  # order counts


def test_temporal_transformer_refuses_what_it_cannot_copy_or_place(small):
    narrow = open_clip.model.CLIP(8, vision_cfg=dict(image_size=8, patch_size=8, width=16, head_width=16, layers=1),
                                  text_cfg=dict(context_length=5, vocab_size=9, width=16, heads=1, layers=1))
    with pytest.raises(ValueError, match='text blocks of width 8; those of this CLIP have width 16'):
        TemporalTransformer(Clip(narrow), 1)
    with pytest.raises(ValueError, match='49 frames, but only 48'):
        TemporalTransformer(small, 1)(torch.randn(1, 49, small.width), torch.ones(1, 49))


def test_blocks_beyond_clips_start_small(small):
    blocks = TemporalTransformer(small, 6).blocks
    assert len(blocks) == 6 and torch.equal(blocks[3].mlp.c_fc.weight, small.clip.transformer.resblocks[3].mlp.c_fc.weight)
    for linear in (blocks[5].mlp.c_fc, blocks[5].mlp.c_proj, blocks[5].attn.out_proj):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.05) and (linear.bias == 0).all()


def test_temporal_lstm_as_released_doubles_frames_past_the_longest_video():
    temporal, x, mask = TemporalLSTM(8, released=True), torch.randn(2, 5, 8), torch.tensor([[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, mask.sum(1), batch_first=True, enforce_sorted=False)
    seen = torch.nn.utils.rnn.pad_packed_sequence(temporal.lstm(packed)[0], batch_first=True)[0]
    torch.testing.assert_close(temporal(x, mask), torch.cat([seen, x[:, 3:]], 1) + x)
    assert torch.equal(temporal(x, mask.bool()), temporal(x, mask)) and torch.equal(temporal(x, mask)[1, 1:3], x[1, 1:3])


def test_temporal_lstm_leaves_padding_as_it_is_and_never_looks_ahead():
    temporal, x, mask = TemporalLSTM(8), torch.randn(1, 4, 8), torch.tensor([[1, 1, 0, 0]])
    y, other = temporal(x, mask), x.clone()
    other[0, 2:] = 5
    assert torch.equal(y[0, 2:], x[0, 2:]) and not torch.equal(y[0, :2], x[0, :2])
    torch.testing.assert_close(temporal(other, mask)[0, :2], y[0, :2])


def test_the_patch_embedding_as_a_product_is_the_convolution(model):
    conv = model.clip.visual.conv1.double()
    pixels = torch.randn(3, 3, 35, 35, dtype=torch.float64, requires_grad=True)  # 35: three columns beyond the last patch
    found = []
    for way in (conv.forward, conv.product):
        out = way(pixels)
        assert out.shape == (3, 128, 4, 4)
        found.append((out, *torch.autograd.grad(out.sin().sum(), (pixels, conv.weight))))
    for mine, expected in zip(*found):
        torch.testing.assert_close(mine, expected)
    assert torch.equal(found[0][0], torch.nn.functional.conv2d(pixels, conv.weight, stride=8))  # on the CPU, to the bit
    assert 'clip.clip.visual.conv1.weight' in model.state_dict()
