"""Labelled sounds that Debian ships: recordings, sound fonts played, voices recorded and synthesised.

Each sound becomes WORK/sounds/….wav (16 kHz, mono, 16 bit, at most ten seconds, no silence at its ends) and
one line of WORK/sounds.jsonl: {"path", "source", "label", "caption", "words", "category", "family", "group",
"split", "label_seen"}. sounds.txt says what is heard in which file.
"""

import random
import re
import shutil
import struct
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import soundfile
import torch

from epalm.errors import EPALMError
from epalm.files import write_json_lines
from epalm.media.audio import open_audio
from epalm.media.transforms import resampled
from train.starter.packages import read_rcc, unpack
from train.starter.split import groups_of

RATE = 16_000
LONGEST = 10.0  # seconds
SHORTEST = 0.06  # seconds: one closed hi-hat
SILENT = 0.01  # of the loudest sample: below this a sound has ended
PEAK = 0.7
TEST_SHARE = 0.15
DATA = Path(__file__).with_name("sounds.txt")


@dataclass
class Sound:
    """One line of the manifest; `path` is relative to the work folder, a `group` has one origin."""

    path: str
    source: str
    label: str
    caption: str
    words: list[str]
    category: str
    family: str | None
    group: str
    split: str = "train"
    label_seen: bool = True


@dataclass(frozen=True)
class Kind:
    """What is heard: one line of [labels]."""

    label: str
    caption: str
    words: tuple[str, ...]
    category: str
    family: str | None


# What a source yields: samples (float32, 16 kHz), kind, caption, group.
Heard = Iterator[tuple[np.ndarray, Kind, str, str]]


def section(name: str) -> list[str]:
    """The lines of one section of sounds.txt, continued lines joined."""
    text = DATA.read_text(encoding="utf-8").split(f"\n[{name}]\n")[1].split("\n\n")[0]
    return text.rstrip("\n").replace("\n    ", " ").splitlines()


def read_kinds() -> dict[str, Kind]:
    """[labels] by caption, and by label for the first caption of each."""
    kinds: dict[str, Kind] = {}
    for line in section("labels"):
        category, label, caption, *words = (part.strip() for part in line.split("|"))
        category, _, family = category.partition("/")
        further = words[0].split(", ") if words else []
        kind = Kind(label, caption, (label, *further), category, family if family not in ("", "-") else None)
        kinds.setdefault(label, kind)
        kinds[caption] = kind
    return kinds


def read_table(name: str) -> dict[str, list[str]]:
    """A section of lines "label = some words" -> {label: words}."""
    return {label: words.split() for label, _, words in (line.partition(" = ") for line in section(name))}


KINDS = read_kinds()


# Samples


def trimmed(samples: np.ndarray) -> np.ndarray:
    """Without the silence before and after, its loudest sample being PEAK; empty if nothing is heard."""
    loud = np.abs(samples)
    heard = np.flatnonzero(loud > SILENT * loud.max(initial=0))
    if not heard.size or loud.max() < 1e-4:
        return samples[:0]
    margin = RATE // 50
    samples = samples[max(0, heard[0] - margin) : heard[-1] + margin]
    return samples * (PEAK / loud.max())


def load(path: Path, seconds: float) -> np.ndarray:
    """The first seconds of a file: (samples,) float32 at 16 kHz, channels averaged; empty if it is broken."""
    try:
        waveform, rate = open_audio(path, seconds)
    except EPALMError as error:
        print(f"  left out: {error}", flush=True)
        return np.zeros(0, np.float32)
    return resampled(waveform.mean(0, keepdim=True), rate, RATE)[0].numpy()


