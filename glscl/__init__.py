"""GLSCL (Text-Video Retrieval with Global-Local Semantic Consistent Learning, arXiv 2405.12710), taken apart."""
from . import heads
from .config import Config, load_config
from .interaction import global_similarity, local_similarity
from .metrics import retrieval_metrics
from .model import GLSCL, Texts, Videos
from .retrieval import Gallery
from .training import Trainer, encode, evaluate, load_model, save_model

__version__ = '0.1.0'
