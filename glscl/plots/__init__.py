"""Every figure of the notebooks, one file a notebook, in one style. Each function draws and returns nothing; the notebook calls plt.show()."""
from .ablations import forest, curves
from .data import film_strips, caption_lengths, sampling, clip_transform
from .efficiency import timings, growth, shares, storage, cost_accuracy, figure_one, shapes_cost
from .evaluation import recall_intervals, bootstrap, rank_histogram, similarity_blocks, gallery, confusions, twin_test, methods, found
from .losses import sharpness, consistency_target, gradient_sizes, schedules, concept_circles, concept_cosines
from .model import frame_weights, temperatures, padding_drift, query_attention, similarity_parts
from .training import schedule, learning_curves, recalls, recall_by_kind
from .style import style
