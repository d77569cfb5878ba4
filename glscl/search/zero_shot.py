"""A CLIP as it is, with GLSCL's global module over its frames: search without training."""
import os
from pathlib import Path

import open_clip
import torch

from ..clip_models import clip_sizes
from ..config import Config
from ..model import GLSCL, Videos
from ..score import encode_captions

# The logits of the global module are cos(e, y) |e||y| / tau. The paper's tau = 3 belongs to
# OpenAI's CLIP, whose sentences and frames have lengths of about 10: cosines count 33-fold. Where
# another CLIP's features are longer or shorter, tau is such that |e||y| / tau stays so.
SHARPNESS = 10 * 10 / 3
# Plain sentences, of words that the small CLIP knows too.
NEUTRAL = ('a ball on the grass', 'the sea at night', 'a small box', 'snow on the beach', 'a star')


class ZeroShot(GLSCL):
    """GLSCL without anything to train: a CLIP's frames, each for itself, weighed by the text.

        glscl.search.index.index_videos('VIDEOS', 'gallery', glscl.ZeroShot('ViT-B-32', 'openai'))

    clip, pretrained: as for `clip_models.load_clip`, whose errors it raises; weights are downloaded
    where a tag names them and this machine has none. ValueError where no weights are named.
    temperature: tau; None: `fit` finds it from the first videos of a gallery."""

    def __init__(self, clip: str, pretrained: str | None = None, temperature: float | None = None):
        if not isinstance(clip, str):
            raise ValueError(f'clip is the name of a CLIP, such as "ViT-B-32", not {clip!r:.60}')
        words = clip_sizes(clip)['text_cfg'].get('context_length', 77)
        if pretrained is None and clip != 'small':
            tags = open_clip.list_pretrained_tags_by_model(clip.replace('/', '-'))
            raise ValueError(f'{clip} needs --pretrained: a file of weights, or a tag of open_clip '
                             f'({", ".join(tags) or "it has none for this one"})')
        config = Config(clip=clip, clip_pretrained=pretrained, max_words=words, temporal='none',
                        local_weight=0, freeze_clip=True,
                        temperature=Config.temperature if temperature is None else temperature)
        try:
            super().__init__(config)
        except FileNotFoundError as error:
            raise FileNotFoundError(f'{error} For `glscl index` the path is named as '
                                    f'--pretrained.') from None
        self.fitted = temperature is not None
        self.eval()

    @property
    def record(self) -> dict:
        """What makes it again: {name, pretrained (a file by its whole path), temperature}."""
        c, pretrained = self.config, self.config.clip_pretrained
        tags = open_clip.list_pretrained_tags_by_model(c.clip.replace('/', '-'))
        if pretrained and pretrained not in tags:
            pretrained = os.path.abspath(Path(pretrained).expanduser())
        return dict(name=c.clip, pretrained=pretrained,
                    temperature=c.temperature if self.fitted else None)

    def set_temperature(self, temperature: float) -> None:
        """From here on this is tau."""
        self.config = self.config.replace(temperature=temperature)
        self.fitted = True

    @torch.no_grad()
    def fit(self, videos: Videos) -> None:
        """Choose tau by the lengths of these videos' frames and of neutral sentences."""
        sentences = encode_captions(self, NEUTRAL).sentence                 # [5, D]
        e = sentences.float().norm(dim=-1).mean()
        y = videos.frames[videos.mask].float().norm(dim=-1).mean()
        self.set_temperature(round(float(e * y) / SHARPNESS, 3))
