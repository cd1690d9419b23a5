"""Many files in one call: folders, a file of results that a rerun continues, progress."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from epalm import EPALM, EPALMError
from epalm.cli.batch import File, Progress, duration, find_files, generate, progress_text, recognise
from epalm.cli.main import main
from epalm.model import Request
from epalm.results import Results
from tests.epalm.test_audio import sound_file, tone
from tests.epalm.test_video import video

ROOT = Path(__file__).parents[2]


def picture(path: Path, shade: int = 0) -> Path:
    Image.new("RGB", (40, 30), (shade, 99, 255 - shade)).save(path, "PNG")
    return path


@pytest.fixture
def tree(tmp_path) -> Path:
    """Two pictures, a video, a sound, and what else lies in people's folders."""
    tree = tmp_path / "tree"
    (tree / "b" / "deep").mkdir(parents=True)
    picture(tree / "c.png", 10)
    picture(tree / "b" / "deep" / "no-suffix", 200)
    (tree / "a.mp4").write_bytes(video(length=8))
    (tree / "b" / "z.wav").write_bytes(sound_file(tone()))
    (tree / "notes.txt").write_text("not a picture")
    (tree / "logo.svg").write_text("<svg/>")
    picture(tree / ".hidden.png")
    (tree / ".thumbnails").mkdir()
    picture(tree / ".thumbnails" / "c.png")
    return tree


