"""Heads that end in one cosine: one vector a video, one a text (LAFF: eight of each). What is new lies before the head."""
import torch
from torch import nn

from ..encoders import normalised
from ..interaction import mean_similarity
from .base import Cost, Head, Kept, hide, masked_softmax, small_weights, temporal_cost


class MeanPooling(Head):
    """CLIP4Clip meanP: S = <ê, norm(mean_f x̂_f)> over the valid frames. No parameters.

    Frames that cancel to a mean of length 0 score 0."""
    tile = 4096

    def keep_texts(self, sentence, words, mask):
        return Kept(unit=normalised(sentence), raw_sentence=sentence)

    def keep_videos(self, frames, mask):
        y = hide(self.in_time(frames, mask), mask)
        return Kept(unit=normalised(normalised(y).sum(1)), raw_frames=y, raw_mask=mask)  # sum or mean: the norm forgets it

    def score(self, t, v):
        return t.unit @ v.unit.T

    def score_direct(self, t, v):
        return mean_similarity(t.raw_sentence, v.raw_frames, v.raw_mask)

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8):
        return Cost(pair=D, coded=D, gram=D, direct=D, video_bytes=4 * D, text_bytes=4 * D)


class TemporalMean(MeanPooling):
    """CLIP4Clip seqTransf: a temporal transformer over the frames, then meanP.

    Its evaluation runs the transformer again for every block of 16 texts."""
    has_time = True

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8):
        once = temporal_cost(F, D)
        return Cost(pair=D, coded=D, gram=D, direct=D, video=once, video_bytes=4 * D, text_bytes=4 * D,
                    repeated=-(-T // 16) * V * once)


class CenterCLIP(MeanPooling):
    """CLIP4Clip meanP on segments. The idea is in the image tower, `towers.Segments`: after block 6 the patch tokens of four
    frames are clustered and the 49 medoids go on as one segment. It gives frames [V, 3, D] and their mask."""


class PromptSwitch(MeanPooling):
    """The mean of the normalised frames, padded ones included unless mask_padding. The idea is in the image tower,
    `towers.PromptCube`: prompts that swap frame and prompt axis in every block. The captioning loss beside it is left out."""

    def keep_videos(self, frames, mask):
        return super().keep_videos(frames, self.seen(mask))


class ClipViP(MeanPooling):
    """One cosine with the one video vector of the image tower, `towers.Proxies`: frames [V, 1, D]. There four proxy tokens
    attend to the patches of all frames. Given several frames, it takes their mean as meanP does."""


class TeachCLIP(Head):
    """u = norm( sum_f softmax_f(g_f / 0.1) ŷ_f ), g = W2 ReLU(W1 y + b1) + b2; S = <ê, u>. The student alone: its
    distillation from frozen teachers needs those and is out of scope, so that `loss` is the contrastive one.

    The released softmax over frames has no mask."""
    has_time, tile = True, 4096

    def __init__(self, width=512, **shared):
        super().__init__(width, **shared)
        self.importance = small_weights(nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)))

    def keep_texts(self, sentence, words, mask):
        return Kept(unit=normalised(sentence))

    def keep_videos(self, frames, mask):
        y, seen = self.in_time(frames, mask), self.seen(mask)
        a = masked_softmax(self.importance(y).squeeze(-1) / 0.1, seen)               # [V, F]
        u = normalised((a[..., None] * normalised(y)).sum(1))
        return Kept(unit=u, raw_frames=normalised(y), raw_weights=a)

    def score(self, t, v):
        return t.unit @ v.unit.T

    def score_direct(self, t, v):
        u = torch.einsum('vf,vfd->vd', v.raw_weights, v.raw_frames)
        return torch.einsum('td,vd->tv', t.unit, normalised(u))

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8):
        return Cost(pair=D, coded=D, gram=D, direct=D, video_bytes=4 * D, text_bytes=4 * D,
                    video=temporal_cost(F, D) + F * (D * D + D))


