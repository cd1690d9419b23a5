"""`python -m train study`: rows times seeds, each a training of its own, become a table and a figure."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

from epalm import EPALMError
from tests.helpers.trainings import prepared, run, settings_for
from train.data.manifest import load_manifest
from train.reports.readme import write_between
from train.reports.study import Result, gather, load_study, markdown, read_result, runs_of
from train.starter.manifests import write_manifests


@pytest.fixture(scope="module")
def base(tmp_path_factory, tiny_model_dir) -> Path:
    """Settings of a training on a tiny VQA, its features encoded."""
    folder = tmp_path_factory.mktemp("gqa")
    settings = settings_for("gqa", prepared("gqa", folder), tiny_model_dir, "")
    assert run("features", settings, "--device", "cpu") == 0
    return settings


def study_of(base: Path, folder: Path, **changes) -> Path:
    """The YAML file of a study with two rows."""
    rows = {"as it is": [], "one state": ["model.feature_layers=[-1]"]}
    content = {
        "title": "Two rows",
        "out": str(folder / "study"),
        "seeds": [0, 1],
        "groups": [{"name": "States", "base": str(base), "rows": rows}],
    }
    path = folder / "two-rows.yaml"
    path.write_text(yaml.safe_dump(content | changes, sort_keys=False))
    return path


def finished(path: Path) -> list[Result]:
    results = [read_result(run) for run in runs_of(load_study(path))]
    return [result for result in results if result is not None]


def test_a_study_runs_every_row_once(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("train.reports.study.FIGURES", tmp_path / "figures")
    path, readme = study_of(base, tmp_path, seeds=[3]), tmp_path / "README.md"
    readme.write_text("before\n<!-- study two-rows: begin -->\nold\n<!-- study two-rows: end -->\nafter\n")
    assert run("study", path, "--jobs", "2", "--readme", readme) == 0

    results = finished(path)
    assert len(results) == 2 and all(0 <= result.value <= 1 for result in results)
    assert results[1].trained < results[0].trained  # one connector less
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "study" / "table.md").read_text()
    written = readme.read_text()
    assert written.startswith("before\n") and written.endswith("\nafter\n") and "old" not in written
    assert printed.strip() in written and "![Two rows](figures/two-rows.png)" in written
    assert Image.open(tmp_path / "figures" / "two-rows.png").width > 1000

    logs = sorted((tmp_path / "study").glob("*/log.txt"))
    before = [log.read_text() for log in logs]
    assert all("$ python -m train fit" in log and "$ python -m train evaluate" in log for log in before)
    assert run("study", path) == 0
    assert [log.read_text() for log in logs] == before


def test_a_study_that_is_stopped_goes_on(base, tmp_path):
    path = study_of(base, tmp_path, seeds=[0])
    command = [sys.executable, "-m", "train", "study", str(path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    while not list((tmp_path / "study").glob("*/log.jsonl")) and process.poll() is None:
        time.sleep(0.01)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 130
    first, second = runs_of(load_study(path))
    assert read_result(first) is None and not second.out.exists()
    assert run("study", path) == 0
    assert len(finished(path)) == 2
    assert "Resuming at step" in (first.out / "log.txt").read_text()


def test_a_run_that_fails_is_named_with_its_reason(base, tmp_path, capsys):
    rows = {"impossible": ["model.feature_layers=[99]"]}
    path = study_of(base, tmp_path, groups=[{"name": "States", "base": str(base), "rows": rows}], seeds=[0])
    assert run("study", path) == 2
    said = capsys.readouterr().err
    assert "failed" in said and "log.txt" in said and "99" in said
    assert run("study", path, "--no-run") == 0
    assert "| impossible | not run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": []}, "at least one seed"),
        ({"seed": [1]}, "the closest valid key is 'seeds'"),
        ({"groups": [{"name": "x", "base": "y", "rows": {}}]}, "one row in every group"),
    ],
)
def test_a_wrong_study_is_refused(base, tmp_path, changes, said):
    with pytest.raises(EPALMError, match=said):
        load_study(study_of(base, tmp_path, **changes))


def test_a_row_with_an_unknown_setting_is_refused_before_anything_runs(base, tmp_path, capsys):
    groups = [{"name": "x", "base": str(base), "rows": {"typo": ["model.promt_length=1"]}}]
    assert run("study", study_of(base, tmp_path, groups=groups)) == 2
    assert "prompt_length" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_the_table_has_mean_and_deviation_over_the_seeds(base, tmp_path):
    study = load_study(study_of(base, tmp_path))
    results = [Result("exact match", value, 0.01, 1_500_000, 128) for value in (0.1, 0.2, 0.3)]
    lines = markdown({"States": {"as it is": results, "one state": []}})
    assert "| as it is | 20.0 ± 10.0 | 10.0, 20.0, 30.0 | 1.0 | 1.50 M | 128 |" in lines
    assert gather(study, runs_of(study)) == {"States": {"as it is": [], "one state": []}}


def test_the_shipped_studies_are_valid():
    paths = [Path(f"train/studies/{name}.yaml") for name in ("data-efficiency", "design-choices")]
    for path in paths:
        study = load_study(path)
        assert len(study.seeds) == 3
        outs = {run.out for run in runs_of(study)}
        assert len(outs) == 3 * sum(len(group.rows) for group in study.groups)  # no two rows are the same


def test_validation_can_be_rarer_than_every_epoch_but_has_the_last_one(base, tmp_path):
    changes = [f"out={tmp_path / 'run'}", "optim.epochs=5", "evaluation.every=2"]
    assert run("fit", base, *(part for change in changes for part in ("--set", change))) == 0
    rows = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if row["kind"] == "epoch"] == [2, 4, 5]


def test_a_readme_without_the_marks_gets_them_at_its_end(tmp_path):
    write_between(tmp_path / "README.md", "numbers", ["| 1 |"])
    write_between(tmp_path / "README.md", "numbers", ["| 2 |"])
    assert (tmp_path / "README.md").read_text() == "<!-- numbers: begin -->\n| 2 |\n<!-- numbers: end -->"


def test_a_readme_with_one_mark_alone_is_left_as_it_is(tmp_path):
    (tmp_path / "README.md").write_text("<!-- numbers: begin -->\nall the rest")
    with pytest.raises(EPALMError, match="add it, or remove both"):
        write_between(tmp_path / "README.md", "numbers", ["| 1 |"])
    assert "all the rest" in (tmp_path / "README.md").read_text()


def test_the_starters_media_become_manifests(tmp_path):
    """One answer is trained, and every name of the thing counts in the test split."""
    picture = {"label": "frog", "category": "animal", "label_seen": True}
    rows = [picture | {"path": f"{i}.png", "split": "train" if i < 21 else "test"} for i in range(22)]
    rows[21]["label"] = "rabbit"
    rows.append(rows[21] | {"path": "22.png", "label_seen": False})
    clip = rows[0] | {"motion": "growing", "category": None}
    sound = rows[0] | {"words": ["croaking", "frog"], "split": "test"}
    for name, content in (("manifest", rows), ("clips", [clip]), ("sounds", [sound])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)))
    write_manifests(tmp_path)
    assert [item.id for item in load_manifest(tmp_path / "pictures-val.jsonl")] == ["0", "20"]
    assert len(load_manifest(tmp_path / "pictures-train.jsonl")) == 19
    [test] = load_manifest(tmp_path / "pictures-test.jsonl")  # the label of the other one was never trained
    assert test.answers[0] == "rabbit" and "bunny" in test.answers
