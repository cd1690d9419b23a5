"""Evaluate an adapter on a benchmark's split: `python -m train evaluate CONFIG --split test`.

Predictions are written as they come, so a run that was stopped or killed goes on where it was. Processes
share the items, each once, and the metrics are computed over all of them together.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from epalm.adapter import CONFIG, WEIGHTS, Adapter
from epalm.config import AdapterConfig
from epalm.decoding import InjectedLM
from epalm.errors import EPALMError
from epalm.files import JsonLines, read_json_lines, write_json, write_json_lines
from epalm.text import TaskText, pad_left
from train.data.benchmarks import find_dataset
from train.data.manifest import Item
from train.features.source import FeatureSource, feature_source
from train.frozen import load_frozen_encoder, load_frozen_lm, say
from train.machine import memory_full
from train.metrics import by_group, score_captions, score_labels, score_vqa
from train.run_folder import exclusive
from train.settings import Settings, load_settings

Seeing = Literal["own", "blind", "text only"]  # the item's media, another item's, or none


@dataclass(frozen=True)
class Scores:
    """Metrics of a split as fractions, the score of every item, and why metrics are missing."""

    metrics: dict[str, float]
    samples: dict[str, float]
    absent: dict[str, str] = field(default_factory=dict)


def score(dataset: str, items: Sequence[Item], predictions: Mapping[str, str], java: bool) -> Scores:
    """Metrics of a benchmark's predictions; none where the split comes without answers.

    Args:
        predictions: text by item id, of all items.
        java: also the metrics that need Java.
    """
    benchmark = find_dataset(dataset)
    if not any(item.answers for item in items):
        return Scores({}, {}, dict.fromkeys(benchmark.metrics, "the split has no answers to compare with."))
    answers = {item.id: item.answers for item in items}
    if benchmark.task == "caption":
        captions = score_captions(predictions, answers, java)
        name = benchmark.metrics[0]
        samples = {key: values[name] for key, values in captions.samples.items()}
        return Scores(captions.corpus, samples, captions.absent)
    if benchmark.metrics[0] == "VQA accuracy":
        result = score_vqa(predictions, answers)
    else:
        result = score_labels(predictions, {key: labels_of(value) for key, value in answers.items()})
    return Scores({benchmark.metrics[0]: result.accuracy}, result.samples)


def labels_of(answers: Sequence[str]) -> dict[str, float]:
    """Every answer that is named counts fully."""
    return dict.fromkeys(answers, 1.0)


# ---------------------------------------------------------------- predictions


@torch.no_grad()
def predict(
    lm: InjectedLM,
    text: TaskText,
    adapter: Adapter,
    features: FeatureSource,
    items: Sequence[Item],
    others: Sequence[Item],
    batch: int,
    seeing: Seeing = "own",
) -> Iterator[tuple[Item, str]]:
    """The text for every item, in batches.

    Args:
        others: for `blind`, the item whose media each one gets instead.
    """
    strict = adapter.config.injection.mask == "reference"  # there padding is seen: equal lengths only
    inputs = [text.ids(text.input(item.prompt)) for item in items]
    groups: dict[int | None, list[int]] = {}
    for i, ids in enumerate(inputs):
        groups.setdefault(len(ids) if strict else None, []).append(i)
    for members in groups.values():
        for start in range(0, len(members), batch):
            part = members[start : start + batch]
            tokens = None
            if seeing != "text only":
                shown = [(items if seeing == "own" else others)[i] for i in part]
                tokens = adapter.tokens([f.to(lm.device) for f in features(shown, [0] * len(shown))])
            texts = decode(lm, text, adapter, [inputs[i] for i in part], tokens)
            yield from zip([items[i] for i in part], texts, strict=True)


def decode(
    lm: InjectedLM, text: TaskText, adapter: Adapter, inputs: Sequence[Sequence[int]], tokens: Tensor | None
) -> list[str]:
    """Generated texts behind inputs of ids."""
    ids, mask = (t.to(lm.device) for t in pad_left(inputs, text.tokenizer.pad_token_id))
    prompt = None if adapter.prompt is None else adapter.prompt().expand(len(inputs), -1, -1)
    config = adapter.config
    out = lm.decode(ids, mask, prompt, tokens, config.injection, config.generation)
    return [text.answer(row) for row in out[:, ids.shape[1] :].tolist()]


def evaluate_split(
    accelerator: Accelerator,
    lm: InjectedLM,
    text: TaskText,
    adapter: Adapter,
    features: FeatureSource,
    items: Sequence[Item],
    settings: Settings,
    java: bool,
    seeing: Seeing = "own",
    record: Path | None = None,
) -> Scores:
    """Predict and score a split, shared among processes; every process gets the scores.

    Args:
        record: folder for the predictions as they come; what is there is not predicted again.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    others = partners(items) if seeing == "blind" else items
    done = read_predictions(record)
    own = [i for i in range(rank, len(items), world) if items[i].id not in done]
    predictions = dict(done)
    progress = tqdm(
        total=len(items),
        initial=len(done),
        disable=not accelerator.is_main_process,
        unit="item",
        desc=f"evaluation, {seeing} media" if seeing != "text only" else "evaluation, text only",
        leave=False,
    )
    new: dict[str, str] = {}
    file = None if record is None else JsonLines(record / f"{rank}.jsonl")
    stream = predict(
        lm,
        text,
        adapter,
        features,
        [items[i] for i in own],
        [others[i] for i in own],
        settings.evaluation.batch,
        seeing,
    )
    for item, answer in stream:
        new[item.id] = answer
        progress.update(world)
        if file is not None:
            file.add([item.id, answer])
    progress.close()
    if file is not None:
        file.close()
    for part in gather_object([new]):
        predictions |= part
    scores = score(settings.data.dataset, items, predictions, java)
    if record is not None and accelerator.is_main_process:
        write_predictions(record.with_suffix(".jsonl"), items, predictions, scores)
    return scores


