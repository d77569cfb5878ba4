"""What the heads share: one signature, what is kept of an item, masks, and the form in which a cost is stated."""
import math
from dataclasses import dataclass

import open_clip
import torch
from torch import nn

from ..encoders import Clip, TemporalTransformer
from ..losses import contrastive


class Kept:
    """What a head keeps of its items: named tensors, one row an item. Index or slice it, move it, join several.

    Tensors named raw_… serve the direct form alone: `compact` drops them and `bytes` leaves them out."""

    def __init__(self, **tensors):
        vars(self).update(tensors)

    def map(self, fn):
        """fn on every tensor -> Kept"""
        return Kept(**{name: fn(x) for name, x in vars(self).items()})

    def __getitem__(self, rows):
        return self.map(lambda x: x[rows])

    def __len__(self):
        return len(next(iter(vars(self).values())))

    def to(self, device):
        return self.map(lambda x: x.to(device))

    def float(self):
        """In float32 at least, whatever storage made of it."""
        return self.map(promoted)

    def compact(self):
        """Without what the direct form alone reads."""
        return Kept(**{name: x for name, x in vars(self).items() if not name.startswith('raw_')})

    @property
    def bytes(self):
        """Bytes kept per item, for `similarity`."""
        return sum(math.prod(x.shape[1:]) * x.element_size() for x in vars(self.compact()).values())

    @staticmethod
    def cat(parts):
        return Kept(**{name: torch.cat([getattr(p, name) for p in parts]) for name in vars(parts[0])})


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of a head (matrix products, linear layers, weighted sums; no softmax, norm, mask or sort).

    A quadratic form a^T G a of size F counts F^2: G is symmetric, so that this covers the closing sum. The `_sums` are
    the elementwise part, which torch's counter does not see; the rest of the same number is matrix products."""
    pair: int              # A: for one pair, everything that hangs on one side alone done beforehand
    coded: int             # B: for one pair, as the released code executes it, unused and doubled work included
    gram: int              # A*: for one pair, what `similarity` executes; equals A where no pooled vector can be avoided
    direct: int            # for one pair, what `direct` executes: the equations as written
    video_bytes: int       # kept of a video for `similarity`, float32 and bool
    text_bytes: int
    gram_sums: int = 0     # part of `gram` outside matrix products
    direct_sums: int = 0   # part of `direct` outside matrix products
    video: int = 0         # C: once per video, what A needs
    text: int = 0          # C: once per text
    gram_video: int = 0    # once per video on top of C, what A* needs
    gram_text: int = 0
    repeated: int = 0      # for all T x V pairs: what the released evaluation does again in each of its blocks, C included


