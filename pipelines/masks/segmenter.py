"""Turns images into masks, without Beam: shrinks, batches, predicts, refines, enlarges.

A worker process has one `Segmenter`, shared by its threads: one network and, for the CRF, a pool of workers.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from pipelines.crf.refine import Refiner
from pipelines.masks import certainty
from pipelines.masks.certainty import Certainty
from pipelines.masks.network import Network, shared_network
from pipelines.masks.options import Views
from pipelines.masks.softmax import maps, most_probable
from pipelines.masks.views import mean_softmax
from pipelines.runner.isolation import Failed, attempt
from pipelines.runner.steps import step, worked
from trainer.formats.images import shrink
from trainer.formats.options import CrfOptions

T = TypeVar("T")

Refined = Callable[[], tuple[np.ndarray, float]]
"""Waits for the CRF's result on an image, and the processor seconds that it took."""

HELD_BYTES = 1 << 28
"""Bytes of images that one thread may hold waiting, both for a full batch and for the CRF."""


@dataclass(frozen=True)
class Item:
    """An image to segment.

    Attributes:
      key: an object of the caller, passed through to the result.
      image: uint8 [H, W, 3] RGB.
      network_input: uint8 [h, w, 3], the image as the network sees it.
    """

    key: Any
    image: np.ndarray
    network_input: np.ndarray

    @property
    def pixels(self) -> int:
        return self.network_input.shape[0] * self.network_input.shape[1]

    @property
    def is_shrunk(self) -> bool:
        return self.network_input.shape != self.image.shape


@dataclass(frozen=True)
class Segmented:
    """The result for an image.

    Attributes:
      key: the key of the item.
      image: the image of the item.
      ids: uint8 [H, W] class ids.
      confidence: uint8 [H, W], 255 times the probability of the chosen class; None if it was not requested.
      certainty: the certainty of the whole image.
    """

    key: Any
    image: np.ndarray
    ids: np.ndarray
    confidence: np.ndarray | None
    certainty: Certainty


@dataclass(frozen=True)
class Unsegmented:
    """An image that could not be segmented, even on its own.

    Attributes:
      key: the key of the item.
      reason: the reason for its reject, in one line.
    """

    key: Any
    reason: str


def attempted(key: Any, work: Callable[[], T]) -> T | Unsegmented:
    """Calls `work` on the image `key` and returns its result; `Unsegmented` if it fails."""
    try:
        return attempt(work)
    except Failed as failure:
        return Unsegmented(key, failure.reason)


def batches(items: Iterable[Item], size: int, pixels: int) -> Iterator[list[Item]]:
    """Groups items whose network inputs are equal in size, so that nothing has to be padded.

    A group is yielded before it exceeds `size` items or `pixels` pixels. If more than HELD_BYTES are waiting, the
    largest group is yielded early; the remaining ones are yielded at the end. Every item is yielded exactly once.
    """
    waiting: dict[tuple[int, ...], list[Item]] = {}
    for item in items:
        group = waiting.setdefault(item.network_input.shape, [])
        group.append(item)
        if (len(group) + 1) * item.pixels > pixels or len(group) == size:
            yield waiting.pop(item.network_input.shape)
        elif sum(item.image.nbytes for group in waiting.values() for item in group) > HELD_BYTES:
            largest = max(waiting, key=lambda shape: sum(item.image.nbytes for item in waiting[shape]))
            yield waiting.pop(largest)
    yield from waiting.values()


