"""EPALM: one frozen language model, and adapters that let it perceive.

from epalm import EPALM

model = EPALM.from_pretrained("starter")
model.caption("photo.jpg")
model.ask("photo.jpg", "what is this?")
"""

from __future__ import annotations

import dataclasses
import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelHubMixin, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList
from transformers.generation.streamers import BaseStreamer

from epalm.adapter import CONFIG, WEIGHTS, Adapter
from epalm.config import AdapterConfig
from epalm.decoding import InjectedLM, with_overrides
from epalm.encoders.base import Encoder
from epalm.encoders.load import load_encoder
from epalm.errors import EPALMError, reason
from epalm.explain import Explanation, explain
from epalm.hub.checkpoints import convert
from epalm.hub.wheels import cache_root
from epalm.hub.zoo import ZOO, fetch_checkpoint
from epalm.language_model import choose_device, choose_dtype, load_lm
from epalm.media.audio import recipe_from_dict
from epalm.media.container import modality_of
from epalm.media.image import ImageRecipe, ImageSource
from epalm.media.video import VideoRecipe
from epalm.text import TaskText, pad_left

INSTALLED = Path(__file__).parent / "assets" / "starter"  # where a wheel has the shipped adapters
STARTER = INSTALLED if INSTALLED.is_dir() else Path(__file__).parent.parent / "assets" / "starter"
RECIPES_OF: dict[str, Callable[[dict[str, Any]], Any]] = {
    "image": ImageRecipe.from_dict,
    "video": VideoRecipe.from_dict,
    "audio": recipe_from_dict,
}
Progress = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Request:
    """One thing to describe or to answer."""

    media: ImageSource  # a file or its bytes; for images also a PIL image or an array
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
        self.encoders = encoders  # a plain dict: ids contain dots, and `to()` has been decided at loading
        self.texts = {name: TaskText(adapter.config.task, tokenizer) for name, adapter in adapters.items()}
        self.recipes = {
            name: RECIPES_OF[adapter.config.task.modality](adapter.config.recipe)
            for name, adapter in adapters.items()
        }

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
        progress: Progress | None = None,
    ) -> EPALM:
        """Load adapters and the backbones they name.

        Args:
            name: "starter", a published model (`python -m epalm models`), an adapter folder, a folder of
                several adapters for one LM, or the hub id of such a folder.
            device, dtype: chosen by what the machine has if None.
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
        folders = adapter_folders(resolve(str(name), revision, token, say))
        adapters = {key: Adapter.load(folder) for key, folder in folders.items()}
        first = next(iter(adapters.values()))
        for key, adapter in adapters.items():
            if adapter.config.lm != first.config.lm:
                raise EPALMError(
                    f"The adapters of {name} need different language models: "
                    f"'{key}' needs {adapter.config.lm.id}, another one {first.config.lm.id}."
                )
        lm_config = first.config.lm
        if lm is not None:
            lm_config = dataclasses.replace(lm_config, id=lm, revision=None)
        say(f"Loading the language model {lm_config.id} …")
        frozen, tokenizer = load_lm(lm_config, device, dtype, device_map, say)
        injected = InjectedLM(frozen)
        encoders: dict[str, Encoder] = {}
        # An encoder of frames takes its image encoder from those that are there: images first.
        for adapter in sorted(adapters.values(), key=lambda a: a.config.task.modality != "image"):
            wanted = adapter.config.encoder
            if wanted.id not in encoders:
                say(f"Loading the encoder {encoder or wanted.id} …")
                commit = None if encoder else wanted.revision
                where = str(injected.device)
                encoders[wanted.id] = load_encoder(encoder or wanted.id, dtype, where, say, commit, encoders)
            check_encoder(encoders[wanted.id], adapter.config, encoder)
            adapter.to(injected.device)
        return cls(injected, tokenizer, adapters, encoders)

    def _save_pretrained(self, save_directory: Path) -> None:
        if len(self.adapters) == 1:
            next(iter(self.adapters.values())).save(save_directory)
            return
        for name, adapter in self.adapters.items():
            adapter.save(save_directory / name)
        index = {"adapters": sorted(self.adapters)}
        (save_directory / CONFIG).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")

    # ---------------------------------------------------------------- use

    def caption(self, media: ImageSource, **options: Any) -> str:
        """Describe an image, a video or a sound; options as in `generate`."""
        return self.generate([Request(media)], **options)[0]

    def ask(self, media: ImageSource, question: str, **options: Any) -> str:
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

        Requests of one adapter are decoded together. In `reference` mode the perceptual token sees padding,
        so there only inputs of equal length are.

        Args:
            beams, max_new_tokens: instead of the adapters' defaults.
            use_cache: False re-runs the whole prefix for every token; the same text, slowly.
            options: passed to `transformers`' `generate`, such as do_sample or temperature.
        Raises:
            EPALMError: a file cannot be read, a question is empty or too long, or there is no adapter for it.
        """
        prepared = [self._prepare(request) for request in requests]
        answers = [""] * len(requests)
        groups: dict[tuple[str, int | None], list[int]] = {}
        for i, (name, ids, _) in enumerate(prepared):
            strict = self.adapters[name].config.injection.mask == "reference"
            groups.setdefault((name, len(ids) if strict else None), []).append(i)
        for (name, _), members in groups.items():
            ids = [prepared[i][1] for i in members]
            tokens = self.perceive(name, torch.stack([prepared[i][2] for i in members]))
            out = self.decode(name, ids, tokens, beams, max_new_tokens, use_cache, **options)
            for i, row in zip(members, out.tolist(), strict=True):
                answers[i] = self.texts[name].answer(row)
        return answers

    def stream(
        self, request: Request, beams: int | None = None, max_new_tokens: int | None = None, **options: Any
    ) -> Iterator[str]:
        """The text so far, growing token by token; with several beams once, when the best one is known.

        Closing the iterator stops the generation. Raises like `generate`.
        """
        name, ids, media = self._prepare(request)
        defaults = with_overrides(self.adapters[name].config.generation, beams, max_new_tokens)
        if defaults.num_beams > 1:
            yield self.generate([request], beams, max_new_tokens, **options)[0]
            return
        streamer = _TokenStream()
        stopped = _Stopped()
        failure: list[BaseException] = []

        def work() -> None:
            try:
                tokens = self.perceive(name, media[None])
                options["stopping_criteria"] = StoppingCriteriaList([stopped])
                self.decode(name, [ids], tokens, beams, max_new_tokens, streamer=streamer, **options)
            except BaseException as error:
                failure.append(error)
                streamer.end()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        new: list[int] = []
        text = ""
        try:
            for token in streamer:
                new.append(token)
                longer = self.texts[name].answer(new)
                if longer != text and not longer.endswith("\ufffd"):  # half of a character so far
                    text = longer
                    yield text
        finally:
            stopped.now = True
            thread.join()
        if failure:
            raise failure[0]

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
        adapter, recipe = self.adapters[name], self.recipes[name]
        return explain(
            self.lm,
            adapter,
            self.texts[name],
            self.encoders[adapter.config.encoder.id],
            recipe,
            recipe.open(request.media),
            request.question,
            beams,
            max_new_tokens,
            candidates,
        )

    @torch.inference_mode()
    def perceive(self, name: str, media: Tensor) -> Tensor:
        """(B, …) media tensors -> (B, n, H) perceptual tokens of adapter `name`."""
        adapter = self.adapters[name]
        encoder = self.encoders[adapter.config.encoder.id]
        return adapter.tokens(encoder(media, adapter.config.encoder.feature_layers))

    def adapter_for(self, modality: str, task: str) -> str:
        """Name of the first adapter for a modality and task; EPALMError says what there is instead."""
        for name, adapter in self.adapters.items():
            if (adapter.config.task.modality, adapter.config.task.name) == (modality, task):
                return name
        has = ", ".join(f"{a.config.task.modality} {a.config.task.name}" for a in self.adapters.values())
        raise EPALMError(f"This model has no adapter for {modality} {task}; it has: {has}.")

    def adapter_of(self, request: Request) -> str:
        """Name of the adapter that serves a request: the one it names, or by what the file is."""
        if request.adapter is None:
            task = "caption" if request.question is None else "qa"
            return self.adapter_for(modality_of(request.media), task)
        if request.adapter not in self.adapters:
            raise EPALMError(f"There is no adapter '{request.adapter}'; loaded: {', '.join(self.adapters)}.")
        return request.adapter

    def _prepare(self, request: Request) -> tuple[str, list[int], Tensor]:
        """Adapter name, input ids and media tensor of a request."""
        name = self.adapter_of(request)
        text = self.texts[name]
        ids = text.ids(text.input(request.question))
        recipe = self.recipes[name]
        return name, ids, recipe(recipe.open(request.media))

    @torch.inference_mode()
    def decode(
        self,
        name: str,
        ids: Sequence[Sequence[int]],
        tokens: Tensor,
        beams: int | None,
        max_new_tokens: int | None,
        use_cache: bool = True,
        **options: Any,
    ) -> Tensor:
        """New token ids (B, new) behind the inputs."""
        adapter = self.adapters[name]
        pad = self.tokenizer.pad_token_id
        padded, mask = pad_left(ids, self.tokenizer.eos_token_id if pad is None else pad)
        prompt = None if adapter.prompt is None else adapter.prompt().expand(len(ids), -1, -1)
        out = self.lm.decode(
            padded.to(self.lm.device),
            mask.to(self.lm.device),
            prompt,
            tokens,
            adapter.config.injection,
            with_overrides(adapter.config.generation, beams, max_new_tokens),
            use_cache,
            **options,
        )
        return out[:, padded.shape[1] :]


