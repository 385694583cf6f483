"""How labels and masks are paired by their names, and cut into chunks."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.evaluate.plan import Plan, compared_names, pair, read_chunk
from pipelines.evaluate.sources import Comparison, Sources
from pipelines.inputs.names import name_of
from pipelines.inputs.selection import load
from pipelines.runner import handover
from trainer import storage
from trainer.formats.labels import Palette
from trainer.formats.palettes import resolve
from trainer.options import InputError

PALETTE = Palette(name="two", names=("left", "right"), colors=((200, 0, 0), (0, 200, 0)))


def files(folder: Path, *names: str) -> str:
    """Empty files of these names in a folder: names are all that is looked at."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return str(folder)


def test_keys_are_paths_without_suffix() -> None:
    assert name_of("a.b/c") == "a.b/c" and name_of("a.b/c.d.png") == "a.b/c.d"
    assert name_of("ulm/ulm_1_gtFine_labelIds.png") == "ulm/ulm_1_leftImg8bit"
    assert name_of("ulm/ulm_1_gtFine_labelTrainIds.png") == "ulm/ulm_1_leftImg8bit"


def test_labels_among_objects_pair_with_masks_whose_names_are_in_the_normal_form(monkeypatch) -> None:
    objects = {"labels": ("x//a.png", "x/./b.png"), "masks": ("x/a.png", "x/b.png")}
    listed = {f"gs://bucket/{folder}": names for folder, names in objects.items()}
    monkeypatch.setattr(storage, "exists", lambda path: False)
    monkeypatch.setattr(
        storage, "files", lambda folder: [storage.File(f"{folder}/{name}", name, 1, 1) for name in listed[folder]]
    )
    plan = pair(Sources("gs://bucket/labels", ("gs://bucket/masks",), PALETTE))
    assert plan.comparisons == (
        Comparison("x/a", "x//a.png", ("x/a.png",)),
        Comparison("x/b", "x/./b.png", ("x/b.png",)),
    )


def test_folders_get_the_shortest_distinct_names() -> None:
    assert compared_names(("out/masks/", "out/crf")) == ["masks", "crf"]
    assert compared_names(("a/masks", "b/masks")) == ["a/masks", "b/masks"]


def test_labels_are_those_with_a_mask_in_every_folder_and_the_others_are_rejected(tmp_path: Path) -> None:
    labels = files(tmp_path / "labels", "b.png", "a.bmp", "sub/c.png", "one.png", "none.tif", ".hidden.png", "x.txt")
    first = files(tmp_path / "first", "a.png", "b.png", "sub/c.png", "one.png", "more.png", "overlays/a.png")
    second = files(tmp_path / "second", "a.png", "b.png", "sub/c.png", ".cache/one.png")
    plan = pair(Sources(labels, (first, second), PALETTE))
    assert [one.label for one in plan.comparisons] == ["a.bmp", "b.png", "sub/c.png"]
    assert plan.comparisons[0] == Comparison("a", "a.bmp", ("a.png", "a.png"))
    assert [(reject.key, reject.path, reject.stage, reject.reason) for reject in plan.rejects] == [
        ("none", f"{labels}/none.tif", "evaluate", f"no mask none.png in {first}, {second}"),
        ("one", f"{labels}/one.png", "evaluate", f"no mask one.png in {second}"),
    ]
    assert plan.total == 5
    assert plan.without_label == {first: 1, second: 0}
    assert plan.notes == (f"files in {labels} that are not labels, left out: 1 of .txt, 1 hidden",)


def test_labels_named_after_their_images_by_a_rule_get_the_masks_of_these(tmp_path: Path) -> None:
    labels = files(tmp_path / "labels", "x/a_gt.png", "x/b_gt.png", "x/c_gt.jpg", "other.png")
    masks = files(tmp_path / "masks", "x/a.png", "x/b.png", "x/c.png")
    (tmp_path / "val.txt").write_text("a\n")
    for selection, taken in ((None, ["x/a_gt.png", "x/b_gt.png"]), (load("", "", str(tmp_path / "val.txt")), None)):
        plan = pair(Sources(labels, (masks,), PALETTE), selection)
        assert [one.label for one in plan.comparisons] == (taken or ["x/a_gt.png"])
        assert plan.comparisons[0] == Comparison("x/a", "x/a_gt.png", ("x/a.png",))
        assert "labels named *_gt like images *" in plan.notes


@pytest.mark.parametrize(
    ("image", "label"), [("{}_sat", "{}_mask"), ("{}", "{}_mask"), ("{}_jpg.rf.c", "{}_jpg.rf.c_mask")]
)
def test_labels_beside_the_jpegs_of_their_images_are_told_from_these(tmp_path: Path, image: str, label: str) -> None:
    """As in DeepGlobe, and in what Roboflow exports; an image without a label is still a reject."""
    names = [f"{number}" for number in range(4)]
    labels = files(tmp_path / "set", *(f"{image.format(name)}.jpg" for name in names))
    files(tmp_path / "set", *(f"{label.format(name)}.png" for name in names[:3]))
    masks = files(tmp_path / "masks", *(f"{image.format(name)}.png" for name in names))
    plan = pair(Sources(labels, (masks,), PALETTE))
    assert [one.label for one in plan.comparisons] == [f"{label.format(name)}.png" for name in names[:3]]
    assert [reject.key for reject in plan.rejects] == [image.format("3")]
    assert "images beside the labels, left out: 3" in plan.notes


@pytest.mark.parametrize(("labels", "size"), [(3, 1), (50, 6), (200, 16), (1000, 31), (5000, 64)])
def test_chunks_name_all_labels_once_with_the_number_of_their_first(tmp_path: Path, labels: int, size: int) -> None:
    names = [f"é\u2028\n\x85 {number}" for number in range(labels)]
    plan = Plan(Sources("labels", ("m",), PALETTE), tuple(Comparison(n, f"{n}.png", (f"{n}.png",)) for n in names))
    handover.write_plan(str(tmp_path), plan.lines)
    chunks = [read_chunk(str(tmp_path), plan.digest, number) for number in range(plan.chunks)]
    assert [one for _, chunk in chunks for one in chunk] == list(plan.comparisons)
    assert [first for first, _ in chunks] == list(range(0, labels, size))


def test_the_palette_decides_which_coding_of_cityscapes_is_read(tmp_path: Path) -> None:
    names = [f"ulm/ulm_1_gtFine_{coding}.png" for coding in ("color", "labelIds", "labelTrainIds")]
    labels, masks = files(tmp_path / "labels", *names), files(tmp_path / "masks", "ulm/ulm_1_leftImg8bit.png")
    for palette, name in (("cityscapes", names[1]), ("cityscapes-trainids", names[2])):
        (one,) = pair(Sources(labels, (masks,), resolve(palette))).comparisons
        assert (one.key, one.label) == ("ulm/ulm_1_leftImg8bit", name)
    (tmp_path / "labels" / names[2]).unlink()
    with pytest.raises(InputError, match=r"no file ends in _gtFine_labelTrainIds\.png, which palette cityscapes"):
        pair(Sources(labels, (masks,), resolve("cityscapes-trainids")))


def test_labels_without_any_mask_are_refused(tmp_path: Path) -> None:
    labels, masks = files(tmp_path / "labels", "b.png", "a.png"), files(tmp_path / "masks", "z.png", "y.png")
    with pytest.raises(InputError, match=r"the first label is a\.png, the first mask y\.png"):
        pair(Sources(labels, (masks,), PALETTE))
