"""Sound fonts that Debian ships, played: short random phrases of every instrument."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import soundfile
import torch

from epalm.errors import EPALMError
from epalm.media.transforms import resampled
from train.starter.sounds.kinds import KINDS, Heard, read_table
from train.starter.sounds.samples import LONGEST, RATE

# MuseScore's font grew out of Fluid's: they share samples, Tim Brechbill's shares none with them.
FONTS = {  # package: its file, the origin of its samples, phrases per label
    "fluid-soundfont-gm": ("usr/share/sounds/sf2/FluidR3_GM.sf2", "fluid", 11),
    "musescore-general-soundfont-small": ("usr/share/sounds/sf3/MuseScore_General_Lite.sf3", "fluid", 9),
    "timgm6mb-soundfont": ("usr/share/sounds/sf2/TimGM6mb.sf2", "timgm", 9),
}
HELD_OUT = "timgm"  # the origin of which most labels are for testing alone
MORE_OF = {"piano": 2, "drums": 2, "drum": 0.6, "hi-hat": 0.5}
Event = tuple[float, bytes]  # seconds, MIDI message


def midi_file(events: list[Event]) -> bytes:
    """A Standard MIDI File of one track whose ticks are milliseconds."""
    track = b"\x00\xff\x51\x03" + (500_000).to_bytes(3, "big")  # µs per quarter note, which has 500 ticks
    now = 0
    for seconds, message in sorted(events, key=lambda event: event[0]):  # stable: a program before its notes
        ticks = round(1000 * seconds)
        delta, now = ticks - now, ticks
        length = [delta & 0x7F]
        while delta := delta >> 7:
            length.insert(0, delta & 0x7F | 0x80)
        track += bytes(length) + message
    track += b"\x00\xff\x2f\x00"
    return struct.pack(">4sIHHH", b"MThd", 6, 0, 1, 500) + struct.pack(">4sI", b"MTrk", len(track)) + track


def note(channel: int, pitch: int, start: float, length: float, velocity: int) -> list[Event]:
    """A note's beginning and end."""
    return [
        (start, bytes((0x90 | channel, pitch, velocity))),
        (start + length, bytes((0x80 | channel, pitch, 0))),
    ]


SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9))


