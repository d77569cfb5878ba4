"""TeachCLIP: Holistic Features are almost Sufficient for Text-to-Video Retrieval (Tian et al.
2024); released code: ruc-aimc-lab/TeachCLIP."""
from ..data.batch import Items
from ..encoders import normalised
from .base import dot_cost, masked_softmax, perceptron, temporal_cost
from .clip4clip import MeanPooling


class TeachCLIP(MeanPooling):
    """S = <ê, u>, u = norm( sum_f softmax_f(g_f / 0.1) ŷ_f ), g = W2 ReLU(W1 y + b1) + b2.

    The student alone: its distillation from frozen teachers needs those and is left out, so that
    `loss` is the contrastive one. The released softmax over frames has no mask."""
    has_time = True

    def __init__(self, width=512, **shared):
        super().__init__(width, **shared)
        self.importance = perceptron(width, width)

    def prepare_videos(self, frames, mask):
        y = self.over_time(frames, mask)
        logits = self.importance(y).squeeze(-1) / 0.1
        a = masked_softmax(logits, self.attended(mask))                       # [V, F]
        return Items(unit=normalised((a[..., None] * normalised(y)).sum(1)))

    @staticmethod
    def cost(T=1000, V=1000, F=12, L=32, D=512, Q=8):
        return dot_cost(D, video=temporal_cost(F, D) + F * (D * D + D))
