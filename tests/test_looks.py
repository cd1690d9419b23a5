"""The pictures that `python -m benchmarks.looks` composes, and when their map counts as right."""

import random
from pathlib import Path

from PIL import Image

from benchmarks.looks import SIDE, Photo, compose, compositions, read_photos

ROOT = Path(__file__).parents[1]
RED = Photo(Image.new("RGB", (80, 50), "red"), "red", ("fire", "flame"))
BLUE = Photo(Image.new("RGB", (40, 90), "blue"), "blue", ("sea",))
CAT = Photo(Image.open(ROOT / "assets" / "examples" / "cat.jpg"), "cat", ("cat",))


def test_the_thing_stands_in_its_corner():
    for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):
        composed = compose(RED, BLUE, corner)
        at = [round((0.1 + 0.8 * c) * (SIDE - 1)) for c in corner]
        assert composed.image.getpixel(tuple(at)) == (255, 0, 0)
        assert composed.image.getpixel((SIDE - 1 - at[0], SIDE - 1 - at[1])) == (0, 0, 255)
        assert composed.inside(at[0] / SIDE, at[1] / SIDE)
        assert not composed.inside(1 - at[0] / SIDE, 1 - at[1] / SIDE)


def test_a_caption_names_a_photo_by_whole_words():
    assert RED.named_in("A fire in the night.") and RED.named_in("flames")
    assert not RED.named_in("a firecracker")


def test_every_thing_has_its_turn_before_one_comes_again():
    found = list(compositions([RED, BLUE, CAT], [RED, BLUE, CAT], random.Random(0)))
    assert len(found) == 6
    assert {c.thing.name for c in found[:3]} == {"red", "blue", "cat"}
    same = Photo(RED.image, "another", ("flame",))  # a thing on a photo of the same thing proves nothing
    assert list(compositions([RED, same], [RED, same], random.Random(0))) == []


def test_photos_are_read_with_their_words(tmp_path):
    RED.image.save(tmp_path / "a.png")
    (tmp_path / "photos.jsonl").write_text('{"path": "a.png", "label": "fire", "accepted": ["Fire"]}\n')
    [photo] = read_photos(tmp_path)
    assert photo.words == ("fire",) and photo.image.size == (80, 50)
