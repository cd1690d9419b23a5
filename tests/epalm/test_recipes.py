"""Recipes by name, to and from a dict, whatever their kind."""

import json

import pytest
import timm
import torch
from PIL import Image

from epalm.errors import EPALMError
from epalm.media.recipes import RECIPES, find_recipe, recipe_from_dict, timm_recipe
from epalm.media.transforms import ImageRecipe

EVERY = [(modality, recipe) for modality, recipes in RECIPES.items() for recipe in recipes.values()]


@pytest.mark.parametrize(("modality", "recipe"), EVERY, ids=str)
def test_every_recipe_survives_an_adapters_config(modality, recipe):
    assert recipe.modality == modality
    assert recipe_from_dict(modality, json.loads(json.dumps(recipe.to_dict()))) == recipe


@pytest.mark.parametrize(("modality", "recipe"), EVERY, ids=str)
def test_unknown_and_missing_fields_are_refused(modality, recipe):
    with pytest.raises(EPALMError, match=f"The {modality} recipe has the unknown key 'colour'"):
        recipe_from_dict(modality, {**recipe.to_dict(), "colour": 1})
    with pytest.raises(EPALMError, match=f"The {modality} recipe lacks the key"):
        recipe_from_dict(modality, {"name": recipe.name})


def test_a_recipe_of_another_modality_is_refused():
    with pytest.raises(EPALMError, match="The recipe whisper is for audio, but the task is image"):
        recipe_from_dict("image", RECIPES["audio"]["starter"].to_dict())


def test_settings_find_a_recipe_by_its_name():
    assert find_recipe("video", "starter", "any") is RECIPES["video"]["starter"]
    with pytest.raises(EPALMError, match="no image recipe 'paper'; choose from epalm, starter, timm"):
        find_recipe("image", "paper", "any")
    with pytest.raises(EPALMError, match="no audio recipe 'timm'"):
        find_recipe("audio", "timm", "any")


def test_timm_is_the_image_encoders_own_recipe(tmp_path):
    name = "timm/vit_base_patch16_224.augreg_in21k_ft_in1k"
    assert find_recipe("image", "timm", name) == timm_recipe(name)
    network = timm.create_model("test_efficientnet", pretrained=False)
    timm.models.save_for_hf(network, tmp_path, safe_serialization=True)
    recipe = find_recipe("image", "timm", str(tmp_path))
    assert recipe.size == 160 and recipe.name == str(tmp_path)
    assert recipe(Image.new("RGB", (99, 50))).shape == (3, 160, 160)


def test_a_folder_without_a_timm_model_is_refused(tmp_path):
    with pytest.raises(EPALMError, match="timm has no pretrained weights named"):
        timm_recipe(str(tmp_path))


def test_a_recipe_shows_what_the_encoder_sees():
    recipe = RECIPES["image"]["epalm"]
    [(shown, _)], sentence = recipe.preview(Image.new("RGB", (99, 50), (255, 0, 0)))
    assert shown.size == (224, 224) and sentence == "The model sees these 224×224 pixels."


def test_a_new_recipe_is_a_line_in_the_registry():
    grey = ImageRecipe("grey", 64, "crop", 0.9, "bicubic", (0.5,) * 3, (0.5,) * 3)
    assert recipe_from_dict("image", grey.to_dict()) == grey
    assert torch.equal(grey(Image.new("RGB", (80, 70), (255, 255, 255))), torch.ones(3, 64, 64))