@pytest.fixture
def pictures(tmp_path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(5):
        picture(folder / f"{i}.png", 50 * i)
    return folder


def rows(path: Path) -> list[dict]:
    content = path.read_text()
    assert content == "" or content.endswith("\n")
    return [json.loads(line) for line in content.splitlines()]


def without_time(rows: list[dict]) -> list[dict]:
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


# ---------------------------------------------------------------- which files


def test_a_folder_is_searched_through_all_levels_in_order_without_hidden_files(tree):
    files, problems = find_files([str(tree / "notes.txt"), str(tree)])
    assert files[0] == File(str(tree / "notes.txt"), named=True)
    assert [os.path.relpath(file.path, tree) for file in files[1:]] == [
        "a.mp4", "b/deep/no-suffix", "b/z.wav", "c.png", "logo.svg", "notes.txt",
    ]  # fmt: skip
    assert not any(file.named for file in files[1:]) and problems == []


def test_pipes_and_links_to_folders_are_not_opened(tmp_path):
    picture(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    files, _ = find_files([str(tmp_path)])
    assert [Path(file.path).name for file in files] == ["a.png", "link.png"]


def test_what_is_no_media_is_passed_over_in_a_folder_but_not_if_it_is_named_or_named_like_media(tree):
    assert recognise(File(str(tree / "notes.txt"), named=False)) is None
    assert recognise(File(str(tree / "logo.svg"), named=False)) is None
    with pytest.raises(EPALMError, match="neither an image nor a video nor a sound"):
        recognise(File(str(tree / "notes.txt"), named=True))
    (tree / "empty.mp4").touch()
    with pytest.raises(EPALMError, match="is empty"):
        recognise(File(str(tree / "empty.mp4"), named=False))


def test_pictures_videos_and_sounds_of_a_folder_in_one_call(tiny_senses_dir, tree, capsys):
    assert main(["caption", "--model", str(tiny_senses_dir), "--device", "cpu", "--json", str(tree)]) == 0
    out, err = capsys.readouterr()
    found = [json.loads(line) for line in out.splitlines()]
    assert [(os.path.relpath(row["file"], tree), row["adapter"]) for row in found] == [
        ("a.mp4", "video-caption"),
        ("b/deep/no-suffix", "image-caption"),
        ("b/z.wav", "audio-caption"),
        ("c.png", "image-caption"),
    ]
    assert "Passed over 2 files in folders: they are not pictures, videos or sounds." in err.splitlines()
    assert err.count("Loading the language model") == 1


def test_a_batch_gives_the_same_texts(tiny_senses_dir, tree, capsys):
    arguments = ["--model", str(tiny_senses_dir), "--device", "cpu", str(tree), "what is this?"]
    assert main(["ask", *arguments]) == main(["ask", "--batch", "3", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and lines[:4] == lines[4:]


def test_a_bad_file_does_not_spoil_its_batch(tiny_model_dir, pictures):
    whole = (pictures / "1.png").read_bytes()
    (pictures / "1.png").write_bytes(whole[: len(whole) // 2])
    model = EPALM.from_pretrained(tiny_model_dir, device="cpu")
    batch = [Request(str(pictures / f"{i}.png"), adapter="image-caption") for i in range(3)]
    first, bad, third = generate(model, batch, None, None)
    assert isinstance(bad, EPALMError) and "1.png" in str(bad)
    assert [first.text, third.text] == [model.caption(batch[i].media) for i in (0, 2)]


def test_files_without_an_adapter_are_counted_in_a_folder_and_refused_by_name(tiny_model_dir, tree, capsys):
    assert main(["caption", "--model", str(tiny_model_dir), str(tree)]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    [line] = [line for line in err.splitlines() if "video caption" in line]
    assert line.startswith("Passed over 1 file in folders: This model has no adapter for video caption;")
    assert main(["caption", "--model", str(tiny_model_dir), str(tree / "a.mp4")]) == 2
    assert "epalm: This model has no adapter for video caption" in capsys.readouterr().err


def test_folders_with_nothing_to_describe_are_refused_before_a_model_is_loaded(tmp_path, tree, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["caption", str(tmp_path / "empty"), "--model", "never loaded"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and len(err.splitlines()) == 1 and "is a folder without files" in err
    texts = shutil.copytree(tree, tmp_path / "texts", ignore=lambda *_: ["b", "c.png", "a.mp4"])
    assert main(["caption", str(texts), "--model", "never loaded"]) == 2
    counted, refused = capsys.readouterr().err.splitlines()
    assert counted.startswith("Passed over 2 files") and "There is nothing to describe in" in refused


def test_an_empty_folder_does_not_stop_the_others(tiny_model_dir, tmp_path, pictures, capsys):
    (tmp_path / "empty").mkdir()
    folders = [str(tmp_path / "empty"), str(pictures)]
    assert main(["caption", "--model", str(tiny_model_dir), *folders]) == 2
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_a_question_that_is_a_folder_is_none(pictures, capsys):
    assert main(["ask", str(pictures / "0.png"), str(pictures)]) == 2
    assert "is a folder; add a question in quotes" in capsys.readouterr().err


# ---------------------------------------------------------------- the file of results


def test_every_file_has_a_row_errors_too(tiny_model_dir, pictures, tmp_path, capsys):
    (pictures / "2.png").write_text("damaged")
    out = tmp_path / "captions.jsonl"
    assert main(["caption", "--model", str(tiny_model_dir), str(pictures), "--out", str(out)]) == 2
    found = rows(out)
    assert [row["file"] for row in found] == [str(pictures / f"{i}.png") for i in range(5)]
    assert [list(row)[1] for row in found] == ["adapter", "adapter", "error", "adapter", "adapter"]
    assert "neither an image" in found[2]["error"] and "text" not in found[2]
    good = found[0]
    assert (good["adapter"], good["task"], good["model"]) == ("image-caption", "caption", str(tiny_model_dir))
    assert good["bytes"] == (pictures / "0.png").stat().st_size and "beams" not in good
    captions = [line.split(": ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    assert captions == [" ".join(row["text"].split()) for row in found if "text" in row]


def test_a_rerun_does_what_is_left_and_tries_errors_again(tiny_model_dir, pictures, tmp_path, capsys):
    whole = (pictures / "2.png").read_bytes()
    (pictures / "2.png").write_text("damaged")
    run = ["caption", "--model", str(tiny_model_dir), "--json", str(pictures), "--out", str(tmp_path / "o")]
    assert main(run) == 2
    before = (tmp_path / "o").read_bytes()
    capsys.readouterr()
    assert main(run) == 2  # the same error is said again, but not written twice
    out, err = capsys.readouterr()
    assert out == "" and "has 4 of 5 files already" in err and "2.png is neither" in err
    assert (tmp_path / "o").read_bytes() == before
    (pictures / "2.png").write_bytes(whole)
    picture(pictures / "new.png")
    assert main(run) == 0
    done = [json.loads(line)["file"] for line in capsys.readouterr().out.splitlines()]
    assert done == [str(pictures / "2.png"), str(pictures / "new.png")]
    assert (tmp_path / "o").read_bytes().startswith(before) and len(rows(tmp_path / "o")) == 7
    assert main([*run, "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert out == "" and "has 6 of 6 files already" in err and "Loading" not in err


def test_what_the_text_depends_on_makes_a_file_new(tmp_path):
    file, out = str(picture(tmp_path / "a.png")), tmp_path / "o"
    settings = {"model": "starter", "question": None, "beams": None}
    with Results(out, settings) as results:
        results.add(file, text="a cat")
        assert results.has(file) and results.has(os.path.join(tmp_path, ".", "a.png"))
    for other in ({"question": "why?"}, {"beams": 3}, {"model": "mine"}):
        with Results(out, settings | other) as results:
            assert not results.has(file)
            results.add(file, text="other")
    with Results(out, settings) as results:
        assert results.has(file)  # the other rows did not take its place
        picture(tmp_path / "a.png", 77)
        os.utime(file, (1e9, 1e9))
        assert not results.has(file)
        results.add(file, error="gone")
        assert not results.has(file)
    assert [row.get("text") for row in rows(out)] == ["a cat", "other", "other", "other", None]


@pytest.mark.parametrize("cut", [1, 5, 30, -1])
def test_a_line_that_was_cut_off_is_dropped_and_no_other(tmp_path, cut):
    files = [str(picture(tmp_path / f"{i}.png")) for i in range(2)]
    with Results(tmp_path / "whole", {}) as results:
        for file in files:
            results.add(file, text="ä cat")
    first, second = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    (tmp_path / "torn").write_bytes(first + second[:cut])
    with Results(tmp_path / "torn", {}) as results:
        complete = cut == -1  # only the end of the line is missing
        assert [results.has(file) for file in files] == [True, complete]
        assert (tmp_path / "torn").read_bytes() == (first + second if complete else first)
        if not complete:
            results.add(files[1], text="ä cat")
    assert (tmp_path / "torn").read_bytes() == first + second


@pytest.mark.parametrize("content", ["notes", "notes\n", '{"file": "a"}\nnotes\n', "[1, 2]\n", "\x89PNG"])
def test_a_file_that_holds_something_else_is_refused_and_left_as_it_is(tmp_path, content, capsys):
    (tmp_path / "o").write_text(content)
    assert main(["caption", str(picture(tmp_path / "a.png")), "--out", str(tmp_path / "o")]) == 2
    assert "something other than results in line" in capsys.readouterr().err
    assert (tmp_path / "o").read_text() == content


@pytest.mark.parametrize("out", [".", "no/such/folder/o"])
def test_results_that_cannot_be_written_are_said_before_a_model_is_loaded(tmp_path, out, capsys):
    assert main(["caption", str(picture(tmp_path / "a.png")), "--out", str(tmp_path / out)]) == 2
    err = capsys.readouterr().err
    assert "cannot be written" in err and len(err.splitlines()) == 1


def test_a_full_disk_is_said_in_one_sentence(tmp_path):
    with Results(tmp_path / "o", {}) as results:
        results.file.close()
        results.file = open("/dev/full", "ab", buffering=0)  # noqa: SIM115
        with pytest.raises(EPALMError, match="cannot be written .No space left"):
            results.add("a.png", text="a cat")


def test_results_may_lie_in_the_folder_and_names_may_be_no_unicode(tiny_model_dir, pictures, capsys):
    strange = os.fsdecode(b"caf\xe9.png")
    picture(pictures / strange)
    out = pictures / "o.jsonl"
    run = ["caption", "--model", str(tiny_model_dir), str(pictures), "--out", str(out)]
    assert main(run) == main(run) == 0
    err = capsys.readouterr().err
    assert "has 6 of 6 files already" in err and "Passed over" not in err
    assert rows(out)[-1]["file"] == str(pictures / strange)


def test_a_file_that_is_named_twice_has_one_row(tiny_model_dir, pictures, tmp_path, capsys):
    run = ["caption", "--model", str(tiny_model_dir), str(pictures / "0.png"), str(pictures)]
    assert main([*run, "--out", str(tmp_path / "o")]) == 0
    assert Counter(row["file"] for row in rows(tmp_path / "o")).most_common(1)[0][1] == 1


def test_interrupted_keeps_what_is_done(tiny_model_dir, pictures, tmp_path, monkeypatch):
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "o"
    run = ["caption", "--model", str(tiny_model_dir), str(pictures), "--out"]
    assert main([*run, str(undisturbed)]) == 0
    answer, calls = EPALM.answers, iter(range(99))

    def interrupted(*args, **options):
        if next(calls) == 2:
            raise KeyboardInterrupt
        return answer(*args, **options)

    monkeypatch.setattr(EPALM, "answers", interrupted)
    assert main([*run, str(out)]) == 130
    assert without_time(rows(out)) == without_time(rows(undisturbed))[:2]
    assert main([*run, str(out)]) == 0
    assert without_time(rows(out)) == without_time(rows(undisturbed))


def test_killed_in_the_middle_and_run_again_gives_the_same_rows(tiny_model_dir, tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(100):
        picture(folder / f"{i:02}.png", 2 * i)
    (folder / "30.png").write_text("damaged")
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "o"
    run = ["caption", "--model", str(tiny_model_dir), "--device", "cpu", str(folder), "--out"]
    assert main([*run, str(undisturbed)]) == 2
    process = subprocess.Popen(
        [sys.executable, "-m", "epalm", *run, str(out)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while process.poll() is None and not (out.exists() and out.read_bytes().count(b"\n") > 40):
            time.sleep(0.002)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    killed = out.read_bytes()
    assert 40 < killed.count(b"\n") < 100
    assert main([*run, str(out)]) == 2
    assert out.read_bytes().startswith(killed[: killed.rindex(b"\n") + 1])
    assert without_time(rows(out)) == without_time(rows(undisturbed))


# ---------------------------------------------------------------- progress


def test_progress_text():
    assert progress_text(12, 340, 7.2) == "12 of 340, 0.6 s each, 3 min left"
    assert progress_text(1, 3, 0.02) == "1 of 3, 0.02 s each, 0 s left"
    assert progress_text(340, 340, 850) == "340 of 340, 2.5 s each"
    assert [duration(s) for s in (40, 59.4, 59.6, 3599, 7500)] == [
        "40 s",
        "59 s",
        "1 min",
        "1 h 0 min",
        "2 h 5 min",
    ]


def test_progress_is_one_line_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(3) as progress:
        progress.advance()
        progress.advance(counts=False)
        progress.advance()
    lines = capsys.readouterr().err.split("\r\x1b[K")
    assert [line.split(",")[0] for line in lines[1:4]] == ["1 of 3", "1 of 2", "2 of 2"]
    assert "".join(lines).count("\n") == 1


def test_progress_is_rare_where_nobody_watches(monkeypatch, capsys):
    with Progress(20) as progress:
        for i in range(20):
            monkeypatch.setattr(Progress, "EVERY", 0.0 if i == 9 else 60.0)
            progress.advance()
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["10 of 20", "20 of 20"]


def test_a_single_file_has_no_progress(tiny_model_dir, pictures, capsys):
    assert main(["caption", "--model", str(tiny_model_dir), str(pictures / "0.png")]) == 0
    assert "1 of 1" not in capsys.readouterr().err
