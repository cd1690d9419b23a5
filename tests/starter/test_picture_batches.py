"""What the starter's image adapters are trained on: batches of photos, pictures and draws."""

import random
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from epalm.adapter import Adapter
from epalm.config import AdapterConfig, EncoderConfig, GenerationConfig, InjectionConfig, LMConfig
from epalm.text import TaskText
from tests.helpers.starter_work import HIDDEN, SCENES, debian, full
from tests.helpers.tiny import LAYERS, VOCAB, WIDTH, tiny_lm
from train.starter import plans
from train.starter.closed_form import entry_layers, last_states
from train.starter.distil import PHOTOS
from train.starter.examples import CAPTION, QA
from train.starter.pictures import batches as picture_batches
from train.starter.pictures.batches import GRID, POOLED, PROBABLE, SHARES, STAGES, Batches, StarterData

TOY = Path(__file__).parents[1] / "golden" / "toy_tokenizer"
THING, WHERE = 16 + 24 + 48 + 120 + 1280 + 1000, 1080 + 16 + 24 + 48 + 120


@pytest.fixture
def work(tmp_path) -> Path:
    return full(tmp_path)


@pytest.fixture
def data(work) -> StarterData:
    return StarterData(work)


def text_of(task) -> TaskText:
    return TaskText(task, AutoTokenizer.from_pretrained(TOY))


@pytest.mark.parametrize(
    ("task", "widths"), [(CAPTION, [THING] * 4), (QA, [THING] * 3 + [WHERE, THING, WHERE])]
)
def test_a_batch_depends_on_seed_and_step_alone(data, task, widths):
    text = text_of(task)
    batches = Batches(data, text, 8, PHOTOS)
    batches(0)
    one, same, later, other = (
        batches(1),
        Batches(data, text, 8, PHOTOS)(1),
        batches(2),
        Batches(data, text, 8, PHOTOS, seed=1)(1),
    )
    assert torch.equal(one.features[0], same.features[0])
    assert torch.equal(one.ids, same.ids)
    assert not torch.equal(one.features[0], later.features[0])
    assert not torch.equal(one.features[0], other.features[0])
    assert [feature.shape for feature in one.features] == [(8, width) for width in widths]
    assert (one.labels != -100).any(1).all()


@pytest.mark.parametrize("plan", plans.PLANS[:2], ids=lambda plan: plan.name)
def test_the_plans_features_are_those_of_the_batches(data, plan):
    layers = plan.settings.model.feature_layers
    assert layers == picture_batches.LAYERS[plan.task.name]
    own, examples = data.held_out(plan.task.name)
    widths = [sum(plan.widths[part] for part in layer) for layer in layers]
    assert [len(data.scales[layer][0]) for layer in layers] == widths
    assert [feature.shape for feature in own] == [(len(examples), width) for width in widths]


# Shares


@pytest.mark.parametrize("task", ["caption", "qa"])
def test_shares_are_as_planned_where_all_sets_are_there(data, task):
    assert sum(SHARES[task].values()) == pytest.approx(1)
    assert data.shares(task) == pytest.approx(SHARES[task])


def test_more_rooms_leave_the_others_proportions(data):
    shares = data.shares("qa", ("rooms", 0.42))
    assert shares["rooms"] == pytest.approx(0.42) and sum(shares.values()) == pytest.approx(1)
    assert shares["scenes"] / shares["composed"] == pytest.approx(0.14 / 0.06)


def test_without_public_photos_debians_pictures_and_draws_share_the_batch(tmp_path):
    alone = StarterData(debian(tmp_path))
    assert alone.shares("caption", ("scenes", 0.2)) == pytest.approx(
        {"draws": 0.36 / 0.44, "debian": 0.08 / 0.44}
    )
    assert set(alone.shares("qa", ("rooms", 0.42))) == {"debian", "draws", "named draws"}
    assert len(alone.real) == 12  # views of the six training pictures
    for task in (CAPTION, QA):
        assert len(alone.batches(text_of(task), 8, PHOTOS)(0)) == 8
        assert len(alone.held_out(task.name)[1]) == 2


def test_captions_come_from_people_classes_and_debian(data):
    text = text_of(CAPTION)
    told = [text.tokenizer.decode(row) for row in data.batches(text, 300, PHOTOS)(0).ids]
    scenes = sum(any(scene in caption for scene in SCENES) for caption in told)
    assert scenes / 300 == pytest.approx(0.46, abs=0.1)
    assert any("a kind of" in caption for caption in told)


