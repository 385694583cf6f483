"""Dense CRF: sharpen a network's probabilities along the edges of the picture.

    refined = crf.refine(image, probabilities, CrfOptions())

The energy is that of Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
Potentials" (NIPS 2011): unary = -log(softmax); two Potts-weighted kernels between every pair of pixels, a
Gaussian of their distance (removes specks) and a bilateral one of distance and colour (pulls borders onto edges);
mean-field inference. The engine is pydensecrf, which computes in one thread and holds Python's global lock while
it does: `Refiner` therefore runs it in processes of its own.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, fields

import numpy as np

from trainer.options import InputError

# The unary cost of a label the network rules out is bounded by -log of this, so that edges can still revive it.
MIN_PROBABILITY = 1e-5


@dataclass(frozen=True)
class CrfOptions:
    """Parameters of the dense CRF.

    Attributes:
        iterations: mean-field iterations, at least 1.
        sxy_gaussian: width of the smoothing kernel (pixels), > 0.
        compat_gaussian: Potts weight of the smoothing kernel, >= 0; 0 leaves the kernel out.
        sxy: spatial width of the bilateral kernel (pixels), > 0.
        srgb: colour width of the bilateral kernel (grey levels of 0..255), > 0.
        compat: Potts weight of the bilateral kernel, >= 0; 0 leaves the kernel out.

    The defaults suit softmax maps of DeepLab networks. Wide kernels as in textbooks (sxy 80, srgb 13, compat 10)
    flood thin objects and cost several points of mIoU on road scenes.
    """

    iterations: int = 5
    sxy_gaussian: float = 3.0
    compat_gaussian: float = 3.0
    sxy: float = 49.0
    srgb: float = 5.0
    compat: float = 4.0

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if not np.isfinite(value):
                raise InputError(f"CRF {field.name} must be a finite number, got {value}")
        if self.iterations < 1:
            raise InputError(f"CRF iterations must be at least 1, got {self.iterations}")
        for name in ("sxy_gaussian", "sxy", "srgb"):
            if getattr(self, name) <= 0:
                raise InputError(f"CRF {name} is the width of a kernel and must be above 0, got {getattr(self, name)}")
        for name in ("compat_gaussian", "compat"):
            if getattr(self, name) < 0:
                raise InputError(f"CRF {name} is a weight and must not be negative, got {getattr(self, name)}")


def require_engine() -> None:
    """Raises InputError with the cure when pydensecrf is not installed."""
    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"the CRF needs pydensecrf, which cannot be imported here ({error}). Install it with "
            "`pip install pydensecrf2` (it is compiled on the spot: a C++ compiler and Python 3.10 to 3.12 are "
            "needed), or leave out --crf"
        ) from error


def refine(image: np.ndarray, probabilities: np.ndarray, options: CrfOptions) -> np.ndarray:
    """Mean-field marginals of the dense CRF.

    Args:
        image: uint8 [H, W, 3], RGB.
        probabilities: float [H, W, C], a softmax over the last axis, values in [0, 1].
        options: the CRF's parameters.

    Returns:
        float32 [H, W, C]; sums to 1 over the last axis.

    Raises:
        ValueError: wrong shape or dtype, or values that are not in [0, 1] (NaN).
        InputError: pydensecrf is not installed.
    """
    _check(image, probabilities)
    require_engine()
    from pydensecrf.densecrf import DenseCRF2D

    height, width, labels = probabilities.shape
    if labels == 1:
        return np.ones((height, width, 1), np.float32)
    planes = np.ascontiguousarray(np.moveaxis(probabilities, 2, 0).reshape(labels, -1), np.float32)
    field = DenseCRF2D(width, height, labels)
    field.setUnaryEnergy(-np.log(np.clip(planes, MIN_PROBABILITY, 1.0)))
    if options.compat_gaussian > 0:
        field.addPairwiseGaussian(sxy=options.sxy_gaussian, compat=options.compat_gaussian)
    if options.compat > 0:
        # The engine takes a writable C-ordered buffer; decoded pictures may be views of read-only memory.
        pixels = np.require(image, np.uint8, ["C", "W"])
        field.addPairwiseBilateral(sxy=options.sxy, srgb=options.srgb, rgbim=pixels, compat=options.compat)
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
    # Comparisons with NaN are false, so the range test must be stated positively.
    if not (probabilities.min() >= 0 and probabilities.max() <= 1 + 1e-3):
        raise ValueError(
            f"probabilities must lie in [0, 1] and not be NaN, got {probabilities.min()} to {probabilities.max()}"
        )


def _start_worker() -> None:
    """Makes a worker process deaf to Ctrl-C, which its parent handles, and end as soon as the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def follow():
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


class Refiner:
    """A pool of processes that refine pictures side by side; safe to use from several threads.

    Processes are spawned, not forked: a fork of a process in which TensorFlow's threads run can deadlock. They
    import NumPy and pydensecrf only, so each starts within a second.

    Args:
        processes: number of processes, at least 1.
        options: the CRF's parameters.
    """

    def __init__(self, processes: int, options: CrfOptions):
        require_engine()
        self._options = options
        self._pool = ProcessPoolExecutor(
            processes, mp_context=multiprocessing.get_context("spawn"), initializer=_start_worker
        )

    def submit(self, image: np.ndarray, probabilities: np.ndarray) -> Future:
        """Future of `refine(image, probabilities)`.

        Raises BrokenProcessPool, as does the future's `result()`, when a worker process died (killed, out of
        memory): the pool is then of no further use.
        """
        return self._pool.submit(refine, image, probabilities, self._options)

    def close(self) -> None:
        """Ends the processes; work that has not begun is dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
