"""The similarity heads of the methods in the paper's Figure 1, and three later ones.

    head   = HEADS['X-Pool'](width=512)
    texts  = head.encode_texts(sentence, words, mask)     # [T, D], [T, L, D], [T, L] -> Items
    videos = head.encode_videos(frames, mask)             # [V, F, D], [V, F] -> Items
    S      = head.similarity(texts, videos)               # [T, V], hoisted or in Gram form
    S      = head.direct(texts, videos)                   # the equations as written
    cost   = head.cost(F=12, L=32, D=512, Q=8)            # multiply-adds and bytes, base.Cost

    model  = build(config)                                # on CLIP, for Trainer and evaluate
    model  = load('runs/xpool')                           # from a checkpoint, GLSCL's included

One file a method, written from descriptions of the public code."""
from .centerclip import Segments
from .clip4clip import CrossTransformer, MeanPooling, TemporalMean
from .clipvip import CLIPViP, Proxies
from .dicosa import DiCoSA
from .drl import DRL
from .glscl import GLSCLHead
from .laff import LAFF
from .promptswitch import PromptCube, PromptSwitch
from .teachclip import TeachCLIP
from .tmass import TMASS
from .ts2net import TokenShift, TS2Net
from .xclip import XCLIP
from .xpool import XPool

HEADS = {
    'CLIP4Clip meanP': MeanPooling,
    'CLIP4Clip seqTransf': TemporalMean,
    'CLIP4Clip tightTransf': CrossTransformer,
    'CenterCLIP': MeanPooling,  # of its tower's segments
    'X-CLIP': XCLIP,
    'TS2-Net': TS2Net,
    'X-Pool': XPool,
    'CLIP-ViP': CLIPViP,
    'DiCoSA': DiCoSA,
    'Prompt Switch': PromptSwitch,
    'LAFF': LAFF,
    'GLSCL': GLSCLHead,
    'DRL': DRL,
    'T-MASS': TMASS,
    'TeachCLIP': TeachCLIP,
}

# The image towers of the methods whose idea lies there.
TOWERS = {
    'CenterCLIP': Segments,
    'CLIP-ViP': Proxies,
    'Prompt Switch': PromptCube,
    'TS2-Net': TokenShift,
}

from .model import HeadModel, build, load  # noqa: E402, F401  (these look heads up above)
