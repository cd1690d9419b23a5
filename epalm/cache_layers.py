"""A cache layer of `transformers` that copies as little as it can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

ROOM = 32  # columns in reserve


class RoomyLayer(DynamicLayer):
    """Keys and values (B, heads, W, d) with columns in reserve.

    A new token is written in place, where the library's layer copies everything before it. And when beams
    change places, what they have in common stays where it is.
    """

    keys: Tensor
    values: Tensor

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.width = 0  # columns that are filled
        self.common = 0  # leading columns that all beams of an item share
        self.room = (torch.empty(0), torch.empty(0))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any):
        end = self.width + key_states.shape[2]
        if self.width == 0:
            self.place(key_states, value_states)
        else:
            if end > self.room[0].shape[2]:
                self.place(self.keys, self.values, reserve=max(ROOM, key_states.shape[2]))
            self.room[0][:, :, self.width : end] = key_states
            self.room[1][:, :, self.width : end] = value_states
            self._show(end)
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Copy every item for its beams, which have all of it in common."""
        if self.width:
            self.place(self.keys.repeat_interleave(repeats, 0), self.values.repeat_interleave(repeats, 0))
            self.common = self.width

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let beams go on with the keys and values of others of the same item."""
        if self.width > self.common:
            chosen = beam_idx.to(self.room[0].device)
            for part in self.room:
                own = part[:, :, self.common : self.width]
                own.copy_(own.index_select(0, chosen))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows of the batch."""
        if self.width:
            self.place(self.keys[indices], self.values[indices])

    def crop(self, max_length: int) -> None:
        """Forget all but the first columns; a negative number counts those to forget."""
        self._show(max_length if max_length >= 0 else max(self.width + max_length, 0))

    def append_rows(self, keys: Tensor, values: Tensor) -> None:
        """More texts (b, heads, n, d), which end in the same column as those that are there."""
        if self.width:
            width = max(self.width, keys.shape[2])
            pairs = ((self.keys, keys), (self.values, values))
            keys, values = (torch.cat([widened(old, width), widened(new, width)]) for old, new in pairs)
        self.place(keys, values)

    def keep(self, places: Sequence[int], width: int) -> None:
        """The texts at `places`, which need no more than the last `width` columns."""
        if not places:
            self.width = 0
            return
        chosen = torch.tensor(places, device=self.room[0].device)
        first = self.width - width
        self.place(self.keys[chosen, :, first:], self.values[chosen, :, first:])

    def cut(self, number: int, width: int) -> None:
        """As `keep`, for the first texts; takes no memory, as it is for when there is none left."""
        if not number:
            self.width = 0
            return
        first = self.width - width
        self.room = (self.room[0][:number, :, first:], self.room[1][:number, :, first:])
        self._show(width)

    def place(self, keys: Tensor, values: Tensor, reserve: int = ROOM) -> None:
        """Hold these, with so many new columns in reserve."""
        width = keys.shape[2]
        self.room = tuple(  # type: ignore[assignment]
            part.new_zeros(*part.shape[:2], width + reserve, part.shape[3]) for part in (keys, values)
        )
        self.room[0][:, :, :width] = keys
        self.room[1][:, :, :width] = values
        self._show(width)

    def _show(self, width: int) -> None:
        self.width = width
        self.keys, self.values = self.room[0][:, :, :width], self.room[1][:, :, :width]
        self.dtype, self.device = self.keys.dtype, self.keys.device
        self.is_initialized = True


def widened(part: Tensor, width: int) -> Tensor:
    """(b, heads, n, d) -> (b, heads, width, d) with zeros on the left."""
    return torch.nn.functional.pad(part, (0, 0, width - part.shape[2], 0))
