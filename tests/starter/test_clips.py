"""The starter's video clips: what is written is what is read back, moving as its line says."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from epalm.media.video import open_video
from train.starter.clips import collect
from train.starter.clips.collect import MOTIONS, is_cut_out, plan_clip, write_clip, write_clips
from train.starter.measure import names
from train.starter.photos import LIST

PHOTOS = ("field.jpg", "wall.jpg", "Storm.jpg")  # by its name, the last one is for test clips


def disc(lower: str = "yellow") -> Image.Image:
    """A red disc whose lower half has another colour, on nothing."""
    picture = Image.new("RGBA", (120, 120))
    draw = ImageDraw.Draw(picture)
    draw.pieslice([10, 10, 110, 110], 180, 360, fill="red")
    draw.pieslice([10, 10, 110, 110], 0, 180, fill=lower)
    return picture


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    """A work folder of three cut-outs, one of them for testing, a photo, and plain backgrounds."""
    monkeypatch.setattr(collect, "BACKGROUNDS", {"plain": ("", " ".join(PHOTOS))})
    for folder in ("pictures", "backgrounds", "clips"):
        (tmp_path / folder).mkdir()
    rows = []
    for name, split in (("ball", "train"), ("balloon", "train"), ("sun", "test"), ("castle", "train")):
        picture = Image.new("RGBA", (90, 60), "green") if name == "castle" else disc()
        picture.save(tmp_path / f"pictures/{name}.png")
        row = {"path": f"pictures/{name}.png", "label": name, "caption": f"a {name}", "category": "toy"}
        rows.append(row | {"is_photo": True, "split": split, "label_seen": True})
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in PHOTOS:
        Image.linear_gradient("L").resize((640, 480)).convert("RGB").save(
            tmp_path / f"backgrounds/plain-{name}"
        )
    return tmp_path


# What is seen


def seen(path: Path) -> dict[str, np.ndarray]:
    """Of 16 frames: the disc's area and centre as shares of the frame, and its angle in degrees."""
    frames = open_video(path, 16, "uniform").frames.astype(int)
    height, width = frames.shape[1:3]
    red, green, blue = np.moveaxis(frames, -1, 0)
    warm = red - blue > 80
    rows, columns = np.mgrid[:height, :width]
    found: dict[str, list[float]] = {key: [] for key in ("area", "x", "y", "angle")}
    for mask, yellow in zip(warm, warm & (green > red / 2), strict=True):
        found["area"].append(mask.mean())
        found["x"].append(columns[mask].mean() / width if mask.any() else np.nan)
        found["y"].append(rows[mask].mean() / height if mask.any() else np.nan)
        if (half := mask & yellow).any():
            up, along = rows[half].mean() - rows[mask].mean(), columns[half].mean() - columns[mask].mean()
            found["angle"].append(np.arctan2(up, along))
    arrays = {key: np.array(values) for key, values in found.items()}
    return arrays | {"angle": np.degrees(np.unwrap(arrays["angle"]))}


def clip_of(motion: str, work: Path, seed: int) -> dict[str, np.ndarray]:
    row = {"path": f"clips/{seed}.mp4", "picture": "pictures/ball.png", "motion": motion}
    write_clip(work, row | {"background": "backgrounds/plain-field.jpg"}, seed)
    return seen(work / row["path"])


def steps(values: np.ndarray) -> np.ndarray:
    return np.diff(values)


@pytest.mark.parametrize("seed", range(2))
class TestMotions:
    @pytest.mark.parametrize(
        ("motion", "along", "across", "sign"),
        [
            ("moving from left to right", "x", "y", 1),
            ("moving from right to left", "x", "y", -1),
            ("moving down", "y", "x", 1),
            ("moving up", "y", "x", -1),
        ],
    )
    def test_a_thing_that_moves_crosses_the_frame_in_one_direction(
        self, work, seed, motion, along, across, sign
    ):
        thing = clip_of(motion, work, seed)
        assert sign * (thing[along][-1] - thing[along][0]) > 0.3
        assert (sign * steps(thing[along]) > -0.01).all()
        assert np.ptp(thing[across]) < 0.1
        assert thing["area"].min() > 0.5 * thing["area"].max()  # never mostly outside

    @pytest.mark.parametrize(("motion", "sign"), [("growing", 1), ("shrinking", -1)])
    def test_a_thing_that_grows_or_shrinks_changes_its_area_fourfold_where_it_is(
        self, work, seed, motion, sign
    ):
        thing = clip_of(motion, work, seed)
        large, small = thing["area"][[-1, 0]][::sign]
        assert large > 3.5 * small
        assert (sign * steps(thing["area"]) > -0.1 * large).all()
        assert max(np.ptp(thing["x"]), np.ptp(thing["y"])) < 0.12

    def test_a_thing_that_turns_does_half_a_turn_or_more_where_it_is(self, work, seed):
        thing = clip_of("turning", work, seed)
        turned = thing["angle"][-1] - thing["angle"][0]
        assert 170 < abs(turned) < 460
        assert (steps(thing["angle"]) * np.sign(turned) > -5).all()
        assert max(np.ptp(thing["x"]), np.ptp(thing["y"])) < 0.03

    @pytest.mark.parametrize("motion", ["appearing", "disappearing"])
    def test_a_thing_that_appears_is_there_for_part_of_the_time(self, work, seed, motion):
        area = clip_of(motion, work, seed)["area"][:: 1 if motion == "appearing" else -1]
        assert (area[:4] < 1e-3).all()
        assert (area[-4:] > 0.03).all()
        assert np.ptp(area[-4:]) < 0.05 * area.max()

    def test_a_thing_that_stands_still_changes_in_nothing(self, work, seed):
        thing = clip_of("standing still", work, seed)
        assert np.ptp(thing["area"]) < 0.05 * thing["area"].max()
        assert max(np.ptp(thing["x"]), np.ptp(thing["y"])) < 0.01
        assert np.ptp(thing["angle"]) < 3


