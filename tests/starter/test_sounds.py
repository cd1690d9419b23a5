"""The starter's labelled sounds: tables, MIDI files, trimming, the split; without network or synthesisers."""

import random
import shutil
import struct

import numpy as np
import pytest
import soundfile

from epalm.errors import EPALMError
from train.starter.sounds import collect
from train.starter.sounds.collect import join_duplicates, split
from train.starter.sounds.fonts import FONTS, HELD_OUT, beat, midi_file, phrase
from train.starter.sounds.kinds import KINDS, Sound, read_table, section
from train.starter.sounds.recordings import RECORDED, unpack_cat
from train.starter.sounds.samples import PEAK, RATE, pieces, trimmed


def tone(seconds: float, pitch: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * pitch * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


# Tables


def test_every_file_and_instrument_has_a_known_kind():
    for name in (*RECORDED, "general-midi", "percussion"):
        assert set(read_table(name)) <= set(KINDS), name


def test_the_word_that_a_caption_is_about_counts_as_right():
    for kind in KINDS.values():
        words = f" {kind.caption} "
        assert any(f" {word} " in words or f" {word}s " in words for word in kind.words), kind
        assert (kind.family is None) or kind.category == "instrument"


def test_a_line_says_category_label_caption_and_words():
    assert (KINDS["dog"].caption, KINDS["dog"].category) == ("a dog barking", "animal")
    assert KINDS["dog"].words == ("dog", "barking", "bark")
    assert KINDS["saxophone"].family == "wind instrument"
    assert KINDS["a man laughing"].label == "man"


def test_instruments_are_played_in_a_range_that_they_have():
    for label, (programs, notes, how) in read_table("general-midi").items():
        low, high = map(int, notes.split("-"))
        assert all(0 <= int(program) < 128 for program in programs.split(",")), label
        assert 21 <= low < low + 8 <= high <= 108, label
        assert how in ("alone", "together", "long", "short"), label


def test_no_program_has_two_labels():
    programs = [p for programs, *_ in read_table("general-midi").values() for p in programs.split(",")]
    assert len(programs) == len(set(programs))


def test_speakers_and_sentences_are_complete():
    speakers = [line.split(" | ") for line in section("speakers")]
    assert {len(speaker) for speaker in speakers} == {5}
    assert {label for _, label, *_ in speakers} == {"man", "woman", "person"}
    assert all(len(line.split(": ", 1)[1].split(" | ")) == 8 for line in section("sentences"))


# Phrases


def test_a_midi_file_is_what_the_standard_says():
    events = [(0.2, b"\x80\x3c\x00"), (0.0, b"\xc0\x41"), (0.0, b"\x90\x3c\x64")]
    track = bytes.fromhex("00ff5103 07a120 00c041 00903c64 8148803c00 00ff2f00")  # 200 ms: 0x81 0x48
    header = b"MThd" + struct.pack(">IHHH", 6, 0, 1, 500)
    assert midi_file(events) == header + b"MTrk" + struct.pack(">I", len(track)) + track


@pytest.mark.parametrize("how", ["alone", "together", "long", "short"])
def test_phrases_are_short_and_within_the_range(how):
    rng = random.Random(0)
    for _ in range(300):
        events = phrase(48, 79, how, rng)
        assert min(t for t, _ in events) >= 0 and max(t for t, _ in events) < 10
        for _, (status, pitch, velocity) in events:
            assert status in (0x90, 0x80)
            assert 48 <= pitch <= 79 and 0 <= velocity <= 127


def test_a_drum_kit_plays_kick_and_snare_on_the_drum_channel():
    events = beat([0], random.Random(0))
    assert {message[0] & 15 for _, message in events} == {9}
    assert {36, 38} < {message[1] for _, message in events}
    assert {message[1] for _, message in beat([56], random.Random(0))} == {56}


# Samples


def test_silence_at_the_ends_is_cut_and_the_level_is_the_same():
    quiet = np.concatenate([np.zeros(RATE), 0.1 * tone(0.5), np.zeros(2 * RATE)])
    cut = trimmed(quiet)
    assert len(cut) / RATE == pytest.approx(0.54, abs=0.01)
    assert np.abs(cut).max() == pytest.approx(PEAK)
    assert trimmed(np.zeros(RATE, np.float32)).size == trimmed(np.zeros(0, np.float32)).size == 0


def test_long_recordings_are_cut_into_at_most_three():
    assert [len(p) / RATE for p in pieces(tone(9))] == [9]
    assert [len(p) / RATE for p in pieces(tone(14))] == [6, 6]
    assert [len(p) / RATE for p in pieces(tone(16))] == [6, 6, 4]
    assert [len(p) / RATE for p in pieces(tone(60))] == [6, 6, 6]


def test_an_archive_of_openttd_gives_its_sounds_by_number(tmp_path):
    folder = tmp_path / "usr/share/games/openttd/baseset/opensfx"
    folder.mkdir(parents=True)
    table = struct.pack("<4I", 16 | 0x80000000, 4, 24, 3)
    (folder / "opensfx.cat").write_bytes(table + b"\x03cowRIFF" + b"\x04birdRIF")
    unpack_cat(tmp_path)
    assert {p.name: p.read_bytes() for p in (tmp_path / "sounds").iterdir()} == {
        "0.wav": b"RIFF",
        "1.wav": b"RIF",
    }


# Split


def sound(label: str, group: str, category: str = "animal", source: str = "scratch") -> Sound:
    return Sound("", source, label, f"a {label}", [label], category, None, group)


def some_sounds() -> list[Sound]:
    rows = [sound(f"animal {i % 20}", f"scratch/{i // 2}") for i in range(200)]
    rows += [sound("only once", "scratch/alone")]
    for package, (_, origin, count) in FONTS.items():
        for label in ("flute", "harp", "piano"):
            rows += [sound(label, f"{origin}/{label}", "instrument", package) for _ in range(count)]
    return rows


def test_groups_stay_on_one_side():
    rows = some_sounds()
    split(rows)
    for group in {row.group for row in rows}:
        assert len({row.split for row in rows if row.group == group}) == 1
    animals = [row.split for row in rows if row.category == "animal"]
    assert animals.count("test") / len(animals) == pytest.approx(0.15, abs=0.02)
    trained = {row.label for row in rows if row.split == "train"}
    assert all(row.label_seen == (row.label in trained) for row in rows)


def test_two_of_three_instruments_are_tested_on_a_font_that_training_never_hears_with_them():
    rows = some_sounds()
    split(rows)
    tested = {row.group for row in rows if row.category == "instrument" and row.split == "test"}
    assert tested == {f"{HELD_OUT}/flute", f"{HELD_OUT}/piano"}


def test_recordings_that_sound_the_same_share_a_group(tmp_path):
    rows = []
    noise = np.random.default_rng(0).normal(size=RATE).astype(np.float32) / 5
    for i, samples in enumerate((tone(1), 0.5 * tone(1), noise)):
        row = sound("thing", f"scratch/{i}")
        row.path = f"{i}.wav"
        soundfile.write(tmp_path / row.path, samples, RATE)
        rows.append(row)
    join_duplicates(tmp_path, rows)
    assert [row.group for row in rows] == ["scratch/0", "scratch/0", "scratch/2"]


# Refusals


@pytest.mark.parametrize("missing", ["fluidsynth", "espeak-ng"])
def test_a_missing_synthesiser_is_named_before_anything_is_fetched(tmp_path, monkeypatch, missing):
    monkeypatch.setattr(shutil, "which", lambda name: None if name == missing else f"/usr/bin/{name}")
    with pytest.raises(EPALMError, match=f"need the program {missing}: install the package {missing}"):
        collect.write_sounds(tmp_path)
    assert not list(tmp_path.iterdir())
