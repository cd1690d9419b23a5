"""Blocks whose every problem is one sentence with a code, whoever noticed it: this project or Gradio."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import gradio as gr
from gradio.route_utils import FnIndexInferError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from epalm.demo import logs
from epalm.demo.problems import UNEXPECTED, shown

UNFIT = (
    "These values do not fit the endpoint: the page and /gradio_api/info say what it takes, "
    "and a file must be uploaded first."
)
UPLOADED = "/gradio_api/file="  # in the address of an uploaded file
FOREIGN = "Files are not fetched from other hosts: upload the file, or send it as a data: URL."


class GuardedBlocks(gr.Blocks):
    """A page whose API answers what it cannot read as it answers all that it refuses."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        """As Gradio's, which raises what it likes about values that no page would send."""
        for file in files_in(inputs):
            name_uploaded(file)
            if elsewhere(file):
                raise shown("no-file", FOREIGN)
        try:
            return await super().preprocess_data(block_fn, inputs, *args, **kwargs)
        except gr.Error:
            raise
        except Exception as error:
            endpoint = block_fn.api_name or block_fn.name
            logs.event("values that do not fit", endpoint=str(endpoint), type=type(error).__name__)
            raise shown("bad-request", UNFIT) from None

    async def process_api(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As Gradio's; the log tells what was unexpected, and nobody else is told.

        A single call without a session of its own is one that is named like the call. Gradio remembers it,
        a third of a megabyte, among ten thousand others; nobody can come back to it, so it is forgotten.
        """
        over, session = True, kwargs.get("session_hash")
        try:
            result = await super().process_api(*args, **kwargs)
            over = not result.get("is_generating")
            return result
        except gr.Error:
            raise
        except Exception as error:
            logs.exception(error)
            raise shown("internal", UNEXPECTED) from None
        finally:
            if over and session is not None and session == kwargs.get("event_id"):
                self.state_holder.session_data.pop(session, None)
                self.state_holder.time_last_used.pop(session, None)


def files_in(value: Any) -> Iterator[dict[str, Any]]:
    """The files that a request names, however deep."""
    found = [value]
    while found:
        value = found.pop()
        if isinstance(value, dict):
            if "path" in value:
                yield value
            found += value.values()
        elif isinstance(value, list):
            found += value


def name_uploaded(file: dict[str, Any]) -> None:
    """Name an uploaded file by its path where it is named by its address, as tools of MCP do.

    Nothing is fetched, whatever the host; and Gradio refuses paths at which nothing was uploaded.
    """
    if elsewhere(file):
        path = file["path"].partition(UPLOADED)[2]
        if path:
            file |= {"path": unquote(path), "url": None}


def elsewhere(file: dict[str, Any]) -> bool:
    """Whether it lies on another host, from which Gradio would fetch it."""
    return isinstance(file["path"], str) and file["path"].lower().startswith(("http:", "https:"))


def no_such_endpoint(request: Request, error: Exception | None = None) -> Response:
    """For a call of what is no endpoint."""
    says = "There is no such endpoint here: the page and /gradio_api/info list them."
    return JSONResponse({"error": says, "code": "bad-request"}, 404)


def unfit(request: Request, error: Exception) -> Response:
    """For a call with values that the endpoint does not take."""
    return JSONResponse({"error": UNFIT, "code": "bad-request"}, 422)


def broken_off(request: Request, error: Exception) -> Response:
    """For a client that was gone before its upload was complete."""
    logs.event("upload broken off")
    return Response(status_code=400)


def unexpected(request: Request, error: Exception) -> Response:
    """For what went wrong outside of a handler."""
    logs.exception(error)
    return JSONResponse({"error": UNEXPECTED, "code": "internal"}, 500)


# Gradio looks endpoints up by name, in its second version of calls among its own descriptions of them.
ANSWERS = {
    FnIndexInferError: no_such_endpoint,
    KeyError: no_such_endpoint,
    TypeError: unfit,
    ClientDisconnect: broken_off,
    Exception: unexpected,
}
