"""The command line: what it prints, where, and its exit codes."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import epalm
from epalm import verify
from epalm.cli import checks as check_commands
from epalm.cli import models
from epalm.cli.main import main
from epalm.config import AdapterConfig
from epalm.hub.licences import licences
from epalm.hub.zoo import ZOO, licence_notice

ROOT = Path(__file__).parents[2]
CASE = ROOT / "tests" / "golden" / "image_prenorm_a"


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "red.png"
    Image.new("RGB", (40, 30), "red").save(path)
    return str(path)


@pytest.fixture
def text_file(tmp_path: Path) -> str:
    path = tmp_path / "notes.jpg"
    path.write_text("this is no picture")
    return str(path)


def test_caption_prints_the_text_alone_for_one_file(tiny_model_dir, picture, capsys):
    assert main(["caption", "--model", str(tiny_model_dir), picture]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1 and picture not in out
    assert "Loading the language model" in err


def test_json_has_one_object_per_line(tiny_model_dir, picture, capsys):
    assert main(["caption", "--model", str(tiny_model_dir), "--json", picture, picture]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert list(first) == ["file", "adapter", "task", "text", "log_probability", "confidence", "seconds"]
    assert (first["file"], first["adapter"], first["task"]) == (picture, "image-caption", "caption")
    assert first["text"] == second["text"] and first["seconds"] > 0
    assert first["log_probability"] < 0 and first["confidence"] is None  # this adapter was never measured


def test_a_bad_file_is_reported_and_the_others_go_on(tiny_model_dir, picture, text_file, capsys):
    files = [picture, text_file, "missing.png", picture]
    assert main(["caption", "--model", str(tiny_model_dir), *files]) == 2
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines()] == [picture, picture]
    problems = [line for line in err.splitlines() if line.startswith("epalm: ")]
    assert len(problems) == 2 and text_file in problems[0] and "missing.png" in problems[1]


def test_ask_takes_the_last_argument_as_the_question(tiny_opt_dir, picture, capsys):
    arguments = ["--model", str(tiny_opt_dir), "--json", picture, picture, "what is this?"]
    assert main(["ask", *arguments]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["file"] for row in rows] == [picture, picture]
    assert {row["adapter"] for row in rows} == {"image-qa"}


@pytest.mark.parametrize(
    "question, says", [("  ", "empty"), ("why " * 2500, "characters"), (None, "in quotes")]
)
def test_ask_refuses_a_question_that_is_none(tiny_model_dir, picture, capsys, question, says):
    arguments = ["ask", "--model", str(tiny_model_dir), picture, picture if question is None else question]
    assert main(arguments) == 2
    problems = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epalm: ")]
    assert len(problems) == 1 and says in problems[0]


def test_beams_and_length_reach_the_search(tiny_model_dir, picture, capsys):
    assert main(["caption", "--model", str(tiny_model_dir), "--max-new-tokens", "1", picture]) == 0
    short = capsys.readouterr().out
    assert main(["caption", "--model", str(tiny_model_dir), "--beams", "3", picture]) == 0
    assert len(capsys.readouterr().out) > len(short)


@pytest.mark.parametrize(
    "arguments",
    [
        ["caption"],
        ["ask", "photo.jpg"],
        ["caption", "--beams", "0", "photo.jpg"],
        ["caption", "--dtype", "int4", "photo.jpg"],
        ["caption", "--device", "toaster", "photo.jpg"],
        ["frobnicate"],
    ],
)
def test_arguments_that_make_no_sense_exit_with_2(arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


def test_a_model_that_is_none_gets_one_sentence(picture, capsys):
    assert main(["caption", "--model", "no such model", picture]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "Traceback" not in err and err.splitlines()[-1].startswith("epalm: 'no such model'")


def test_models_lists_the_starter_the_published_ones_and_their_licences(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    lines = out[: out.index("\n\n")].splitlines()
    assert list(dict.fromkeys(line.split()[0] for line in lines[1:])) == ["starter", *ZOO]
    assert max(map(len, lines)) <= 120
    assert "facebook/opt-2.7b" in out and "non-commercial research only" in out
    assert main(["models", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["name"] for row in rows] == ["starter", *ZOO]
    assert all(row["licence"] for row in rows) and len({tuple(row) for row in rows}) == 1


def test_the_starter_is_listed_as_its_adapters_say(monkeypatch, tmp_path, capsys):
    encoders = {"image": "starter/efficientnet-lite2", "audio": "starter/whisper-tiny.en"}
    encoders["video"] = "frames/" + encoders["image"]
    shipped = AdapterConfig.load(models.STARTER / "image-caption" / "config.json")
    for modality, encoder in encoders.items():
        for task in ("caption", "qa"):
            config = replace(
                shipped,
                encoder=replace(shipped.encoder, id=encoder),
                task=replace(shipped.task, name=task, modality=modality),
            )
            (tmp_path / f"{modality}-{task}").mkdir()
            (tmp_path / f"{modality}-{task}" / "config.json").write_text(config.to_json())
    names = [f"{modality}-{task}" for modality in ("image", "video", "audio") for task in ("caption", "qa")]
    (tmp_path / "config.json").write_text(json.dumps({"adapters": names}))
    monkeypatch.setattr(models, "STARTER", tmp_path)
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    table = [line.split("  ") for line in out.splitlines()[1:4]]
    cells = [[cell.strip() for cell in row if cell] for row in table]
    lm = "smollm2-135m-instruct"
    assert cells == [
        ["starter", "image caption, qa", lm, "efficientnet-lite2", "ships", "187 MB"],
        ["starter", "video caption, qa", lm, "efficientnet-lite2", "ships", "with it"],
        ["starter", "audio caption, qa", lm, "whisper-tiny.en", "ships", "with it"],
    ]
    assert max(map(len, out[: out.index("\n\n")].splitlines())) <= 120
    notice = f"{lm} is under Apache-2.0, efficientnet-lite2 under Apache-2.0, whisper-tiny.en under MIT."
    assert f"  {notice}" in out.splitlines()
    assert main(["models", "--json"]) == 0
    row = json.loads(capsys.readouterr().out.splitlines()[0])
    assert (row["modality"], row["task"]) == ("image, video, audio", "caption, qa")
    assert row["encoder"] == ", ".join(encoders[modality] for modality in ("image", "video", "audio"))
    assert (row["download"], row["licence"]) == ("187 MB", notice)


def test_licences_name_every_part_and_what_forbids_commercial_use():
    vit, timesformer = (
        "timm/vit_base_patch16_224.augreg_in21k_ft_in1k",
        "facebook/timesformer-base-finetuned-k600",
    )
    assert licences("facebook/opt-2.7b", [vit, vit]) == licence_notice(ZOO["vqa-opt-2.7b"])
    both = licences("facebook/opt-2.7b", [vit, timesformer])
    assert "vit_base_patch16_224.augreg_in21k_ft_in1k under Apache-2.0" in both
    assert both.endswith(
        "Because of opt-2.7b and timesformer-base-finetuned-k600, "
        "this model is for non-commercial research only."
    )
    assert "mine under a licence to look up" in licences("starter/smollm2-135m-instruct", ["a/mine"])


def test_convert_names_what_is_wrong(tmp_path, capsys):
    missing = ["convert", str(tmp_path / "none.pth"), str(tmp_path / "out"), "--preset"]
    assert main([*missing, "vqa-opt-2.7b"]) == 2
    assert "none.pth" in capsys.readouterr().err
    torch.save({"model": {"connector.0.weight": torch.zeros(2, 2)}}, tmp_path / "other.pth")
    assert main(["convert", str(tmp_path / "other.pth"), str(tmp_path / "out"), "--preset", "vqa"]) == 2
    assert "did you mean 'vqa-opt" in capsys.readouterr().err


def test_verify_passes_on_a_recorded_case(capsys):
    assert main(["verify", str(CASE)]) == 0
    [summary] = capsys.readouterr().out.splitlines()
    assert summary.startswith(f"{CASE}: ") and "checks ok" in summary


def test_verify_exits_1_on_a_mismatch_and_2_where_there_is_no_case(tmp_path, capsys):
    for file in CASE.iterdir():
        (tmp_path / file.name).symlink_to(file)
    expected = load_file(CASE / "expected.safetensors")
    expected["logits"] = expected["logits"] + 1
    (tmp_path / "expected.safetensors").unlink()
    save_file(expected, tmp_path / "expected.safetensors")
    assert main(["verify", str(tmp_path)]) == 1
    failed, summary = capsys.readouterr().out.splitlines()
    assert "logits" in failed and "FAILED" in failed and "1 of" in summary
    assert main(["verify", str(tmp_path), str(tmp_path / "none")]) == 2
    assert "is not a recorded case" in capsys.readouterr().err


def test_verify_shows_every_check_on_request(monkeypatch, capsys):
    checks = [verify.Check("logits", 1e-6, 2e-4), verify.Check("tokens", 3, 0, decides=False)]
    monkeypatch.setattr(check_commands, "verify", lambda *_: checks)
    assert main(["verify", "--verbose", "--dtype", "bfloat16", "case"]) == 0
    out = capsys.readouterr().out
    assert "max error 1e-06" in out and "does not decide" in out
    assert "1 of them reported only in bfloat16" in out


def test_interrupted_ends_quietly_with_130(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(check_commands, "verify", interrupt)
    assert main(["verify", "case"]) == 130
    assert capsys.readouterr() == ("", "")


def test_python_dash_m_runs_it_with_help_and_without_noise():
    environment = {**os.environ, "EPALM_MODEL": "somewhere"}
    result = subprocess.run(
        [sys.executable, "-m", "epalm", "caption", "--help"],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 0 and result.stderr == ""
    assert "examples:" in result.stdout and "somewhere" in result.stdout


@pytest.mark.parametrize("package", ["epalm", "train"])
def test_help_does_not_wait_for_pytorch(package):
    code = (
        f"import runpy, sys\nsys.argv = ['{package}', '--help']\n"
        f"try:\n    runpy.run_module('{package}', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'transformers', 'timm', 'numpy', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "--help" in result.stdout


def test_the_version_names_what_a_bug_report_needs(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"epalm {epalm.__version__} · Python 3.")
    assert f"torch {torch.__version__.split('+')[0]}" in line and "transformers" in line


def test_files_that_are_not_there_are_told_before_anything_is_imported(monkeypatch, capsys):
    monkeypatch.setattr("epalm.cli.main.command_at", lambda place: pytest.fail(f"{place} is imported"))
    assert main(["caption", "none.jpg", "no.mp4"]) == 2
    assert capsys.readouterr().err == "epalm: none.jpg does not exist.\nno.mp4 does not exist.\n"
    assert main(["explain", "none.jpg"]) == 2


def test_a_misspelled_model_is_told_the_closest_name(picture, capsys):
    assert main(["caption", picture, "--model", "startr"]) == 2
    assert "'startr' is not a model: did you mean 'starter'?" in capsys.readouterr().err
