"""The training loop: resumable to the bit, and nothing but the adapter changes."""

import dataclasses

import pytest
import torch

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
from epalm.errors import EPALMError
from tests.helpers.tiny import LAYERS, VOCAB, WIDTH, tiny_lm
from train.loop import Batch, Schedule, batch_loss, fit, text_batch
from train.starter.build import on_raw_features

FEATURE = 8
SCHEDULE = Schedule(steps=10, lr=1e-2, prompt_lr=2e-2, warmup=3)


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


def batch_at(step: int) -> Batch:
    generator = torch.Generator().manual_seed(step)

    def ids(length: int) -> list[int]:
        return torch.randint(3, VOCAB, (length,), generator=generator).tolist()

    features = torch.randn(4, FEATURE, generator=generator)
    return Batch([features] * 2, *text_batch([(ids(1 + n), ids(3 - n % 2)) for n in range(4)], pad_id=1))


def first_batch(step: int) -> Batch:
    return batch_at(0)


def values(module: torch.nn.Module) -> dict[str, list]:
    return {name: tensor.tolist() for name, tensor in module.state_dict().items()}


class Interrupted(Exception):
    pass


def silent(message: str) -> None:
    pass


def test_a_resumed_run_equals_an_undisturbed_one_exactly(tmp_path):
    lm, undisturbed, interrupted, resumed = tiny_lm("llama"), adapter(), adapter(), adapter(seed=1)
    fit(lm, undisturbed, batch_at, SCHEDULE, tmp_path / "one", silent, save_every=4)

    def until_the_power_fails(step: int) -> Batch:
        if step == 6:
            raise Interrupted
        return batch_at(step)

    with pytest.raises(Interrupted):
        fit(lm, interrupted, until_the_power_fails, SCHEDULE, tmp_path / "two", silent, save_every=4)
    assert values(interrupted) != values(undisturbed)
    messages: list[str] = []
    fit(lm, resumed, batch_at, SCHEDULE, tmp_path / "two", messages.append, save_every=4)
    assert messages[0] == "resuming at step 4 of 10"
    assert values(resumed) == values(undisturbed)


def test_a_finished_run_is_not_run_again(tmp_path):
    lm, trained, loaded = tiny_lm("llama"), adapter(), adapter(seed=1)
    fit(lm, trained, batch_at, SCHEDULE, tmp_path / "c", silent)
    fit(lm, loaded, lambda step: pytest.fail("no step is left"), SCHEDULE, tmp_path / "c", silent)
    assert values(loaded) == values(trained)


@pytest.mark.parametrize("change", [{"steps": 20}, {"lr": 1e-3}, {"prompt_lr": 1e-3}, {"warmup": 0}])
def test_a_checkpoint_of_other_settings_is_refused(tmp_path, change):
    lm = tiny_lm("llama")
    fit(lm, adapter(), batch_at, SCHEDULE, tmp_path / "c", silent)
    other = dataclasses.replace(SCHEDULE, **change)
    with pytest.raises(EPALMError, match="made with other settings; remove it"):
        fit(lm, adapter(), batch_at, other, tmp_path / "c", silent)


def test_one_batch_is_learned_by_heart_and_the_lm_stays_as_it_was(tmp_path):
    lm, trained = tiny_lm("llama"), adapter()
    frozen, before = values(lm), values(trained)
    schedule = Schedule(steps=150, lr=3e-2, prompt_lr=3e-2, warmup=5)
    first = batch_loss(lm, trained, batch_at(0)).item()
    fit(lm, trained, first_batch, schedule, tmp_path / "c", silent)
    assert batch_loss(lm, trained, batch_at(0)).item() < first / 2
    assert values(lm) == frozen
    assert all(parameter.grad is None for parameter in lm.parameters())
    assert [name for name, value in values(trained).items() if value == before[name]] == []
    assert not trained.training


def test_a_loss_that_is_no_number_stops_the_run_before_anything_changes(tmp_path):
    lm, trained = tiny_lm("llama"), adapter()
    before = values(trained)

    def broken(step: int) -> Batch:
        return dataclasses.replace(batch_at(0), features=[torch.full((4, FEATURE), float("nan"))] * 2)

    with pytest.raises(EPALMError, match="The loss became nan at step 0; lower the learning rate"):
        fit(lm, trained, broken, SCHEDULE, tmp_path / "c", silent)
    assert values(trained) == before
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("step", "factor"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (10, 1.0), (35, 0.853553), (60, 0.5), (109, 0.000247), (110, 0.0)],
)
def test_the_learning_rate_warms_up_linearly_and_falls_as_a_cosine_to_zero(step, factor):
    schedule = Schedule(steps=110, lr=1.0, prompt_lr=1.0, warmup=10)
    assert schedule.factor(step) == pytest.approx(factor, abs=1e-6)


def test_texts_are_padded_on_the_left_and_only_outputs_are_labelled():
    ids, mask, labels = text_batch([([5, 6], [7, 8]), ([9], [4]), ([], [3])], pad_id=1)
    assert ids.tolist() == [[5, 6, 7, 8], [1, 1, 9, 4], [1, 1, 1, 3]]
    assert mask.tolist() == [[1, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1]]
    assert labels.tolist() == [[-100, -100, 7, 8], [-100, -100, -100, 4], [-100, -100, -100, 3]]


def test_the_loss_of_a_batch_is_the_mean_of_its_items():
    lm, fresh = tiny_lm("llama"), adapter()
    texts = [([5, 6, 7], [8, 9, 2]), ([10], [11, 2])]
    features = torch.randn(2, FEATURE)
    with torch.no_grad():
        together = batch_loss(lm, fresh, Batch([features] * 2, *text_batch(texts, pad_id=1)))
        alone = [
            batch_loss(lm, fresh, Batch([features[[i]]] * 2, *text_batch([texts[i]], pad_id=1)))
            for i in range(2)
        ]
    torch.testing.assert_close(together, torch.stack(alone).mean())


def test_an_adapter_of_standardised_features_is_rewritten_for_raw_ones():
    trained = adapter()
    mean, std = torch.rand(FEATURE) * 3, torch.rand(FEATURE) + 0.1
    features = torch.rand(5, FEATURE) * 4
    raw = on_raw_features(trained, [(mean, std)] * len(trained.connector))
    torch.testing.assert_close(
        raw.tokens([features] * 2), trained.tokens([(features - mean) / std] * 2), rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(raw.prompt(), trained.prompt(), rtol=0, atol=0)
