"""Heads in which the text weighs the frames: TS2-Net, DiCoSA, GLSCL."""
import torch
from torch import nn

from ..encoders import normalised
from ..interaction import LocalInteraction, frame_weights, global_similarity, gram, local_similarity
from ..losses import inter_consistency, intra_diversity
from .base import Cost, Head, Kept, hide, masked_softmax, small_weights, temporal_cost


class PerturbedTopK(torch.autograd.Function):
    """Soft indicators of the k largest of n scores: the mean over noisy copies of their hard top-k, in index order.

    scores [N, n], noise [samples, n] -> [N, k, n]; the gradient is the perturbed optimiser's, E[one-hot x noise] / sigma."""

    @staticmethod
    def forward(ctx, scores, noise, k, sigma):
        top = (scores[:, None] + sigma * noise).topk(k, -1).indices.sort(-1).values  # [N, samples, k]
        hits = nn.functional.one_hot(top, scores.shape[-1]).to(scores.dtype)         # [N, samples, k, n]
        ctx.save_for_backward(hits, noise)
        ctx.sigma = sigma
        return hits.mean(1)

    @staticmethod
    def backward(ctx, grad):
        hits, noise = ctx.saved_tensors
        along = torch.einsum('nski,nki->ns', hits, grad)
        return along @ noise / (len(noise) * ctx.sigma), None, None, None


class TokenSelection(nn.Module):
    """TS2-Net: the class token of each frame and the 3 patches that a small network finds telling.

    The released code draws its noise at test time too, so that its scores vary from run to run; here the draw is fixed in
    eval mode and the same for all frames."""

    def __init__(self, width, k=3, samples=500, sigma=0.05):
        super().__init__()
        self.k, self.samples, self.sigma = k, samples, sigma
        half = width // 2
        self.look = small_weights(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, half, bias=False), nn.GELU()))
        self.rate = small_weights(nn.Sequential(nn.Linear(2 * half, half, bias=False), nn.GELU(), nn.Linear(half, 1, bias=False)))

    def forward(self, frames, patches):
        """frames [V, F, D], patches [V, F, P, D] -> [V, F, 1 + k, D]"""
        g = self.look(torch.cat([frames[:, :, None], patches], 2))                   # [V, F, 1 + P, D / 2]
        scores = self.rate(torch.cat([g, g[:, :, :1].expand_as(g)], -1)).squeeze(-1).tanh()[:, :, 1:]
        draw = None if self.training else torch.Generator().manual_seed(0)
        noise = torch.randn(self.samples, scores.shape[-1], generator=draw).to(scores)
        chosen = PerturbedTopK.apply(scores.flatten(0, 1), noise, self.k, self.sigma).unflatten(0, scores.shape[:2])
        return torch.cat([frames[:, :, None], chosen @ patches], 2)


