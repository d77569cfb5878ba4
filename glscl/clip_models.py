"""A CLIP by its name (the shipped small one, or open_clip's with weights of a tag or a file), and
what every model on top of one needs, whatever it does with its features."""
import contextlib
import json
from pathlib import Path

import open_clip
import torch
from torch import Tensor, nn

from .config import data_path
from .data.batch import Batch, Items
from .data.pixels import pixels
from .data.tokens import tokenizer
from .encoders import Clip
from .runtime.devices import precision, sent
from .runtime.files import read_tensors
from .runtime.weights import fill

# The shipped CLIP. Plain GELU: on a CPU it is a third faster to train than QuickGELU.
SMALL = dict(embed_dim=128,
             vision_cfg=dict(image_size=32, patch_size=8, width=128, head_width=64, layers=4),
             text_cfg=dict(context_length=48, width=128, heads=4, layers=4))


class ClipModel(nn.Module):
    """CLIP and what every model on top of it needs: GLSCL here, and the rivals' heads
    (`glscl.heads`). Whoever inherits gives `encode_words`, `encode_features`, `similarity` and
    `losses`.

    config: a Config; clip: an encoders.Clip, else the one that the config names. With
    `freeze_clip` CLIP's towers take no gradient and stay in eval mode; `logit_scale` still learns,
    for it belongs to the contrastive loss and not to the features."""

    def __init__(self, config, clip=None):
        super().__init__()
        self.config = config
        self.clip = load_clip(config.clip, config.clip_pretrained) if clip is None else clip

    def check_lengths(self):
        """ValueError where a caption of max_words or a video of max_frames would not fit."""
        c, positions = self.config, len(self.clip.clip.positional_embedding)
        if c.max_words > positions:
            raise ValueError(f'max_words is {c.max_words}, and the text tower of this CLIP has '
                             f'{positions} positions: lower max_words')
        if c.temporal == 'transformer' and c.max_frames > positions:
            raise ValueError(f'max_frames is {c.max_frames}, and the temporal transformer has '
                             f'{positions} positions, those of this CLIP\'s text tower: lower '
                             f'max_frames, or set temporal to none')

    def freeze(self):
        """Stop the gradients that the config says; called once all modules are there."""
        c = self.config
        if c.released:  # there the patch embedding is frozen, alone
            self.clip.visual.conv1.requires_grad_(False)
        if c.freeze_clip:
            self.clip.requires_grad_(False)
            self.clip.logit_scale.requires_grad_(True)
        if c.grad_checkpointing:
            self.clip.clip.set_grad_checkpointing(True)

    def train(self, mode=True):
        super().train(mode)
        if self.config.freeze_clip:
            self.clip.eval()
        return self

    @property
    def device(self):
        """Where its weights are."""
        return self.logit_scale.device

    @property
    def takes_features(self):
        """Whether CLIP's features may be computed once and kept (`data.feature_cache`): CLIP is
        frozen, and all that learns comes after it."""
        return self.config.freeze_clip

    @property
    def logit_scale(self):
        """log s, CLIP's own: a scalar parameter."""
        return self.clip.logit_scale

    @property
    def scale(self):
        """s = exp(logit_scale)"""
        return self.logit_scale.exp()

    def encode(self, batch: Batch) -> tuple[Items | None, Items | None]:
        """A Batch on the model's device -> (Texts, Videos); None for a side that it lacks."""
        texts = videos = None
        if batch.text_mask is not None:
            texts = self._encode_captions(batch)
        if batch.frame_mask is not None:
            videos = self._encode_clips(batch)
        return texts, videos

    def _encode_captions(self, batch):
        mask = batch.text_mask
        if batch.words is None:
            return self.encode_texts(batch.token_ids, mask)
        words = batch.words.to(precision(self.device) or batch.words.dtype)
        sentence = words[torch.arange(len(words), device=words.device), mask.sum(1) - 1]
        return self.encode_words(sentence, words, mask)

    def _encode_clips(self, batch):
        mask = mask_on(batch.frame_mask, self.device)
        if batch.features is None:
            frames = pixels(batch.frames, mask, self.device)[0]
            return self.encode_videos(frames, batch.frame_mask)
        x = batch.features
        if not self.config.mask_padding:  # as released: padding is a black frame, with features
            size = self.clip.image_size
            black = self.clip.encode_frames(x.new_zeros(1, 3, size, size)).detach()
            x = torch.where(mask[..., None], x, black.to(x.dtype))
        return self.encode_features(x.to(precision(self.device) or x.dtype), mask)

    def encode_texts(self, token_ids: Tensor, token_mask: Tensor) -> Items:
        """token_ids int64 [T, L], token_mask [T, L] -> Texts"""
        if not len(token_ids):
            raise ValueError('there are no texts to encode')
        sentence, words = self.clip.encode_words(token_ids, token_mask)
        return self.encode_words(sentence, words, token_mask)

    def encode_videos(self, frames: Tensor, frame_mask: Tensor) -> Items:
        """frames [V, F, 3, H, W] normalised, frame_mask [V, F] -> Videos

        A mask in the CPU's memory is better: one on a GPU is waited for."""
        if not frames.numel():
            raise ValueError('there are no videos to encode')
        mask = frame_mask.bool().clone()
        mask[:, 0] = True         # an empty video needs some features; they are masked later on
        if not self.config.mask_padding:
            mask[:] = True        # as released: padding goes through the tower, and is attended to
        x = frames.flatten(0, 1)                                            # [V F, 3, H, W]
        if mask.all():
            x = self.clip.encode_frames(x)                                  # [V F, D]
        else:
            valid = sent(mask.flatten().nonzero().squeeze(1), x.device)     # [valid frames]
            of_valid = self.clip.encode_frames(x[valid])                    # [valid frames, D]
            x = of_valid.new_zeros(mask.numel(), of_valid.shape[-1]).index_copy(0, valid, of_valid)
        return self.encode_features(x.unflatten(0, mask.shape), mask_on(frame_mask, x.device))

    def score(self, captions, paths):
        """How well captions fit video files: `score.score` says all.

            model.score('a red ring shrinks', 'film.mp4')"""
        from .score import score
        return score(self, captions, paths)

    def parameter_groups(self):
        """Groups for torch's optimizers: two learning rates, weight decay on matrices only.

        With `bert_adam` decay reaches all but biases, as released: its list of exceptions names no
        LayerNorm in use."""
        c, groups = self.config, {}
        for name, p in self.named_parameters():
            if not p.requires_grad:
                continue
            decays = p.ndim > 1
            if c.optimizer == 'bert_adam':
                decays = 'bias' not in name
            groups.setdefault((name.startswith('clip.'), decays), []).append(p)
        return [dict(params=parameters, lr=c.clip_lr if of_clip else c.lr,
                     weight_decay=c.weight_decay if decays else 0.0)
                for (of_clip, decays), parameters in groups.items()]


