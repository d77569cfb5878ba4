"""Other forms of the local module than the paper's, whose concepts fall into one: why they do, and
what these forms are worth, is told in notebooks/03_losses."""
import math

import torch
import torch.nn.functional as F
from torch import nn

from .interaction import LocalInteraction

HEADS = 8


class LocalForm(LocalInteraction):
    """A LocalInteraction whose queries start at right angles, as long as the paper's.

    form: "decoder" (the paper's, with its start), "fresh" (the decoder's layers drawn each for
    itself), "cross" (one cross-attention in place of the decoder, and what it reads is the
    concept: no query is added to it), "slots" (the same, and the queries compete for the tokens).
    centred: tokens less their mean, `Centre`."""

    def __init__(self, width, num_queries=8, layers=3, share_queries=True, share_decoder=True,
                 mask_padding=True, form='slots', centred=False):
        super().__init__(width, num_queries, layers, share_queries, share_decoder, mask_padding,
                         HEADS)
        if form != 'decoder':
            for queries in {self.video_queries, self.text_queries}:
                nn.init.orthogonal_(queries, math.sqrt(width / 3))  # the mean length of U[0,1)^D
        if form == 'fresh':
            for decoder in {self.video_decoder, self.text_decoder}:
                for layer in decoder.layers[1:]:
                    layer.apply(_draw_anew)
        if form in ('cross', 'slots'):
            self.video_decoder = CrossAttention(width, compete=form == 'slots')
            self.text_decoder = self.video_decoder
            if not share_decoder:
                self.text_decoder = CrossAttention(width, compete=form == 'slots')
        self.video_centre = Centre(width) if centred else None
        self.text_centre = Centre(width) if centred else None

    def text_concepts(self, words, mask):
        """words [T, L, D], mask [T, L] -> c_t [T, Q, D], L2-normalised"""
        words = self.text_centre(words, mask) if self.text_centre else words
        return super().text_concepts(words, mask)

    def video_concepts(self, frames, mask):
        """frames [V, F, D], mask [V, F] -> c_v [V, Q, D], L2-normalised"""
        frames = self.video_centre(frames, mask) if self.video_centre else frames
        return super().video_concepts(frames, mask)

    def _concepts(self, decoder, queries, tokens, mask):
        if not isinstance(decoder, CrossAttention):
            return super()._concepts(decoder, queries, tokens, mask)
        mask = mask.bool()
        not_empty = mask.any(1, keepdim=True)                               # [N, 1]
        seen = mask | ~not_empty if self.mask_padding else torch.ones_like(mask)
        return F.normalize(decoder(queries, tokens, seen), dim=-1) * not_empty[..., None]


def _draw_anew(module):
    if isinstance(module, nn.MultiheadAttention):
        module._reset_parameters()
    elif isinstance(module, nn.Linear):
        module.reset_parameters()


class CrossAttention(nn.Module):
    """What each query reads in the tokens: queries [Q, D], tokens [N, n, D], mask [N, n] ->
    [N, Q, D].

    compete: each token shares its attention among the queries (softmax over Q), and each query
    takes the mean of the tokens by its shares, as in slot attention (Locatello et al. 2020)."""

    def __init__(self, width, compete=False):
        super().__init__()
        self.compete = compete
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def weights(self, queries, tokens, mask):
        """The attention, [N, heads, Q, n]; over the tokens of an item it sums to 1."""
        q = self.query(queries).unflatten(-1, (HEADS, -1))                  # [Q, heads, d]
        k = self.key(tokens).unflatten(-1, (HEADS, -1))                     # [N, n, heads, d]
        logits = torch.einsum('qhd,nkhd->nhqk', q, k) / math.sqrt(q.shape[-1])
        hidden = ~mask[:, None, None]                                       # [N, 1, 1, n]
        if not self.compete:
            return logits.masked_fill(hidden, float('-inf')).softmax(-1)
        shares = logits.softmax(2).masked_fill(hidden, 0)
        return shares / shares.sum(-1, keepdim=True).clamp_min(1e-8)

    def forward(self, queries, tokens, mask):
        """Arguments and result: see the class."""
        v = self.value(tokens).unflatten(-1, (HEADS, -1))                   # [N, n, heads, d]
        read = torch.einsum('nhqk,nkhd->nqhd', self.weights(queries, tokens, mask), v)
        return self.out(read.flatten(-2))


class Centre(nn.Module):
    """Tokens less their mean. CLIP's features point into one cone: without their mean, what is left
    is what tells them apart. The mean is that of the first training batch, and stays."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer('mean', torch.zeros(width))
        self.register_buffer('known', torch.tensor(False))

    def forward(self, tokens, mask):
        """tokens [N, n, D], mask [N, n] -> the same less their mean"""
        if self.training and not self.known:
            self.mean.copy_(tokens[mask.bool()].detach().mean(0))
            self.known.fill_(True)
        return tokens - self.mean