def pieces(samples: np.ndarray) -> list[np.ndarray]:
    """A long recording as up to three parts of six seconds, a shorter one as it is."""
    if len(samples) <= LONGEST * RATE:
        return [samples]
    size = 6 * RATE
    starts = range(0, min(len(samples) - size // 2, 3 * size), size)
    return [samples[start : start + size] for start in starts]


# Recordings

SUFFIXES = (".wav", ".ogg", ".oga", ".flac", ".mp3")
TAKE = re.compile(
    r"(-(Hard|Hardest|Med|Soft|Softest)|[-_]?\d+)$"
)  # of one thing: its number, or how hard it was hit


def recordings(package: str, root: Path) -> Heard:
    """The files of a package that its section of sounds.txt names."""
    files = [path for path in sorted(root.rglob("*")) if path.suffix in SUFFIXES]
    for name, patterns in read_table(package).items():
        kind = KINDS[name]
        for pattern in patterns:
            found = [path for path in files if fnmatch(str(path.with_suffix("")), f"*/{pattern}")]
            if not found:
                print(f"  {package} has no {pattern}", flush=True)
            for path in found:
                take = "speaker" if kind.label == "person" else TAKE.sub("", path.stem) or path.stem
                for part in pieces(load(path, 60)):
                    yield part, kind, kind.caption, f"{package}/{take}"


def unpack_qt_resources(root: Path) -> None:
    """Write the sounds of gcompris's archives below root/sounds."""
    for archive in sorted((root / "usr/share/gcompris-qt/rcc").glob("*.rcc")):
        for name, data in read_rcc(archive.read_bytes()):
            if name.endswith((".ogg", ".wav")):
                path = root / "sounds" / name.removeprefix("/gcompris/src/activities/").lstrip("/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)


def unpack_cat(root: Path) -> None:
    """Write the sounds of OpenTTD's archive to root/sounds, named by their number.

    The archive begins with pairs of u32, little-endian: where a sound is (the top bit is a flag), and its
    size; the first tells how many there are. There, a name behind its length, then a WAV file.
    """
    data = (root / "usr/share/games/openttd/baseset/opensfx/opensfx.cat").read_bytes()
    count = (struct.unpack_from("<I", data)[0] & 0x7FFFFFFF) // 8
    (root / "sounds").mkdir(exist_ok=True)
    for i in range(count):
        start, size = struct.unpack_from("<II", data, 8 * i)
        start = (start & 0x7FFFFFFF) + 1 + data[start & 0x7FFFFFFF]
        (root / "sounds" / f"{i}.wav").write_bytes(data[start : start + size])


BEFORE: dict[str, Callable[[Path], None]] = {
    "gcompris-qt-data": unpack_qt_resources,
    "openttd-opensfx": unpack_cat,
}
RECORDED = (
    "tuxpaint-stamps-default",
    "gcompris-qt-data",
    "scratch",
    "openttd-opensfx",
    "lincity-ng-data",
    "frozen-bubble-data",
    "tuxtype-data",
    "stormbaancoureur-data",
    "sonic-pi-samples",
    "lmms-common",
    "hydrogen-data",
    "sound-icons",
    "sound-theme-freedesktop",
    "gnome-audio",
    "oxygen-sounds",
    "deepin-sound-theme",
    "lomiri-sounds",
)


def typing(root: Path, count: int = 24) -> Heard:
    """bucklespring-data has every key of a keyboard, pressed and released: some of them, as one types."""
    rng = random.Random("typing")
    keys = sorted((root / "usr/share/buckle/wav").glob("*-1.wav"))
    kind = KINDS["keyboard"]
    for _ in range(count):
        seconds, speed = rng.uniform(2, 6), rng.uniform(0.09, 0.25)
        mixed = np.zeros(int((seconds + 1) * RATE), np.float32)
        at = 0.0
        while at < seconds:
            down = rng.choice(keys)
            for key, after in ((down, 0), (down.with_name(down.name.replace("-1", "-0")), 0.08)):
                start, sample = int((at + after) * RATE), load(key, 1)
                mixed[start : start + len(sample)] += sample[: len(mixed) - start]
            at += rng.gauss(speed, speed / 4) if rng.random() > 0.1 else 3 * speed
        yield mixed, kind, kind.caption, "bucklespring-data"


# Sound fonts

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


# Voices

NO_SPEECH = re.compile("silence|beep|tone|ascending|descending|confbridge-(join|leave)")
PER_SPEAKER = 10
VARIANTS = {"man": ("m1", "m2", "m3", "m4", "m6", "m7"), "woman": ("f1", "f2", "f3", "f4", "f5")}
PER_VARIANT = 16


def speaker(name: str, label: str, language: str, root: Path, pattern: str) -> Heard:
    """Utterances of one speaker, 1.2 to 10 seconds each."""
    rng = random.Random(name + language)
    files = sorted(
        p for p in root.rglob("*") if fnmatch(str(p), f"*/{pattern}") and not NO_SPEECH.search(str(p))
    )
    rng.shuffle(files)
    kind, pause = KINDS[f"a {label} speaking"], np.zeros(RATE // 5, np.float32)
    made = 0
    said: list[np.ndarray] = []
    wanted = rng.uniform(1.2, 5)
    for path in files:
        words = trimmed(load(path, LONGEST))
        if len(words) < RATE // 6:
            continue
        said += [words, pause]
        samples = np.concatenate(said)
        if len(samples) >= wanted * RATE:
            named = language != "-" and rng.random() < 0.5
            yield samples, kind, f"{kind.caption} {language}" if named else kind.caption, f"speaker {name}"
            made, said, wanted = made + 1, [], rng.uniform(1.2, 5)
        if made == PER_SPEAKER:
            return


def synthesised(work: Path) -> Heard:
    """Sentences in five languages by espeak-ng, whose voices have male and female variants."""
    espeak = program_for("espeak-ng", "espeak-ng")
    rng = random.Random("espeak")
    languages = []
    for line in section("sentences"):
        names, _, text = line.partition(": ")
        languages.append((*names.split(", "), text.split(" | ")))
    wav = work / "espeak.wav"
    for label, variants in VARIANTS.items():
        kind = KINDS[f"a {label} speaking"]
        for variant in variants:
            for i in range(PER_VARIANT):
                voice, language, sentences = languages[i % len(languages)]
                speed, pitch = rng.randint(120, 190), rng.randint(35, 60)
                command = [
                    espeak,
                    "-v",
                    f"{voice}+{variant}",
                    "-s",
                    str(speed),
                    "-p",
                    str(pitch),
                    "-w",
                    str(wav),
                ]
                subprocess.run([*command, rng.choice(sentences)], check=True, capture_output=True)
                caption = f"{kind.caption} {language}" if rng.random() < 0.5 else kind.caption
                yield load(wav, LONGEST), kind, caption, f"espeak {variant}"
    wav.unlink()


# All together

ALIKE = 0.975  # correlation of the spectrograms of one recording in two packages


def spectrogram(samples: np.ndarray) -> np.ndarray:
    """(samples,) -> (32·64,): two seconds in 32 octave-like bands, zero-mean, unit length."""
    frames = np.pad(samples, (0, 2 * RATE))[: 2 * RATE].reshape(64, -1)
    power = np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1]))) ** 2  # (64, 251)
    edges = np.unique(np.geomspace(1, power.shape[1], 33).astype(int))
    bands = np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-3).ravel()
    return (bands - bands.mean()) / (np.linalg.norm(bands - bands.mean()) + 1e-9)


