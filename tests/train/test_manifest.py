"""Manifests: they come back as they were saved, and a bad line is named."""

import json
import random

import pytest

from epalm.errors import EPALMError
from train.data.manifest import Item, load_manifest, rng_of, save_manifest


def test_a_manifest_comes_back_as_it_was_saved(tmp_path):
    items = [
        Item("0", str(tmp_path / "a b.jpg"), None, ("ein Hund läuft", "un chien\ncourt")),
        Item("1", str(tmp_path / "\udce9.jpg"), "what?", ("yes", "yes", "no"), {"question_type": "what"}),
        Item("2", str(tmp_path / "c.jpg"), "what?", ()),
    ]
    save_manifest(items, tmp_path / "new" / "val.jsonl")
    assert load_manifest(tmp_path / "new" / "val.jsonl") == items
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["val.jsonl"]


def test_media_are_relative_to_the_manifest(tmp_path, monkeypatch):
    (tmp_path / "own.jsonl").write_text(
        '{"id": "1", "media": "pets/1.jpg", "prompt": null, "answers": ["a"]}\n'
    )
    monkeypatch.chdir(tmp_path.parent)
    assert load_manifest(tmp_path / "own.jsonl")[0].media == str(tmp_path / "pets" / "1.jpg")


@pytest.mark.parametrize("key", ["7", "photos/a b.jpg-0", "Hündin", "犬"])
def test_an_items_random_numbers_stay_as_they_always_were(key):
    """A training that goes on takes the steps that it would have taken before."""
    assert rng_of(Item(key, "x", None, ()), "val").getstate() == random.Random(f"val/{key}").getstate()


def test_an_id_that_is_not_unicode_has_random_numbers_too():
    items = [Item(key, "x", None, ()) for key in ("caf\udce9", "caf\udcea", "\ud800")]
    assert len({rng_of(item, "val").random() for item in items}) == 3


GOOD = {"id": "1", "media": "1.jpg", "prompt": None, "answers": ["a dog"]}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({**GOOD, "anwsers": ["a"]}, "has the unknown key 'anwsers'; the closest valid key is 'answers'."),
        ({"id": "1", "media": "1.jpg", "answers": []}, "lacks the key 'prompt'."),
        ({**GOOD, "id": 3}, "'id' must be of type str, but it is 3."),
        ({**GOOD, "answers": "a dog"}, "'answers' must be a list, but it is 'a dog'."),
        ({**GOOD, "answers": [2]}, "'answers' must be of type str, but it is 2."),
        ({**GOOD, "group": {"kind": 1}}, "'group', 'kind' must be of type str, but it is 1."),
        ({**GOOD, "media": ""}, "has an empty 'media'"),
        ({**GOOD, "id": "0"}, "repeats the id '0' of line 1."),
        ([GOOD], "must be an object with named fields"),
        ("{", "is not valid JSON"),
    ],
)
def test_a_bad_line_of_a_manifest_is_named(line, told, tmp_path):
    path = tmp_path / "own.jsonl"
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_text(json.dumps({**GOOD, "id": "0"}) + "\n\n" + text + "\n")
    with pytest.raises(EPALMError) as error:
        load_manifest(path)
    assert str(error.value).startswith(f"{path}:3") and told in str(error.value)


def test_no_manifest(tmp_path):
    with pytest.raises(EPALMError, match="cannot be read: No such file"):
        load_manifest(tmp_path / "val.jsonl")
    (tmp_path / "val.jsonl").write_text("\n")
    with pytest.raises(EPALMError, match="has no items"):
        load_manifest(tmp_path / "val.jsonl")
    (tmp_path / "val.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(EPALMError, match="is not UTF-8 text"):
        load_manifest(tmp_path / "val.jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(EPALMError, match="cannot be written"):
        save_manifest([], tmp_path / "file" / "val.jsonl")
