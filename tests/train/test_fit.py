"""The training loop: batches from any source, resumable to the bit, and nothing but the adapter changes."""

import dataclasses
import json
import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from epalm.adapted import AdaptedLM
from epalm.adapter import Adapter
from epalm.config import (
    AdapterConfig,
    EncoderConfig,
    GenerationConfig,
    InjectionConfig,
    LMConfig,
    PromptConfig,
    TaskConfig,
)
from epalm.cpu import FrozenLinear
from epalm.errors import EPALMError
from tests.helpers.tiny import LAYERS, VOCAB, WIDTH, tiny_lm
from train.batches import Batch, DrawnBatches, ItemBatches, TrainingSet, cuts
from train.checkpoint import Checkpoint, identity_of
from train.data.manifest import Item
from train.fit import Verdict, fit, losses
from train.machine import pack_where_there_is_room
from train.regime import Corrected, pad_pairs, regime_of
from train.settings import Data, Evaluation, Model, Optim, Settings
from train.starter.build import on_raw_features

FEATURE = 8
OPTIM = Optim(epochs=1, batch=4, lr=1e-2, prompt_lr=2e-2, warmup=0.3, weight_decay=0.05, seed=0, save_every=4)


def settings(out: Path, **changes) -> Settings:
    return Settings(
        model=Model("tiny", "tiny", "starter", (-1, -1), 2, LAYERS, prompt_length=3, prompt_mlp=False),
        task=TaskConfig("caption", "image", ""),
        data=Data("own_image_caption", "drawn", "drawn"),
        optim=dataclasses.replace(OPTIM, **changes),
        generation=GenerationConfig(),
        out=str(out),
    )


def adapter(seed: int = 0) -> Adapter:
    torch.manual_seed(seed)
    return Adapter(
        AdapterConfig(
            lm=LMConfig("tiny", WIDTH, WIDTH, LAYERS, "llama"),
            encoder=EncoderConfig("tiny", (-1, -1), (FEATURE, FEATURE)),
            injection=InjectionConfig(2, LAYERS),
            prompt=PromptConfig(3, mlp=False),
            task=TaskConfig("caption", "image", ""),
            generation=GenerationConfig(),
            recipe={},
        )
    )


def adapted(adapter: Adapter) -> AdaptedLM:
    return AdaptedLM(tiny_lm("llama"), adapter, None)