def join_duplicates(work: Path, sounds: list[Sound]) -> None:
    """Give recordings that sound the same, which packages copy from each other, one group."""
    own = [s for s in sounds if s.source not in FONTS and s.category != "voice"]
    looks = np.stack([spectrogram(soundfile.read(work / s.path, dtype="float32")[0]) for s in own])
    _, number = np.unique([s.group for s in own], return_inverse=True)
    alike = (looks @ looks.T > ALIKE) | (number[:, None] == number[None])
    for sound, first in zip(own, groups_of(torch.from_numpy(alike)), strict=True):
        sound.group = own[first].group


def split(sounds: list[Sound], seed: int = 0) -> None:
    """Set "split" by whole groups, and "label_seen".

    Two of three labels of a sound font are tested on an origin that training never hears with them. Of the
    rest, each category gives the same share; a label with one group only is tested three times less often.
    """
    groups: dict[str, list[Sound]] = defaultdict(list)
    for sound in sounds:
        groups[sound.group].append(sound)
    rng = random.Random(seed)
    played_labels = sorted({s.label for s in sounds if s.source in FONTS})
    tested = {f"{HELD_OUT}/{label}" for i, label in enumerate(played_labels) if i % 3 != 1}
    by_category: dict[str, list[str]] = defaultdict(list)
    for group, members in groups.items():
        if members[0].source not in FONTS:
            by_category[members[0].category].append(group)
    trained_groups = Counter(label for members in groups.values() for label in {s.label for s in members})
    for _, own in sorted(by_category.items()):
        rng.shuffle(own)
        wanted = TEST_SHARE * sum(len(groups[group]) for group in own)
        for group in own:
            members = groups[group]
            labels = {s.label for s in members}
            elsewhere = all(trained_groups[label] > 1 for label in labels)
            if wanted > 0 and len(members) < max(4, 1.3 * wanted) and (elsewhere or rng.random() < 0.3):
                tested.add(group)
                wanted -= len(members)
                trained_groups -= Counter(labels)
    for sound in sounds:
        sound.split = "test" if sound.group in tested else "train"
    trained = {s.label for s in sounds if s.split == "train"}
    for sound in sounds:
        sound.label_seen = sound.label in trained


