"""eP-ALM: a frozen language model that perceives through one linear connection and one soft prompt."""

from epalm.errors import EPALMError
from epalm.model import EPALM, Request

__all__ = ["EPALM", "EPALMError", "Request"]