class Head(nn.Module):
    """A similarity head: encode texts, encode videos, score every pair.

    width D; max_frames F and max_words L size the heads whose parameters depend on them. `clip` (encoders.Clip): a
    temporal or cross transformer starts as a copy of its first text blocks, as in every released code; without one, of
    an untrained CLIP's. temporal_layers=0 takes the frames as they come (y = x).

    mask_padding=False attends to padded words and frames exactly where the released code does (each head says where);
    True hides them everywhere. Padding must be finite. A video with no valid frame scores 0 with every text, whatever the
    head. Features may be float16 or bfloat16: all arithmetic is in float32 at least, also under autocast.

    In training mode a head draws dropout or noise where its method does; the two forms are equal in eval mode."""
    has_time = False       # a temporal transformer over the frames
    reads_words = False    # texts need their words, not the sentence alone
    tile = 256             # texts and videos at a time: bounds the working memory

    def __init__(self, width=512, max_frames=12, max_words=32, clip=None, temporal_layers=4, mask_padding=False):
        super().__init__()
        self.width, self.max_frames, self.max_words, self.mask_padding = width, max_frames, max_words, mask_padding
        self.temporal = transformer(width, clip, temporal_layers) if self.has_time and temporal_layers else None

    # ---- what a user calls

    def encode_texts(self, sentence, words=None, mask=None, **more):
        """sentence e [T, D], words w [T, L, D], mask [T, L] (none: all valid), none of them normalised -> Kept"""
        return self._encode(self.keep_texts, sentence, words, mask, 'words', self.max_words, more)

    def encode_videos(self, frames, mask=None, **more):
        """frames x [V, F, D], CLIP's and not normalised, mask [V, F] (none: all valid) -> Kept"""
        if frames.ndim != 3:
            raise ValueError(f'frames are {list(frames.shape)}, expected [V, F, D]; one vector a video is [V, 1, D]')
        return self._encode(self.keep_videos, None, frames, mask, 'frames', self.max_frames, more)

    def similarity(self, texts, videos, tile=None):
        """S [T, V], hoisted and in Gram form; `tile` texts and videos at a time."""
        return self._tiled(self.score, texts, videos, tile)

    def direct(self, texts, videos, tile=None):
        """S [T, V] by the equations as written: slow, large, for comparison."""
        return self._tiled(self.score_direct, texts, videos, tile)

    def loss(self, texts, videos, scale, video_ids=None):
        """What the method trains on: the symmetric contrastive loss of s S unless a head says otherwise. A scalar."""
        return contrastive(self.similarity(texts, videos), scale, video_ids)

    # ---- shared by all

    def _encode(self, keep, sentence, tokens, mask, what, most, more):
        if tokens is None and self.reads_words:
            raise ValueError(f'{type(self).__name__} reads the words of a text: give encode_texts words [T, L, D] and their mask')
        first = tokens if sentence is None else sentence
        for x in (sentence, tokens):
            if x is not None and x.shape[-1] != self.width:
                raise ValueError(f'features have width {x.shape[-1]}, this head was built for width {self.width}: '
                                 f'give it width={x.shape[-1]}')
        if tokens is not None and tokens.shape[1] > most and self.has_size(what):
            raise ValueError(f'{tokens.shape[1]} {what}, but {type(self).__name__} has parameters for {most}: '
                             f'build it with max_{what}={tokens.shape[1]}')
        if tokens is not None and mask is None:
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        if tokens is not None and mask.shape != tokens.shape[:2]:
            raise ValueError(f'the mask is {list(mask.shape)}, the {what} {list(tokens.shape[:2])}: one entry for each')
        with torch.autocast(first.device.type, enabled=False):
            if tokens is not None:
                mask = mask.bool()
                tokens = hide(promoted(tokens), self.seen(mask))
            return keep(tokens, mask, **more) if sentence is None else keep(promoted(sentence), tokens, mask, **more)

    def _tiled(self, score, texts, videos, tile):
        tile, rows, some = tile or self.tile, [], next(iter(vars(texts).values()))
        if not len(texts) or not len(videos):
            return promoted(some.new_zeros(len(texts), len(videos)))
        with torch.autocast(some.device.type, enabled=False):
            for t in range(0, len(texts), tile):
                row = []
                for v in range(0, len(videos), tile):
                    part = videos[v:v + tile].float()
                    S = score(texts[t:t + tile].float(), part)
                    row.append(S.masked_fill(~part.mask.any(1), 0.0) if hasattr(part, 'mask') else S)
                rows.append(torch.cat(row, 1))
        return torch.cat(rows)

    def has_size(self, what):
        """Are there parameters of size L (`what` = 'words') or F ('frames')?"""
        return False

    def in_time(self, x, mask):
        """y [V, F, D] = x after the temporal transformer, padded frames masked as keys; zero where never looked at."""
        y = self.temporal(x, mask) if self.temporal else x
        return hide(y, self.seen(mask))

    def seen(self, mask):
        """The tokens that count: as released all of them, unless the item has no valid one at all."""
        return mask if self.mask_padding else mask.any(1, keepdim=True).expand_as(mask)


def promoted(x):
    """A floating-point tensor in float32 at least; anything else as it is."""
    return x.to(torch.promote_types(x.dtype, torch.float32)) if x is not None and x.is_floating_point() else x


def hide(x, mask):
    """x [..., n, D] with zeros at the tokens outside mask [..., n]"""
    return x.masked_fill(~mask[..., None], 0.0)


def masked_softmax(logits, mask, dim=-1):
    """Softmax over the entries of `mask` (of a shape that broadcasts); where there are none, zeros."""
    low = torch.finfo(logits.dtype).min
    return logits.masked_fill(~mask, low).softmax(dim) * mask


def transformer(width, clip, layers):
    """encoders.TemporalTransformer from `clip`, or from an untrained CLIP of this width."""
    if clip is None:
        clip = Clip(open_clip.model.CLIP(
            embed_dim=width, vision_cfg=dict(image_size=32, patch_size=32, width=64, layers=1),
            text_cfg=dict(context_length=77, vocab_size=2, width=width, heads=max(1, width // 64), layers=layers)))
    return TemporalTransformer(clip, layers)


def small_weights(module):
    """Linear layers start as N(0, 0.02) with zero bias, as in CLIP4Clip and its descendants."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def temporal_cost(S, D, layers=4):
    """The temporal transformer on S tokens: projections and MLP 12 S D^2, attention 2 S^2 D, a layer."""
    return layers * (12 * S * D * D + 2 * S * S * D)
