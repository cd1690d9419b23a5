"""Preprocessing recipes by name: how a file becomes the tensor that an encoder expects.

recipe = RECIPES["image"]["epalm"]
photo = recipe.open("photo.jpg")  # only what is needed: a picture, a few frames, a few seconds
pixels = recipe(photo)  # (3, 224, 224)

An adapter's config.json stores its recipe as a plain dict; `recipe_from_dict` turns it back into an object.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epalm.errors import EPALMError
from epalm.media.container import Modality
from epalm.media.transforms import RGB, AudioRecipe, ImageRecipe, Recipe, VideoRecipe, WhisperRecipe

__all__ = [
    "KINDS",
    "RECIPES",
    "AudioRecipe",
    "ImageRecipe",
    "Recipe",
    "VideoRecipe",
    "WhisperRecipe",
    "find_recipe",
    "recipe_from_dict",
    "timm_recipe",
]

CLIP: tuple[RGB, RGB] = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
LITE: tuple[RGB, RGB] = (127 / 255,) * 3, (128 / 255,) * 3  # type: ignore[assignment]  # (x - 127) / 128
MEAN, STD = -4.2677393, 4.5689974  # of AudioSet, on which AST was trained

RECIPES: dict[Modality, dict[str, Recipe]] = {
    "image": {
        # The original's evaluation transform: CLIP's statistics, although its ViTs were trained with others.
        "epalm": ImageRecipe("epalm", 224, "squash", 1.0, "bicubic", *CLIP),
        # What EfficientNet-Lite2 was trained on.
        "starter": ImageRecipe("starter", 260, "squash", 1.0, "bicubic", *LITE),
    },
    "video": {
        # The original's evaluation transform, except that frames are fixed: the original samples them at
        # random. 8 frames for question answering, 16 for captions.
        "epalm-video-8": VideoRecipe("epalm-video", 224, 8, "middle", "bicubic", False, *CLIP),
        "epalm-video-16": VideoRecipe("epalm-video", 224, 16, "middle", "bicubic", False, *CLIP),
        # The starter's image encoder reads every frame, so frames are smaller than pictures.
        "starter": VideoRecipe("starter", 192, 8, "uniform", "bicubic", True, *LITE),
    },
    "audio": {
        # The original's evaluation transform.
        "epalm-audio": AudioRecipe("epalm-audio", None, "first", 128, 1024, MEAN, STD),
        # The same at AST's own sample rate: use this one for new adapters.
        "epalm-audio-16k": AudioRecipe("epalm-audio-16k", 16_000, "mean", 128, 1024, MEAN, STD),
        # Ten seconds, like the others.
        "starter": WhisperRecipe("whisper", 10),
    },
}

# Which class reads the dict in an adapter's config.json: by the recipe's name, otherwise by the modality.
KINDS: dict[str, type[Recipe]] = {
    "image": ImageRecipe,
    "video": VideoRecipe,
    "audio": AudioRecipe,
    "whisper": WhisperRecipe,
}


def recipe_from_dict(modality: str, values: Mapping[str, Any]) -> Recipe:
    """The recipe in an adapter's config.json.

    Raises:
        EPALMError: see `Recipe.from_dict`; or the recipe belongs to another modality.
    """
    kind = KINDS.get(str(values.get("name")), KINDS[modality])
    if kind.modality != modality:
        raise EPALMError(f"The recipe {values['name']} is for {kind.modality}, but the task is {modality}.")
    return kind.from_dict(values)


def find_recipe(modality: Modality, name: str, encoder: str) -> Recipe:
    """The recipe of this name, for a training's settings; "timm" is the image encoder's own.

    Raises:
        EPALMError: there is no such recipe.
    """
    if name == "timm" and modality == "image":
        return timm_recipe(encoder)
    if name not in RECIPES[modality]:
        known = ", ".join([*RECIPES[modality], *(["timm"] if modality == "image" else [])])
        raise EPALMError(f"There is no {modality} recipe {name!r}; choose from {known}.")
    return RECIPES[modality][name]


def timm_recipe(model_name: str) -> ImageRecipe:
    """The evaluation transform that belongs to a timm model's weights.

    Args:
        model_name: "timm/NAME", "NAME" or a local folder in timm's format.

    Raises:
        EPALMError: timm does not know these weights, or they expect images that are not square.
    """
    import timm
    from timm.data import resolve_data_config

    try:
        if Path(model_name).is_dir():
            weights = json.loads((Path(model_name) / "config.json").read_text(encoding="utf-8"))
            weights = weights.get("pretrained_cfg", weights)
        else:
            found = timm.get_pretrained_cfg(model_name.removeprefix("timm/"), allow_unregistered=False)
            assert found is not None
            weights = found.to_dict()
    except (RuntimeError, OSError, ValueError) as error:
        raise EPALMError(f"timm has no pretrained weights named {model_name}.") from error
    config = resolve_data_config(pretrained_cfg=weights)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise EPALMError(
            f"{model_name} expects {width}×{height} images of {channels} channels, not square RGB."
        )
    return ImageRecipe(
        name=model_name,
        size=height,
        resize={"center": "crop", "squash": "squash", "border": "pad"}[config["crop_mode"]],  # type: ignore
        crop_pct=config["crop_pct"],
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
