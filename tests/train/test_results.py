"""What an evaluation leaves: results by manifest, with intervals and comparisons, and files for servers."""

import json
from pathlib import Path

import pytest

from epalm.errors import EPALMError
from tests.helpers.trainings import run
from train.data.benchmarks import find_dataset
from train.data.manifest import Item, load_manifest, save_manifest
from train.results import result_name, write_submission


@pytest.fixture(scope="module")
def two_sets(gqa, tmp_path_factory) -> Path:
    """A run folder with the results of its own test set, and of another one."""
    out = tmp_path_factory.mktemp("two") / "run"
    out.mkdir()
    (out / "config.yaml").write_text((gqa.parent / "run" / "config.yaml").read_text())
    items = load_manifest(gqa.parent / "data" / "val.jsonl")
    save_manifest(items, out.parent / "other.jsonl")
    for place in ((), ("--set", f"data.test={out.parent / 'other.jsonl'}")):
        arguments = ("--no-java", "--blind", "--model", gqa.parent / "run" / "best", "--set", f"out={out}")
        assert run("evaluate", gqa, *arguments, *place) == 0
    return out


def metrics(out: Path) -> dict[str, dict]:
    """By the name of the manifest."""
    found = [json.loads(path.read_text()) for path in out.glob("metrics-*.json")]
    return {Path(row["manifest"]).stem: row for row in found}


def test_a_second_test_set_does_not_overwrite_the_first(two_sets):
    assert metrics(two_sets).keys() == {"testdev", "other"}
    own = [path.name for path in two_sets.glob("predictions-*.jsonl")]
    assert "predictions-test.jsonl" in own and len(own) == 2
    assert json.loads((two_sets / "metrics-test.json").read_text())["manifest"].endswith("testdev.jsonl")
    for path in two_sets.glob("metrics-*.json"):
        rows = path.with_name(path.name.replace("metrics", "predictions").replace(".json", ".jsonl"))
        assert len(rows.read_text().splitlines()) == json.loads(path.read_text())["count"]


def test_the_report_shows_each_test_set(two_sets):
    assert run("report", two_sets) == 0
    page = (two_sets / "report.html").read_text()
    assert "testdev.jsonl." in page and "other.jsonl." in page and page.count("<h2>Results on test") == 2


def test_results_say_how_sure_they_are(two_sets):
    for row in metrics(two_sets).values():
        low, high = row["intervals"]["exact match"]
        assert 0 <= low <= row["metrics"]["exact match"] <= high <= 1
        blind = row["compared"]["blind"]
        difference = row["metrics"]["exact match"] - row["blind"]["exact match"]
        assert blind["difference"] == pytest.approx(difference) and 0 < blind["p"] <= 1
    assert "95 %: interval by bootstrap over the items." in (two_sets / "report.html").read_text()


def test_a_run_is_compared_with_another_one_on_the_same_items(gqa, two_sets, tmp_path, capsys):
    best = gqa.parent / "run" / "best"
    arguments = ("evaluate", gqa, "--no-java", "--model", best, "--set", f"out={tmp_path}", "--against")
    assert run(*arguments, two_sets) == 0
    compared = json.loads((tmp_path / "metrics-test.json").read_text())["compared"]
    assert compared[str(two_sets)] == {"difference": 0.0, "interval": [0.0, 0.0], "p": 1.0, "items": 6}
    assert f"exact match is 0.00 above {two_sets}" in capsys.readouterr().out
    assert run("report", tmp_path, "--against", two_sets) == 0
    assert "(paired over 6 items)" in (tmp_path / "report.html").read_text()
    assert run(*arguments, tmp_path / "nothing") == 2
    assert "has no predictions for these 6 items" in capsys.readouterr().err


def test_the_name_of_results_follows_the_manifest(tmp_path):
    manifests = [tmp_path / folder / "test.jsonl" for folder in "ab"]
    assert result_name(tmp_path, "test", str(manifests[0])) == "test"  # the first one
    (tmp_path / "metrics-test.json").write_text(json.dumps({"manifest": str(manifests[0])}))
    assert result_name(tmp_path, "test", str(manifests[0])) == "test"
    second = result_name(tmp_path, "test", str(manifests[1]))
    assert second.startswith("test-test-") and second == result_name(tmp_path, "test", str(manifests[1]))
    (tmp_path / "config.yaml").write_text(f"data: {{test: {manifests[1]}}}\n")  # the training's own
    assert result_name(tmp_path, "test", str(manifests[1])) == "test"
    assert result_name(tmp_path, "val", str(manifests[1])) == "val"


# Submissions


def test_the_file_for_the_vqa_server(tmp_path):
    items = [Item("1000", "a.jpg", "what?", ()), Item("2001", "b.jpg", "who?", ())]
    path = write_submission(
        tmp_path, "test-dev", find_dataset("vqa_v2"), items, {"2001": "a man", "1000": "é"}
    )
    assert path.name == "v2_OpenEnded_mscoco_test-dev2015_epalm_results.json"
    assert json.loads(path.read_text()) == [
        {"question_id": 1000, "answer": "é"},
        {"question_id": 2001, "answer": "a man"},
    ]


def test_the_file_for_the_coco_server(tmp_path):
    items = [Item("COCO_test2014_000000000016", "a.jpg", None, ()), Item("000000000019", "b.jpg", None, ())]
    texts = {item.id: f"a dog {item.id[-2:]}" for item in items}
    path = write_submission(tmp_path, "test2014", find_dataset("coco_caption"), items, texts)
    assert path.name == "captions_test2014_epalm_results.json"
    assert json.loads(path.read_text()) == [
        {"image_id": 16, "caption": "a dog 16"},
        {"image_id": 19, "caption": "a dog 19"},
    ]


def test_ids_that_are_not_the_servers_are_refused(tmp_path):
    with pytest.raises(EPALMError, match="use a manifest made by `prepare vqa_v2`"):
        write_submission(tmp_path, "test", find_dataset("vqa_v2"), [Item("x", "a.jpg", "?", ())], {"x": "y"})


def test_a_benchmark_without_server_has_no_submission(gqa, capsys):
    assert run("evaluate", gqa, "--no-java", "--submission") == 2
    assert "no evaluation server is known for GQA" in capsys.readouterr().err
