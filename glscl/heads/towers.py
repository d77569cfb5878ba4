"""The image towers of four methods whose idea lies before the head: segments, proxy tokens, prompt cube, token shift.

    tower  = TOWERS['CenterCLIP'](clip, max_frames=12)
    videos = head.encode_videos(**tower(clip, pixels, mask))    # pixels [V, F, 3, H, W], mask [V, F]

A tower owns what its method adds to CLIP, and runs the blocks of the CLIP it is given. `Tower(clip, max_frames, mask_padding)`
takes its sizes from `clip` and leaves CLIP's weights where they are. Pixels of padded frames are zeros, black as in the
released codes, which send them through the tower; each tower says where they reach the valid frames there and that
mask_padding=True keeps them out. A video with no valid frame comes out finite, and masked.

In the shapes, W is the tower's width, P the patches of a frame (16 in the small CLIP, 49 in ViT-B/32), D the width of the
joint space."""
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .base import promoted


def embed(visual, pixels):
    """pixels [V, F, 3, H, W] -> tokens [V, F, 1 + P, W]: class token and patches with their positions, before the first LN."""
    if pixels.ndim != 5 or pixels.shape[3:] != visual.image_size:
        raise ValueError(f'pixels are {list(pixels.shape)}, expected [V, F, 3, H, W] with H and W as this CLIP looks at: '
                         f'{visual.image_size}')
    x = visual.conv1(pixels.flatten(0, 1)).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], 1) + visual.positional_embedding.to(x.dtype)
    return x.unflatten(0, pixels.shape[:2])


def attend(attn, queries, keys=None, seen=None):
    """queries [..., n, W] to keys [..., m, W] (none: to themselves) -> [..., n, W]; `seen` [..., m]: the keys that count."""
    q = queries.flatten(0, -3)
    k = q if keys is None else keys.flatten(0, -3)
    # Finite, so that a query whose keys are all hidden stays finite too; else 0 after the softmax, as -inf would be.
    low = None if seen is None else torch.where(seen.flatten(0, -2), 0.0, -3e4).to(q.dtype)
    return attn(q, k, k, key_padding_mask=low, need_weights=False)[0].view_as(queries)


def run(visual, x, attention=attend, blocks=slice(None)):
    """Tokens through the pre-LN blocks of CLIP's image tower, with `attention`(block.attn, LN x) as their attention."""
    recompute = visual.transformer.grad_checkpointing and torch.is_grad_enabled()
    for block in visual.transformer.resblocks[blocks]:
        x = checkpoint(through, block, x, attention, use_reentrant=False) if recompute else through(block, x, attention)
    return x


def through(block, x, attention):
    """One block, each residual as CLIP has it."""
    x = x + block.ls_1(attention(block.attn, block.ln_1(x)))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def project(visual, x):
    """tokens [..., W] -> [..., D], CLIP's last LN and projection."""
    return visual.ln_post(x) @ visual.proj


@torch.no_grad()
def medoids(x, seen, K, iterations=100):
    """k-medoids++ in each row: x [N, n, W], seen [N, n] (K at least) -> the K medoids' indices [N, K], ascending.

    KKZ start: the longest token, then each time the one farthest from those chosen. Then tokens go to the nearest medoid and
    the one with the least sum of distances within a cluster becomes its medoid, until none changes."""
    x, rows = promoted(x), torch.arange(len(x), device=x.device)
    d = torch.cdist(x, x, compute_mode='donot_use_mm_for_euclid_dist')               # [N, n, n]
    d = d - torch.eye(x.shape[1], dtype=d.dtype, device=d.device)  # a medoid is its own nearest, also beside an equal token
    chosen = [x.norm(dim=-1).masked_fill(~seen, -1).argmax(1)]
    far = torch.full_like(d[:, 0], float('inf')).masked_fill(~seen, -2)              # an unseen token is never the farthest
    for _ in range(K - 1):
        far = torch.minimum(far, d[rows, chosen[-1]])
        chosen.append(far.argmax(1))
    centres, clusters = torch.stack(chosen, 1), torch.arange(K, device=x.device)
    for _ in range(iterations):
        own = d[rows[:, None], centres].argmin(1).masked_fill(~seen, K)              # [N, n], the unseen in a cluster apart
        spread = (d * (own[:, :, None] == own[:, None])).sum(-1)
        members = own[:, None] == clusters[:, None]                                  # [N, K, n]
        before, centres = centres, spread[:, None].masked_fill(~members, float('inf')).argmin(-1)
        if torch.equal(before, centres):
            break
    return centres.sort(1).values


