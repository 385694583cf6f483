"""Scores of masks that are known by hand, through the pure functions and through the command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipelines.cli import main
from pipelines.evaluate.command import compared_names
from pipelines.evaluate.job import key_of
from pipelines.pages import gallery
from pipelines.scores.trimap import BANDS, band_confusions, trimap_distance
from tests.drawn.places import ROOT
from trainer import metrics
from trainer.formats import images
from trainer.formats.cards import ModelCard, save_card
from trainer.formats.labels import Palette

PALETTE = Palette(name="three", names=("left", "right", "never"), colors=((200, 0, 0), (0, 200, 0), (0, 0, 200)))
LABEL = np.repeat(np.uint8([[0, 0, 0, 0, 0, 1, 1, 1, 1, 1]]), 10, axis=0)
# Column 4 is taken for the right half.
WRONG = np.repeat(np.uint8([[0, 0, 0, 0, 1, 1, 1, 1, 1, 1]]), 10, axis=0)
FAR = np.inf


def uint8(*rows: list[int]) -> np.ndarray:
    return np.array(rows, np.uint8)


def test_pixels_on_both_sides_of_a_border_have_distance_one() -> None:
    np.testing.assert_array_equal(trimap_distance(uint8([0, 0, 0, 1, 1, 1]), 255), [[3, 2, 1, 1, 2, 3]])


def test_trimap_distance_is_euclidean_and_borders_are_between_four_neighbours() -> None:
    label = np.zeros((3, 4), np.uint8)
    label[0, 0] = 1
    np.testing.assert_allclose(
        trimap_distance(label, 255),
        [[1, 1, 2, 3], [1, 2, 1 + 2**0.5, 1 + 5**0.5], [2, 1 + 2**0.5, 1 + 5**0.5, 1 + 8**0.5]],
        rtol=1e-6,
    )


def test_a_label_without_borders_is_far_from_them_everywhere() -> None:
    assert (trimap_distance(np.full((3, 3), 2, np.uint8), 255) == FAR).all()
    assert (trimap_distance(np.full((3, 3), 255, np.uint8), 255) == FAR).all()


def test_classes_meet_across_an_ignored_strip() -> None:
    np.testing.assert_array_equal(trimap_distance(uint8([0, 0, 9, 9, 1, 1]), 9), [[2, 1, FAR, FAR, 1, 2]])


def test_an_ignored_region_inside_one_class_makes_no_border() -> None:
    np.testing.assert_array_equal(trimap_distance(uint8([0, 0, 9, 9, 0, 1]), 9), [[5, 4, FAR, FAR, 1, 1]])
    assert (trimap_distance(uint8([0, 9, 9, 0]), 9) == FAR).all()


def test_band_confusions_of_a_picture_worked_by_hand() -> None:
    found = band_confusions(uint8([0, 0, 0, 1, 1, 1]), [uint8([0, 0, 1, 1, 1, 0])], 2, 255)
    assert found.shape == (1, 6, 2, 2)
    np.testing.assert_array_equal(found[0, 0], [[0, 1], [0, 1]])
    np.testing.assert_array_equal(found[0, 1], [[1, 0], [0, 1]])
    np.testing.assert_array_equal(found[0, 2], [[1, 0], [1, 0]])
    assert found[0, 3:].sum() == 0


def test_bands_add_up_to_the_confusion_matrix_the_trainer_uses() -> None:
    rng = np.random.default_rng(0)
    label = np.kron(rng.integers(0, 4, (6, 7)), np.ones((9, 9))).astype(np.uint8)
    label[label == 3] = 11
    masks = [rng.integers(0, 3, label.shape).astype(np.uint8) for _ in range(2)]
    found, distance = band_confusions(label, masks, 3, 11), trimap_distance(label, 11)
    for mask, bands in zip(masks, found, strict=True):
        np.testing.assert_array_equal(bands.sum(0), metrics.confusion(label, mask, 3, 11))
        for width, cumulated in zip(BANDS, np.cumsum(bands, 0), strict=False):
            near = np.where(distance <= width, label, 11)
            np.testing.assert_array_equal(cumulated, metrics.confusion(near, mask, 3, 11))


def test_gallery_takes_best_median_and_worst() -> None:
    scores = np.array([0.5, np.nan, 0.9, 0.1, 0.7, 0.3, 0.8, 0.2])
    assert gallery.choose(scores, 3) == [(2, "best"), (0, "median"), (3, "worst")]
    assert gallery.choose(scores, 6) == [
        (2, "best"),
        (6, "best"),
        (0, "median"),
        (5, "median"),
        (7, "worst"),
        (3, "worst"),
    ]
    everything = gallery.choose(scores, 100)
    assert sorted(index for index, _ in everything) == [0, 2, 3, 4, 5, 6, 7]
    assert gallery.choose(scores, 0) == [] and gallery.choose(np.full(3, np.nan), 6) == []


def test_gallery_never_shows_a_picture_twice() -> None:
    for pictures in range(12):
        for count in range(8):
            chosen = gallery.choose(np.linspace(0, 1, pictures), count)
            assert len({index for index, _ in chosen}) == len(chosen) == min(count, pictures)


def test_keys_and_names() -> None:
    assert key_of("a.b/c") == "a.b/c" and key_of("a.b/c.d.png") == "a.b/c.d"
    assert key_of("ulm/ulm_1_gtFine_labelIds.png") == "ulm/ulm_1_leftImg8bit"
    assert key_of("ulm/ulm_1_gtFine_labelTrainIds.png") == "ulm/ulm_1_leftImg8bit"
    assert compared_names(("out/masks/", "out/crf")) == ["masks", "crf"]
    assert compared_names(("a/masks", "b/masks")) == ["a/masks", "b/masks"]


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Three labels (ids, palette PNG, colours), perfect masks, masks with column 4 wrong, photographs, a palette."""
    (tmp_path / "palette.json").write_text(json.dumps(PALETTE.to_json()))
    labels = {
        "a": images.encode_png(LABEL),
        "b": PALETTE.encode_mask(LABEL),
        "sub/c": images.encode_png(PALETTE.colorize(LABEL)),
    }
    for key, label in labels.items():
        put(tmp_path / f"labels/{key}.png", label)
        put(tmp_path / f"perfect/{key}.png", PALETTE.encode_mask(LABEL))
        put(tmp_path / f"wrong/{key}.png", PALETTE.encode_mask(WRONG))
        put(tmp_path / f"photos/{key}.jpg", images.encode_jpeg(np.full((10, 10, 3), 90, np.uint8)))
    return tmp_path


