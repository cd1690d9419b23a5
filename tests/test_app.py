"""The demo through its endpoints: the same events that the page's buttons fire, on a tiny random model."""

import itertools
import os
import socket
import time
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import app
from epalm import EPALM


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> EPALM:
    return EPALM.from_pretrained(tiny_model_dir, device="cpu")


@pytest.fixture(scope="module")
def client(model: EPALM, tmp_path_factory: pytest.TempPathFactory) -> Client:
    """A client of a page that runs in this process, on a free port, while no name can be looked up."""
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
    look_up = socket.getaddrinfo

    def local_only(host, *args, **kwargs):
        if host not in ("127.0.0.1", "localhost", b"127.0.0.1", None):
            raise AssertionError(f"the demo asked for {host}")
        return look_up(host, *args, **kwargs)

    patch.setattr(socket, "getaddrinfo", local_only)
    blocks = app.page(model, "Licences stand here.")
    yield Client(app.launch(blocks, "127.0.0.1", None), verbose=False)
    blocks.close(verbose=False)
    patch.undo()


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("pictures") / "red.png"
    Image.new("RGB", (40, 30), "red").save(path)
    return str(path)


def test_caption_is_that_of_the_model(client, model, picture):
    text, taken = client.predict(handle_file(picture), api_name="/caption")
    assert text == model.caption(picture)
    assert taken.startswith("Took ") and taken.endswith(" seconds.")


def test_ask_with_beams_and_length(client, model, picture):
    text, _ = client.predict(handle_file(picture), "what is this?", 3, 4, api_name="/ask")
    assert text == model.ask(picture, "what is this?", beams=3, max_new_tokens=4)


def test_text_arrives_piece_by_piece(client, picture):
    job = client.submit(handle_file(picture), 1, 12, api_name="/caption")
    job.result(timeout=60)
    texts = [text for text, _ in job.outputs()]
    assert len(texts) > 3
    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))


def test_only_the_tasks_are_endpoints(client):
    assert sorted(client.view_api(return_format="dict")["named_endpoints"]) == ["/ask", "/caption"]


def bad_files(folder: Path) -> dict[str, Path]:
    files = {name: folder / name for name in ("text.jpg", "empty.png", "cut.jpg")}
    files["text.jpg"].write_text("no picture <b>at all</b>")
    files["empty.png"].touch()
    Image.effect_noise((200, 200), 50).save(files["cut.jpg"])
    files["cut.jpg"].write_bytes(files["cut.jpg"].read_bytes()[:2000])
    return files


@pytest.mark.parametrize("name", ["text.jpg", "empty.png", "cut.jpg"])
def test_a_bad_file_gets_one_sentence_with_its_name_and_the_next_request_works(
    client, picture, tmp_path, name
):
    with pytest.raises(AppError) as refused:
        client.predict(handle_file(str(bad_files(tmp_path)[name])), api_name="/caption")
    message = str(refused.value)
    assert name in message and message.endswith(".") and os.sep not in message
    assert client.predict(handle_file(picture), api_name="/caption")[0]


@pytest.mark.parametrize(
    "size, mode", [((1, 1), "RGB"), ((8000, 6250), "L"), ((40, 30), "CMYK"), ((40, 30), "I;16")]
)
def test_unusual_pictures_are_captioned(client, tmp_path, size, mode):
    path = tmp_path / "unusual.tif"
    Image.new(mode, size).save(path, compression="tiff_lzw" if mode != "CMYK" else None)
    assert client.predict(handle_file(str(path)), api_name="/caption")[0]


@pytest.mark.parametrize(
    "question, says", [("", "empty"), ("why " * 2500, "10000 characters|9999 characters")]
)
def test_a_bad_question_gets_one_sentence_and_the_next_request_works(client, picture, question, says):
    with pytest.raises(AppError, match=says):
        client.predict(handle_file(picture), question, api_name="/ask")
    assert client.predict(handle_file(picture), "what?", api_name="/ask")[0]


def test_a_missing_picture_is_asked_for(client):
    with pytest.raises(AppError, match="There is no picture yet"):
        client.predict(None, api_name="/caption")


def test_a_file_of_the_server_cannot_be_named(client, picture):
    """Only uploads are read: the path of another file, even of a picture, is refused."""
    named = {"path": picture, "meta": {"_type": "gradio.FileData"}}
    endpoint = f"{client.src}gradio_api/call/caption"
    event = httpx.post(endpoint, json={"data": [named, 1, 0]}).json()["event_id"]
    events = httpx.get(f"{endpoint}/{event}", timeout=60).text
    assert "event: error" in events and "Took" not in events


@pytest.mark.parametrize("beams, length", [(0, 0), (1000, 0), (1, -1), (1, 10**6)])
def test_numbers_out_of_range_are_refused(client, picture, beams, length):
    with pytest.raises(AppError, match="Beams go from 1 to 8"):
        client.predict(handle_file(picture), beams, length, api_name="/caption")


def test_an_unexpected_failure_gets_a_general_sentence_and_its_traceback_stays_on_the_server(
    client, model, picture, monkeypatch, capfd
):
    def fail(*_):
        raise RuntimeError("a secret of the server")
        yield

    with monkeypatch.context() as patch:
        patch.setattr(model, "stream", fail)
        with pytest.raises(AppError) as refused:
            client.predict(handle_file(picture), api_name="/caption")
    assert "Something went wrong" in str(refused.value) and "secret" not in str(refused.value)
    assert "a secret of the server" in capfd.readouterr().err
    assert client.predict(handle_file(picture), api_name="/caption")[0]


def test_cancelling_frees_the_model(client, model, picture, monkeypatch):
    """Stop closes the stream: the generation ends and the next request runs."""
    real, closed = model.stream, []

    def watched(*args):
        try:
            for text in real(*args):
                time.sleep(0.05)
                yield text
        finally:
            closed.append(True)

    monkeypatch.setattr(model, "stream", watched)
    job = client.submit(handle_file(picture), 1, 90, api_name="/caption")
    while len(job.outputs()) < 3:
        time.sleep(0.02)
    job.cancel()
    start = time.perf_counter()
    assert client.predict(handle_file(picture), 1, 8, api_name="/caption")[0]
    assert closed and time.perf_counter() - start < 10


def test_a_taken_port_and_a_missing_model_end_with_one_sentence(capsys, tiny_model_dir):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert app.main(["--model", str(tiny_model_dir), "--port", str(port)]) == 2
    assert f"Port {port}" in capsys.readouterr().err.splitlines()[-1]
    assert app.main(["--model", "no such model"]) == 2
    assert "'no such model'" in capsys.readouterr().err.splitlines()[-1]