def partners(items: Sequence[Item]) -> list[Item]:
    """For each item another one, at random, whose media it is shown; the right answer may be the same.

    Raises:
        EPALMError: all items have the same media.
    """
    if len({item.media for item in items}) < 2:
        raise EPALMError("The blind baseline needs items with different media, but all have the same.")
    found = []
    for item in items:
        rng = random.Random(f"blind/{item.id}")
        other = rng.choice(items)
        while other.media == item.media:
            other = rng.choice(items)
        found.append(other)
    return found


def read_predictions(record: Path | None) -> dict[str, str]:
    """What earlier runs predicted."""
    paths = sorted(record.glob("*.jsonl")) if record is not None else []
    return {key: answer for path in paths for key, answer in read_json_lines(path)}


def write_predictions(
    path: Path, items: Sequence[Item], predictions: Mapping[str, str], scores: Scores
) -> None:
    """All predictions in the items' order, with their scores."""
    rows = (
        {
            "id": item.id,
            "media": item.media,
            "prompt": item.prompt,
            "prediction": predictions[item.id],
            "answers": item.answers,
            "score": scores.samples.get(item.id),
        }
        for item in items
    )
    write_json_lines(path, rows)


# ---------------------------------------------------------------- the command


def evaluate(settings: Settings, split: str, model: Path, blind: bool, text_only: bool, java: bool) -> Scores:
    """Evaluate the adapter in folder `model`; writes predictions-SPLIT.jsonl and metrics-SPLIT.json.

    Raises:
        EPALMError: the adapter was made for other parts than the settings name, or data is missing.
    """
    accelerator = Accelerator()
    device = str(accelerator.device)
    items = settings.items(split)
    adapter = Adapter.load(model).to(accelerator.device)
    check_adapter(adapter.config, settings, model)
    config = adapter.config = replace(adapter.config, generation=settings.generation)
    lm, tokenizer = load_frozen_lm(settings, config.lm, device)
    text = TaskText(config.task, tokenizer)
    encoder = load_frozen_encoder(settings, device) if settings.data.cache is None else None
    features = feature_source(settings, config, {"evaluated": items}, encoder)
    out, begun = Path(settings.out), time.monotonic()
    made_with = fingerprint(model, settings, items)

    def run(seeing: Seeing) -> Scores:
        name = f"predictions-{split}" if seeing == "own" else f"{seeing.replace(' ', '-')}-{split}"
        with_java = java and seeing == "own"
        forget_others(accelerator, out / name, made_with)
        return evaluate_split(
            accelerator, lm, text, adapter, features, items, settings, with_java, seeing, out / name
        )

    scores = run("own")
    baselines = {
        "blind": run("blind").metrics if blind else None,
        "text_only": run("text only").metrics if text_only else None,
    }
    if accelerator.is_main_process:
        result = {"metrics": scores.metrics, **baselines, "count": len(items), "absent": scores.absent}
        if scores.samples and (groups := groups_of(items, scores)):
            result["groups"] = groups
        if settings.paper:
            result["paper"] = settings.paper
        write_json(out / f"metrics-{split}.json", result)
        print(table(scores, baselines, settings.paper), flush=True)
        file = out / f"predictions-{split}.jsonl"
        say(f"{len(items)} items in {time.monotonic() - begun:.0f} s; predictions in {file}")
        for name, why in scores.absent.items():
            say(f"{name} is missing: {why}")
    return scores


