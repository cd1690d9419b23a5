"""eP-ALM: a frozen language model that perceives through one linear connection and one soft prompt."""

import sys
from typing import TYPE_CHECKING, Any

from epalm.errors import EPALMError
from epalm.startup import settle_waiting

if TYPE_CHECKING:
    from epalm.model import EPALM, Answer, Request

if "torch" not in sys.modules:  # it reads the environment when it is imported
    settle_waiting()

__all__ = ["EPALM", "Answer", "EPALMError", "Request"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import the model on first use: it brings PyTorch, which `python -m epalm --help` need not wait for."""
    if name in ("EPALM", "Answer", "Request"):
        from epalm import model

        return getattr(model, name)
    raise AttributeError(f"module 'epalm' has no attribute '{name}'")
