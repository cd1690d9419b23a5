"""`python -m train ablation`: rows times seeds of small trainings become a table and a figure."""

import json
from pathlib import Path

import pytest
import yaml
from transformers import AutoTokenizer

from epalm import EPALMError
from tests.helpers.starter_work import full
from tests.helpers.trainings import run
from train.reports.readme import write_between
from train.starter.ablation import command, trial
from train.starter.ablation.plan import load_ablation
from train.starter.ablation.trial import RESULT, asked, measure_questions, naming
from train.starter.pictures.batches import StarterData
from train.starter.pictures.questions import classifier_classes, is_right

TRIAL = {
    "task": "caption",
    "reads": ["probabilities", "pooled"],
    "start": "closed form",
    "shows": {"scenes": 0.5, "things": 0.25, "draws": 0.25},
    "first": 1,
    "end": 5,
    "tokens": 2,
    "prompt": "the photo",
    "steps": 2,
    "batch": 4,
}
QUESTIONS = TRIAL | {"task": "qa", "shows": {"things": 0.5, "draws": 0.5}}


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tiny_model_dir, tmp_path):
    lm = json.loads((tiny_model_dir / "image-caption" / "config.json").read_text())["lm"]["id"]
    monkeypatch.setattr(trial, "LM", lm)
    monkeypatch.setattr(command, "FIGURES", tmp_path / "figures")


@pytest.fixture
def ablation(tmp_path):
    """Writes the YAML file of an ablation on a small work folder."""
    work = tmp_path / "work"
    work.mkdir()
    full(work)

    def write(*groups: dict, **changes) -> Path:
        content = {
            "title": "Small",
            "work": str(work),
            "out": str(tmp_path / "out"),
            "seeds": [0, 1],
            "groups": list(groups),
        }
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(content | changes))
        return path

    return write


def group(name: str, base: dict = TRIAL, **rows) -> dict:
    return {"name": name, "trial": base, "rows": rows}


def results(folder: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in (folder / "out").glob(f"*/{RESULT}")}


def test_every_row_is_trained_with_every_seed_and_shown(ablation, tmp_path, capsys):
    path = ablation(group("Reads", all={}, pooled={"reads": ["pooled"]}), group("Start", closed={}))
    page = tmp_path / "page.md"
    write_between(page, "ablation small", ["old"])
    assert run("ablation", path, "--readme", page) == 0
    found = results(tmp_path)
    assert len(found) == 4  # the row that two groups share is trained once
    table = (tmp_path / "out" / "table.md").read_text()
    assert capsys.readouterr().out == table
    assert "| Reads | name | name or kind | CIDEr | blind CIDEr | seeds |" in table
    for row in ("all", "pooled", "closed"):
        line = next(line for line in table.splitlines() if line.startswith(f"| {row} |"))
        assert "±" in line and line.endswith("| 2 |")
    assert table.strip() in page.read_text() and (tmp_path / "figures" / "small.png").exists()


def test_what_is_finished_is_not_repeated(ablation, tmp_path, monkeypatch):
    path = ablation(group("Reads", all={}), seeds=[0])
    assert run("ablation", path) == 0
    before = results(tmp_path)
    monkeypatch.setattr(command, "perform", None)
    assert run("ablation", path) == 0
    assert results(tmp_path) == before


def test_a_training_that_was_stopped_goes_on(ablation, tmp_path, monkeypatch):
    path = ablation(group("Questions", QUESTIONS, all={}), seeds=[0])
    monkeypatch.setattr(trial, "measure_questions", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("ablation", path)
    monkeypatch.setattr(trial, "measure_questions", measure_questions)
    assert run("ablation", path) == 0
    (found,) = results(tmp_path).values()
    assert set(json.loads(found)) == {"accuracy", "accuracy at the median", "AUC"}


def test_a_start_without_training_is_measured_once(ablation, tmp_path):
    path = ablation(group("Questions", QUESTIONS | {"steps": 0}, start={}, random={"start": "random"}))
    assert run("ablation", path) == 0
    assert sorted(name[:4] for name in results(tmp_path)) == ["qa-0", "qa-0", "qa-1"]


def test_questions_ask_for_the_right_name_and_for_another_one(tmp_path):
    data = StarterData(full(tmp_path))
    photos = [photo for photo in data.photos if photo.row["class"] is not None]
    questions = asked(photos, data)
    assert [right for *_, right in questions] == [True, False] * len(photos)
    for photo, question, right in questions:
        thing = data.classes[photos[photo].row["class"]]
        noun = question.removeprefix("is this ").removesuffix("?").split(" ", 1)[1]
        assert is_right(noun, thing) == right


def test_names_and_kinds_are_counted():
    tench, goldfish = classifier_classes()[:2]
    texts = ["a tench, a kind of fish", "a fish", "a catfishing boat"]
    assert naming(texts, [tench, goldfish, tench]) == {"name": 1 / 3, "name or kind": 2 / 3}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"reads": ["pixels"]}, "'pixels' is not one of probabilities, pooled, stages"),
        ({"shows": {"drawings": 1.0}}, "'drawings' is not one of scenes, things, draws"),
        ({"step": 3}, "unknown key 'step'; the closest valid key is 'steps'"),
    ],
)
def test_wrong_settings_are_named(ablation, changes, told):
    with pytest.raises(EPALMError, match=told):
        load_ablation(ablation(group("Wrong", row=changes))).runs()


def test_a_missing_work_folder_is_told(ablation, tmp_path, capsys):
    assert run("ablation", ablation(group("Reads", all={}), work=str(tmp_path / "none"))) == 2
    assert "python -m train starter --data-only" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["words-captions", "words-questions"])
def test_the_plans_in_the_repo_can_be_read(name):
    ablation = load_ablation(Path("train/studies") / f"{name}.yaml")
    assert ablation.runs() and ablation.title.startswith("From an encoder to words")


def test_a_soft_prompt_begins_as_its_text(tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(trial.LM)
    assert tokenizer("the photo", add_special_tokens=False)["input_ids"]