def groups_of(items: Sequence[Item], scores: Scores) -> dict[str, dict[str, float]]:
    """Each grouping of the items, such as by question type: the mean score of every group."""
    groupings = sorted({name for item in items for name in item.group})
    return {
        name: by_group(scores.samples, {item.id: item.group[name] for item in items if name in item.group})
        for name in groupings
    }


def fingerprint(model: Path, settings: Settings, items: Sequence[Item]) -> str:
    """What predictions depend on: adapter, decoding, precision, preprocessing, and items."""
    parts = hashlib.sha256()
    for name in (WEIGHTS, CONFIG):
        parts.update((model / name).read_bytes())
    chosen = (settings.generation, settings.optim.precision, settings.recipe, items)
    parts.update(repr(chosen).encode(errors="surrogateescape"))
    return parts.hexdigest()


def forget_others(accelerator: Accelerator, record: Path, made_with: str) -> None:
    """Remove kept predictions that another adapter made, or other items' ones."""
    note = record / "made-with.txt"
    if accelerator.is_main_process and (not note.exists() or note.read_text() != made_with):
        shutil.rmtree(record, ignore_errors=True)
        record.mkdir(parents=True)
        note.write_text(made_with)
    accelerator.wait_for_everyone()


def check_adapter(found: AdapterConfig, settings: Settings, model: Path) -> None:
    """Refuse an adapter that was made for something else than the settings name."""
    for what, there, here in (
        ("language model", found.lm.id, settings.model.lm),
        ("encoder", found.encoder.id, settings.model.encoder),
        ("task", found.task, settings.task),
        ("preprocessing", found.recipe, json.loads(json.dumps(settings.recipe.to_dict()))),
    ):
        if there != here:
            raise EPALMError(f"{model} was trained with the {what} {there}, but the settings name {here}.")


def table(scores: Scores, baselines: Mapping[str, Any], paper: Mapping[str, float]) -> str:
    """The metrics times 100, beside baselines and the paper's numbers."""
    columns = {"this adapter": scores.metrics} | {
        name.replace("_", " "): values for name, values in baselines.items() if values is not None
    }
    if paper:
        columns["paper"] = dict(paper)
    lines = [["metric", *columns]]
    for metric in scores.metrics:
        values = [column.get(metric) for column in columns.values()]
        lines.append([metric, *("" if value is None else f"{100 * value:.2f}" for value in values)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def run_evaluate(arguments: argparse.Namespace) -> None:
    overrides = list(arguments.set)
    if arguments.batch is not None:
        overrides.append(f"evaluation.batch={arguments.batch}")
    settings = load_settings(arguments.config, overrides)
    model = arguments.model or Path(settings.out) / "best"
    baselines = arguments.blind, arguments.text_only
    try:
        with exclusive(Path(settings.out)):
            evaluate(settings, arguments.split, model, *baselines, not arguments.no_java)
    except torch.OutOfMemoryError as error:
        raise memory_full("evaluation.batch", settings.evaluation.batch) from error
