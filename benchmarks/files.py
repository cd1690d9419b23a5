"""Reading and preprocessing files against the straightforward way: `python -m benchmarks.files`.

Pictures: PIL and torchvision's transforms. Videos: decoding everything with PyAV and taking 8 frames of it;
and decord. Sounds: soundfile, resampled by torchaudio.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import torch
import torchaudio
from PIL import Image
from torchvision import transforms

from benchmarks.timing import Table, compare, paired
from epalm.media.recipes import RECIPES
from epalm.media.video import frame_indices

EXAMPLES = Path(__file__).parent.parent / "assets" / "examples"
RATE, MINUTES, FRAMES = 10, 10, 8
WIDTH, HEIGHT = 640, 360


def long_video(path: Path) -> None:
    """Ten minutes of H.264 with a moving pattern and a key frame every ten seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "libx264", rate=Fraction(RATE), options={"preset": "ultrafast", "g": "100"}
        )
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        noise = np.random.default_rng(0).integers(0, 255, (HEIGHT, 2 * WIDTH, 3), np.uint8)
        noise = np.kron(noise[::8, ::8], np.ones((8, 8, 1), np.uint8))
        for i in range(60 * MINUTES * RATE):
            shown = np.ascontiguousarray(noise[:, i % WIDTH : i % WIDTH + WIDTH])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shown, "rgb24")))
        container.mux(stream.encode())


def everything(path: Path) -> list[Image.Image]:
    """Decode all frames, and keep some."""
    with av.open(str(path)) as container:
        wanted = set(frame_indices(container.streams.video[0].frames, FRAMES, "middle", RATE))
        frames = enumerate(container.decode(video=0))
        return [frame.to_image() for i, frame in frames if i in wanted]


def with_decord(path: Path) -> np.ndarray:
    import decord

    reader = decord.VideoReader(str(path), num_threads=1)
    return reader.get_batch(frame_indices(len(reader), FRAMES, "middle", RATE)).asnumpy()


def main() -> None:
    table = Table("files", "Files")
    picture, sound = EXAMPLES / "cat.jpg", EXAMPLES / "voice.flac"
    image, video = RECIPES["image"]["epalm"], RECIPES["video"]["epalm-video-8"]
    audio = RECIPES["audio"]["epalm-audio"]
    usual = transforms.Compose([transforms.Resize((224, 224)), transforms.ToTensor()])
    mel = torchaudio.transforms.MelSpectrogram(16000, n_mels=128)

    def straight_sound() -> Any:
        samples, rate = soundfile.read(sound, dtype="float32", always_2d=True)
        mono = torch.from_numpy(samples).mean(1)
        return mel(torchaudio.functional.resample(mono, rate, 16000))

    runs: dict[str, Callable[[], Any]] = {
        "straightforward": lambda: usual(Image.open(picture).convert("RGB")),
        "this project": lambda: image(image.open(picture)),
    }
    compare(table, "a picture to a tensor", paired(runs, 30, 5), "straightforward")
    runs = {"straightforward": straight_sound, "this project": lambda: audio(audio.open(sound))}
    compare(table, "a sound to a spectrogram", paired(runs, 30, 5), "straightforward")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ten-minutes.mp4"
        long_video(path)
        runs = {"decode everything": lambda: everything(path), "this project": lambda: video.open(path)}
        try:
            with_decord(path)
            runs["decord"] = lambda: with_decord(path)
        except ImportError:
            table.notes.append("decord is not installed here.")
        samples = paired(runs, 3, 40, warm=0)
        compare(table, f"{FRAMES} frames of a {MINUTES}-minute video", samples, "decode everything")
    table.save()


if __name__ == "__main__":
    main()
