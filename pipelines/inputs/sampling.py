"""Reads a sample of a set's labels, and sums up the values that they hold."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.runner.isolation import Failed, attempt
from trainer import prefetch, storage
from trainer.formats import codings, images, label_images
from trainer.formats.labels import Color, pack, ranges, unpack
from trainer.formats.runs import pixels_of_ids
from trainer.limits import cores
from trainer.terminal import some

SAMPLED_LABELS = 32
SAMPLED_COLORS = 1000
SAMPLED_PIXELS = 20_000

Read = Callable[[str], label_images.Label]
"""Reads the label at a path; `read_label`, or a function that does the same in another process."""


def read_label(path: str, read: prefetch.Read = storage.read) -> label_images.Label:
    """Reads the label file at `path`. Raises OSError, or ImageError if it is not a label."""
    return label_images.read_label(read(path))


def sampled(paths: Sequence[str], read: Read) -> Iterator[tuple[str, label_images.Label]]:
    """Yields SAMPLED_LABELS evenly spaced labels with their paths; unreadable ones are left out."""
    count, is_here = min(SAMPLED_LABELS, len(paths)), read is read_label
    chosen = [paths[index * len(paths) // count] for index in range(count)]

    def look(path: str, fetch: prefetch.Read) -> label_images.Label:
        one = functools.partial(read_label, path, fetch) if is_here else functools.partial(read, path)
        return attempt(one, known=(images.ImageError, OSError))

    for path, result in prefetch.work_ahead(chosen, lambda path: (path,) if is_here else (), look, cores()):
        try:
            label = result()
        except (images.ImageError, OSError, Failed):
            continue
        yield path, label


def without_pixels(label: label_images.Label) -> label_images.Label:
    """A label with the same values, at most SAMPLED_COLORS of them, in nearly the same shares of few pixels."""
    if label.codes.ndim == 2:
        values, pixels = label.used, pixels_of_ids(label.codes)[label.used]
    else:
        packed, pixels = np.unique(pack(label.codes), return_counts=True)
        most = np.argsort(-pixels, kind="stable")[:SAMPLED_COLORS]
        values, pixels = np.array([*map(unpack, packed[most].tolist())]), pixels[most]
    few = 1 + pixels * SAMPLED_PIXELS // max(1, int(pixels.sum()))
    return replace(label, codes=np.repeat(values.astype(np.uint8), few, axis=0)[None])


def colors_of(label: label_images.Label) -> set[Color]:
    """The colours of a three-channel label, at most SAMPLED_COLORS."""
    return set(map(unpack, np.unique(pack(label.codes))[:SAMPLED_COLORS].tolist()))


@dataclass(frozen=True)
class SampledValues:
    """The values in some labels of a set.

    Attributes:
      labels: the number of labels that could be read.
      ids: ids or palette indices of single-channel labels.
      colors: RGB colours of three-channel labels, at most SAMPLED_COLORS per label.
      embedded: the colour maps of palette images.
      mapped: the colours of the indices in use; None is a transparent one.
      is_mapped: whether every single-channel label has a colour map.
    """

    labels: int
    ids: frozenset[int]
    colors: frozenset[Color]
    embedded: frozenset[tuple[Color, ...]]
    mapped: frozenset[Color | None]
    is_mapped: bool

    def describe(self) -> str:
        """The values in words, such as "2 sampled labels hold ids 0-3 and 255"."""
        if not self.labels:
            return "none of the sampled labels could be read"
        subject = "1 sampled label holds" if self.labels == 1 else f"{self.labels} sampled labels hold"
        return f"{subject} {values_in_words(self.ids, self.colors | self.mapped - {None})}"


def sum_up(labels: Iterable[tuple[str, label_images.Label]]) -> SampledValues:
    """The values in labels, each of which comes with its path."""
    count, ids, colors, embedded, mapped, is_mapped = 0, set(), set(), set(), set(), True
    for _, label in labels:
        count += 1
        if label.codes.ndim == 2:
            ids.update(label.used.tolist())
            is_mapped &= label.colormap is not None
            if label.colormap is not None:
                embedded.add(tuple(map(tuple, label.colormap.tolist())))
                mapped.update(codings.seen_colors(label))
        elif len(colors) < SAMPLED_COLORS:
            colors |= colors_of(label)
    return SampledValues(count, *map(frozenset, (ids, colors, embedded, mapped)), is_mapped)


def values_in_words(ids: Collection[int], colors: Collection[Color]) -> str:
    """Ids and colours, in words."""
    parts = [f"ids {ranges(sorted(ids))}"] if ids else []
    every = sorted(colors)
    count = "1 colour" if len(every) == 1 else f"{len(every)} colours"
    parts += [f"{count} {some(every, 6)}"] if every else []
    return " and ".join(parts)
