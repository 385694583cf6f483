"""Which images go into which chunk, and which masks are taken for finished."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from pipelines.inputs.collection import Listing, SourceImage
from pipelines.segment import plan
from pipelines.segment.options import Options
from pipelines.segment.plan import CHUNK, Entry, Plan, check_output, make_plan, place, read_chunk
from trainer.options import InputError


def listing(count: int, modified: int = 0) -> Listing:
    return Listing(tuple(SourceImage(f"in/{n:04d}.jpg", f"{n:04d}", 10, modified) for n in range(count)))


def options(output: Path, **flags: object) -> Options:
    return Options(input="in", model="m", output=str(output), **flags)


@pytest.mark.parametrize(
    ("images", "workers", "batch_size", "sizes"),
    [(10, 1, 1, [3, 3, 3, 1]), (10, 1, 8, [8, 2]), (10, 5, 1, [1] * 10), (1000, 1, 8, [64] * 15 + [40])],
)
def test_every_worker_gets_about_four_chunks_of_whole_batches(images, workers, batch_size, sizes, tmp_path) -> None:
    whole = make_plan(listing(images), options(tmp_path / "out", batch_size=batch_size), workers)
    assert [len(chunk) for chunk in whole.chunks] == sizes and max(sizes) <= CHUNK
    assert [entry.source for chunk in whole.chunks for entry in chunk] == list(listing(images).images)
    assert whole.usable == whole.total == images


def test_images_without_a_place_are_rejected_and_counted(tmp_path: Path) -> None:
    whole = make_plan(dataclasses.replace(listing(2), unusable=(("in/x", "why"),)), options(tmp_path), 1)
    assert (whole.usable, whole.total) == (2, 3)
    assert [(reject.path, reject.stage, reject.reason) for reject in whole.rejects] == [("in/x", "segment", "why")]


def done(output: Path, modified: int, **flags: object) -> bool:
    ((entry,),) = make_plan(listing(1, modified), options(output, **flags), 1).chunks
    return entry.done


def test_a_mask_may_be_finished_where_all_its_files_are_newer_than_the_image(tmp_path: Path) -> None:
    assert not done(tmp_path / "nowhere", 0)
    (tmp_path / "0000.png").write_bytes(b"")
    os.utime(tmp_path / "0000.png", ns=(50, 50))
    assert done(tmp_path, 50) and not done(tmp_path, 51) and not done(tmp_path, 50, overwrite=True)
    assert not done(tmp_path, 50, overlays=True)
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays/0000.jpg").write_bytes(b"")
    assert done(tmp_path, 50, overlays=True) and not done(tmp_path, 50, overlays=True, confidence=True)


def test_chunks_are_read_as_they_were_written(tmp_path: Path) -> None:
    chunks = ((Entry(SourceImage("in/ä.jpg", "ä", 1, 2), True),), (Entry(SourceImage("in/b", "b"), False),))
    digest = plan.write(str(tmp_path), Plan(chunks, ()).chunks)
    lines = (tmp_path / "images.jsonl").read_bytes().splitlines()
    assert tuple(tuple(read_chunk(line)) for line in lines) == chunks
    assert plan.write(str(tmp_path), chunks) == digest != plan.write(str(tmp_path), chunks[:1])


def test_files_of_an_image_have_their_places(tmp_path: Path) -> None:
    assert place("out", "masks", "deep/a") == os.path.join("out", "deep", "a.png")
    assert place("gs://b/out", "overlays", "deep/a") == "gs://b/out/overlays/deep/a.jpg"
    assert place("gs://b/out", "confidence", "a") == "gs://b/out/confidence/a.png"
    with pytest.raises(InputError):
        place("out", "masks", "../a")


def test_an_output_of_other_masks_is_refused_unless_it_is_overwritten(tmp_path: Path) -> None:
    check_output(options(tmp_path), "f")
    (tmp_path / "segment.json").write_text(json.dumps({"fingerprint": "f"}))
    check_output(options(tmp_path), "f")
    with pytest.raises(InputError, match="another model or other options"):
        check_output(options(tmp_path), "g")
    check_output(options(tmp_path, overwrite=True), "g")
    (tmp_path / "segment.json").write_text("[]")
    with pytest.raises(InputError, match="another model or other options"):
        check_output(options(tmp_path), "f")
