"""EPALM: one frozen language model, and adapters that let it perceive.

from epalm import EPALM

model = EPALM.from_pretrained("starter")
model.caption("photo.jpg")
model.ask("photo.jpg", "what is this?")
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from epalm.adapted import AdaptedLM
from epalm.adapter import CONFIG, Adapter
from epalm.cpu import quantise
from epalm.decoding import InjectedLM, with_overrides
from epalm.encoders.base import Encoder
from epalm.encoders.load import load_encoders
from epalm.errors import EPALMError
from epalm.explain import Explanation, explain
from epalm.hub.locate import adapter_folders, locate
from epalm.language_model import choose_device, choose_dtype, computing, load_lm
from epalm.media.container import Source
from epalm.media.reader import HERE, Reader
from epalm.media.recipes import recipe_from_dict
from epalm.scoring import Answer
from epalm.streaming import stream_tokens


@dataclasses.dataclass(frozen=True)
class Request:
    """One thing to describe or to answer."""

    media: Source  # a file or its bytes; a picture may be in memory
    question: str | None = None  # None asks for a caption
    adapter: str | None = None  # None picks the one for what the file is and what is asked


class EPALM(
    nn.Module,
    ModelHubMixin,
    library_name="epalm",
    tags=["multimodal", "image-to-text", "visual-question-answering"],
    paper_url="https://arxiv.org/abs/2303.11403",
):
    """A frozen LM, frozen encoders and the adapters between them.

    Args:
        lm: the LM with injection.
        adapters: by name; all trained for this LM.
        encoders: by the id in the adapters' configs; adapters with the same encoder share it.

    Attributes:
        reader: reads the files; a server sets one that survives hostile files, see `epalm.media.reader`.
    """

    def __init__(
        self,
        lm: InjectedLM,
        tokenizer: PreTrainedTokenizerBase,
        adapters: dict[str, Adapter],
        encoders: dict[str, Encoder],
    ):
        super().__init__()
        self.lm = lm
        self.tokenizer = tokenizer
        self.adapters = nn.ModuleDict(adapters)
        self.adapted = {name: AdaptedLM(lm, adapter, tokenizer) for name, adapter in adapters.items()}
        self.encoders = encoders  # a plain dict: ids contain dots, and `to()` has been decided at loading
        self.recipes = {
            name: recipe_from_dict(adapter.config.task.modality, adapter.config.recipe)
            for name, adapter in adapters.items()
        }
        self.reader: Reader = HERE

    # ---------------------------------------------------------------- loading and saving

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        name: str | Path = "starter",
        *,
        device: str | None = None,
        dtype: torch.dtype | None = None,
        device_map: str | dict | None = None,
        lm: str | None = None,
        encoder: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        progress: Callable[[str], None] | None = None,
    ) -> EPALM:
        """Load adapters and the backbones they name.

        Args:
            name: "starter", a published model (`python -m epalm models`), an adapter folder, a folder of
                several adapters for one LM, or the hub id of such a folder.
            device: chosen by what the machine has if None.
            dtype: chosen by the device if None; torch.int8 rounds the weights of linear layers, on a CPU.
            device_map: spread an LM over several devices, as in `transformers`.
            lm, encoder: use these ids or folders instead of those that the adapter names.
            progress: told in words what takes time.
        Raises:
            EPALMError: something cannot be found, fetched or read, or does not fit together.
        """
        say = progress or (lambda message: None)
        device = device or choose_device()
        if dtype is None:
            dtype, why = choose_dtype(device)
            say(f"Running on {device} in {why}")
        folders = adapter_folders(locate(str(name), revision, token, say))
        adapters = {key: Adapter.load(folder) for key, folder in folders.items()}
        first = next(iter(adapters.values()))
        for key, adapter in adapters.items():
            if adapter.config.lm != first.config.lm:
                raise EPALMError(
                    f"The adapters of {name} need different language models: "
                    f"'{key}' needs {adapter.config.lm.id}, another one {first.config.lm.id}."
                )
        say(f"Loading the language model {lm or first.config.lm.id} …")
        frozen, tokenizer = load_lm(first.config.lm, device, dtype, device_map, say, lm)
        injected = InjectedLM(frozen)
        wanted = [adapter.config.encoder for adapter in adapters.values()]
        ids = {each.id: (encoder, None) if encoder else (each.id, each.revision) for each in wanted}
        encoders = load_encoders(ids, computing(dtype), injected.device, say)
        for loaded in encoders.values() if dtype == torch.int8 else ():
            quantise(loaded)
        for each in wanted:
            encoders[each.id].widths.check(each, encoder or each.id)
        for adapter in adapters.values():
            adapter.to(injected.device)
        return cls(injected, tokenizer, adapters, encoders)

    def _save_pretrained(self, save_directory: Path) -> None:
        if len(self.adapters) == 1:
            next(iter(self.adapted.values())).adapter.save(save_directory)
            return
        for name, adapted in self.adapted.items():
            adapted.adapter.save(save_directory / name)
        index = {"adapters": sorted(self.adapters)}
        (save_directory / CONFIG).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    # ---------------------------------------------------------------- use

    def caption(self, media: Source, **options: Any) -> str:
        """Describe an image, a video or a sound; options as in `generate`."""
        return self.generate([Request(media)], **options)[0]

    def ask(self, media: Source, question: str, **options: Any) -> str:
        """Answer a question about an image, a video or a sound; options as in `generate`."""
        return self.generate([Request(media, question)], **options)[0]

    def generate(
        self,
        requests: Sequence[Request],
        beams: int | None = None,
        max_new_tokens: int | None = None,
        use_cache: bool = True,
        **options: Any,
    ) -> list[str]:
        """Answer several requests; each gets the text that it gets alone.

        Requests of one adapter are decoded together as far as that changes no text (`AdaptedLM.batches`).

        Args:
            beams, max_new_tokens: instead of the adapters' defaults.
            use_cache: False re-runs the whole prefix for every token; the same text, slowly.
            options: passed to `transformers`' `generate`, such as do_sample or temperature.
        Raises:
            EPALMError: a file cannot be read, a question is empty or too long, or there is no adapter for it.
        """
        texts = [""] * len(requests)
        for batch in self._batches(requests):
            generation = with_overrides(batch.adapted.adapter.config.generation, beams, max_new_tokens)
            found = batch.adapted.answers(batch.features, batch.inputs, generation, use_cache, **options)
            for i, text in zip(batch.members, found, strict=True):
                texts[i] = text
        return texts

    def answer(self, request: Request, beams: int | None = None, max_new_tokens: int | None = None) -> Answer:
        """The text of `generate` with its log-probability and the adapter's confidence in it."""
        return self.answers([request], beams, max_new_tokens)[0]

    def answers(
        self, requests: Sequence[Request], beams: int | None = None, max_new_tokens: int | None = None
    ) -> list[Answer]:
        """The texts of `generate`, each with its log-probability and the adapter's confidence in it.

        With several beams it costs one more pass over the answers; in `reference` mask mode one for each of
        their tokens.
        """
        answers: dict[int, Answer] = {}
        for batch in self._batches(requests):
            adapted, config = batch.adapted, batch.adapted.adapter.config
            generation = with_overrides(config.generation, beams, max_new_tokens)
            rows, sure = adapted.scored(batch.features, batch.inputs, generation)
            for i, row, log_probability in zip(batch.members, rows, sure, strict=True):
                confidence = None if config.confidence is None else config.confidence.of(log_probability)
                answers[i] = Answer(adapted.text.answer(row), log_probability, confidence)
        return [answers[i] for i in range(len(requests))]

    def stream(
        self, request: Request, beams: int | None = None, max_new_tokens: int | None = None, **options: Any
    ) -> Iterator[str]:
        """The text so far, growing token by token; with several beams once, when the best one is known.

        Closing the iterator stops the generation. Raises like `generate`.
        """
        name, ids, media = self._prepare(request)
        adapted = self.adapted[name]
        generation = with_overrides(adapted.adapter.config.generation, beams, max_new_tokens)
        if generation.num_beams > 1:
            yield self.generate([request], beams, max_new_tokens, **options)[0]
            return
        features = self.features(name, media[None])
        new: list[int] = []
        text = ""
        with closing(
            stream_tokens(partial(adapted.generate, features, [ids], generation, **options))
        ) as tokens:
            for token in tokens:
                new.append(token)
                longer = adapted.text.answer(new)
                if longer != text and not longer.endswith("\ufffd"):  # half of a character so far
                    text = longer
                    yield text

    def explain(
        self,
        request: Request,
        beams: int | None = None,
        max_new_tokens: int | None = None,
        candidates: int = 3,
    ) -> Explanation:
        """Answer a request, and tell where the answer comes from.

        Args:
            beams, max_new_tokens: instead of the adapter's defaults.
            candidates: how many texts of a beam search to show.
        Raises:
            EPALMError: as `generate`, or the encoder is one whose feature maps are not known.
        """
        name = self.adapter_of(request)
        adapted, recipe = self.adapted[name], self.recipes[name]
        return explain(
            adapted,
            self.encoders[adapted.adapter.config.encoder.id],
            recipe,
            recipe.open(request.media, self.reader),
            request.question,
            beams,
            max_new_tokens,
            candidates,
        )

    def features(self, name: str, media: Tensor) -> list[Tensor]:
        """(B, …) media tensors -> n encoder features (B, D_j) that adapter `name` reads."""
        wanted = self.adapted[name].adapter.config.encoder
        return self.encoders[wanted.id](media, wanted.feature_layers)

    def adapter_for(self, modality: str, task: str) -> str:
        """Name of the first adapter for a modality and task; EPALMError says what there is instead."""
        tasks = {name: adapted.adapter.config.task for name, adapted in self.adapted.items()}
        for name, own in tasks.items():
            if (own.modality, own.name) == (modality, task):
                return name
        has = ", ".join(f"{own.modality} {own.name}" for own in tasks.values())
        raise EPALMError(f"This model has no adapter for {modality} {task}; it has: {has}.")

    def adapter_of(self, request: Request) -> str:
        """Name of the adapter that serves a request: the one it names, or by what the file is."""
        if request.adapter is None:
            task = "caption" if request.question is None else "qa"
            return self.adapter_for(self.reader.modality_of(request.media), task)
        if request.adapter not in self.adapters:
            raise EPALMError(f"There is no adapter '{request.adapter}'; loaded: {', '.join(self.adapters)}.")
        return request.adapter

    def _batches(self, requests: Sequence[Request]) -> Iterator[_Batch]:
        """The requests in groups that may be decoded together; each group is encoded when its turn comes."""
        prepared = [self._prepare(request) for request in requests]
        for name in dict.fromkeys(name for name, _, _ in prepared):
            own = [i for i, (wanted, _, _) in enumerate(prepared) if wanted == name]
            adapted = self.adapted[name]
            for places in adapted.batches([prepared[i][1] for i in own]):
                members = [own[place] for place in places]
                features = self.features(name, torch.stack([prepared[i][2] for i in members]))
                yield _Batch(adapted, members, [prepared[i][1] for i in members], features)

    def _prepare(self, request: Request) -> tuple[str, list[int], Tensor]:
        """Adapter name, input ids and media tensor of a request."""
        name = self.adapter_of(request)
        text = self.adapted[name].text
        ids = text.ids(text.input(request.question))
        recipe = self.recipes[name]
        return name, ids, recipe(recipe.open(request.media, self.reader))


@dataclasses.dataclass(frozen=True)
class _Batch:
    """Requests of one adapter that are decoded together."""

    adapted: AdaptedLM
    members: list[int]  # their places among all requests
    inputs: list[list[int]]  # text ids
    features: list[Tensor]  # n encoder features (B, D_j)
