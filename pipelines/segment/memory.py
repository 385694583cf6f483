"""The memory that images take: how much one needs, how much all may take, and how the threads share it."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.segment.options import Options
from trainer.formats import images
from trainer.limits import cores, memory
from trainer.network.options import MIN_WINDOW

GIB = 1 << 30
SOFTMAX_BYTES, CRF_BYTES, IMAGE_BYTES = 4, 22, 16
"""Measured peak memory of an image, in bytes, in addition to the network's: per pixel and class, if the whole softmax
is needed for enlarging or for the CRF; and per pixel of the original image."""

LARGE_BYTES = 1 << 30
"""Images that take more bytes than this, without the network, wait for each other if memory does not suffice for all
at once."""


@dataclass(frozen=True)
class Budget:
    """The memory of the images of a worker process.

    Attributes:
      options: the options of the command.
      classes: the number of classes of the model.
      is_refined: whether the CRF refines the masks.
      max_side: longest side of the images that the network sees, in pixels; 0 for no limit.
      network_bytes: memory of the network per pixel, see `trainer.network.options.bytes_per_pixel`.
      cores: the number of cores that the process may use; 0 if it has its machine to itself.
    """

    options: Options
    classes: int
    is_refined: bool
    max_side: int
    network_bytes: int
    cores: int

    @property
    def allowed(self) -> int:
        """Bytes of memory that the images of this process may take."""
        return int(self.options.max_memory * GIB) or memory() * 3 // 4 * (self.cores or cores()) // cores()

    def check(self, height: int, width: int) -> int:
        """The memory, in bytes, that an image of that size in pixels takes; 0 if it is too small to count.

        Raises:
          ImageError: too many pixels, or more memory than allowed.
        """
        shrunk = images.shrunk_size(height, width, self.max_side)
        pixels, bound = shrunk[0] * shrunk[1], self.options.max_pixels
        if pixels > bound:
            raise images.ImageError(
                f"{shrunk[1]}x{shrunk[0]} is {pixels:,} pixels, over the limit of {bound:,}; raise --max-pixels "
                "if memory allows, or give another --output and --max-side to shrink it"
            )
        refined, allowed, views = self.is_refined, self.allowed, self.options.views
        per_class = CRF_BYTES if refined else SOFTMAX_BYTES if shrunk != (height, width) or not views.is_single else 0
        if not views.is_single:  # the sum, and the softmax of a view, at its own size and at that of the image
            per_class = max(per_class, SOFTMAX_BYTES * (2 + views.area))
        others = round(pixels * per_class * self.classes) + height * width * IMAGE_BYTES
        needed = others + round(min(pixels * views.area, self.options.window**2) * self.network_bytes)
        if needed > allowed:
            window = math.isqrt(max(0, allowed - others) // self.network_bytes)
            # These change the masks, and an output holds those of one model and the same options.
            cures = [f"--window {window}"] * (window >= MIN_WINDOW) + ["--max-side to shrink it"]
            cures += ["smaller --scales"] * (views.area > 1) + ["no --crf"] * refined
            raise images.ImageError(
                f"{shrunk[1]}x{shrunk[0]} pixels of {self.classes} classes{' with the CRF' * refined} take about "
                f"{needed / GIB:.1f} GiB of memory, over the limit of {allowed / GIB:.1f}; raise --max-memory if "
                f"there is more, or give another --output and {', or '.join(cures)}"
            )
        # Only one thread at a time runs the network, so its memory does not add up over threads.
        return others if others > LARGE_BYTES else 0


class Memory:
    """The memory that the threads of a process share for large images."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held = 0

    @contextlib.contextmanager
    def reserve(self, needed: int, allowed: int) -> Iterator[None]:
        """Reserves `needed` of the `allowed` bytes: waits until these, or all of them, are free. Not re-entrant."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + needed <= allowed)
            self._held += needed
        try:
            yield
        finally:
            with self._changed:
                self._held -= needed
                self._changed.notify_all()
