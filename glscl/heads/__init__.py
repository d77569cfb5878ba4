"""The similarity heads of the methods in the paper's Figure 1, and three later ones, by one signature.

    head   = HEADS['X-Pool'](width=512)
    texts  = head.encode_texts(sentence, words, mask)     # [T, D], [T, L, D], [T, L]
    videos = head.encode_videos(frames, mask)             # [V, F, D], [V, F]
    S      = head.similarity(texts, videos)               # [T, V], hoisted or in Gram form
    S      = head.direct(texts, videos)                   # the equations as written
    cost   = head.cost(F=12, L=32, D=512, Q=8)            # multiply-adds and bytes, `Cost`

Written from descriptions of the public code; each head says what the released one does with padding."""
from .cosine import LAFF, CenterCLIP, ClipViP, MeanPooling, PromptSwitch, TeachCLIP, TemporalMean
from .cross import CrossTransformer
from .frames import DiCoSA, GLSCLHead, TS2Net
from .base import Cost, Head, Kept
from .pooling import TMASS, XPool
from .towers import TOWERS
from .words import DRL, XCLIP

HEADS = {
    'CLIP4Clip meanP': MeanPooling,
    'CLIP4Clip seqTransf': TemporalMean,
    'CLIP4Clip tightTransf': CrossTransformer,
    'CenterCLIP': CenterCLIP,
    'X-CLIP': XCLIP,
    'TS2-Net': TS2Net,
    'X-Pool': XPool,
    'CLIP-ViP': ClipViP,
    'DiCoSA': DiCoSA,
    'Prompt Switch': PromptSwitch,
    'LAFF': LAFF,
    'GLSCL': GLSCLHead,
    'DRL': DRL,
    'T-MASS': TMASS,
    'TeachCLIP': TeachCLIP,
}
