"""What `pip install .` brings: the wheel's files, its command, and dependencies that the pinned set meets."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import epalm
from epalm.hub.locate import STARTER, adapter_folders

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, so that nothing is left in the checkout."""
    source = tmp_path_factory.mktemp("source")
    for folder in ("epalm", "assets/starter"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--no-index", "--wheel-dir", str(out), str(source)], check=True)
    return zipfile.ZipFile(next(out.glob("*.whl")))


def test_the_wheel_has_every_file_of_the_package_and_nothing_else(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    ours = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "epalm").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    starter = {name for name in names if name.startswith("epalm/assets/")}
    assert names - starter == ours


def test_the_starters_adapters_are_in_the_wheel_as_they_are_in_the_checkout(wheel, tmp_path):
    wheel.extractall(tmp_path, [name for name in wheel.namelist() if name.startswith("epalm/assets/")])
    installed = adapter_folders(tmp_path / "epalm" / "assets" / "starter")
    shipped = adapter_folders(STARTER)
    assert installed.keys() == shipped.keys() and len(shipped) == 6
    for name, folder in shipped.items():
        for file in ("config.json", "adapter.safetensors"):
            assert (installed[name] / file).read_bytes() == (folder / file).read_bytes()


def test_the_wheel_brings_the_command(wheel):
    [entry] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert "epalm = epalm.cli.main:main" in wheel.read(entry).decode()


def test_the_pinned_set_lies_within_the_ranges():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = {r.name: r for r in (Requirement(line) for line in lines if line and not line.startswith("#"))}
    extras = PROJECT["optional-dependencies"]
    wanted = [Requirement(text) for text in PROJECT["dependencies"] + extras["demo"]]
    assert {r.name for r in wanted} <= pinned.keys()
    for requirement in wanted:
        [lowest] = [s.version for s in pinned[requirement.name].specifier if s.operator in ("==", ">=")]
        assert Version(lowest) in requirement.specifier, requirement.name
        assert not any(s.operator == "==" for s in requirement.specifier), f"{requirement.name} is pinned"


def test_what_cites_the_version_cites_this_one():
    assert f"version: {epalm.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    changes = (ROOT / "CHANGELOG.md").read_text().splitlines()
    assert f"## {epalm.__version__}" in changes
