"""The web server around the page: start, health and metrics, who may come in, and a clean end."""

from __future__ import annotations

import argparse
import base64
import binascii
import os
import secrets
import signal
import threading
import time
from collections.abc import Sequence
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from epalm.cli.terminal import REFUSED, quiet_libraries, say
from epalm.demo import logs, options, uploads
from epalm.demo.flow import Flow
from epalm.demo.gpu import GPU
from epalm.demo.guarded import ANSWERS, no_such_endpoint
from epalm.demo.limits import Limits, RateLimit
from epalm.demo.models import Models, Progress, offer
from epalm.demo.page import page
from epalm.demo.service import EXAMPLES, Service
from epalm.demo.theme import CSS, JS, theme
from epalm.errors import EPALMError
from epalm.language_model import DTYPES
from epalm.media.reader import ReadingProcess
from epalm.model import EPALM

# The page may ask this server alone. Gradio's own scripts and styles are inline, and some use eval.
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "connect-src 'self' data: blob: ws: wss:; object-src 'none'; base-uri 'self'"
)
ICON = EXAMPLES.parent / "icon.svg"
READERS = 3  # processes that read files
SESSIONS = 1000  # visits that are remembered; each takes a third of a megabyte
# Without a password: what watches the service has none, nor has the library when it starts.
OPEN = ("/health", "/gradio_api/startup-events")
DELIVERY = 3.0  # seconds at the end, for answers that are made but not yet fetched
SENDING = 0.3  # and for what was fetched to pass through the socket
# Gradio's way to functions of the page's parts, of which none has any. It takes files, though, and those
# whose upload breaks off stay outside of the folder of uploads.
UNUSED = "/component_server"
UPLOADS_PER_REQUEST = 2  # uploads count against a client's rate, but a request may need two


