"""Which images make a chunk, and that workers read the chunks that were planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.inputs.collection import Images, Listing, SourceImage
from pipelines.segment.plan import Entry, chunk_size, cut, make_plan, read_chunk
from tests.drawn.segmenting import listing, options, written
from trainer.options import InputError


@pytest.mark.parametrize(
    ("images", "batch_size", "before", "size"),
    [
        (10, 1, 0, 1),
        (10, 8, 0, 8),
        (100, 8, 0, 12),
        (640, 1, 0, 16),
        (1280, 1, 0, 20),
        (10_000, 8, 0, 64),
        (10_000, 100, 0, 64),
        (1 << 22, 8, 0, 64),
        (10**8, 8, 0, 1526),
        (10_000, 8, 16, 16),
        (10_000, 8, 15, 64),
        (10_000, 8, 256, 256),
        (10_000, 8, 257, 64),
    ],
)
def test_chunks_are_small_in_small_sets_and_stay_what_they_were(images, batch_size, before, size) -> None:
    assert chunk_size(images, batch_size, before) == size


def chunks(listing: Listing, size: int) -> list[tuple[str, ...]]:
    return [tuple(entry.source.name for entry in chunk) for chunk in cut(map(Entry, listing.images), size)]


@pytest.mark.parametrize("size", [1, 2, 3, 8, 64])
def test_chunks_hold_every_image_once_and_about_as_many_as_asked_for(size: int) -> None:
    found = chunks(listing(2000), size)
    assert [name for chunk in found for name in chunk] == [source.name for source in listing(2000).images]
    assert max(map(len, found)) <= 2 * size and 0.8 < 2000 / len(found) / size < 1.25


def test_an_image_more_or_less_changes_few_chunks() -> None:
    whole = listing(2000)
    before = set(chunks(whole, 16))
    for gone in (0, 777, 1999):
        less = Listing(Images(image for number, image in enumerate(whole.images) if number != gone))
        assert len(before - set(chunks(less, 16))) <= 5


NAMES = ("ä", "two\nlines", "line\u2028separator", "next\x85line", 'quote"', "100%", "\U0001f600", " ")


def test_chunks_are_read_as_they_were_written(tmp_path: Path) -> None:
    images = [SourceImage(f"in/{name}.jpg", name, "e3069283-9") for name in NAMES] + [SourceImage("in/\udcff", "b")]
    (tmp_path / "100%.png").write_bytes(b"")
    chunks = written(tmp_path, make_plan(Listing(Images(images)), options(tmp_path)))
    entries = [entry for chunk in chunks for entry in chunk]
    assert [entry.source for entry in entries] == images
    assert [entry.source.name for entry in entries if entry.existing] == ["100%"]


def test_a_plan_that_is_not_what_was_written_ends_the_run(tmp_path: Path) -> None:
    one, other = (make_plan(listing(count), options(tmp_path)) for count in (1, 2))
    written(tmp_path, one)
    others = [entry.source for chunk in written(tmp_path, other) for entry in chunk]
    read = lambda: read_chunk(str(tmp_path), one.file, one.chunks[0])
    assert [entry.source for entry in read()] == others[:1]
    (tmp_path / one.file).write_bytes((tmp_path / other.file).read_bytes())
    with pytest.raises(InputError, match="was changed or removed"):
        read()
    (tmp_path / one.file).unlink()
    with pytest.raises(InputError, match="was changed or removed"):
        read()
