"""The annotation files of the five benchmarks, each read into the same table."""


def load_table(dataset, split, data_dir):
    """One row a caption: video_id, path, caption, start, end (seconds, or None)."""
    raise NotImplementedError(dataset)
