"""The paper's two interaction modules: global (it has no parameters) and local (learnable queries),
as printed, then in the fast form; tests hold the two together. By hand in notebooks/02_model."""
import torch
import torch.nn.functional as F
from torch import nn

CHUNK = 2 ** 21  # numbers in a working tensor of global_similarity: smaller ones gain nothing, and
#                  threads meet more often
HIDDEN = -1e30   # added to a padded frame's logit; finite, for its weight 0 times inf would be NaN


# The global module, as printed

def frame_weights(sentence, frames, mask, temperature=3.0):
    """a[t,v,f] = softmax_f( <e[t], y[v,f]> / tau ) over the valid frames.

    sentence e [T, D], frames y [V, F, D], mask [V, F]; returns [T, V, F]. A video without a valid
    frame gets zeros."""
    logits = torch.einsum('td,vfd->tvf', sentence, frames) / temperature
    logits = logits.masked_fill(~mask.bool(), float('-inf'))
    return logits.softmax(-1).nan_to_num(0.0)


def global_similarity_printed(sentence, frames, mask, temperature=3.0, chunk=50):
    """S_g[t,v] = cos(e[t], p[t,v]) with p[t,v] = sum_f a[t,v,f] y[v,f], term by term.

    The text weighs the frames, their weighted sum is the video as this text sees it. Needs a
    vector of width D for each pair, so `chunk` videos are taken at a time: for comparison, and for
    small numbers. Arguments and result as `global_similarity`."""
    e, columns = F.normalize(sentence, dim=-1), []                          # [T, D]
    for y, m in zip(frames.split(chunk), mask.split(chunk)):
        a = frame_weights(sentence, y, m, temperature)                      # [T, v, F]
        p = torch.einsum('tvf,vfd->tvd', a, y)                              # [T, v, D]
        columns.append(torch.einsum('td,tvd->tv', e, F.normalize(p, dim=-1)))
    return torch.cat(columns, 1)


# The global module, exact and cheap

