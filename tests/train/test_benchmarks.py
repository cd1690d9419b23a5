"""Every benchmark from its official files to an adapter that the demo opens, with tiny models."""

import json
from pathlib import Path

import pytest

from epalm import EPALM, Request
from epalm.demo.page import page
from epalm.demo.service import Service
from tests.helpers.tiny_small import SMALL
from tests.helpers.trainings import prepared, run, settings_for
from train.data.benchmarks import DATASETS, PAPER
from train.data.manifest import load_manifest
from train.settings import load_settings


@pytest.mark.parametrize("name", [*PAPER, *SMALL])
def test_from_official_files_to_the_demo(name, tmp_path, tiny_model_dir, tiny_ast, capsys):
    dataset = DATASETS[name]
    config = settings_for(name, prepared(name, tmp_path), tiny_model_dir, tiny_ast)
    assert run("features", config, "--device", "cpu", "--set", "data.draws=1") == 0
    assert run("fit", config, "--set", "data.draws=1") == 0
    assert run("evaluate", config, "--blind", "--text-only", "--no-java", "--set", "data.draws=1") == 0

    out = tmp_path / "run"
    result = json.loads((out / "metrics-test.json").read_text())
    first = dataset.metrics[0]
    assert result["metrics"].keys() >= {first}
    assert result["blind"].keys() == result["text_only"].keys() == result["metrics"].keys()
    items = load_manifest(Path(load_settings(config).data.test))
    rows = [json.loads(line) for line in (out / "predictions-test.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [item.id for item in items]
    assert result["metrics"][first] == pytest.approx(sum(row["score"] for row in rows) / len(rows))

    model = EPALM.from_pretrained(out / "best", device="cpu")
    question = items[0].prompt
    media = items[0].media
    text = model.caption(media) if question is None else model.ask(media, question)
    assert text == rows[0]["prediction"]
    assert model.explain(Request(media, question)).replaced_by == "mean"  # of the training data
    page(Service.of(model))
    assert run("report", out) == 0
    assert first in (out / "report.html").read_text()
