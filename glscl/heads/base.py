"""What all heads share: one signature, masks, layers, and the form in which a cost is stated."""
import math
from dataclasses import dataclass

import open_clip
import torch
from torch import nn

from ..data.batch import Items, at_least_float32
from ..encoders import Clip, TemporalTransformer, normalised
from ..losses import contrastive


@dataclass(frozen=True)
class Cost:
    """Multiply-adds of a head: terms of matrix products, linear layers and weighted sums.

    Softmax, norms, masks and sorting do not count. A quadratic form a^T G a of size F counts F^2:
    G is symmetric, so that this covers the closing sum."""
    pair: int             # A: one pair, all that depends on one side alone done beforehand
    coded: int            # B: one pair as the released code runs it, with unused and doubled work
    gram: int             # A*: one pair as `similarity` runs it; A where it pools no vector
    video_bytes: int      # stored of a video for `similarity`, float32 and bool
    text_bytes: int
    gram_sums: int = 0    # the elementwise part of `gram`, which torch's counter does not see
    video: int = 0        # C: once per video, what A needs
    text: int = 0         # C: once per text
    gram_video: int = 0   # once per video on top of C, what A* needs
    repeated: int = 0     # all T x V pairs: what the released evaluation repeats in its blocks


class Head(nn.Module):
    """A similarity head: encode texts, encode videos, score every pair.

    width D of the features; max_frames F and max_words L size the parameters of some heads
    (`sized_by`). clip (encoders.Clip): a temporal or cross transformer starts as a copy of its
    first text blocks, as in every released code; without one, of an untrained CLIP's.
    temporal_layers=0 takes the frames as they come (y = x).

    mask_padding=False attends to padded words and frames where the released code does (each head
    says where); True hides them everywhere. Padding must be finite. A video with no valid frame
    scores 0 with every text. All arithmetic is in float32 at least, also under autocast. In
    training mode a head draws dropout or noise where its method does. Raises ValueError for sizes
    that cannot be, by name.

    A method writes `prepare_videos`, `score` and `cost`; `prepare_texts` if it needs more than ê,
    `score_direct` where the equations as written differ from `score`, `own_loss` where it does not
    train on the contrastive loss. Items named raw_… serve the direct form alone."""
    has_time = False       # a temporal transformer over the frames
    reads_words = False    # texts need their words, not the sentence alone
    sized_by = ()          # 'words', 'frames': parameters of size L, F
    tile = 256             # texts and videos at a time: bounds the working memory
    log_scale = None       # where log s starts anew; None: where CLIP's own is
    pads_words = False     # as released its text tower reads padding, up to max_words

    def __init__(self, width=512, max_frames=12, max_words=32, clip=None, temporal_layers=4,
                 mask_padding=False):
        super().__init__()
        sizes = dict(width=width, max_frames=max_frames, max_words=max_words)
        for name, size in sizes.items():
            self.at_least(1, name, size)
        self.at_least(0, 'temporal_layers', temporal_layers)
        self.width = width
        self.max_frames = max_frames
        self.max_words = max_words
        self.mask_padding = mask_padding
        self.temporal = None
        if self.has_time and temporal_layers:
            self.temporal = transformer(width, clip, temporal_layers)

    def at_least(self, least, name, size):
        """ValueError where a setting is no whole number from `least` on."""
        if not isinstance(size, int) or size < least:
            raise ValueError(f'{type(self).__name__}: {name} must be a whole number from {least} '
                             f'on, not {size!r}')

    def encode_texts(self, sentence, words=None, mask=None, **more):
        """sentence e [T, D], words w [T, L, D], not normalised, mask [T, L] (none: all valid), and
        what the method takes besides -> Items.

        Raises ValueError for missing words and for shapes that do not fit the head."""
        if words is None and self.reads_words:
            raise ValueError(f'{type(self).__name__} reads the words of a text: give encode_texts '
                             f'words [T, L, D] and their mask')
        if sentence.ndim != 2:
            raise ValueError(f'sentences are {list(sentence.shape)}, expected [T, D]; one text is '
                             f'[1, D]')
        self._check_width(sentence)
        if words is not None:
            if words.ndim != 3 or len(words) != len(sentence):
                raise ValueError(f'words are {list(words.shape)}, expected [T, L, D] with T = '
                                 f'{len(sentence)} as there are sentences')
            mask = self._checked_mask(words, mask, 'words', self.max_words)
        with torch.autocast(sentence.device.type, enabled=False):
            if words is not None:
                words = hide(at_least_float32(words), self.attended(mask))
            return self.prepare_texts(at_least_float32(sentence), words, mask, **more)

    def encode_videos(self, frames, mask=None, **more):
        """frames x [V, F, D], CLIP's and not normalised, mask [V, F] (none: all valid), and what
        the method takes besides -> Items. ValueError for shapes that do not fit the head."""
        if frames.ndim != 3:
            raise ValueError(f'frames are {list(frames.shape)}, expected [V, F, D]; one vector '
                             f'a video is [V, 1, D]')
        mask = self._checked_mask(frames, mask, 'frames', self.max_frames)
        with torch.autocast(frames.device.type, enabled=False):
            frames = hide(at_least_float32(frames), self.attended(mask))
            return self.prepare_videos(frames, mask, **more)

    def similarity(self, texts, videos, tile=None):
        """S [T, V], hoisted and in Gram form; `tile` texts and videos at a time."""
        return self._tiled(self.score, texts, videos, tile)

    def direct(self, texts, videos, tile=None):
        """S [T, V] by the equations as written: slow, large, for comparison."""
        return self._tiled(self.score_direct, texts, videos, tile)

    def prepare_texts(self, sentence, words, mask):
        """What `score` needs of texts -> Items; arguments as `encode_texts` has checked them."""
        return Items(unit=normalised(sentence))

    def prepare_videos(self, frames, mask):
        """What `score` needs of videos -> Items; arguments as `encode_videos` has checked them."""
        raise NotImplementedError

    def score(self, texts, videos):
        """S [T, V] of a block of Items."""
        raise NotImplementedError

    def score_direct(self, texts, videos):
        """S [T, V] of a block of Items by the equations as written."""
        return self.score(texts, videos)

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8):
        """The Cost of T texts of L words with V videos of F frames; width D, Q queries."""
        raise NotImplementedError

    def loss(self, texts, videos, scale, video_ids=None):
        """What the method trains on, a scalar. Text i belongs to video i; video_ids [B] mark
        captions of one video. ValueError where there are no pairs."""
        if not len(texts) or len(texts) != len(videos):
            raise ValueError(f'{type(self).__name__} trains on pairs of a text and its video, not '
                             f'on {len(texts)} texts and {len(videos)} videos')
        return self.own_loss(texts, videos, scale, video_ids)

    def own_loss(self, texts, videos, scale, video_ids):
        """The symmetric contrastive loss of s S unless a head says otherwise."""
        return contrastive(self.similarity(texts, videos), scale, video_ids)

    def over_time(self, x, mask):
        """y [V, n, D]: x after the temporal transformer, if there is one. Padded tokens are masked
        as keys, and zero where the head does not attend to them."""
        y = self.temporal(x, mask) if self.temporal and len(x) else x
        return hide(y, self.attended(mask))

    def attended(self, mask):
        """The tokens that count: as released all of them, unless an item has no valid one."""
        return mask if self.mask_padding else mask.any(1, keepdim=True).expand_as(mask)

    def _check_width(self, x):
        if x.shape[-1] != self.width:
            raise ValueError(f'features have width {x.shape[-1]}, this {type(self).__name__} was '
                             f'built for width {self.width}: give it width={x.shape[-1]}')

    def _checked_mask(self, tokens, mask, what, most):
        """The mask of tokens [N, n, D] as bool [N, n]; `most` of them fit the parameters."""
        self._check_width(tokens)
        N, n, _ = tokens.shape
        if not n:
            raise ValueError(f'{what} are {list(tokens.shape)}: {type(self).__name__} needs one '
                             f'at least, if only a masked one')
        if n > most and what in self.sized_by:
            raise ValueError(f'{n} {what}, but {type(self).__name__} has parameters for {most}: '
                             f'build it with max_{what}={n}')
        if mask is None:
            return torch.ones(N, n, dtype=torch.bool, device=tokens.device)
        if mask.shape != (N, n):
            raise ValueError(f'the mask is {list(mask.shape)}, the {what} {[N, n]}: one entry '
                             f'for each')
        return mask.bool()

    def _tiled(self, score, texts, videos, tile):
        tile = self.tile if tile is None else tile
        self.at_least(1, 'tile', tile)
        some = next(iter(vars(texts).values()))
        if not len(texts) or not len(videos):
            return at_least_float32(some.new_zeros(len(texts), len(videos)))
        rows = []
        with torch.autocast(some.device.type, enabled=False):
            for t in range(0, len(texts), tile):
                row = []
                for v in range(0, len(videos), tile):
                    block = videos[v:v + tile].float()
                    S = score(texts[t:t + tile].float(), block)
                    if hasattr(block, 'mask'):
                        S = S.masked_fill(~block.mask.any(1), 0.0)
                    row.append(S)
                rows.append(torch.cat(row, 1))
        return torch.cat(rows)


