"""The paper's two interaction modules: global (a function, it has no parameters) and local (shared queries).

Derived and worked out by hand in notebooks/02_model, sections 3 and 4."""
import torch
import torch.nn.functional as F
from torch import nn


def gram(frames):
    """G[v] = y[v] y[v]^T: frames [V, F, D] -> [V, F, F], once per video; in float32 at least, also under autocast."""
    with torch.autocast(frames.device.type, enabled=False):
        y = frames.to(torch.promote_types(frames.dtype, torch.float32))
        return torch.einsum('vfd,vgd->vfg', y, y)


def frame_weights(sentence, frames, mask, temperature=3.0):
    """a[t,v,f] = softmax_f( <e[t], y[v,f]> / tau ) over the valid frames.

    sentence [T, D], frames [V, F, D], mask [V, F]; returns [T, V, F]; an all-masked video gets zeros."""
    dots = torch.einsum('td,vfd->tvf', sentence, frames) / temperature
    dots = dots.masked_fill(~mask.bool(), float('-inf'))
    return dots.softmax(-1).nan_to_num(0.0)


def global_similarity(sentence, frames, mask, temperature=3.0, gram_matrix=None, chunk=100):
    """S_g[t,v] = cos(e[t], p[t,v]) with p[t,v] = sum_f a[t,v,f] y[v,f], in exact Gram form.

    With d[t,v,f] = <e[t], y[v,f]>:  <e, p> = sum_f a_f d_f  and  |p|^2 = a^T G a,  so that
    S_g = sum_f a_f d_f / ( |e| sqrt(a^T G a) ), and nothing of size T x V x D ever exists. The softmax's denominator
    cancels between the two, and so does any factor common to all frames: masking before or after the softmax is the same.

    sentence [T, D], frames [V, F, D], mask [V, F]; gram_matrix [V, F, F] if it is cached; `chunk` videos at a time bound
    the working memory. Returns [T, V]; a video without a valid frame scores 0 with every text."""
    if sentence.shape[-1] != frames.shape[-1]:
        raise ValueError(f'sentence features have width {sentence.shape[-1]}, frame features {frames.shape[-1]}: '
                         f'both must come from one model')
    mask = mask.bool()
    G = gram(frames) if gram_matrix is None else gram_matrix
    e = sentence / sentence.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    scale = sentence.norm(dim=-1).clamp_min(1e-12) / temperature                     # [T]
    columns = []
    for y, m, g in zip(frames.split(chunk), mask.split(chunk), G.split(chunk)):
        d = (y.flatten(0, 1) @ e.T).view(*y.shape[:2], -1)                           # [v, F, T] <ê, y>
        logits = (d * scale).masked_fill(~m[..., None], float('-inf'))
        top = logits.detach().amax(1, keepdim=True).clamp_min(torch.finfo(d.dtype).min)  # -inf - -inf is NaN
        a = (logits - top).exp()                                                     # [v, F, T], denominator left out
        dot = (a * d).sum(1)                                                         # [v, T]
        norm2 = (a * torch.bmm(g, a)).sum(1)                                         # [v, T] a^T G a
        columns.append(dot * norm2.clamp_min(1e-12).rsqrt())
    return torch.cat(columns).T


def mean_similarity(sentence, frames, mask):
    """CLIP4Clip's score: the cosine of the sentence and the mean of the L2-normalised valid frames. [T, V]"""
    y = F.normalize(frames, dim=-1) * mask[..., None]
    return F.normalize(sentence, dim=-1) @ F.normalize(y.sum(1), dim=-1).T


def local_similarity(text_concepts, video_concepts):
    """S_l[t,v] = 1/Q sum_q <c_t[t,q], c_v[v,q]>: one matrix product [T, Q D] x [Q D, V].

    text_concepts [T, Q, D], video_concepts [V, Q, D], L2-normalised; returns [T, V]."""
    if text_concepts.shape[1:] != video_concepts.shape[1:]:
        raise ValueError(f'text concepts {list(text_concepts.shape)} and video concepts {list(video_concepts.shape)} '
                         f'differ in queries or width: both must come from one model')
    return text_concepts.flatten(1) @ video_concepts.flatten(1).T / text_concepts.shape[1]


class LocalInteraction(nn.Module):
    """Q learnable queries read the tokens of one item through a decoder; both modalities share them unless told not to.

    Post-LN decoder layers as in torch (self-attention among queries, cross-attention to the tokens, FFN 2048, ReLU,
    dropout 0.1, no final norm), all starting as copies of one; queries start uniform in [0, 1). The paper's figure draws
    the cross-attention only."""

    def __init__(self, width, num_queries=8, layers=3, share_queries=True, share_decoder=True, mask_padding=True, heads=8):
        super().__init__()
        self.mask_padding = mask_padding
        self.video_queries = nn.Parameter(torch.rand(num_queries, width))
        self.text_queries = self.video_queries if share_queries else nn.Parameter(torch.rand(num_queries, width))
        layer = nn.TransformerDecoderLayer(width, heads, dim_feedforward=2048, dropout=0.1, batch_first=True)
        self.video_decoder = nn.TransformerDecoder(layer, layers)
        if share_decoder:
            self.text_decoder = self.video_decoder
        else:  # a draw of its own, as the released code's
            self.text_decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(
                width, heads, dim_feedforward=2048, dropout=0.1, batch_first=True), layers)

    def text_concepts(self, words, mask):
        """words [T, L, D], mask [T, L] -> c_t [T, Q, D], L2-normalised"""
        return self._concepts(self.text_decoder, self.text_queries, words, mask)

    def video_concepts(self, frames, mask):
        """frames [V, F, D], mask [V, F] -> c_v [V, Q, D], L2-normalised"""
        return self._concepts(self.video_decoder, self.video_queries, frames, mask)

    def _concepts(self, decoder, queries, tokens, mask):
        mask = mask.bool()
        some = mask.any(1, keepdim=True)
        padding = ~(mask | ~some) if self.mask_padding else None  # an empty item attends everywhere, then becomes zero
        queries = queries.expand(len(tokens), -1, -1)
        concepts = decoder(queries, tokens, memory_key_padding_mask=padding)
        return F.normalize(concepts, dim=-1) * some[..., None]

    @torch.no_grad()
    def attention(self, tokens, mask, side='video'):
        """What each query attends to in the last decoder layer: [N, Q, tokens], averaged over heads (for pictures)."""
        decoder, queries = ((self.video_decoder, self.video_queries) if side == 'video'
                            else (self.text_decoder, self.text_queries))
        last, seen = decoder.layers[-1].multihead_attn, {}

        def keep(module, args, kwargs):
            seen['query'] = args[0]
        hook = last.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            self._concepts(decoder, queries, tokens, mask)
        finally:
            hook.remove()
        padding = ~mask.bool() if self.mask_padding else None
        return last(seen['query'], tokens, tokens, key_padding_mask=padding, need_weights=True)[1]
