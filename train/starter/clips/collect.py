"""Labelled video clips: cut-out pictures move, grow, turn or appear over photographs -> real video files.

WORK/manifest.jsonl (with "split") -> WORK/clips/00000.mp4 … and WORK/clips.jsonl, one line per clip: {"path",
"label", "caption", "words", "category", "motion", "motion_words", "picture", "background", "split",
"label_seen"}. Test clips show test pictures over photographs of their own; what a thing does is drawn
independently of the thing, and every motion is equally frequent.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.stream import VideoStream
from PIL import Image, ImageFilter, ImageOps

from epalm.errors import EPALMError
from epalm.files import read_json_lines, write_json_lines
from train.starter.packages import fetch_deb, read_deb
from train.starter.words import LABEL_OF

TRAIN, TEST = 2600, 400  # clips
SIDES = range(224, 321, 16)  # pixels, of width and height
RATES = (12, 13, 14, 15)  # frames per second
SECONDS = 2.0, 4.0
PHOTO_WEIGHT = 2.0  # a cut-out photo is shown this often where a drawing is shown once
BACKGROUND_SIDE = 480  # pixels: the shorter side of the stored photographs


@dataclass(frozen=True)
class Motion:
    """How a caption may say it, the usual phrase first, and what counts as right."""

    phrases: tuple[str, ...]
    words: tuple[str, ...]


MOTIONS = {
    motion.phrases[0]: motion
    for motion in (
        Motion(
            ("moving from left to right", "moving to the right"),
            ("left to right", "to the right", "rightward", "rightwards"),
        ),
        Motion(
            ("moving from right to left", "moving to the left"),
            ("right to left", "to the left", "leftward", "leftwards"),
        ),
        Motion(("moving up", "rising"), ("moving up", "going up", "upward", "upwards", "rising")),
        Motion(
            ("moving down", "sinking"),
            ("moving down", "going down", "downward", "downwards", "sinking", "falling"),
        ),
        Motion(
            ("growing", "coming closer"),
            ("growing", "coming closer", "getting bigger", "getting larger", "approaching"),
        ),
        Motion(("shrinking", "moving away"), ("shrinking", "moving away", "going away", "getting smaller")),
        Motion(("turning", "rotating"), ("turning", "rotating", "spinning")),
        Motion(("appearing", "showing up"), ("appearing", "showing up", "fading in")),
        Motion(("disappearing", "vanishing"), ("disappearing", "vanishing", "fading out")),
        Motion(("standing still", "not moving"), ("standing still", "still", "not moving", "motionless")),
    )
}

# Photographs of landscapes, plants, stone and sky, by Debian package; nothing on them is a labelled thing,
# and none is in photos.jsonl. Only test clips show those of TEST_BACKGROUNDS.
BACKGROUNDS = {
    "lomiri-wallpapers-16.04": (
        "usr/share/backgrounds",
        "Bridge_by_Sander_Klootwijk.jpg Dragonfly_by_Bolly.jpg "
        "aitzgorri_by_Aitzol_Berasategi.jpg life_by_Aitzol_Berasategi.jpg",
    ),
    "mate-backgrounds": (
        "usr/share/backgrounds/mate/nature",
        "Aqua.jpg Dune.jpg RainDrops.jpg Storm.jpg TwoWings.jpg Wood.jpg",
    ),
    "lxqt-themes": (
        "usr/share/lxqt/wallpapers",
        "Valendas.png after-the-rain.jpg appleflower.png beam.png cloud.png drop.png flowers.png fog.jpg "
        "this-is-not-windows.jpg",
    ),
    "tuxpaint-data": (
        "usr/share/tuxpaint/templates",
        "burnt_bark.jpg cliff.jpg corn_maze.jpg mossy_bark.jpg mossy_log.jpg mudstone.jpg ocean_splash.jpg "
        "ocean_waves.jpg redwoods_above.jpg rocks.jpg spiders_web.jpg sun_behind_clouds.jpg "
        "sun_behind_leaves.jpg trees_above.jpg trees_at_dusk.jpg wool_mill_machine.jpg",
    ),
}
TEST_BACKGROUNDS = {
    "Bridge_by_Sander_Klootwijk", "aitzgorri_by_Aitzol_Berasategi", "RainDrops", "Storm", "cloud", "cliff",
    "mossy_bark", "ocean_waves", "trees_above",
}  # fmt: skip


# ---------------------------------------------------------------- what is shown


def gather_backgrounds(work: Path) -> dict[str, list[str]]:
    """Store the photographs, reduced, in WORK/backgrounds; returns {"train": paths in WORK, "test": …}.

    Raises:
        EPALMError: a package cannot be fetched.
    """
    paths: dict[str, list[str]] = {"train": [], "test": []}
    (work / "backgrounds").mkdir(parents=True, exist_ok=True)
    for package, (folder, listed) in BACKGROUNDS.items():
        names = listed.split()
        stored = [f"backgrounds/{package}-{Path(name).stem}.jpg" for name in names]
        if not all((work / path).exists() for path in stored):
            print(f"fetching {package} for its photographs", flush=True)
            members = [f"{folder}/{name}" for name in names]
            for path, data in zip(stored, read_deb(fetch_deb(package, work / "debs"), members), strict=True):
                file = Image.open(BytesIO(data))
                file.draft("RGB", (2 * BACKGROUND_SIDE, 2 * BACKGROUND_SIDE))
                photo = file.convert("RGB")
                photo = ImageOps.crop(photo, round(0.03 * min(photo.size)))  # one has a black frame
                scale = BACKGROUND_SIDE / min(photo.size)
                photo = photo.resize((round(photo.width * scale), round(photo.height * scale)))
                save_whole(work / path, partial(photo.save, format="JPEG", quality=92))
        for name, path in zip(names, stored, strict=True):
            paths["test" if Path(name).stem in TEST_BACKGROUNDS else "train"].append(path)
    return paths


def save_whole(path: Path, save: Callable[[Path], object]) -> None:
    """Let `save` write to path.part, then give it its name: what has the name is complete."""
    unfinished = path.with_name(path.name + ".part")
    save(unfinished)
    unfinished.replace(path)


def is_cut_out(picture: Image.Image, is_photo: bool) -> bool:
    """True of a thing without surroundings that is no line drawing, no stick, and looks different turned."""
    if max(picture.size) > 3 * min(picture.size):
        return False
    small = picture.copy()
    small.thumbnail((48, 48))
    square = Image.new("RGBA", (48, 48))
    square.paste(small, ((48 - small.width) // 2, (48 - small.height) // 2))
    pixels = np.asarray(small).astype(int)  # (h, w, 4)
    alpha, solid = pixels[..., 3], pixels[pixels[..., 3] > 224]
    colourful = is_photo or (len(solid) and np.ptp(solid[:, :3], axis=1).mean() > 25)
    if (alpha < 32).mean() < 0.1 or (alpha > 224).mean() < 0.25 or not colourful:
        return False
    grey = np.asarray(Image.composite(square, Image.new("RGBA", (48, 48), "#808080"), square).convert("L"))
    return any(np.abs(grey - np.rot90(grey, turns).astype(int)).mean() > 8 for turns in (1, 2))


def plan_clip(i: int, seed: int, pictures: list[dict], backgrounds: list[str]) -> dict:
    """The line of clip i, which depends on the seed, i, and what there is to choose from."""
    rng = random.Random(f"{seed}/{i}/plan")
    (picture,) = rng.choices(pictures, [row["weight"] for row in pictures])
    label, motion = picture["label"], list(MOTIONS)[i % len(MOTIONS)]
    return {
        "path": f"clips/{i:05d}.mp4",
        "label": label,
        "caption": picture["caption"],
        "words": sorted({label, *(word for word, of in LABEL_OF.items() if of == label)}),
        "category": picture["category"],
        "motion": motion,
        "motion_words": list(MOTIONS[motion].words),
        "picture": picture["path"],
        "background": rng.choice(backgrounds),
        "split": picture["split"],
        "label_seen": picture["label_seen"],
    }


# ---------------------------------------------------------------- how it moves


@dataclass(frozen=True)
class Course:
    """Of every frame (T,): centre and size as shares of the frame, degrees, and how visible the thing is."""

    x: np.ndarray
    y: np.ndarray
    size: np.ndarray  # the picture's longer side over the frame's shorter side
    angle: np.ndarray
    opacity: np.ndarray


def eased(frames: int, rng: random.Random) -> np.ndarray:
    """(T,) from 0 to 1: a short rest at both ends, and one of four ways to gain and lose speed."""
    begin, end = rng.uniform(0, 0.12), rng.uniform(0.88, 1)
    t = np.clip((np.linspace(0, 1, frames) - begin) / (end - begin), 0, 1)
    return rng.choice((t, t * t * (3 - 2 * t), t**1.5, 1 - (1 - t) ** 1.5))


def course_of(motion: str, frames: int, rng: random.Random) -> Course:
    """Where the thing is, how large, how turned and how visible in every frame."""
    t = eased(frames, rng)

    def line(start: float, end: float) -> np.ndarray:
        return start + (end - start) * t

    still = np.zeros(frames)
    x, y = still + rng.uniform(0.35, 0.65), still + rng.uniform(0.35, 0.65)
    size, angle, opacity = still + rng.uniform(0.35, 0.75), still, still + 1
    near, far = rng.uniform(0.12, 0.3), rng.uniform(0.7, 0.88)
    drift = rng.uniform(-0.04, 0.04) * (2 * t - 1)  # nothing moves along a ruler
    if motion.startswith("moving"):
        size = still + rng.uniform(0.35, 0.6)
    if motion == "moving from left to right":
        x, y = line(near, far), y + drift
    elif motion == "moving from right to left":
        x, y = line(far, near), y + drift
    elif motion == "moving up":
        x, y = x + drift, line(far, near)
    elif motion == "moving down":
        x, y = x + drift, line(near, far)
    elif motion in ("growing", "shrinking"):
        large = rng.uniform(0.6, 0.85)
        small = large / rng.uniform(2, 3.2)
        size = line(small, large) if motion == "growing" else line(large, small)
        x = x + drift
    elif motion == "turning":
        angle = line(0, rng.choice((-1, 1)) * rng.uniform(180, 450))
    elif motion in ("appearing", "disappearing"):
        # The thing is there for 40 to 60 % of the time, and comes or goes at once or little by little.
        change, length = rng.uniform(0.4, 0.6), rng.choice((0, rng.uniform(0.1, 0.3)))
        gone = np.clip((np.linspace(0, 1, frames) - change) / max(length, 1e-3) + 0.5, 0, 1)
        opacity = gone if motion == "appearing" else 1 - gone
    return Course(x, y, size, angle, opacity)


# ---------------------------------------------------------------- pixels


def background_of(photo: Image.Image, size: tuple[int, int], rng: random.Random) -> Image.Image:
    """A random part of a photo in this size, mirrored or blurred now and then."""
    fit = rng.uniform(0.5, 1) * min(photo.width / size[0], photo.height / size[1])
    width, height = (int(side * fit) for side in size)
    left, top = rng.randint(0, photo.width - width), rng.randint(0, photo.height - height)
    part = photo.resize(size, Image.Resampling.BILINEAR, (left, top, left + width, top + height))
    if rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.3:
        part = part.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 3)))
    return part


def mean_colour(image: Image.Image) -> np.ndarray:
    """(3,) of what is visible."""
    return np.asarray(image.resize((1, 1), Image.Resampling.BOX)).astype(int)[0, 0, :3]


def draw_clip(
    picture: Image.Image, photo: Image.Image, motion: str, rate: int, rng: random.Random
) -> Iterator[np.ndarray]:
    """Frames (H, W, 3) uint8 of an RGBA picture that moves over a part of the photo."""
    width, height = rng.choice(SIDES), rng.choice(SIDES)
    frames = round(rate * rng.uniform(*SECONDS))
    course = course_of(motion, frames, rng)

    pan = (0, 0)  # pixels that the camera moves in all
    if rng.random() < 0.2:
        pan = rng.randint(-width // 8, width // 8), rng.randint(-height // 8, height // 8)
    size = width + abs(pan[0]), height + abs(pan[1])
    colour = mean_colour(picture)
    parts = [background_of(photo, size, rng) for _ in range(3)]
    wide = max(parts, key=lambda part: np.abs(mean_colour(part) - colour).sum())  # where it is seen best

    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = course.size * min(width, height) / max(picture.size)  # (T,)
    sides = np.outer(scale, picture.size).round().astype(int).clip(1)  # (T, 2)
    largest = picture.resize(tuple(sides.max(0)), Image.Resampling.LANCZOS)

    random_numbers = np.random.default_rng(rng.getrandbits(63))
    spread = rng.choice((0, rng.uniform(1, 5)))  # of the camera's noise, in grey levels
    noise = spread * random_numbers.standard_normal((height + 32, width + 32, 3), dtype=np.float32)
    flicker = rng.uniform(0, 0.02)
    gain = rng.uniform(0.85, 1.1) + flicker * random_numbers.standard_normal(frames)

    for k in range(frames):
        u = k / max(frames - 1, 1)
        left, top = (round(p * u) if p > 0 else round(-p * (1 - u)) for p in pan)
        frame = wide.crop((left, top, left + width, top + height))
        thing = largest
        if tuple(sides[k]) != largest.size:
            thing = thing.resize(tuple(sides[k]), Image.Resampling.BILINEAR)
        if course.angle[k]:
            thing = thing.rotate(course.angle[k], Image.Resampling.BILINEAR, expand=True)
        mask = thing.getchannel("A")
        if course.opacity[k] < 1:
            mask = mask.point([round(level * course.opacity[k]) for level in range(256)])
        at = round(course.x[k] * width - thing.width / 2), round(course.y[k] * height - thing.height / 2)
        frame.paste(thing, at, mask)
        dx, dy = random_numbers.integers(0, 33, 2)
        pixels = np.asarray(frame) * np.float32(gain[k]) + noise[dy : dy + height, dx : dx + width]
        yield pixels.clip(0, 255).astype(np.uint8)


def write_video(path: Path, frames: Iterator[np.ndarray], rate: int, quality: int) -> None:
    """An mp4 file of frames (H, W, 3) uint8 with even sides; `quality` is H.264's rate factor."""
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    # One thread and no macroblock tree, whose result differs with where the frames lie in memory.
    options = {"crf": str(quality), "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
    with av.open(path, "w", format="mp4") as container:
        stream = cast(VideoStream, container.add_stream(codec, rate=rate, options=options))
        stream.pix_fmt = "yuv420p"
        for k, pixels in enumerate(frames):
            if k == 0:
                stream.height, stream.width = pixels.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
        container.mux(stream.encode(None))


def write_clip(work: Path, row: dict, seed: int) -> None:
    """Make the file of one line of clips.jsonl, unless it is there."""
    if (work / row["path"]).exists():
        return
    rng = random.Random(f"{seed}/{row['path']}")
    rate, quality = rng.choice(RATES), rng.randint(22, 32)
    picture = Image.open(work / row["picture"]).convert("RGBA")
    photo = Image.open(work / row["background"])
    frames = draw_clip(picture, photo, row["motion"], rate, rng)
    save_whole(work / row["path"], partial(write_video, frames=frames, rate=rate, quality=quality))


def write_clips(work: Path, train: int = TRAIN, test: int = TEST, seed: int = 0) -> None:
    """Make WORK/clips and WORK/clips.jsonl; files that exist are kept, so a second call goes on.

    Raises:
        EPALMError: there is nothing to move, or the photographs cannot be fetched.
    """
    manifest = read_json_lines(work / "manifest.jsonl")
    pictures: dict[str, list[dict]] = {"train": [], "test": []}
    for row in manifest:
        if row["label_seen"] and is_cut_out(Image.open(work / row["path"]).convert("RGBA"), row["is_photo"]):
            pictures[row["split"]].append(row)
    for rows in pictures.values():
        counts = Counter(row["label"] for row in rows)
        for row in rows:  # twelve clocks are not twelve times one
            row["weight"] = counts[row["label"]] ** -0.5 * (PHOTO_WEIGHT if row["is_photo"] else 1)
    if empty := [side for side, rows in pictures.items() if not rows]:
        raise EPALMError(
            f"None of the pictures for {empty[0]}ing is a cut-out that could move: take more of them with "
            "--media-share."
        )
    backgrounds = gather_backgrounds(work)
    (work / "clips").mkdir(exist_ok=True)
    rows = []
    for i in range(train + test):
        side = "train" if i < train else "test"
        rows.append(plan_clip(i, seed, pictures[side], backgrounds[side]))
        write_clip(work, rows[-1], seed)
        if (i + 1) % 200 == 0:
            print(f"{i + 1} of {train + test} clips", flush=True)
    write_json_lines(work / "clips.jsonl", rows)