def mask_on(mask, device):
    """A mask on that device. A full one, the usual one, is made there: no copy from the CPU."""
    if mask.device.type == device.type or not mask.all():
        return sent(mask, device)
    return torch.ones_like(mask, device=device)


@contextlib.contextmanager
def evaluating(model):
    """Within it the model is in evaluation mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def load_clip(name: str = 'small', pretrained: str | None = None) -> Clip:
    """A Clip by name, in float32.

    name: "small", the shipped one, trained on frames of `shapes`; or any open_clip architecture of
    OpenAI's kind (ViT-B-32, ViT-B-16). pretrained: open_clip's tag ("openai"), a local weights
    file (.safetensors, OpenAI's .pt, a state_dict by torch.save), or None: random weights, and
    for "small" the shipped ones. `clip_weights.load_weights` says which get QuickGELU.
    Raises ValueError for a file that does not fit, FileNotFoundError for weights that cannot be
    had, with what to do."""
    if name == 'small':
        return _load_small(Path(pretrained) if pretrained else data_path('clip_small.safetensors'))
    from .clip_weights import load_weights  # the small CLIP needs none of it
    if pretrained is None:
        return build_clip(name, bool(clip_sizes(name).get('quick_gelu')))
    state, quick_gelu = load_weights(name, pretrained)
    clip = build_clip(name, quick_gelu)
    fill(clip.clip, state, pretrained, name)
    return clip


def build_clip(name, quick_gelu):
    """An untrained Clip of one of open_clip's architectures, with QuickGELU or plain GELU."""
    return Clip(open_clip.CLIP(**{**clip_sizes(name), 'quick_gelu': quick_gelu}))


def small_clip(vocabulary):
    """An untrained small Clip with rows for the tokens of these words, and their ids [n]."""
    tok = tokenizer()
    ids = {tok.sot_token_id, tok.eot_token_id}.union(*map(tok.encode, vocabulary))
    ids = torch.tensor(sorted(ids - {0}))
    return small_clip_of(ids), ids


def small_clip_of(token_ids):
    """An untrained small Clip with rows for these tokens (int64 [n], sorted)."""
    text = {**SMALL['text_cfg'], 'vocab_size': len(token_ids) + 2}
    return Clip(open_clip.CLIP(**{**SMALL, 'text_cfg': text}), token_ids)


def _load_small(path):
    if not path.is_file():
        raise FileNotFoundError(f'{path}: no such file. With clip="small", clip_pretrained is null '
                                f'for the shipped weights, or a file written by `glscl pretrain`')
    state, meta = read_tensors(path, 'Name a file of `glscl pretrain`, or null in clip_pretrained '
                                     'for the shipped one.')
    try:
        token_ids = token_ids_of(meta['token_ids'])
    except (KeyError, ValueError) as error:
        raise ValueError(f'{path} is not a small CLIP of this package, or is damaged ({error}); '
                         f'name the architecture of other weights in clip, as ViT-B-32') from None
    small = small_clip_of(token_ids)
    fill(small.clip, state, path, 'a small CLIP')
    return small


def token_ids_of(text):
    """The tokens that a small CLIP's file names in JSON: int64 [n]; ValueError unless they rise."""
    ids, end = json.loads(text), tokenizer().vocab_size
    if not isinstance(ids, list) or not all(type(n) is int for n in ids):
        raise ValueError(f'its token_ids are no list of whole numbers: {text[:40]}')
    if not all(a < b for a, b in zip([0, *ids], [*ids, end])):
        raise ValueError(f'its token_ids do not rise from 1 to {end - 1}: {text[:40]}')
    return torch.tensor(ids, dtype=torch.long)


def image_size(name='small'):
    """The side in pixels of the square that a CLIP looks at, without building it."""
    return clip_sizes(name)['vision_cfg']['image_size']


def clip_sizes(name='small'):
    """open_clip's settings of a CLIP by its name; ValueError for one that there is not."""
    if name == 'small':
        return SMALL
    from .clip_weights import architecture  # the small CLIP needs none of it
    return architecture(name)
