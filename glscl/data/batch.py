"""Named tensors that travel together: a batch on its way in, encoded items on their way out."""
import torch

from ..runtime.devices import sent


class Items:
    """N items as named tensors, each [N, …] (or None where there is nothing of the kind).

    Index or slice it, move it, join several:

        items = Items(frames=frames, mask=mask)
        items.frames    items[3:7]    items.to('cuda')    Items.cat([items, items])

    Used for encoded texts and videos (`model.Texts`, `model.Videos`, and whatever a rival's head
    keeps of an item), and for a `Batch`."""

    def __init__(self, **tensors):
        vars(self).update(tensors)

    def map(self, fn):
        """A copy with fn(tensor) in place of every tensor."""
        copy = object.__new__(type(self))
        vars(copy).update({name: x if x is None else fn(x) for name, x in vars(self).items()})
        return copy

    def __getitem__(self, rows):
        return self.map(lambda x: x[rows])

    def __len__(self):
        return len(next(x for x in vars(self).values() if x is not None))

    def to(self, device):
        """Every tensor on that device."""
        return self.map(lambda x: x.to(device))

    def float(self):
        """Floating-point tensors in float32 at least, whatever autocast or storage made of them."""
        return self.map(at_least_float32)

    @classmethod
    def cat(cls, parts):
        """Several of one kind as one, in that order."""
        parts = list(parts)
        joined = object.__new__(cls)
        for name, first in vars(parts[0]).items():
            tensors = [getattr(part, name) for part in parts]
            setattr(joined, name, None if first is None else torch.cat(tensors))
        return joined


def at_least_float32(x):
    """A floating-point tensor in float32 (float64 stays); any other as it is."""
    if x is None or not x.is_floating_point():
        return x
    return x.to(torch.promote_types(x.dtype, torch.float32))


def tensors(*items):
    """All floating-point tensors of several Items, in a fixed order."""
    every = [x for of in items for x in vars(of).values() if x is not None]
    return [x for x in every if x.is_floating_point()]


class Batch(Items):
    """B captions and their videos, as the data gives them and `model.encode` takes them.

    video_ids [B] int64: the video of each caption.
    token_ids [B, L] int64, or words [B, L, D] (word features of a frozen CLIP); text_mask [B, L].
    frames uint8 [B, F, S, S, 3], or features [B, F, D] (of a frozen CLIP); frame_mask [B, F].
    What there is not is None: a batch of captions alone has no frame_mask, one of videos alone no
    text_mask. frame_mask stays in the CPU's memory, where asking which frames there are does not
    wait for a GPU."""

    def __init__(self, video_ids=None, token_ids=None, words=None, text_mask=None, frames=None,
                 features=None, frame_mask=None):
        super().__init__(video_ids=video_ids, token_ids=token_ids, words=words,
                         text_mask=text_mask, frames=frames, features=features,
                         frame_mask=frame_mask)

    def to(self, device):
        """Every tensor but frame_mask on that device."""
        there = self.map(lambda x: sent(x, torch.device(device)))
        there.frame_mask = self.frame_mask
        return there
