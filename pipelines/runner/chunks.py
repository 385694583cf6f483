"""How much work a worker takes at a time: the sizes of chunks of labels and of images, and the number of shards."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

CHUNK = 64
"""The most items of a chunk: enough for images of equal size to share batches, few enough to distribute and retry."""
LABEL_CHUNKS, IMAGE_CHUNKS = 32, 64
"""The number of chunks from which they have so many items."""
LARGEST_SET = 1 << 22
"""The number of images from which chunks become larger instead of more."""
SMALL, SMALL_CHUNKS = 16, 8
"""A chunk has at least SMALL items if that gives SMALL_CHUNKS chunks: in Cloud Storage each costs some requests, two
of labels, seven of images."""
SHARD_BYTES, SHARD_RECORDS = 128 << 20, 1000
"""Bounds on the mean size of the source files behind a shard, and on the mean number of its records."""


def labels_per_chunk(labels: int) -> int:
    """The number of labels of each chunk but the last."""
    return max(1, min(CHUNK, max(labels // LABEL_CHUNKS, min(SMALL, labels // SMALL_CHUNKS))))


def images_per_chunk(images: int, batch_size: int) -> int:
    """The approximate number of images of a chunk."""
    least = max(batch_size, min(SMALL, images // SMALL_CHUNKS))
    return max(min(CHUNK, max(least, -(-images // IMAGE_CHUNKS))), -(-images * CHUNK // LARGEST_SET))


def is_full(images: int, last: str, size: int) -> bool:
    """Whether a chunk of about `size` images, at most twice as many, ends with its last one, of that name.

    The names determine the ends. Adding or removing an image therefore changes its own chunk and few others.
    """
    least, share = size - size // 2, size // 2 + 1
    digest = int.from_bytes(hashlib.md5(last.encode()).digest()[:8], "big")
    return images >= least and (images == 2 * size or digest % share == 0)


def chunks_of_images(names: Iterable[str], size: int) -> int:
    """The number of chunks of about `size` images with these names."""
    chunks = images = 0
    for name in names:
        images += 1
        if is_full(images, name, size):
            chunks, images = chunks + 1, 0
    return chunks + (images > 0)


def shards(records: int, size: int) -> int:
    """The number of shards for that many records, whose source files have `size` bytes."""
    return max(-(-records // SHARD_RECORDS), -(-size // SHARD_BYTES))


def shards_of_split(shards: int, records: int, largest: int) -> int:
    """The number of shards for a split of that many records, if the split of `largest` has `shards`."""
    return max(1, round(shards * records / largest))
