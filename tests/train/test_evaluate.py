"""Evaluation: it goes on where it was, decodes as the settings say, and refuses what does not fit."""

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from epalm import EPALMError
from epalm.adapter import Adapter
from epalm.files import JsonLines
from tests.helpers.trainings import run
from train.data.manifest import Item, load_manifest, save_manifest
from train.evaluate import partners


def test_evaluation_goes_on_after_a_torn_line(gqa, tmp_path):
    out = gqa.parent / "run"
    assert run("evaluate", gqa, "--no-java") == 0
    whole = (out / "predictions-test.jsonl").read_bytes()
    record = out / "predictions-test" / "0.jsonl"
    record.write_bytes(record.read_bytes()[:-7])
    (out / "predictions-test.jsonl").unlink()
    assert run("evaluate", gqa, "--no-java") == 0
    assert (out / "predictions-test.jsonl").read_bytes() == whole


def test_another_adapter_is_evaluated_afresh(gqa):
    out = gqa.parent / "run"
    assert run("evaluate", gqa, "--no-java") == 0
    before = (out / "predictions-test.jsonl").read_text()
    untrained = Adapter(Adapter.load(out / "best").config)
    untrained.save(gqa.parent / "untrained")
    assert run("evaluate", gqa, "--no-java", "--model", gqa.parent / "untrained") == 0
    assert (out / "predictions-test.jsonl").read_text() != before


def test_the_blind_baseline_shows_other_media_at_random():
    """Also where the items come in a fixed order, so that a shift would meet the same answer again."""
    items = [Item(str(i), f"{i // 2}.jpg", "?", (str(i % 10),)) for i in range(2000)]
    others = partners(items)
    assert all(item.media != other.media for item, other in zip(items, others, strict=True))
    same = sum(item.answers == other.answers for item, other in zip(items, others, strict=True))
    assert same / 2000 == pytest.approx(0.1, abs=0.03)
    with pytest.raises(EPALMError, match="different files"):
        partners(items[:2])


def test_evaluation_decodes_as_the_settings_say(gqa, tmp_path):
    lengths = []
    for tokens in (1, 4):
        changes = (f"out={tmp_path}", f"generation.max_new_tokens={tokens}")
        best = gqa.parent / "run" / "best"
        assert run("evaluate", gqa, "--no-java", "--model", best, *(f"--set={c}" for c in changes)) == 0
        rows = map(json.loads, (tmp_path / "predictions-test.jsonl").read_text().splitlines())
        lengths.append(sum(len(row["prediction"].split()) for row in rows))
    assert lengths[0] < lengths[1]


@pytest.mark.parametrize(
    ("change", "said"),
    [("task.input=What? {question}", "the task"), ("model.recipe=epalm", "the preprocessing")],
)
def test_an_adapter_for_something_else_is_not_evaluated(gqa, capsys, change, said):
    assert run("evaluate", gqa, "--set", change, "--set", "data.cache=null") == 2
    assert f"was trained with {said}" in capsys.readouterr().err


def test_scores_are_broken_down_by_group_and_missing_without_answers(gqa, tmp_path):
    items = load_manifest(gqa.parent / "data" / "val.jsonl")
    out, best = tmp_path / "run", gqa.parent / "run" / "best"
    grouped = [replace(item, group={"kind": "ab"[i % 2]}) for i, item in enumerate(items)]
    for name, changed in (("grouped", grouped), ("bare", [replace(item, answers=()) for item in items])):
        save_manifest(changed, tmp_path / f"{name}.jsonl")
        place = ("--set", f"out={out}", "--set", f"data.test={tmp_path / name}.jsonl")
        assert run("evaluate", gqa, "--no-java", "--model", best, *place) == 0
        [metrics] = [
            path
            for path in out.glob("metrics-test*.json")
            if json.loads(path.read_text())["manifest"] == f"{tmp_path / name}.jsonl"
        ]
        found = json.loads(metrics.read_text())
        if name == "grouped":
            groups = found["groups"]["kind"]
            assert (groups["a"] + groups["b"]) / 2 == pytest.approx(found["metrics"]["exact match"])
        else:
            assert found["metrics"] == {} and "no answers" in found["absent"]["exact match"]
            predictions = out / metrics.name.replace("metrics", "predictions").replace(".json", ".jsonl")
            assert len(predictions.read_text().splitlines()) == len(items)
            assert len(list(out.glob("metrics-test*.json"))) == 2  # neither overwrote the other


@pytest.mark.parametrize("command", ["fit", "evaluate"])
def test_a_line_that_a_full_disk_does_not_take_is_one_sentence(gqa, tmp_path, capsys, monkeypatch, command):
    """A step of the log, or a prediction that is kept."""
    begin = JsonLines.__init__

    def begin_full(lines, path):
        begin(lines, path)
        lines.file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115

    monkeypatch.setattr(JsonLines, "__init__", begin_full)
    model = ("--model", gqa.parent / "run" / "best") if command == "evaluate" else ()
    assert run(command, gqa, *model, "--set", f"out={tmp_path}") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    name = "log.jsonl" if command == "fit" else "predictions-test/0.jsonl"
    assert said == f"{tmp_path / name} cannot be written (No space left on device)."


def test_a_folder_that_a_full_disk_does_not_take_is_one_sentence(gqa, tmp_path, capsys, monkeypatch):
    make = Path.mkdir

    def make_full(path, *arguments, **options):
        if path.name == "predictions-test":
            raise OSError(errno.ENOSPC, "No space left on device")
        make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", make_full)
    arguments = ("--model", gqa.parent / "run" / "best", "--set", f"out={tmp_path}")
    assert run("evaluate", gqa, *arguments) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == f"{tmp_path / 'predictions-test'} cannot be written (No space left on device)."


def test_names_that_are_not_utf8_are_trained_on_evaluated_and_reported(gqa, tmp_path, capsys):
    """A folder from an old system: its name has bytes that are no text, and so have the ids."""
    folder, out = tmp_path / "caf\udce9", tmp_path / "run"
    folder.mkdir()
    content = yaml.safe_load(gqa.read_text()) | {"out": str(out)}
    for split in ("train", "val"):
        items = load_manifest(gqa.parent / "data" / f"{split}.jsonl")
        names = [replace(i, id=f"caf\udce9/{i.id}", media=str(shutil.copy(i.media, folder))) for i in items]
        save_manifest(names, folder / f"{split}.jsonl")
        content["data"][split] = content["data"]["test"] = str(folder / f"{split}.jsonl")
    config = folder / "settings.yaml"
    config.write_text(yaml.safe_dump(content))
    assert run("fit", config, "--set", "optim.epochs=1") == 0
    assert run("evaluate", config, "--blind", "--no-java") == 0
    said = capsys.readouterr().err
    assert f"{len(names)} items of {tmp_path}/caf\\udce9/val.jsonl" in said
    rows = map(json.loads, (out / "predictions-test.jsonl").read_text().splitlines())
    assert [row["id"] for row in rows] == [item.id for item in names]
    assert run("report", out) == 0
