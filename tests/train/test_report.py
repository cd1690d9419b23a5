"""The report: one page that needs nothing else, from whatever a run has left so far."""

import json
import random
import sys
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from epalm.errors import EPALMError
from tests.epalm.test_audio import encoded, sound_file, tone
from tests.epalm.test_video import video
from train.__main__ import main
from train.reports.figures import FRAMES, SIDE, preview
from train.reports.page import LISTED, choose, read, write_report
from train.reports.run import LOGGED

METRICS = {"metrics": {"BLEU-4": 0.25, "CIDEr": 0.9712}, "blind": None, "text_only": None, "absent": {}}
COST = {
    "seconds": 7500.0,
    "samples": 15000,
    "device": "cpu",
    "peak_memory_mb": 1234.4,
    "trained_parameters": 4_000_000,
    "frozen_parameters": 196_000_000,
    "processes": 2,
}


def step(number: int, **values) -> dict:
    row = {"kind": "step", "step": number, "epoch": number / 10, "loss": 5 / number, "lr": 1e-5}
    return row | {"prompt_lr": 1e-4, "samples_per_s": 9.0, "memory_mb": 1.0, "seconds": 2.0 * number} | values


def epoch(number: int, **metrics) -> dict:
    return {"kind": "epoch", "epoch": number, "split": "val", "metrics": metrics, "seconds": 1.0}


def prediction(key: str, score: float | None, **values) -> dict:
    row = {"id": key, "media": "gone.jpg", "prompt": None, "prediction": f"text {key}", "answers": ["a cat"]}
    return row | {"score": score} | values


def without(row: dict, key: str) -> dict:
    return {name: value for name, value in row.items() if name != key}


def lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def run(tmp_path) -> Path:
    """A finished run with a prediction on a picture, a video, a sound and a file that is gone."""
    folder = tmp_path / "my run"
    folder.mkdir()
    Image.new("RGB", (900, 600), "red").save(tmp_path / "a.png")
    (tmp_path / "b.mp4").write_bytes(video())
    (tmp_path / "c.wav").write_bytes(sound_file(tone()))
    lines(folder / "log.jsonl", [step(i) for i in range(1, 21)] + [epoch(1, CIDEr=0.5), epoch(2, CIDEr=0.6)])
    media = [str(tmp_path / name) for name in ("a.png", "b.mp4", "c.wav", "d.jpg")]
    rows = [prediction(str(i), i / 4, media=path) for i, path in enumerate(media)]
    lines(folder / "predictions-test.jsonl", rows)
    (folder / "metrics-test.json").write_text(json.dumps(METRICS | {"count": 4}))
    (folder / "cost.json").write_text(json.dumps(COST))
    (folder / "config.yaml").write_text("epochs: 2\n")
    return folder


