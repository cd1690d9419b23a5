"""What a training or an evaluation needs of its items, checked before any model is loaded."""

from __future__ import annotations

from collections.abc import Sequence

from epalm.config import TaskConfig
from epalm.errors import EPALMError
from epalm.text import asked
from train.data.manifest import Item


def refuse_unusable(name: str, items: Sequence[Item], task: TaskConfig) -> None:
    """Refuse items that cannot be trained on or validated with.

    Args:
        name: of their manifest in the settings, or its path.
    Raises:
        EPALMError: some have no answers, or no question where the task needs one; it names one of them.
    """
    if without := [item.id for item in items if not item.answers]:
        raise EPALMError(
            f"{len(without)} of {len(items)} items of {name} have no answers, for example {without[0]!r}; "
            "training needs them."
        )
    refuse_unasked(name, items, task)


def refuse_unasked(name: str, items: Sequence[Item], task: TaskConfig) -> None:
    """Refuse items whose question cannot be asked; captions have none.

    Args:
        name: of their manifest in the settings, or its path.
    Raises:
        EPALMError: a question is missing, empty or too long; it names the item.
    """
    for item in items if task.name == "qa" else ():
        try:
            asked(item.prompt)
        except EPALMError as error:
            raise EPALMError(f"The item {item.id!r} of {name} cannot be asked about: {error}") from error
