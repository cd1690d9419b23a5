"""Which models the page offers, what is known of each before it is loaded, and loading them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from epalm.adapter import CONFIG
from epalm.cli.models import megabytes
from epalm.config import AdapterConfig
from epalm.demo import logs
from epalm.demo.gpu import GPU
from epalm.demo.problems import Refusal, out_of_memory
from epalm.errors import EPALMError
from epalm.hub.licences import licences_of_configs
from epalm.hub.locate import adapter_folders, locate
from epalm.hub.zoo import ZOO
from epalm.media.container import Modality
from epalm.model import EPALM
from epalm.serving import Scheduler

Progress = Callable[[str], None]

NOUNS = {"image": "Image", "video": "Video", "audio": "Sound"}
DOES = {"caption": "captions", "qa": "questions"}


@dataclass(frozen=True)
class Offer:
    """A model that a visitor can choose.

    Fields:
        name: what `--model` and the endpoints take.
        configs: of its adapters, by name.
        licence: the licences of its parts.
        download: what choosing it fetches.
        right: how often it is right, as its authors report; "" where its adapters say it themselves.
    """

    name: str
    title: str
    configs: dict[str, AdapterConfig]
    licence: str
    download: str
    right: str

    @property
    def modalities(self) -> list[Modality]:
        return list(dict.fromkeys(config.task.modality for config in self.configs.values()))

    def tasks(self, modality: Modality) -> dict[str, AdapterConfig]:
        """The adapters for a modality: "caption", "qa" or both."""
        return {c.task.name: c for c in self.configs.values() if c.task.modality == modality}

    def measured(self) -> list[tuple[str, str, str]]:
        """(what an adapter does, what it learned from, how often it is right) of each."""
        return [
            (
                f"{NOUNS[config.task.modality]} {DOES[config.task.name]}",
                learned(config.description) or self.title,
                measured(config.metrics) or self.right or "not measured",
            )
            for config in self.configs.values()
        ]

    @property
    def trained(self) -> int:
        """How many numbers were trained."""
        return sum(map(trained_numbers, self.configs.values()))


def offer(name: str, say: Progress, lm: str | None = None, encoder: str | None = None) -> Offer:
    """What is known of a model: the starter, a published one, a folder or a hub id.

    Raises:
        EPALMError: there is no such model.
    """
    if name in ZOO:
        preset = ZOO[name]
        right = (
            f"{preset.result.metric} {preset.result.value:g}, as the authors report" if preset.result else ""
        )
        configs = {f"{preset.modality}-{preset.task}": preset.config}
        licence = licences_of_configs([preset.config], lm, encoder)
        return Offer(name, preset.title, configs, licence, "the language model from the hub, many GB", right)
    folders = adapter_folders(locate(name, None, None, say))
    configs = {key: AdapterConfig.load(folder / CONFIG) for key, folder in folders.items()}
    return described(name, configs, licences_of_configs(list(configs.values()), lm, encoder))


def described(name: str, configs: dict[str, AdapterConfig], licence: str) -> Offer:
    """An offer of adapters that are on this machine."""
    starter = name == "starter"
    title = "Starter" if starter else next(iter(configs.values())).description or name
    download = f"{megabytes(list(configs.values()))} once" if starter else ""
    return Offer(name, title, configs, licence, download, "")


def learned(description: str) -> str:
    """What an adapter learned from, of its description."""
    before, found, after = description.partition("Learned from ")
    return after if found else before


def measured(metrics: dict[str, float]) -> str:
    """An adapter's metrics in words: shares in percent, scores as they are, losses left out."""
    parts = []
    for name, value in metrics.items():
        if "loss" not in name:
            words = name.replace("_", " ")
            parts.append(f"{words} {value:.0%}" if 0 <= value <= 1 else f"{words} {value:g}")
    return ", ".join(parts)


def trained_numbers(config: AdapterConfig) -> int:
    """The size of an adapter, from its config: linear maps with bias, and the soft prompt."""
    widths = config.encoder.widths[:1] if config.shared_connector else config.encoder.widths
    maps = sum((width + 1) * config.lm.hidden_size for width in widths)
    if config.prompt is None:
        return maps
    embed = config.lm.embed_size
    rows = config.prompt.length * (1 + config.deep_layers) * embed
    return maps + rows + (2 * embed * (embed + 1) if config.prompt.mlp else 0)