class Segmenter:
    """A network, followed by a dense CRF if it has parameters; safe to use from several threads.

    Args:
      network: the network.
      batch_size: maximum number of images in one pass of the network.
      max_side: longest side of the images that network and CRF see, in pixels; 0 for no limit.
      views: the views of an image, after shrinking, that the network sees.
      window: largest side, in pixels, of the windows in which it sees larger views.
      crf: parameters of the CRF; None for none.
      crf_engine: the engine of the CRF, see `pipelines.crf.refine`.
      crf_workers: number of images refined concurrently, at least 1.
      confidence: whether results include their confidence.

    Raises InputError if the CRF's engine is not installed.
    """

    def __init__(
        self,
        network: Network,
        *,
        batch_size: int,
        max_side: int,
        views: Views,
        window: int,
        crf: CrfOptions | None,
        crf_engine: str,
        crf_workers: int,
        confidence: bool,
    ):
        self._batch_pixels = network.batch_pixels
        self._network = functools.partial(network, window=window)
        self._batch_size = batch_size
        self._max_side = max_side
        self._views = views
        self._confidence = confidence
        self._refiner = Refiner(crf_workers, crf, crf_engine) if crf else None

    def __call__(self, images: Iterable[tuple[Any, np.ndarray]]) -> Iterator[Segmented | Unsegmented]:
        """Segments (key, image uint8 [H, W, 3]) pairs; the order of the results may differ from that of the images.

        While the CRF refines one batch, the network predicts the next.
        """
        unusable: deque[Unsegmented] = deque()
        pending: deque[tuple[Item, Any, Refined | None, int]] = deque()
        held = 0
        pixels = int(self._batch_pixels / self._views.area)
        for batch in batches(self._items(images, unusable), self._batch_size, pixels):
            for item, output in zip(batch, self._predict(batch), strict=True):
                if isinstance(output, Unsegmented):
                    unusable.append(output)
                    continue
                # The image while it waits for the CRF, and its softmax before and after.
                size = item.image.nbytes + 2 * output.nbytes if self._refiner else 0
                pending.append((item, output, self._refine(item, output), size))
                held += size
            while pending and (held > HELD_BYTES or self._refiner is None):
                *work, size = pending.popleft()
                held -= size
                yield self._finish(*work)
        while pending:
            *work, _ = pending.popleft()
            yield self._finish(*work)
        yield from unusable

    def _items(self, images: Iterable[tuple[Any, np.ndarray]], unusable: deque[Unsegmented]) -> Iterator[Item]:
        for key, image in images:
            with step("decode"):
                item = attempted(key, lambda key=key, image=image: Item(key, image, shrink(image, self._max_side)))
            if isinstance(item, Item):
                yield item
            else:
                unusable.append(item)

    def close(self) -> None:
        """Stops the CRF's workers."""
        if self._refiner:
            self._refiner.close()

    def _predict(self, batch: list[Item]) -> list[Any]:
        """Predicts a batch: the softmax of each image if it is needed, else class ids, their probability and entropy.

        If a batch fails, its images are predicted one by one.
        """

        def predict() -> list[Any]:
            inputs = np.stack([item.network_input for item in batch])
            if whole:
                return list(mean_softmax(self._network, inputs, self._views))
            return list(zip(*self._network(inputs, "best"), strict=True))

        whole = self._refiner or not self._views.is_single or any(item.is_shrunk for item in batch)
        with step("network"):
            outputs = attempted(batch[0].key, predict)
        if isinstance(outputs, list):
            return outputs
        return [outputs] if len(batch) == 1 else [output for item in batch for output in self._predict([item])]

    def _refine(self, item: Item, probabilities: Any) -> Refined | None:
        """Starts the CRF, if any, on one image."""
        if self._refiner is None:
            return None
        futures = [self._refiner.submit(item.network_input, probabilities)]
        return lambda: futures.pop().result() if futures else self._refiner.alone(item.network_input, probabilities)

    def _finish(self, item: Item, output: Any, refined: Refined | None) -> Segmented | Unsegmented:
        def finish() -> Segmented:
            with step("classes"):
                ids, best, entropy = output if isinstance(output, tuple) else maps(output)
                final, highest, changed = output, best, None
                if refined:
                    with step("CRF"):
                        final, seconds = refined()
                    worked("CRF", seconds, self._refiner.in_process)
                    before, (ids, best) = ids, most_probable(final, *final.shape[:2])
                    changed = ids != before
                if item.is_shrunk:
                    ids, best = most_probable(final, *item.image.shape[:2])
                confidence = (best * 255).round().clip(0, 255).astype(np.uint8) if self._confidence else None
                sure = certainty.of_maps(highest, entropy, changed)
            return Segmented(item.key, item.image, ids, confidence, sure)

        return attempted(item.key, finish)


_sharing = threading.Lock()
_segmenters: dict[tuple, Segmenter] = {}


def shared_segmenter(folder: str, digest: str, threads: int, **options: Any) -> Segmenter:
    """The Segmenter of this process, created on the first call.

    Args:
      folder, digest, threads: see `shared_network`.
      options: the arguments of `Segmenter`.
    """
    key = (folder, digest, *sorted(options.items()))
    with _sharing:
        if key not in _segmenters:
            _close_all()
            _segmenters[key] = Segmenter(shared_network(folder, digest, threads), **options)
        return _segmenters[key]


def release() -> None:
    """Stops the workers of the CRF; the network stays loaded for the next job with the same model."""
    with _sharing:
        _close_all()


def _close_all() -> None:
    while _segmenters:
        _segmenters.popitem()[1].close()
