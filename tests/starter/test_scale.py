"""How much of everything the factory makes, and how it goes on where it was."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from epalm import EPALMError
from train.starter import plans
from train.starter.pictures import features
from train.starter.scale import FULL, LEAST, Scale, keep_to

ITEMS = [(i, "ab"[i % 2]) for i in range(200)]


def test_a_part_has_its_share_of_every_group_in_order():
    part = Scale(media=0.1).part(ITEMS, lambda item: item[1])
    assert Counter(group for _, group in part) == {"a": 10, "b": 10}
    assert part == sorted(part) == Scale(media=0.1).part(ITEMS, lambda item: item[1])
    assert len(Scale(media=0.001).part(ITEMS, lambda item: item[1])) == 2 * LEAST


def test_kinds_are_kept_whole():
    items = [(f"thing {i % 20}", i) for i in range(100)]
    kept = Scale(media=0.1).kinds(items, lambda item: item[0])
    assert Counter(label for label, _ in kept).values() and len(kept) == 10
    assert set(Counter(label for label, _ in kept).values()) == {5}


def test_all_is_kept_at_full_scale():
    assert FULL.part(ITEMS, lambda item: item[1]) == FULL.kinds(ITEMS, lambda item: item[1]) == ITEMS
    assert FULL.count(3000) == 3000 and FULL.training(1700) == 1700 and FULL.views(7) == 7
    assert Scale(media=0.5).views(7) == 2 and Scale(media=0.5).views(1) == 1


@pytest.mark.parametrize("share", [0, -1, 1.5])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(EPALMError, match="--steps-share must be above 0 and at most 1"):
        Scale(steps=share)


def test_a_work_folder_keeps_its_share_of_the_media(tmp_path):
    keep_to(tmp_path, Scale(media=0.05, steps=0.1))
    keep_to(tmp_path, Scale(media=0.05))
    with pytest.raises(EPALMError, match="was made with --media-share 0.05, but now it is 1"):
        keep_to(tmp_path, FULL)


def test_a_part_of_a_stage_has_the_same_settings_but_fewer_steps():
    stage = plans.PLANS[0].stages[0]
    part = stage.part(Scale(steps=0.01))
    assert (stage.steps, part.steps) == (1700, 17)
    assert part.settings.optim.save_every == 4 and stage.part(FULL) == stage
    assert part.settings.optim.warmup == stage.settings.optim.warmup


class Colours(torch.nn.Module):
    """An encoder whose every feature is the picture's mean colour."""

    seen = 0

    def forward(self, pixels: torch.Tensor, layers) -> list[torch.Tensor]:
        Colours.seen += len(pixels)
        return [pixels.mean((2, 3)) for _ in layers]


def test_pictures_whose_views_are_missing_are_encoded_where_it_stopped(tmp_path: Path, monkeypatch):
    head = {"classifier.weight": torch.zeros(2, 3), "classifier.bias": torch.zeros(2)}
    monkeypatch.setattr(features, "load_encoder", lambda *_, **__: Colours())
    monkeypatch.setattr(features, "backbone_dir", lambda name: tmp_path)
    features.save_file(head, tmp_path / "model.safetensors")
    rows = []
    for i, colour in enumerate(("red", "blue")):
        Image.new("RGBA", (40, 40), colour).save(tmp_path / f"{i}.png")
        rows.append({"path": f"{i}.png", "is_photo": False, "category": "toy"})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    features.encode_pictures(tmp_path, views=1)
    first = load_file(tmp_path / "features.safetensors")
    Colours.seen = 0
    features.encode_pictures(tmp_path, views=3)
    assert Colours.seen == 4  # two further views of two pictures
    longer = load_file(tmp_path / "features.safetensors")
    assert longer["layer4"].shape == (2, 4, 3) and torch.equal(longer["layer4"][:, :2], first["layer4"])
    features.encode_pictures(tmp_path, views=3)
    assert Colours.seen == 4
