"""Several devices and precisions, as far as a machine without an accelerator can show it."""

import torch

from epalm import EPALM
from epalm.language_model import choose_dtype


def test_an_lm_loads_through_a_device_map(tiny_model_dir):
    mapped = EPALM.from_pretrained(tiny_model_dir, device="cpu", device_map={"": "cpu"})
    plain = EPALM.from_pretrained(tiny_model_dir, device="cpu")
    image = torch.zeros(20, 20, 3, dtype=torch.uint8).numpy()
    assert mapped.caption(image) == plain.caption(image)


def test_half_precision_generates(tiny_model_dir):
    for dtype in (torch.float16, torch.bfloat16):
        model = EPALM.from_pretrained(tiny_model_dir, device="cpu", dtype=dtype)
        image = torch.zeros(20, 20, 3, dtype=torch.uint8).numpy()
        assert isinstance(model.caption(image), str)
        assert model.lm.dtype == dtype


def test_the_cpu_computes_in_float32_and_says_why():
    dtype, why = choose_dtype("cpu")
    assert dtype == torch.float32 and why.endswith(".") and "float32" in why