@pytest.mark.parametrize("task", [CAPTION, QA])
def test_no_held_out_picture_is_in_a_batch(data, task):
    assert (data.raw([12])[GRID] == HIDDEN).all()
    batches = data.batches(text_of(task), 60, PHOTOS)
    for name, group in data.groups.items():
        for shown in group.pictures:
            assert (data.raw(list(shown.views))[GRID] < HIDDEN).all(), name
    assert not (data.stored[GRID][data.real] == HIDDEN).any()
    for step in range(3):
        assert "secret" not in " ".join(map(batches.text.tokenizer.decode, batches(step).ids))


def test_held_out_photos_are_told_what_they_show(data):
    examples = data.held_out("caption")[1]
    assert [answer for _, answer in examples] == ["a cup", "a car", "a secret", data.classes[999].full_name]


# Features


def test_a_draw_is_of_its_class_in_the_surroundings_of_a_photo(data):
    raw = data.drawn([5, 600] * 5, torch.Generator().manual_seed(0), PHOTOS)
    assert (raw[5].argmax(1) == torch.tensor([5, 600] * 5)).float().mean() >= 0.5  # of 1000
    real = data.raw(data.real)
    for row in range(10):
        same = (real[GRID] == raw[GRID][row]).all(1)
        assert same.any()
        for layer in STAGES:
            assert torch.equal(real[layer][same][0], raw[layer][row])


def test_probabilities_are_counted_in_twentieths(data):
    seen = data.standardised(data.raw([0, 1]))
    torch.testing.assert_close(seen[5].sum(1), torch.full((2,), 1 / PROBABLE))
    trained = data.standardised(data.raw(data.real))
    torch.testing.assert_close(trained[POOLED].mean(0), torch.zeros(1280), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("task", "often"), [(CAPTION, 0.5), (QA, 0.35)])
def test_of_things_the_pooled_feature_is_often_not_seen(data, task, often):
    names = ["things", "draws", "debian"] * 200 + ["scenes", "rooms", "composed"] * 200
    standing = {layer: torch.ones(1200, 8) for layer in range(7)}
    batches = data.batches(text_of(task), 8, PHOTOS)
    seen = batches.disturbed(standing, names, torch.Generator().manual_seed(0))
    gone = {layer: (seen[layer] == 0).all(1).float() for layer in range(7)}
    for layer in (POOLED, *STAGES):
        assert gone[layer][:600].mean() == pytest.approx(often, abs=0.06)
        assert gone[layer][600:].mean() == pytest.approx(0.1, abs=0.05)
    assert torch.equal(gone[0], gone[3]) and not torch.equal(gone[0], gone[POOLED])
    assert gone[GRID].sum() == 0 and torch.equal(seen[5], standing[5])
    assert seen[GRID].std() == pytest.approx(0.4, abs=0.02)


def test_maps_of_probabilities_begin_as_what_the_classes_names_leave(data):
    def letters(text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) % VOCAB for letter in text]}

    layers = picture_batches.LAYERS["qa"]
    widths = tuple(sum(picture_batches.WIDTHS[part] for part in layer) for layer in layers)
    adapter = Adapter(
        AdapterConfig(
            lm=LMConfig("tiny", WIDTH, WIDTH, LAYERS, "llama"),
            encoder=EncoderConfig("some", layers, widths),
            injection=InjectionConfig(0, LAYERS),
            prompt=None,
            task=QA,
            generation=GenerationConfig(),
            recipe={},
        )
    )
    before = adapter.connector[3].weight.detach().clone()
    data.classes = data.classes[:5]
    lm = tiny_lm("llama")
    data.start(adapter, lm, letters)
    first = entry_layers(adapter)[0]
    said = [f"The picture shows {thing.names[0]}" for thing in data.classes]
    certain = [torch.zeros(1, width) for width in widths]
    certain[0][0, 2] = 1 / PROBABLE
    expected = last_states(lm, letters, said, [first])[first][2]
    torch.testing.assert_close(adapter.tokens(certain)[0, 0], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(adapter.connector[3].weight, before)  # this token sees where things are


def test_questions_about_photos_of_a_class_are_answered_yes_as_often_as_no(data):
    rng = random.Random(0)
    asked = [data.about_class(0, (1, 2, 3), False, "qa", rng) for _ in range(2000)]
    answers = Counter(answer for _, answer in asked)
    assert set(answers) == {"yes", "no"}
    assert answers["yes"] / 2000 == pytest.approx(0.5, abs=0.04)
    hard = sum("goldfish" in question or "shark" in question for question, answer in asked if answer == "no")
    assert hard / answers["no"] > 0.3  # the classes that the classifier thinks of