def compact(items):
    """Items without what the direct form alone reads."""
    return Items(**{name: x for name, x in vars(items).items() if not name.startswith('raw_')})


def bytes_per_item(items):
    """Bytes stored of an item, for `similarity`."""
    tensors = vars(compact(items)).values()
    return sum(math.prod(x.shape[1:]) * x.element_size() for x in tensors)


def hide(x, mask):
    """x [..., n, D] with zeros at the tokens outside mask [..., n]."""
    return x.masked_fill(~mask[..., None], 0.0)


def masked_softmax(logits, mask, dim=-1):
    """Softmax over the entries of `mask` (its shape broadcasts); where there are none, zeros."""
    low = torch.finfo(logits.dtype).min
    return logits.masked_fill(~mask, low).softmax(dim) * mask


def transformer(width, clip, layers):
    """encoders.TemporalTransformer from `clip`, or from an untrained CLIP of this width."""
    if clip is None:
        # As many attention heads as CLIP has, one for 64 numbers, or the next that divide.
        heads = max(n for n in range(1, max(1, width // 64) + 1) if width % n == 0)
        text = {'context_length': 77, 'vocab_size': 2, 'width': width, 'heads': heads,
                'layers': layers}
        vision = {'image_size': 32, 'patch_size': 32, 'width': 64, 'layers': 1}
        clip = Clip(open_clip.model.CLIP(embed_dim=width, vision_cfg=vision, text_cfg=text))
    return TemporalTransformer(clip, layers)


def small_weights(module):
    """Linear layers start as N(0, 0.02) with zero bias, as in CLIP4Clip and its descendants."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return module


def perceptron(inputs, hidden):
    """W2 ReLU(W1 x + b1) + b2: [..., inputs] -> [..., 1]"""
    layers = nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, 1)
    return small_weights(nn.Sequential(*layers))


def temporal_cost(S, D, layers=4):
    """The temporal transformer on S tokens: projections and MLP 12 S D^2, attention 2 S^2 D."""
    return layers * (12 * S * D * D + 2 * S * S * D)


def dot_cost(D, **once):
    """The cost of a head that ends in one dot product of width D; `once` is what comes before."""
    return Cost(pair=D, coded=D, gram=D, video_bytes=4 * D, text_bytes=4 * D, **once)
