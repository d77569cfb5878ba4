"""GLSCL (Text-Video Retrieval with Global-Local Semantic Consistent Learning, arXiv 2405.12710),
taken apart."""
from .checkpoints import load_model, save_model
from .config import Config, load_config
from .evaluation import encode, evaluate
from .interaction import global_similarity, local_similarity
from .metrics import retrieval_metrics
from .model import GLSCL, Texts, Videos
from .rescoring import dual_softmax, qb_norm
from .training import Trainer

__version__ = '0.1.0'


def __getattr__(name):
    """The wings load when they are first asked for: the paper's method needs none of them."""
    import importlib
    if name in ('heads', 'released'):
        return importlib.import_module(f'.{name}', __name__)
    if name == 'Gallery':
        from .search.gallery import Gallery
        return Gallery
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
