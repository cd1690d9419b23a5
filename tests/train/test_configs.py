"""The recipes in train/configs: the paper's ten, equal to the published adapters, and the small ones."""

import dataclasses
import re
from pathlib import Path

import pytest

from epalm.config import AdapterConfig, LMConfig
from epalm.encoders.widths import Widths
from epalm.errors import EPALMError
from epalm.hub.zoo import OPT_6_7B, ZOO
from train.data.benchmarks import find_dataset
from train.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]
FILES = {path.stem: path for path in sorted((ROOT / "train" / "configs").glob("*/*.yaml"))}
BENCHMARKS = [name for name in FILES if name != "example"]  # `make example` has its own data
SMALL = [name for name in BENCHMARKS if name not in ZOO]

LMS = {  # sizes as in the models' own configs, and how wide and deep the encoder is
    "facebook/opt-125m": LMConfig("facebook/opt-125m", 768, 768, 12, "opt"),
    "facebook/opt-350m": LMConfig("facebook/opt-350m", 1024, 512, 24, "opt"),
    "starter/smollm2-135m-instruct": LMConfig("starter/smollm2-135m-instruct", 576, 576, 30, "llama"),
}

# Items per process: in a training step, in evaluation; epochs.
PUBLISHED = {
    "vqa-opt-2.7b": (64, 64, 8),
    "vqa-opt-6.7b": (2, 16, 35),
    "coco-caption-opt-2.7b": (16, 64, 8),
    "coco-caption-opt-6.7b": (2, 16, 35),
    "gqa-opt-2.7b": (64, 128, 8),
    "gqa-opt-6.7b": (8, 16, 35),
    "msrvtt-caption-opt-2.7b": (16, 8, 26),
    "msrvtt-qa-opt-2.7b": (8, 64, 26),
    "msvd-qa-opt-2.7b": (8, 64, 26),
    "audiocaps-opt-2.7b": (8, 64, 30),
}

SPLITS = {  # those of the paper, as in the table of train/README.md
    "vqa-opt-2.7b": ("karpathy_train", "karpathy_val", "karpathy_test"),
    "vqa-opt-6.7b": ("train", "karpathy_val", "karpathy_val"),
    "gqa-opt-2.7b": ("train", "val", "testdev"),
    "gqa-opt-6.7b": ("train", "val", "testdev"),
    "msrvtt-caption-opt-2.7b": ("train7k", "test", "test"),
}


def settings(name: str) -> Settings:
    return load_settings(FILES[name])


def header(name: str) -> list[str]:
    """The comment that a file opens with."""
    lines = FILES[name].read_text(encoding="utf-8").splitlines()
    return lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]


def splits(loaded: Settings) -> tuple[str | None, ...]:
    return loaded.data.train, loaded.data.val, loaded.data.test


@pytest.mark.parametrize("name", FILES)
def test_every_file_loads(name):
    loaded = settings(name)
    assert loaded.task.modality == FILES[name].parent.name


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_file_opens_with_commands_that_name_it(name):
    commands = [line.removeprefix("# ") for line in header(name) if "-m train " in line]
    assert commands[-1].startswith(("accelerate launch --num_processes", "python")) and "fit" in commands[-1]
    for command in commands:
        [named] = re.findall(r"train/configs/\S+", command)
        assert ROOT / named == FILES[name]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_data_is_where_prepare_writes_it(name):
    loaded = settings(name)
    dataset = find_dataset(loaded.data.dataset)
    for path in splits(loaded):
        folder, split = Path(path).parent, Path(path).stem
        assert folder == Path("data", dataset.name)
        assert split in dataset.splits
    assert loaded.out == f"runs/{name}"


@pytest.mark.parametrize("name", FILES)
def test_a_copy_with_another_run_folder_does_not_write_into_this_one(name):
    cache = settings(name).data.cache
    assert cache is None or Path(cache).parts[0] == "cache"


