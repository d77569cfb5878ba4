"""Each image tower against plain loops, against CLIP's own tower where its idea does nothing, and on odd videos."""
import copy

import open_clip
import pytest
import torch
from torch.nn.functional import interpolate

from glscl.clip_models import small_clip
from glscl.encoders import Clip
from glscl.heads import HEADS, TOWERS, tower
from glscl.heads.centerclip import Segments, medoids
from glscl.heads.clipvip import Proxies
from glscl.heads.promptswitch import PromptCube
from glscl.heads.ts2net import TokenShift

V, F = 3, 4
BOTH = pytest.mark.parametrize('mask_padding', [False, True])
EACH = pytest.mark.parametrize('name', TOWERS)


@pytest.fixture(scope='module')
def clip():
    torch.manual_seed(0)
    return small_clip(['a', 'red', 'circle'])[0].eval()


def videos(frames=F, lengths=(F, 2, 1)):
    """Pixels, zeros where padded, and mask."""
    mask = torch.arange(frames) < torch.tensor(lengths)[:, None]
    return torch.randn(len(lengths), frames, 3, 32, 32) * mask[..., None, None, None], mask


def build(name, clip, frames=F, moved=0.1, **settings):
    """A tower whose parameters have moved away from where they start."""
    tower = TOWERS[name](clip, frames, **settings).eval()
    with torch.no_grad():
        for p in tower.parameters():
            p += moved * torch.randn_like(p)
    return tower


def plain(clip, pixels):
    return clip.encode_frames(pixels.flatten(0, 1)).unflatten(0, pixels.shape[:2])


def same(a, b):
    torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)


def attention(attn, queries, keys):
    """Multi-head attention of [n, W] to [m, W], head by head."""
    (Wq, Wk, Wv), (bq, bk, bv) = attn.in_proj_weight.chunk(3), attn.in_proj_bias.chunk(3)
    q, k, v, d = queries @ Wq.T + bq, keys @ Wk.T + bk, keys @ Wv.T + bv, attn.head_dim
    heads = [slice(h * d, (h + 1) * d) for h in range(attn.num_heads)]
    return attn.out_proj(torch.cat([(q[:, h] @ k[:, h].T / d ** 0.5).softmax(-1) @ v[:, h] for h in heads], -1))


def start(clip, frame):
    """One frame's tokens [1 + P, W] with positions, before the first LN, patch by patch."""
    visual, tokens = clip.clip.visual, [clip.clip.visual.class_embedding]
    for row in range(0, 32, 8):
        for column in range(0, 32, 8):
            patch = frame[:, row:row + 8, column:column + 8]
            tokens.append(torch.stack([(kernel * patch).sum() for kernel in visual.conv1.weight]))
    return torch.stack(tokens) + visual.positional_embedding


# ---- where the idea does nothing, the tower is CLIP's

@torch.no_grad()
def test_one_segment_a_frame_is_the_plain_tower(clip):
    pixels, mask = videos()
    out = Segments(clip, F, segments=F)(clip, pixels, mask)
    same(out['frames'], plain(clip, pixels))
    assert torch.equal(out['mask'], mask)


@torch.no_grad()
def test_no_proxies_and_one_frame_is_the_plain_tower(clip):
    pixels, mask = videos(1, (1, 1))
    same(Proxies(clip, F, proxies=0)(clip, pixels, mask)['frames'], plain(clip, pixels))


@torch.no_grad()
def test_hidden_prompts_are_the_plain_tower(clip):
    pixels, mask = torch.randn(2, F, 3, 32, 32), torch.zeros(2, F, dtype=torch.bool)
    same(PromptCube(clip, F, mask_padding=True)(clip, pixels, mask)['frames'], plain(clip, pixels))


@torch.no_grad()
def test_a_still_video_is_not_shifted(clip):
    pixels = torch.randn(2, 1, 3, 32, 32).expand(-1, F, -1, -1, -1)
    same(TokenShift(clip, F)(clip, pixels, torch.ones(2, F))['frames'], plain(clip, pixels))


@pytest.fixture(scope='module')
def vit():
    """The patches of ViT-B/32, in a narrow tower of four blocks."""
    torch.manual_seed(0)
    return Clip(open_clip.CLIP(embed_dim=64, vision_cfg=dict(image_size=224, patch_size=32, width=128, layers=4),
                               text_cfg=dict(context_length=8, vocab_size=9, width=64, heads=1, layers=1))).eval()


