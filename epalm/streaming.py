"""Generation as an iterator: one thread makes the tokens, another one reads them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer


def stream_tokens(generate: Callable[..., Any]) -> Generator[int, None, None]:
    """The new token ids of one sequence, one by one.

    Args:
        generate: called in a thread with `streamer` and `stopping_criteria`, which `transformers`' `generate`
            takes. What it raises is raised here, after the tokens.

    Closing the iterator stops the generation and waits for its end.
    """
    streamer, stop = _TokenStream(), _Stop()
    failure: list[BaseException] = []

    def work() -> None:
        try:
            generate(streamer=streamer, stopping_criteria=StoppingCriteriaList([stop]))
        except BaseException as error:
            failure.append(error)
            streamer.end()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield from streamer
    finally:
        stop.now = True
        thread.join()
    if failure:
        raise failure[0]


class _TokenStream(BaseStreamer):
    """Iterates over the new tokens of one sequence while another thread generates them."""

    def __init__(self) -> None:
        self.queue: queue.Queue[int | None] = queue.Queue()
        self.in_prompt = True

    def put(self, value: Tensor) -> None:
        if not self.in_prompt:  # what comes first is the input
            self.queue.put(int(value.item()))
        self.in_prompt = False

    def end(self) -> None:
        self.queue.put(None)

    def __iter__(self) -> Iterator[int]:
        while (token := self.queue.get()) is not None:
            yield token


class _Stop(StoppingCriteria):
    """Ends a generation whose reader has gone."""

    now = False

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((input_ids.shape[0],), self.now, device=input_ids.device)