@pytest.mark.parametrize("name", ("vqa-opt-2.7b", "vqa-opt-6.7b"))
def test_the_papers_vqa_recipes_name_the_script_that_the_paper_used(name):
    assert settings(name).metric == "VQA accuracy before March 2021"
    assert settings("vqa-opt-350m").metric == "VQA accuracy since March 2021"


def test_a_metric_that_the_benchmark_lacks_is_refused():
    with pytest.raises(EPALMError, match="but gqa has exact match"):
        load_settings(FILES["gqa-opt-2.7b"], ["evaluation.metric=CIDEr"])


# The paper's


def test_all_published_adapters_have_a_recipe():
    assert ZOO.keys() == PUBLISHED.keys() == {name for name in FILES if settings(name).reference}


@pytest.mark.parametrize("name", ZOO)
def test_a_published_recipe_makes_the_published_adapter(name):
    preset, loaded = ZOO[name], settings(name)
    widths = (preset.encoder.width,) * preset.encoder.layers
    made = loaded.adapter_config(preset.config.lm, widths)
    assert without_words(made) == without_words(preset.config)
    assert (loaded.model.lm, loaded.model.lm_revision) == (preset.lm.id, preset.lm.revision)
    assert loaded.task.modality == preset.modality and loaded.task.name == preset.task


def without_words(config: AdapterConfig) -> str:
    return dataclasses.replace(config, description="", metrics={}, confidence=None).to_json()


@pytest.mark.parametrize("name", ZOO)
def test_published_hyper_parameters(name):
    optim, large = settings(name).optim, ZOO[name].lm == OPT_6_7B
    rates = (2e-4, 1e-3, 1e-5, 1e-4) if large else (2e-5, 1e-5, 1e-6, 1e-5)
    assert (optim.lr, optim.prompt_lr, optim.min_lr, optim.warmup_lr) == rates
    assert (optim.batch, settings(name).evaluation.batch, optim.epochs) == PUBLISHED[name]
    assert (optim.warmup_blocks, optim.weight_decay, optim.accumulate) == (4, 0.02, 1)
    assert (optim.precision, optim.seed) == ("fp16", 42)
    assert f"--num_processes {8 if large else 4} " in header(name)[0]


@pytest.mark.parametrize("name", ZOO)
def test_published_splits(name):
    expected = SPLITS.get(name, ("train", "val", "test"))
    assert tuple(Path(path).stem for path in splits(settings(name))) == expected


@pytest.mark.parametrize("name", BENCHMARKS)
def test_numbers_of_the_paper_are_those_the_authors_report(name):
    result = ZOO[name].result if name in ZOO else None
    assert settings(name).paper == ({result.metric: result.value / 100} if result else {})


# The small ones


@pytest.mark.parametrize("name", SMALL)
def test_small_presets_are_corrected_and_leak_nothing(name):
    loaded = settings(name)
    lm = LMS[loaded.model.lm]
    assert loaded.model.mask == "causal" and not loaded.reference
    # No layer after the range could read the visual row. In presets with the shape of shipped adapters the
    # last two carry it on: in causal mode it sees itself alone, so nothing leaks there either.
    shipped = name in ("coco-caption-starter", "vqa-starter")
    assert loaded.model.end_layer == lm.num_layers - (2 if shipped else 0)
    layers = loaded.model.end_layer - loaded.model.start_layer
    assert layers % len(loaded.model.feature_layers) == 0  # every feature enters as many layers
    width = 1280 if lm.model_type == "llama" else 768
    assert loaded.adapter_config(lm, (width,) * 12).num_tokens == len(loaded.model.feature_layers)


@pytest.mark.parametrize("task", ["caption", "qa"])
def test_the_starter_presets_have_the_shape_of_the_shipped_adapters(task):
    shipped = AdapterConfig.load(ROOT / "assets" / "starter" / f"image-{task}" / "config.json")
    loaded = settings("coco-caption-starter" if task == "caption" else "vqa-starter")
    made = loaded.adapter_config(shipped.lm, Widths((16, 24, 48, 120, 1280, 1000, 1080), 5))
    assert without_words(made) == without_words(shipped)
