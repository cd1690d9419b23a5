"""Downloads from a local server: complete or not at all, resumed, checked, each failure one sentence."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants as constants
import pytest
from filelock import FileLock

from epalm.errors import EPALMError
from epalm.hub.download import _bar_for, download
from epalm.hub.zoo import ZOO, HubSource, Source, fetch_checkpoint

BODY = bytes(range(256)) * 4000  # 1,024,000 bytes
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves BODY at any path, whose first part selects how: /ok, /no-range, /cut, /busy, /page, …"""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []  # the Range header of each request

    def url(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{behaviour}/checkpoint_best.pth"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        behaviour = self.path.split("/")[1]
        wanted = self.headers["Range"]
        self.server.ranges.append(wanted)
        if behaviour == "missing":
            return self.send_error(404)
        if behaviour == "busy" and len(self.server.ranges) < 3:
            return self.send_error(503)
        if behaviour in ("page", "hidden-page"):
            kind = "text/html" if behaviour == "page" else "application/octet-stream"
            return self.answer(200, b"<!DOCTYPE html><html>Confirm the download of a large file</html>", kind)
        first = int(wanted[6:-1]) if wanted and behaviour != "no-range" else 0
        if first >= len(BODY):
            return self.answer(416, b"", **{"Content-Range": f"bytes */{len(BODY)}"})
        cut = behaviour == "always-cut" or (behaviour == "cut" and len(self.server.ranges) == 1)
        headers = {"Content-Range": f"bytes {first}-{len(BODY) - 1}/{len(BODY)}"} if first else {}
        self.answer(206 if first else 200, BODY[first:], cut=cut, **headers)

    def answer(
        self, status: int, body: bytes, kind: str = "application/octet-stream", cut=False, **headers
    ) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": kind, "Content-Length": len(body), **headers}.items():
            self.send_header(key, str(value))
        self.end_headers()
        self.wfile.write(body[: 400_000 if cut and len(body) == len(BODY) else 0 if cut else None])


@pytest.fixture
def server(monkeypatch) -> Iterator[Server]:
    monkeypatch.setattr("epalm.hub.download.PAUSE", 0.0)
    with Server() as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield running
        running.shutdown()


def fetch(url: str, path: Path, **kwargs) -> Path:
    return download(url, path, **kwargs)


def parts(folder: Path) -> list[Path]:
    return list(folder.glob("*.part"))


def test_a_file_arrives_whole_with_progress(server, tmp_path):
    seen = []
    path = fetch(
        server.url("ok"), tmp_path / "new" / "a.pth", size=len(BODY), sha256=SHA256,
        progress=lambda *counts: seen.append(counts),
    )  # fmt: skip
    assert path.read_bytes() == BODY
    assert seen[-1] == (len(BODY), len(BODY)) and [done for done, _ in seen] == sorted(
        done for done, _ in seen
    )
    assert parts(path.parent) == []


def test_a_file_that_is_there_is_not_fetched_again(server, tmp_path):
    for _ in range(2):
        fetch(server.url("ok"), tmp_path / "a.pth", sha256=SHA256)
    assert len(server.ranges) == 1


def test_a_damaged_file_that_is_there_is_replaced(server, tmp_path):
    (tmp_path / "a.pth").write_bytes(b"damaged")
    assert fetch(server.url("ok"), tmp_path / "a.pth", sha256=SHA256).read_bytes() == BODY


def test_a_cut_connection_is_resumed_where_it_broke(server, tmp_path):
    path = fetch(server.url("cut"), tmp_path / "a.pth", sha256=SHA256)
    assert server.ranges == [None, "bytes=400000-"]
    assert path.read_bytes() == BODY


def test_a_later_call_resumes_what_an_earlier_one_left(server, tmp_path, monkeypatch):
    monkeypatch.setattr("epalm.hub.download.TRIES", 2)
    with pytest.raises(EPALMError) as error:
        fetch(server.url("always-cut"), tmp_path / "a.pth")
    assert "after 400,000 of 1,024,000 bytes" in str(error.value)
    assert "400,000 bytes so far are kept" in str(error.value)
    [part] = parts(tmp_path)
    assert part.read_bytes() == BODY[:400_000] and not (tmp_path / "a.pth").exists()

    part.rename(tmp_path / _part_name(server.url("ok")))
    assert fetch(server.url("ok"), tmp_path / "a.pth").read_bytes() == BODY
    assert server.ranges[-1] == "bytes=400000-"


def test_a_server_without_range_support_restarts_cleanly(server, tmp_path):
    (tmp_path / _part_name(server.url("no-range"))).write_bytes(BODY[:1000])
    assert fetch(server.url("no-range"), tmp_path / "a.pth").read_bytes() == BODY


def test_a_complete_part_is_put_in_place(server, tmp_path):
    (tmp_path / _part_name(server.url("ok"))).write_bytes(BODY)
    assert fetch(server.url("ok"), tmp_path / "a.pth").read_bytes() == BODY


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / _part_name(server.url("ok"))).write_bytes(BODY + b"more")
    assert fetch(server.url("ok"), tmp_path / "a.pth").read_bytes() == BODY