@EACH
@torch.no_grad()
def test_a_tower_of_another_size(name, vit):
    pixels, mask = torch.randn(1, 4, 3, 224, 224), torch.ones(1, 4)
    out = TOWERS[name](vit, 4)(vit, pixels, mask)
    assert all(x.isfinite().all() for x in out.values())
    assert out['frames'].shape == (1, {'CenterCLIP': 3, 'CLIP-ViP': 1}.get(name, 4), 64)
    if name == 'CenterCLIP':
        same(out['frames'][:, 1:], plain(vit, pixels)[:, 2:])                        # the segments of one frame
    if name == 'TS2-Net':
        assert out['patches'].shape == (1, 4, 49, 64)


@EACH
def test_pixels_of_the_wrong_size_are_named(name, clip):
    for shape in ((1, F, 3, 64, 64), (F, 3, 32, 32)):
        with pytest.raises(ValueError, match=r'pixels are \[.*expected \[V, F, 3, H, W\].*\(32, 32\)'):
            TOWERS[name](clip, F)(clip, torch.zeros(shape), torch.ones(1, F))


@EACH
def test_a_mask_of_other_videos_or_no_frame_is_named(name, clip):
    for frames, mask in ((F, torch.ones(1, F + 1)), (F, torch.ones(2, F)), (0, torch.ones(1, 0))):
        with pytest.raises(ValueError, match='pixels are .* their mask .* one frame at least'):
            TOWERS[name](clip, F)(clip, torch.zeros(1, frames, 3, 32, 32), mask)
    assert not len(TOWERS[name](clip, F)(clip, torch.zeros(0, F, 3, 32, 32), torch.ones(0, F))['frames'])


# ---- CenterCLIP

def medoids_by_loops(x, K):
    """x: a list of tokens -> sorted indices of the medoids"""
    n = len(x)
    d = [(torch.stack(x) - token).norm(dim=-1).tolist() for token in x]
    for i in range(n):
        d[i][i] -= 1
    centres = [max(range(n), key=lambda i: float(x[i].norm()))]
    while len(centres) < K:
        centres.append(max(range(n), key=lambda i: min(d[c][i] for c in centres)))
    for _ in range(100):
        clusters = [[] for _ in centres]
        for i in range(n):
            clusters[min(range(K), key=lambda k: d[centres[k]][i])].append(i)
        moved = [min(members, key=lambda i: sum(d[i][j] for j in members)) for members in clusters]
        if moved == centres:
            break
        centres = moved
    return sorted(centres)


@pytest.mark.parametrize('K', [1, 4, 11])
def test_medoids_are_the_loop(K):
    x = torch.randn(20, 11, 3)
    seen = torch.ones(20, 11, dtype=torch.bool)
    seen[5:, :11 - K] = torch.rand(15, 11 - K) > 0.5
    found = medoids(x, seen, K)
    for tokens, s, got in zip(x, seen, found):
        rows = s.nonzero().flatten()
        assert got.tolist() == rows[medoids_by_loops(list(tokens[rows]), K)].tolist()


def test_medoids_among_equal_tokens_are_distinct_and_cover_all_values():
    x = torch.randn(5, 6, 4).repeat(1, 3, 1)                                         # each token three times
    for tokens, found in zip(x, medoids(x, torch.ones(5, 18, dtype=torch.bool), 6)):
        assert sorted(found % 6) == list(range(6))
    assert medoids(torch.ones(1, 9, 4), torch.ones(1, 9, dtype=torch.bool), 5).unique().numel() == 5


@BOTH
@pytest.mark.parametrize('frames, groups', [(4, [(0, 1), (2,), (3,)]), (6, [(0, 1), (2, 3), (4, 5)]), (2, [(0,), (1,)])])
@torch.no_grad()
def test_segments_are_the_loop(clip, frames, groups, mask_padding):
    pixels, mask = videos(frames, (frames, 1, 0))
    tower, blocks = Segments(clip, frames, mask_padding, segments=3), clip.clip.visual.transformer.resblocks
    out = tower(clip, pixels, mask)
    for v in range(V):
        for s, group in enumerate(groups):
            valid = [f for f in group if mask[v, f]]
            used = valid if mask_padding and valid else group
            tokens = [blocks[1](blocks[0](clip.clip.visual.ln_pre(start(clip, pixels[v, f]))[None]))[0] for f in used]
            patches = torch.cat([x[1:] for x in tokens])
            segment = torch.stack([sum(x[0] for x in tokens) / len(tokens), *patches[medoids_by_loops(list(patches), 16)]])
            end = clip.clip.visual.ln_post(blocks[3](blocks[2](segment[None]))[0, 0]) @ clip.clip.visual.proj
            same(out['frames'][v, s], end)
            assert out['mask'][v, s] == (bool(valid) if mask_padding else mask[v, group[-1]])