def test_clips_are_short_small_videos_of_several_shapes(work):
    shapes = set()
    row = {"picture": "pictures/ball.png", "background": "backgrounds/plain-wall.jpg", "motion": "growing"}
    for seed in range(8):
        write_clip(work, row | {"path": f"clips/{seed}.mp4"}, seed)
        video = open_video(work / f"clips/{seed}.mp4", 2)
        shapes.add(video.frames.shape[1:3])
        assert 1.9 < video.duration < 4.2
    assert all(side in range(224, 321) for shape in shapes for side in shape)
    assert any(height > width for height, width in shapes)
    assert any(height < width for height, width in shapes)


# What is chosen


@pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)
def test_a_phrase_counts_as_right_for_its_own_motion_only(motion):
    for phrase in motion.phrases:
        right = [other for other in MOTIONS.values() if names(f"a ball {phrase}", other.words)]
        assert right == [motion]


def test_every_motion_is_equally_frequent_and_independent_of_the_thing():
    pictures = [
        {"path": f"{i}.png", "label": "ball", "caption": "a ball", "category": "toy", "weight": 1}
        | {"is_photo": True, "split": "train", "label_seen": True}
        for i in range(4)
    ]
    rows = [plan_clip(i, 0, pictures, ["a.jpg", "b.jpg"]) for i in range(4000)]
    assert set(Counter(row["motion"] for row in rows).values()) == {400}
    together = Counter((row["motion"], row["picture"]) for row in rows)
    assert len(together) == 40 and all(65 < count < 135 for count in together.values())


def test_a_cut_out_has_no_surroundings_and_looks_different_turned():
    assert is_cut_out(disc(), is_photo=True)
    assert not is_cut_out(disc("red"), is_photo=True)
    assert not is_cut_out(Image.effect_noise((90, 60), 80).convert("RGBA"), is_photo=True)
    outline = Image.new("RGBA", (120, 120))
    ImageDraw.Draw(outline).polygon([(10, 110), (60, 10), (110, 70)], outline="black", width=3)
    assert not is_cut_out(outline, is_photo=False)


def test_no_background_is_a_photo_that_the_starter_is_tested_on():
    listed = {Path(name).stem for _, names in collect.BACKGROUNDS.values() for name in names.split()}
    tested = {Path(json.loads(line)["member"]).stem for line in LIST.read_text().splitlines()}
    assert len(listed) > 30
    assert not listed & tested
    assert listed > collect.TEST_BACKGROUNDS


# The whole


def files_of(work: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (work / "clips").iterdir()}


def test_test_clips_show_test_pictures_over_photos_of_their_own(work):
    write_clips(work, train=8, test=4)
    rows = [json.loads(line) for line in (work / "clips.jsonl").read_text().splitlines()]
    assert [row["split"] for row in rows] == ["train"] * 8 + ["test"] * 4
    for row in rows:
        test = row["split"] == "test"
        assert (row["background"] == "backgrounds/plain-Storm.jpg") == test
        assert row["label"] in (("sun",) if test else ("ball", "balloon"))  # the castle is no cut-out
        assert row["label"] in row["words"]
        assert row["motion_words"] == list(MOTIONS[row["motion"]].words)
        assert (work / row["path"]).stat().st_size > 1000


def test_clips_depend_on_the_seed_and_their_number_only(work):
    write_clips(work, train=3, test=1)
    first = files_of(work)
    listed = (work / "clips.jsonl").read_bytes()
    for path in (work / "clips").iterdir():
        path.unlink()
    random.seed(1)
    np.random.seed(1)
    write_clips(work, train=3, test=1)
    assert files_of(work) == first
    assert (work / "clips.jsonl").read_bytes() == listed
    for path in (work / "clips").iterdir():
        path.unlink()
    write_clips(work, train=3, test=1, seed=1)
    assert all(data != first[name] for name, data in files_of(work).items())


def test_a_second_call_makes_only_what_is_missing(work):
    write_clips(work, train=3, test=1)
    first = files_of(work)
    (work / "clips/00001.mp4").rename(work / "clips/00001.mp4.part")  # as if it had been cut off
    (work / "clips/00002.mp4").write_bytes(b"kept")
    write_clips(work, train=3, test=1)
    assert files_of(work) == first | {"00002.mp4": b"kept"}