def batch_at(step: int, rows: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(step)

    def ids(length: int) -> list[int]:
        return torch.randint(3, VOCAB, (length,), generator=generator).tolist()

    features = torch.randn(rows, FEATURE, generator=generator)
    return Batch([features] * 2, *pad_pairs([(ids(1 + n), ids(3 - n % 2)) for n in range(rows)], pad_id=1))


def first_batch(step: int) -> Batch:
    return batch_at(0)


def trained(
    adapter: Adapter,
    out: Path,
    draw: Callable[[int], Batch] = batch_at,
    steps: int = 10,
    validate: Callable[[], Verdict] | None = None,
    resume: bool = True,
    **changes,
) -> int:
    """Train an adapter on what `draw` gives; goes on where an earlier call stopped."""
    chosen = settings(out, **changes)
    checkpoint = Checkpoint.open(out, identity_of(chosen, steps=steps), resume)
    source = DrawnBatches(draw, 4, steps // chosen.optim.epochs)
    return fit(chosen, source, adapted(adapter), regime_of(chosen), checkpoint, validate)


def values(module: torch.nn.Module) -> dict[str, list]:
    return {name: tensor.tolist() for name, tensor in module.state_dict().items()}


def log_of(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


class Interrupted(Exception):
    pass


def test_a_resumed_run_equals_an_undisturbed_one_exactly(tmp_path, capsys):
    undisturbed, interrupted, resumed = adapter(), adapter(), adapter(seed=1)
    trained(undisturbed, tmp_path / "one")

    def until_the_power_fails(step: int) -> Batch:
        if step == 6:
            raise Interrupted
        return batch_at(step)

    with pytest.raises(Interrupted):
        trained(interrupted, tmp_path / "two", until_the_power_fails)
    assert values(interrupted) != values(undisturbed)
    capsys.readouterr()
    trained(resumed, tmp_path / "two")
    assert "Resuming at step 4 of 10" in capsys.readouterr().err
    assert values(resumed) == values(undisturbed)
    assert [row["loss"] for row in log_of(tmp_path / "two")] == [
        row["loss"] for row in log_of(tmp_path / "one")
    ]


def test_a_finished_run_is_not_run_again(tmp_path):
    first, loaded = adapter(), adapter(seed=1)
    trained(first, tmp_path)
    trained(loaded, tmp_path, lambda step: pytest.fail("no step is left"))
    assert values(loaded) == values(first)


def test_a_run_that_was_stopped_after_its_last_step_gets_its_cost_when_it_goes_on(tmp_path):
    def stopped() -> Verdict:
        os.kill(os.getpid(), signal.SIGTERM)
        return Verdict({"m": 0.5}, 0.5, "m 0.5")

    assert trained(adapter(), tmp_path, validate=stopped) == 130
    assert not (tmp_path / "cost.json").exists()
    assert trained(adapter(), tmp_path, lambda step: pytest.fail("no step is left")) == 0
    assert json.loads((tmp_path / "cost.json").read_text())["samples"] == 40


@pytest.mark.parametrize("change", [{"steps": 20}, {"lr": 1e-3}, {"prompt_lr": 1e-3}, {"warmup": 0}])
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, change):
    trained(adapter(), tmp_path)
    [name] = change
    with pytest.raises(EPALMError, match=rf"has (optim\.)?{name} = .*, but now it is {change[name]}"):
        trained(adapter(), tmp_path, **change)


def test_a_run_is_not_gone_on_with_unless_wanted(tmp_path):
    trained(adapter(), tmp_path)
    with pytest.raises(EPALMError, match="continue it with --resume"):
        trained(adapter(), tmp_path, resume=False)


def test_one_batch_is_learned_by_heart_and_the_lm_stays_as_it_was(tmp_path):
    learning = adapter()
    model = adapted(learning)
    chosen = settings(tmp_path, lr=3e-2, prompt_lr=3e-2, warmup=1 / 30)
    regime = regime_of(chosen)
    frozen, before = values(model.lm), values(learning)
    first = losses(model, regime, batch_at(0)).mean().item()
    source = DrawnBatches(first_batch, 4, 150)
    fit(chosen, source, model, regime, Checkpoint(tmp_path, {}))
    assert losses(model, regime, batch_at(0)).mean().item() < first / 2
    assert values(model.lm) == frozen
    assert all(parameter.grad is None for parameter in model.lm.parameters())
    assert [name for name, value in values(learning).items() if value == before[name]] == []
    assert not learning.training


def test_a_loss_that_is_not_a_number_stops_the_run_before_anything_changes(tmp_path):
    learning = adapter()
    before = values(learning)

    def broken(step: int) -> Batch:
        return dataclasses.replace(batch_at(0), features=[torch.full((4, FEATURE), float("nan"))] * 2)

    with pytest.raises(EPALMError, match=r"The loss became nan at step 0 .*: lower optim\.lr"):
        trained(learning, tmp_path, broken)
    assert values(learning) == before
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_best_epoch_is_kept_with_its_metrics(tmp_path):
    seen, worth = [], iter([0.3, 0.7, 0.5])

    def judge() -> Verdict:
        value = next(worth)
        seen.append(values(learning))
        return Verdict({"score": value}, value, f"score {value}")

    learning = adapter()
    trained(learning, tmp_path, steps=9, validate=judge, epochs=3)
    best = Adapter.load(tmp_path / "best")
    assert values(best) == seen[1]
    assert best.config.metrics == {"score": 0.7}
    assert values(Adapter.load(tmp_path / "last")) == values(learning)
    assert [row["metrics"]["score"] for row in log_of(tmp_path) if row["kind"] == "epoch"] == [0.3, 0.7, 0.5]


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (35, 0.853553), (60, 0.5), (109, 0.000247), (110, 0.0)],
)
def test_the_learning_rate_warms_up_linearly_and_falls_as_a_cosine_to_zero(step, factor):
    regime = Corrected(dataclasses.replace(OPTIM, lr=1.0, prompt_lr=1.0, warmup=1 / 11), "caption")
    groups = regime.groups(adapter())
    assert regime.rates(groups, step, 110) == pytest.approx([factor] * len(groups), abs=1e-6)