class Page(HTMLParser):
    """The elements of a page, the addresses in it, and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[str] = []
        self.addresses: list[str] = []
        self.pieces: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.pieces).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append(tag)
        self.addresses += [
            value
            for name, value in attributes
            if name in ("src", "srcset", "href", "data", "action", "poster")
        ]

    def handle_data(self, data):
        self.pieces.append(data)


def test_a_finished_run(run):
    page = Page(write_report(run))
    assert "my run Trained: step 20, epoch 2, loss 0.250, 40.0 s." in page.text
    assert "metric × 100 this run BLEU-4 25.0 CIDEr 97.1" in page.text and "4 items." in page.text
    assert "training 2 h 05 min samples 15,000 samples per second 2.0 device cpu processes 2" in page.text
    assert "peak memory 1,234 MB trained parameters 4,000,000 (2.0 % of all)" in page.text
    assert "25.0 text 1 References a cat 1 · b.mp4" in page.text
    assert "1 of 4 predictions (25.0 %) have the score 0 text 0 instead of a cat" in page.text
    assert "Settings epochs: 2" in page.text
    for name in ("loss", "learning_rate", "metrics"):
        with Image.open(run / f"{name}.png") as image:
            assert image.size == (912, 624)


def test_the_paper_and_the_baselines_stand_beside_the_run_where_they_are_known(run):
    extra = {"paper": {"CIDEr": 0.97}, "blind": {"CIDEr": 0.1, "BLEU-4": 0.02}, "text_only": {"CIDEr": 0.08}}
    extra["absent"] = {"SPICE": "SPICE needs Java."}
    (run / "metrics-test.json").write_text(json.dumps(METRICS | extra | {"count": 4}))
    text = Page(write_report(run)).text
    assert "metric × 100 this run paper another item’s media no media" in text
    assert "BLEU-4 25.0 – 2.0 – CIDEr 97.1 97.0 10.0 8.0 4 items. SPICE needs Java." in text


def test_the_page_loads_nothing(run):
    page = Page(write_report(run))
    assert (
        len(page.addresses) == 2 * 3 + 1 + FRAMES + 2
    )  # charts twice, picture, frames, sound and spectrogram
    assert all(address.startswith("data:") for address in page.addresses)
    assert not {"script", "link", "iframe", "object", "a"} & set(page.elements)
    css = "".join(piece for piece in page.pieces if "{" in piece)
    assert css and "url(" not in css and "@import" not in css
    assert "default-src 'none'" in (run / "report.html").read_text().replace("&#x27;", "'")


def test_the_same_run_gives_the_same_page(run):
    assert write_report(run).read_bytes() == write_report(run).read_bytes()


def test_text_from_data_is_escaped(run):
    evil = "<script>alert(1)</script><img src=http://a.b/c onerror=x> & \"quoted\" 'too'"
    row = prediction(evil, 0, media=f"{evil}.jpg", prompt=evil, prediction=evil, answers=[evil])
    lines(run / "predictions-test.jsonl", [row])
    named = {"metrics": {evil: 0.5}, "absent": {evil: evil}, "paper": {}, "count": 1}
    (run / "metrics-test.json").write_text(json.dumps(METRICS | named))
    (run / "cost.json").write_text(json.dumps(COST | {"device": evil}))
    (run / "config.yaml").write_text(evil)
    lines(run / "log.jsonl", [step(1), epoch(1, **{evil: 0.5}), epoch(1, **{evil: 0.5, "$x": 1})])
    page = Page(write_report(run))
    assert "script" not in page.elements and page.elements.count("img") == 3  # the charts
    assert page.text.count("<script>alert(1)</script>") >= 10


def test_a_run_that_has_just_begun_says_what_is_missing(run):
    for path in run.iterdir():
        if path.name != "config.yaml":
            path.unlink()
    text = Page(write_report(run)).text
    assert "No step is logged yet. Training No loss curve yet: log.jsonl has no step." in text
    assert "No metric per epoch yet" in text and "No results yet" in text and "No cost yet" in text
    assert not list(run.glob("*.png"))


def test_a_training_that_goes_on(run):
    (run / "cost.json").unlink()
    lines(run / "log.jsonl", [step(1)])
    text = Page(write_report(run)).text
    assert "Still training, or stopped: step 1, epoch 0.1, loss 5.000, 2.0 s." in text
    assert (run / "loss.png").exists() and not (run / "metrics.png").exists()


def test_an_evaluation_that_goes_on(run):
    (run / "metrics-test.json").unlink()
    text = Page(write_report(run)).text
    assert "4 predictions. The evaluation has not finished: metrics-test.json is not there yet." in text
    (run / "predictions-test.jsonl").write_text('{"id": "1", "med')
    assert "No prediction is written yet." in Page(write_report(run)).text


def test_an_evaluation_without_a_training(run):
    for name in ("log.jsonl", "config.yaml", "cost.json", "predictions-test.jsonl"):
        (run / name).unlink()
    text = Page(write_report(run)).text
    assert "No training is logged here." in text and "CIDEr 97.1" in text
    assert "No samples: predictions-test.jsonl is not there." in text and "No settings" in text


def test_a_split_without_answers(run):
    lines(run / "predictions-test.jsonl", [prediction(str(i), None, answers=[]) for i in range(9)])
    text = Page(write_report(run)).text
    assert "Best" not in text and "Random not scored" not in text
    assert "Not scored: this split has no answers." in text and text.count("not scored") == 6


def test_many_failures_are_counted_and_some_listed(run):
    rows = [prediction(str(i), 0, prediction="yes" if i % 3 else "") for i in range(150)]
    lines(run / "predictions-test.jsonl", rows)
    text = Page(write_report(run)).text
    assert "Most frequent: “yes” 100×, “(nothing)” 50×." in text
    assert f"150 of 150 predictions (100.0 %) have the score 0, {LISTED} of them listed" in text
    assert text.count("instead of") == LISTED


def test_how_many_people_gave_an_answer(run):
    row = prediction("7", 1.0, prompt="What is it?", answers=["cat", "kitten", "cat"])
    lines(run / "predictions-test.jsonl", [row])
    assert "100.0 What is it? text 7 Answers cat (2×) kitten 7 · gone.jpg" in Page(write_report(run)).text


def test_results_that_do_not_name_their_metric_are_not_compared(run, tmp_path):
    with pytest.raises(EPALMError, match="evaluate the run again first"):
        write_report(run, against=tmp_path)


# Which samples


def test_the_samples_do_not_depend_on_the_order_of_the_predictions():
    rows = [prediction(str(i), i % 10 / 10) for i in range(200)]
    chosen = choose(rows)
    assert list(chosen) == ["Best", "Worst", "Random"] and {len(kind) for kind in chosen.values()} == {6}
    assert {row["score"] for row in chosen["Best"]} == {0.9}
    assert {row["score"] for row in chosen["Worst"]} == {0}
    assert [row["id"] for row in chosen["Best"]] != sorted(row["id"] for row in chosen["Best"])
    random.Random(0).shuffle(rows)
    assert choose(rows) == chosen


def test_a_small_split_is_shown_once():
    rows = [prediction(str(i), i / 10) for i in range(6)]
    assert choose(rows) == {"All predictions": rows}


# Files


def test_steps_that_a_resumed_training_repeats_count_once(run):
    lines(run / "log.jsonl", [step(1), step(2), step(3, loss=9), step(3, loss=1), step(4)])
    assert [(row["step"], row["loss"]) for row in read(run).steps] == [(1, 5), (2, 2.5), (3, 1), (4, 1.25)]


def test_a_line_that_is_being_written_is_left_out_and_a_damaged_one_is_named(run):
    log = run / "log.jsonl"
    log.write_text(f'{json.dumps(step(1))}\n{{"kind": "st')
    assert len(read(run).steps) == 1
    log.write_text(f'{json.dumps(step(1))}\n{{"kind": "st\n')
    with pytest.raises(EPALMError, match=r"log\.jsonl:2 is not valid JSON"):
        read(run)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("log.jsonl", {"step": 1}, ":1 has no usable 'kind'"),
        ("log.jsonl", {"kind": 3}, ":1 has no usable 'kind'"),
        *(("log.jsonl", without(step(1), key), f":1 has no usable '{key}'") for key in LOGGED["step"]),
        *(("log.jsonl", without(epoch(1), key), f":1 has no usable '{key}'") for key in LOGGED["epoch"]),
        ("log.jsonl", step(1, loss="0.5"), ":1 has no usable 'loss'"),
        ("predictions-test.jsonl", {"id": "1", "caption": "a cat"}, ":1 has no usable 'media'"),
        ("metrics-test.json", {}, " has no usable 'metrics'"),
        ("cost.json", without(COST, "samples"), " has no usable 'samples'"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_what_it_lacks(run, monkeypatch, capsys, name, content, said):
    lines(run / name, [content])
    monkeypatch.setattr(sys, "argv", ["train", "report", str(run)])
    assert main() == 2
    assert capsys.readouterr().err.endswith(f"{run / name}{said}: it was not written by a training.\n")


def test_rows_of_a_kind_that_the_page_does_not_know_are_passed_over(run):
    lines(run / "log.jsonl", [step(1), {"kind": "note", "text": "a new learning rate"}])
    assert len(read(run).steps) == 1


def test_a_diverged_loss_leaves_a_gap(run):
    lines(run / "log.jsonl", [step(i) for i in range(1, 200)] + [step(200, loss=float("nan"))])
    assert "loss nan" in Page(write_report(run)).text


@pytest.mark.parametrize("name", ["nothing", "empty", "file"])
def test_a_folder_that_is_no_run_is_refused(tmp_path, monkeypatch, capsys, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(sys, "argv", ["train", "report", str(tmp_path / name)])
    assert main() == 2
    output = capsys.readouterr()
    assert not output.out and output.err.count("\n") == 1 and f"{tmp_path / name} is not" in output.err


def test_the_command_prints_where_the_page_is(run, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train", "report", str(run)])
    assert main() == 0 and capsys.readouterr().out == f"{run / 'report.html'}\n"


def test_the_command_prints_a_name_that_is_not_utf8(run, monkeypatch, capsys):
    folder = run.rename(run.with_name("caf\udce9"))
    monkeypatch.setattr(sys, "argv", ["train", "report", str(folder)])
    assert main() == 0 and capsys.readouterr().out == f"{run.parent}/caf\\udce9/report.html\n"


# Media


def decoded(uri: str) -> Image.Image:
    return Image.open(BytesIO(b64decode(uri.partition(",")[2])))


def test_previews_are_small(run):
    folder = run.parent
    [picture] = preview(folder / "a.png").pictures
    assert decoded(picture).size == (SIDE, round(SIDE * 2 / 3))
    frames = [decoded(uri).convert("L").getpixel((40, 30)) for uri in preview(folder / "b.mp4").pictures]
    assert len(frames) == FRAMES and frames == sorted(frames) and frames[-1] - frames[0] > 100
    sound = preview(folder / "c.wav")
    assert len(sound.pictures) == 1
    assert sound.sound.startswith("data:audio/wav;")
    assert b64decode(sound.sound.partition(",")[2]) == (folder / "c.wav").read_bytes()


@pytest.mark.parametrize(("name", "seconds"), [("long.wav", 11), ("odd.aiff", 1)])
def test_sounds_that_are_large_or_that_browsers_do_not_play_are_only_shown(tmp_path, name, seconds):
    path = tmp_path / name
    path.write_bytes(sound_file(tone(seconds), format=path.suffix[1:]))
    found = preview(path)
    assert found.sound is None and len(found.pictures) == 1


def test_a_run_on_sounds_shows_the_sound_of_a_video(tmp_path):
    path = tmp_path / "talk.mp4"
    path.write_bytes(encoded(tone(rate=48_000), "aac", "mp4", pictures=True))
    assert [len(preview(path, modality).pictures) for modality in ("video", "audio")] == [FRAMES, 1]


def test_media_that_are_gone_leave_their_name(run):
    assert "d.jpg does not exist." in Page(write_report(run)).text


def test_relative_media_start_from_the_given_folder(run):
    lines(run / "predictions-test.jsonl", [prediction("1", 1, media="a.png")])
    assert "does not exist" in Page(write_report(run)).text
    assert "does not exist" not in Page(write_report(run, run.parent)).text
