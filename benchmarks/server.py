"""A demo that runs beside a benchmark, in a process of its own, and how to send it a file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]


class Server:
    """A running demo.

    Args:
        uploads: where it keeps them.
        minutes: for how long.
    """

    def __init__(self, uploads: Path, port: int, model: str = "starter", minutes: int = 60):
        self.uploads, self.port, self.model = uploads, port, model
        self.minutes = minutes
        self.url = f"http://127.0.0.1:{port}"

    def start(self) -> None:
        """Wait until its model is loaded; SystemExit if it does not start."""
        command = [sys.executable, "app.py", "--port", str(self.port), "--uploads", str(self.uploads)]
        environ = os.environ | {"EPALM_KEEP_MINUTES": str(self.minutes), "EPALM_MODEL": self.model}
        self.process = subprocess.Popen(
            [*command, "--logs", "json"],
            cwd=ROOT,
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(600):
            try:
                if httpx.get(f"{self.url}/health").json()["status"] == "ok":
                    return
            except httpx.HTTPError:
                if self.process.poll() is not None:
                    break
            time.sleep(0.5)
        self.stop()
        raise SystemExit("The server did not start.")

    def stop(self) -> None:
        """End it as a host does, with a termination signal."""
        self.process.terminate()
        self.process.wait(60)


def upload(client: httpx.Client, url: str, file: Path) -> str:
    """Upload a file; where it lies on the server. HTTPStatusError if it is refused."""
    with open(file, "rb") as opened:
        answer = client.post(f"{url}/gradio_api/upload", files={"files": (file.name, opened)})
    return answer.raise_for_status().json()[0]
