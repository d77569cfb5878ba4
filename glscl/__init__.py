"""Text-video retrieval with global-local semantic consistent learning (GLSCL, arXiv 2405.12710).

Every name below is loaded when it is first used: `import glscl` is quick, and so is the command
line, and the paper's method never loads what stands on top of it."""
import importlib
import warnings

__version__ = '0.1.0'

# open_clip's progress bar asks for widgets, in a notebook that may have none. Here, since whatever
# of the package is imported first may load it.
warnings.filterwarnings('ignore', message='IProgress not found')

PUBLIC = {'GLSCL': 'model', 'Texts': 'model', 'Videos': 'model',
          'Config': 'config', 'load_config': 'config', 'Trainer': 'training',
          'load_model': 'checkpoints', 'save_model': 'checkpoints',
          'encode': 'evaluation', 'evaluate': 'evaluation',
          'global_similarity': 'interaction', 'local_similarity': 'interaction',
          'retrieval_metrics': 'metrics', 'qb_norm': 'rescoring', 'dual_softmax': 'rescoring',
          'tokenize': 'data.tokens', 'read_frames': 'data.video', 'pixels': 'data.pixels',
          'Gallery': 'search.gallery', 'ZeroShot': 'search.zero_shot'}


def __getattr__(name):
    """A public name, or a module of the package."""
    if name in PUBLIC:
        value = getattr(importlib.import_module(f'.{PUBLIC[name]}', __name__), name)
        globals()[name] = value
        return value
    try:
        return importlib.import_module(f'.{name}', __name__)
    except ModuleNotFoundError as error:
        if error.name != f'{__name__}.{name}':
            raise
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}') from None


def __dir__():
    return [*globals(), *PUBLIC]