# ---- CLIP-ViP

@BOTH
@pytest.mark.parametrize('frames', [1, 3, 4])
@torch.no_grad()
def test_proxies_are_the_loop(clip, frames, mask_padding):
    pixels, mask = videos(frames, (frames, 1))
    tower, visual = build('CLIP-ViP', clip, mask_padding=mask_padding), clip.clip.visual
    time = interpolate(tower.time.T[None], frames, mode='linear')[0].T
    out = tower(clip, pixels, mask)
    for v in range(2):
        tokens = [start(clip, frame) for frame in pixels[v]]
        few = visual.ln_pre(torch.cat([tokens[0][:1], tower.proxies + visual.positional_embedding[0]]))
        patches = [visual.ln_pre(x[1:] + time[f]) for f, x in enumerate(tokens)]
        for block in visual.transformer.resblocks:
            a, b = block.ln_1(few), [block.ln_1(x) for x in patches]
            everything = torch.cat([a, *(x for x, m in zip(b, mask[v]) if m or not mask_padding)])
            few = few + attention(block.attn, a, everything)
            patches = [x + attention(block.attn, h, torch.cat([a, h])) for x, h in zip(patches, b)]
            few, *patches = (x + block.mlp(block.ln_2(x)) for x in (few, *patches))
        same(out['frames'][v, 0], visual.ln_post(few[0]) @ visual.proj)
    assert out['mask'].all() and out['mask'].shape == (2, 1)


@torch.no_grad()
def test_a_patch_reaches_other_frames_by_the_proxies_alone(clip):
    tower = Proxies(clip, F)
    h = torch.randn(1, 4 + F * 16, 128)
    other = h.clone()
    other[0, 4 + 2 * 16 + 5] += 1                                                    # a patch of frame 2
    attn = clip.clip.visual.transformer.resblocks[0].attn
    changed = (tower.attention(attn, h, F, None) - tower.attention(attn, other, F, None)).abs().amax(-1)[0] > 0
    assert changed[:4].all() and changed[4:].view(F, 16).any(1).tolist() == [False, False, True, False]


# ---- Prompt Switch

@BOTH
@pytest.mark.parametrize('frames, chunks', [(3, [[0, 1, 2]]), (5, [[0, 1, 2], [3, 4]]), (1, [[0]])])
@torch.no_grad()
def test_the_prompt_cube_is_the_loop(clip, frames, chunks, mask_padding):
    pixels, mask = videos(frames, (frames, 1))
    tower, visual = build('Prompt Switch', clip, 3, mask_padding=mask_padding), clip.clip.visual
    out = tower(clip, pixels, mask)
    for v in range(2):
        for chunk in chunks:
            shown = {(i, j): not mask_padding or bool(mask[v, f] and mask[v, g])
                     for i, f in enumerate(chunk) for j, g in enumerate(chunk)}
            m, x = len(chunk), [visual.ln_pre(start(clip, pixels[v, f])) for f in chunk]
            prompt = {(i, j): tower.cube[i, j] for i, j in shown}
            for block in visual.transformer.resblocks:
                before = dict(prompt)
                for i in range(m):
                    switched = [block.ln_1(before[j, i]) for j in range(m)]          # prompt i of frame j
                    h = torch.cat([block.ln_1(x[i]), torch.stack(switched)])
                    keys = torch.cat([h[:17], *(p[None] for j, p in enumerate(switched) if shown[i, j])])
                    y = torch.cat([x[i], torch.stack([before[i, j] for j in range(m)])]) + attention(block.attn, h, keys)
                    y = y + block.mlp(block.ln_2(y))
                    x[i], prompt = y[:17], {**prompt, **{(i, j): y[17 + j] for j in range(m)}}
            keys = [prompt[pair] for pair in shown if shown[pair]]
            for i, f in enumerate(chunk):
                cls = x[i][:1]
                if keys:
                    cls = cls + attention(tower.gather, cls, torch.stack(keys))
                    same(out['frames'][v, f], visual.ln_post(cls[0]) @ visual.proj)