class Loading:
    """A model on its way into memory."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.says = "The model is loading …"
        self.model: EPALM | None = None
        self.scheduler: Scheduler | None = None  # none where each call runs on a lent GPU
        self.failure: Exception | None = None
        self.used = time.monotonic()
        self.users = 0  # requests that wait for it or are answered with it
        self.evicted = False

    def result(self) -> EPALM:
        """The loaded model, once `done`.

        Raises:
            Refusal: it could not be loaded; the sentence says why.
        """
        if self.model is not None:
            return self.model
        if self.failure is not None and out_of_memory(self.failure):
            raise Refusal("out-of-memory", "There is too little memory for this model: choose a smaller one.")
        if isinstance(self.failure, EPALMError):
            raise Refusal("bad-model", str(self.failure))
        raise Refusal("bad-model", "This model could not be loaded; the server's log says why.")

    def close_unused(self) -> None:
        """End the scheduler if the model made room and nobody uses it any more; called under the lock."""
        if self.evicted and not self.users and self.scheduler is not None:
            threading.Thread(target=self.scheduler.close, daemon=True).start()


class Models:
    """The offered models, loaded when they are first used.

    Args:
        offers: the first is the default.
        load: loads one by name; told where to report progress.
        most: how many stay in memory; the one that was not used for longest makes room.
    """

    def __init__(self, offers: Sequence[Offer], load: Callable[[str, Progress], EPALM], most: int = 1):
        self.offers = {offer.name: offer for offer in offers}
        self.default = offers[0].name
        self.load, self.most = load, most
        self.known: dict[str, Loading] = {}
        self.ready = False  # whether the default was in memory once; it may have made room since
        self.lock, self.one_at_a_time = threading.Lock(), threading.Lock()

    @classmethod
    def of(cls, model: EPALM, licence: str, name: str = "model") -> Models:
        """One model that is in memory already."""
        adapters: dict[str, Any] = dict(model.adapters.items())
        configs = {key: adapter.config for key, adapter in adapters.items()}
        models = cls([described(name, configs, licence)], lambda *_: model)
        models.begin(name).done.wait()
        return models

    @property
    def modalities(self) -> list[Modality]:
        """Of all offered models together, in the order of the page's tabs."""
        found = {modality for offer in self.offers.values() for modality in offer.modalities}
        order: list[Modality] = ["image", "video", "audio"]
        return [modality for modality in order if modality in found]

    @property
    def loaded(self) -> int:
        """How many are in memory."""
        return sum(loading.model is not None for loading in list(self.known.values()))

    def offer(self, name: str | None) -> Offer:
        """The offer of this name, or the default; Refusal says what there is instead."""
        name = self.default if name is None or name == "" else name
        if not isinstance(name, str) or name not in self.offers:
            raise Refusal(
                "bad-model", f"There is no model '{name}' here; there are: {', '.join(self.offers)}."
            )
        return self.offers[name]

    def begin(self, name: str | None) -> Loading:
        """Start loading a model unless it is loaded or on its way; one that failed is tried again."""
        name = self.offer(name).name
        with self.lock:
            return self._begin(name)

    @contextmanager
    def use(self, name: str | None) -> Iterator[Loading]:
        """As `begin`; the model serves whoever is in here, even if another one takes its place."""
        name = self.offer(name).name
        with self.lock:
            loading = self._begin(name)
            loading.users += 1
        try:
            yield loading
        finally:
            with self.lock:
                loading.users -= 1
                loading.close_unused()

    def _begin(self, name: str) -> Loading:
        loading = self.known.get(name)
        if loading is None or loading.failure is not None:
            loading = self.known[name] = Loading()
            threading.Thread(target=self._work, args=(name, loading), name="load", daemon=True).start()
        loading.used = time.monotonic()
        return loading

    def state(self, name: str | None) -> Loading | None:
        """How far a model is, without starting anything."""
        return self.known.get(name or self.default)

    def _work(self, name: str, loading: Loading) -> None:
        def say(message: str) -> None:
            loading.says = message.strip()

        with self.one_at_a_time:
            started = time.perf_counter()
            try:
                self._make_room(name)
                model = self.load(name, say)
                if GPU is None:
                    loading.scheduler = Scheduler(model, waiting=10**6)  # the flow limits what comes
                loading.model = model
                self.ready = self.ready or name == self.default
                logs.event("model loaded", model=name, seconds=round(time.perf_counter() - started, 2))
            except Exception as error:
                loading.failure = error
                if isinstance(error, EPALMError):
                    logs.event("model not loaded", "warning", model=name, reason=str(error))
                else:
                    logs.exception(error)
            finally:
                loading.done.set()

    def _make_room(self, name: str) -> None:
        with self.lock:
            others = [
                (item.used, key) for key, item in self.known.items() if key != name and item.model is not None
            ]
            for _, key in sorted(others)[: max(0, len(others) + 1 - self.most)]:
                loading = self.known.pop(key)
                loading.evicted = True
                loading.close_unused()