class TS2Net(Head):
    """q_f = <ê, ŷ_f>,  n = norm_f(q m),  a = softmax_f(4 n),  S = sum_f a_f q_f over the valid frames.

    y: class tokens after a temporal transformer over class tokens and selected patches (`patches` [V, F, P, D]: the image
    tower's other tokens; without them there is nothing to select and the F class tokens go in alone). Token shift lies in
    the image tower, `towers.TokenShift`, which gives both. As released, with patches the mask is tiled over frames instead of
    repeated for each token, so that short clips are masked in the wrong places; mask_padding puts it right. Its evaluation
    encodes again per 8 texts."""
    has_time = True

    def __init__(self, width=512, **shared):
        super().__init__(width, **shared)
        self.select = TokenSelection(width)

    def keep_texts(self, sentence, words, mask):
        return Kept(unit=normalised(sentence), raw_sentence=sentence)

    def keep_videos(self, frames, mask, patches=None):
        frames = hide(frames, mask)
        if patches is None:
            y = self.temporal(frames, mask) if self.temporal else frames
        else:
            tokens = self.select(frames, hide(patches.to(frames).flatten(2), mask).view(patches.shape))
            k = tokens.shape[2]
            spread = mask.repeat_interleave(k, 1) if self.mask_padding else mask.repeat(1, k)   # [V, k F]
            tokens = tokens.flatten(1, 2)
            y = (self.temporal(tokens, spread) if self.temporal else tokens)[:, ::k]
            mask = spread[:, ::k]
        return Kept(unit=normalised(y), mask=mask, raw_frames=y)

    def score(self, t, v):
        q = (t.unit @ v.unit.flatten(0, 1).T).view(len(t), *v.mask.shape)            # [T, V, F]
        a = masked_softmax(4 * normalised(q * v.mask), v.mask)
        return (a * q).sum(-1)

    def score_direct(self, t, v):
        q = torch.einsum('td,vfd->tvf', normalised(t.raw_sentence), normalised(v.raw_frames))
        n = torch.where(v.mask, q, 0.0)
        n = n / (n ** 2).sum(-1, keepdim=True).sqrt().clamp_min(1e-12)
        return torch.einsum('tvf,tvf->tv', (4 * n).masked_fill(~v.mask, -1e18).softmax(-1), q)

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8, P=49, k=3):
        select = F * ((1 + P) * (2 * D * (D // 2) + D // 2) + k * P * D)
        once = temporal_cost((1 + k) * F, D)
        pair = F * D + F
        return Cost(pair=pair, coded=pair, gram=pair, direct=pair, gram_sums=F, direct_sums=0, video=once + select,
                    video_bytes=4 * F * D + F, text_bytes=4 * D, repeated=-(-T // 8) * V * once)


class DiCoSA(Head):
    """p = sum_f a_f y_f with a = softmax_f(<e, y_f> / 3), masked afterwards and not renormalised (mask_padding: before);
    in each of C = 8 concepts of width d:  S = sum_c λ_c cos(e_c, p_c),  λ_c = W2 ReLU(W1 [e_c; p_c] + b1) + b2.

    Gram form: W1 is split into its text and video half and the latter moved through the sum over frames; |p_c|^2 = a^T G_c a.
    Frames that cancel cost digits: |p_c|^2 is as exact as float32 rounds the frames' squared lengths, so that at a thousandth
    of their length little is left of it; the cosine is held within [-1, 1]."""
    has_time, tile = True, 32

    def __init__(self, width=512, concepts=8, temperature=3.0, **shared):
        super().__init__(width, **shared)
        if width % concepts:
            raise ValueError(f'width {width} does not split into {concepts} concepts')
        self.concepts, self.temperature, d = concepts, temperature, width // concepts
        self.weigh = small_weights(nn.Sequential(nn.Linear(2 * d, 4 * d), nn.ReLU(), nn.Linear(4 * d, 1)))

    def split(self, x):
        """[..., D] -> [..., C, d]"""
        return x.unflatten(-1, (self.concepts, -1))

    def keep_texts(self, sentence, words, mask):
        first, d = self.weigh[0], self.width // self.concepts
        return Kept(sentence=sentence, hidden=nn.functional.linear(self.split(sentence), first.weight[:, :d], first.bias))

    def keep_videos(self, frames, mask):
        y, d = self.in_time(frames, mask), self.width // self.concepts
        parts = self.split(y)                                                        # [V, F, C, d]
        hidden = parts @ self.weigh[0].weight[:, d:].T                               # [V, F, C, 4d]
        return Kept(frames=y, mask=mask, hidden=hidden, gram=torch.einsum('vfcd,vgcd->vcfg', parts, parts))

    def _weights(self, logits, mask):
        """logits [V, T, F], mask [V, F] -> a [V, T, F]"""
        return masked_softmax(logits / self.temperature, self.seen(mask)[:, None]) * mask[:, None]

    def score(self, t, v):
        e, y = self.split(t.sentence), self.split(v.frames)
        dots = torch.einsum('tcd,vfcd->vctf', e, y)                                  # <e_c, y_fc>
        a = self._weights(dots.sum(1), v.mask)                                       # [V, T, F]
        dot = (a[:, None] * dots).sum(-1)                                            # [V, C, T]
        norm2 = ((a @ v.gram.transpose(1, 2).flatten(2)).unflatten(-1, (self.concepts, -1)) * a[:, :, None]).sum(-1)
        size = e.norm(dim=-1) * norm2.clamp_min(1e-24).sqrt()                        # [V, T, C]
        cosine = (dot.transpose(1, 2) / size.clamp_min(1e-12)).clamp(-1, 1)
        hidden = t.hidden + (a @ v.hidden.flatten(2)).unflatten(-1, (self.concepts, -1))  # [V, T, C, 4d]
        weight = self.weigh[2](hidden.relu()).squeeze(-1)
        return (weight * cosine).sum(-1).T

    def _pooled_score(self, e, p):
        """sum_c λ_c cos(e_c, p_c) for e [..., D] and p [..., D] alike in shape"""
        e, p = self.split(e), self.split(p)
        weight = self.weigh(torch.cat([e, p], -1)).squeeze(-1)
        return (weight * torch.einsum('...d,...d->...', normalised(e), normalised(p))).sum(-1)

    def score_direct(self, t, v):
        a = self._weights(torch.einsum('td,vfd->vtf', t.sentence, v.frames), v.mask)
        p = torch.einsum('vtf,vfd->vtd', a, v.frames)
        return self._pooled_score(t.sentence.expand_as(p), p).T

    def loss(self, texts, videos, scale, video_ids=None):
        """Contrastive, plus decorrelation of the concepts of matched pairs (weights 0.01 on the diagonal, 0.005 off it)."""
        e, y = texts.sentence, videos.frames
        a = self._weights(torch.einsum('bd,bfd->bf', e, y)[:, None], videos.mask)
        e, p = self.split(e), self.split((a @ y).squeeze(1))                         # [B, C, d]
        e, p = ((x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True).clamp_min(1e-6) for x in (e, p))
        C = torch.einsum('bid,bjd->ij', e, p) / len(e) / self.max_words              # by the text length, as released
        off = (C ** 2).sum() - (C.diagonal() ** 2).sum()
        return super().loss(texts, videos, scale, video_ids) + 0.01 * ((C.diagonal() - 1) ** 2).sum() + 0.005 * off

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8, C=8):
        d = D // C
        tail = C * 4 * d + C                                                         # W2; the sum over concepts
        direct = 2 * F * D + C * 2 * d * 4 * d + D + tail
        return Cost(pair=2 * F * D + F * C * 4 * d + D + tail, coded=direct, direct=direct, direct_sums=C,
                    gram=F * D + F * C * 4 * d + C * F + C * F * F + tail, gram_sums=C * F + C,
                    video=temporal_cost(F, D) + F * C * d * 4 * d, text=C * d * 4 * d, gram_video=F * F * D,
                    video_bytes=4 * F * D + F + 16 * F * D + 4 * C * F * F, text_bytes=4 * D + 16 * D)


def global_direct(sentence, frames, mask, temperature=3.0, chunk=50):
    """S_g term by term, a pooled vector p[t,v] for each pair: [T, V]; for comparison with the Gram form."""
    e, columns = normalised(sentence), []
    for y, m in zip(frames.split(chunk), mask.split(chunk)):
        p = torch.einsum('tvf,vfd->tvd', frame_weights(sentence, y, m, temperature), y)
        columns.append(torch.einsum('td,tvd->tv', e, normalised(p)))
    return torch.cat(columns, 1)


class GLSCLHead(Head):
    """S = S_g + λ S_l, both from glscl.interaction: the same functions and module as the model's.

    The released code attends to padding in the query decoder; the global part is the same masked before or after. Its
    evaluation decodes the queries again in each block of 16 x 16, and runs a network on each pair that nothing reads."""
    has_time, reads_words, tile = True, True, 1000

    def __init__(self, width=512, num_queries=8, decoder_layers=3, temperature=3.0, local_weight=0.5, **shared):
        super().__init__(width, **shared)
        self.temperature, self.local_weight = temperature, local_weight
        self.local = LocalInteraction(width, num_queries, decoder_layers, mask_padding=self.mask_padding)

    def keep_texts(self, sentence, words, mask):
        return Kept(sentence=sentence, concepts=self.local.text_concepts(words, mask))

    def keep_videos(self, frames, mask):
        y = self.in_time(frames, mask)
        return Kept(frames=y, mask=mask, gram=gram(y), concepts=self.local.video_concepts(y, mask))

    def score(self, t, v):
        S = global_similarity(t.sentence, v.frames, v.mask, self.temperature, v.gram)
        return S + self.local_weight * local_similarity(t.concepts, v.concepts)

    def score_direct(self, t, v):
        S_l = torch.einsum('tqd,vqd->qtv', t.concepts, v.concepts).mean(0)
        return global_direct(t.sentence, v.frames, v.mask, self.temperature) + self.local_weight * S_l

    def loss(self, texts, videos, scale, video_ids=None):
        """Contrastive, inter-consistency and intra-diversity, as `GLSCL.losses` with the default weights."""
        consistency = inter_consistency(videos.concepts, texts.concepts)
        diversity = intra_diversity(videos.concepts) + intra_diversity(texts.concepts)
        return super().loss(texts, videos, scale, video_ids) + consistency + diversity

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8):
        text, video, direct = concept_cost(L, D, Q), concept_cost(F, D, Q), 2 * F * D + D + Q * D
        return Cost(pair=direct, direct=direct, coded=direct + 2 * D * 4 * D + 4 * D,
                    gram=F * D + F * F + F + Q * D, gram_sums=F, gram_video=F * F * D,
                    video=temporal_cost(F, D) + video, text=text,
                    video_bytes=4 * (F + Q) * D + 4 * F * F + F, text_bytes=4 * (1 + Q) * D,
                    repeated=-(-V // 16) * T * text + -(-T // 16) * V * video)


def concept_cost(tokens, D=512, Q=8, layers=3, hidden=2048):
    """The query decoder for one item of so many tokens: self-attention, cross-attention, feed-forward."""
    attend_self = 4 * Q * D * D + 2 * Q * Q * D
    attend_tokens = 2 * Q * D * D + 2 * tokens * D * D + 2 * Q * tokens * D
    return layers * (attend_self + attend_tokens + 2 * Q * D * hidden)
