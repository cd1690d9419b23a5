"""The answers of a visit, as the server keeps them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from epalm import EPALM
from epalm.demo.page import page
from epalm.demo.service import Service


@pytest.fixture(scope="module")
def blocks(tiny_senses_dir: Path) -> gr.Blocks:
    return page(Service.of(EPALM.from_pretrained(tiny_senses_dir, device="cpu")))


def events(blocks: gr.Blocks, name: str) -> list[Any]:
    return [fn for fn in blocks.fns.values() if fn.name == name]


def called(blocks: gr.Blocks, name: str) -> Callable[..., Any]:
    """What an event of the page does."""
    return events(blocks, name)[0].fn


def test_answers_that_end_at_the_same_time_are_both_remembered(blocks):
    """Each addition reads and writes the whole list, so they come one after the other."""
    additions = events(blocks, "add")
    assert len(additions) == 2 * 3  # in each tab for what is asked and for what is asked again
    assert {fn.concurrency_limit for fn in additions} == {1}
    assert len({fn.concurrency_id for fn in additions}) == 1


def test_the_newest_answer_is_in_front_and_one_without_a_picture_is_left_out(blocks):
    add = called(blocks, "add")
    one, two = ({"thumbnail": "x.png", "question": None, "answer": text} for text in ("one", "two"))
    assert add([one], two)[0] == [two, one]
    assert add([one], None)[0] == [one]


def test_a_click_on_an_answer_that_is_no_longer_kept_is_told_so(blocks):
    event = gr.SelectData(None, {"index": 0, "value": None})
    with pytest.raises(gr.Error, match="These answers are no longer here.") as refused:
        called(blocks, "replay")([], ("", 0), event)
    assert refused.value.title.endswith("[no-file]")