# Batches


def test_texts_are_padded_on_the_left_and_only_outputs_are_labelled():
    ids, mask, labels = pad_pairs([([5, 6], [7, 8]), ([9], [4]), ([], [3])], pad_id=1)
    assert ids.tolist() == [[5, 6, 7, 8], [1, 1, 9, 4], [1, 1, 1, 3]]
    assert mask.tolist() == [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]
    assert labels.tolist() == [[-100, -100, 7, 8], [-100, -100, -100, 4], [-100, -100, -100, 3]]


def test_the_loss_of_a_batch_is_that_of_its_items():
    model = adapted(adapter())
    regime = Corrected(OPTIM, "caption")
    texts = [([5, 6, 7], [8, 9, 2]), ([10], [11, 2])]
    features = torch.randn(2, FEATURE)
    with torch.no_grad():
        together = losses(model, regime, Batch([features] * 2, *pad_pairs(texts, pad_id=1)))
        single = [
            losses(model, regime, Batch([features[[i]]] * 2, *pad_pairs([texts[i]], pad_id=1)))
            for i in range(2)
        ]
    torch.testing.assert_close(together, torch.cat(single))


def test_a_batch_falls_into_parts_without_their_padding():
    batch = batch_at(0, rows=3)  # texts of 4, 4 and 6 tokens
    first, second = batch.parts(2)
    assert (len(first), len(second)) == (2, 1)
    assert first.ids.shape[1] < second.ids.shape[1] == batch.ids.shape[1]
    assert torch.equal(first.ids, batch.ids[:2, -first.ids.shape[1] :])
    assert [*first.weights, *second.weights] == pytest.approx([1 / 3] * 3)


def test_a_part_without_rows_is_a_row_without_weight():
    parts = list(batch_at(0, rows=2).parts(4))
    assert [len(part) for part in parts] == [1] * 4
    assert [part.weights.item() for part in parts] == [0.5, 0.5, 0, 0]


@pytest.mark.parametrize(
    ("most", "pass_cost", "ends"),
    [
        (6, 100, [6]),  # a further pass would cost more than the padding
        (6, 0, [3, 5, 6]),
        (6, 8, [5, 6]),
        (2, 100, [2, 4, 6]),  # so many fit at once
    ],
)
def test_texts_are_cut_where_that_saves_padding(most, pass_cost, ends):
    assert cuts([3, 3, 3, 5, 5, 20], most, pass_cost) == ends


def test_parts_by_length_hold_every_row_once_with_its_weight():
    batch = dataclasses.replace(batch_at(0, rows=4), weights=torch.tensor([0.1, 0.2, 0.3, 0.4]))
    parts = [*batch.parts_by_length(2)]
    assert all(part.mask.any(0).all() for part in parts)  # no column is padding alone
    found = {
        (*part.ids[row][part.mask[row] == 1].tolist(), part.weights[row].item())
        for part in parts
        for row in range(len(part))
    }
    assert found == {
        (*batch.ids[row][batch.mask[row] == 1].tolist(), batch.weights[row].item()) for row in range(4)
    }


