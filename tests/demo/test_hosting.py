"""The server as a process: in the container's steps, killed under load, ended politely."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import httpx
import pytest
import yaml
from gradio_client import Client, handle_file

from tests.demo.conftest import until

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ready(url: str, server: subprocess.Popen) -> None:
    def well() -> bool:
        assert server.poll() is None
        try:
            return httpx.get(f"{url}/health").json()["status"] == "ok"
        except httpx.HTTPError:  # it does not listen yet
            return False

    until(well, "the server gets ready")


@pytest.fixture
def servers(tiny_model_dir: Path) -> Iterator[list[subprocess.Popen]]:
    running: list[subprocess.Popen] = []
    yield running
    for server in running:
        server.kill()
        server.wait()


def serve(servers: list[subprocess.Popen], model: Path, uploads: Path, port: int) -> str:
    """Start app.py as a process; its address, once its model is loaded."""
    where = ["--port", str(port), "--uploads", str(uploads)]
    command = [sys.executable, "app.py", "--model", str(model), "--device", "cpu", "--logs", "json", *where]
    servers.append(subprocess.Popen(command, cwd=ROOT))
    url = f"http://127.0.0.1:{port}"
    ready(url, servers[-1])
    return url


def pictures(folder: Path) -> list[str]:
    """The pictures under a folder in which others come and go, which os.walk passes over."""
    return [name for _, _, names in os.walk(folder) for name in names if name.endswith(".png")]


def test_a_server_killed_under_load_leaves_nothing_and_its_clients_one_error(
    servers, tiny_model_dir, tmp_path, picture
):
    uploads, port = tmp_path / "uploads", free_port()
    url = serve(servers, tiny_model_dir, uploads, port)
    ended: list[str] = []

    def ask() -> None:
        try:
            client = Client(url, verbose=False)
            while True:
                client.predict(handle_file(picture), 1, 100, api_name="/caption_image")
        except Exception as error:
            ended.append(str(error) or type(error).__name__)

    clients = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for client in clients:
        client.start()
    until(lambda: pictures(uploads), "a picture is uploaded")
    servers[0].send_signal(signal.SIGKILL)
    for client in clients:
        client.join(60)
    assert len(ended) == 4 and all(ended)

    left = [path for path in uploads.iterdir() if path.is_dir()]
    assert left
    url = serve(servers, tiny_model_dir, uploads, port)
    assert not any(path.exists() for path in left)
    assert Client(url, verbose=False).predict(handle_file(picture), api_name="/caption_image")[0]

    # A polite end: what runs is finished and sent, then the process ends by itself and its uploads are gone.
    job = Client(url, verbose=False).submit(handle_file(picture), 1, 100, api_name="/caption_image")
    until(job.outputs, "the answer begins", job)
    servers[1].send_signal(signal.SIGTERM)
    assert servers[1].wait(60) == 0
    assert job.result(60)[1].startswith("Took ")
    assert not pictures(uploads)


def instructions() -> list[tuple[str, str]]:
    """(name, arguments) of the Dockerfile's instructions, continued lines joined."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [tuple(line.split(" ", 1)) for line in lines]  # type: ignore[misc]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out of the build."""
    out = False
    for rule in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = rule.removeprefix("!")
        if rule and not rule.startswith("#") and (fnmatch(path, pattern) or path.startswith(f"{pattern}/")):
            out = not rule.startswith("!")
    return out


def test_the_containers_steps_give_a_server_that_its_own_check_finds_healthy(
    servers, tiny_model_dir, tmp_path, picture
):
    """COPY, ENV, CMD and HEALTHCHECK as they stand, in an empty folder; Python and its packages are those of
    this installation, and `pip install` of them is what `make setup` does."""
    steps = instructions()
    last = max(i for i, (name, _) in enumerate(steps) if name == "FROM")
    environ = {"PATH": f"{sysconfig.get_path('scripts')}:/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    check, command, users = [], [], []
    for name, arguments in steps[last:]:
        if name == "COPY" and "--from" not in arguments:
            *sources, target = arguments.split()
            for source in sources:
                assert (ROOT / source).exists() and not ignored(source), source
                to = tmp_path / target / source if target.endswith("/") else tmp_path / target
                to.parent.mkdir(parents=True, exist_ok=True)
                skip = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, to, ignore=skip) if (ROOT / source).is_dir() else shutil.copy(
                    ROOT / source, to
                )
        elif name == "ENV":
            given = dict(part.split("=", 1) for part in shlex.split(arguments))
            environ |= {key: value for key, value in given.items() if key not in ("PATH", "EPALM_CACHE")}
        elif name == "HEALTHCHECK":
            check = json.loads(arguments.split("CMD ", 1)[1])
        elif name == "CMD":
            command = json.loads(arguments)
        elif name == "USER":
            users.append(arguments)
    assert users == ["1000"]  # not root
    port = str(free_port())
    environ |= {"EPALM_PORT": port, "EPALM_MODEL": str(tiny_model_dir), "EPALM_DEVICE": "cpu"}
    environ |= {"EPALM_UPLOADS": str(tmp_path / "uploads")}
    servers.append(subprocess.Popen(command, cwd=tmp_path, env=environ))
    ready(f"http://127.0.0.1:{port}", servers[0])
    assert subprocess.run(check, env=environ).returncode == 0
    client = Client(f"http://127.0.0.1:{port}", verbose=False)
    assert client.predict(handle_file(picture), api_name="/caption_image")[0]
    assert httpx.get(f"http://127.0.0.1:{port}/favicon.ico").status_code == 200
    servers[0].kill()
    servers[0].wait()
    assert subprocess.run(check, env=environ, stderr=subprocess.DEVNULL).returncode == 1


def test_the_dockerfile_passes_its_linter():
    linter = Path(sys.executable).parent / "hadolint"
    result = subprocess.run([linter, "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, "")


def test_what_is_not_copied_does_not_travel_to_the_builder():
    assert all(map(ignored, ("train", "tests", ".git", "assets/studies", ".venv")))


def test_the_compose_file_sets_only_variables_that_are_options():
    from epalm.demo import options

    [service] = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"].values()
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    known = {f"EPALM_{name.upper()}" for name in vars(options.parse([], "", {}))} | {"EPALM_CACHE"}
    assert set(re.findall(r"EPALM_\w+", text)) <= known
    assert service["environment"]["EPALM_RATE"]
    assert os.path.exists(ROOT / service["build"] / "Dockerfile")
