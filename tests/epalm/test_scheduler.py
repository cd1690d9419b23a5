"""Many requests in front of one model: each gets the text that it gets alone, whatever runs beside it."""

import dataclasses
import threading
import time
from concurrent.futures import CancelledError

import pytest
import torch
from PIL import Image

from epalm import EPALM, EPALMError, Request
from epalm.adapter import SoftPrompt
from epalm.config import ConfidenceConfig
from epalm.serving import Busy, Scheduler
from epalm.serving.running import Newcomer, RunningBatch, layout


@pytest.fixture(scope="module")
def model(tiny_model_dir):
    return EPALM.from_pretrained(tiny_model_dir)


@pytest.fixture(scope="module")
def opt(tiny_opt_dir):
    return EPALM.from_pretrained(tiny_opt_dir)


@pytest.fixture
def scheduler(model):
    with Scheduler(model) as scheduler:
        yield scheduler


def picture(shade: int) -> Image.Image:
    return Image.effect_noise((40, 30), 8 * shade + 1).convert("RGB")


@pytest.fixture(scope="module")
def requests():
    """Captions and questions of different lengths about different pictures."""
    torch.manual_seed(0)
    questions = [None, "what is this?", None, "is the red dog on the grass?", "what?", None]
    return [Request(picture(i), question) for i, question in enumerate(questions * 3)]


def slow(scheduler: Scheduler, seconds: float = 0.02) -> None:
    """Make every step take time, so that a test can act while texts are being made."""
    step = scheduler._batch.step
    scheduler._batch.step = lambda: (time.sleep(seconds), step())


def test_every_request_gets_the_text_that_it_gets_alone(model, scheduler, requests):
    tickets = [scheduler.submit(request, max_new_tokens=6 + i % 5) for i, request in enumerate(requests)]
    alone = [model.generate([request], max_new_tokens=6 + i % 5)[0] for i, request in enumerate(requests)]
    assert [ticket.result(60) for ticket in tickets] == alone


def model_alone(model: EPALM, requests: list[Request]) -> list[str]:
    return [model.generate([request], max_new_tokens=6)[0] for request in requests]


def newcomers_of(model: EPALM, requests: list[Request]) -> list[Newcomer]:
    """Texts of six tokens, owned by the places of their requests."""
    newcomers = []
    for place, request in enumerate(requests):
        name, ids, media = model._prepare(request)
        features = model.features(name, media[None])
        newcomers.append(Newcomer(place, model.adapted[name], features, ids, limit=6))
    return newcomers


def finished(batch: RunningBatch, newcomers: list[Newcomer]) -> list[str]:
    """The texts of a batch, once all of them are made."""
    made = {}
    while len(batch):
        ended = {text.owner: text.new for text in batch.texts if text.finished}
        made |= ended
        batch.keep([place for place, text in enumerate(batch.texts) if text.owner not in ended])
        if len(batch):
            batch.step()
    return [newcomer.adapted.text.answer(made[newcomer.owner]) for newcomer in newcomers]


def test_texts_of_different_adapters_and_lengths_begin_in_one_pass(model, requests):
    """Each adapter has its own prompt, and shorter inputs are padded: no text tells."""
    batch, newcomers = RunningBatch(model.lm), newcomers_of(model, requests[:6])
    assert len({len(newcomer.ids) for newcomer in newcomers}) > 2
    assert len({layout(newcomer.adapted) for newcomer in newcomers}) == 1
    batch.join(newcomers)
    assert finished(batch, newcomers) == model_alone(model, requests[:6])


