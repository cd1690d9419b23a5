"""Load a frozen encoder by its id: the starter's, timm's, the hub's, a folder or a weight file."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from epalm.encoders import ast, frames, original, timesformer, timm_image, whisper
from epalm.encoders.base import Encoder, hub_errors
from epalm.errors import EPALMError

# By what `model_type` says; a new kind of encoder is one more entry.
LOADERS: dict[str, Callable[[str, str | None], Encoder]] = {
    "timm": timm_image.load,
    "timesformer": timesformer.load,
    "audio-spectrogram-transformer": ast.load,
}


def load_encoders(
    ids: Mapping[str, tuple[str, str | None]],
    dtype: torch.dtype,
    device: str | torch.device,
    progress: Callable[[str], None],
) -> dict[str, Encoder]:
    """Encoders by the name that adapters give them; those that share weights share them in memory.

    Args:
        ids: by that name, the id to load and its revision.
    """
    loaded: dict[str, Encoder] = {}
    # An encoder of frames takes its image encoder from those that are there: images first.
    for name in sorted(ids, key=lambda name: ids[name][0].startswith(frames.PREFIX)):
        id, revision = ids[name]
        progress(f"Loading the encoder {id} …")
        loaded[name] = load_encoder(id, dtype, device, progress, revision, loaded)
    return loaded


def load_encoder(
    backbone: str | Path,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    progress: Callable[[str], None] | None = None,
    revision: str | None = None,
    loaded: Mapping[str, Encoder] | None = None,
) -> Encoder:
    """Load a frozen encoder by its id.

    Args:
        backbone: "starter/efficientnet-lite2" or "starter/whisper-tiny.en"; "timm/NAME" or a bare timm name
            (image); a hub id of a TimeSformer (video) or AST (audio); a local folder in the format of any of
            those; a weight file of the original TimeSformer (.pyth) or AST (.pth); or "frames/" and the id
            of an image encoder, which then sees every frame of a video.
        dtype: of the weights and features.
        progress: told what happens while a starter backbone is made on first use.
        revision: commit of a hub repository; None takes its newest one.
        loaded: encoders by id that are in memory; an image encoder for frames is taken from there.

    Raises:
        EPALMError: no such backbone, one that is not supported, or a failed download.
    """
    name, path = str(backbone), Path(backbone)
    if name.startswith(frames.PREFIX):
        image = name.removeprefix(frames.PREFIX)
        seen = (loaded or {}).get(image) or load_encoder(image, dtype, device, progress, revision)
        if not isinstance(seen, timm_image.TimmImageEncoder):
            raise EPALMError(
                f"{name} needs an image encoder of timm after {frames.PREFIX}, but {image} is not one."
            )
        return frames.FrameEncoder(seen)
    if name == "starter/whisper-tiny.en":
        encoder: Encoder = whisper.load_starter(name, progress)
    elif name.startswith("starter/"):
        encoder = timm_image.load_starter(name, progress)
    elif path.is_file():
        encoder = original.encoder_from_file(path)
    elif (kind := model_type(name, revision)) in LOADERS:
        encoder = LOADERS[kind](name, revision)
    else:
        raise EPALMError(
            f"{name} is a model of type {kind!r}, which is not a supported encoder: use a timm model for "
            "images, a TimeSformer for video or an AST for audio."
        )
    # Convolutions are fastest with the channels last, on a CPU too.
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return encoder.to(device=device, dtype=dtype)


def model_type(backbone: str, revision: str | None = None) -> str:
    """The library a backbone is from: "timm", or else the `model_type` in a transformers model's config.json.

    Raises:
        EPALMError: neither a folder with a config.json nor a model that the hub knows.
    """
    folder = Path(backbone)
    if folder.is_dir():
        try:
            config = json.loads((folder / "config.json").read_text())
        except (OSError, ValueError) as error:
            raise EPALMError(f"The backbone folder {folder} has no readable config.json: {error}.") from error
        return "timm" if "architecture" in config else config.get("model_type", "unknown")
    if backbone.startswith("timm/") or "/" not in backbone:
        return "timm"
    from transformers import AutoConfig

    with hub_errors(backbone):
        return AutoConfig.from_pretrained(backbone, revision=revision).model_type
