"""The server around the page: health, metrics, logs, passwords, rates, and what the environment sets."""

from __future__ import annotations

import ast
import base64
import io
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import gradio as gr
import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from epalm import EPALM
from epalm.demo import history, logs, options
from epalm.demo.answering import Settings, with_mask
from epalm.demo.handlers import Handlers
from epalm.demo.limits import RateLimit
from epalm.demo.models import Models
from epalm.demo.page import page
from epalm.demo.server import close, launch, main
from epalm.demo.service import EXAMPLES, Service


@pytest.fixture(scope="module")
def service(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
    model = EPALM.from_pretrained(tiny_model_dir, device="cpu")
    yield Service(Models.of(model, "Licences stand here."), rate=RateLimit(1000))
    patch.undo()


@pytest.fixture(scope="module")
def blocks(service: Service) -> gr.Blocks:
    return page(service)


@pytest.fixture(scope="module")
def url(service: Service, blocks: gr.Blocks) -> Iterator[str]:
    yield launch(blocks, "127.0.0.1", None, service, auth="ann:secret")
    blocks.close(verbose=False)


@pytest.fixture(scope="module")
def client(url: str) -> Client:
    return Client(url, verbose=False, headers=KEY)


FILE: dict = {"meta": {"_type": "gradio.FileData"}}  # Gradio itself reads what is marked so
EXAMPLE = FILE | {"path": str(EXAMPLES / "cat.jpg")}
KEY = {"Authorization": "Basic YW5uOnNlY3JldA=="}  # ann:secret


def test_health_is_open_and_everything_else_needs_the_password(url, service):
    health = httpx.get(f"{url}health")
    assert health.json() == {"status": "ok", "model": service.models.default, "running": 0}
    for path in ("", "metrics", "config", "gradio_api/info"):
        assert httpx.get(url + path).status_code == 401
        assert httpx.get(url + path, headers={"Authorization": "Basic bm9ib2R5OmE="}).status_code == 401
        assert httpx.get(url + path, headers={"Authorization": "Basic ä".encode()}).status_code == 401
        assert httpx.get(url + path, headers=KEY).status_code == 200


def test_the_page_may_load_nothing_from_other_hosts(url):
    policy = httpx.get(url, headers=KEY).headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy


def test_requests_are_counted_by_outcome_and_logged_without_what_was_sent(
    url, client, service, tmp_path, capfd
):
    secret = tmp_path / "my secret name.png"
    secret.write_bytes(b"no picture")
    logs.start("json")
    try:
        with pytest.raises(AppError) as refused:
            client.predict(handle_file(str(secret)), "my secret question", api_name="/ask_image")
    finally:
        logs.start("text")
    assert refused.value.title.endswith("[bad-file]")
    [line] = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    assert line["event"] == "request" and line["endpoint"] == "ask_image" and line["outcome"] == "bad-file"
    assert line["seconds"] >= 0 and "secret" not in json.dumps(line)
    counted = httpx.get(f"{url}metrics", headers=KEY).text
    assert 'epalm_requests_total{endpoint="ask_image",outcome="bad-file"} 1.0' in counted
    assert re.search(r"epalm_request_seconds_count{endpoint=\"ask_image\"} 1", counted)
    assert "epalm_models_loaded 1.0" in counted and "process_resident_memory_bytes" in counted


@pytest.mark.parametrize("problem", [BrokenPipeError, OSError, ValueError])
def test_a_log_that_cannot_be_written_costs_nothing_else(monkeypatch, problem):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise problem

    monkeypatch.setattr(sys, "stderr", Gone())
    logs.event("request", endpoint="ask_image")


@pytest.mark.parametrize(
    "data, code",
    [
        ([None, "what?", 1, 0, None], "no-file"),
        ([{"path": "/etc/passwd"}, "what?", 1, 0, None], "no-file"),
        ([{"path": "http://127.0.0.1/x.png"}, "what?", 1, 0, None], "no-file"),
        ([{"path": "\0"}, "what?", 1, 0, None], "no-file"),
        ([{"path": "\ud83d"}, "what?", 1, 0, None], "no-file"),
        ([{"path": str(EXAMPLES / ("x" * 300))}, "what?", 1, 0, None], "no-file"),
        ([EXAMPLE, "what \ud83d?", 1, 0, None], "bad-question"),
        ([EXAMPLE, "what?", 1, 0, "\ud83d"], "bad-model"),
        ([FILE | {"path": "/etc/passwd"}, "what?", 1, 0, None], "bad-request"),
        ([FILE | {"path": "https://example.org/x.png"}, "what?", 1, 0, None], "no-file"),
        (
            [FILE | {"path": "https://example.org/gradio_api/file=/etc/passwd"}, "what?", 1, 0, None],
            "bad-request",
        ),
        ([FILE | {"path": 7}, "what?", 1, 0, None], "bad-request"),
        ([EXAMPLE], "bad-request"),
        ([], "bad-request"),
        ([EXAMPLE, "what?", 1, 0, {"__type__": "update"}], "bad-model"),
        ([EXAMPLE, "what?", 1, 0, ["tiny"]], "bad-model"),
    ],
)
def test_what_no_page_would_send_gets_a_code(url, data, code):
    endpoint = f"{url}gradio_api/call/ask_image"
    sent = {"content": json.dumps({"data": data}), "headers": KEY | {"Content-Type": "application/json"}}
    event = httpx.post(endpoint, **sent).json()["event_id"]
    assert f"[{code}]" in httpx.get(f"{endpoint}/{event}", timeout=60, headers=KEY).text


@pytest.mark.parametrize("path", ["call/nothing", "call/v2/nothing", "run/nothing"])
def test_a_call_of_what_is_no_endpoint_is_told_so(url, path):
    answer = httpx.post(f"{url}gradio_api/{path}", json={"data": []}, headers=KEY)
    assert answer.status_code == 404 and answer.json()["code"] == "bad-request"


def test_a_single_call_is_forgotten_when_it_is_over(url, blocks):
    """Gradio keeps a third of a megabyte for each session; a call without one can never come back."""
    endpoint = f"{url}gradio_api/call/caption_image"
    for data in ([EXAMPLE, 1, 0, None], [EXAMPLE, 99, 0, None], []):
        event = httpx.post(endpoint, json={"data": data}, headers=KEY).json()["event_id"]
        httpx.get(f"{endpoint}/{event}", timeout=60, headers=KEY)
        assert event not in blocks.state_holder.session_data


def broken_off(blocks: gr.Blocks, path: str) -> int:
    """Begin an upload to this path and be gone; the status of the answer that nobody gets."""
    head = b'--b\r\nContent-Disposition: form-data; name="files"; filename="x.mp4"\r\n\r\n'
    came = iter([{"type": "http.request", "body": head + b"half", "more_body": True}])
    sent: list[dict] = []

    async def receive() -> dict:
        return next(came, {"type": "http.disconnect"})

    async def send(message: dict) -> None:
        sent.append(message)

    headers = {**KEY, "Content-Type": "multipart/form-data; boundary=b"}.items()
    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
    }
    with ThreadPoolExecutor(1) as elsewhere:  # a browser of other tests has this thread's loop
        elsewhere.submit(anyio.run, blocks.app, scope, receive, send).result()
    return sent[0]["status"]


