"""The two regimes: groups and rates of the optimizer, answers and texts."""

import json
import math
import random
from pathlib import Path

import pytest
import torch

from epalm import EPALM
from train.data.manifest import Item
from train.regime import Corrected, Original, answers, make_optimizer, whole_texts
from train.settings import Optim

GOLDEN = Path(__file__).parents[1] / "golden" / "extras" / "lr_schedule.json"
RECORDED = json.loads(GOLDEN.read_text())


def adapter_of(tiny_model_dir: Path) -> torch.nn.Module:
    model = EPALM.from_pretrained(tiny_model_dir, device="cpu")
    return model.adapters["image-caption"]


def optim_of(recorded: dict) -> Optim:
    schedule, lr = recorded["schedular"], recorded["optimizer"]
    return Optim(
        epochs=schedule["epochs"],
        batch=1,
        lr=lr["lr"],
        prompt_lr=lr.get("prompt_lr", 0.0),
        min_lr=schedule["min_lr"],
        warmup_lr=schedule["warmup_lr"],
        warmup_blocks=schedule["warmup_epochs"],
    )


@pytest.mark.parametrize("name", RECORDED)
def test_reference_learning_rates_equal_the_recorded_ones(name, tiny_model_dir):
    recorded = RECORDED[name]
    optim = optim_of(recorded)
    task = "qa" if name.startswith("qa") else "caption"
    regime = Original(optim, task)
    groups = regime.groups(adapter_of(tiny_model_dir))
    per_epoch = recorded["iterations_per_epoch"]
    for row in recorded["trace"]:
        step = row["epoch"] * per_epoch + row["from_iteration"]
        rates = regime.rates(groups, step, per_epoch)
        assert rates == pytest.approx(row["lr"], rel=1e-9)


def test_the_default_warms_both_rates_up_and_lowers_them(tiny_model_dir):
    optim = Optim(epochs=2, batch=1, lr=1e-3, prompt_lr=1e-2, warmup=0.2, min_lr=1e-4)
    regime = Corrected(optim, "caption")
    groups = regime.groups(adapter_of(tiny_model_dir))
    rates = [regime.rates(groups, step, 10) for step in range(20)]
    by_name = {group.names[0].split(".")[0]: [rate[i] for rate in rates] for i, group in enumerate(groups)}
    assert by_name["connector"][:4] == pytest.approx([2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert by_name["prompt"][3] == pytest.approx(1e-2)
    middle = 1e-4 + 0.5 * (1e-3 - 1e-4) * (1 + math.cos(math.pi * 8 / 16))
    assert by_name["connector"][12] == pytest.approx(middle)
    decays = {group.names[0].rsplit(".", 1)[1]: group.weight_decay for group in groups}
    assert decays["bias"] == 0 < decays["weight"]


def test_every_trained_parameter_is_in_one_group(tiny_model_dir):
    module = adapter_of(tiny_model_dir)
    trained = sorted(name for name, p in module.named_parameters() if p.requires_grad)
    for task in ("caption", "qa"):
        for regime in (Original, Corrected):
            groups = regime(Optim(1, 1, 1e-3, 1e-3), task).groups(module)
            assert sorted(name for group in groups for name in group.names) == trained
            assert len(make_optimizer(module, groups).param_groups) == len(groups)


def test_answers_are_drawn_as_often_as_people_gave_them():
    item = Item("1", "x", "?", ("pizza",) * 5 + ("food",) + ("cheese",) * 2)
    rng, optim = random.Random(0), Optim(1, 1, 1e-3, 1e-3)
    drawn = [Corrected(optim, "qa").answer(item, rng) for _ in range(4000)]
    assert drawn.count("pizza") / 4000 == pytest.approx(5 / 8, abs=0.03)
    original = [Original(optim, "qa").answer(item, rng) for _ in range(4000)]
    assert original.count("pizza") / 4000 == pytest.approx(1 / (1 + 0.3 + 0.6), abs=0.03)


def test_only_the_answer_is_learned_but_in_reference_mode_all_of_the_text(tiny_model_dir):
    text = EPALM.from_pretrained(tiny_model_dir, device="cpu").adapted["image-qa"].text
    pairs = [text.training_text("what is this?", "a dog"), text.training_text("what?", "a cat on a sofa")]
    ids, mask, labels = answers(pairs, text)
    start = len(text.ids(""))
    for row, (_, after) in enumerate(pairs):
        assert labels[row][labels[row] != -100].tolist() == text.ids(after)[start:]
        assert mask[row, -1] == 1  # padded on the left
    ids, mask, labels = whole_texts(pairs, text)
    assert torch.equal(labels == -100, mask == 0)
    assert mask[0, 0] == 1  # padded on the right
    assert ids[1].tolist() == text.ids("".join(pairs[1]))