def collect(work: Path) -> list[Sound]:
    """Fetch the packages, store their labelled sounds in work/sounds; returns the manifest."""
    sounds: list[Sound] = []
    seen: set[bytes] = set()

    def root_of(package: str) -> Path:
        return unpack(package, work / "debs", work / "packages")

    def store(source: str, heard: Heard) -> None:
        before = len(sounds)
        for samples, kind, caption, group in heard:
            samples = trimmed(samples)[: int(LONGEST * RATE)]
            stored = (samples * 32767).astype(np.int16)
            if len(samples) < SHORTEST * RATE or stored.tobytes() in seen:
                continue
            seen.add(stored.tobytes())
            path = f"sounds/{source}/{len(sounds):04d}-{kind.label.replace(' ', '-')}.wav"
            (work / path).parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(work / path, stored, RATE, subtype="PCM_16")
            words = list(kind.words)
            sounds.append(Sound(path, source, kind.label, caption, words, kind.category, kind.family, group))
        print(f"{source}: {len(sounds) - before} sounds", flush=True)

    for package in RECORDED:
        root = root_of(package)
        if package in BEFORE and not (root / "sounds").exists():
            BEFORE[package](root)
        store(package, recordings(package, root))
    store("bucklespring-data", typing(root_of("bucklespring-data")))
    for package in FONTS:
        store(package, played(package, root_of(package), work))
    for name, label, language, package, pattern in (line.split(" | ") for line in section("speakers")):
        store(package, speaker(name, label, language, root_of(package), pattern))
    store("espeak-ng", synthesised(work))
    return sounds


def write_sounds(work: Path) -> None:
    """Collect all sounds, split them, and list them in WORK/sounds.jsonl.

    Raises:
        EPALMError: fluidsynth or espeak-ng is missing, or a package cannot be fetched.
    """
    for program in ("fluidsynth", "espeak-ng"):
        program_for(program, program)  # before minutes of work
    shutil.rmtree(work / "sounds", ignore_errors=True)
    sounds = collect(work)
    join_duplicates(work, sounds)
    split(sounds)
    write_json_lines(work / "sounds.jsonl", map(asdict, sounds))
    for name in ("split", "category", "source"):
        print(name, dict(Counter(getattr(sound, name) for sound in sounds).most_common()))
