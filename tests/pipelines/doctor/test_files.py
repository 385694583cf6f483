"""Files that prepare would reject, or take for what they are not, one of each kind in a set; as found, and mended."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipelines import cli
from pipelines.doctor import mend
from tests.drawn.encoded import exif_block, flip_bit_of, saved, with_exif
from tests.drawn.ill import Examined, Truth, draw_set, examine, prepare_as_proposed, scene
from tests.drawn.records import PALETTE
from trainer import storage
from trainer.options import InputError

SPOILT = {
    "lossy": "lossy-labels",
    "smooth": "anti-aliased",
    "blended": "blended-ids",
    "stored": "exif",
    "turned": "turned-labels",
    "half": "sizes",
    "square": "sizes",
    "deep": "deep-labels",
    "clear": "transparent-labels",
    "moving": "animations",
    "torn": "damaged-images",
    "cut": "damaged-labels",
}
"""Name of an image -> what is wrong with it, or its label."""
MENDED = ("lossy", "blended", "stored", "turned", "half")


def smoothed(label: np.ndarray) -> np.ndarray:
    """RGB of a label that was drawn with smooth edges."""
    return cv2.GaussianBlur(PALETTE.colorize(np.where(label == 255, 0, label)), (3, 3), 0)


def spoilt_label(name: str, label: np.ndarray) -> bytes:
    """The label file of that kind."""
    if name == "lossy":
        return saved(Image.fromarray(PALETTE.colorize(np.where(label == 255, 0, label))), "JPEG", quality=90)
    if name == "smooth":
        return saved(smoothed(label))
    if name == "blended":
        return saved(cv2.resize(cv2.resize(label % 255, (24, 24)), (64, 64)))
    if name in ("stored", "turned"):
        return saved(cv2.rotate(label, cv2.ROTATE_90_COUNTERCLOCKWISE))
    if name == "half":
        return saved(cv2.resize(label, (32, 32), interpolation=cv2.INTER_NEAREST))
    if name == "deep":
        return saved(label.astype(np.uint16) * 1000)
    if name == "clear":
        return saved(np.dstack([PALETTE.colorize(label), np.full(label.shape, 90, np.uint8)]))
    if name == "moving":
        return saved(Image.fromarray(label), "TIFF", save_all=True, append_images=[Image.fromarray(label)])
    return {"square": saved(label[:, :40]), "cut": saved(label)[:60]}.get(name, saved(label))


def spoil(folder: Path, truth: Truth) -> None:
    """Adds a pair of every kind of SPOILT to the training."""
    for number, name in enumerate(SPOILT, 900):
        image, label = scene(number, 96 if name == "stored" else 64)
        truth[f"train/{name}"] = label
        encoded = saved(image)
        if name in ("stored", "turned"):  # the camera was held upright, and the label drawn on what it had stored
            stored = Image.fromarray(cv2.rotate(image, cv2.ROTATE_90_COUNTERCLOCKWISE))
            encoded = with_exif(saved(stored, "JPEG", quality=95), exif_block(6))
        encoded = flip_bit_of(encoded, 70) if name == "torn" else encoded
        (folder / "images/train" / f"{name}.png").write_bytes(encoded)
        (folder / "labels/train" / f"{name}.png").write_bytes(spoilt_label(name, label))


@pytest.fixture(scope="module")
def ill(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Truth, Examined]:
    folder = tmp_path_factory.mktemp("ill")
    truth = draw_set(folder / "set", lambda label, key: saved(label), splits={"train": 3, "val": 3})
    spoil(folder / "set", truth)
    return folder, truth, examine(folder / "set", folder / "out")


@pytest.mark.parametrize("name", SPOILT)
def test_every_kind_is_found_with_its_file(name, ill):
    _, _, found = ill
    examples = [example["path"] for example in found.finding(SPOILT[name])["examples"]]
    assert any(Path(path).stem == name for path in examples), found.report["findings"]


def test_faultless_files_are_not_among_the_findings(ill):
    _, _, found = ill
    named = {
        Path(example["path"]).stem
        for finding in found.report["findings"]
        if finding["grade"] != "note"
        for example in finding["examples"]
    }
    assert named == set(SPOILT) and found.status == 2


def test_every_finding_has_images_on_the_page(ill):
    _, _, found = ill
    page = (found.output / "doctor.html").read_text()
    sections = page.split('<section class="finding"')[1:]
    assert len(sections) == len(found.report["findings"])
    assert all("data:image/jpeg" in section for section in sections)


def test_the_manifest_leaves_out_what_cannot_be_used_and_the_palette_reads_mixed_colours(ill, tmp_path):
    _, truth, found = ill
    made = prepare_as_proposed(found, tmp_path / "records")
    assert made.keys() == {key for key in truth if Path(key).name not in SPOILT} | {"train/smooth"}
    check(made, truth)


def test_what_can_be_mended_is_mended_and_right_but_where_it_is_ignored(ill, tmp_path):
    folder, truth, _ = ill
    before = {path: path.read_bytes() for path in (folder / "set").rglob("*.*")}
    found = examine(folder / "set", tmp_path / "out", "--mend", "--full")
    assert found.report["mended"] == len(MENDED)
    made = prepare_as_proposed(found, tmp_path / "records")
    assert {f"train/{name}" for name in MENDED} <= made.keys()
    check(made, truth)
    again = examine(
        tmp_path / "out/manifest.jsonl", tmp_path / "again", "--palette", str(tmp_path / "out/palette.json")
    )
    assert again.status == 0, again.report["findings"]
    assert {path: path.read_bytes() for path in (folder / "set").rglob("*.*")} == before


@pytest.mark.parametrize("name", ["lossy", "half"])
@pytest.mark.parametrize("is_stored", [True, False])
def test_a_label_of_a_turned_image_is_mended_the_way_it_was_drawn(is_stored, name, tmp_path):
    truth = draw_set(tmp_path / "set", splits={"train": 1, "val": 1})
    for key, number in ((f"train/{name}", 7), (f"val/{name}", 8)):
        image, truth[key] = scene(number)
        stored = Image.fromarray(np.rot90(image))  # the camera was held upright
        encoded = with_exif(saved(stored, "JPEG", quality=95), exif_block(6))
        (tmp_path / f"set/images/{key}.png").write_bytes(encoded)
        drawn = np.rot90(truth[key]) if is_stored else truth[key]
        (tmp_path / f"set/labels/{key}.png").write_bytes(spoilt_label(name, np.ascontiguousarray(drawn)))
    found = examine(tmp_path / "set", tmp_path / "out", "--mend")
    made = prepare_as_proposed(found, tmp_path / "records")
    assert made.keys() == truth.keys()
    check(made, truth)


def test_labels_of_a_run_that_was_ended_are_written_again_by_the_same_command(ill, tmp_path, monkeypatch):
    folder, _, _ = ill
    flags = ("--mend", "--full")
    assert examine(folder / "set", tmp_path / "whole", *flags).report["mended"] == len(MENDED)
    write, output = storage.write, tmp_path / "ended"

    def ended(path, data):
        if len(list(output.glob("labels/*.png"))) == 2:
            (output / f"labels/.{Path(path).name}.0123abcd.tmp").touch()
            raise KeyboardInterrupt
        write(path, data)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(storage, "write", ended)
        examine(folder / "set", output, *flags)
    (output / "labels/.notes.png.0123abcd.tmp").touch()  # of another program
    examine(folder / "set", output, *flags)
    files = [
        {path.name: path.read_bytes() for path in (tmp_path / name / "labels").iterdir()}
        for name in ("whole", "ended")
    ]
    assert files[0] | {".notes.png.0123abcd.tmp": b""} == files[1]


@pytest.fixture
def mended(ill, tmp_path) -> tuple[Path, Path]:
    """A copy of the set, and the folder of the labels that were mended of it."""
    shutil.copytree(ill[0] / "set", tmp_path / "set")
    examine(tmp_path / "set", tmp_path / "out", "--mend", "--full")
    return tmp_path / "set", tmp_path / "out/labels"


def test_a_mended_label_that_was_corrected_by_hand_is_not_replaced(mended, capsys):
    source, labels = mended
    first, *others = sorted(labels.iterdir())
    with Image.open(first) as image:
        kept = PngInfo()
        for name, text in image.text.items():
            kept.add_text(name, text)
        image.rotate(180).save(first, pnginfo=kept)  # by an editor that keeps comments
    corrected, before = first.read_bytes(), [path.read_bytes() for path in others]
    cli.run(["doctor", str(source), "--output", str(labels.parent)])
    assert first.read_bytes() == corrected
    flags = ("--mend", "--full")
    with pytest.raises(InputError, match=f"{first} was changed .* give another --output, or --overwrite"):
        examine(source, labels.parent, *flags)
    assert first.read_bytes() == corrected
    examine(source, labels.parent, *flags, "--overwrite")
    assert first.read_bytes() != corrected
    assert [path.read_bytes() for path in others] == before


def test_a_mended_label_that_is_no_longer_needed_is_removed_unless_it_was_changed(mended):
    source, labels = mended
    second = sorted(labels.iterdir())[1]
    second.write_bytes(saved(np.zeros((64, 64), np.uint8)))
    for name in MENDED:
        (source / "labels/train" / f"{name}.png").unlink()
    (labels / "000900.png").write_bytes(saved(np.zeros((8, 8), np.uint8)))  # of another program
    assert examine(source, labels.parent, "--mend", "--full").report["mended"] == 0
    assert sorted(labels.iterdir()) == [second, labels / "000900.png"]


def test_mended_labels_that_are_the_input_stay(mended):
    _, labels = mended
    manifest, flags = labels.parent / "manifest.jsonl", ("--palette", str(labels.parent / "palette.json"), "--full")
    before = {path: path.read_bytes() for path in labels.iterdir()}
    assert examine(manifest, labels.parent, *flags).status == 0
    assert {path: path.read_bytes() for path in labels.iterdir()} == before
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    first = next(row for row in rows if row["label"].endswith("a0.png"))
    spoilt = labels.parent.parent / "spoilt.png"
    spoilt.write_bytes(saved(np.zeros((32, 32), np.uint8)))
    here = next(number for number in range(len(rows)) if str(labels / f"{number:06d}.png") in map(str, before))
    rows[here]["label"], first["label"] = str(spoilt), str(labels / f"{here:06d}.png")
    other = labels.parent.parent / "other.jsonl"
    other.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="is an input and would be replaced"):
        examine(other, labels.parent, *flags, "--mend", "--overwrite")
    assert {path: path.read_bytes() for path in labels.iterdir()} == before


def test_a_mended_label_that_a_power_failure_has_emptied_is_written_again(mended):
    source, labels = mended
    first = min(labels.iterdir())
    before = first.read_bytes()
    first.write_bytes(b"")
    examine(source, labels.parent, "--mend", "--full")
    assert first.read_bytes() == before


def test_labels_that_version_0_27_mended_are_taken_as_this_commands(mended):
    source, labels = mended
    before = {path: path.read_bytes() for path in labels.iterdir()}
    for path, data in before.items():
        path.write_bytes(mend.unsigned(data))
    examine(source, labels.parent, "--mend", "--full")
    assert {path: path.read_bytes() for path in labels.iterdir()} == before


def test_the_proposed_commands_have_the_flags_that_were_given(ill, tmp_path):
    folder, _, _ = ill
    flags = ["--val-fraction", "0.4", "--max-pixels", "9000", "--seed", "3", "--full", "--label-coding", "auto"]
    report = examine(folder / "set", tmp_path / "out", *flags).report
    assert " --val-fraction 0.4 --max-pixels 9000 " in report["prepare"]
    words = ["deeplab", "doctor", str(folder / "set"), *flags[:-2], "--mend", "--output", str(tmp_path / "out")]
    assert sorted(shlex.split(report["mend"])) == sorted(words)


def check(made: Truth, truth: Truth) -> None:
    for key, label in made.items():
        name = Path(key).name
        known = (label != 255) & (truth[key] != 255)
        right = (label == truth[key])[known].mean()
        if name not in SPOILT:
            np.testing.assert_array_equal(label, truth[key], key)
        elif name in ("half", "blended"):  # of which most pixels were lost
            assert right > 0.94 and known.mean() > 0.85, (key, right, known.mean())
        else:
            assert right > 0.995 and known.mean() > 0.6, (key, right, known.mean())


@pytest.mark.parametrize(("split", "count"), [("train", 1), ("val", 0)])
def test_large_images_are_noted_where_a_training_takes_crops_of_them(tmp_path, split, count):
    draw_set(tmp_path / "set")
    flat = np.zeros((2048, 2050, 3), np.uint8)
    for kind, pixels in (("images", flat), ("labels", flat[..., 0])):
        (tmp_path / f"set/{kind}/{split}/a0.png").write_bytes(saved(pixels))
    notes = [
        one for one in examine(tmp_path / "set", tmp_path / "out").report["findings"] if one["kind"] == "large-images"
    ]
    assert [note["count"] for note in notes] == [1] * count
