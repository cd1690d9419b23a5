"""Public photos as the starter learns from them: splits, questions about scenes, clips."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from train.starter.clips.photos import CAMERAS, film, plan_clips
from train.starter.pictures.public import class_photos, flickr_photos, tidy
from train.starter.pictures.scenes import IS_THERE, about_scene, common_nouns, presence


@pytest.fixture
def folder(tmp_path) -> Path:
    """Ten photos with captions, and eight photos of classes."""
    for name in ("flickr8k", "photos800"):
        (tmp_path / name).mkdir()
    text = "image,caption\n"
    for i in range(10):
        Image.new("RGB", (40, 30), (20 * i, 0, 0)).save(tmp_path / f"flickr8k/{i}.jpg")
        text += f"{i}.jpg,A dog runs .\n{i}.jpg,Two dogs play on the grass .\n"
    (tmp_path / "flickr8k/captions.txt").write_text(text)
    for i, name in enumerate(
        ("n01440764_tench", "n01443537_goldfish", "n01484850_shark", "n01491361_tiger_shark")
    ):
        Image.new("RGB", (30, 30), (0, 20 * i, 0)).save(tmp_path / f"photos800/{name}.jpg")
    Image.new("RGB", (9, 9)).save(tmp_path / "photos800/no_class.jpg")
    return tmp_path


def test_a_fifth_of_the_captioned_photos_is_held_out_the_same_ones_every_time(folder):
    photos = flickr_photos(folder)
    assert Counter(photo.split for photo in photos) == {"train": 8, "test": 2}
    assert photos == flickr_photos(folder)
    assert photos[0].captions == ("a dog runs", "two dogs play on the grass")


def test_photos_of_classes_are_numbered_as_the_classifier_numbers_them(folder):
    photos = class_photos(folder)
    assert [photo.label for photo in photos] == [0, 1, 2, 3]
    assert [photo.split for photo in photos] == ["test", "train", "train", "train"]


def test_folders_that_are_not_there_give_no_photos(tmp_path, capsys):
    assert flickr_photos(tmp_path) == class_photos(None) == []
    assert "flickr8k: no folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("caption", "text"),
    [
        ("A dog runs .", "a dog runs"),
        ('"Two men , in hats , talk ."', "two men, in hats, talk"),
        ("BMX riders jump", "BMX riders jump"),
    ],
)
def test_a_caption_reads_like_the_middle_of_a_sentence(caption, text):
    assert tidy(caption) == text


def test_answers_about_a_scene_are_what_people_wrote():
    captions, rng = ["a brown dog is running through tall grass"], random.Random(0)
    asked = {about_scene(captions, ["dog", "grass", "car", "beach"], rng) for _ in range(500)}
    assert ("what colour is the dog?", "brown") in asked
    assert ("what is the brown dog doing?", "running through tall grass") in asked
    assert ("who is running through tall grass?", "a brown dog") in asked
    named = {(q, a) for q, a in asked if a in ("yes", "no")}
    assert all((answer == "yes") == ("dog" in question or "grass" in question) for question, answer in named)


def test_yes_and_no_are_equally_frequent():
    rng = random.Random(0)
    answers = Counter(
        presence(["a dog on a beach"], ["dog", "beach", "car", "hat"], rng)[1] for _ in range(1000)
    )
    assert answers["yes"] / 1000 == pytest.approx(0.5, abs=0.05)
    assert presence(["a dog"], ["dog"], rng) is None  # nothing that is not there
    assert all("{}" in form for form in IS_THERE)


def test_what_is_in_most_photos_is_not_asked_for():
    scenes = [["a man with a guitar"]] * 30 + [["a dog by a bench"]] * 10
    assert common_nouns(scenes) == ["guitar"]


@pytest.mark.parametrize("camera", CAMERAS)
def test_a_camera_over_a_photo_gives_eight_frames(camera):
    gradient = np.zeros((120, 160, 3), np.uint8)
    gradient[:] = np.arange(160, dtype=np.uint8)[None, :, None]
    clip = film(Image.fromarray(gradient), camera, random.Random(3))
    assert clip.frames.shape == (8, 192, 192, 3)
    moved = np.abs(np.diff(clip.frames.astype(int), axis=0)).mean()
    assert moved < 2 if camera == "still" else moved > 0.2


def test_clips_of_photos_use_every_camera(folder):
    rows = plan_clips([*flickr_photos(folder), *class_photos(folder)])
    assert len(rows) == 10 + 2 * 4
    assert {row["camera"] for row in rows} == set(CAMERAS)
