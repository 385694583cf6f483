"""The strides and atrous rates of a backbone's convolutions, by which it reaches its output stride.

A convolution whose stride would exceed the output stride keeps the resolution, and the atrous rates of all later ones
are multiplied by its stride (Chen et al., "Rethinking atrous convolution", arXiv:1706.05587).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any


@dataclasses.dataclass
class Stride:
    """Tracks the stride reached so far while a backbone is built.

    Attributes:
      limit: the stride of the last feature map, the output stride.
      on_blocks: the strides whose cells are centred on blocks (see `trainer.network.layers`).
      reached: the stride of the features so far.
      rate: the atrous rate of the next convolution, once `limit` is reached.
    """

    limit: int
    on_blocks: Collection[int]
    reached: int = 1
    rate: int = 1

    def step(self, stride: int) -> dict[str, Any]:
        """The arguments `strides`, `rate` and `on_blocks` of the next convolution, which nominally has `stride`."""
        if self.reached == self.limit:
            rate, self.rate = self.rate, self.rate * stride
            return {"strides": 1, "rate": rate, "on_blocks": False}
        self.reached *= stride
        return {"strides": stride, "rate": 1, "on_blocks": stride > 1 and self.reached in self.on_blocks}
