"""The examples of CONTRIBUTING.md, which tests run as they stand there.

door = run_door("A new benchmark")   # the names that the example defines
"""

import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "CONTRIBUTING.md"
LONGEST = 15  # lines of code


def code_of(heading: str) -> str:
    """The first Python block under a heading of the page."""
    section = PAGE.read_text(encoding="utf-8").split(f"### {heading}\n")[1].split("\n### ")[0]
    return re.search(r"```python\n(.*?)```", section, re.DOTALL)[1]


def run_door(heading: str) -> dict[str, Any]:
    """Run an example; the names that it defines. It has at most fifteen lines of code."""
    code = code_of(heading)
    assert len([line for line in code.splitlines() if line]) <= LONGEST
    names: dict[str, Any] = {"__name__": "door"}
    exec(compile(code, f"{PAGE.name}: {heading}", "exec"), names)  # noqa: S102
    return names
