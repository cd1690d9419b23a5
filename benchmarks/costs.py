"""What the starter costs on this machine: `make benchmark` prints the numbers of the README's cost table.

Starts the demo as a user does, waits for its page, sends the example pictures, videos and sounds through its
API, and reads the process' peak memory; then compares decoding with and without the cache in one process, and
the memory of all adapters with that of one.
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from gradio_client import Client, handle_file

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "assets" / "examples").glob("*.jpg"))
OTHERS = {"video": "*.mp4", "audio": "*.flac"}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def demo(model: str) -> None:
    """Seconds until the page answers, seconds per warm request, peak memory of the process."""
    port = free_port()
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "app.py", "--model", model, "--port", str(port)], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}"
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).read()
                break
            except OSError:
                if process.poll() is not None:
                    sys.exit("The demo ended before its page was served.")
                time.sleep(0.1)
        print(f"page served after                 {time.perf_counter() - started:6.1f} s")
        client = Client(url, verbose=False)

        def timed(call, *arguments) -> float:
            before = time.perf_counter()
            call(*arguments)
            return time.perf_counter() - before

        def caption(path: Path) -> None:
            client.predict(handle_file(path), api_name="/caption")

        def ask(path: Path) -> None:
            client.predict(handle_file(path), "what is this?", api_name="/ask")

        print(f"first caption                     {timed(caption, EXAMPLES[0]):6.2f} s")
        for name, call in (("warm caption", caption), ("warm answer", ask)):
            seconds = [timed(call, path) for path in EXAMPLES * 3]
            print(f"{name}, median of {len(seconds):2d}          {statistics.median(seconds):6.2f} s")
        for modality, pattern in OTHERS.items():
            paths = sorted((ROOT / "assets" / "examples").glob(pattern))

            def other(path: Path, endpoint: str = f"/caption_{modality}") -> None:
                client.predict(handle_file(path), api_name=endpoint)

            other(paths[0])
            seconds = [timed(other, path) for path in paths * 3]
            print(
                f"warm {modality} caption, median of {len(seconds):2d}   {statistics.median(seconds):6.2f} s"
            )
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        print(f"peak memory of the demo           {int(peak.split()[1]) / 1e6:6.2f} GB")
    finally:
        process.terminate()
        process.wait()


def decoding(model: str) -> None:
    """Ratio of decoding with the cache to re-running the prefix for every token, in one process."""
    import torch

    from epalm import EPALM, Request
    from epalm.config import GenerationConfig

    loaded = EPALM.from_pretrained(model)
    name = loaded.adapter_for("image", "caption")
    trained = sum(p.numel() for p in loaded.adapters[name].parameters())
    frozen = sum(p.numel() for m in (loaded.lm, *loaded.encoders.values()) for p in m.parameters())
    total = frozen + trained
    print(f"trained, of all parameters        {trained / 1e6:6.2f} M of {total / 1e6:.0f} M", end="")
    print(f" ({100 * trained / total:.2f} %)")
    _, ids, media = loaded._prepare(Request(EXAMPLES[0]))
    features, greedy = loaded.features(name, media[None]), GenerationConfig(1, max_new_tokens=60)
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(4):  # the first round warms up
        for cached in (True, False):
            before = time.perf_counter()
            loaded.adapted[name].generate(features, [ids], greedy, cached, eos_token_id=None)
            seconds[cached].append(time.perf_counter() - before)
    fast, slow = (statistics.median(seconds[cached][1:]) for cached in (True, False))
    print(f"60 tokens with the cache          {fast:6.2f} s, without {slow:.2f} s", end="")
    print(f" ({slow / fast:.1f} times faster)")
    print(
        f"on {torch.get_num_threads()} threads of {os.cpu_count()} CPUs, {next(loaded.lm.parameters()).dtype}"
    )


USE = """
import gc, sys
from pathlib import Path
from epalm import EPALM, Request
def resident():
    gc.collect()
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 1e6
model = EPALM.from_pretrained(sys.argv[1], device="cpu")
loaded = resident()
for name, adapter in model.adapters.items():
    task = adapter.config.task
    suffix = {"image": "jpg", "video": "mp4", "audio": "flac"}[task.modality]
    example = sorted(Path("assets/examples").glob(f"*.{suffix}"))[0]
    for _ in range(2):  # weights are laid out for decoding with the second text
        model.generate([Request(example, "what is this?" if task.name == "qa" else None, name)])
print(loaded, resident())
"""


def memory() -> None:
    """Resident memory with all of the starter's adapters and with each one alone: when they are loaded, and
    after every adapter has described a file twice, which counts decoders and their buffers, too."""

    def resident(name: str) -> tuple[float, float]:
        result = subprocess.run(
            [sys.executable, "-c", USE, name], cwd=ROOT, capture_output=True, text=True, check=True
        )
        loaded, used = map(float, result.stdout.split())
        return loaded, used

    loaded, used = resident("starter")
    print(f"all adapters in one process       {loaded:6.0f} MB loaded, {used:.0f} MB after use")
    for folder in sorted((ROOT / "assets" / "starter").glob("*/")):
        one, one_used = resident(str(folder))
        more = f"all cost {loaded - one:.0f} MB more loaded, {used - one_used:.0f} MB more after use"
        print(f"  beside {folder.name:<14} alone   {more}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="starter")
    arguments = parser.parse_args()
    demo(arguments.model)
    if arguments.model == "starter":
        memory()
    decoding(arguments.model)
