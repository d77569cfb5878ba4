"""GLSCL (Text-Video Retrieval with Global-Local Semantic Consistent Learning, arXiv 2405.12710), taken apart."""
from . import heads
from .checkpoints import load_model, save_model
from .config import Config, load_config
from .evaluation import encode, evaluate
from .interaction import global_similarity, local_similarity
from .metrics import dual_softmax, qb_norm, retrieval_metrics
from .model import GLSCL, Texts, Videos
from .retrieval import Gallery
from .training import Trainer

__version__ = '0.1.0'
