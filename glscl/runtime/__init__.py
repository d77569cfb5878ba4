"""The machine, its processes, its files: what knows nothing of the model."""
import warnings

# open_clip's progress bar asks for widgets, in a notebook that may have none. This module is
# loaded before open_clip by whatever imports the package.
warnings.filterwarnings('ignore', message='IProgress not found')
