"""One training of an ablation, and what its adapter then says about held-out photos."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from epalm.adapted import AdaptedLM
from epalm.config import GenerationConfig, LMConfig
from epalm.decoding import InjectedLM
from epalm.errors import EPALMError
from epalm.files import write_json
from epalm.text import pad_left
from train.batches import DrawnBatches
from train.checkpoint import Checkpoint, identity_of
from train.fit import fit
from train.frozen import new_adapter
from train.machine import new_accelerator
from train.metrics import score_captions
from train.regime import regime_of
from train.settings import Data as Manifests
from train.settings import Model, Optim, Settings
from train.starter.ablation.plan import Run, Trial
from train.starter.closed_form import last_states
from train.starter.distil import PHOTOS
from train.starter.examples import CAPTION, QA
from train.starter.naming import named, named_or_kind
from train.starter.pictures.batches import PROBABILITIES, WIDTHS, Batches, StarterData, tokens
from train.starter.pictures.features import ENCODER
from train.starter.pictures.groups import Mixture, Shown
from train.starter.pictures.questions import ClassThing, is_right
from train.starter.plans import LM
from train.starter.words import with_article

RESULT = "result.json"
SHIFT = 7  # "blind" is what is said of so many photos further on
GREEDY = GenerationConfig(num_beams=1, max_new_tokens=18)


@dataclass(frozen=True)
class Frozen:
    """What all trainings share.

    Attributes:
        scenes, things: held-out photos, with human captions and of classes.
    """

    data: StarterData
    lm: InjectedLM
    tokenizer: PreTrainedTokenizerBase
    sizes: LMConfig
    scenes: list[Shown]
    things: list[Shown]

    def __post_init__(self) -> None:
        if not self.things:
            raise EPALMError(
                "The work folder has no photos of classes: make it with `python -m train starter --data-only "
                "--data DIR`, DIR being the folder with photos800."
            )

    @cached_property
    def states(self) -> dict[int, Tensor]:
        """What the classes' sentences leave in the LM, for whichever layers tokens enter."""
        layers = range(self.sizes.num_layers)
        return last_states(self.lm, self.tokenizer, self.data.sentences(), layers)


def settings_of(trial: Trial, prompt_length: int, seed: int, out: Path) -> Settings:
    """The settings of a training; its batches are drawn, not read from manifests."""
    task = CAPTION if trial.task == "caption" else QA
    return Settings(
        model=Model(
            LM,
            ENCODER,
            "starter",
            (trial.layer,) * trial.tokens,
            trial.first,
            trial.end,
            prompt_length=prompt_length,
            prompt_mlp=False,
            prompt_text=trial.prompt,
        ),
        task=task,
        data=Manifests(f"own_image_{task.name}", train="drawn", val="held out"),
        optim=Optim(
            epochs=1,
            batch=trial.batch,
            lr=trial.lr,
            prompt_lr=trial.prompt_lr,
            warmup=0.1,
            weight_decay=0.1,
            precision="bf16",
            seed=seed,
            save_every=10,
        ),
        generation=GREEDY,
        out=str(out),
    )


def train(run: Run, frozen: Frozen) -> AdaptedLM | None:
    """The trained adapter; None if told to stop before its end, and then it goes on where it was."""
    trial, data, tokenizer = run.trial, frozen.data, frozen.tokenizer
    words = tokenizer(trial.prompt, add_special_tokens=False)["input_ids"]
    settings = settings_of(trial, len(words), run.seed, run.out)
    config = settings.adapter_config(frozen.sizes, WIDTHS)
    adapter = new_adapter(settings, config, frozen.lm, tokenizer)
    if trial.start == "closed form" and "probabilities" in trial.reads:
        data.start(adapter, frozen.lm, tokenizer, frozen.states)
    model = AdaptedLM(frozen.lm, adapter, tokenizer)
    if trial.steps:
        mixture = Mixture(trial.shows, config.encoder.feature_layers, dropped=0.0)
        batches = Batches(data, model.text, trial.batch, PHOTOS, run.seed, mixture)
        source = DrawnBatches(batches, trial.batch, trial.steps)
        identity = identity_of(settings, trial=repr(trial))
        checkpoint = Checkpoint.open(run.out, identity, resume=True)
        accelerator, regime = new_accelerator(settings), regime_of(settings)
        if fit(settings, source, model, regime, checkpoint, accelerator=accelerator):
            return None
    adapter.eval()
    return model


def perform(run: Run, frozen: Frozen) -> bool:
    """Train and measure, unless that was done; False if told to stop."""
    if (run.out / RESULT).exists():
        return True
    run.out.mkdir(parents=True, exist_ok=True)
    model = train(run, frozen)
    if model is None:
        return False
    measure = measure_captions if run.trial.task == "caption" else measure_questions
    write_json(run.out / RESULT, measure(model, frozen))
    return True


# ---------------------------------------------------------------- what is said of held-out photos


