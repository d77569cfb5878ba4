"""What holds only in the released code (zchoi/GLSCL): its optimizer and its weights' names."""


def load(state_dict, config=None):
    """A GLSCL from a state_dict of the released code: see `weights.load`."""
    from .weights import load
    return load(state_dict, config)
