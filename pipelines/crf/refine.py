"""Dense CRF: moves the boundaries between a network's labels to the edges of the image.

    refined = refine(image, probabilities, CrfOptions())

The energy is that of Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials" (NIPS 2011): unary = -log(softmax); two Potts-weighted kernels between every pair of pixels, a
Gaussian of their distance (removes specks) and a bilateral one of distance and colour (pulls boundaries onto edges);
mean-field inference with permutohedral lattices. `native` is the engine of this project (`engine/`), which works
in one thread per image and releases Python's global lock; `pydensecrf` is the published implementation, which
holds the lock, and is there for comparison. See docs/crf.md.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import numpy as np

from pipelines.crf.engine import builds
from pipelines.runner.isolation import Isolated
from pipelines.runner.steps import timed
from trainer.formats.options import CrfOptions
from trainer.options import InputError

MIN_PROBABILITY = 1e-5
"""The unary cost of a label that the network rules out is at most -log of this, so that its neighbours can still bring
it back."""
IMPROBABLE, USUAL_WEIGHTS, SHARING_ERROR = 2e-2, 7.0, 8e-5
"""The least probable labels of an image share a channel while their largest probabilities add up to less than
IMPROBABLE (less still where the kernels' weights add up to more than USUAL_WEIGHTS) and no marginal can move by more
than SHARING_ERROR. On photographs marginals move by 4e-6, about as much as by rounding."""
KEPT_PIXELS = 1 << 21
"""Lattices of positions take 16 bytes per pixel; those of images with more pixels are not kept."""
COUNTED = 2**31 - 1
"""With more values than this, pydensecrf writes past the end of its arrays."""


def require_engine(engine: str = "native") -> None:
    """Raises InputError, with the cure, if the engine cannot be imported here."""
    try:
        if engine == "native":
            builds.load()
        else:
            import pydensecrf.densecrf  # noqa: F401
    except ImportError as error:
        cure = (
            "it is compiled when this package is installed: install a C++ compiler (Debian: apt install g++; macOS: "
            "xcode-select --install) and install the package again"
            if engine == "native"
            else "install it with `pip install pydensecrf2` (it is compiled on the spot: a C++ compiler and Python "
            "3.11 or 3.12 are needed), or omit --crf-engine"
        )
        raise InputError(f"the CRF's engine {engine} cannot be imported here ({error}); {cure}") from error


def refine(image: np.ndarray, probabilities: np.ndarray, options: CrfOptions, engine: str = "native") -> np.ndarray:
    """Mean-field marginals of the dense CRF.

    Args:
      image: uint8 [H, W, 3], RGB.
      probabilities: float [H, W, C], a softmax over the last axis, values in [0, 1].
      options: the CRF's parameters.
      engine: "native" or "pydensecrf"; their results differ by rounding, at most by 1e-5 on photographs.

    Returns:
      float32 [H, W, C]; the last axis adds up to 1. The same input gives the same bits on the same processor.

    Raises:
      ValueError: wrong shape or dtype, values that are NaN or not in [0, 1], or a kernel so narrow that the image's
        coordinates leave the range of float32.
      InputError: the engine is not installed.
    """
    _check(image, probabilities)
    if options.class_weights and len(options.class_weights) != probabilities.shape[2]:
        raise ValueError(f"{len(options.class_weights)} class weights for {probabilities.shape[2]} classes")
    require_engine(engine)
    if probabilities.shape[2] == 1:
        _check_range(probabilities)
        return np.ones(probabilities.shape, np.float32)
    return (_native if engine == "native" else _pydensecrf)(image, probabilities, options)


@functools.lru_cache(maxsize=8)
def _positions(height: int, width: int, sxy: float) -> object:
    """The engine's lattice of an image's positions, which is the same for all images of that size."""
    return builds.load().spatial(height, width, sxy=sxy)


def _native(image: np.ndarray, probabilities: np.ndarray, options: CrfOptions) -> np.ndarray:
    height, width, _ = probabilities.shape
    positions = _positions if height * width <= KEPT_PIXELS else _positions.__wrapped__
    marginals = np.empty(probabilities.shape, np.float32)
    weights = max(options.compat + options.compat_gaussian, 1.0)
    try:
        valid = builds.load().refine(
            image=np.ascontiguousarray(image),
            probabilities=np.ascontiguousarray(probabilities, np.float32),
            marginals=marginals,
            shape=probabilities.shape,
            spatial=positions(height, width, options.sxy_gaussian),
            iterations=options.iterations,
            sxy_gaussian=options.sxy_gaussian,
            compat_gaussian=options.compat_gaussian,
            sxy=options.sxy,
            srgb=options.srgb,
            compat=options.compat,
            class_weights=np.array(options.class_weights, np.float32),
            min_probability=MIN_PROBABILITY,
            max_shared_sum=IMPROBABLE * min(1.0, USUAL_WEIGHTS / weights),
            max_shared_error=SHARING_ERROR,
        )
    except ValueError as error:
        raise ValueError(
            f"{error}: {width}x{height} pixels, sxy {options.sxy:g}, srgb {options.srgb:g}, "
            f"sxy_gaussian {options.sxy_gaussian:g}"
        ) from error
    if not valid:
        _check_range(probabilities)
    return marginals


def _pydensecrf(image: np.ndarray, probabilities: np.ndarray, options: CrfOptions) -> np.ndarray:
    from pydensecrf.densecrf import DenseCRF2D

    _check_range(probabilities)
    height, width, labels = probabilities.shape
    if probabilities.size > COUNTED:
        raise ValueError(
            f"pydensecrf counts values in 32 bits, and {width}x{height} pixels of {labels} classes are more; omit "
            "--crf-engine, or give --max-side"
        )
    planes = np.ascontiguousarray(np.moveaxis(probabilities, 2, 0).reshape(labels, -1), np.float32)
    field = DenseCRF2D(width, height, labels)
    field.setUnaryEnergy(-np.log(np.clip(planes, MIN_PROBABILITY, 1.0)))
    # The penalty of each pair of labels, [C, C], for a kernel of weight 1; a single number stands for Potts' model.
    pairs: float | np.ndarray = 1.0
    if options.class_weights:
        weights = np.array(options.class_weights, np.float32)
        pairs = np.outer(weights, weights)
        np.fill_diagonal(pairs, 0)
    if options.compat_gaussian > 0:
        field.addPairwiseGaussian(sxy=options.sxy_gaussian, compat=options.compat_gaussian * pairs)
    if options.compat > 0:
        # The engine takes a writable C-ordered buffer; decoded images may be views of read-only memory.
        pixels = np.require(image, np.uint8, ["C", "W"])
        field.addPairwiseBilateral(sxy=options.sxy, srgb=options.srgb, rgbim=pixels, compat=options.compat * pairs)
    marginals = np.asarray(field.inference(options.iterations), np.float32).reshape(labels, height, width)
    return np.ascontiguousarray(np.moveaxis(marginals, 0, 2))


def _check(image: np.ndarray, probabilities: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    if probabilities.ndim != 3 or not np.issubdtype(probabilities.dtype, np.floating):
        raise ValueError(
            f"probabilities must be float [H, W, C], got {probabilities.dtype} {list(probabilities.shape)}"
        )
    if probabilities.shape[:2] != image.shape[:2] or 0 in probabilities.shape:
        raise ValueError(
            f"image and probabilities must cover the same pixels, got {list(image.shape)} and "
            f"{list(probabilities.shape)}"
        )


def _check_range(probabilities: np.ndarray) -> None:
    # Comparisons with NaN are false, so this must test whether values are valid, not whether they are invalid.
    if not (probabilities.min() >= 0 and probabilities.max() <= 1 + 1e-3):
        raise ValueError(
            f"probabilities must lie in [0, 1] and not be NaN, got {probabilities.min()} to {probabilities.max()}"
        )


def _start_worker() -> None:
    """Makes a worker process ignore Ctrl-C, which its parent handles, and end when its parent does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow():
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


class Refiner:
    """Refines several images concurrently; safe to use from several threads.

    The native engine runs in threads. pydensecrf would block all of Python there, so it runs in processes of its own.
    These are spawned, not forked, as forking a process with running TensorFlow threads can deadlock.

    Args:
      workers: number of images refined concurrently, at least 1.
      options: the CRF's parameters.
      engine: "native" or "pydensecrf".

    Raises InputError if the engine is not installed.
    """

    def __init__(self, workers: int, options: CrfOptions, engine: str = "native"):
        require_engine(engine)
        self._options, self._engine = options, engine
        self._workers, self._lock = workers, threading.Lock()
        self._pool = self._new_pool()

    def _new_pool(self) -> Executor:
        if self.in_process:
            return ThreadPoolExecutor(self._workers, thread_name_prefix="crf")
        return ProcessPoolExecutor(
            self._workers, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
        )

    @property
    def in_process(self) -> bool:
        """Whether the workers are threads of this process."""
        return self._engine == "native"

    def submit(self, image: np.ndarray, probabilities: np.ndarray) -> Future[tuple[np.ndarray, float]]:
        """Starts `refine(image, probabilities)`; returns the future of its result and of its processor seconds.

        The future's `result()` raises BrokenProcessPool if a pydensecrf process has died (killed, out of memory), even
        if another image ended it. The next call starts new processes.
        """
        work = (timed, refine, image, probabilities, self._options, self._engine)
        with self._lock:
            try:
                return self._pool.submit(*work)
            except BrokenProcessPool:
                self._pool = self._new_pool()
                return self._pool.submit(*work)

    def alone(self, image: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, float]:
        """Does what `submit` failed to do, while this pool refines no other image.

        Raises Failed if it crashes its process.
        """
        work = (timed, refine, image, probabilities, self._options, self._engine)
        if self.in_process:
            return timed(*work[1:])
        with Isolated() as isolated:
            return isolated(*work)

    def close(self) -> None:
        """Stops the workers; drops images that are still waiting."""
        self._pool.shutdown(wait=True, cancel_futures=True)
