"""Scores of masks that are known by hand, through the command; what it writes, prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluate.job import EvaluateChunk
from tests.drawn.evaluating import run
from trainer.accounts import UnbalancedError
from trainer.formats import images
from trainer.formats.cards import ModelCard, save_card
from trainer.formats.labels import Palette
from trainer.options import InputError

PALETTE = Palette(name="three", names=("left", "right", "never"), colors=((200, 0, 0), (0, 200, 0), (0, 0, 200)))
LABEL = np.repeat(np.uint8([[0, 0, 0, 0, 0, 1, 1, 1, 1, 1]]), 10, axis=0)
# Column 4 is taken for the right half.
WRONG = np.repeat(np.uint8([[0, 0, 0, 0, 1, 1, 1, 1, 1, 1]]), 10, axis=0)


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Three labels (ids, palette PNG, colours), perfect masks, masks with column 4 wrong, images, a palette."""
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
        put(tmp_path / f"images/{key}.jpg", images.encode_jpeg(np.full((10, 10, 3), 90, np.uint8)))
    return tmp_path


def evaluate(folder: Path, *flags: str, masks: tuple[str, ...] = ("perfect", "wrong"), palette: bool = True) -> int:
    folders = [str(folder / name) for name in masks]
    classes = ["--palette", str(folder / "palette.json")] if palette else []
    command = ["--masks", *folders, "--labels", str(folder / "labels"), "--output", str(folder / "out")]
    return run([*command, *classes, *flags])


def evaluation(folder: Path) -> dict:
    return json.loads((folder / "out/evaluation.json").read_text())


def rejects(folder: Path) -> dict[str, dict]:
    return {r["key"]: r for r in map(json.loads, (folder / "out/rejects.jsonl").read_text().splitlines())}


def test_scores_are_exact(drawn: Path, capsys: pytest.CaptureFixture) -> None:
    assert evaluate(drawn, "--images", str(drawn / "images")) == 0
    scores = evaluation(drawn)
    assert scores["images"] == 3 and scores["rejected"] == 0 and scores["compared"] == ["perfect", "wrong"]
    perfect, wrong = scores["masks"]["perfect"], scores["masks"]["wrong"]
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
    assert row == ["wrong", "-", "-", "0.817", "0.900", "0.250", "0.583", "0.775", "0.817", "0.817"]
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