def global_similarity(sentence: torch.Tensor, frames: torch.Tensor, mask: torch.Tensor,
                      temperature: float = 3.0, gram_matrix: torch.Tensor | None = None,
                      chunk: int | None = None) -> torch.Tensor:
    """S_g[t,v] as `global_similarity_printed`, in exact Gram form.

    With d[t,v,f] = <e[t], y[v,f]> and G[v] = y[v] y[v]^T:  <e, p> = sum_f a_f d_f  and
    |p|^2 = a^T G a,  so that  S_g = sum_f a_f d_f / ( |e| sqrt(a^T G a) ),  and nothing of size
    T x V x D ever exists.

    sentence e [T, D], frames y [V, F, D], mask [V, F]; gram_matrix [V, F, F] where it is cached;
    `chunk` videos at a time bound the working memory (about 30 MB unless told). Returns [T, V], in
    float32 at least: half precision is widened first, and what overflowed in its encoder stays
    infinite. A video without a valid frame scores 0 with every text; frames that cancel to less
    than sqrt(eps) of the shortest one count as no direction: towards 0. Two widths: ValueError."""
    shapes = [list(x.shape) for x in (sentence, frames, mask)]
    if (list(map(len, shapes)) != [2, 3, 2] or shapes[1][:2] != shapes[2]
            or shapes[0][1] != shapes[1][2] or not shapes[1][1]):
        raise ValueError(f'one model\'s [T, D], [V, F, D] and [V, F] are wanted, not {shapes}')
    if not 0 < temperature < float('inf') or (chunk or 1) < 1:
        raise ValueError(f'temperature and chunk are positive, not {temperature} and {chunk}')
    dtype = torch.promote_types(torch.promote_types(sentence.dtype, frames.dtype), torch.float32)
    chunk = chunk or max(1, CHUNK // max(1, frames.shape[1] * max(sentence.shape)))
    mask = mask.bool()
    G = (gram(frames) if gram_matrix is None else gram_matrix).to(dtype)
    # The logits are <e / tau, y>, and dividing e leaves the rest as it is: with e' = e / tau both
    # sum_f a_f <e', y_f> and |e'| are 1 / tau of what they were, so that the cosine is the same.
    e = sentence.to(dtype) / temperature
    columns = [_projection(e, y.to(dtype), m, g) for y, m, g in
               zip(frames.split(chunk), mask.split(chunk), G.split(chunk))]
    return torch.cat(columns).div_(e.norm(dim=-1).clamp_min(1e-12)).T


def _projection(e, y, mask, G):
    """<e, p> / |p| = sum_f a_f d_f / sqrt(a^T G a) for texts e [T, D], videos y [V, F, D]: [V, T].

    Texts lie innermost, so that softmax and sums over frames add whole rows. Masking is added to
    the logits before the softmax; the released code masks after it and does not renormalise, which
    scales p by a number: the cosine is the same. In-place products spare memory traffic; where
    gradients are needed autograd keeps what they overwrite."""
    hidden = torch.zeros_like(mask, dtype=y.dtype).masked_fill_(~mask, HIDDEN).view(-1, 1)
    d = torch.addmm(hidden, y.flatten(0, 1), e.T).view(*y.shape[:2], len(e))  # [V, F, T]
    a = d.softmax(1)                                                        # [V, F, T]
    norm2 = torch.bmm(G, a).mul_(a).sum(1)                                  # a^T G a, [V, T]
    return d.mul_(a).sum(1) * torch.maximum(norm2, norm_floor(G, mask)).rsqrt()


def gram(frames):
    """G[v] = y[v] y[v]^T: frames [V, F, D] -> [V, F, F], once a video.

    In float32 at least, also under autocast."""
    with torch.autocast(frames.device.type, enabled=False):
        y = frames.to(torch.promote_types(frames.dtype, torch.float32))
        return torch.einsum('vfd,vgd->vfg', y, y)


def norm_floor(G, mask):
    """The smallest |p|^2 that the Gram form resolves: eps min_f |y_f|^2 over the valid frames.

    G [V, F, F], mask [V, F] -> [V, 1]. Infinite for a video without a valid frame, so that its
    scores become 0."""
    lengths = G.detach().diagonal(dim1=1, dim2=2)                           # |y_f|^2, [V, F]
    shortest = lengths.masked_fill(~mask, float('inf')).amin(1, keepdim=True)
    return (torch.finfo(G.dtype).eps * shortest).clamp_min(1e-24)


def mean_similarity(sentence, frames, mask):
    """What the global module is held against, CLIP4Clip's score: the cosine of the sentence [T, D]
    and the mean of the L2-normalised valid frames [V, F, D]. Returns [T, V]."""
    y = F.normalize(frames, dim=-1) * mask[..., None]
    return F.normalize(sentence, dim=-1) @ F.normalize(y.sum(1), dim=-1).T


# The local module

def local_similarity_printed(text_concepts, video_concepts):
    """S_l[t,v] = 1/Q sum_q <c_t[t,q], c_v[v,q]>. Arguments and result as `local_similarity`."""
    cosines = torch.einsum('tqd,vqd->tvq', text_concepts, video_concepts)   # [T, V, Q]
    return cosines.mean(-1)


def local_similarity(text_concepts: torch.Tensor, video_concepts: torch.Tensor) -> torch.Tensor:
    """S_l as `local_similarity_printed`, as one matrix product [T, Q D] x [Q D, V].

    text_concepts [T, Q, D], video_concepts [V, Q, D], L2-normalised; returns [T, V] in float32 at
    least. Concepts that differ in Q or D raise ValueError."""
    if text_concepts.shape[1:] != video_concepts.shape[1:]:
        raise ValueError(f'text concepts {list(text_concepts.shape)} and video concepts '
                         f'{list(video_concepts.shape)} differ in queries or width: both must come '
                         f'from one model')
    dtype = torch.promote_types(text_concepts.dtype, video_concepts.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    c_t, c_v = text_concepts.flatten(1).to(dtype), video_concepts.flatten(1).to(dtype)
    S = c_v @ c_t.T                                    # [V, T], laid out as global_similarity's
    return S.div_(text_concepts.shape[1]).T


class LocalInteraction(nn.Module):
    """Q learnable queries read the tokens of one item through a decoder; what comes out is
    normalised: its concepts c [Q, D]. Both modalities share queries and decoder unless told not to.

    Post-LN decoder layers as torch has them (self-attention among queries, cross-attention to the
    tokens, FFN 2048, ReLU, dropout 0.1, no final norm), all layers starting as copies of one, and
    queries uniform in [0, 1). The paper's figure draws the cross-attention only.
    mask_padding=False attends to padded words and frames, as the released code does."""

    def __init__(self, width, num_queries=8, layers=3, share_queries=True, share_decoder=True,
                 mask_padding=True, heads=8):
        super().__init__()
        if min(width, num_queries, layers) < 1:
            raise ValueError(f'a local module of width {width}, {num_queries} queries and {layers} '
                             f'layers: all must be 1 or more')
        self.mask_padding = mask_padding
        self.video_queries = nn.Parameter(torch.rand(num_queries, width))
        self.text_queries = self.video_queries
        if not share_queries:
            self.text_queries = nn.Parameter(torch.rand(num_queries, width))
        self.video_decoder = _decoder(width, layers, heads)
        self.text_decoder = self.video_decoder
        if not share_decoder:  # a draw of its own, as the released code's
            self.text_decoder = _decoder(width, layers, heads)

    def text_concepts(self, words, mask):
        """words [T, L, D], mask [T, L] -> c_t [T, Q, D], L2-normalised"""
        return self._concepts(self.text_decoder, self.text_queries, words, mask)

    def video_concepts(self, frames, mask):
        """frames [V, F, D], mask [V, F] -> c_v [V, Q, D], L2-normalised"""
        return self._concepts(self.video_decoder, self.video_queries, frames, mask)

    def _concepts(self, decoder, queries, tokens, mask):
        mask = mask.bool()
        not_empty = mask.any(1, keepdim=True)                               # [N, 1]
        padding = None
        if self.mask_padding:  # an empty item attends everywhere, then becomes zero
            padding = ~(mask | ~not_empty)
        if decoder.training:  # dropout draws anew for every item
            concepts = decoder(queries.expand(len(tokens), -1, -1), tokens,
                               memory_key_padding_mask=padding)             # [N, Q, D]
        else:
            concepts = self._first_layer(decoder.layers[0], queries, tokens, padding)
            for layer in decoder.layers[1:]:
                concepts = layer(concepts, tokens, memory_key_padding_mask=padding)
        return F.normalize(concepts, dim=-1) * not_empty[..., None]

    @staticmethod
    def _first_layer(layer, queries, tokens, padding):
        """The first layer without dropout: its self-attention sees the queries alone, so that one
        pass serves every item."""
        x = queries[None]                                                   # [1, Q, D]
        x = layer.norm1(x + layer.self_attn(x, x, x, need_weights=False)[0])
        x = x.expand(len(tokens), -1, -1)                                   # [N, Q, D]
        x = layer.norm2(x + layer.multihead_attn(x, tokens, tokens, key_padding_mask=padding,
                                                 need_weights=False)[0])
        return layer.norm3(x + layer.linear2(layer.activation(layer.linear1(x))))


def _decoder(width, layers, heads):
    if width % heads:
        raise ValueError(f'a width of {width} does not split into the {heads} heads of a decoder')
    layer = nn.TransformerDecoderLayer(width, heads, dim_feedforward=2048, dropout=0.1,
                                       batch_first=True)
    return nn.TransformerDecoder(layer, layers)
