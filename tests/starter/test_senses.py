"""What the starter's video and audio adapters are trained on: batches of clips and of sounds."""

import json
import random
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

from epalm.text import TaskText
from train.starter.clips import batches as clip_batches
from train.starter.clips.batches import ClipData
from train.starter.distil import WIDE, ClassifierSampler
from train.starter.examples import Thing
from train.starter.probe import accuracy
from train.starter.sounds import batches as sound_batches
from train.starter.sounds.batches import SoundData
from train.starter.sounds.features import augmented, choose_pairs, in_sequence, load

TOY = Path(__file__).parents[1] / "golden" / "toy_tokenizer"
RATE = 16_000


def lines(rows: list[dict], file: Path) -> None:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


# Clips


@pytest.fixture
def clips(tmp_path) -> ClipData:
    """Six clips of three things, four for training, with features that tell them apart."""
    rows = []
    for i in range(6):
        label, motion = ("cat", "dog", "cup")[i % 3], ("growing", "moving up")[i % 2]
        row = {"label": label, "caption": f"a {label}", "words": [label], "category": "animal"}
        row |= {"motion": motion, "motion_words": [motion], "split": "train" if i < 4 else "test"}
        rows.append(row)
    lines(rows, tmp_path / "clips.jsonl")
    frames = torch.arange(6.0).view(6, 1, 1).expand(6, 8, 1280).contiguous()
    save_file({"frames": frames.half(), "changes": torch.rand(6, 175)}, tmp_path / "clips.safetensors")
    pictures = SimpleNamespace(
        mean=torch.ones(1280),
        std=torch.full((1280,), 2.0),
        classes=[
            Thing(("a fox",), frozenset(["fox"]), "animal"),
            Thing(("a car",), frozenset(["car"]), None),
        ],
        sampler=ClassifierSampler(torch.randn(2, 1280), torch.zeros(2), torch.rand(9, 1280)),
    )
    return ClipData(tmp_path, pictures)


def test_three_tokens_carry_what_is_seen_and_two_what_changes(clips):
    features, examples = clips.held_out("caption")
    assert [f.shape[1] for f in features] == list(clip_batches.WIDTHS) == [1280] * 3 + [175] * 2
    torch.testing.assert_close(features[0][:, 0], (torch.tensor([4.0, 5.0]) - 1) / 2)
    assert examples == [(None, "a dog growing"), (None, "a cup moving up")]


def test_half_of_a_batch_are_things_that_no_clip_shows(clips):
    text = TaskText(clip_batches.CAPTION, AutoTokenizer.from_pretrained(TOY))
    drawn = {text.tokenizer.decode(row) for row in clips.batches(text, 20, WIDE)(0).ids}
    seen = [any(thing in row for thing in ("cat", "dog", "cup")) for row in drawn]
    assert any(seen) and not all(seen)


@pytest.mark.parametrize("task", [clip_batches.CAPTION, clip_batches.QA])
def test_a_batch_of_clips_depends_on_its_step_alone(clips, task):
    batches = clips.batches(TaskText(task, AutoTokenizer.from_pretrained(TOY)), 8, WIDE)
    first, other, again = batches(3), batches(4), batches(3)
    assert all(torch.equal(a, b) for a, b in zip(first.features, again.features, strict=True))
    assert torch.equal(first.ids, again.ids)
    assert not torch.equal(first.features[0], other.features[0])


def test_questions_are_about_the_thing_or_its_motion(clips):
    rng = random.Random(0)
    asked = [clips.example(clips.things[1], "moving up", "qa", clips.things, rng) for _ in range(2000)]
    answers = Counter(answer for _, answer in asked)
    assert set(answers) == {"a dog", "an animal", "moving up", "up"}
    assert answers["a dog"] / 2000 == pytest.approx(0.45, abs=0.04)


# Sounds

LABELS = ("violin", "dog", "man", "rain")


@pytest.fixture
def sounds(tmp_path) -> SoundData:
    """Twelve sounds of four kinds, eight for training, and four sequences of two."""
    rows = []
    for i in range(12):
        label = LABELS[i % 4]
        category = dict(zip(LABELS, ("instrument", "animal", "voice", "nature"), strict=True))[label]
        family = "string instrument" if label == "violin" else None
        row = {"label": label, "caption": f"a {label}", "words": [label], "category": category}
        row |= {"family": family, "split": "train" if i < 8 else "test", "label_seen": True}
        rows.append(row)
    lines(rows, tmp_path / "sounds.jsonl")
    tensors = {"single": torch.rand(12, 3, 4, 6).half(), "pair": torch.rand(4, 4, 6).half()}
    tensors["parts"] = torch.tensor([(0, 1), (2, 3), (8, 9), (10, 11)])
    save_file(tensors, tmp_path / "sounds.safetensors")
    return SoundData(tmp_path)


