"""From pictures to masks, without Beam: shrink, batch, predict, refine, enlarge.

A worker process has one `Segmenter`, shared by its threads: one network and, for the CRF, a pool of workers.
"""

from __future__ import annotations

import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from pipelines.crf.refine import CrfOptions, Refiner
from trainer.options import InputError

BATCH_PIXELS = {"CPU": 1 << 17, "GPU": 1 << 21}
"""Pixels in one pass of the network; a larger picture has a pass of its own. On a CPU a pass over eight pictures of
360x480 took half as long again as eight passes: arrays that large leave the caches and are mapped anew every time."""
HELD_BYTES = 1 << 28
"""What one thread keeps waiting at each of two places: for a full batch, and for the CRF."""


@dataclass(frozen=True)
class Item:
    """A picture on its way.

    Attributes:
      key: the caller's, passed through.
      image: uint8 [H, W, 3] RGB.
      network: uint8 [h, w, 3], what the network sees of it.
    """

    key: Any
    image: np.ndarray
    network: np.ndarray

    @property
    def pixels(self) -> int:
        return self.network.shape[0] * self.network.shape[1]


@dataclass(frozen=True)
class Segmented:
    """Attributes: `key` and `image` of the item; `ids` uint8 [H, W]; `confidence` uint8 [H, W], 255 times the
    probability of the class that was chosen, or None."""

    key: Any
    image: np.ndarray
    ids: np.ndarray
    confidence: np.ndarray | None


def network_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """(height, width) in pixels with the longest side shrunk to `max_side`; 0, or a smaller picture: as it is."""
    longest = max(height, width)
    if not max_side or longest <= max_side:
        return height, width
    return max(1, round(height * max_side / longest)), max(1, round(width * max_side / longest))


def shrink(image: np.ndarray, max_side: int) -> np.ndarray:
    """uint8 [H, W, 3] to `network_size`, by area averages, as `prepare` shrinks the pictures to learn from."""
    height, width = network_size(*image.shape[:2], max_side)
    if (height, width) == image.shape[:2]:
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)


def batches(items: Iterable[Item], size: int, pixels: int) -> Iterator[list[Item]]:
    """Groups items whose network inputs are equal in size, so that nothing has to be padded.

    A group goes out before it exceeds `size` items or `pixels` pixels; the largest goes out early when more than
    HELD_BYTES are waiting; what remains goes out at the end. Every item goes out exactly once.
    """
    waiting: dict[tuple[int, ...], list[Item]] = {}
    for item in items:
        group = waiting.setdefault(item.network.shape, [])
        group.append(item)
        if (len(group) + 1) * item.pixels > pixels or len(group) == size:
            yield waiting.pop(item.network.shape)
        elif sum(item.image.nbytes for group in waiting.values() for item in group) > HELD_BYTES:
            largest = max(waiting, key=lambda shape: sum(item.image.nbytes for item in waiting[shape]))
            yield waiting.pop(largest)
    yield from waiting.values()


