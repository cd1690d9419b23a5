"""The page in a real browser, as a person uses it: each tab, history, comparing, errors, phone and dark."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from playwright.sync_api import expect

from epalm import Request
from epalm.serving.running import RunningBatch
from tests.demo.conftest import PATIENCE
from tests.demo.test_app import HALF, film

ANIMATION = 500  # milliseconds in which panels and colours settle


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A picture, a video and a sound."""
    folder = tmp_path_factory.mktemp("given")
    Image.effect_noise((60, 40), 80).convert("RGB").save(folder / "noise.png")
    waves = 0.3 * np.sin(np.arange(16_000) / 9)
    soundfile.write(folder / "tone.wav", waves, 16_000)
    return {
        "Image": folder / "noise.png",
        "Video": film(folder / "grey.mp4", "libx264", length=50),
        "Audio": folder / "tone.wav",
    }


def of_visit(site, name: str) -> set[Path]:
    """What the visit that gave a file of this name uploaded, and what was made of it."""
    with site.service.uploads.lock:
        users = {path: set(visits) for path, visits in site.service.uploads.users.items()}
    [visit] = set().union(*(visits for path, visits in users.items() if path.name == name))
    return {path for path, visits in users.items() if visit in visits}


@pytest.mark.parametrize("tab", ["Image", "Video", "Audio"])
def test_each_tab_describes_and_answers(visit, site, files, tab):
    visitor = visit()
    visitor.tab(tab)
    visitor.give(files[tab])
    if tab == "Video":
        visitor.page.get_by_text("The model sees these 4 frames").wait_for()
        visitor.page.locator(".frames:visible img").nth(3).wait_for()
    if tab == "Audio":
        visitor.page.get_by_text("Time runs to the right").wait_for()
    visitor.button("Describe it").click()
    visitor.is_told(site.model.caption(files[tab]))

    visitor.page.locator("label:visible", has_text="Question").first.click()
    visitor.page.locator(".gallery-item:visible", has_text="what").first.click()  # a question to click
    box = visitor.page.get_by_label("Your question").locator("visible=true")
    expect(box).not_to_have_value("")
    asked = box.input_value()
    visitor.button("Ask").click()
    visitor.is_told(site.model.ask(files[tab], asked))


def test_a_question_is_sent_with_the_keyboard_alone(visit, site, files):
    visitor = visit()
    visitor.give(files["Image"])
    visitor.page.get_by_role("radio", name="Caption").first.focus()
    visitor.page.keyboard.press("Tab")
    visitor.page.keyboard.press("Space")
    box = visitor.page.get_by_label("Your question").locator("visible=true")
    box.wait_for()
    visitor.page.keyboard.press("Tab")
    visitor.page.keyboard.type("why?")
    visitor.page.keyboard.press("Enter")
    visitor.is_told(site.model.ask(files["Image"], "why?"))


def test_the_camera_takes_a_picture_and_the_microphone_records(visit):
    visitor = visit()
    visitor.page.get_by_label("Capture from camera").locator("visible=true").first.click()
    visitor.page.locator("button:visible", has_text="Click to Access Webcam").click()
    capture = visitor.page.get_by_label("capture photo").locator("visible=true").first
    capture.wait_for()
    visitor.page.wait_for_timeout(ANIMATION)
    capture.click()
    visitor.page.locator(".tabitem:visible img[src*='gradio_api/file']").first.wait_for()
    visitor.button("Describe it").click()
    assert visitor.answer()

    visitor.tab("Audio")
    visitor.page.get_by_label("Record audio").locator("visible=true").first.click()
    visitor.page.locator("button:visible", has_text="Record").first.click()
    visitor.page.wait_for_timeout(1500)
    visitor.page.locator("button:visible", has_text="Stop").first.click()
    visitor.page.get_by_text("Time runs to the right").wait_for()
    visitor.button("Describe it").click()
    assert visitor.answer()


def test_an_example_is_chosen_with_one_click_and_its_answer_says_how_sure_it_is(visit):
    visitor = visit()
    visitor.page.get_by_role("button", name="Example: cat").click()
    visitor.page.get_by_label("Remove Image").wait_for()
    assert visitor.answer()
    assert visitor.page.get_by_role("meter", name="How sure").get_attribute("aria-valuenow") == "73"


def test_where_it_was_not_measured_the_page_says_so_instead_of_how_sure_it_is(visit, files):
    visitor = visit()
    visitor.tab("Audio")
    visitor.give(files["Audio"])
    visitor.button("Describe it").click()
    assert visitor.answer()
    visitor.page.get_by_text("How sure it is of answers about sounds has not been measured.").wait_for()
    assert visitor.page.get_by_role("meter").count() == 0


