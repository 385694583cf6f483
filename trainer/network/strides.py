"""How a backbone reaches its output stride.

A stage whose stride would exceed `output_stride` keeps the resolution, and all convolutions after it get its stride as
their atrous rate (Chen et al., "Rethinking atrous convolution", arXiv:1706.05587).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any


@dataclasses.dataclass
class Stride:
    """Keeps account of the stride reached so far while a backbone is built.

    Attributes:
      limit: the stride of the last feature map.
      on_blocks: the strides whose cells are centred on blocks (see `trainer.network.layers`).
    """

    limit: int
    on_blocks: Collection[int]
    reached: int = 1
    rate: int = 1

    def step(self, stride: int) -> dict[str, Any]:
        """Arguments `strides`, `rate` and `on_blocks` for the next convolution, which would like to take `stride`."""
        if self.reached == self.limit:
            rate, self.rate = self.rate, self.rate * stride
            return {"strides": 1, "rate": rate, "on_blocks": False}
        self.reached *= stride
        return {"strides": stride, "rate": 1, "on_blocks": stride > 1 and self.reached in self.on_blocks}