def test_what_cannot_be_evaluated_is_rejected_and_reported(drawn: Path, capsys: pytest.CaptureFixture) -> None:
    perfect = (drawn / "perfect/a.png").read_bytes()
    hole = WRONG.copy()
    hole[2, :3] = 255
    faults = {
        "size": (perfect, PALETTE.encode_mask(LABEL[:7]), "the mask is 10x7 pixels, its label 10x10"),
        "id": (perfect, images.encode_png(LABEL + 40), "unknown class id 40 in 50 pixels, 41 in 50 pixels"),
        "text": (perfect, b"no image at all", "not a"),
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
    text, listed = capsys.readouterr().out, rejects(drawn)
    assert (
        "11 labels = 3 evaluated + 8 rejected" in text
        and "8 of 11 labels rejected, more than --max-reject-rate 0.01 allows" in text
    )
    assert text.count("\nrejected: ") == 5 and f"3 more, see {drawn / 'out/rejects.jsonl'}" in text
    assert list(listed) == sorted([*faults, "alone"])
    for key, (_, _, reason) in faults.items():
        assert reason in listed[key]["reason"], listed[key]
        assert listed[key]["stage"] == "evaluate"
        assert listed[key]["path"] == str(drawn / ("labels" if key == "label" else "wrong") / f"{key}.png")
    assert "no mask alone.png" in listed["alone"]["reason"] and str(drawn / "wrong") in listed["alone"]["reason"]
    # An image that one folder lacks counts in no folder: all rows are made from the same pixels.
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
    scores = evaluation(drawn)
    assert scores["masks"]["wrong"]["miou"] is None and scores["gallery"] == []
    assert "No pixel could be scored." in (drawn / "out/report.html").read_text()


def test_all_rejected_is_no_crash(drawn: Path, capsys: pytest.CaptureFixture) -> None:
    for key in ("a", "b", "sub/c"):
        put(drawn / f"wrong/{key}.png", b"")
    assert evaluate(drawn) == 1
    assert "3 labels = 0 evaluated + 3 rejected" in capsys.readouterr().out


def test_masks_without_label_and_images_beside_the_masks_are_left_out(
    drawn: Path, capsys: pytest.CaptureFixture
) -> None:
    mask = PALETTE.encode_mask(LABEL)
    for name in ("extra", "overlays/a", "confidence/a", "overlays/z"):
        put(drawn / f"wrong/{name}.png", mask)
    assert evaluate(drawn) == 0
    assert "wrong: masks without a label, which were left out: 1" in capsys.readouterr().out
    assert evaluation(drawn)["masks"]["wrong"]["without_label"] == 1


@pytest.mark.parametrize("given", ["images", "images/**/*.jpg", "images/*"])
def test_segment_json_tells_head_crf_and_images(given: str, drawn: Path, capsys: pytest.CaptureFixture) -> None:
    info = {"head": "subpixel", "crf": {"iterations": 5}, "input": str(drawn / given), "palette": PALETTE.to_json()}
    (drawn / "wrong/segment.json").write_text(json.dumps(info))
    assert evaluate(drawn) == 0
    text = capsys.readouterr().out
    assert next(line.split() for line in text.splitlines() if line.startswith("wrong"))[:3] == [
        "wrong",
        "subpixel",
        "yes",
    ]
    page = (drawn / "out/report.html").read_text()
    assert "subpixel + CRF" in page and page.count('alt="image ') == 3


def test_images_that_the_gallery_lacks_are_reported(drawn: Path, capsys: pytest.CaptureFixture) -> None:
    assert evaluate(drawn, "--gallery", "0", "--images", str(drawn / "images")) == 0
    assert "--images has no effect with --gallery 0" in capsys.readouterr().out
    assert evaluate(drawn, "--gallery", "2") == 0
    assert "gallery: no images" in capsys.readouterr().out
    page = (drawn / "out/report.html").read_text()
    assert 'alt="image ' not in page and page.count('alt="label of ') == 2
    (drawn / "images/a.jpg").write_bytes(b"")
    (drawn / "images/b.jpg").write_bytes(images.encode_jpeg(np.zeros((4, 4, 3), np.uint8)))
    (drawn / "images/sub/c.jpg").unlink()
    assert evaluate(drawn, "--images", str(drawn / "images")) == 0
    text = capsys.readouterr().out
    assert (
        "a.jpg: the file is empty" in text
        and "b.jpg is 4x4 pixels, its label 10x10" in text
        and "image of sub/c not found in" in text
    )


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
    ("flags", "message"),
    [
        (["--masks", "{0}/nowhere"], "--masks {0}/nowhere: folder not found"),
        (["--labels", "{0}/nowhere"], "--labels {0}/nowhere: folder not found"),
        (
            ["--masks", "{0}/images"],
            "--masks {0}/images: none of its 3 files ends in .png, but 3 in .jpg; expected a PNG",
        ),
        (["--masks", "{0}/other"], "no label in {0}/labels has a mask of the same path"),
        (["--output", "{0}/wrong"], "is an input folder"),
        (["--palette", "nothing"], "palette 'nothing' is neither"),
        (["--images", "{0}/nowhere"], "--images {0}/nowhere: folder not found"),
        (["--palette", "voc"], "the masks have 3 classes"),
        (["--no-such-flag"], "--no-such-flag"),
        (["--runner", "DataflowRunner"], "--runner DataflowRunner needs --project and --region"),
    ],
)
def test_unusable_input_is_refused_before_anything_is_written(drawn: Path, flags: list[str], message: str) -> None:
    put(drawn / "other/x.png", PALETTE.encode_mask(LABEL))
    (drawn / "wrong/segment.json").write_text(json.dumps({"palette": PALETTE.to_json()}))
    with pytest.raises(InputError) as refusal:
        evaluate(drawn, *(flag.format(drawn) for flag in flags))
    assert message.format(drawn) in str(refusal.value)
    assert not (drawn / "out").exists()


def test_a_folder_without_a_model_is_refused(drawn: Path) -> None:
    with pytest.raises(InputError, match="is not a model folder"):
        evaluate(drawn, "--model", str(drawn / "wrong"), palette=False)


@pytest.fixture
def eight(drawn: Path) -> Path:
    """Eight labels with masks, which make eight chunks."""
    for number in range(5):
        for folder in ("labels", "perfect", "wrong"):
            put(drawn / f"{folder}/more{number}.png", PALETTE.encode_mask(LABEL))
    return drawn


def withhold(monkeypatch: pytest.MonkeyPatch, numbers: set[int]) -> None:
    """Lets the job lose these chunks."""
    process = EvaluateChunk.process

    def some(self: EvaluateChunk, number: int) -> list:
        return [] if number in numbers else list(process(self, number))

    monkeypatch.setattr(EvaluateChunk, "process", some)


def test_chunks_that_get_lost_are_an_error_and_no_smaller_evaluation(
    eight: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    withhold(monkeypatch, {0, 3, 5})
    with pytest.raises(UnbalancedError, match=r"8 labels != 5 evaluated \+ 0 rejected; 3 lost"):
        evaluate(eight)
    assert not (eight / "out").exists()


def test_a_job_that_loses_everything_is_an_error(eight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(eight / "wrong/more0.png", b"")
    put(eight / "labels/alone.png", PALETTE.encode_mask(LABEL))
    withhold(monkeypatch, set(range(8)))
    with pytest.raises(UnbalancedError, match=r"9 labels != 0 evaluated \+ 1 rejected; 8 lost"):
        evaluate(eight)