class _TokenStream(BaseStreamer):
    """Iterates over the new tokens of one sequence while another thread generates them."""

    def __init__(self) -> None:
        self.queue: queue.Queue[int | None] = queue.Queue()
        self.in_prompt = True

    def put(self, value: Tensor) -> None:
        if not self.in_prompt:  # what comes first is the input
            self.queue.put(int(value.item()))
        self.in_prompt = False

    def end(self) -> None:
        self.queue.put(None)

    def __iter__(self) -> Iterator[int]:
        while (token := self.queue.get()) is not None:
            yield token


class _Stopped(StoppingCriteria):
    """Ends a generation that nobody listens to any more."""

    now = False

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        return torch.full((input_ids.shape[0],), self.now, device=input_ids.device)


def resolve(name: str, revision: str | None, token: str | bool | None, say: Progress) -> Path:
    """The local folder of a model's adapters: shipped, converted after a download, or from the hub."""
    if name == "starter":
        return STARTER
    if name in ZOO:
        folder = cache_root() / "adapters" / name
        if not (folder / WEIGHTS).exists():
            preset = ZOO[name]
            say(f"Fetching the published checkpoint of {preset.title} ({preset.megabytes} MB) …")
            shown = -1

            def percent(done: int, total: int | None) -> None:
                nonlocal shown
                part = 10 * done // total if total else shown
                if part > shown:
                    shown = part
                    say(f"  {10 * part} % of {total // 1_000_000 if total else '?'} MB")

            convert(fetch_checkpoint(preset, cache_root() / "downloads", percent), folder, name)
        return folder
    if Path(name).is_dir():
        return Path(name)
    if Path(name).exists() or name.count("/") != 1:
        raise EPALMError(
            f"'{name}' is no model: give 'starter', a published model (see `python -m epalm models`), "
            "an adapter folder or a hub id such as 'user/adapter'."
        )
    try:
        patterns = [CONFIG, WEIGHTS, f"*/{CONFIG}", f"*/{WEIGHTS}"]
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=patterns))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        raise EPALMError(
            f"{name} is no local folder, and the hub did not give it; "
            f"check name and network ({reason(error)})."
        ) from error