def evaluate(folder: Path, *flags: str, masks: tuple[str, ...] = ("perfect", "wrong"), palette: bool = True) -> int:
    folders = [str(folder / name) for name in masks]
    given = ["--palette", str(folder / "palette.json")] if palette else []
    command = ["evaluate", "--masks", *folders, "--labels", str(folder / "labels"), "--output", str(folder / "out")]
    return main([*command, *given, *flags])


def evaluation(folder: Path) -> dict:
    return json.loads((folder / "out/evaluation.json").read_text())


def rejects(folder: Path) -> dict[str, dict]:
    return {r["key"]: r for r in map(json.loads, (folder / "out/rejects.jsonl").read_text().splitlines())}


def test_scores_are_exact(drawn: Path, capsys: pytest.CaptureFixture) -> None:
    assert evaluate(drawn, "--images", str(drawn / "photos")) == 0
    found = evaluation(drawn)
    assert found["images"] == 3 and found["rejected"] == 0 and found["compared"] == ["perfect", "wrong"]
    perfect, wrong = found["masks"]["perfect"], found["masks"]["wrong"]
    assert perfect["miou"] == perfect["pixel_accuracy"] == 1 and set(perfect["trimap"].values()) == {1}
    assert perfect["per_class"] == {"left": 1, "right": 1, "never": None}
    assert wrong["confusion"] == [[120, 30, 0], [0, 150, 0], [0, 0, 0]]
    assert wrong["pixel_accuracy"] == 0.9
    assert wrong["per_class"] == {"left": 120 / 150, "right": 150 / 180, "never": None}
    whole = (120 / 150 + 150 / 180) / 2
    assert wrong["miou"] == pytest.approx(whole)
    # Width 1 holds columns 4 and 5, width 2 columns 3 to 6, width 4 columns 1 to 8.
    bands = {"1": (0 + 1 / 2) / 2, "2": (1 / 2 + 2 / 3) / 2, "4": (3 / 4 + 4 / 5) / 2, "8": whole, "16": whole}
    assert wrong["trimap"] == pytest.approx(bands)
    assert wrong["trimap_scores"]["1"]["pixel_accuracy"] == 0.5
    text = capsys.readouterr().out
    assert "3 labels = 3 evaluated + 0 rejected" in text
    row = next(line.split() for line in text.splitlines() if line.startswith("wrong"))
    assert row == ["wrong", "-", "no", "0.817", "0.900", "0.250", "0.583", "0.775", "0.817", "0.817"]
    assert next(line.split() for line in text.splitlines() if line.startswith("never")) == ["never", "–", "–"]
    page = (drawn / "out/report.html").read_text()
    assert page.count("data:image/jpeg") == 3 * (2 + 2 * 2)
    assert sorted(path.name for path in (drawn / "out").iterdir()) == [
        "evaluation.json",
        "rejects.jsonl",
        "report.html",
    ]