class Segments(nn.Module):
    """CenterCLIP: after block `after` (half of them) the frames become `segments` segments, with as many patch tokens as a
    frame has: the medoids of its frames' tokens. Class tokens are averaged. No parameters, no gradient through the choice.

    Frames that do not divide evenly make segments of unlike length, the longer ones first (the released code stops there);
    fewer frames than segments are one segment each. As released padded frames are clustered and averaged with the others, and
    a segment counts if its last frame is valid, so that a video of one valid frame can lose all segments. mask_padding: a
    segment is made of its valid frames and counts if it has one."""

    def __init__(self, clip, max_frames, mask_padding=False, segments=3, after=None):
        super().__init__()
        self.mask_padding, self.segments = mask_padding, segments
        self.after = len(clip.clip.visual.transformer.resblocks) // 2 if after is None else after

    def forward(self, clip, pixels, mask):
        """pixels [V, F, 3, H, W], mask [V, F] -> frames [V, S, D], mask [V, S]"""
        visual, mask, F = clip.clip.visual, mask.bool(), mask.shape[1]
        x = run(visual, visual.ln_pre(embed(visual, pixels)), blocks=slice(self.after))
        groups = torch.arange(F, device=x.device).tensor_split(min(self.segments, F))
        where = nn.utils.rnn.pad_sequence(groups, batch_first=True, padding_value=-1)   # [S, f], -1: no such frame
        seen = (where >= 0).expand(len(x), -1, -1)                                   # [V, S, f]
        valid = mask[:, where] & seen
        if self.mask_padding:
            seen = torch.where(valid.any(-1, keepdim=True), valid, seen)
        x = self.segment(x[:, where], seen)                                          # [V, S, 1 + P, W]
        x = run(visual, x, blocks=slice(self.after, None))
        return dict(frames=project(visual, x[:, :, 0]), mask=valid.any(-1) if self.mask_padding else mask[:, where.amax(1)])

    def segment(self, x, seen):
        """x [V, S, f, 1 + P, W], seen [V, S, f] -> [V, S, 1 + P, W]"""
        V, S, _, tokens, W = x.shape
        cls = (x[:, :, :, 0] * seen[..., None]).sum(2, keepdim=True) / seen.sum(2)[..., None, None]
        patches = x[:, :, :, 1:].flatten(2, 3).flatten(0, 1)                         # [V S, f P, W]
        kept = medoids(patches, seen.repeat_interleave(tokens - 1, 2).flatten(0, 1), tokens - 1)
        patches = patches.gather(1, kept[..., None].expand(-1, -1, W)).unflatten(0, (V, S))
        return torch.cat([cls, patches], 2)


class Proxies(nn.Module):
    """CLIP-ViP: class token and `proxies` more attend to the patches of all frames, the patches of a frame to these and to each
    other. Patches get a temporal embedding, zero at the start, interpolated where a video has other than max_frames frames.

    As released the proxies attend to padded frames too; mask_padding hides them."""

    def __init__(self, clip, max_frames, mask_padding=False, proxies=3):
        super().__init__()
        width = clip.clip.visual.class_embedding.shape[0]
        self.mask_padding = mask_padding
        self.proxies = nn.Parameter(torch.randn(proxies, width))  # not small, as released: an LN follows
        self.time = nn.Parameter(torch.zeros(max_frames, width))

    def forward(self, clip, pixels, mask):
        """pixels [V, F, 3, H, W], mask [V, F] -> frames [V, 1, D], mask [V, 1]"""
        visual, mask, x = clip.clip.visual, mask.bool(), embed(clip.clip.visual, pixels)
        V, F, tokens, _ = x.shape
        time = nn.functional.interpolate(self.time.T[None], F, mode='linear')[0].T   # [F, W]
        proxies = self.proxies + visual.positional_embedding[0]                      # the class token's position
        patches = (x[:, :, 1:] + time[:, None].to(x.dtype)).flatten(1, 2)
        x = torch.cat([x[:, 0, :1], proxies.to(x.dtype).expand(V, -1, -1), patches], 1)   # [V, M + F P, W]
        seen = None
        if self.mask_padding:
            M = 1 + len(proxies)
            seen = torch.cat([mask.new_ones(V, M), mask.repeat_interleave(tokens - 1, 1)], 1)
        x = run(visual, visual.ln_pre(x), partial(self.attention, F=F, seen=seen))
        return dict(frames=project(visual, x[:, :1]), mask=mask.any(1, keepdim=True))

    def attention(self, attn, h, F, seen):
        M = 1 + len(self.proxies)
        proxies, patches = h[:, :M], h[:, M:].unflatten(1, (F, -1))                  # [V, M, W], [V, F, P, W]
        keys = torch.cat([proxies[:, None].expand(-1, F, -1, -1), patches], 2)
        return torch.cat([attend(attn, proxies, h, seen), attend(attn, patches, keys).flatten(1, 2)], 1)