@torch.no_grad()
def test_the_cube_starts_small_and_the_aggregation_as_a_no_op(clip):
    tower = PromptCube(clip, F)
    assert 0.9 < tower.cube.std() / (0.02 / 128 ** 0.5) < 1.1
    assert not tower.gather(*(torch.randn(1, n, 128) for n in (2, 5, 5)))[0].any()


@torch.no_grad()
def test_twelve_frames_are_two_chunks(clip):
    pixels, mask = videos(12, (12,))
    tower = build('Prompt Switch', clip, 12)
    assert tower.cube.shape == (6, 6, 128)
    halves = [tower(clip, pixels[:, half], mask[:, half])['frames'] for half in (slice(6), slice(6, 12))]
    same(tower(clip, pixels, mask)['frames'], torch.cat(halves, 1))


# ---- TS2-Net

# By the width of the grid: ViT-B/32, ViT-B/16, the small CLIP; every (tokens // 7)-th token from 1 and from 4 on.
PREVIOUS = {7: [1, 8, 15, 22, 29, 36, 43], 14: [1, 29, 57, 85, 113, 141, 169], 4: [1, 3, 5, 7, 9, 11, 13, 15]}
FOLLOWING = {7: [4, 11, 18, 25, 32, 39, 46], 14: [4, 32, 60, 88, 116, 144, 172], 4: [4, 6, 8, 10, 12, 14, 16]}


@BOTH
@pytest.mark.parametrize('grid', [7, 14, 4])
def test_the_shift_takes_the_listed_positions(grid, mask_padding):
    h, lengths = torch.randn(3, F, 1 + grid ** 2, 2), (4, 2, 1)
    seen = torch.arange(F) < torch.tensor(lengths)[:, None] if mask_padding else torch.ones(3, F, dtype=torch.bool)
    expected = h.clone()
    for v in range(3):
        last = lengths[v] - 1 if mask_padding else F - 1
        for f in range(last + 1):
            for positions, source in ((PREVIOUS[grid], max(f - 1, 0)), (FOLLOWING[grid], min(f + 1, last))):
                expected[v, f, positions] = h[v, source, positions]
    shifted = TokenShift.shift(h, seen)
    assert torch.equal(shifted[seen], expected[seen])


@BOTH
@torch.no_grad()
def test_token_shift_touches_the_attention_of_the_last_two_blocks_alone(clip, mask_padding):
    pixels, mask = videos(lengths=(2,))
    visual, seen = clip.clip.visual, mask if mask_padding else torch.ones_like(mask)
    x = [visual.ln_pre(start(clip, frame)) for frame in pixels[0]]
    for number, block in enumerate(visual.transformer.resblocks):
        h = [block.ln_1(tokens) for tokens in x]
        if number >= 2:
            h = list(TokenShift.shift(torch.stack(h)[None], seen)[0])
        x = [tokens + attention(block.attn, a, a) for tokens, a in zip(x, h)]
        x = [tokens + block.mlp(block.ln_2(tokens)) for tokens in x]
    out = TokenShift(clip, F, mask_padding)(clip, pixels, mask)
    end = visual.ln_post(torch.stack(x)) @ visual.proj
    same(out['frames'][0], end[:, 0])
    same(out['patches'][0], end[:, 1:])


def test_too_few_tokens_to_shift_are_refused():
    few = Clip(open_clip.CLIP(embed_dim=64, vision_cfg=dict(image_size=32, patch_size=16, width=64, layers=2),
                              text_cfg=dict(context_length=8, vocab_size=9, width=64, heads=1, layers=1)))
    with pytest.raises(ValueError, match='every .tokens // 7.-th token of a frame, and this CLIP has 5'):
        TokenShift(few, F)


# ---- all four

@BOTH
@EACH
@pytest.mark.parametrize('frames, lengths', [(F, (F, 2, 1, 0)), (1, (1, 0)), (7, (7, 3, 0))])
@torch.no_grad()
def test_what_a_tower_gives_its_head_scores(name, clip, frames, lengths, mask_padding):
    pixels, mask = videos(frames, lengths)
    out = build(name, clip, mask_padding=mask_padding)(clip, pixels, mask)
    head = HEADS[name](128, max_frames=frames, clip=clip, temporal_layers=1, mask_padding=mask_padding).eval()
    S = head.similarity(head.encode_texts(torch.randn(2, 128)), head.encode_videos(**out))
    assert all(x.isfinite().all() for x in (*out.values(), S)) and S.shape == (2, len(lengths))
    assert not S[:, -1 if 0 in lengths else len(S[0]):].any()                        # a video with no valid frame scores 0
    assert S[:, 0].all()


