"""In which of the LM's layers what is seen is read: the shipped image adapters with some tokens taken away.

A token is taken away by showing its connector the mean feature of the training, so that nothing of the
picture is left in it but what all pictures have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean

from epalm.errors import EPALMError
from epalm.explain.contributions import layers_of_tokens
from epalm.model import EPALM
from train.starter.pictures.public import class_photos
from train.starter.pictures.questions import classifier_classes
from train.starter.report.features import Opener, say
from train.starter.report.images import begin_with, both_names, divided, of_class, paths, scores

PHOTOS = 100  # of those held out


def kept_tokens(ranges: Sequence[str]) -> dict[str, list[int]]:
    """What is left, by name: everything, nothing, one token, those up to one, those from one on.

    Args:
        ranges: the layers of each token, "4–9".
    """
    every = range(len(ranges))
    firsts, lasts = ([each.split("–")[place] for each in ranges] for place in (0, -1))
    kept = {"everything": list(every), "nothing": []}
    kept |= {f"{ranges[j]} alone": [j] for j in every}
    kept |= {f"up to {lasts[j]}": list(every[: j + 1]) for j in every[1:-1]}
    kept |= {f"from {firsts[j]} on": list(every[j:]) for j in every[1:-1]}
    return kept


def layer_lines(model: EPALM, public: Path, work: Path) -> list[str]:
    """Two tables: captions, and questions.

    Raises:
        EPALMError: there are no photos of classes.
    """
    held_out = divided(class_photos(public))[1]
    photos = held_out[:PHOTOS]
    if not photos:
        raise EPALMError(f"There are no photos of classes in {public}: it needs the folder photos800.")
    opener = Opener.of(model, "image", work / "report")
    features = opener.features("class-photos-test", paths(held_out))
    classes = classifier_classes()
    things = [of_class(photo, classes) for photo in photos]
    asked = both_names(things, [classes] * len(things))

    def captions(kept: Sequence[int]) -> list[float]:
        texts = say(model, "image-caption", features, range(len(photos)), [None] * len(photos), kept=kept)
        return [mean(each) for each in scores(texts, things)]

    def answers(kept: Sequence[int]) -> list[float]:
        questions = [each.question for each in asked] + ["what is this?"] * len(photos)
        about = [each.photo for each in asked] + list(range(len(photos)))
        texts = say(model, "image-qa", features, about, questions, kept=kept)
        right = begin_with(texts[: len(asked)], [each.answer for each in asked])
        return [mean(right), *(mean(each) for each in scores(texts[len(asked) :], things))]

    return [
        *table(model, "image-caption", ("caption: name", "name or kind"), captions),
        *table(model, "image-qa", ('"is this a …?"', '"what is this?": name', "name or kind"), answers),
    ]


def table(
    model: EPALM, adapter: str, columns: Sequence[str], measure: Callable[[Sequence[int]], list[float]]
) -> list[str]:
    """A line for each set of tokens that are left."""
    lines = [f"| `{adapter}`: layers left | {' | '.join(columns)} |", "|---|" + "---|" * len(columns)]
    for name, kept in kept_tokens(ranges_of(model, adapter)).items():
        lines.append(f"| {name} | {' | '.join(f'{100 * value:.1f}' for value in measure(kept))} |")
        print(lines[-1], flush=True)
    return [*lines, ""]


def ranges_of(model: EPALM, adapter: str) -> list[str]:
    """The layers that each token is written to, "4–9"."""
    config = model.adapted[adapter].adapter.config
    layers = layers_of_tokens(config.injection, config.lm.num_layers, config.num_tokens)
    return [f"{each[0]}–{each[-1]}" for each in layers]
