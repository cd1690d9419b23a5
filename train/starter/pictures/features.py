"""The frozen encoder's features of all pictures, computed once: the starter trains on these, never on pixels.

Layer 5, the classifier's probabilities, is not stored: it follows from layer 4.

Tensors of the file (N pictures in the manifest's order, V = 1 + views; view 0 is the picture itself):
    layer0 … layer4   (N, V, 16 | 24 | 48 | 120 | 1280) float16   pooled features of the encoder's layers
    layer6            (N, V, 1080) float16   what is where: layer 3 in each of 3×3 places
    head.weight, head.bias   (1000, 1280), (1000,) float32   the encoder's own classifier on layer4
"""

import random
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import cast

import torch
from PIL import Image, ImageEnhance, ImageFilter
from safetensors.torch import load_file, save_file
from torch import Tensor

from epalm.encoders.base import Encoder
from epalm.encoders.load import load_encoder
from epalm.files import read_json_lines
from epalm.hub.wheels import backbone_dir
from epalm.media.recipes import RECIPES

ENCODER = "starter/efficientnet-lite2"
STORED = (0, 1, 2, 3, 4, 6)  # layers of the encoder
LAYER_NAMES = tuple(f"layer{layer}" for layer in STORED)
VIEWS = 6  # of a picture, beside the picture itself
AT_ONCE = 32  # pictures that the encoder sees


def on_white(picture: Image.Image) -> Image.Image:
    """RGBA -> RGB."""
    return over(picture, Image.new("RGB", picture.size, "white"))


def over(picture: Image.Image, background: Image.Image) -> Image.Image:
    canvas = background.copy()
    canvas.paste(picture, mask=picture.getchannel("A"))
    return canvas


def random_background(size: tuple[int, int], photos: list[Path], rng: random.Random) -> Image.Image:
    """White mostly, else one colour, a gradient of two, or a photo too blurred to show its own thing."""
    colour = tuple(rng.randrange(256) for _ in range(3))
    kind = rng.choices(("white", "colour", "gradient", "photo"), (35, 20, 20, 25 if photos else 0))[0]
    if kind == "white":
        return Image.new("RGB", size, "white")
    if kind == "colour":
        return Image.new("RGB", size, colour)
    if kind == "gradient":
        mask = Image.linear_gradient("L").rotate(rng.choice((0, 90, 180, 270))).resize(size)
        other = tuple(rng.randrange(256) for _ in range(3))
        return Image.composite(Image.new("RGB", size, colour), Image.new("RGB", size, other), mask)
    photo = on_white(Image.open(rng.choice(photos)).convert("RGBA")).resize((64, 64))
    return photo.filter(ImageFilter.GaussianBlur(rng.uniform(1.5, 4))).resize(size)


def augmented(picture: Image.Image, photos: list[Path], rng: random.Random) -> Image.Image:
    """One random view of a picture: background, frame, crop, flip, rotation, colour."""
    see_through = cast(int, picture.getchannel("A").getextrema()[0]) < 128
    angle = rng.uniform(-15, 15) if rng.random() < 0.4 else 0
    if see_through:
        if angle:
            picture = picture.rotate(angle, Image.Resampling.BICUBIC, expand=True)
        grow = rng.uniform(1.0, 1.5)  # room around the thing
        width, height = (round(side * grow) for side in picture.size)
        if rng.random() < 0.5:
            width = height = max(width, height)
        frame = Image.new("RGBA", (width, height))
        frame.paste(picture, (rng.randint(0, width - picture.width), rng.randint(0, height - picture.height)))
        image = over(frame, random_background(frame.size, photos, rng))
    else:
        image = on_white(picture)
        if angle:  # rotate, then keep the part that has no empty corners
            width, height = image.size
            turned, inset = image.rotate(angle, Image.Resampling.BICUBIC), abs(angle) / 100
            image = turned.crop((round(width * inset), round(height * inset),
                                 round(width * (1 - inset)), round(height * (1 - inset))))  # fmt: skip
    area, stretch = rng.uniform(0.5, 1.0), 2 ** rng.uniform(-0.3, 0.3)
    width = max(8, min(image.width, round(image.width * (area * stretch) ** 0.5)))
    height = max(8, min(image.height, round(image.height * (area / stretch) ** 0.5)))
    left, top = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    image = image.crop((left, top, left + width, top + height))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(rng.uniform(0.7, 1.3))
    if rng.random() < 0.15:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.5)))
    return image


@torch.no_grad()
def encode_all(pictures: Iterable[Tensor], encoder: Encoder) -> dict[str, Tensor]:
    """Pictures (3, S, S) as the recipe makes them -> their features, {"layer0": (M, 16) float16, …}."""
    encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    parts: list[list[Tensor]] = []
    source = iter(pictures)
    while chunk := list(islice(source, AT_ONCE)):
        pixels = torch.stack(chunk).to(memory_format=torch.channels_last)  # (B, 3, S, S)
        parts.append([feature.half() for feature in encoder(pixels, STORED)])
        if len(parts) % 50 == 0:
            print(f"{len(parts) * AT_ONCE} pictures are encoded", flush=True)
    return {
        f"layer{layer}": torch.cat(each) for layer, each in zip(STORED, zip(*parts, strict=True), strict=True)
    }


def view_of(paths: list[Path], view: int, photos: list[Path], seed: int) -> Iterator[Tensor]:
    """One view of every picture, as the recipe makes it. View 0 is the picture on white."""
    recipe = RECIPES["image"]["starter"]
    for i, path in enumerate(paths):
        picture, rng = Image.open(path).convert("RGBA"), random.Random(f"{seed}/{view}/{i}")
        yield recipe(augmented(picture, photos, rng) if view else on_white(picture))


def encode_pictures(work: Path, views: int = VIEWS, seed: int = 0) -> None:
    """WORK/manifest.jsonl -> WORK/features.safetensors; goes on after the last view that is there."""
    rows, stored = read_json_lines(work / "manifest.jsonl"), work / "features.safetensors"
    before = load_file(stored) if stored.exists() else {}
    done = before[f"layer{STORED[0]}"].shape[1] if before else 0
    if done == 1 + views:
        return
    paths = [work / row["path"] for row in rows]
    photos = [
        path
        for path, row in zip(paths, rows, strict=True)
        if row["is_photo"] and row["category"] == "building"
    ]
    encoder = load_encoder(ENCODER, progress=print)
    classifier = load_file(backbone_dir(ENCODER) / "model.safetensors")

    encoded = [{name: before[name][:, view] for name in LAYER_NAMES} for view in range(done)]
    for view in range(done, 1 + views):
        encoded.append(encode_all(view_of(paths, view, photos, seed), encoder))
        tensors = {name: torch.stack([each[name] for each in encoded], 1) for name in encoded[0]}
        tensors |= {
            "head.weight": classifier["classifier.weight"],
            "head.bias": classifier["classifier.bias"],
        }
        save_file(tensors, work / "features.part")
        (work / "features.part").replace(stored)
        print(f"view {view} of {views}: {len(paths)} pictures", flush=True)