class PromptCube(nn.Module):
    """Prompt Switch: each of n = 6 frames carries n prompts, and before the attention of every block prompt j of frame i and
    prompt i of frame j change places (the residual stays). At the end each class token attends to all prompts of its n frames,
    through a projection that starts as zero.

    More frames are cut into chunks of n that share the cube and never meet, as in the released test. A last chunk of m < n
    frames uses the cube's first m x m prompts (the released code takes multiples of n only), so that it is what m frames give
    alone. As released padded frames send their prompts round like the others; mask_padding hides all prompts between a padded
    frame and another as keys."""

    def __init__(self, clip, max_frames, mask_padding=False, n=6):
        super().__init__()
        n, attn = min(n, max_frames), clip.clip.visual.transformer.resblocks[0].attn
        self.mask_padding, self.n = mask_padding, n
        self.cube = nn.Parameter(torch.randn(n, n, attn.embed_dim) * 0.02 / attn.embed_dim ** 0.5)
        self.gather = nn.MultiheadAttention(attn.embed_dim, attn.num_heads, batch_first=True)
        nn.init.zeros_(self.gather.out_proj.weight)

    def forward(self, clip, pixels, mask):
        """pixels [V, F, 3, H, W], mask [V, F] -> frames [V, F, D], mask [V, F]"""
        mask = mask.bool()
        chunks = zip(pixels.split(self.n, 1), mask.split(self.n, 1))
        return dict(frames=torch.cat([self.chunk(clip.clip.visual, *chunk) for chunk in chunks], 1), mask=mask)

    def chunk(self, visual, pixels, mask):
        """pixels [V, m, 3, H, W], mask [V, m], m <= n -> [V, m, D]"""
        x, m = visual.ln_pre(embed(visual, pixels)), mask.shape[1]
        pairs = mask[:, :, None] & mask[:, None] if self.mask_padding else None      # [V, m, m]
        seen = pairs if pairs is None else torch.cat([pairs.new_ones(x.shape[:3]), pairs], 2)
        x = torch.cat([x, self.cube[:m, :m].to(x.dtype).expand(len(x), -1, -1, -1)], 2)   # [V, m, 1 + P + m, W]
        x = run(visual, x, partial(self.attention, m=m, seen=seen))
        cls, prompts = x[:, :, 0], x[:, :, -m:].flatten(1, 2)
        return project(visual, cls + attend(self.gather, cls, prompts, pairs if pairs is None else pairs.flatten(1)))

    @staticmethod
    def attention(attn, h, m, seen):
        return attend(attn, torch.cat([h[:, :, :-m], h[:, :, -m:].transpose(1, 2)], 2), seen=seen)


class TokenShift(nn.Module):
    """TS2-Net: in the last two blocks the attention reads the patches in the first column of the grid from the frame before, and
    those in the middle one (width // 2) from the frame after; the residual stays. No parameters.

    The first and the last frame keep what they lack. As released a valid frame beside a padded one reads the padding;
    mask_padding: it keeps its own."""

    def __init__(self, clip, max_frames, mask_padding=False):
        super().__init__()
        self.mask_padding = mask_padding

    def forward(self, clip, pixels, mask):
        """pixels [V, F, 3, H, W], mask [V, F] -> frames [V, F, D], mask [V, F], patches [V, F, P, D]"""
        visual, mask = clip.clip.visual, mask.bool()
        x = run(visual, visual.ln_pre(embed(visual, pixels)), blocks=slice(-2))
        seen = mask if self.mask_padding else torch.ones_like(mask)
        shifted = partial(self.attention, seen=seen, columns=visual.grid_size[1])
        x = project(visual, run(visual, x, shifted, slice(-2, None)))
        return dict(frames=x[:, :, 0], mask=mask, patches=x[:, :, 1:])

    def attention(self, attn, h, seen, columns):
        return attend(attn, self.shift(h, seen, columns))

    @staticmethod
    def shift(h, seen, columns):
        """h [V, F, 1 + P, W] with shifted columns; seen [V, F]: the frames to read from."""
        shifted, frames = h.clone(), torch.arange(h.shape[1], device=h.device)
        for first, step in ((1, -1), (1 + columns // 2, 1)):
            source = (frames + step).clamp(0, len(frames) - 1)
            own, other = h[:, :, first::columns], h[:, source, first::columns]
            shifted[:, :, first::columns] = torch.where(seen[:, source, None, None], other, own)
        return shifted


TOWERS = {'CenterCLIP': Segments, 'CLIP-ViP': Proxies, 'Prompt Switch': PromptCube, 'TS2-Net': TokenShift}
