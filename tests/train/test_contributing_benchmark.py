"""The door "a new benchmark" of CONTRIBUTING.md opens."""

from PIL import Image

from tests.helpers.contributing import run_door
from train.data import benchmarks
from train.data.manifest import load_manifest
from train.data.prepare import prepare


def test_the_example_of_a_new_benchmark_prepares_it(tmp_path, monkeypatch):
    pets = run_door("A new benchmark")["PETS"]
    monkeypatch.setitem(benchmarks.DATASETS, "pets", pets)
    source = tmp_path / "in"
    source.mkdir()
    for number in range(30):
        Image.new("RGB", (16, 16), (8 * number, 0, 0)).save(source / f"{number}.jpg")
    rows = [f"{number},{('pug', 'tabby')[number % 2]}" for number in range(30)]
    (source / "pets.csv").write_text("\n".join(["photo,breed", *rows]))
    prepare(benchmarks.find_dataset("pets"), source, tmp_path / "out", workers=1)
    train, test = (load_manifest(tmp_path / "out" / f"{split}.jsonl") for split in ("train", "test"))
    assert len(train) + len(test) == 30 and {item.answers for item in train} == {("pug",), ("tabby",)}
    assert not {item.media for item in train} & {item.media for item in test}
