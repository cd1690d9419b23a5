"""Running `prepare` in a test: its manifests, or its refusal."""

from pathlib import Path

import pytest

from epalm.errors import EPALMError
from train.data.benchmarks import find_dataset
from train.data.manifest import Item, load_manifest
from train.data.prepare import prepare


def prepared(name: str, source: Path, out: Path, **options) -> dict[str, list[Item]]:
    """The manifests that a run writes, by split."""
    prepare(find_dataset(name), source, out, **options)
    return manifests(out)


def manifests(out: Path) -> dict[str, list[Item]]:
    paths = [path for path in out.glob("*.jsonl") if path.stem != "checked"]
    return {path.stem: load_manifest(path) for path in paths}


def refusal(name: str, source: Path, out: Path, **options) -> str:
    with pytest.raises(EPALMError) as error:
        prepare(find_dataset(name), source, out, **options)
    text = str(error.value)
    assert "\n" not in text and text.endswith(".")
    return text
