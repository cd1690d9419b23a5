"""The demo through its endpoints: the same events that the page's buttons fire, on a tiny random model."""

import itertools
import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import av
import gradio as gr
import httpx
import numpy as np
import pytest
import soundfile
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from epalm import EPALM
from epalm.demo.page import page
from epalm.demo.server import launch, main
from epalm.demo.service import EXAMPLES, Service
from epalm.demo.texts import TABS
from epalm.media import previews
from epalm.serving.running import RunningBatch
from tests.demo.conftest import until

MEDIA = files("gradio") / "media_assets"
HALF = "\ufffd"  # a character that the length cuts is not streamed


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> EPALM:
    return EPALM.from_pretrained(tiny_model_dir, device="cpu")


@contextmanager
def served(model: EPALM, uploads: Path) -> Iterator[Client]:
    """A client of a page that runs in this process, on a free port, while no name can be looked up and no
    program be found, FFmpeg for one."""
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADIO_TEMP_DIR", str(uploads))
    patch.setenv("PATH", "")
    look_up = socket.getaddrinfo

    def local_only(host, *args, **kwargs):
        if host not in ("127.0.0.1", "localhost", b"127.0.0.1", None):
            raise AssertionError(f"the demo asked for {host}")
        return look_up(host, *args, **kwargs)

    patch.setattr(socket, "getaddrinfo", local_only)
    service = Service.of(model, "Licences stand here.")
    blocks = page(service)
    yield Client(launch(blocks, "127.0.0.1", None, service), verbose=False)
    blocks.close(verbose=False)
    patch.undo()


@pytest.fixture(scope="module")
def client(model: EPALM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with served(model, tmp_path_factory.mktemp("uploads")) as client:
        yield client


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
    assert sorted(client.view_api(return_format="dict")["named_endpoints"]) == [
        "/ask",
        "/ask_image",
        "/caption",
        "/caption_image",
        "/explain",
    ]


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

    with monkeypatch.context() as patch:
        patch.setattr(model, "features", fail)
        with pytest.raises(AppError) as refused:
            client.predict(handle_file(picture), api_name="/caption")
    assert "Something went wrong" in str(refused.value) and "secret" not in str(refused.value)
    assert "a secret of the server" in capfd.readouterr().err
    assert client.predict(handle_file(picture), api_name="/caption")[0]


def test_cancelling_frees_the_model(client, model, picture, monkeypatch):
    """Stop closes the stream: the generation ends and the next request runs."""
    step, keep, closed = RunningBatch.step, RunningBatch.keep, []

    def watched(batch, places):
        closed.append(True)
        keep(batch, places)

    monkeypatch.setattr(RunningBatch, "keep", watched)
    monkeypatch.setattr(RunningBatch, "step", lambda batch: (time.sleep(0.05), step(batch)))
    job = client.submit(handle_file(picture), 1, 90, api_name="/caption")
    until(lambda: len(job.outputs()) >= 3, "the answer grows", job)
    job.cancel()
    start = time.perf_counter()
    assert client.predict(handle_file(picture), 1, 8, api_name="/caption")[0]
    assert closed and time.perf_counter() - start < 10


def test_a_taken_port_and_a_missing_model_end_with_one_sentence(
    capsys, tiny_model_dir, tmp_path, monkeypatch
):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))  # main changes it
    uploads = ["--uploads", str(tmp_path)]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--model", str(tiny_model_dir), "--port", str(port), *uploads]) == 2
    assert f"Port {port}" in capsys.readouterr().err.splitlines()[-1]
    assert main(["--model", "no such model", *uploads]) == 2
    assert "'no such model'" in capsys.readouterr().err.splitlines()[-1]


# Videos and sounds


@pytest.fixture(scope="module")
def senses(tiny_senses_dir) -> EPALM:
    return EPALM.from_pretrained(tiny_senses_dir, device="cpu")


