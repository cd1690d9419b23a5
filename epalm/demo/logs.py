"""The server's log: what happened and how long it took, never what people sent or were told.

As text where a person watches, as JSON lines (`--logs json`) where a machine collects them.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

LOGGER = logging.getLogger("epalm.demo")


class JSONLines(logging.Formatter):
    """One JSON object per line: time, level, event and its facts."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {"time": f"{stamp}.{record.msecs:03.0f}Z", "level": record.levelname.lower()}
        return json.dumps(line | {"event": record.getMessage()} | facts_of(record), ensure_ascii=False)


class Text(logging.Formatter):
    """The same for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        facts = facts_of(record)
        trace = facts.pop("traceback", None)
        line = "  ".join([record.getMessage(), *(f"{key}={value}" for key, value in facts.items())])
        return line if trace is None else f"{line}\n{trace}"


class ToStderr(logging.Handler):
    """Writes to whatever standard error is now; a stream handler would keep the first one."""

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        # A closed terminal or a full disk must not cost the request that is logged.
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)


def facts_of(record: logging.LogRecord) -> dict[str, Any]:
    return dict(getattr(record, "facts", {}))


def start(style: str) -> None:
    """Log in this style: "json", or "text"."""
    handler = ToStderr()
    handler.setFormatter(JSONLines() if style == "json" else Text())
    LOGGER.handlers = [handler]
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False


def event(what: str, level: str = "info", **facts: Any) -> None:
    """Log one event; the facts must hold nothing that a visitor sent."""
    LOGGER.log(logging.getLevelNamesMapping()[level.upper()], what, extra={"facts": facts})


def exception(error: BaseException, secrets: Sequence[str] = ()) -> None:
    """Log an unexpected error with its traceback, without the visitor's own words and file names in it."""
    text = "".join(traceback.format_exception(error))
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "…")
    event("unexpected error", "error", type=type(error).__name__, traceback=text)


start("text")