def test_texts_with_and_without_a_deep_prompt_share_the_steps(tiny_model_dir, requests):
    """They begin in passes of their own, since their prompts differ in shape, and then go on together."""
    model = EPALM.from_pretrained(tiny_model_dir)
    adapter = model.adapted["image-qa"].adapter
    assert adapter.config.prompt is not None and adapter.prompt is not None
    layers = adapter.config.lm.num_layers - adapter.config.injection.start_layer_idx
    torch.manual_seed(0)
    deep = SoftPrompt(adapter.config.prompt.length, adapter.config.lm.embed_size, False, layers)
    deep.deep.data.normal_()
    adapter.prompt = deep.eval()
    prompt = dataclasses.replace(adapter.config.prompt, deep_from=adapter.config.injection.start_layer_idx)
    adapter.config = dataclasses.replace(adapter.config, prompt=prompt)
    batch, newcomers = RunningBatch(model.lm), newcomers_of(model, requests[:6])
    groups: dict = {}
    for newcomer in newcomers:
        groups.setdefault(layout(newcomer.adapted), []).append(newcomer)
    assert len(groups) == 2
    for group in groups.values():
        batch.join(group)
    assert finished(batch, newcomers) == model_alone(model, requests[:6])


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("running", [0, 2])
def test_texts_go_on_when_others_run_out_of_memory_on_joining(model, requests, monkeypatch, layer, running):
    """In the layers before the one that was full, the others had joined already."""

    def fail(*_) -> None:
        raise torch.OutOfMemoryError("no memory")

    batch, newcomers = RunningBatch(model.lm), newcomers_of(model, requests[:4])
    first, others = newcomers[:running], newcomers[running:]
    if first:
        batch.join(first)
        batch.step()
    monkeypatch.setattr(batch._cache.roomy[layer], "append_rows", fail)
    with pytest.raises(torch.OutOfMemoryError):
        batch.join(others)
    monkeypatch.undo()
    assert len(batch) == running
    if first:
        batch.step()
    batch.join(others)  # once there is memory again
    assert finished(batch, newcomers) == model_alone(model, requests[:4])


def test_late_requests_join_texts_that_are_being_made(model, scheduler, requests):
    slow(scheduler)
    most = 0
    tickets = []
    for request in requests:
        tickets.append(scheduler.submit(request, max_new_tokens=12))
        time.sleep(0.03)
        most = max(most, len(scheduler._batch))
    assert [t.result(60) for t in tickets] == [model.generate([r], max_new_tokens=12)[0] for r in requests]
    assert most > 1


def test_requests_with_beams_and_sampling_are_served_beside_greedy_ones(model, scheduler, requests):
    mixed = [{"beams": 3}, {}, {"beams": 2}, {"do_sample": True, "top_k": 1}] * 3
    tickets = [scheduler.submit(r, **options) for r, options in zip(requests, mixed, strict=False)]
    alone = [model.generate([r], **options)[0] for r, options in zip(requests, mixed, strict=False)]
    assert [ticket.result(60) for ticket in tickets] == alone


def test_adapters_whose_perceptual_token_sees_the_text_are_served_in_batches_that_change_nothing(
    opt, requests
):
    with Scheduler(opt) as scheduler:
        tickets = [scheduler.submit(request, beams=1 + i % 2) for i, request in enumerate(requests)]
        alone = [opt.generate([request], beams=1 + i % 2)[0] for i, request in enumerate(requests)]
        assert [ticket.result(60) for ticket in tickets] == alone


def test_the_text_is_told_as_it_grows(model, scheduler, requests):
    told: list[str] = []
    text = scheduler.submit(requests[0], on_text=told.append).result(60)
    assert told[-1] == text and len(told) > 1
    assert all(text.startswith(part.rstrip()) for part in told[:1])
    assert list(scheduler.stream(requests[0]))[-1] == text


def test_closing_a_stream_cancels_its_request(model, scheduler, requests):
    slow(scheduler)
    endless = scheduler.stream(requests[0], max_new_tokens=60)
    next(endless)
    endless.close()
    assert scheduler.submit(requests[1]).result(60) == model.generate([requests[1]])[0]
    assert len(scheduler._batch) == 0


def test_a_cancelled_request_leaves_the_batch_and_the_others_go_on(model, scheduler, requests):
    slow(scheduler)
    begun = threading.Event()
    dropped = scheduler.submit(requests[0], max_new_tokens=60, on_text=lambda text: begun.set())
    kept = scheduler.submit(requests[1], max_new_tokens=12)
    assert begun.wait(60) and dropped.cancel()
    with pytest.raises(CancelledError):
        dropped.result(60)
    assert dropped.cancelled() and not kept.cancelled()
    assert kept.result(60) == model.generate([requests[1]], max_new_tokens=12)[0]
    assert not dropped.cancel()


