"""Images that are there twice, within a split and across two, and the frames of films."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.doctor.copies import hashed, near
from pipelines.doctor.tally import PRINT
from pipelines.inputs.splits import hash_split
from tests.drawn.encoded import saved
from tests.drawn.ill import Examined, draw_set, examine, prepare_as_proposed, scene
from tests.drawn.prepared import read_records
from tests.drawn.records import PALETTE


def copy(folder: Path, source: str, target: str, label: bool = True) -> None:
    for kind in ("images", "labels") if label else ("images",):
        shutil.copyfile(folder / kind / f"{source}.png", folder / kind / f"{target}.png")


@pytest.fixture(scope="module")
def doubled(tmp_path_factory):
    """A set with copies: in a split, across splits, re-encoded and brighter across splits, one of another label."""
    folder = tmp_path_factory.mktemp("doubled")
    truth = draw_set(folder / "set")
    copy(folder / "set", "train/a0", "train/b0")
    copy(folder / "set", "train/a1", "val/b1")
    copy(folder / "set", "train/a2", "val/b2")
    copy(folder / "set", "train/a3", "train/b3")
    image = Image.open(folder / "set/images/train/a2.png").resize((48, 48)).resize((64, 64))
    brighter = np.clip(np.asarray(image) * 1.1, 0, 255).astype(np.uint8)
    (folder / "set/images/val/b2.png").write_bytes(saved(Image.fromarray(brighter), "JPEG", quality=80))
    (folder / "set/labels/train/b3.png").write_bytes(saved((truth["train/a3"] == 0).astype(np.uint8)))
    return folder, truth, examine(folder / "set", folder / "out")


def test_copies_are_reported_by_their_consequences(doubled):
    _, _, found = doubled
    assert found.kinds == {
        "contradictions": "wrong",
        "leaks": "wrong",
        "near-leaks": "wrong",
        "duplicates": "note",
    }
    assert found.status == 2
    for kind, name in (("contradictions", "a3"), ("leaks", "a1"), ("near-leaks", "a2"), ("duplicates", "a0")):
        assert Path(found.finding(kind)["examples"][0]["path"]).stem == name


def test_the_manifest_keeps_validation_whole_and_trains_on_no_image_of_it(doubled, tmp_path):
    _, truth, found = doubled
    made = prepare_as_proposed(found, tmp_path / "records")
    assert truth.keys() - made.keys() == {"train/a1", "train/a2", "train/a3"}
    assert made.keys() - truth.keys() == {"train/b0", "val/b1", "val/b2"}
    again = examine(
        found.output / "manifest.jsonl", tmp_path / "again", "--palette", str(doubled[0] / "set/palette.json")
    )
    assert again.status == 0


def write_films(folder: Path, films: int, frames: int) -> None:
    """Frames in which everything moves by a pixel, in the layout of images with labels."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    (folder / "palette.json").write_text(json.dumps(PALETTE.to_json()))
    for film in range(films):
        image, label = scene(film, 64, 64 + frames)
        for frame in range(frames):
            name = f"film{film}_{frame:04d}.png"
            (folder / "images" / name).write_bytes(saved(image[:, frame : frame + 64]))
            (folder / "labels" / name).write_bytes(saved(label[:, frame : frame + 64]))


def test_frames_of_a_film_are_kept_in_one_split_by_the_proposed_group(tmp_path):
    write_films(tmp_path / "set", films=6, frames=5)
    flags = ("--val-fraction", "0.3")
    found = examine(tmp_path / "set", tmp_path / "out", *flags)
    assert found.kinds["films"] == "wrong" and "--group-by" in found.report["prepare"]
    prepare_as_proposed(found, tmp_path / "records")
    splits = {split: read_records(tmp_path / "records", split) for split in ("train", "val")}
    films = {split: {one.key.split("/")[-1][:5] for one in records} for split, records in splits.items()}
    assert films["train"] and films["val"] and not films["train"] & films["val"]
    assert examine(tmp_path / "set", tmp_path / "out", *flags, "--group-by", r"^(.*?)\d+$").status == 0
    found = examine(tmp_path / "set", tmp_path / "out", *flags, r"--group-by=-?(film\d)")
    assert found.status == 0 and prepare_as_proposed(found, tmp_path / "again")


def test_a_manifest_of_films_has_the_splits_of_the_proposed_group_and_no_copies_across_them(tmp_path):
    """The hash of a manifest's keys, which are whole paths, is another, and need not hold out any film."""
    write_films(tmp_path / "set", films=6, frames=5)
    (tmp_path / "set/labels/film2_0001.png").write_bytes(b"cut off")
    for film in range(6):  # whatever the group of the copy, it is in the other split than one of them
        copy(tmp_path / "set", f"film{film}_0000", f"still{film}")
    found = examine(tmp_path / "set", tmp_path / "out")
    rows = [json.loads(line) for line in (found.output / "manifest.jsonl").read_text().splitlines()]
    films = {
        split: {Path(row["image"]).name[:5] for row in rows if row["split"] == split} for split in ("train", "val")
    }
    assert films["train"] and films["val"] and not films["train"] & films["val"]
    assert found.kinds["leaks"] == "wrong"
    palette = ("--palette", str(tmp_path / "set/palette.json"))
    assert examine(found.output / "manifest.jsonl", tmp_path / "again", *palette).status == 0


