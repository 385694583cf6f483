"""Which images go into which chunk, and which masks are taken for finished."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from pipelines.inputs.collection import Listing, SourceImage
from pipelines.inputs.selection import load as load_selection
from pipelines.masks.stamps import Stamp, stamp_png
from pipelines.segment import plan
from pipelines.segment.options import Options
from pipelines.segment.plan import (
    CHUNK,
    Entry,
    Plan,
    check_output_is_ours,
    make_plan,
    may_lack_stamps,
    place,
    previous,
    read_chunk,
    selected,
)
from tests.drawn.segmenting import PALETTE
from trainer.options import InputError


def listing(count: int) -> Listing:
    return Listing(tuple(SourceImage(f"in/{n:04d}.jpg", f"{n:04d}") for n in range(count)))


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


def test_a_selection_takes_images_with_a_place_and_without(tmp_path: Path) -> None:
    whole = dataclasses.replace(listing(3), unusable=(("in/x.jpg", "why"), ("in/y.jpg", "why")), notes=("note",))
    assert selected(whole, None) is whole
    (tmp_path / "list.txt").write_text("0001\nx\ngone\n")
    some = selected(whole, load_selection("", "", str(tmp_path / "list.txt")))
    assert (some.images, some.unusable) == (whole.images[1:2], whole.unusable[:1])
    assert some.notes[0] == "note" and some.notes[1].startswith("selection: 2 of 5 files")
    assert "1 of its 3 images have no file, such as gone" in some.notes[1]


def existing(output: Path, **flags: object) -> tuple[str, ...]:
    ((entry,),) = make_plan(listing(1), options(output, **flags), 1).chunks
    return entry.existing


def test_files_that_are_there_already_are_noted_whatever_their_times(tmp_path: Path) -> None:
    assert existing(tmp_path / "nowhere") == ()
    (tmp_path / "0000.PNG").write_bytes(b"")
    os.utime(tmp_path / "0000.PNG", ns=(0, 0))
    assert existing(tmp_path) == ("masks",) and existing(tmp_path, overwrite=True) == ()
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays/0000.jpg").write_bytes(b"")
    assert existing(tmp_path) == ("masks",)
    assert existing(tmp_path, overlays=True, confidence=True) == ("masks", "overlays")


def test_a_file_whose_name_some_systems_take_for_the_masks_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "A\u0308.png").write_bytes(b"")
    ((entry,),) = make_plan(Listing((SourceImage("in/ä.jpg", "ä"),)), options(tmp_path), 1).chunks
    assert entry.existing == ("masks",)


NAMES = ("ä", "two\nlines", "line\u2028separator", "next\x85line", 'quote"', "100%", "\U0001f600", " ")


def test_chunks_are_read_as_they_were_written(tmp_path: Path) -> None:
    entries = [Entry(SourceImage(f"in/{name}.jpg", name, "e3069283-9"), ("masks",)) for name in NAMES]
    whole = Plan((tuple(entries), (Entry(SourceImage("in/\udcff", "b")),)), ())
    plan.write(str(tmp_path), whole)
    lines = plan.read(str(tmp_path), whole.file)
    assert tuple(tuple(read_chunk(line)) for line in lines if line) == whole.chunks
    assert len(lines) == 3


def test_a_plan_that_is_not_what_was_written_ends_the_run(tmp_path: Path) -> None:
    one, other = (make_plan(listing(count), options(tmp_path), 1) for count in (1, 2))
    plan.write(str(tmp_path), one)
    plan.write(str(tmp_path), other)
    assert plan.read(str(tmp_path), one.file) == one.lines.split(b"\n")
    (tmp_path / one.file).write_bytes(other.lines)
    with pytest.raises(InputError, match="was changed or removed"):
        plan.read(str(tmp_path), one.file)
    (tmp_path / one.file).unlink()
    with pytest.raises(InputError, match="was changed or removed"):
        plan.read(str(tmp_path), one.file)


def test_earlier_plans_are_swept_and_nothing_else(tmp_path: Path) -> None:
    earlier = make_plan(listing(1), options(tmp_path), 1)
    plan.write(str(tmp_path), earlier)
    others = ("images-0123456789abcdef.jsonl", "images.jsonl", "images-2.jsonl")
    for name in others:
        (tmp_path / name).write_text("{}\n")
    whole = make_plan(listing(2), options(tmp_path), 1)
    plan.write(str(tmp_path), whole)
    plan.sweep(str(tmp_path), whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((*others, whole.file))


def test_files_of_an_image_have_their_places(tmp_path: Path) -> None:
    assert place("out", "masks", "deep/a") == os.path.join("out", "deep", "a.png")
    assert place("gs://b/out", "overlays", "deep/a") == "gs://b/out/overlays/deep/a.jpg"
    assert place("gs://b/out", "confidence", "a") == "gs://b/out/confidence/a.png"
    with pytest.raises(InputError):
        place("out", "masks", "../a")


def write_report(folder: Path, **report: object) -> None:
    (folder / "segment.json").write_text(json.dumps(report))


def test_an_output_of_other_masks_is_refused_unless_it_is_overwritten(tmp_path: Path) -> None:
    assert previous(options(tmp_path), "f") is None
    write_report(tmp_path, fingerprint="f")
    assert previous(options(tmp_path), "f") == {"fingerprint": "f"}
    for text in ('{"fingerprint": "g"}', "{}", "[]", "no JSON"):
        (tmp_path / "segment.json").write_text(text)
        with pytest.raises(InputError, match="another model or other options"):
            previous(options(tmp_path), "f")
        previous(options(tmp_path, overwrite=True), "f")


def test_overlays_without_stamps_can_be_those_of_version_0_2(tmp_path: Path) -> None:
    assert not may_lack_stamps(None) and not may_lack_stamps({"plan": "p"})
    assert may_lack_stamps({"fingerprint": "f"}) and may_lack_stamps({"plan": "p", "unstamped": True})


def test_rejects_of_another_command_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "rejects.jsonl").write_text("")
    with pytest.raises(InputError, match="was not written by this command"):
        previous(options(tmp_path), "f")
    assert previous(options(tmp_path, overwrite=True), "f") is None
    write_report(tmp_path, fingerprint="f")
    previous(options(tmp_path), "f")


@pytest.mark.parametrize("name", ["rejects.jsonl", "segment.json"])
@pytest.mark.parametrize("flag", ["input", "list"])
def test_a_list_of_images_is_never_replaced(name: str, flag: str, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(InputError, match=f"--{flag} .* would be replaced by what is written"):
        previous(dataclasses.replace(options(tmp_path, overwrite=True), **{flag: str(tmp_path / "link" / name)}), "f")


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_image_is_never_replaced(overwrite: bool, tmp_path: Path) -> None:
    image = tmp_path / "photos" / "a.png"
    image.parent.mkdir()
    image.write_bytes(b"image")
    images = Listing((SourceImage(str(image), "a"), SourceImage(str(tmp_path / "gone.png"), "b")))
    places = {}
    for kind in ("folder", "hard", "soft"):
        output = places[kind] = tmp_path / kind
        if kind == "folder":
            output.symlink_to(image.parent)
            continue
        output.mkdir()
        (output / "a.png").hardlink_to(image) if kind == "hard" else (output / "a.png").symlink_to(image)
    for output in places.values():
        with pytest.raises(InputError, match=f"a.png would be written for {image}, but is the image {image}"):
            make_plan(images, options(output, overwrite=overwrite), 1)
    make_plan(images, options(tmp_path / "elsewhere", overwrite=overwrite), 1)


def test_a_folder_of_somebody_elses_files_is_refused(tmp_path: Path) -> None:
    def check() -> None:
        check_output_is_ours(options(tmp_path), make_plan(listing(20), options(tmp_path), 1))

    check()
    (tmp_path / "0005.png").write_bytes(b"")
    png = PALETTE.encode_mask(np.zeros((2, 2), np.uint8))
    (tmp_path / "0006.png").write_bytes(stamp_png(png, Stamp("f", "i")))
    check()
    (tmp_path / "0007.png").write_bytes(png)
    with pytest.raises(InputError, match=r"0007\.png is in the way: this program did not write it"):
        check()