def test_an_upload_that_breaks_off_is_one_line_in_the_log(url, blocks, capfd):
    assert broken_off(blocks, "/gradio_api/upload") == 400
    assert capfd.readouterr().err == "upload broken off\n"


@pytest.mark.parametrize("path", ["component_server", "component_server/"])
def test_no_file_is_taken_for_functions_of_the_pages_parts(url, blocks, tmp_path, monkeypatch, path):
    """None of them has any, and Gradio would leave the file outside of the folder of uploads."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert not any(getattr(part, "server_fns", None) for part in blocks.blocks.values())
    assert broken_off(blocks, f"/gradio_api/{path}") == 404
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_model_is_refused_by_name(client, tmp_path, picture):
    with pytest.raises(AppError, match="There is no model 'other' here; there are: model.") as refused:
        client.predict(handle_file(picture), 1, 0, "other", api_name="/caption_image")
    assert refused.value.title.endswith("[bad-model]")


def test_gradio_lets_nobody_wait_who_should_be_told_that_the_line_is_full(url, client, blocks, picture):
    """The flow refuses with a sentence what is too much; Gradio's own limits would hold it back unseen."""
    runs = {"run", "rerun", "compare", "show_explanation", "explain", "caption", "ask", "caption_image"}
    limits = {fn.name: fn.concurrency_limit for fn in blocks.fns.values() if fn.name in runs}
    assert limits == dict.fromkeys(runs)
    client.predict(handle_file(picture), api_name="/caption_image")
    [caption] = [fn for fn in blocks.fns.values() if fn.name == "caption_image"]
    assert blocks._queue.event_queue_per_concurrency_id[caption.concurrency_id].concurrency_limit is None


