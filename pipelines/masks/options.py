"""Options of the commands that make masks: the number and sizes of the views of an image that the network sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.options import CheckedOptions, InputError, option


@dataclass(frozen=True)
class Views:
    """The views of an image that the network sees, see `pipelines.masks.views.mean_softmax`.

    Attributes:
      scales: sizes of the views, relative to the image after shrinking.
      flip: whether the network also sees each view mirrored.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    @property
    def is_single(self) -> bool:
        """Whether the network sees the image only once and unchanged."""
        return self == Views()

    @property
    def area(self) -> float:
        """Pixels of the largest view per pixel of the image, at least 1."""
        return max(1.0, *self.scales) ** 2

    @property
    def passes(self) -> float:
        """The cost of all views, relative to one pass over the image itself."""
        return (1 + self.flip) * sum(scale**2 for scale in self.scales)

    @property
    def flags(self) -> str:
        """The flags for these views; "" for the image itself, seen once."""
        scales = f"--scales {' '.join(f'{scale:g}' for scale in self.scales)}" if self.scales != (1.0,) else ""
        return f"{scales} {'--flip' * self.flip}".strip()

    def to_json(self) -> dict[str, Any]:
        return {"scales": list(self.scales), "flip": self.flip}


SINGLE = Views()
"""The image itself, seen once."""


@dataclass(frozen=True)
class ViewOptions(CheckedOptions):
    """Test-time augmentation: averages the network's probabilities over several views of an image."""

    scales: tuple[float, ...] = option(
        (1.0,),
        "sizes at which the network sees every image, relative to its size after --max-side; the probabilities are "
        "averaged; 1 1.5 finds more thin objects, in three times the time",
        low=0.25,
        high=4,
        group="network",
    )
    flip: bool = option(False, "show the network every image mirrored as well; takes twice the time", group="network")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.scales)) < len(self.scales):
            raise InputError(f"{Views(self.scales).flags} names a size twice")

    @property
    def views(self) -> Views:
        """The views that the network sees."""
        return Views(tuple(sorted(self.scales)), self.flip)