def phrase(low: int, high: int, how: str, rng: random.Random) -> list[Event]:
    """A random short phrase on channel 0, of notes from `low` to `high`: at most eight seconds."""
    loud = rng.randint(60, 120)

    def struck(pitch: int, start: float, length: float) -> list[Event]:
        return note(0, pitch, start, length, min(127, max(30, round(rng.gauss(loud, 8)))))

    if how == "long":
        return struck(rng.randint(low, high), 0, rng.uniform(2, 6))
    if how == "short":
        step = rng.uniform(0.25, 0.9)
        return [e for i in range(rng.randint(1, 6)) for e in struck(rng.randint(low, high), i * step, step)]
    scale = rng.choice(SCALES)
    middle = rng.randint(low + 5, high - 5)
    pitches = [p for p in range(low, high + 1) if (p - middle) % 12 in scale]
    at = min(range(len(pitches)), key=lambda i: abs(pitches[i] - middle))
    step = rng.choice((0.18, 0.25, 0.35, 0.5, 0.7))
    kind = rng.choice(("note", "scale", "melody", "melody", "arpeggio"))
    if how == "together" and rng.random() < 0.5:
        kind = rng.choice(("chords", "accompanied"))
    if kind == "note":
        return struck(pitches[at], 0, rng.uniform(1, 3))
    if kind == "chords":
        step = rng.uniform(0.5, 1.5)
        roots = [min(at + rng.choice((0, 3, 4, -2)), len(pitches) - 5) for _ in range(rng.randint(1, 4))]
        return [
            e
            for i, r in enumerate(roots)
            for k in (0, 2, 4)
            for e in struck(pitches[max(r, 0) + k], i * step, step)
        ]
    count = rng.randint(4, max(5, min(12, int(6 / step))))
    if kind == "scale":
        walk = [at + i * (1 if at < len(pitches) // 2 else -1) for i in range(count)]
    elif kind == "arpeggio":
        walk = [at + (0, 2, 4, 7, 4, 2)[i % 6] for i in range(count)]
    else:
        walk = [at]
        while len(walk) < count:
            walk.append(walk[-1] + rng.choice((-2, -1, -1, 0, 1, 1, 2, 3, -3)))
    events, start = [], 0.0
    for i in walk:
        length = step * rng.choice((1, 1, 1, 2)) if kind != "scale" else step
        events += struck(pitches[min(max(i, 0), len(pitches) - 1)], start, 0.95 * length)
        start += length
    if kind == "accompanied":
        for beat in range(max(1, int(start / (2 * step)))):
            for k in (0, 2, 4):
                events += struck(pitches[k], beat * 2 * step, 1.8 * step)
    return [e for e in events if e[0] < 7.5]


def beat(pitches: list[int], rng: random.Random) -> list[Event]:
    """Strokes of one percussion instrument, or of a whole kit if `pitches` is [0]."""
    step = rng.uniform(0.1, 0.2)
    if pitches == [0]:
        hat, bars = rng.choice((42, 42, 46, 51)), rng.randint(1, 3)
        kick = {0, *rng.sample(range(16), rng.randint(1, 4))}
        snare = {4, 12} if rng.random() < 0.8 else {8}
        every = rng.choice((1, 2, 2, 4))
        strokes = [(36, i) for i in kick] + [(38, i) for i in snare] + [(hat, i) for i in range(0, 16, every)]
        strokes = [(pitch, i + 16 * bar) for bar in range(bars) for pitch, i in strokes]
    else:
        pitch = rng.choice(pitches)
        every = rng.choice((2, 3, 4))
        strokes = [(pitch, every * i) for i in range(rng.choice((1, 1, 2, 4, 8)))]
        if len(pitches) > 3 and rng.random() < 0.3:  # several drums in turn
            strokes = [(rng.choice(pitches), i) for _, i in strokes]
    return [
        e
        for pitch, i in strokes
        for e in note(9, pitch, i * step, step, rng.randint(60, 120))
        if i * step < 7
    ]


def font_phrases(rng: random.Random, count: int) -> Iterator[tuple[str, list[Event]]]:
    """About `count` phrases of every label that a General MIDI sound font has: label, events."""
    for label, (programs, notes, how) in read_table("general-midi").items():
        low, high = (int(pitch) for pitch in notes.split("-"))
        choices = [int(program) for program in programs.split(",")]
        for i in range(round(count * MORE_OF.get(label, 1))):
            program = bytes((0xC0, choices[i % len(choices)]))
            yield label, [(0, program), *((t + 0.05, m) for t, m in phrase(low, high, how, rng))]
    for label, (pitches,) in read_table("percussion").items():
        for _ in range(round(count * MORE_OF.get(label, 1))):
            kit = bytes((0xC9, rng.choice((0, 0, 8, 16, 24, 32))))
            events = beat([int(pitch) for pitch in pitches.split(",")], rng)
            yield label, [(0, kit), *((t + 0.05, m) for t, m in events)]


def program_for(name: str, package: str) -> str:
    """The path of a program.

    Raises:
        EPALMError: it is not installed.
    """
    path = shutil.which(name)
    if path is None:
        raise EPALMError(f"The starter's sounds need the program {name}: install the package {package}.")
    return path


def played(package: str, root: Path, work: Path) -> Heard:
    """Phrases of all labels, played by fluidsynth in one go and cut apart afterwards."""
    fluidsynth = program_for("fluidsynth", "fluidsynth")
    file, origin, count = FONTS[package]
    rng = random.Random(package)
    events: list[Event] = []
    spans = []
    now = 0.0
    for label, part in font_phrases(rng, count):
        reverb = rng.randint(0, 70)
        for channel in (0, 9):
            events += [
                (now, bytes((0xB0 | channel, control, value))) for control, value in ((121, 0), (91, reverb))
            ]
        events += [(now + 0.01 + t, m) for t, m in part]
        length = max(t for t, _ in part) + 1.5  # for the last note to fade
        for channel in (0, 9):
            events.append((now + length, bytes((0xB0 | channel, 120, 0))))
        spans.append((label, now, min(length, LONGEST)))
        now += length + 0.3
    midi, wav = work / f"{package}.mid", work / f"{package}.wav"
    midi.write_bytes(midi_file(events))
    rate = 2 * RATE
    command = [
        fluidsynth,
        "-ni",
        "-q",
        "-r",
        str(rate),
        "-g",
        "0.5",
        "-T",
        "wav",
        "-O",
        "s16",
        "-F",
        str(wav),
    ]
    subprocess.run([*command, str(root / file), str(midi)], check=True, capture_output=True)
    with soundfile.SoundFile(wav) as sound:
        for label, start, length in spans:
            sound.seek(int(start * rate))
            samples = sound.read(int(length * rate), dtype="float32", always_2d=True).mean(1)
            samples = resampled(torch.from_numpy(samples)[None], rate, RATE)[0].numpy()
            kind = KINDS[label]
            yield samples, kind, kind.caption, f"{origin}/{label}"
    midi.unlink()
    wav.unlink()
