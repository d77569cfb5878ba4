"""From files to batches; knows no data set."""
