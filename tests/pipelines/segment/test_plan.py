"""Which images go into which chunk, and which masks are taken for finished."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from pipelines.inputs import rows
from pipelines.inputs.collection import Images, Listing, SourceImage, find
from pipelines.inputs.selection import load as load_selection
from pipelines.segment import existing as existing_files
from pipelines.segment import plan, table
from pipelines.segment.plan import make_plan, place, selected
from tests.drawn.segmenting import PALETTE, listing, options, written
from trainer.options import InputError
from trainer.storage import File


def test_the_plan_is_the_images_in_their_order(tmp_path: Path) -> None:
    whole = make_plan(listing(100), options(tmp_path / "out"))
    chunks = written(tmp_path, whole)
    assert [entry.source for chunk in chunks for entry in chunk] == [*listing(100).images]
    assert whole.parts == {table.part_of(entry.source.name for entry in chunk) for chunk in chunks}
    assert len(chunks) == len(whole.chunks) == len(whole.parts)
    assert whole.usable == whole.total == 100 and whole.size == 12
    assert make_plan(listing(100), options(tmp_path / "out"), 16).size == 16


def test_a_plan_that_does_not_fit_in_memory_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "a.png",
        "a.jpg",
        "b c.jpg",
        "B/x.jpg",
        "b/ü.JPG",
        "z.png/y.jpg",
        "z.jpg",
        "no.txt",
        "overlays/q.png",
    ):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(b"x")

    def planned() -> tuple:
        found = find(str(tmp_path / "in"), str(tmp_path / "out"))
        whole = make_plan(found, options(tmp_path / "out", batch_size=1))
        return found.unusable, found.notes, whole.file, whole.chunks, whole.rejects

    expected = planned()
    monkeypatch.setattr(rows, "HELD", 2)
    monkeypatch.setattr(rows, "BLOCK", 1)
    assert planned() == expected and len(expected[3]) == 6 and len(expected[4]) == 2


def test_images_without_a_place_are_rejected_and_counted(tmp_path: Path) -> None:
    whole = make_plan(dataclasses.replace(listing(2), unusable=(("in/x", "why"),)), options(tmp_path))
    assert (whole.usable, whole.total) == (2, 3)
    assert [(reject.path, reject.stage, reject.reason) for reject in whole.rejects] == [("in/x", "segment", "why")]


def test_a_selection_takes_images_with_a_place_and_without(tmp_path: Path) -> None:
    whole = dataclasses.replace(listing(3), unusable=(("in/x.jpg", "why"), ("in/y.jpg", "why")), notes=("note",))
    assert selected(whole, None) is whole
    (tmp_path / "list.txt").write_text("0001\nx\ngone\n")
    some = selected(whole, load_selection("", "", str(tmp_path / "list.txt")))
    reason = f"named by list {tmp_path / 'list.txt'}, but there is no file of that name"
    assert ([*some.images], some.unusable) == ([*whole.images][1:2], (*whole.unusable[:1], ("gone", reason)))
    assert some.notes[0] == "note" and some.notes[1].startswith("selection: 2 of 5 files")
    assert "1 of its 3 images have no file, such as gone" in some.notes[1]


def existing(output: Path, **flags: object) -> tuple[str, ...]:
    ((entry,),) = written(output.parent, make_plan(listing(1), options(output, **flags)))
    return tuple(entry.existing)


def test_files_that_are_there_already_are_noted_whatever_their_times(tmp_path: Path) -> None:
    assert existing(tmp_path / "nowhere") == ()
    (tmp_path / "0000.PNG").write_bytes(b"")
    os.utime(tmp_path / "0000.PNG", ns=(0, 0))
    assert existing(tmp_path) == ("masks",) and existing(tmp_path, overwrite=True) == ()
    (tmp_path / "overlays").mkdir()
    (tmp_path / "overlays/0000.jpg").write_bytes(b"")
    assert existing(tmp_path) == ("masks",)
    assert existing(tmp_path, overlays=True, confidence=True) == ("masks", "overlays")
    assert existing(tmp_path, overlays=True, masks=False) == ("overlays",)


def test_files_that_are_there_look_as_their_listing_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["0000.png", "0001.png", "0002.png"]
    for folder, expected in (("out", ["12-34", "13-34", ""]), ("gs://b/out", ["e3069283-9", "-0000001-9", ""])):
        remote = folder != "out"
        files = [File(name, name, 9, 1, "e3069283-9" * (n == 0)) for n, name in enumerate(names[:2])]
        files = files if remote else [File(name, name, 12 + n, 34) for n, name in enumerate(names[:2])]
        monkeypatch.setattr(plan.storage, "walk", lambda folder, files=files: iter(files))
        files = existing_files.ExistingFiles(folder)
        assert files and files.signatures(names) == expected
        assert existing_files.signature(9, 0xE3069283, True) == plan.storage.identity(b"123456789")


def test_a_file_whose_name_some_systems_take_for_the_masks_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "A\u0308.png").write_bytes(b"")
    whole = make_plan(Listing(Images([SourceImage("in/ä.jpg", "ä")])), options(tmp_path))
    ((entry,),) = written(tmp_path, whole)
    assert [*entry.existing] == ["masks"]


def test_earlier_plans_are_swept_and_nothing_else(tmp_path: Path) -> None:
    earlier = make_plan(listing(1), options(tmp_path))
    plan.write(str(tmp_path), earlier)
    kept, gone = (table.part_of(names) for names in (["0000", "0001"], ["0000"]))
    for part in (kept, gone):
        table.write(str(tmp_path), part, [], "f", PALETTE)
    others = ["images-0123456789abcdef.jsonl", "images.jsonl", "images-2.jsonl", "images.parquet/part-2.parquet"]
    others += [f"images.parquet/part-{'0' * 16}.parquet"]
    for name in others:
        (tmp_path / name).write_text("{}\n")
    whole = make_plan(listing(2), options(tmp_path))
    plan.write(str(tmp_path), whole)
    plan.sweep(str(tmp_path), whole)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*others, whole.file, kept}


def test_files_of_an_image_have_their_places(tmp_path: Path) -> None:
    assert place("out", "masks", "deep/a") == os.path.join("out", "deep", "a.png")
    assert place("gs://b/out", "overlays", "deep/a") == "gs://b/out/overlays/deep/a.jpg"
    assert place("gs://b/out", "confidence", "a") == "gs://b/out/confidence/a.png"
    with pytest.raises(InputError):
        place("out", "masks", "../a")


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_image_is_never_replaced(overwrite: bool, tmp_path: Path) -> None:
    image = tmp_path / "photos" / "a.png"
    image.parent.mkdir()
    image.write_bytes(b"image")
    images = Listing(Images([SourceImage(str(image), "a"), SourceImage(str(tmp_path / "gone.png"), "b")]))
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
            make_plan(images, options(output, overwrite=overwrite))
    make_plan(images, options(tmp_path / "elsewhere", overwrite=overwrite))
