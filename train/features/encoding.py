"""Fill a feature cache: threads read files ahead of the frozen encoder.

report = encode_manifest(items, cache, encoder, batch=64, workers=8)
"""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from epalm.encoders.base import Encoder
from epalm.errors import EPALMError
from epalm.media.recipes import recipe_from_dict
from train.data.manifest import Item
from train.features.augment import augmented, open_augmented
from train.features.cache import FeatureCache, Sample
from train.features.shards import distinct

SHARD_ROWS = 256  # approximately; limits both the loss when killed and the number of files

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class Report:
    """The result of encoding a process's files.

    Fields:
        media: number of distinct files.
        encoded, present: number of views encoded now, and of those already in the cache.
        unreadable: file -> sentence, for files without features.
    """

    media: int
    encoded: int = 0
    present: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)


def encode_manifest(
    items: Iterable[Item],
    cache: FeatureCache,
    encoder: Encoder,
    batch: int = 32,
    workers: int = 4,
    rank: int = 0,
    world: int = 1,
    say: Callable[[str], None] = tqdm.write,
    progress: bool = True,
) -> Report:
    """Encode all missing draws of every distinct file, starting with draw 0 of all files.

    Args:
        batch: files per encoder batch. Other batch sizes or devices may change the last bits of features.
        workers: threads that read and transform files ahead of the encoder.
        rank, world: this process takes every `world`-th file; other processes take the rest.
        say: called with a sentence about every damaged shard and every file that cannot be read.

    Raises:
        EPALMError: the cache cannot be written or belongs to another encoder, or the device ran out of
            memory.
    """
    paths = distinct(item.media for item in items)[rank::world]
    report = Report(len(paths))
    recipe: Any = recipe_from_dict(encoder.modality, cache.recipe)

    def unreadable(path: str, error: EPALMError) -> None:
        if path not in report.unreadable:
            report.unreadable[path] = str(error)
            say(str(error))

    def read(job: tuple[str, Sample]) -> Tensor:
        path, (key, draw) = job
        if draw == 0:
            return recipe(recipe.open(path))
        seed = seed_of(key, draw)
        return augmented(recipe, open_augmented(recipe, path, seed), seed, cache.reference)

    with cache.filling(encoder, rank) as writer:
        for sentence in writer.discard_damaged():
            say(sentence)

        path_of: dict[str, str] = {}  # key -> one of the files with this content
        for path, key in read_ahead(paths, cache.key, workers, ahead=2 * workers):
            if isinstance(key, EPALMError):
                unreadable(path, key)
            else:
                path_of.setdefault(key, path)
                writer.remember(path)

        shards = planned_shards(list(path_of), cache.draws, batch)
        todo = [[sample for sample in samples if not cache.has(*sample)] for samples in shards]
        total = sum(map(len, todo))
        report.present = sum(map(len, shards)) - total
        jobs = [(path_of[sample[0]], sample) for samples in todo for sample in samples]
        tensors = read_ahead(jobs, read, workers, ahead=batch + workers)

        def readable(count: int) -> Iterator[tuple[Sample, Tensor]]:
            """The next `count` jobs, without files that cannot be read."""
            for (path, sample), tensor in islice(tensors, count):
                if isinstance(tensor, EPALMError):
                    unreadable(path, tensor)
                else:
                    yield sample, tensor

        with bar(total, progress) as shown, closing(tensors):
            for samples in todo:
                left = readable(len(samples))
                done: list[Sample] = []
                parts: list[list[Tensor]] = []  # per batch, per layer (B, D)
                while group := list(islice(left, batch)):
                    parts.append(encode(encoder, [tensor for _, tensor in group], writer.layers))
                    done += [sample for sample, _ in group]
                    shown.update(len(group))
                if done:
                    writer.add(done, [torch.cat(of_layer) for of_layer in zip(*parts, strict=True)])
                report.encoded += len(done)
    return report


def planned_shards(keys: Sequence[str], draws: int, batch: int) -> list[list[Sample]]:
    """All samples in shards of whole batches, independent of what is already in the cache."""
    samples = [(key, draw) for draw in range(draws + 1) for key in keys]
    size = batch * max(1, SHARD_ROWS // batch)
    return [samples[start : start + size] for start in range(0, len(samples), size)]


def seed_of(key: str, draw: int) -> int:
    """The seed of a draw, which depends only on the file's content and the draw's number."""
    return int.from_bytes(hashlib.sha256(f"{key} {draw}".encode()).digest()[:4])


def encode(encoder: Encoder, media: list[Tensor], layers: Sequence[int]) -> list[Tensor]:
    """B media tensors -> one (B, D) float32 tensor per layer, in main memory."""
    try:
        return [features.float().cpu() for features in encoder(torch.stack(media), layers)]
    except torch.OutOfMemoryError as error:
        raise EPALMError(
            f"The device ran out of memory with {len(media)} files per batch: use a smaller --batch."
        ) from error


def read_ahead(
    jobs: Sequence[T], read: Callable[[T], R], workers: int, ahead: int
) -> Generator[tuple[T, R | EPALMError], None, None]:
    """Yield each job in order with the result or EPALMError of `read`, while reading `ahead` more jobs."""

    def attempt(job: T) -> R | EPALMError:
        try:
            return read(job)
        except EPALMError as error:
            return error

    torch.get_num_threads()  # fixes it for this thread, where the encoder runs on all cores
    pool = ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,))
    waiting: deque[tuple[T, Future[R | EPALMError]]] = deque()
    try:
        for job in jobs:
            waiting.append((job, pool.submit(attempt, job)))
            if len(waiting) > ahead:
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def bar(total: int, progress: bool) -> tqdm:
    """A progress bar of views: one line on a terminal, otherwise a line every half minute."""
    every = 0.5 if sys.stderr.isatty() else 30
    return tqdm(
        total=total, desc="features", unit=" views", mininterval=every, disable=not (progress and total)
    )
