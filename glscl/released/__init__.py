"""What holds only in the released code (zchoi/GLSCL): its optimizer and its weights' names."""
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..model import GLSCL


def load(state_dict: Mapping[str, Any], config: Any = None) -> 'GLSCL':
    """A GLSCL from a state_dict of the released code: see `weights.load`."""
    from .weights import load
    return load(state_dict, config)
