"""From a cold process to the first caption: `python -m benchmarks.start`. Every sample is a new process."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from benchmarks.timing import Row, Table, timed

ROOT = Path(__file__).parent.parent
PICTURE = sorted((ROOT / "assets" / "examples").glob("*.jpg"))[0]
STEPS = """
import resource, time
begin = time.perf_counter()
from epalm import EPALM
import epalm.model
imported = time.perf_counter()
model = EPALM.from_pretrained("starter", device="cpu")
loaded = time.perf_counter()
model.caption({picture!r})
first = time.perf_counter()
again = []
for _ in range(5):
    before = time.perf_counter()
    model.caption({picture!r})
    again.append(time.perf_counter() - before)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(imported - begin, loaded - imported, first - loaded, sorted(again)[2], peak)
"""


def command(*arguments: str) -> float:
    """Seconds of one process of the command line."""
    run = [sys.executable, "-m", "epalm", *arguments]
    return timed(lambda: subprocess.run(run, cwd=ROOT, check=True, capture_output=True))


def page() -> float:
    """Seconds until a demo's page is served."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begin = time.perf_counter()
    run = [sys.executable, "app.py", "--port", str(port)]
    server = subprocess.Popen(run, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).read()
                return time.perf_counter() - begin
            except OSError:
                if server.poll() is not None:
                    sys.exit("The demo ended before its page was served.")
                time.sleep(0.05)
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    table = Table("start", "Start")
    command("--help")
    table.add(Row("python -m epalm --help", "a new process", [command("--help") for _ in range(3)]))
    seconds = [command("caption", str(PICTURE)) for _ in range(3)]
    table.add(Row("python -m epalm caption PICTURE", "a new process", seconds))
    seconds = [command("caption", str(PICTURE), "--dtype", "int8") for _ in range(3)]
    table.add(Row("python -m epalm caption PICTURE --dtype int8", "a new process", seconds))
    code = STEPS.format(picture=str(PICTURE))
    found = [
        [float(x) for x in subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split()]
        for _ in range(3)
    ]
    names = ("importing", "loading the starter", "first caption", "next caption", "peak memory")
    for name, values in zip(names, zip(*found, strict=True), strict=True):
        table.add(Row("from Python", name, list(values), "GB" if name == "peak memory" else "s"))
    table.add(Row("python app.py", "until the page is served", [page() for _ in range(2)]))
    table.save()


if __name__ == "__main__":
    main()