def test_a_busy_server_is_asked_again(server, tmp_path):
    assert fetch(server.url("busy"), tmp_path / "a.pth").read_bytes() == BODY
    assert len(server.ranges) == 3


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"size": 17}])
def test_another_file_is_refused_and_removed(server, tmp_path, wrong):
    with pytest.raises(EPALMError, match="expected"):
        fetch(server.url("ok"), tmp_path / "a.pth", **wrong)
    assert not (tmp_path / "a.pth").exists() and parts(tmp_path) == []


@pytest.mark.parametrize("behaviour", ["page", "hidden-page"])
def test_a_web_page_is_refused(server, tmp_path, behaviour):
    with pytest.raises(EPALMError, match="web page instead of the file"):
        fetch(server.url(behaviour), tmp_path / "a.pth")
    assert not (tmp_path / "a.pth").exists() and parts(tmp_path) == []


def test_a_missing_file_is_named_without_retrying(server, tmp_path):
    with pytest.raises(EPALMError) as error:
        fetch(server.url("missing"), tmp_path / "a.pth")
    assert server.url("missing") in str(error.value) and "404" in str(error.value)
    assert len(server.ranges) == 1


def test_a_server_that_is_down_is_named(tmp_path):
    with Server() as gone:
        url = gone.url("ok")
    with pytest.raises(EPALMError, match=r"could not be downloaded .*check the network") as error:
        fetch(url, tmp_path / "a.pth")
    assert url in str(error.value)


def test_two_processes_do_not_write_the_same_file(server, tmp_path):
    with FileLock(tmp_path / "a.pth.lock"), pytest.raises(EPALMError, match="Another process"):
        fetch(server.url("ok"), tmp_path / "a.pth")


def test_an_unwritable_place_is_named(server, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(EPALMError, match="could not be written"):
        fetch(server.url("ok"), tmp_path / "file" / "a.pth")


def test_a_preset_falls_back_to_its_next_source(server, tmp_path):
    preset = _preset(server.url("page"), server.url("ok"))
    assert fetch_checkpoint(preset, tmp_path).read_bytes() == BODY


def test_a_preset_without_a_working_source_says_how_to_use_a_local_copy(server, tmp_path):
    with pytest.raises(EPALMError) as error:
        fetch_checkpoint(_preset(server.url("page"), server.url("missing")), tmp_path)
    assert "web page" in str(error.value) and "404" in str(error.value)
    assert str(error.value).endswith("run `python -m epalm convert CHECKPOINT OUT --preset vqa-opt-2.7b`.")


COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = "checkpoints/float32/vqa/checkpoint_best.pth"


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """The Hub's local cache with one file of a Space, as the library keeps it; there is no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "hub" / "spaces--someone--demo"
    blob, link = repository / "blobs" / SHA256, repository / "snapshots" / COMMIT / FILE
    for path in (blob, link):
        path.parent.mkdir(parents=True)
    blob.write_bytes(BODY)
    link.symlink_to(blob)
    return link


def test_a_preset_comes_from_the_hub_at_its_commit_without_plain_http(hub, server, tmp_path):
    sources = (HubSource("someone/demo", FILE, COMMIT, SHA256), Source(server.url("ok")))
    path = fetch_checkpoint(replace(ZOO["vqa-opt-2.7b"], sources=sources), tmp_path)
    assert (path, path.read_bytes(), server.ranges) == (hub, BODY, [])


@pytest.mark.parametrize(("commit", "file"), [("f" * 40, FILE), (COMMIT, "other.pth")])
def test_what_the_hub_does_not_have_comes_over_plain_http(hub, server, tmp_path, commit, file):
    sources = (HubSource("someone/demo", file, commit, SHA256), Source(server.url("ok"), SHA256))
    path = fetch_checkpoint(replace(ZOO["vqa-opt-2.7b"], sources=sources), tmp_path)
    assert (path, path.read_bytes()) == (tmp_path / "vqa-opt-2.7b.pth", BODY)


def test_a_file_of_the_hub_with_another_hash_is_refused_and_removed(hub, tmp_path):
    source = HubSource("someone/demo", FILE, COMMIT, sha256="0" * 64)
    with pytest.raises(EPALMError, match=f"{FILE} of someone/demo has sha256 .* was expected"):
        source.fetch(tmp_path / "a.pth")
    assert not hub.is_symlink() and not hub.resolve().exists()


def test_a_hub_that_cannot_be_reached_is_named(hub, tmp_path):
    with pytest.raises(
        EPALMError, match="other.pth of someone/demo could not be downloaded from the Hugging"
    ):
        HubSource("someone/demo", "other.pth", COMMIT).fetch(tmp_path / "a.pth")


def test_the_hub_tells_its_progress_and_draws_nothing(capfd):
    seen: list[tuple[int, int | None]] = []
    with _bar_for(lambda *counts: seen.append(counts))(total=10, initial=2, unit="B", desc="a.pth") as bar:
        for size in (3, 5):
            bar.update(size)
    assert seen == [(5, 10), (10, 10)] and capfd.readouterr() == ("", "")


def _preset(*urls: str):
    return replace(ZOO["vqa-opt-2.7b"], sources=tuple(Source(url) for url in urls))


def _part_name(url: str) -> str:
    return f"a.pth.{hashlib.sha256(url.encode()).hexdigest()[:8]}.part"