def test_a_request_that_is_cancelled_before_its_turn_is_never_computed(model, requests):
    with Scheduler(model, rows=1) as scheduler:
        slow(scheduler)
        scheduler.submit(requests[0], max_new_tokens=12)
        waiting = scheduler.submit(requests[1])
        assert waiting.cancel() and waiting.cancelled()
        assert scheduler.submit(requests[2]).result(60) == model.generate([requests[2]])[0]


def test_bad_requests_fail_with_their_own_sentence_and_harm_no_other(model, scheduler, requests, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"not a picture")
    wrong = [Request(bad), Request(picture(1), ""), Request(picture(1), "what?", "nothing")]
    tickets = [scheduler.submit(request) for pair in zip(wrong, requests, strict=False) for request in pair]
    for ticket, request in zip(tickets[::2], wrong, strict=True):
        with pytest.raises(EPALMError) as alone:
            model.generate([request])
        with pytest.raises(EPALMError) as served:
            ticket.result(60)
        assert str(served.value) == str(alone.value)
    for ticket, request in zip(tickets[1::2], requests, strict=False):
        assert ticket.result(60) == model.generate([request])[0]


def test_a_step_that_fails_costs_the_texts_in_it_and_nothing_else(model, scheduler, requests):
    def fail() -> None:
        raise torch.OutOfMemoryError("no memory")

    scheduler._batch.step = fail
    with pytest.raises(torch.OutOfMemoryError):
        scheduler.submit(requests[0]).result(60)
    assert scheduler.submit(requests[0]).result(60) == model.generate([requests[0]])[0]


def test_a_full_queue_refuses_and_those_that_wait_know_their_place(model, requests):
    with Scheduler(model, rows=1, waiting=3) as scheduler:
        slow(scheduler)
        running = scheduler.submit(requests[0], max_new_tokens=60)
        while running.position or not len(scheduler._batch):
            time.sleep(0.01)
        waiting = [scheduler.submit(request, max_new_tokens=2) for request in requests[:3]]
        assert [ticket.position for ticket in waiting] == [1, 2, 3]
        with pytest.raises(Busy, match="3 requests are waiting"):
            scheduler.submit(requests[3])
        assert running.cancel()
        assert [ticket.result(60) for ticket in waiting] == [
            model.generate([request], max_new_tokens=2)[0] for request in requests[:3]
        ]


def test_closing_finishes_what_was_accepted_or_cancels_it(model, requests):
    scheduler = Scheduler(model)
    tickets = [scheduler.submit(request) for request in requests]
    scheduler.close()
    assert all(ticket.done() and not ticket.cancelled() for ticket in tickets)
    with pytest.raises(EPALMError, match="closed"):
        scheduler.submit(requests[0])
    scheduler = Scheduler(model)
    slow(scheduler)
    tickets = [scheduler.submit(request, max_new_tokens=60) for request in requests]
    scheduler.close(wait=False)
    assert all(ticket.done() for ticket in tickets)


def test_a_function_runs_between_tokens_and_its_error_is_its_own(scheduler, requests):
    """What is not a request: nothing else uses the model meanwhile."""
    ticket = scheduler.submit(requests[0])
    assert scheduler.run(lambda: threading.current_thread().name).result(30) == "epalm-scheduler"
    with pytest.raises(ZeroDivisionError):
        scheduler.run(lambda: 1 / 0).result(30)
    assert ticket.result(30)


@pytest.mark.parametrize("beams", [1, 3])
def test_an_answers_log_probability_and_confidence_are_those_of_the_model(tiny_model_dir, requests, beams):
    model = EPALM.from_pretrained(tiny_model_dir, device="cpu")
    for adapter in model.adapters.values():
        adapter.config = dataclasses.replace(adapter.config, confidence=ConfidenceConfig(0.5, 1.0))
    with Scheduler(model) as scheduler:
        tickets = [scheduler.submit(request, beams=beams) for request in requests]
        texts = [ticket.result(30) for ticket in tickets]
    answers = model.answers(requests, beams=beams)
    assert texts == [answer.text for answer in answers]
    for ticket, answer in zip(tickets, answers, strict=True):
        assert ticket.log_probability == pytest.approx(answer.log_probability, abs=1e-4)
        assert ticket.confidence == pytest.approx(answer.confidence, abs=1e-4)