def test_a_split_is_not_called_empty_where_the_proposed_group_divides_the_set_anew(tmp_path):
    """The films that are held out are others than the frames that the hash of the names held out."""
    write_films(tmp_path / "set", films=6, frames=5)
    for path in sorted((tmp_path / "set/labels").iterdir()):
        if hash_split(path.stem, 0.3) == "val":
            path.write_bytes(saved(np.zeros((32, 64), np.uint8)))
    found = examine(tmp_path / "set", tmp_path / "out", "--val-fraction", "0.3")
    assert found.kinds["sizes"] == "reject" and "emptied-split" not in found.kinds
    assert "--group-by" in found.report["prepare"]


def test_numbered_images_that_do_not_look_alike_are_no_film(tmp_path):
    draw_set(tmp_path / "drawn", splits={"train": 20})
    for kind in ("images", "labels"):
        shutil.copytree(tmp_path / "drawn" / kind / "train", tmp_path / "set" / kind)
    shutil.copyfile(tmp_path / "drawn/palette.json", tmp_path / "set/palette.json")
    found = examine(tmp_path / "set", tmp_path / "out", "--val-fraction", "0.3")
    assert found.status == 0 and "films" not in found.kinds, found.report["findings"]


def test_near_hashes_are_those_that_a_comparison_of_all_finds():
    rng = np.random.default_rng(1)
    prints = np.zeros(300, PRINT)
    prints["number"], prints["image"], prints["is_hashed"] = np.arange(300), np.arange(1, 301), True
    prints["hash"] = rng.integers(0, 1 << 63, 300, dtype=np.uint64)
    for place in range(200, 300):  # up to 8 bits beside another
        flips = sum(1 << int(bit) for bit in rng.choice(63, rng.integers(0, 9), replace=False))
        prints["hash"][place] = prints["hash"][place - 200] ^ np.uint64(flips)
    distance = np.bitwise_count(prints["hash"][:, None] ^ prints["hash"])
    expected = {(i, j) for i, j in zip(*np.nonzero(distance <= 4), strict=True) if i < j}
    assert set(near(prints, ["train"] * 300)) == expected and len(expected) > 30


def test_a_file_and_its_copy_are_exact_but_not_near_duplicates():
    prints = np.zeros(2, PRINT)
    prints["number"], prints["image"], prints["is_hashed"], prints["hash"] = (0, 1), 7, True, 5
    assert near(prints, ["train"] * 2) == []


def listed(found: Examined) -> set[str]:
    """The images of the manifest: "train/a0"."""
    lines = (found.output / "manifest.jsonl").read_text().splitlines()
    return {"/".join(Path(json.loads(line)["image"]).with_suffix("").parts[-2:]) for line in lines}


def examine_twice(folder: Path, *flags: str) -> tuple[Examined, Examined]:
    """What is found in the set, and then in the manifest that cures it."""
    found = examine(folder / "set", folder / "out", *flags)
    palette = str(folder / "set/palette.json")
    return found, examine(found.output / "manifest.jsonl", folder / "again", "--palette", palette, *flags)


def test_all_copies_of_an_image_are_counted_and_none_of_the_training_that_is_scored_is_left(tmp_path):
    draw_set(tmp_path / "set")
    copy(tmp_path / "set", "train/a0", "train/b0")
    copy(tmp_path / "set", "train/a0", "train/c0")
    copy(tmp_path / "set", "train/a0", "val/b0")
    copy(tmp_path / "set", "train/a0", "val/c0")
    found, again = examine_twice(tmp_path)
    assert found.finding("leaks")["count"] == 5 and found.finding("duplicates")["count"] == 5
    assert len(found.finding("leaks")["examples"]) == 1
    left = {f"train/a{number}" for number in range(1, 6)}
    assert listed(found) == left | {"val/a0", "val/a1", "val/a2", "val/b0", "val/c0"}
    assert again.status == 0 and again.kinds == {"duplicates": "note"}


def test_images_of_two_splits_that_are_not_trained_on_stay_in_the_test(tmp_path):
    draw_set(tmp_path / "set", splits={"test": 3, "train": 4, "val": 3})
    for target in ("test/b0", "val/b0", "val/c0"):
        copy(tmp_path / "set", "train/a0", target)
    found, again = examine_twice(tmp_path)
    assert "test/b0" in listed(found) and not {"train/a0", "val/b0", "val/c0"} & listed(found)
    assert again.status == 0 and not again.kinds