def test_a_client_over_its_rate_is_told_how_long_to_wait(client, service, picture, monkeypatch):
    monkeypatch.setattr(service, "rate", RateLimit(1))
    client.predict(handle_file(picture), api_name="/caption")
    with pytest.raises(AppError, match="please wait") as refused:
        client.predict(handle_file(picture), api_name="/caption")
    assert refused.value.title.endswith("[too-many-requests]")


def test_files_that_were_only_shown_are_deleted_on_request_but_not_another_visitors(service):
    handlers, ann, bob = Handlers(service), gr.Request(session_hash="ann"), gr.Request(session_hash="bob")
    mine, shared = (service.uploads.folder / name for name in ("mine.wav", "shared.wav"))
    for file, visitors in ((mine, [ann]), (shared, [ann, bob])):
        file.write_bytes(b"no sound")
        for visitor in visitors:
            handlers.perceived("audio", {"path": str(file)}, False, None, visitor)
    handlers.delete_uploads(ann)
    assert not mine.exists() and shared.exists()
    handlers.delete_uploads(bob)
    assert not shared.exists()


def test_every_endpoint_is_a_tool_of_the_model_context_protocol(picture, service):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    blocks = page(service)
    url = launch(blocks, "127.0.0.1", None, service, mcp_server=True)
    content = Path(picture).read_bytes()
    with httpx.Client() as client:
        uploaded = client.post(f"{url}gradio_api/upload", files={"files": ("a b.png", content)}).json()[0]
    media = [
        "data:image/png;base64," + base64.b64encode(content).decode(),
        f"{url}gradio_api/file={uploaded}",
        f"{url}gradio_api/file={quote(uploaded)}",
    ]

    async def talk() -> tuple[list[str], list[str]]:
        async with (
            streamablehttp_client(f"{url}gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            names = sorted(tool.name for tool in (await session.list_tools()).tools)
            results = [await session.call_tool("caption_image", {"media": each}) for each in media]
            return names, [result.content[0].text for result in results]

    with ThreadPoolExecutor(1) as elsewhere:  # a browser of other tests has this thread's loop
        names, texts = elsewhere.submit(anyio.run, talk).result()
    blocks.close(verbose=False)
    assert names == ["ask", "ask_image", "caption", "caption_image", "explain"]
    model = service.models.begin(None).result()
    for text in texts:
        assert ast.literal_eval(text)[0] == model.caption(picture)  # and the time it took


def interrupted(*_: Any) -> None:
    """What Ctrl-C does."""
    raise KeyboardInterrupt


def test_at_the_end_nobody_comes_in_and_no_upload_is_left(tiny_model_dir, tmp_path, monkeypatch, picture):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    service = Service.of(EPALM.from_pretrained(tiny_model_dir, device="cpu"))
    blocks = page(service)
    address = launch(blocks, "127.0.0.1", None, service)
    Client(address, verbose=False).predict(handle_file(picture), api_name="/caption")
    assert list(tmp_path.rglob("*.png"))
    close(service, blocks, 5)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}health")


def test_an_answer_that_is_made_when_the_server_closes_still_arrives(
    tiny_model_dir, tmp_path, monkeypatch, picture
):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    service = Service.of(model := EPALM.from_pretrained(tiny_model_dir, device="cpu"))
    blocks, made, entry = page(service), threading.Event(), history.entry

    def late(*args: Any) -> history.Entry:
        """The step between the model's last word and what is sent, held up."""
        made.set()
        time.sleep(0.5)
        return entry(*args)

    monkeypatch.setattr(history, "entry", late)
    client = Client(launch(blocks, "127.0.0.1", None, service), verbose=False)
    job = client.submit(handle_file(picture), api_name="/caption")
    assert made.wait(60)
    close(service, blocks, 5)
    assert job.result(60)[0] == model.caption(picture)


def test_who_ends_the_server_again_does_not_wait_and_no_upload_is_left(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    service = Service.of(EPALM.from_pretrained(tiny_model_dir, device="cpu"))
    blocks = page(service)
    launch(blocks, "127.0.0.1", None, service)
    (tmp_path / "upload.png").touch()
    monkeypatch.setattr(service.flow, "close", interrupted)
    close(service, blocks, 5)
    assert list(tmp_path.iterdir()) == [] and not blocks.is_running


def test_a_server_that_is_ended_before_it_serves_ends_in_silence(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))  # main changes it
    monkeypatch.setattr("epalm.demo.server.make_service", interrupted)
    assert main(["--uploads", str(tmp_path)]) == 0


def test_a_folder_that_uploads_cannot_be_kept_in_is_named_in_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    (tmp_path / "file").touch()
    assert main(["--uploads", str(tmp_path / "file" / "uploads")]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"Uploads cannot be kept in {tmp_path / 'file' / 'uploads'}" in last and "--uploads" in last


def test_where_a_gpu_is_lent_for_a_call_no_scheduler_is_needed(tiny_model_dir, picture, monkeypatch):
    monkeypatch.setattr("epalm.demo.models.GPU", object())
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(Path(picture).parent))
    service = Service.of(model := EPALM.from_pretrained(tiny_model_dir, device="cpu"))
    assert service.models.begin(None).scheduler is None
    handlers, upload = Handlers(service), {"path": picture}
    *_, (text, _, _) = handlers.answers("caption", "image", upload, None, Settings(), None)
    assert text == model.caption(picture)
    *_, (text, _, _) = handlers.answers("ask", "image", upload, "why?", Settings(mask="reference"), None)
    assert text == with_mask(model, "reference").ask(picture, "why?")
    *_, (_, explanation) = handlers.explanation(None, upload, None, Settings(), None)
    assert explanation.text == model.caption(picture)


def test_every_option_is_an_environment_variable():
    environ = {
        "EPALM_PORT": "8001",
        "EPALM_MCP": "yes",
        "EPALM_ALSO": "a, b",
        "EPALM_DTYPE": "float16",
        "EPALM_RATE": "",
    }
    args = options.parse(["--port", "9000", "--also", "c"], "", environ)
    assert (args.port, args.mcp, args.also, args.dtype, args.rate) == (
        9000,
        True,
        ["a", "b", "c"],
        "float16",
        0,
    )
    assert options.parse([], "", {"EPALM_MCP": "0"}).mcp is False


@pytest.mark.parametrize(
    "name, value",
    [("PORT", "many"), ("PORT", "0"), ("PORT", "99999"), ("MCP", "perhaps"), ("LOGS", "xml"), ("RATE", "-1")],
)
def test_a_variable_with_a_bad_value_is_refused_as_an_option_is(name, value, capsys):
    with pytest.raises(SystemExit):
        options.parse([], "", {f"EPALM_{name}": value})
    assert value in capsys.readouterr().err
