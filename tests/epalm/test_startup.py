"""How OpenMP's threads wait: settled before PyTorch is there, and the environment has the last word."""

import os
import subprocess
import sys

import pytest

from epalm.startup import WAITING, settle_waiting


@pytest.fixture
def unset(monkeypatch):
    for name in WAITING:
        monkeypatch.setenv(name, "")  # so that what the test sets is undone, too
        monkeypatch.delenv(name)


def test_threads_spin_shortly_and_then_sleep(unset):
    settle_waiting()
    assert WAITING.items() <= os.environ.items()


@pytest.mark.parametrize("name", WAITING)
def test_what_the_environment_says_stays(name, unset, monkeypatch):
    monkeypatch.setenv(name, "7")
    settle_waiting()
    assert [os.environ.get(each) for each in WAITING] == ["7" if each == name else None for each in WAITING]


@pytest.mark.parametrize("first", ["epalm", "epalm.__main__", "app", "train", "benchmarks.limit"])
def test_it_is_settled_before_pytorch_is_imported(first, unset):
    code = f"""
import os
import sys

class Finder:
    def find_spec(name, path, target=None):
        if name == "torch":
            print([os.environ.get(each) for each in {list(WAITING)}])
            os._exit(0)

sys.meta_path.insert(0, Finder)
sys.argv = ["epalm", "caption", "README.md"]
import {first}
import torch
"""
    run = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    assert run.stdout == f"{list(WAITING.values())}\n"


def test_a_python_without_the_packages_is_told_what_to_do():
    code = """
import sys

sys.modules["torch"] = None
sys.argv = ["epalm", "caption", "README.md"]
import epalm.__main__
"""
    run = subprocess.run([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
    assert run.returncode == 1 and "this Python has no package torch: run `make setup`" in run.stderr