def test_an_example_waits_for_the_question_that_is_to_be_asked_about_it(visit):
    visitor = visit()
    visitor.page.locator("label:visible", has_text="Question").first.click()
    visitor.page.get_by_role("button", name="Example: cat").click()
    visitor.page.get_by_label("Remove Image").wait_for()
    visitor.page.wait_for_timeout(ANIMATION)
    assert visitor.page.get_by_test_id("toast-body").count() == 0
    expect(visitor.button("Ask")).to_be_enabled(timeout=PATIENCE)


def test_stop_ends_a_long_answer(visit, site, files, monkeypatch):
    step = RunningBatch.step
    monkeypatch.setattr(RunningBatch, "step", lambda batch: (time.sleep(1), step(batch)))
    visitor = visit()
    visitor.give(files["Image"])
    expect(visitor.button("Stop")).to_be_disabled(timeout=PATIENCE)  # there is nothing to stop
    visitor.button("Describe it").click()
    visitor.page.wait_for_function("document.querySelector('.answer textarea').value.length > 3")
    visitor.button("Stop").click()
    visitor.page.locator(".block.status:visible", has_text="Stopped.").wait_for()
    monkeypatch.undo()
    visitor.page.wait_for_timeout(ANIMATION)
    visitor.button("Describe it").click()
    visitor.is_told(site.model.caption(files["Image"]))


def test_the_answers_of_a_visit_are_shown_asked_again_downloaded_and_deleted(visit, site, files, tmp_path):
    own = {tab: tmp_path / f"own-{path.name}" for tab, path in files.items()}  # no other visit has them
    Image.effect_noise((60, 41), 80).save(own["Image"])
    soundfile.write(own["Audio"], 0.3 * np.sin(np.arange(16_000) / 8), 16_000)
    visitor = visit()
    visitor.give(own["Image"])
    visitor.button("Describe it").click()
    first = visitor.answer()
    visitor.tab("Audio")
    visitor.give(own["Audio"])
    visitor.button("Describe it").click()
    visitor.answer()
    visitor.panel("This visit")
    entries = visitor.page.locator(".history:visible button.thumbnail-item")
    entries.nth(1).wait_for()
    assert entries.count() == 2

    with visitor.page.expect_download() as download:
        visitor.button("Download as JSON").click()
    download.value.save_as(tmp_path / "answers.json")
    rows = json.loads((tmp_path / "answers.json").read_text())
    assert [row["file"] for row in rows] == ["own-tone.wav", "own-noise.png"]
    assert rows[1]["answer"] == first and "path" not in rows[1]
    with visitor.page.expect_download() as download:
        visitor.button("Download as CSV").click()
    download.value.save_as(tmp_path / "answers.csv")
    with open(tmp_path / "answers.csv", newline="") as file:
        assert [row["model"] for row in csv.DictReader(file)] == ["tiny", "tiny"]

    entries.nth(1).click()  # asks the picture again, in its tab
    visitor.page.get_by_role("tab", name="Image", selected=True).wait_for()
    assert visitor.answer() == first
    entries.nth(2).wait_for()
    assert visitor.page.get_by_test_id("toast-body").count() == 0  # the other tabs have nothing to ask

    mine = of_visit(site, own["Image"].name)
    assert {path.name for path in mine} == {"own-noise.png", "own-tone.wav", "made.png"}
    visitor.button("Delete my files and answers").click()
    visitor.page.get_by_text("Your files and answers are deleted.").wait_for()
    assert not any(path.exists() for path in mine)
    visitor.page.get_by_text("What you ask appears here").wait_for()


def test_a_picture_that_was_not_asked_about_is_deleted_too(visit, site, files, tmp_path):
    visitor = visit()
    visitor.tab("Audio")
    visitor.give(files["Audio"])
    visitor.button("Describe it").click()
    visitor.answer()
    visitor.tab("Image")
    Image.effect_noise((60, 42), 80).save(tmp_path / "only-shown.png")
    visitor.give(tmp_path / "only-shown.png")
    visitor.page.get_by_label("Remove Image").wait_for()
    visitor.panel("This visit")
    for _ in range(100):  # until the server knows whose it is
        if any(path.name == "only-shown.png" for path in list(site.service.uploads.users)):
            break
        visitor.page.wait_for_timeout(100)
    mine = of_visit(site, "only-shown.png")
    assert "tone.wav" in {path.name for path in mine}
    visitor.button("Delete my files and answers").click()
    visitor.page.get_by_text("Your files and answers are deleted.").wait_for()
    assert not any(path.exists() for path in mine if path.name != "tone.wav")  # others have that, too


