"""Public sets of recordings that the starter learns from, beside Debian's sounds."""

from pathlib import Path

import numpy as np
import pytest
import soundfile

from train.starter.sounds.kinds import KINDS
from train.starter.sounds.public import SETS, by_class, public_sounds, section, table
from train.starter.sounds.questions import captions_of


def silence(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(800, np.float32), 16_000)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Five folds of ESC-10, three of UrbanSound8K, and ten files of one instrument."""
    for fold in range(1, 6):
        silence(tmp_path / f"esc10/001 - Dog bark/{fold}-10{fold}-A.ogg")
    for fold in (1, 2, 10):
        silence(tmp_path / f"urbansound8k/audio/fold{fold}/7{fold}-8-0-0.wav")
    for take in range(10):
        silence(tmp_path / f"instruments/Violin_or_fiddle/{take}.wav")
    return tmp_path


def test_folds_that_results_are_reported_on_are_not_for_training(folder):
    sounds = public_sounds(folder)
    split = {(s.source, Path(s.path).stem): s.split for s in sounds}
    assert [split["esc10", f"{fold}-10{fold}-A"] for fold in range(1, 6)] == ["train"] * 3 + ["test"] * 2
    assert [split["urbansound8k", f"7{fold}-8-0-0"] for fold in (1, 2, 10)] == ["train", "train", "test"]
    assert sum(s.split == "test" for s in sounds if s.source == "instruments") == 2


def test_a_class_becomes_captions_in_plain_words(folder):
    found = {s.source: s for s in public_sounds(folder)}
    assert found["esc10"].caption == "a dog barking"
    assert found["urbansound8k"].caption == "a siren"
    assert (found["instruments"].label, found["instruments"].family) == ("violin", "string instrument")
    assert found["esc10"].group == "esc10/105"  # the recording


def test_a_set_that_is_not_there_is_named_and_left_out(tmp_path, capsys):
    assert public_sounds(tmp_path) == public_sounds(None) == []
    told = capsys.readouterr().out
    assert all(name in told for name in SETS)


def test_every_caption_of_a_class_names_it():
    for name in SETS:
        kinds = by_class(name)
        assert len(kinds) == 10
        for kind in kinds.values():
            for caption in (kind.caption, *kind.captions):
                text = caption.replace("'s", "")
                assert any(word in text or word.rstrip("s") in text for word in kind.words), caption


def test_further_captions_and_confusions_are_of_known_sounds():
    labels = {kind.label for kind in KINDS.values()} | {
        k.label for name in SETS for k in by_class(name).values()
    }
    assert set(table("further", "; ")) <= {kind.caption for kind in KINDS.values()}
    confused = table("confused", ", ")
    assert {*confused, *(label for others in confused.values() for label in others)} <= labels
    assert {label for line in section("alike") for label in line.split(", ")} <= labels
    assert captions_of({"caption": "a gunshot"}) == ["a gunshot", "a gun shot"]
