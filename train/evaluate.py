"""Evaluate an adapter on a benchmark's split: `python -m train evaluate CONFIG --split test`.

Predictions are written as they are made, so a run that was stopped or killed continues where it was.
Processes share the items without overlap; metrics are computed over all items together.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from tqdm import tqdm

from epalm.adapted import AdaptedLM
from epalm.adapter import CONFIG, WEIGHTS, Adapter
from epalm.config import AdapterConfig
from epalm.errors import EPALMError
from epalm.files import JsonLines, read_json_lines, write_atomic, write_json, writing
from train.data.benchmarks import find_dataset
from train.data.manifest import Item, rng_of
from train.features.source import FeatureSource, feature_source
from train.frozen import load_frozen_encoder, load_frozen_lm, say
from train.machine import memory_full
from train.results import read_predictions, result_name, write_predictions, write_submission
from train.run_folder import exclusive
from train.scores import Scores, compare, groups_of, in_words, score, scores_of_run, table
from train.settings import Settings, load_settings
from train.usable import refuse_unasked

Seeing = Literal["own", "blind", "text only"]  # the item's own file, another item's, or none


# ---------------------------------------------------------------- predictions


@torch.no_grad()
def predict(
    model: AdaptedLM,
    features: FeatureSource,
    items: Sequence[Item],
    others: Sequence[Item],
    batch: int,
    seeing: Seeing = "own",
) -> Iterator[tuple[Item, str]]:
    """Predict the text of every item, in batches of similar length, longest first.

    Args:
        others: for `blind`, the item whose file each item gets instead.
    """
    inputs = [model.text.ids(model.text.input(item.prompt)) for item in items]
    order = sorted(range(len(items)), key=lambda i: len(inputs[i]), reverse=True)
    for places in model.batches([inputs[i] for i in order], batch):
        part = [order[place] for place in places]
        shown = [(others if seeing == "blind" else items)[i] for i in part]
        seen = None if seeing == "text only" else features(shown, [0] * len(shown))
        texts = model.answers(seen, [inputs[i] for i in part])
        yield from zip([items[i] for i in part], texts, strict=True)


def evaluate_split(
    accelerator: Accelerator,
    model: AdaptedLM,
    features: FeatureSource,
    items: Sequence[Item],
    settings: Settings,
    java: bool,
    seeing: Seeing = "own",
    record: Path | None = None,
) -> Scores:
    """Predict and score a split; processes share the work, and each gets the scores.

    Args:
        record: folder for predictions as they are made; those already there are not repeated.
    """
    rank, world = accelerator.process_index, accelerator.num_processes
    others = partners(items) if seeing == "blind" else items
    done = kept_predictions(record)
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
        model,
        features,
        [items[i] for i in own],
        [others[i] for i in own],
        settings.evaluation.batch,
        seeing,
    )
    with progress:
        for item, answer in stream:
            new[item.id] = answer
            progress.update(world)
            if file is not None:
                file.add([item.id, answer])
    if file is not None:
        file.close()
    for part in gather_object([new]):
        predictions |= part
    scores = score(find_dataset(settings.data.dataset), items, predictions, java)
    if record is not None and accelerator.is_main_process:
        samples = scores.of(settings.metric)
        write_predictions(record.with_name(f"{record.name}.jsonl"), items, predictions, samples)
    return scores


def partners(items: Sequence[Item]) -> list[Item]:
    """For each item, a random item with another file to show instead; its answer may be the same.

    Raises:
        EPALMError: all items have the same file.
    """
    if len({item.media for item in items}) < 2:
        raise EPALMError("The blind baseline needs items with different files, but all have the same one.")
    found = []
    for item in items:
        rng = rng_of(item, "blind")
        other = rng.choice(items)
        while other.media == item.media:
            other = rng.choice(items)
        found.append(other)
    return found


def kept_predictions(record: Path | None) -> dict[str, str]:
    """Predictions of earlier runs, by id."""
    paths = sorted(record.glob("*.jsonl")) if record is not None else []
    return {key: answer for path in paths for key, answer in read_json_lines(path)}


# ---------------------------------------------------------------- the command


@dataclass(frozen=True)
class Wanted:
    """Options of an evaluation."""

    blind: bool = False
    text_only: bool = False
    java: bool = True
    against: Path | None = None  # another run's folder
    submission: bool = False


@dataclass(frozen=True)
class Evaluated:
    """The scores of a split, with everything they are compared with.

    Attributes:
        name: identifies the manifest in file names.
        others: the scores of a baseline or another run, by item id.
    """

    settings: Settings
    name: str
    manifest: str
    items: Sequence[Item]
    scores: Scores
    baselines: Mapping[str, Scores | None]
    others: Mapping[str, Mapping[str, float]]

    def write(self, out: Path) -> None:
        """Write metrics-NAME.json, and print the table and comparisons."""
        metric, paper = self.settings.metric, self.settings.paper
        own, spans = self.scores.of(metric), self.scores.intervals()
        compared = {key: found for key, other in self.others.items() if (found := compare(own, other))}
        columns = {key: found.metrics for key, found in self.baselines.items() if found}
        result: dict[str, Any] = {
            "manifest": self.manifest,
            "metric": metric,
            "metrics": self.scores.metrics,
            "intervals": spans,
            **{key.replace(" ", "_"): columns.get(key) for key in self.baselines},
            "compared": {key: asdict(found) for key, found in compared.items()},
            "count": len(self.items),
            "absent": self.scores.absent,
        }
        if own and (groups := groups_of(self.items, own)):
            result["groups"] = groups
        if paper:
            result["paper"] = paper
        write_json(out / f"metrics-{self.name}.json", result)
        print(table(self.scores.metrics, spans, columns | ({"paper": paper} if paper else {})))
        for key, found in compared.items():
            print(in_words(metric, key, found))
        sys.stdout.flush()


def evaluate(settings: Settings, split: str, model: Path, wanted: Wanted) -> Scores:
    """Evaluate the adapter in folder `model`; writes the files described in `train.results`.

    Raises:
        EPALMError: the adapter does not match the settings, data is missing, or a question cannot be asked.
    """
    accelerator = Accelerator()
    device = str(accelerator.device)
    dataset, metric, out = find_dataset(settings.data.dataset), settings.metric, Path(settings.out)
    if wanted.submission and dataset.submission is None:
        raise EPALMError(f"--submission: no evaluation server is known for {dataset.title}.")
    items = settings.items(split)
    refuse_unasked(f"data.{split}", items, settings.task)
    ids = [item.id for item in items]
    theirs = None if wanted.against is None else scores_of_run(wanted.against, ids, metric)
    manifest = str(getattr(settings.data, split))
    name = result_name(out, split, manifest)
    adapter = Adapter.load(model).to(accelerator.device)
    check_adapter(adapter.config, settings, model)
    config = adapter.config = replace(adapter.config, generation=settings.generation)
    lm, tokenizer = load_frozen_lm(settings, config.lm, device)
    adapted = AdaptedLM(lm, adapter, tokenizer)
    encoder = load_frozen_encoder(settings, device) if settings.data.cache is None else None
    features = feature_source(settings, config, {"evaluated": items}, encoder)
    begun = time.monotonic()
    made_with = fingerprint(model, settings, items)

    def run(seeing: Seeing) -> Scores:
        record = out / (f"predictions-{name}" if seeing == "own" else f"{seeing.replace(' ', '-')}-{name}")
        with_java = wanted.java and seeing == "own"
        forget_others(accelerator, record, made_with)
        return evaluate_split(accelerator, adapted, features, items, settings, with_java, seeing, record)

    scores = run("own")
    baselines = {
        "blind": run("blind") if wanted.blind else None,
        "text only": run("text only") if wanted.text_only else None,
    }
    if not accelerator.is_main_process:
        return scores
    others = {key: found.of(metric) for key, found in baselines.items() if found}
    if theirs is not None:
        others[str(wanted.against)] = theirs
    seconds = time.monotonic() - begun
    evaluated = Evaluated(settings, name, manifest, items, scores, baselines, others)
    evaluated.write(out)
    file = out / f"predictions-{name}.jsonl"
    say(f"{len(items)} items of {manifest} in {seconds:.0f} s; predictions in {file}")
    if wanted.submission:
        predictions = {row["id"]: row["prediction"] for row in read_predictions(file)}
        say(f"For the server: {write_submission(out, Path(manifest).stem, dataset, items, predictions)}")
    for absent, why in scores.absent.items():
        say(f"{absent} is missing: {why}")
    return scores


def fingerprint(model: Path, settings: Settings, items: Sequence[Item]) -> str:
    """A hash of everything that predictions depend on: adapter, decoding, precision, preprocessing, items."""
    parts = hashlib.sha256()
    for name in (WEIGHTS, CONFIG):
        parts.update((model / name).read_bytes())
    chosen = (settings.generation, settings.optim.precision, settings.recipe, items)
    parts.update(repr(chosen).encode(errors="surrogateescape"))
    return parts.hexdigest()


def forget_others(accelerator: Accelerator, record: Path, made_with: str) -> None:
    """Remove kept predictions that were made with another adapter, other settings or other items.

    Raises:
        EPALMError: the folder cannot be written.
    """
    note = record / "made-with.txt"
    if accelerator.is_main_process and (not note.exists() or note.read_text() != made_with):
        with writing(record):
            if record.exists():
                shutil.rmtree(record)
            record.mkdir(parents=True)
        write_atomic(note, [made_with])
    accelerator.wait_for_everyone()


def check_adapter(found: AdapterConfig, settings: Settings, model: Path) -> None:
    """Refuse an adapter that does not match the settings."""
    for what, there, here in (
        ("language model", found.lm.id, settings.model.lm),
        ("encoder", found.encoder.id, settings.model.encoder),
        ("task", found.task, settings.task),
        ("preprocessing", found.recipe, json.loads(json.dumps(settings.recipe.to_dict()))),
    ):
        if there != here:
            raise EPALMError(f"{model} was trained with the {what} {there}, but the settings name {here}.")


def run_evaluate(arguments: argparse.Namespace) -> None:
    overrides = list(arguments.set)
    if arguments.batch is not None:
        overrides.append(f"evaluation.batch={arguments.batch}")
    settings = load_settings(arguments.config, overrides)
    model = arguments.model or Path(settings.out) / "best"
    wanted = Wanted(
        arguments.blind,
        arguments.text_only,
        not arguments.no_java,
        arguments.against,
        arguments.submission,
    )
    try:
        with exclusive(Path(settings.out)):
            evaluate(settings, arguments.split, model, wanted)
    except torch.OutOfMemoryError as error:
        raise memory_full("evaluation.batch", settings.evaluation.batch) from error