def test_reruns_and_worker_processes_give_the_same_files(drawn: Path) -> None:
    contents = []
    for flags in (
        [],
        ["--direct_num_workers", "1"],
        ["--direct_running_mode=multi_processing", "--direct_num_workers=2"],
    ):
        assert evaluate(drawn, *flags) == 0
        contents.append({path.name: path.read_bytes() for path in (drawn / "out").iterdir()})
    assert contents[0] == contents[1] == contents[2]


def test_what_cannot_be_evaluated_is_rejected_and_said(drawn: Path, capsys: pytest.CaptureFixture) -> None:
    perfect = (drawn / "perfect/a.png").read_bytes()
    hole = WRONG.copy()
    hole[2, :3] = 255
    faults = {
        "size": (perfect, PALETTE.encode_mask(LABEL[:7]), "the mask is 10x7 pixels, its label 10x10"),
        "id": (perfect, images.encode_png(LABEL + 40), "unknown class id 40 in 50 pixels, 41 in 50 pixels"),
        "text": (perfect, b"no picture at all", "not a picture"),
        "empty": (perfect, b"", "the file is empty"),
        "cut": (perfect, perfect[: len(perfect) // 2], "damaged"),
        "hole": (perfect, PALETTE.encode_mask(hole), "no class (id 255) in 3 pixels"),
        "label": (images.encode_png(LABEL + 9), perfect, "unknown class id 9 in 50 pixels, 10 in 50 pixels"),
    }
    for key, (label, mask, _) in faults.items():
        put(drawn / f"labels/{key}.png", label)
        put(drawn / f"perfect/{key}.png", perfect)
        put(drawn / f"wrong/{key}.png", mask)
    put(drawn / "labels/alone.png", perfect)
    put(drawn / "perfect/alone.png", perfect)
    assert evaluate(drawn) == 1
    text, found = capsys.readouterr().out, rejects(drawn)
    assert "11 labels = 3 evaluated + 8 rejected" in text and "rejected 72.7 % of the labels" in text
    assert list(found) == sorted([*faults, "alone"])
    for key, (_, _, reason) in faults.items():
        assert reason in found[key]["reason"], found[key]
        assert found[key]["stage"] == "evaluate"
        assert found[key]["path"] == str(drawn / ("labels" if key == "label" else "wrong") / f"{key}.png")
    assert "no mask alone.png" in found["alone"]["reason"] and str(drawn / "wrong") in found["alone"]["reason"]
    # A picture that one folder lacks counts in no folder: all rows are made from the same pixels.
    assert [np.sum(scores["confusion"]) for scores in evaluation(drawn)["masks"].values()] == [300, 300]
    assert evaluate(drawn, "--max-reject-rate", "0.8") == 0


def test_masks_of_ignored_pixels_do_not_matter(drawn: Path) -> None:
    label = LABEL.copy()
    label[:, 4] = 255
    for key in ("a", "b", "sub/c"):
        put(drawn / f"labels/{key}.png", images.encode_png(label))
        put(drawn / f"perfect/{key}.png", images.encode_png(label))
    assert evaluate(drawn) == 0
    assert [scores["miou"] for scores in evaluation(drawn)["masks"].values()] == [1, 1]


def test_a_set_without_a_labelled_pixel_has_no_scores(drawn: Path) -> None:
    for key in ("a", "b", "sub/c"):
        put(drawn / f"labels/{key}.png", images.encode_png(np.full((10, 10), 255, np.uint8)))
    assert evaluate(drawn) == 0
    found = evaluation(drawn)
    assert found["masks"]["wrong"]["miou"] is None and found["gallery"] == []
    assert "No pixel could be scored." in (drawn / "out/report.html").read_text()


def test_all_rejected_is_no_crash(drawn: Path, capsys: pytest.CaptureFixture) -> None:
    for key in ("a", "b", "sub/c"):
        put(drawn / f"wrong/{key}.png", b"")
    assert evaluate(drawn) == 1
    assert "3 labels = 0 evaluated + 3 rejected" in capsys.readouterr().out


def test_masks_without_label_and_pictures_beside_the_masks_are_left_out(
    drawn: Path, capsys: pytest.CaptureFixture
) -> None:
    mask = PALETTE.encode_mask(LABEL)
    for name in ("extra", "overlays/a", "confidence/a", "overlays/z"):
        put(drawn / f"wrong/{name}.png", mask)
    assert evaluate(drawn) == 0
    assert "wrong: 1 masks have no label" in capsys.readouterr().out
    assert evaluation(drawn)["masks"]["wrong"]["without_label"] == 1


def test_segment_json_tells_head_crf_and_photographs(drawn: Path, capsys: pytest.CaptureFixture) -> None:
    info = {"head": "subpixel", "crf": {"iterations": 5}, "input": str(drawn / "photos"), "palette": PALETTE.to_json()}
    (drawn / "wrong/segment.json").write_text(json.dumps(info))
    assert evaluate(drawn) == 0
    text = capsys.readouterr().out
    assert next(line.split() for line in text.splitlines() if line.startswith("wrong"))[:3] == [
        "wrong",
        "subpixel",
        "yes",
    ]
    page = (drawn / "out/report.html").read_text()
    assert "subpixel + CRF" in page and page.count('alt="photograph ') == 3


def test_gallery_without_photographs_is_said(drawn: Path, capsys: pytest.CaptureFixture) -> None:
    assert evaluate(drawn, "--gallery", "2") == 0
    assert "gallery: no photographs" in capsys.readouterr().out
    page = (drawn / "out/report.html").read_text()
    assert 'alt="photograph ' not in page and page.count('alt="label of ') == 2
    (drawn / "photos/a.jpg").write_bytes(b"")
    (drawn / "photos/b.jpg").write_bytes(images.encode_jpeg(np.zeros((4, 4, 3), np.uint8)))
    (drawn / "photos/sub/c.jpg").unlink()
    assert evaluate(drawn, "--images", str(drawn / "photos")) == 0
    text = capsys.readouterr().out
    assert "a.jpg: the file is empty" in text and "b.jpg has another size" in text and "no photograph of sub/c" in text


def test_classes_come_from_the_model(drawn: Path) -> None:
    save_card(str(drawn / "model"), ModelCard(architecture={"num_classes": 3}, palette=PALETTE))
    assert evaluate(drawn, "--model", str(drawn / "model"), palette=False) == 0
    assert evaluation(drawn)["palette"] == PALETTE.to_json()


def test_cityscapes_labels_find_their_masks(tmp_path: Path) -> None:
    road = np.full((6, 8), 7, np.uint8)  # id 7 in labelIds files is class 0, road
    road[:, 5:] = 26  # car, class 13
    put(tmp_path / "labels/ulm/ulm_1_gtFine_labelIds.png", images.encode_png(road))
    put(tmp_path / "labels/ulm/ulm_1_gtFine_color.png", images.encode_png(road))
    put(
        tmp_path / "labels/ulm/ulm_1_gtFine_labelTrainIds.png",
        images.encode_png(np.where(road == 7, 0, 13).astype(np.uint8)),
    )
    put(tmp_path / "masks/ulm/ulm_1_leftImg8bit.png", images.encode_png(np.where(road == 7, 0, 13).astype(np.uint8)))
    for palette in ("cityscapes", "cityscapes-trainids"):
        assert evaluate(tmp_path, "--palette", palette, masks=("masks",), palette=False) == 0
        assert evaluation(tmp_path)["masks"]["masks"]["miou"] == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--masks", "{0}/nowhere"], "--masks {0}/nowhere: there is no such folder"),
        (["--labels", "{0}/nowhere"], "--labels {0}/nowhere: there is no such folder"),
        (["--masks", "{0}/photos"], "--masks {0}/photos: none of its 3 files ends in .png"),
        (["--masks", "{0}/other"], "no label in {0}/labels has a mask of the same path"),
        (["--masks", "{0}/wrong", "{0}/wrong/"], "names a folder twice"),
        (["--output", "{0}/wrong"], "is an input folder"),
        (["--model", "{0}/wrong"], "not by both or none"),
        (["--palette", "nothing"], "palette 'nothing' is neither"),
        (["--images", "{0}/nowhere"], "--images {0}/nowhere: there is no such folder"),
        (["--gallery", "-1"], "--gallery must be 0 or more"),
        (["--max-reject-rate", "2"], "--max-reject-rate must be 0 to 1"),
        (["--palette", "voc"], "the masks have 3 classes"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
)
def test_unusable_input_is_said_in_one_line(
    drawn: Path, flags: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    put(drawn / "other/x.png", PALETTE.encode_mask(LABEL))
    (drawn / "wrong/segment.json").write_text(json.dumps({"palette": PALETTE.to_json()}))
    assert evaluate(drawn, *(flag.format(drawn) for flag in flags)) == 2
    error = capsys.readouterr().err
    assert error.startswith("deeplab evaluate: error: ") and said.format(drawn) in error
    assert "Traceback" not in error and not (drawn / "out").exists()


def test_a_folder_without_a_model_is_said(drawn: Path, capsys: pytest.CaptureFixture) -> None:
    assert evaluate(drawn, "--model", str(drawn / "wrong"), palette=False) == 2
    assert "is not a model folder" in capsys.readouterr().err


def test_two_labels_of_one_name_are_said(drawn: Path, capsys: pytest.CaptureFixture) -> None:
    put(drawn / "labels/a.bmp", b"")
    assert evaluate(drawn) == 2
    assert "a.bmp and a.png differ in their suffix alone" in capsys.readouterr().err


def test_evaluate_imports_no_tensorflow() -> None:
    code = "import sys, pipelines.evaluate; sys.exit('tensorflow' in sys.modules or 'keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
