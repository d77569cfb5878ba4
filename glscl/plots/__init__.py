"""Every figure of the notebooks, in one style. A function draws; the notebook calls plt.show()."""
from .concepts import attended, concept_life, local_study, vanishing
from .data import caption_lengths, clip_transform, found, frame_strips, gallery, sampling
from .diagrams import forces, modules, pipeline
from .efficiency import cost_accuracy, cost_recall, growth, shares, storage
from .evaluation import bootstrap, confusions, rank_histogram, recalls, twins
from .experiments import forest, methods
from .heads import rivals
from .losses import concept_circles, consistency_target, gradient_sizes
from .model import (
    answers,
    frame_weights,
    padding_drift,
    query_attention,
    query_weights,
    similarity_parts,
    temperatures,
)
from .moving import play
from .style import style
from .training import compare_runs, learning_curves, schedule