def adapter_folders(folder: Path) -> dict[str, Path]:
    """Name -> folder of every adapter in a model folder.

    A folder holds one adapter, or several in sub-folders that its `config.json` lists as "adapters".
    """
    try:
        listed = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("adapters")
    except (OSError, ValueError, AttributeError):
        listed = None  # read again, and reported, as a single adapter's config
    if listed is None:
        task = AdapterConfig.load(folder / CONFIG).task
        return {f"{task.modality}-{task.name}": folder}
    names = listed if isinstance(listed, list) else []
    if not names or not all(isinstance(name, str) and name and "." not in name for name in names):
        raise EPALMError(
            f"{folder / CONFIG} must list its adapters as sub-folders without dots, but lists {listed!r}."
        )
    return {name: folder / name for name in names}


def check_encoder(encoder: Encoder, config: AdapterConfig, given: str | None) -> None:
    """Refuse an encoder whose features are not as wide as the connectors; EPALMError names both sides."""
    depth = len(encoder.widths)
    found = [
        encoder.widths[layer] if -depth <= layer < depth else None for layer in config.encoder.feature_layers
    ]
    if found != list(config.encoder.widths):
        raise EPALMError(
            f"The adapter was trained for {config.encoder.id} with features of widths "
            f"{list(config.encoder.widths)}, but {given or config.encoder.id} gives {found}."
        )
