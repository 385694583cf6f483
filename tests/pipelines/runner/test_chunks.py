"""How much work a worker takes at a time."""

from __future__ import annotations

import pytest

from pipelines.runner import chunks


@pytest.mark.parametrize(
    "labels, size", [(0, 1), (1, 1), (15, 1), (16, 2), (128, 16), (543, 16), (544, 17), (2048, 64), (10**6, 64)]
)
def test_labels_are_cut_into_chunks_that_are_small_in_small_sets(labels: int, size: int) -> None:
    assert chunks.labels_per_chunk(labels) == size


@pytest.mark.parametrize(
    "records, size, number",
    [(0, 0, 0), (1, 1, 1), (1000, 128 << 20, 1), (1001, 1, 2), (1, (128 << 20) + 1, 2), (5000, 1 << 30, 8)],
)
def test_shards_are_as_many_as_the_records_or_their_bytes_demand(records: int, size: int, number: int) -> None:
    assert chunks.shards(records, size) == number
