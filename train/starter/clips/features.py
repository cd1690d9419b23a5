"""The frozen image encoder's features of all clips, read back from their files: the starter trains on these.

Tensors of the file (N clips in the order of clips.jsonl):
    frames    (N, 8, 1280) float16   the pooled feature of every frame
    changes   (N, 175) float32       what changes between them, see epalm.encoders.frames
"""

from pathlib import Path

import torch
from safetensors.torch import save

from epalm.encoders.frames import FrameEncoder
from epalm.encoders.load import load_encoder
from epalm.files import atomic, read_json_lines
from epalm.media.recipes import RECIPES

ENCODER = "frames/starter/efficientnet-lite2"


@torch.no_grad()
def encode_clips(work: Path) -> None:
    """WORK/clips.jsonl -> WORK/clips.safetensors."""
    rows = read_json_lines(work / "clips.jsonl")
    encoder, recipe = load_encoder(ENCODER, progress=print), RECIPES["video"]["starter"]
    assert isinstance(encoder, FrameEncoder)
    pooled, changes = [], []
    for i, row in enumerate(rows):
        media = recipe(recipe.open(work / row["path"]))
        frames, change = encoder.look(media)
        pooled.append(frames.half())
        changes.append(change)
        if (i + 1) % 200 == 0:
            print(f"{i + 1} of {len(rows)} clips", flush=True)
    with atomic(work / "clips.safetensors") as file:
        file.write(save({"frames": torch.stack(pooled), "changes": torch.stack(changes)}))