class Gate:
    """Asks for the password and says what the page may load, around everything that is served.

    Args:
        auth: "NAME:PASSWORD", or "" to let everybody in.
    """

    def __init__(self, app: ASGIApp, auth: str = ""):
        self.app, self.auth = app, auth.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.auth and scope["path"] not in OPEN and not self._known(scope):
            await PlainTextResponse(
                "A name and a password are needed here.",
                status_code=401,
                headers={"WWW-Authenticate": 'Basic realm="eP-ALM", charset="UTF-8"'},
            )(scope, receive, send)
            return
        if scope["path"].rstrip("/").endswith(UNUSED):
            await no_such_endpoint(Request(scope))(scope, receive, send)
            return

        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = [
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
                message = {**message, "headers": [*message.get("headers", []), *headers]}
            await send(message)

        await self.app(scope, receive, send_with_policy)

    def _known(self, scope: Scope) -> bool:
        header = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, encoded = header.partition(b" ")
        try:
            given = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            return False
        return kind.lower() == b"basic" and secrets.compare_digest(given, self.auth)


class UploadRate:
    """Refuses uploads of a client that sends too many; a Gradio event cannot, as it comes after them."""

    def __init__(self, app: ASGIApp, service: Service):
        self.app, self.service = app, service
        self.rate = RateLimit(UPLOADS_PER_REQUEST * service.rate.per_minute)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        uploads = scope["type"] == "http" and scope["path"].endswith("/upload")
        if uploads and (wait := self.rate.take(self.service.client(gr.Request(Request(scope))))):
            problem = {
                "error": f"Too many uploads; please wait {wait:.0f} seconds.",
                "code": "too-many-requests",
            }
            await JSONResponse(problem, 429, {"Retry-After": f"{wait:.0f}"})(scope, receive, send)
            return
        await self.app(scope, receive, send)


def routes(service: Service) -> list[Route]:
    """/health for what watches the service, /metrics for Prometheus."""

    def health(request: Request) -> Response:
        state = service.models.state(None)
        failed = state is not None and state.failure is not None
        ready = service.models.ready  # a default that made room for another model comes back when asked
        word = "closing" if service.flow.closed else "failed" if failed else "ok" if ready else "loading"
        # A server whose first model is on its way is well: it answers, and says so.
        code = 503 if word in ("closing", "failed") else 200
        facts = {"status": word, "model": service.models.default, "running": service.flow.running}
        return JSONResponse(facts, code, {"Cache-Control": "no-store"})

    def metrics(request: Request) -> Response:
        return Response(service.metrics.page(), media_type="text/plain; version=0.0.4")

    return [Route("/health", health), Route("/metrics", metrics)]


def launch(
    blocks: gr.Blocks, host: str, port: int | None, service: Service, auth: str = "", **launched: Any
) -> str:
    """Serve the page; returns its address. EPALMError if the port is taken."""
    blocks.queue(max_size=None)  # the line says who waits, and refuses with a sentence
    try:
        _, url, _ = blocks.launch(
            server_name=host,
            server_port=port,
            theme=theme(),
            css=CSS,
            js=JS,
            max_file_size=f"{service.limits.megabytes}mb",
            state_session_capacity=SESSIONS,
            max_threads=service.flow.most + 20,  # those who wait hold one each; so do, briefly, the refused
            app_kwargs={
                "routes": routes(service),
                "exception_handlers": ANSWERS,
                "middleware": [Middleware(Gate, auth=auth), Middleware(UploadRate, service=service)],
            },
            footer_links=["api"],
            favicon_path=str(ICON),
            ssr_mode=False,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            _frontend=False,  # else a busy machine, where the page takes 3 seconds, ends the server
            **launched,
        )
    except OSError as error:
        raise EPALMError(
            f"Port {port} on {host} cannot be used, so choose another one with --port ({error})."
        ) from None
    return url


def make_service(args: argparse.Namespace) -> Service:
    """The service that the options describe, with its first model on the way into memory."""

    def load(name: str, progress: Progress) -> EPALM:
        def both(message: str) -> None:
            say(message)
            progress(message)

        own = name == args.model  # the backbones of the options stand in for the first model's
        model = EPALM.from_pretrained(
            name,
            device=args.device,
            dtype=DTYPES[args.dtype] if args.dtype else None,
            lm=args.lm if own else None,
            encoder=args.encoder if own else None,
            progress=both,
        )
        model.reader = reader
        return model

    reader = ReadingProcess(workers=READERS).start()
    offers = [offer(args.model, say, args.lm, args.encoder)]
    offers += [offer(name, say) for name in dict.fromkeys(args.also) if name != args.model]
    limits = Limits(
        args.max_megabytes, args.max_megapixels, args.max_seconds, args.max_question, args.max_answer_seconds
    )
    return Service(
        Models(offers, load, args.models_in_memory),
        limits,
        Flow(args.waiting),
        RateLimit(args.rate),
        args.keep_minutes * 60.0,
        args.behind_proxy,
        reader,
    )


def main(argv: Sequence[str] | None = None, description: str = "") -> int:
    """Serve until Ctrl-C or a termination signal; then finish what runs, delete the uploads and end."""
    args = options.parse(argv, description, os.environ)
    logs.start(args.logs)
    quiet_libraries()
    over = threading.Event()
    service = blocks = None
    try:
        if args.mcp and args.auth:
            raise EPALMError("The tools of --mcp ask no password: put a proxy in front instead of --auth.")
        uploads.claim(args.uploads)
        service = make_service(args)
        blocks = page(service)
        url = launch(
            blocks,
            args.host,
            args.port,
            service,
            args.auth,
            mcp_server=args.mcp,
            root_path=args.root_path or None,
        )
        signal.signal(signal.SIGTERM, lambda *_: over.set())
        service.uploads.keep_purging()
        loading = service.models.begin(None)
        if GPU is not None:  # a lent GPU's calls run in copies of this process, which need the model in it
            loading.done.wait()
        say(f"Open {url} in a browser; Ctrl-C ends it.")
        over.wait()
    except EPALMError as error:
        say(str(error))
        return REFUSED
    except KeyboardInterrupt:
        pass
    if service is not None and blocks is not None:  # else it was ended before there was something to close
        close(service, blocks, args.closing_seconds)
    return 0


def close(service: Service, blocks: gr.Blocks, seconds: float) -> None:
    """Let what runs finish, for some seconds, refuse what comes meanwhile, and delete the uploads.

    Another Ctrl-C ends the waiting.
    """
    logs.event("closing", running=service.flow.running)
    finished = False
    try:
        finished = service.flow.close(seconds)
        if finished:
            deliver(blocks)
    except KeyboardInterrupt:
        pass
    try:
        blocks.close(verbose=False)
    finally:
        service.uploads.stop()
    logs.event("closed", finished=finished)


def deliver(blocks: gr.Blocks) -> None:
    """Wait until the last answers are with those who asked: Gradio drops what it has not sent when it closes.

    Messages to visitors who are gone are never fetched, so this ends after some seconds in any case.
    """
    queue, end = blocks._queue, time.monotonic() + DELIVERY
    while time.monotonic() < end:
        unsent = any(not each.empty() for each in list(queue.pending_messages_per_session.values()))
        if not (unsent or any(queue.active_jobs)):
            break
        time.sleep(0.05)
    time.sleep(SENDING)
