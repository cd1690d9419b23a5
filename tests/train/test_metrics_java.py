"""METEOR and SPICE: Java programs, which may be missing, die or fall silent without taking anything along."""

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from train.metrics import java, score_captions
from train.metrics.tokenizer import tokenize

pytestmark = pytest.mark.skipif(find_spec("pycocoevalcap") is None, reason="pycocoevalcap is not installed")
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed")


@needs_java
def test_meteor_runs_where_java_does():
    dog, cats = tokenize("a dog runs on the green grass"), tokenize("two cats")
    corpus, samples = java.meteor([dog, [], dog], [[dog, cats], [cats], [cats]])
    assert samples == pytest.approx([1.0, 0.0, 0.0])
    assert 0 < corpus < 1


@needs_java
def test_meteor_equals_pycocoevalcap():
    module = pytest.importorskip("pycocoevalcap.meteor.meteor")
    captions = [tokenize(text) for text in ("a man rides", "two naïve cats at night", "the dog", "")]
    references = [[tokenize("a woman rides a horse")], [tokenize("cats"), tokenize("two cats in the dark")]]
    references += [[tokenize("dogs")], [tokenize("nothing here")]]
    joined = dict(enumerate([[" ".join(tokens) for tokens in item] for item in references]))
    official = module.Meteor().compute_score(joined, {i: [" ".join(c)] for i, c in enumerate(captions)})
    corpus, samples = java.meteor(captions, references)
    assert (corpus, samples) == (pytest.approx(official[0]), pytest.approx(official[1]))


@needs_java
def test_meteor_runs_where_numbers_have_a_comma(monkeypatch):
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    for options in ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS"):
        monkeypatch.setenv(options, "-Duser.language=de -Duser.country=DE")
    corpus, samples = java.meteor([["a", "dog"]], [[["a", "brown", "dog"]]])
    assert corpus == pytest.approx(samples[0]) and 0 < corpus < 1


@pytest.mark.parametrize("broken", [False, True])
def test_without_java_that_starts_the_scores_say_what_is_missing(broken, tmp_path, monkeypatch):
    if broken:
        (tmp_path / "java").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    scores = score_captions({"1": "a dog"}, {"1": ["a dog"]})
    assert "METEOR" not in scores.corpus
    assert scores.absent["METEOR"].startswith("METEOR needs Java")
    assert scores.absent["SPICE"].startswith("SPICE needs Java")


STARTS = 'case "$*" in *-version*) exit 0;; esac'
DEATHS = {
    "at once": ("echo Out of memory. >&2; exit 3", "ended early with code 3: Out of memory."),
    "killed": ("read a; echo 1; kill -9 $$", "ended early with code -9."),
    "after some answers": ("read a; echo 1; read b; exit 0", "ended early with code 0."),
    "silent": ("exec sleep 60", "did not answer for 1 seconds and was stopped."),
    "silent and deaf": ("exec <&-; exec sleep 60", "did not answer for 1 seconds and was stopped."),
    "nonsense": ("while read a; do echo x; echo x; echo x; done", "did not print numbers"),
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_java_that_dies_costs_meteor_and_nothing_else(death, tmp_path, monkeypatch):
    does, told = DEATHS[death]
    (tmp_path / "java").write_text(f"#!/bin/sh\n{STARTS}\n{does}\n")
    (tmp_path / "java").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(java, "SILENCE", 1.0)
    long = " ".join(["dog"] * 5000)  # more than a pipe holds
    scores = score_captions(dict.fromkeys("1234", long), dict.fromkeys("1234", ["a dog", long]))
    assert {"CIDEr", "BLEU-4", "ROUGE-L"} <= scores.corpus.keys() and "METEOR" not in scores.corpus
    assert told in scores.absent["METEOR"] and scores.absent["METEOR"].count("\n") == 0


SPICES = {
    "writes scores": ('echo \'[{"image_id": 0, "scores": {"All": {"f": 0.5}}}]\' > "$OUT"', None),
    "fails": ("exit 4", "failed with code 4"),
    "writes nothing": ("exit 0", "left no usable scores"),
    "writes half of it": ('echo \'[{"image\' > "$OUT"', "left no usable scores"),
    "does not end": ("exec sleep 60", "did not finish within"),
}


@pytest.mark.parametrize("end", SPICES)
def test_a_java_that_fails_costs_spice_and_nothing_else(end, tmp_path, monkeypatch):
    does, told = SPICES[end]
    find = 'while [ $# -gt 0 ]; do [ "$1" = -out ] && OUT=$2; shift; done'
    (tmp_path / "java").write_text(f"#!/bin/sh\n{STARTS}\n{find}\n{does}\n")
    (tmp_path / "java").chmod(0o755)
    (tmp_path / "spice" / "lib").mkdir(parents=True)
    (tmp_path / "spice" / "lib" / java.SPICE_MODELS).touch()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(java, "package", lambda metric: Path(tmp_path))
    monkeypatch.setattr(java, "SPICE_SECONDS", (2.0, 0.0))
    if told is None:
        assert java.spice([["a"]], [[["a"]]]) == (0.5, [0.5])
        return
    with pytest.raises(java.Unavailable, match=told):
        java.spice([["a"]], [[["a"]]])