@BOTH
@EACH
@torch.no_grad()
def test_a_video_is_the_same_in_any_batch(name, clip, mask_padding):
    pixels, mask = videos(lengths=(F, 2, 1, 3, 0))
    tower, order = build(name, clip, mask_padding=mask_padding), torch.tensor([3, 0, 4, 2, 1])
    whole, shuffled = tower(clip, pixels, mask), tower(clip, pixels[order], mask[order])
    alone = tower(clip, pixels[1:2], mask[1:2])
    for key in whole:
        same(whole[key][order], shuffled[key])
        same(whole[key][1:2], alone[key])


@EACH
@torch.no_grad()
def test_with_mask_padding_a_padded_video_is_the_short_one(name, clip):
    pixels, mask = videos(6, (4,))
    pixels[:, 4:] = torch.randn(1, 2, 3, 32, 32)                                     # whatever padding holds
    settings = {'segments': 6} if name == 'CenterCLIP' else {}
    tower = TOWERS[name](clip, 6, mask_padding=True, **settings)                     # CLIP-ViP: time at zero, so at any length
    if name == 'Prompt Switch':
        torch.nn.init.normal_(tower.gather.out_proj.weight)
        torch.nn.init.normal_(tower.cube)
    padded, short = tower(clip, pixels, mask), tower(clip, pixels[:, :4], mask[:, :4])
    for key in ('frames', 'patches') if name == 'TS2-Net' else ('frames',):
        same(padded[key][:, :4], short[key])


@BOTH
@pytest.mark.parametrize('name', ['CLIP-ViP', 'Prompt Switch'])
def test_gradients_reach_every_parameter(name, clip, mask_padding):
    tower = build(name, clip, mask_padding=mask_padding)
    tower(clip, *videos())['frames'].square().sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.flatten(1).any(1).all() for p in tower.parameters() if p.ndim > 1)
    for p in tower.parameters():
        assert p.grad is not None and p.grad.any()


@pytest.mark.parametrize('name', ['CenterCLIP', 'TS2-Net'])
def test_gradients_pass_to_clip(name, clip):
    tower = TOWERS[name](clip, F)
    assert not list(tower.parameters())
    tower(clip, *videos())['frames'].square().sum().backward()
    assert clip.clip.visual.conv1.weight.grad.any()
    clip.zero_grad()


@EACH
def test_recomputed_activations_give_the_same_gradient(name, clip, monkeypatch):
    image_tower, (pixels, mask), grads, calls, through = build(name, clip), videos(), [], [], tower.through
    monkeypatch.setattr(tower, 'through', lambda *args: calls.append(None) or through(*args))
    for recompute, times in ((False, 1), (True, 2)):
        clip.clip.set_grad_checkpointing(recompute)
        calls.clear()
        image_tower(clip, pixels, mask)['frames'].square().sum().backward()
        assert len(calls) == times * len(clip.clip.visual.transformer.resblocks)
        grads.append(clip.clip.visual.conv1.weight.grad.clone())
        clip.zero_grad()
    clip.clip.set_grad_checkpointing(False)
    torch.testing.assert_close(*grads)


@BOTH
@EACH
@torch.no_grad()
def test_double_precision_is_kept(name, clip, mask_padding):
    (pixels, mask), exact = videos(lengths=(F, 2, 0)), copy.deepcopy(clip).double()
    tower = build(name, clip, mask_padding=mask_padding)
    single, double = tower(clip, pixels, mask), tower.double()(exact, pixels.double(), mask)
    assert double['frames'].dtype == torch.float64
    same(single['frames'][:2].double(), double['frames'][:2])                        # the last has no valid frame


@BOTH
@EACH
def test_half_precision(name, clip, mask_padding):
    pixels, mask = videos(lengths=(F, 2, 0))
    tower = build(name, clip, mask_padding=mask_padding)
    with torch.autocast('cpu', torch.bfloat16):
        out = tower(clip, pixels, mask)
        out['frames'].float().square().sum().backward()
        with torch.no_grad():
            inference = tower(clip, pixels, mask)
    assert out['frames'].isfinite().all()
    torch.testing.assert_close(out['frames'], inference['frames'], atol=0.1, rtol=0.1)
    if name != 'CenterCLIP':                                                         # there rounding may choose other tokens
        torch.testing.assert_close(out['frames'].float(), tower(clip, pixels, mask)['frames'], atol=0.15, rtol=0.1)
    clip.zero_grad()
