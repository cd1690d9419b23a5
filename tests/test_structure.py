"""The house rules that a reader relies on: data flows one way, and every file can be read at one sitting."""

import ast
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 400  # lines

# From the bottom up: a room may import from those on lower floors, and from itself.
FLOORS = (
    ("epalm.errors",),
    ("epalm.config", "epalm.files", "epalm.results"),
    ("epalm.families", "epalm.injection", "epalm.text", "epalm.media"),
    ("epalm.injection_cache", "epalm.adapter"),
    ("epalm.hub",),
    ("epalm.encoders", "epalm.language_model", "epalm.beam_search", "epalm.streaming"),
    ("epalm.decoding",),
    ("epalm.scoring",),
    ("epalm.adapted",),
    ("epalm.verify", "epalm.explain"),
    ("epalm.model",),
    ("epalm.serving",),
    ("epalm.cli",),
    ("epalm.demo",),
)


@cache
def modules() -> dict[str, Path]:
    """The product's modules by their dotted names."""
    files = [path for folder in ("epalm", "train") for path in (ROOT / folder).rglob("*.py")]
    parts = {path: path.relative_to(ROOT).with_suffix("").parts for path in files}
    return {".".join(p[:-1] if p[-1] == "__init__" else p): path for path, p in parts.items()}


@cache
def imports(module: str) -> set[str]:
    """The product's modules that a module imports, anywhere but for type checkers."""
    tree = ast.parse(modules()[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            node.body = []
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in modules() else node.module for name in inner}
    return found & modules().keys() - {module}


def test_no_module_imports_itself_by_a_detour():
    try:
        tuple(TopologicalSorter({module: imports(module) for module in modules()}).static_order())
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def room_of(module: str) -> str:
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("module", sorted(modules()))
def test_lower_floors_do_not_import_upper_ones(module):
    floor_of = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
    own = floor_of.get(room_of(module), len(FLOORS))
    for imported in imports(module):
        assert imported.startswith("epalm") or module.startswith("train"), imported
        if room_of(module) != room_of(imported):
            assert floor_of.get(room_of(imported), -1) < own, imported


def test_no_file_is_longer_than_a_sitting():
    """Code and tests; data, lists of words and recorded runs are not read as code."""
    folders = ("epalm", "train", "tests", "benchmarks")
    files = [ROOT / "app.py", *(path for folder in folders for path in (ROOT / folder).rglob("*.py"))]
    lengths = {path.relative_to(ROOT): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {str(path): length for path, length in lengths.items() if length > LONGEST} == {}
