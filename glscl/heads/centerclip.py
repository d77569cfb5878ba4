"""CenterCLIP: Token Clustering for Efficient Text-Video Retrieval (Zhao et al. 2022); released
code: mzhaoshuai/CenterCLIP. The head is CLIP4Clip meanP."""
import torch
from torch import nn

from ..data.batch import at_least_float32
from .tower import checked, embed, project, run


class Segments(nn.Module):
    """Image tower: after block `after` (half of them) the frames become `segments` segments.

    A segment has as many patch tokens as a frame: the medoids of its frames' tokens. Class tokens
    are averaged. No parameters, no gradient through the choice. Where distances are told apart the
    medoids are the released ones. Where they tie (flat or repeated patches), the released choice
    hangs on rounding: with its tokens in another order the released code agrees with itself to 91
    to 95 %. Here distances are exact, and of two alike the first is taken.

    Frames that do not divide evenly make segments of unlike length, the longer ones first (the
    released code stops there); fewer frames than segments are one segment each. As released padded
    frames are clustered and averaged with the others, and a segment counts if its last frame is
    valid, so that a video of one valid frame can lose all segments. mask_padding: a segment is made
    of its valid frames and counts if it has one."""

    def __init__(self, clip, max_frames, mask_padding=False, segments=3, after=None):
        super().__init__()
        self.mask_padding = mask_padding
        self.segments = segments
        blocks = clip.clip.visual.transformer.resblocks
        self.after = len(blocks) // 2 if after is None else after

    def forward(self, clip, pixels, mask):
        """pixels [V, F, 3, H, W], mask [V, F] -> frames [V, S, D], mask [V, S]"""
        visual = clip.clip.visual
        mask = checked(visual, pixels, mask)
        x = run(visual, visual.ln_pre(embed(visual, pixels)), blocks=slice(self.after))
        F = mask.shape[1]
        groups = torch.arange(F, device=x.device).tensor_split(min(self.segments, F))
        # [S, f]: the frames of each segment, -1 where it has fewer than the longest
        index = nn.utils.rnn.pad_sequence(groups, batch_first=True, padding_value=-1)
        used = (index >= 0).expand(len(x), -1, -1)                            # [V, S, f]
        valid = mask[:, index] & used
        counts = mask[:, index.amax(1)]
        if self.mask_padding:
            counts = valid.any(-1)
            used = torch.where(counts[..., None], valid, used)
        x = self.segment(x[:, index], used)                                   # [V, S, 1 + P, W]
        x = run(visual, x, blocks=slice(self.after, None))
        return {'frames': project(visual, x[:, :, 0]), 'mask': counts}

    def segment(self, x, used):
        """x [V, S, f, 1 + P, W], used [V, S, f] -> [V, S, 1 + P, W]"""
        V, S, _, tokens, W = x.shape
        cls = (x[:, :, :, 0] * used[..., None]).sum(2, keepdim=True) / used.sum(2)[..., None, None]
        patches = x[:, :, :, 1:].flatten(2, 3).flatten(0, 1)                  # [V S, f P, W]
        used = used.repeat_interleave(tokens - 1, 2).flatten(0, 1)            # [V S, f P]
        chosen = medoids(patches, used, tokens - 1)                           # [V S, P]
        patches = patches.gather(1, chosen[..., None].expand(-1, -1, W)).unflatten(0, (V, S))
        return torch.cat([cls, patches], 2)


@torch.no_grad()
def medoids(x, used, K, iterations=100):
    """k-medoids++ in each row: x [N, n, W], used [N, n] (K at least) -> the K medoids' indices
    [N, K], ascending.

    KKZ start: the longest token, then each time the one farthest from those chosen. Then tokens go
    to the nearest medoid, and the one with the least sum of distances within a cluster becomes its
    medoid, until none changes."""
    x = at_least_float32(x)
    rows = torch.arange(len(x), device=x.device)
    d = torch.cdist(x, x, compute_mode='donot_use_mm_for_euclid_dist')        # [N, n, n]
    # A medoid is its own nearest, also beside an equal token.
    d = d - torch.eye(x.shape[1], dtype=d.dtype, device=d.device)
    chosen = [x.norm(dim=-1).masked_fill(~used, -1).argmax(1)]
    # The distance to the nearest chosen token; an unused token is never the farthest.
    nearest = torch.full_like(d[:, 0], float('inf')).masked_fill(~used, -2)
    for _ in range(K - 1):
        nearest = torch.minimum(nearest, d[rows, chosen[-1]])
        chosen.append(nearest.argmax(1))
    centres = torch.stack(chosen, 1)                                          # [N, K]
    clusters = torch.arange(K, device=x.device)
    for _ in range(iterations):
        own = d[rows[:, None], centres].argmin(1).masked_fill(~used, K)       # [N, n]; K: unused
        spread = (d * (own[:, :, None] == own[:, None])).sum(-1)
        members = own[:, None] == clusters[:, None]                           # [N, K, n]
        before = centres
        centres = spread[:, None].masked_fill(~members, float('inf')).argmin(-1)
        if torch.equal(before, centres):
            break
    return centres.sort(1).values