def seen(model: AdaptedLM, data: StarterData, photos: Sequence[Shown]) -> list[Tensor]:
    """The standardised feature of every token, of photos as they are."""
    raw = data.standardised(data.raw([photo.views[0] for photo in photos]))
    return tokens(raw, model.adapter.config.encoder.feature_layers)


@torch.inference_mode()
def describe(model: AdaptedLM, data: StarterData, photos: Sequence[Shown], at_once: int = 50) -> list[str]:
    """A caption of every photo."""
    texts: list[str] = []
    for start in range(0, len(photos), at_once):
        part = photos[start : start + at_once]
        ids = [model.text.ids(model.text.input(None))] * len(part)
        texts += model.answers(seen(model, data, part), ids)
    return texts


def measure_captions(model: AdaptedLM, frozen: Frozen) -> dict[str, float]:
    """Share of captions with the thing's name, and with its name or kind; CIDEr; each blind, too."""
    data = frozen.data
    texts = describe(model, data, frozen.things)
    things = [data.classes[photo.row["class"]] for photo in frozen.things]
    found = naming(texts, things) | {
        f"blind {key}": value for key, value in naming(moved(texts), things).items()
    }
    if frozen.scenes:
        texts = [text.rstrip(".") for text in describe(model, data, frozen.scenes)]
        for key, said in (("CIDEr", texts), ("blind CIDEr", moved(texts))):
            found[key] = cider(said, [photo.row["captions"] for photo in frozen.scenes])
    return found


def moved(texts: Sequence[str]) -> list[str]:
    """What is said of another photo: the request is the same for all, so nothing needs to be said again."""
    return [*texts[SHIFT:], *texts[:SHIFT]]


def naming(texts: Sequence[str], things: Sequence[ClassThing]) -> dict[str, float]:
    """Shares of texts that have the thing's name, and its name or its kind."""
    pairs = list(zip(texts, things, strict=True))
    return {
        "name": mean([named(*pair) for pair in pairs]),
        "name or kind": mean([named_or_kind(*pair) for pair in pairs]),
    }


def cider(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    ids = [str(i) for i in range(len(texts))]
    said, written = dict(zip(ids, texts, strict=True)), dict(zip(ids, references, strict=True))
    return score_captions(said, written, java=False).corpus["CIDEr"]


def asked(photos: Sequence[Shown], data: StarterData) -> list[tuple[int, str, bool]]:
    """(photo, question, whether yes is right): with each photo's own name and with that of another photo.

    Names are asked for as often with one answer as with the other, so that a name alone tells nothing.
    """
    rng, questions = random.Random(0), []
    things = [data.classes[photo.row["class"]] for photo in photos]
    shift = rng.randrange(len(things))
    for i, thing in enumerate(things):
        turned = [things[(i + shift + more) % len(things)] for more in range(len(things))]
        other = next(other for other in [*turned, *data.classes] if not is_right(other.noun, thing))
        for each, right in ((thing, True), (other, False)):
            questions.append((i, f"is this {with_article(each.noun)}?", right))
    return questions


@torch.inference_mode()
def measure_questions(model: AdaptedLM, frozen: Frozen, at_once: int = 40) -> dict[str, float]:
    """How well yes and no are told apart: by which is likelier, and (AUC) by how much likelier yes is.

    Accuracy at the median is that of an adapter that says yes to the likelier half.
    """
    data, questions = frozen.data, asked(frozen.things, frozen.data)
    yes, no = (model.text.ids(f" {word}")[0] for word in ("yes", "no"))
    features = seen(model, data, frozen.things)
    scores = []
    for start in range(0, len(questions), at_once):
        part = questions[start : start + at_once]
        rows = torch.tensor([photo for photo, _, _ in part])
        inputs = [model.text.ids(model.text.input(question)) for _, question, _ in part]
        ids, mask = pad_left(inputs, model.text.pad_id)
        logits = model([feature[rows] for feature in features], ids, mask, logits_to_keep=1)[:, -1].float()
        scores.append(logits[:, yes] - logits[:, no])
    score = torch.cat(scores)
    right = torch.tensor([right for _, _, right in questions])
    positive, negative = score[right], score[~right]
    above = (positive[:, None] > negative).float() + 0.5 * (positive[:, None] == negative).float()
    return {
        "accuracy": ((score > 0) == right).float().mean().item(),
        "accuracy at the median": ((score > score.median()) == right).float().mean().item(),
        "AUC": above.mean().item(),
    }


def head_names(frozen: Frozen) -> dict[str, float]:
    """The same of what the encoder's own classifier says."""
    data = frozen.data
    raw = data.raw([photo.views[0] for photo in frozen.things])
    best = raw[PROBABILITIES].argmax(1).tolist()
    things = [data.classes[photo.row["class"]] for photo in frozen.things]
    return naming([" / ".join((data.classes[c].noun, data.classes[c].kind)) for c in best], things)