def test_two_settings_are_compared_side_by_side(visit, site, files):
    visitor = visit()
    visitor.give(files["Image"])
    visitor.panel("Compare with another setting")
    visitor.button("Compare").click()
    visitor.page.locator(".block.status:visible", has_text="Took").nth(1).wait_for()
    labels = ("With the settings above", "With these settings")
    shown = [visitor.page.get_by_label(label).locator("visible=true").input_value() for label in labels]
    greedy, searched = (site.model.caption(files["Image"], beams=beams) for beams in (1, 3))
    assert shown == [greedy.rstrip(HALF), searched]


def test_a_problem_is_one_sentence_and_html_in_it_has_no_effect(visit, tmp_path):
    visitor = visit()
    visitor.button("Describe it").click()
    visitor.page.get_by_text("There is no picture yet: upload one, take one or choose an example.").wait_for()
    bad = tmp_path / "<img src=x onerror=alert(1)>.png"
    bad.write_bytes(b"no picture")
    visitor.give(bad)
    visitor.button("Describe it").click()
    visitor.page.get_by_text("is not an image that can be read").first.wait_for()
    assert visitor.page.locator(".toast-body img[src=x], .toast-wrap img[src=x]").count() == 0


def test_html_in_a_question_is_text_in_the_history_and_in_the_explanation(visit, files):
    visitor = visit()
    visitor.give(files["Image"])
    visitor.page.locator("label:visible", has_text="Question").first.click()
    visitor.page.get_by_label("Your question").locator("visible=true").fill("<img src=x onerror=alert(1)>?")
    visitor.button("Ask").click()
    visitor.answer()
    visitor.panel("This visit")
    visitor.page.get_by_text("<img src=x onerror=alert(1)>?").first.wait_for()
    visitor.panel("See how it sees")
    visitor.button("Explain the answer").click()
    visitor.page.locator(".explanation:visible").wait_for()
    assert visitor.page.locator("img[src=x]").count() == 0


def test_a_model_on_its_way_shows_its_progress_and_one_that_fails_says_why(visit, site, files):
    visitor = visit()

    def choose(name: str) -> None:
        visitor.page.get_by_label("Model", exact=True).first.click()
        visitor.page.get_by_role("option", name=name).click()

    choose("slow")
    visitor.give(files["Image"])
    visitor.button("Describe it").click()
    bar = visitor.page.locator("#loading progress")
    bar.wait_for()
    assert bar.get_attribute("value") == "40"
    site.slow.set()
    assert visitor.answer()
    choose("broken")
    visitor.button("Describe it").click()
    says = "The weights of <b>broken</b> are damaged"
    visitor.page.get_by_role("alert").filter(has_text=says).first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_passes_the_accessibility_check(visit, files, scheme):
    visitor = visit(color_scheme=scheme)
    for tab, path in files.items():
        visitor.tab(tab)
        visitor.give(path)
        visitor.page.locator("label:visible", has_text="Question").first.click()
        visitor.page.wait_for_timeout(ANIMATION)
        assert visitor.violations() == []


def test_the_page_fits_a_phone(visit, files):
    visitor = visit(viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    for tab, path in files.items():
        visitor.tab(tab)
        visitor.give(path)
        visitor.page.wait_for_timeout(ANIMATION)
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
    for panel in ("This visit", "About this model", "How it works", "Use it from a program"):
        visitor.panel(panel)
    visitor.page.wait_for_timeout(ANIMATION)
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert visitor.violations() == []


def test_an_answer_is_explained_on_demand(visit, site, files):
    visitor = visit()
    visitor.give(files["Image"])
    visitor.panel("See how it sees")
    visitor.button("Explain the answer").click()
    found = visitor.page.locator(".explanation:visible")
    found.wait_for()
    explanation = site.model.explain(Request(files["Image"]), 1)
    assert found.locator("thead").first.locator("th").count() == 2 + len(explanation.words)
    assert found.get_by_alt_text("Where the encoder looked").count() == 1
    assert "What it says without the" in found.inner_text()
    assert visitor.violations() == []


def test_an_explanation_without_a_file_asks_for_one(visit):
    visitor = visit()
    visitor.panel("See how it sees")
    visitor.button("Explain the answer").click()
    visitor.page.get_by_text("There is no picture yet").wait_for()