def test_sequences_are_described_in_order(sounds):
    features, examples = sounds.held_out("caption")
    assert [f.shape for f in features] == [(6, 6)] * len(sound_batches.LAYERS)
    assert [answer for _, answer in examples[4:]] == ["a violin, then a dog", "a man, then a rain"]


def test_training_features_are_standardised(sounds):
    raw = torch.cat([sounds.single[sounds.train].flatten(0, 1), sounds.pair[sounds.train_pairs]])
    for feature in sounds.features(raw):
        torch.testing.assert_close(feature.mean(0), torch.zeros(6), atol=1e-4, rtol=0)
        torch.testing.assert_close(feature.std(0), torch.ones(6), atol=1e-3, rtol=0)


def test_a_batch_of_sounds_depends_on_its_step_alone(sounds):
    batches = sounds.batches(TaskText(sound_batches.QA, AutoTokenizer.from_pretrained(TOY)), 8, WIDE)
    first, other, again = batches(3), batches(4), batches(3)
    assert torch.equal(first.features[0], again.features[0])
    assert not torch.equal(first.features[0], other.features[0])


@pytest.mark.parametrize(
    ("row", "answers"),
    [
        (0, {"a violin", "a string instrument", "a musical instrument"}),
        (1, {"a dog", "an animal"}),
        (2, {"a man", "a voice"}),
        (3, {"a rain", "nature"}),
    ],
)
def test_every_answer_about_a_sound_is_true(sounds, row, answers):
    rng = random.Random(0)
    assert {sounds.example([row], "qa", rng)[1] for _ in range(300)} == answers


def test_questions_about_a_sequence_tell_its_parts_apart(sounds):
    rng = random.Random(0)
    for _ in range(200):
        question, answer = sounds.example([0, 1], "qa", rng)
        if question in sound_batches.FIRST:
            assert answer == "a violin"
        elif question in sound_batches.LAST:
            assert answer == "a dog"
        else:
            assert answer == "a violin, then a dog"


# Their features


def test_pairs_have_different_labels_of_one_side_of_the_split():
    rows = [
        {"label": LABELS[i % 4], "split": ("train", "test")[i % 8 // 4], "label_seen": True}
        for i in range(40)
    ]
    for first, second in choose_pairs(rows, seed=0):
        assert rows[first]["label"] != rows[second]["label"]
        assert rows[first]["split"] == rows[second]["split"]


def test_one_sound_follows_the_other():
    first, second = torch.full((1, 3 * RATE), 1.0), torch.full((1, 9 * RATE), -1.0)
    wave = in_sequence(first, second, random.Random(0))
    assert wave.shape[1] <= 10 * RATE
    sign = wave.sign()[0]
    assert sign[0] == 1 and sign[-1] == -1
    assert (sign.diff() <= 0).all()  # never back to the first one


def test_a_changed_sound_is_finite_and_of_similar_length():
    wave = torch.sin(torch.arange(2 * RATE) / 10)[None]
    for seed in range(20):
        changed = augmented(wave, random.Random(seed))
        assert changed.isfinite().all()
        assert 0.5 * wave.shape[1] < changed.shape[1] < 1.2 * wave.shape[1]
    torch.testing.assert_close(augmented(wave, random.Random(1)), augmented(wave, random.Random(1)))


def test_sounds_are_loaded_at_the_encoders_rate_with_a_peak_of_one(tmp_path):
    soundfile.write(tmp_path / "a.wav", 0.1 * np.sin(np.arange(8000) / 5), 8000)
    wave = load(tmp_path / "a.wav")
    assert wave.shape == (1, RATE)
    assert wave.abs().max().item() == pytest.approx(1)


def test_the_probe_reads_off_what_is_linearly_there():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 3
    centres = torch.eye(3).repeat_interleave(4, 1)  # (3, 12)
    clear = centres[labels] + 0.1 * torch.randn(300, 12, generator=generator)
    noise = torch.randn(300, 12, generator=generator)
    score = [accuracy(x[:200], labels[:200], x[200:], labels[200:], 30.0) for x in (clear, noise)]
    assert score[0] == 1 and score[1] < 0.5