@pytest.mark.parametrize("accumulate", [2, 3])
def test_parts_of_a_batch_train_as_the_whole(tmp_path, accumulate):
    whole, parts = adapter(), adapter()
    trained(whole, tmp_path / "whole")
    trained(parts, tmp_path / "parts", accumulate=accumulate)
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_an_adapter_of_standardised_features_is_rewritten_for_raw_ones():
    learned = adapter()
    mean, std = torch.rand(FEATURE) * 3, torch.rand(FEATURE) + 0.1
    features = torch.rand(5, FEATURE) * 4
    raw = on_raw_features(learned, [(mean, std)] * len(learned.connector))
    torch.testing.assert_close(
        raw.tokens([features] * 2), learned.tokens([(features - mean) / std] * 2), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(raw.prompt(), learned.prompt(), rtol=0, atol=0)


# When it ends


def test_it_ends_when_epochs_improve_no_more(tmp_path, capsys):
    worth = iter([0.3, 0.7, 0.5, 0.6, 0.9])

    def judge() -> Verdict:
        value = next(worth)
        return Verdict({"score": value}, value, f"score {value}")

    chosen = dataclasses.replace(settings(tmp_path, epochs=5), evaluation=Evaluation(patience=2))
    source = DrawnBatches(batch_at, 4, 2)

    def go_on() -> int:
        checkpoint = Checkpoint.open(tmp_path, identity_of(chosen), resume=True)
        return fit(chosen, source, adapted(adapter()), regime_of(chosen), checkpoint, judge)

    assert go_on() == 0
    assert "No improvement since epoch 2" in capsys.readouterr().err
    assert [row["epoch"] for row in log_of(tmp_path) if row["kind"] == "epoch"] == [1, 2, 3, 4]
    assert json.loads((tmp_path / "cost.json").read_text())["samples"] == 4 * 2 * 4
    assert go_on() == 0  # it is finished: nothing is trained, and no verdict asked for
    assert next(worth) == 0.9


# Several training sets


def sets(*weights: float) -> list[TrainingSet]:
    text = SimpleNamespace()
    return [
        TrainingSet([Item(f"{number}-{i}", "x", None, ("a",)) for i in range(10)], text, weight)
        for number, weight in enumerate(weights)
    ]


def seen(batches: ItemBatches, epochs: int) -> list[list[str]]:
    """Ids of each epoch's items."""
    steps = range(batches.per_epoch)
    return [
        [item.id for step in steps for _, item in batches.examples_of(epoch * batches.per_epoch + step)]
        for epoch in range(epochs)
    ]


def test_an_epoch_has_every_item_once_in_an_order_of_its_own(tmp_path):
    batches = ItemBatches(settings(tmp_path), sets(1), None, None)
    first, second = seen(batches, 2)
    assert sorted(first) == sorted(second) == [f"0-{i}" for i in range(10)]
    assert first != second


def test_weights_say_how_often_an_item_is_seen(tmp_path):
    batches = ItemBatches(settings(tmp_path), sets(1, 0.5, 2), None, None)
    assert batches.count == 10 + 5 + 20
    first, second = seen(batches, 2)
    for epoch in (first, second):
        assert Counter(name[0] for name in epoch) == {"0": 10, "1": 5, "2": 20}
        assert set(Counter(name for name in epoch if name[0] == "2").values()) == {2}
    halves = [{name for name in epoch if name[0] == "1"} for epoch in (first, second)]
    assert len(halves[0] | halves[1]) == 10  # the second epoch goes on where the first one ended
    assert first[:10] != sorted(first[:10])  # mixed


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_a_step(tmp_path, world):
    whole = ItemBatches(settings(tmp_path, batch=6), sets(1), None, None)
    parts = [
        ItemBatches(settings(tmp_path, batch=6 // world), sets(1), None, None, r, world) for r in range(world)
    ]
    for step in range(2):
        expected = [item for _, item in whole.examples_of(step)]
        found = [[item for _, item in part.examples_of(step)][part.rank :: world] for part in parts]
        assert sorted(item.id for part in found for item in part) == sorted(item.id for item in expected)


@pytest.mark.parametrize(("pages", "packed"), [(1, False), (2**22, True)])
def test_weights_are_packed_where_the_machine_has_room_for_them(monkeypatch, pages, packed):
    lm = tiny_lm("llama").base
    monkeypatch.setattr("os.sysconf", lambda name: pages if name == "SC_PHYS_PAGES" else 4096)
    pack_where_there_is_room(lm)
    assert any(isinstance(module, FrozenLinear) for module in lm.modules()) == packed
