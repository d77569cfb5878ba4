"""The data sets: which files make them, and the embedded world of moving shapes. Nothing of the
method imports this: it asks for `Pairs`, whatever they come from."""
