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
from train.starter.clips.collect import MOTIONS
from train.starter.distil import WIDE, ClassifierSampler
from train.starter.examples import Thing
from train.starter.probe import accuracy
from train.starter.sounds import batches as sound_batches
from train.starter.sounds import questions
from train.starter.sounds.batches import SoundData
from train.starter.sounds.features import choose_pairs
from train.starter.sounds.mixing import at_once, augmented, filled, in_sequence, load

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
        sampler=ClassifierSampler(torch.randn(1000, 1280), torch.zeros(1000), torch.rand(9, 1280)),
    )
    return ClipData(tmp_path, pictures)


def test_three_tokens_carry_what_is_seen_and_two_what_changes(clips):
    features, examples = clips.held_out("caption")
    assert [f.shape[1] for f in features] == list(clip_batches.WIDTHS) == [1000 + 1280] * 3 + [175] * 2
    torch.testing.assert_close(features[0][:, 1000], (torch.tensor([4.0, 5.0]) - 1) / 2)
    torch.testing.assert_close(
        features[0][:, :1000].sum(1), torch.full((2,), 20.0)
    )  # probabilities, times 20
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


def test_photos_teach_what_people_wrote_about_them(clips, tmp_path):
    dog = {"photo": "a.jpg", "camera": "pan", "captions": ["a dog runs"], "class": None, "split": "train"}
    lines([dog, dog | {"captions": [], "class": 1}, dog | {"split": "test"}], tmp_path / "photo-clips.jsonl")
    tensors = {"frames": torch.rand(3, 8, 1280).half(), "changes": torch.rand(3, 175)}
    save_file(tensors, tmp_path / "photo-clips.safetensors")
    data, rng = ClipData(tmp_path, clips.pictures), random.Random(0)
    assert (data.scenes, data.classes) == ([6], [7])
    assert data.shown(6, "caption", rng) == (None, "a dog runs")
    assert data.shown(7, "caption", rng) == (None, "a car")
    text = TaskText(clip_batches.CAPTION, AutoTokenizer.from_pretrained(TOY))
    assert len(data.batches(text, 20, WIDE)(0)) == 20


def test_a_question_about_a_clip_never_asks_for_a_picture():
    question, answer = clip_batches.of_video(("is there a dog in the picture?", "yes"))
    assert (question, answer) == ("is there a dog in the video?", "yes")
    assert clip_batches.of_video((None, "a dog")) == (None, "a dog")


@pytest.mark.parametrize("motion", ["moving up", "standing still"])
def test_yes_is_said_of_what_a_thing_does_alone(motion):
    rng = random.Random(0)
    for _ in range(300):
        question, answer = clip_batches.yes_or_no(motion, rng)
        if question in clip_batches.MOVES:
            assert answer == ("no" if motion == "standing still" else "yes")
        else:
            told = any(phrase in question for phrase in MOTIONS[motion].phrases)
            assert answer == ("yes" if told else "no")


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
    twos = [(i, -1, view) for i in range(12) for view in range(3)]
    twos += [(0, 1, 0), (2, 3, 0), (8, 9, 0), (10, 11, 0)]
    first, second, view = torch.tensor(twos).T.contiguous()
    tensors = {"layers": torch.rand(40, 3, 6).half(), "stem": torch.rand(40, 6).half(), "view": view.clone()}
    tensors |= {"first": first.clone(), "second": second.clone(), "mixed": torch.zeros(40, dtype=torch.bool)}
    save_file(tensors, tmp_path / "sounds.safetensors")
    return SoundData(tmp_path)


def test_sequences_are_described_in_order(sounds):
    features, examples = sounds.held_out("caption")
    assert [f.shape for f in features] == [(6, 6)] * len(sound_batches.LAYERS)
    assert [answer for _, answer in examples[4:]] == ["a violin, then a dog", "a man, then a rain"]


def test_training_features_are_standardised(sounds):
    for feature in sounds.features(sounds.raw([*sounds.train, *sounds.train_pairs])):
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
    rng, view = random.Random(0), 3 * row
    told = {sounds.example(view, "qa", rng)[1] for _ in range(300)}
    assert told - {"yes", "no"} == answers


def test_questions_about_a_sequence_tell_its_parts_apart(sounds):
    rng = random.Random(0)
    for _ in range(200):
        question, answer = sounds.example(36, "qa", rng)
        if answer in ("yes", "no"):
            continue
        if question in questions.FIRST:
            assert answer == "a violin"
        elif question in questions.LAST:
            assert answer == "a dog"
        else:
            assert answer == "a violin, then a dog"


def test_yes_is_right_as_often_as_no_and_no_of_what_is_not_there(sounds):
    rng, rows = random.Random(0), sounds.rows
    others = questions.FalseAnswers(rows)
    asked = [questions.yes_or_no([rows[1]], others, rng) for _ in range(2000)]
    named = [example for example in asked if example and "a dog" in example[0]]
    assert {answer for _, answer in named} == {"yes"}
    answers = Counter(answer for _, answer in filter(None, asked))
    assert answers["yes"] / answers.total() == pytest.approx(0.5, abs=0.04)


def test_two_sounds_at_the_same_time_are_both_in_the_caption():
    rng = random.Random(0)
    dog = {"label": "dog", "caption": "a dog barking"}
    music = {"label": "music", "caption": "music playing"}
    told = {questions.together(dog, music, rng) for _ in range(200)}
    assert "a dog barking while music is playing" in told
    assert all("dog" in text and "music" in text for text in told)


@pytest.mark.parametrize(
    ("phrase", "clause"),
    [
        ("a dog barking", "a dog is barking"),
        ("children playing", "children are playing"),
        ("a washing machine", None),
        ("a crackling fire", None),
        ("rain", None),
    ],
)
def test_a_caption_becomes_a_clause_where_somebody_does_something(phrase, clause):
    assert questions.clause(phrase) == clause


def test_sounds_that_may_be_taken_for_each_other_are_no_false_answers():
    drill = {"source": "urbansound8k", "label": "drill", "words": ["drill"]}
    jackhammer = drill | {"label": "jackhammer", "words": ["jackhammer"]}
    assert questions.alike(drill, jackhammer | {"source": "scratch"})
    assert not questions.alike(drill, jackhammer)  # two classes of one set
    assert questions.alike({"label": "bird", "words": []}, {"label": "crow", "words": ["bird"]})


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


def test_two_sounds_at_once_are_both_to_be_heard_at_the_loudness_that_is_asked_for():
    time = torch.arange(6 * RATE) / RATE
    low, high = (torch.sin(2 * torch.pi * pitch * time)[None] for pitch in (200, 2000))
    power = torch.fft.rfft(at_once(low, high, (-20, -20), random.Random(0))[0]).abs() ** 2
    middle = len(power) // 10  # 800 Hz
    share = power[middle:].sum() / power[:middle].sum()
    assert share.item() == pytest.approx(0.01, rel=0.2)


def test_a_short_sound_is_repeated_and_a_long_one_cut():
    for seconds in (0.3, 20):
        wave = filled(torch.ones(1, int(seconds * RATE)), 5 * RATE, random.Random(1))
        assert wave.shape == (1, 5 * RATE)
        assert wave.sum() > 0.25 * RATE


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
