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


@pytest.mark.parametrize("program", ["epalm", "app", "train", "benchmarks.limit"])
def test_programs_settle_it_before_pytorch_is_imported(program):
    code = f"""
import runpy
import sys
import epalm.startup

def settle_waiting():
    print("torch" in sys.modules)
    sys.exit()

epalm.startup.settle_waiting = settle_waiting
runpy.run_module({program!r}, run_name="__main__")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout == "False\n", run.stderr
