"""A cache of the frozen encoder's features, so that training never runs the encoder.

    cache = FeatureCache.open(Path("cache/coco"), config.encoder, config.recipe, draws=4)
    absent = cache.missing(item.media for item in items)  # files that `python -m train features` must encode
    key = cache.key(items[0].media)
    features = cache.get(key, draw=0)  # one (D_j,) tensor per feature layer

Draw 0 is the file as evaluation sees it; draws 1 to k are augmented views as in the original's training (see
train.features.augment). The seed of a draw depends only on the file's content and the draw's number.

    CACHE/cache.json                 what the features were made with; other configurations are refused
    CACHE/shards/NAME.safetensors    float32 (R, D) per encoder layer
    CACHE/shards/NAME.json           its R rows and its checksum; a shard without this file is ignored
    CACHE/media-RANK.jsonl           content keys of the files seen so far

A file is identified by its content: if it is moved, copied or renamed it keeps its features, if it is edited
it gets new ones, and equal files share theirs. Features are stored in float32, so training on the cache is
bitwise identical to training on the encoder. The six layers of a ViT-B take 18 KB per view.

Which views share a shard and a batch depends only on the list of files, and shards are written atomically: a
run that is killed loses at most one shard of work, and its rerun writes the same bytes as an undisturbed run.
A shard's name is a hash of its rows, so processes that share the work never write the same one.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from epalm.config import EncoderConfig
from epalm.encoders.base import Encoder, side_by_side
from epalm.errors import EPALMError
from epalm.files import JsonLines, atomic, read_json_lines, writing
from train.features.shards import (
    ADVICE,
    Row,
    Shard,
    Stamp,
    content_key,
    damaged,
    distinct,
    fingerprint,
    intact,
    read_made_with,
    read_shard,
    refuse_other,
    settings,
    shard_name,
    stamp_of,
    widths_of,
)

Sample = tuple[str, int]  # key of a medium's content, draw


class FeatureCache:
    """A folder of encoder features.

    Attributes:
        draws: augmented views per file that this configuration trains on.
    """

    def __init__(
        self,
        folder: Path,
        encoder: EncoderConfig,
        recipe: dict[str, Any],
        draws: int,
        reference: bool,
        made_with: Any,
    ):
        self.folder = folder
        self.recipe = recipe
        self.draws = draws
        self.reference = reference
        self.encoder = encoder
        self.made_with = made_with  # cache.json; None if nothing has been encoded yet
        self.shards: dict[str, Shard] = {}
        self.rows: dict[Row, tuple[str, int]] = {}  # -> name of the shard, index in it
        self.keys: dict[Stamp, str] = {}
        self.latest: dict[str, str] = {}  # path -> key
        self._opened: dict[str, Any] = {}  # verified shards, mapped into memory

    # ---------------------------------------------------------------- opening

    @classmethod
    def open(
        cls,
        folder: Path,
        encoder: EncoderConfig,
        recipe: dict[str, Any],
        draws: int = 0,
        reference: bool = False,
    ) -> FeatureCache:
        """Open a folder for reading; a missing folder is an empty cache, and nothing is written.

        Args:
            encoder: may read fewer layers than the cache has.
            reference: whether draws 1 to `draws` are augmented with the original's errors. One cache can hold
                both kinds.

        Raises:
            EPALMError: the folder was made with another encoder or recipe, which the message says, or is no
                cache.
        """
        made_with = read_made_with(folder)
        if made_with is not None:
            refuse_other(folder, made_with, settings(encoder, recipe), encoder.feature_layers)
        cache = cls(folder, encoder, recipe, draws, reference, made_with)
        for path in sorted(folder.glob("shards/*.json")):
            if shard := read_shard(path):
                cache._take_in(path.stem, shard)
        for path in sorted(folder.glob("media-*.jsonl")):
            cache._take_in_media(path)
        return cache

    def _take_in(self, name: str, shard: Shard) -> None:
        self.shards[name] = shard
        for place, row in enumerate(shard.rows):
            self.rows[row] = name, place
        self._opened.pop(name, None)

    def _drop(self, name: str) -> None:
        for row in self.shards.pop(name).rows if name in self.shards else ():
            if self.rows.get(row, ("",))[0] == name:  # another process may have written it to a second shard
                del self.rows[row]

    def _take_in_media(self, path: Path) -> None:
        """Read a list of files and their keys."""
        for file, size, changed, key in read_json_lines(path):
            self.keys[file, size, changed] = self.latest[file] = key

    # ---------------------------------------------------------------- reading

    def view(self, draw: int) -> str:
        """The name of a draw in the cache, which distinguishes both kinds of augmentation."""
        return "evaluation" if draw == 0 else f"{'reference' if self.reference else 'augmented'}-{draw}"

    def key(self, path: str | Path) -> str:
        """The key of a file's content. The file is read only if it is new or has changed.

        Raises:
            EPALMError: the file is empty, or missing and was never encoded.
        """
        path = os.path.abspath(path)
        if known := self._known(path):
            return known
        stamp = stamp_of(path)
        key = content_key(path)
        if stamp:
            self.keys[stamp] = self.latest[path] = key
        return key

    def _known(self, path: str) -> str | None:
        """The key of a file seen before; features of a deleted file remain usable."""
        stamp = stamp_of(path)
        return self.keys.get(stamp) if stamp else self.latest.get(path)

    def has(self, key: str, draw: int) -> bool:
        return (key, self.view(draw)) in self.rows

    def missing(self, media: Iterable[str | Path]) -> list[str]:
        """The files that lack a draw or cannot be read, each once, in order."""
        return [path for path in distinct(media) if not self._complete(path)]

    def _complete(self, path: str) -> bool:
        try:
            key = self.key(path)
        except EPALMError:
            return False
        return all(self.has(key, draw) for draw in range(self.draws + 1))

    def get(self, key: str, draw: int) -> list[Tensor]:
        """One (D_j,) float32 tensor per feature layer; raises like `batch`."""
        return [features[0] for features in self.batch([(key, draw)])]

    def batch(self, samples: Sequence[Sample]) -> list[Tensor]:
        """Features of B pairs of key and draw: one (B, D_j) float32 tensor per feature layer.

        A layer that is listed several times returns the same tensor several times.

        Raises:
            EPALMError: a pair is not in the cache, or its shard is damaged.
        """
        places = []
        for key, draw in samples:
            if not self.has(key, draw):
                raise EPALMError(
                    f"{self.folder} lacks draw {draw} of a file ({key}): run the features command again."
                )
            name, place = self.rows[key, self.view(draw)]
            places.append((self._shard(name), place))
        entries = widths_of(self.made_with).places(self.encoder.feature_layers)
        layers = {
            index: torch.stack([shard.get_slice(str(index))[place] for shard, place in places])
            for index in sorted({index for entry in entries for index in entry})
        }
        return [side_by_side(layers, entry) for entry in entries]

    def _shard(self, name: str) -> Any:
        """Open a shard; it is verified when first read."""
        if name not in self._opened:
            path = self.folder / "shards" / f"{name}.safetensors"
            if not intact(path, self.shards[name].sha256):
                raise damaged(path)
            self._opened[name] = safe_open(path, "pt")
        return self._opened[name]

    # ---------------------------------------------------------------- writing

    @contextmanager
    def filling(self, encoder: Encoder, rank: int = 0) -> Iterator[FeatureCacheWriter]:
        """Add to the cache, as the only process of this rank.

        Raises:
            EPALMError: another process of this rank is doing so, the encoder differs from the cache's, or the
                folder cannot be written.
        """
        lock = FileLock(self.folder / f"rank-{rank}.lock")
        with writing(self.folder):
            (self.folder / "shards").mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout as error:
                raise EPALMError(
                    f"Another process is filling {self.folder}: wait until it has finished."
                ) from error
            media = JsonLines(self.folder / f"media-{rank}.jsonl")
        try:
            yield FeatureCacheWriter(self, encoder, rank, media)
        finally:
            media.close()
            lock.release()


class FeatureCacheWriter:
    """Adds to a cache; see `FeatureCache.filling`.

    Attributes:
        layers: encoder layers in the cache, counted from 0. All are encoded even if a reader needs fewer.
    """

    def __init__(self, cache: FeatureCache, encoder: Encoder, rank: int, media: JsonLines):
        self.cache = cache
        self.part = cache.folder / f"rank-{rank}.part"
        self.media = media
        self.recorded = set(cache.keys)
        self._agree(encoder)
        self.layers: list[int] = cache.made_with["layers"]

    def _agree(self, encoder: Encoder) -> None:
        """Write cache.json, or refuse an encoder that does not match it."""
        cache, config = self.cache, self.cache.encoder
        encoder.widths.check(config, config.id)
        path, weights = cache.folder / "cache.json", fingerprint(encoder)
        wanted = settings(config, cache.recipe)
        if not path.exists():
            reads = {place for entry in encoder.widths.places(config.feature_layers) for place in entry}
            made = {**wanted, "layers": sorted(reads), "depth": encoder.widths.layers}
            self._put(path, (json.dumps({**made, "weights": weights}, indent=2) + "\n").encode())
        cache.made_with = read_made_with(cache.folder)  # another process may have written it meanwhile
        refuse_other(cache.folder, cache.made_with, wanted, config.feature_layers)
        if cache.made_with["weights"] != weights:
            raise EPALMError(
                f"{cache.folder} was made with other weights of {config.id} or in another precision: {ADVICE}"
            )

    def remember(self, path: str) -> None:
        """Record a file's key, so that it need not be read again to be recognised."""
        stamp = stamp_of(path)
        if stamp and stamp in self.cache.keys and stamp not in self.recorded:
            self.recorded.add(stamp)
            with writing(self.cache.folder):
                self.media.add([*stamp, self.cache.keys[stamp]])

    def add(self, samples: Sequence[Sample], features: Sequence[Tensor]) -> None:
        """Write a shard of samples with one (R, D) tensor per entry of `layers`."""
        rows = [(key, self.cache.view(draw)) for key, draw in samples]
        name = shard_name(rows)
        path = self.cache.folder / "shards" / f"{name}.safetensors"
        data = save({str(layer): f.contiguous() for layer, f in zip(self.layers, features, strict=True)})
        shard = Shard(hashlib.sha256(data).hexdigest(), tuple(rows))
        self._put(path, data)
        index = {"sha256": shard.sha256, "rows": rows}
        self._put(path.with_suffix(".json"), (json.dumps(index) + "\n").encode())
        self.cache._take_in(name, shard)

    def discard_damaged(self) -> list[str]:
        """Drop damaged shards; returns a sentence about each."""
        sentences = []
        for index in sorted(self.cache.folder.glob("shards/*.json")):
            path, shard = index.with_suffix(".safetensors"), read_shard(index)
            if shard and intact(path, shard.sha256):
                continue
            sentences.append(f"{path} is damaged: its files are encoded again.")
            self.cache._drop(index.stem)
            index.unlink(missing_ok=True)  # another process may be replacing the shard itself
        return sentences

    def _put(self, path: Path, data: bytes) -> None:
        """Write a file atomically, even if the power fails."""
        with writing(self.cache.folder), atomic(path, self.part) as file:
            file.write(data)