@pytest.mark.parametrize("is_near", [False, True])
def test_a_copy_stays_in_the_training_if_the_scored_one_is_left_out_itself(is_near, tmp_path):
    draw_set(tmp_path / "set", splits={"train": 3, "val": 3})
    for target in ("val/b0", "train/b0") if is_near else ("train/b0",):
        copy(tmp_path / "set", "val/a0", target)
    if is_near:
        encoded_again(tmp_path / "set", "val/a0", "train/b0", 95)
    (tmp_path / "set/labels/val/a0.png").write_bytes(b"cut off")
    found = examine(tmp_path / "set", tmp_path / "out")
    assert ("near-leaks" if is_near else "leaks") in found.kinds
    assert listed(found) & {"val/a0", "val/b0", "train/b0"} == ({"val/b0"} if is_near else {"train/b0"})


def test_a_label_that_does_not_fit_its_image_contradicts_no_other(tmp_path):
    draw_set(tmp_path / "set", splits={"train": 3, "val": 3})
    copy(tmp_path / "set", "val/a0", "train/b0")
    label = tmp_path / "set/labels/val/a0.png"
    label.write_bytes(saved(np.asarray(Image.open(label))[:, :40]))
    found, again = examine_twice(tmp_path)
    assert found.kinds.keys() == {"sizes", "leaks"}
    assert listed(found) & {"val/a0", "train/b0"} == {"train/b0"}
    assert again.status == 0


def test_of_copies_with_two_labels_none_is_left(tmp_path):
    draw_set(tmp_path / "set")
    for name in ("b0", "c0", "d0"):
        copy(tmp_path / "set", "train/a0", f"train/{name}")
    for name in ("c0", "d0"):
        shutil.copyfile(tmp_path / "set/labels/train/a1.png", tmp_path / f"set/labels/train/{name}.png")
    found, again = examine_twice(tmp_path)
    assert found.finding("contradictions")["count"] == 4
    assert listed(found) == {*(f"train/a{number}" for number in range(1, 6)), "val/a0", "val/a1", "val/a2"}
    assert again.status == 0 and not again.kinds


def encoded_again(folder: Path, source: str, target: str, quality: int) -> None:
    copy(folder, source, target)
    image = Image.open(folder / f"images/{source}.png")
    (folder / f"images/{target}.png").write_bytes(saved(image, "JPEG", quality=quality))


def test_all_images_of_the_training_that_are_nearly_scored_are_left_out(tmp_path):
    draw_set(tmp_path / "set")
    copy(tmp_path / "set", "train/a0", "train/b0")
    encoded_again(tmp_path / "set", "train/a0", "train/c0", 95)
    encoded_again(tmp_path / "set", "train/a0", "val/b0", 90)
    copy(tmp_path / "set", "val/b0", "val/c0")
    found, again = examine_twice(tmp_path)
    assert found.finding("near-leaks")["count"] == 5 and found.finding("near-duplicates")["count"] == 2
    left = {f"train/a{number}" for number in range(1, 6)}
    assert listed(found) == left | {"val/a0", "val/a1", "val/a2", "val/b0", "val/c0"}
    assert again.status == 0 and again.kinds == {"duplicates": "note"}


def test_images_beside_a_leaked_file_are_found_as_well(tmp_path):
    draw_set(tmp_path / "set")
    copy(tmp_path / "set", "train/a0", "val/b0")
    encoded_again(tmp_path / "set", "train/a0", "train/c0", 95)
    found, again = examine_twice(tmp_path)
    assert not {"train/a0", "train/c0"} & listed(found) and "val/b0" in listed(found)
    assert again.status == 0 and not again.kinds


def test_copies_that_were_not_decoded_are_as_near_as_those_that_were():
    prints = np.zeros(3, PRINT)
    prints["number"], prints["image"], prints["hash"] = (0, 1, 2), (7, 8, 7), (5, 4, 0)
    prints["is_hashed"] = (True, True, False)
    assert hashed(prints).tolist() == [(0, 7, 0, 5, True, 0, 0), (1, 8, 0, 4, True, 0, 0), (2, 7, 0, 5, True, 0, 0)]


def test_near_duplicates_are_counted_once_each(tmp_path):
    draw_set(tmp_path / "set")
    for number in range(1, 5):
        encoded_again(tmp_path / "set", "train/a0", f"train/b{number}", 90 + number)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.finding("near-duplicates")["count"] == 5 and found.status == 0


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff cut off"], ids=["empty", "cut off"])
def test_files_that_are_no_images_are_no_copies_of_each_other(data, tmp_path):
    draw_set(tmp_path / "set")
    for key in ("train/a0", "train/a1", "val/a0"):
        (tmp_path / f"set/images/{key}.png").write_bytes(data)
    found = examine(tmp_path / "set", tmp_path / "out")
    assert found.kinds == {"damaged-images": "reject"} and found.status == 1