@pytest.fixture(scope="module")
def all_tabs(senses: EPALM, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with served(senses, tmp_path_factory.mktemp("uploads")) as client:
        yield client


def film(path: Path, codec: str, length: int = 30) -> Path:
    """A video without sound, at 25 frames per second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(length):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 250 * i // length, np.uint8), "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def tone(path: Path, seconds: float, rate: int = 16_000) -> Path:
    """A low note, and a high one over its second half."""
    time = np.arange(round(seconds * rate)) / rate
    high = np.sin(2 * np.pi * 5000 * time) * (time > seconds / 2)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 300 * time) + 0.3 * high, rate)
    return path


@pytest.mark.parametrize("modality, file", [("video", "videos/b.mp4"), ("audio", "audio/sax.wav")])
def test_real_files_are_captioned_and_asked_about(all_tabs, senses, modality, file):
    path = str(MEDIA / file)
    text, taken = all_tabs.predict(handle_file(path), 1, 6, api_name=f"/caption_{modality}")
    assert text == senses.caption(path, max_new_tokens=6).rstrip(HALF)
    assert taken.startswith("Took ")
    text, _ = all_tabs.predict(handle_file(path), "what?", 1, 6, api_name=f"/ask_{modality}")
    assert text == senses.ask(path, "what?", max_new_tokens=6).rstrip(HALF)


def test_all_tabs_have_their_endpoints(all_tabs):
    named = all_tabs.view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {
        *("/caption", "/ask", "/caption_image", "/ask_image", "/caption_video", "/ask_video", "/frames"),
        *("/caption_audio", "/ask_audio", "/spectrogram", "/explain"),
    }


@pytest.mark.parametrize("name, codec", [("film.mp4", "libx264"), ("recording.webm", "libvpx")])
def test_the_frames_that_the_model_sees_are_shown_with_their_times(all_tabs, tmp_path, name, codec):
    path = film(tmp_path / name, codec, length=100)  # 4 frames: the middles of quarters of 4 seconds
    shown, sentence = all_tabs.predict(handle_file(str(path)), api_name="/frames")
    assert shown["visible"]
    assert [frame["caption"] for frame in shown["value"]] == ["0.5 s", "1.5 s", "2.5 s", "3.5 s"]
    greys = [np.asarray(Image.open(frame["image"])).mean() for frame in shown["value"]]
    assert greys == pytest.approx([250 * i / 100 for i in (12, 37, 62, 87)], abs=8)
    assert sentence == "The model sees these 4 frames of 4.0 seconds."


def test_large_frames_are_shown_small(senses):
    frames, _ = previews.look(senses.recipes["video-caption"], MEDIA / "videos" / "a.mp4")
    assert {frame.size for frame, _ in frames} == {(320, 180)}


def test_the_spectrogram_has_time_to_the_right_and_pitch_upwards(all_tabs, tmp_path):
    path = tone(tmp_path / "two notes.wav", 0.8)
    shown, sentence = all_tabs.predict(handle_file(str(path)), api_name="/spectrogram")
    with Image.open(shown["value"]) as image:
        assert image.size == (previews.WIDTH, previews.HEIGHT + previews.AXIS)
        light = np.asarray(image.convert("L"))[: previews.HEIGHT].astype(float)
    top, bottom = light[: previews.HEIGHT // 3], light[-previews.HEIGHT // 3 :]
    left, right = slice(20, previews.WIDTH // 2 - 20), slice(previews.WIDTH // 2 + 20, -20)
    assert top[:, right].max(0).mean() > top[:, left].max(0).mean() + 50
    assert bottom[:, right].max(0).mean() == pytest.approx(bottom[:, left].max(0).mean(), abs=25)
    assert sentence.startswith("The model hears these 0.8 seconds.")


def test_of_a_long_sound_only_what_is_heard_is_shown(senses, tmp_path):
    path = tone(tmp_path / "long.wav", 5)  # the tiny recipe hears 96 frames
    assert previews.listen(senses.recipes["audio-caption"], path)[1].startswith(
        "The model hears only the first 1.0 seconds."
    )


@pytest.mark.parametrize(
    "seconds, expected",
    [(0.1, [0, 0.02, 0.04, 0.06, 0.08, 0.1]), (4, [0, 1, 2, 3, 4]), (10.26, [0, 2, 4, 6, 8, 10])],
)
def test_the_time_axis_has_round_marks(seconds, expected):
    assert previews.marks(seconds) == expected


def test_silence_and_the_shortest_sound_have_a_spectrogram(senses, tmp_path):
    for samples in (np.zeros(8000), np.zeros(1)):
        soundfile.write(tmp_path / "x.wav", samples, 16_000)
        image, _ = previews.listen(senses.recipes["audio-caption"], tmp_path / "x.wav")
        assert image.size == (previews.WIDTH, previews.HEIGHT + previews.AXIS)


@pytest.mark.parametrize("of, preview", [("video", "frames"), ("audio", "spectrogram")])
@pytest.mark.parametrize("kind", ["empty", "text", "cut", "other"])
def test_what_is_no_video_or_sound_gets_one_sentence_in_the_answer_and_in_the_preview(
    all_tabs, tmp_path, of, preview, kind
):
    bad = tmp_path / ("bad.mp4" if of == "video" else "bad.wav")
    if kind == "empty":
        bad.touch()
    elif kind == "text":
        bad.write_text("nothing <b>at all</b>")
    elif kind == "cut":
        bad.write_bytes(film(tmp_path / "whole.mp4", "libx264").read_bytes()[:1000])
    else:  # a sound in the tab for videos, and a silent video in the one for sounds
        other = tone(tmp_path / "sound.wav", 0.5) if of == "video" else film(tmp_path / "x.mp4", "libx264")
        shutil.copy(other, bad)
    shown, sentence = all_tabs.predict(handle_file(str(bad)), api_name=f"/{preview}")
    assert not shown["visible"] and not shown["value"]
    assert sentence.startswith(bad.name) and sentence.endswith(".") and os.sep not in sentence
    with pytest.raises(AppError) as refused:
        all_tabs.predict(handle_file(str(bad)), api_name=f"/caption_{of}")
    assert str(refused.value) == sentence


def test_a_picture_is_no_video(all_tabs, picture):
    _, sentence = all_tabs.predict(handle_file(picture), api_name="/frames")
    assert sentence.startswith("red.png is not a video that can be read")


def test_an_unexpected_failure_of_a_preview_stays_on_the_server(all_tabs, picture, monkeypatch, capfd):
    def fail(*_):
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(previews, "look", fail)
    shown, sentence = all_tabs.predict(handle_file(picture), api_name="/frames")
    assert not shown["visible"] and sentence.startswith("Something went wrong here")
    assert "a secret of the server" in capfd.readouterr().err


@pytest.mark.parametrize(
    "of, preview, noun", [("video", "frames", "video"), ("audio", "spectrogram", "sound")]
)
def test_without_a_file_the_preview_is_empty_and_a_file_is_asked_for(all_tabs, of, preview, noun):
    shown, sentence = all_tabs.predict(None, api_name=f"/{preview}")
    assert not shown["visible"] and sentence == ""
    with pytest.raises(AppError, match=f"There is no {noun} yet"):
        all_tabs.predict(None, api_name=f"/caption_{of}")


@pytest.mark.parametrize("modality", ["image", "video", "audio"])
def test_a_model_of_one_modality_has_one_tab_and_its_page_speaks_of_nothing_else(
    tiny_senses_dir,
    modality,
):
    model = EPALM.from_pretrained(tiny_senses_dir / f"{modality}-caption", device="cpu")
    blocks = page(Service.of(model))
    labels = [block.label for block in blocks.blocks.values() if isinstance(block, gr.Tab)]
    assert labels == [TABS[modality].name]
    texts = " ".join(str(b.value) for b in blocks.blocks.values() if isinstance(b, gr.Markdown))
    nouns = {tab.noun for tab in TABS.values()}
    assert {noun for noun in nouns if noun in texts} == {TABS[modality].noun}


def test_the_examples_can_be_read_and_their_licences_are_stated(senses):
    stated = (EXAMPLES / "LICENSES.md").read_text(encoding="utf-8")
    for modality, adapter in (("video", "video-caption"), ("audio", "audio-caption")):
        examples = sorted(EXAMPLES.glob(TABS[modality].examples))
        assert len(examples) >= 3
        for path in examples:
            senses.recipes[adapter].open(path)
            assert f"`{path.name}`" in stated
            assert path.stem in TABS[modality].credits.lower()
            assert path.stat().st_size < 1_500_000
