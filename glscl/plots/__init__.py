"""Every figure of the notebooks, in one style. A function draws; the notebook calls plt.show()."""
from .concepts import attended, concept_life, vanishing
from .data import caption_lengths, clip_transform, film_strips, found, gallery, sampling
from .efficiency import cost_accuracy, figure_one, growth, shares, storage, timings
from .evaluation import bootstrap, confusions, rank_histogram, recalls, similarity_blocks, twin_test
from .experiments import curves, forest, methods, shapes_cost
from .losses import concept_circles, concept_cosines, consistency_target, gradient_sizes, sharpness
from .model import (
    frame_weights,
    padding_drift,
    query_attention,
    query_weights,
    similarity_parts,
    temperatures,
)
from .style import style
from .training import learning_curves, schedule, schedules