def choose(probabilities: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The most probable class of every pixel, at the size asked for.

    Args:
      probabilities: float32 [h, w, C]; enlarged bilinearly when (h, w) is not (height, width).

    Returns:
      Class ids uint8 [height, width] (of equal classes the first), and their probability, float32.
    """
    # Class by class, because all classes of a large picture at its own size would be the largest array of the job.
    ids = np.zeros((height, width), np.uint8)
    best = np.full((height, width), -1.0, np.float32)
    for label in range(probabilities.shape[2]):
        plane = np.ascontiguousarray(probabilities[..., label], np.float32)
        if plane.shape != (height, width):
            plane = cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR)
        better = plane > best
        ids[better] = label
        np.maximum(best, plane, out=best)
    return ids, best


class Network:
    """A model folder's network; safe to use from several threads.

    Raises InputError when the folder holds no usable model.
    """

    def __init__(self, folder: str):
        from trainer.network.deeplab import load_model

        self._model, _ = load_model(folder)
        self.batch_pixels = BATCH_PIXELS["GPU" if _has_gpu() else "CPU"]
        self._predictors: dict[str, Callable[[np.ndarray], np.ndarray]] = {}
        # One pass at a time: it uses every core by itself, and two would only double the memory.
        self._lock = threading.Lock()

    def __call__(self, images: np.ndarray, what: str) -> np.ndarray:
        """uint8 [B, H, W, 3] -> "ids": uint8 [B, H, W]; "probabilities": float32 softmax [B, H, W, C]."""
        with self._lock:
            if what not in self._predictors:
                from trainer.network.deeplab import predictor

                self._predictors[what] = predictor(self._model, what)
            return self._predictors[what](images)


def _has_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


class Segmenter:
    """A network, and a dense CRF behind it if asked for; safe to use from several threads.

    Args:
      network: the network.
      batch_size: most pictures in one pass of the network.
      max_side: the longest side (pixels) pictures are shrunk to for network and CRF; 0: they keep their size.
      crf: parameters of the CRF; None for none.
      crf_engine: which engine refines, see `crf.ENGINES`.
      crf_workers: pictures refined side by side, at least 1.
      confidence: whether results carry their confidence.

    Raises InputError when the CRF's engine is missing.
    """

    def __init__(
        self,
        network: Network,
        *,
        batch_size: int,
        max_side: int,
        crf: CrfOptions | None,
        crf_engine: str,
        crf_workers: int,
        confidence: bool,
    ):
        self._network = network
        self._batch_size = batch_size
        self._max_side = max_side
        self._confidence = confidence
        self._refiner = Refiner(crf_workers, crf, crf_engine) if crf else None

    def __call__(self, pictures: Iterable[tuple[Any, np.ndarray]]) -> Iterator[Segmented]:
        """Segments (key, image uint8 [H, W, 3]) pairs; the order of the results may differ from that of the pictures.

        While the CRF refines one batch, the network predicts the next.
        """
        items = (Item(key, image, shrink(image, self._max_side)) for key, image in pictures)
        pending: deque[tuple[Item, Callable[[], np.ndarray]]] = deque()
        held = 0
        for batch in batches(items, self._batch_size, self._network.batch_pixels):
            for item, output in zip(batch, self._predict(batch), strict=True):
                pending.append((item, self._refine(item, output)))
                held += self._bytes(item, output)
            while pending and (held > HELD_BYTES or self._refiner is None):
                item, result = pending.popleft()
                output = result()
                held -= self._bytes(item, output)
                yield self._finish(item, output)
        while pending:
            item, result = pending.popleft()
            yield self._finish(item, result())

    @staticmethod
    def _bytes(item: Item, output: np.ndarray) -> int:
        """What a picture that waits for the CRF costs: its softmax before and after."""
        return item.image.nbytes + 2 * output.nbytes

    def close(self) -> None:
        """Ends the CRF's workers."""
        if self._refiner:
            self._refiner.close()

    def _predict(self, batch: list[Item]) -> np.ndarray:
        """Class ids where they are all that is needed, otherwise (twenty times the memory) the softmax."""
        shrunk = any(item.network.shape != item.image.shape for item in batch)
        what = "probabilities" if shrunk or self._confidence or self._refiner else "ids"
        return self._network(np.stack([item.network for item in batch]), what)

    def _refine(self, item: Item, output: np.ndarray) -> Callable[[], np.ndarray]:
        """Starts the CRF on one picture; what comes back waits for the result."""
        if self._refiner is None:
            return lambda: output
        try:
            future = self._refiner.submit(item.network, output)
        except BrokenProcessPool:
            raise _crf_died() from None

        def result() -> np.ndarray:
            try:
                return future.result()
            except BrokenProcessPool:
                raise _crf_died() from None

        return result

    def _finish(self, item: Item, output: np.ndarray) -> Segmented:
        if output.ndim == 2:
            return Segmented(item.key, item.image, output, None)
        ids, best = choose(output, *item.image.shape[:2])
        confidence = (best * 255).round().clip(0, 255).astype(np.uint8) if self._confidence else None
        return Segmented(item.key, item.image, ids, confidence)


def _crf_died() -> InputError:
    return InputError(
        "a process of the CRF was killed, out of memory as a rule; give fewer --crf-workers or a --max-side. "
        "Finished masks are kept: run the same command again to go on"
    )


_sharing = threading.RLock()
_segmenters: dict[tuple, Segmenter] = {}


@functools.lru_cache(maxsize=1)
def _network(folder: str, digest: str) -> Network:
    return Network(folder)


def shared_network(folder: str, digest: str, threads: int) -> Network:
    """The one Network of this process; arguments as those of `shared_segmenter`."""
    with _sharing:
        if threads:
            os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(threads))
        return _network(folder, digest)


def shared_segmenter(folder: str, digest: str, threads: int, **options: Any) -> Segmenter:
    """The one Segmenter of this process, made on the first call.

    Args:
      folder: model folder, local or gs://.
      digest: of the model, so that a new model in an old folder is loaded anew.
      threads: bounds TensorFlow's, 0 for one per core; without effect once TensorFlow has begun to compute.
      options: of `Segmenter`.
    """
    key = (folder, digest, *sorted(options.items()))
    with _sharing:
        if key not in _segmenters:
            release()
            _segmenters[key] = Segmenter(shared_network(folder, digest, threads), **options)
        return _segmenters[key]


def release() -> None:
    """Ends the workers of the CRF; the network stays loaded for a next job with the same model."""
    while _segmenters:
        _segmenters.popitem()[1].close()