class Fusion(nn.Module):
    """LAFF on one side: K features of an item -> 8 unit vectors, each an attention over the features."""

    def __init__(self, width, others, spaces):
        super().__init__()
        self.clip_norm = nn.BatchNorm1d(spaces * width)
        self.others = nn.ModuleList(nn.Sequential(nn.Linear(n, spaces * width), nn.Tanh(), nn.Dropout(0.2)) for n in others)
        self.attend = nn.ModuleList(nn.Linear(width, 1) for _ in range(spaces))

    def forward(self, clip, features):
        """clip [N, D], features: a list of [N, n_k] -> fused [N, H, D], not normalised"""
        if len(features) != len(self.others):
            raise ValueError(f'{len(features)} features besides CLIP, but LAFF was built for {len(self.others)}')
        H, D = len(self.attend), clip.shape[1]
        z = [self.clip_norm(clip.repeat(1, H)), *(layer(x.to(clip)) for layer, x in zip(self.others, features))]
        z = torch.stack(z, 1).unflatten(-1, (H, D))                                  # [N, K, H, D]
        a = torch.cat([score(z[:, :, h]) for h, score in enumerate(self.attend)], -1).softmax(1)   # [N, K, H]
        return torch.einsum('nkh,nkhd->nhd', a, z)


class LAFF(Head):
    """S = 1/8 sum_h cos(g^t_h, g^v_h): in each of eight spaces an attention fuses the features of an item.

    LAFF fuses frozen features of many networks (words, word vectors, motion); CLIP's is one of them. `text_features`,
    `video_features`: the widths of the others, given at encoding as `features` (a list of [N, width]). With CLIP's alone
    there is nothing to fuse. CLIP's frames enter as their mean over the valid ones."""
    tile = 4096

    def __init__(self, width=512, text_features=(), video_features=(), spaces=8, **shared):
        super().__init__(width, **shared)
        self.text, self.video = (Fusion(width, others, spaces) for others in (text_features, video_features))

    def keep_texts(self, sentence, words, mask, features=()):
        fused = self.text(sentence, features)
        return Kept(unit=normalised(fused), raw_fused=fused)

    def keep_videos(self, frames, mask, features=()):
        mean = hide(frames, mask).sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
        fused = self.video(mean, features) * mask.any(1)[:, None, None]
        return Kept(unit=normalised(fused), raw_fused=fused)

    def score(self, t, v):
        return t.unit.flatten(1) @ v.unit.flatten(1).T / t.unit.shape[1]

    def score_direct(self, t, v):
        spaces = zip(t.raw_fused.unbind(1), v.raw_fused.unbind(1))
        return torch.stack([normalised(g) @ normalised(h).T for g, h in spaces]).mean(0)

    def loss(self, texts, videos, scale, video_ids=None):
        """Triplets in each space, summed: margin 0.2 to the hardest other video of each text. `scale` is not used."""
        S = torch.einsum('thd,vhd->htv', texts.unit, videos.unit)                    # [H, B, B]
        ids = torch.arange(S.shape[1], device=S.device) if video_ids is None else video_ids
        others = S.masked_fill(ids[:, None] == ids[None, :], float('-inf'))
        own = S.diagonal(dim1=1, dim2=2)                                             # [H, B]
        return (0.2 + others.amax(2) - own).clamp_min(0).sum()

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8, text_features=(), video_features=(), H=8):
        def once(widths):  # layers to 8 D, then scores and weighted sum over the features
            return H * D * sum(widths), 2 * (1 + len(widths)) * H * D
        (text, text_sums), (video, video_sums) = once(text_features), once(video_features)
        return Cost(pair=H * D, coded=H * D, gram=H * D, direct=H * D, video_bytes=4 * H * D, text_bytes=4 * H * D,
                    video=video + video_sums, text=text + text_sums)
