"""What makes the starter fast changes no token of 200 requests, against a pass over everything each time."""

import torch

from benchmarks.precision import pictures
from epalm import EPALM, Request
from epalm.serving import Scheduler

COUNT, TOGETHER, LONGEST = 200, 25, 5
QUESTION = "what is in the picture?"


def test_texts_are_those_of_the_uncached_pass():
    """Of a server that many ask at once, and of a model that one asks; captions and answers by turns."""
    model = EPALM.from_pretrained("starter", device="cpu", dtype=torch.float32)
    shown = [picture for _, picture in pictures(None, COUNT)]
    requests = [Request(picture, QUESTION if i % 2 else None) for i, picture in enumerate(shown)]
    assert len(requests) == COUNT
    exact: list[str] = []
    for first in range(0, COUNT, TOGETHER):
        batch = requests[first : first + TOGETHER]
        exact += model.generate(batch, beams=1, max_new_tokens=LONGEST, use_cache=False)
    with Scheduler(model) as scheduler:
        tickets = [scheduler.submit(request, beams=1, max_new_tokens=LONGEST) for request in requests]
        assert [ticket.result() for ticket in tickets] == exact
    alone = [model.generate([request], beams=1, max_new_tokens=LONGEST)[0] for request in requests[:20]]
    assert alone == exact[:20]
    assert len(set(exact)) > 20
