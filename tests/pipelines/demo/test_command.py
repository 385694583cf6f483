"""The whole road, from drawn images to the report, through the commands themselves."""

import contextlib
import csv
import io
import json
import shutil

import pytest
from PIL import Image

from pipelines import cli
from pipelines.demo.command import draw
from pipelines.demo.options import Options
from pipelines.demo.plan import HEIGHT, WIDTH
from trainer.options import InputError

SMALL = ["--images", "16", "--epochs", "1", "--crop", "64", "--seed", "3"]
NAMES = ["bilinear", "subpixel", "bilinear-crf", "subpixel-crf"]


def run(*arguments):
    """Exit status and standard output of `deeplab demo`."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = cli.run(["demo", *arguments])
    return status, output.getvalue()


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """The folder of a demo that has run, its exit status and what it printed."""
    folder = tmp_path_factory.mktemp("road") / "demo"
    return folder, *run("--output", str(folder), *SMALL)


@pytest.fixture(scope="module")
def evaluation(road):
    return json.loads((road[0] / "report/evaluation.json").read_text())


def test_every_stage_runs_and_is_printed_as_a_command(road):
    _, status, output = road
    assert status == 0
    commands = [line.split()[2] for line in output.splitlines() if line.startswith("$ deeplab ")]
    assert commands == ["prepare", "records", "train", "train", *["segment"] * 4, "evaluate"]


def test_all_images_and_their_copies_are_in_the_records(road):
    dataset = json.loads((road[0] / "records/dataset.json").read_text())
    counts = {}
    for shard in dataset["shards"]:
        counts[shard["split"]] = counts.get(shard["split"], 0) + shard["records"]
    assert counts == {"train": 13 * 3, "val": 3}
    assert (road[0] / "records/rejects.jsonl").read_text() == ""


def test_four_folders_of_masks_of_the_images_size(road, evaluation):
    for name in NAMES:
        masks = sorted((road[0] / "masks" / name).glob("*.png"))
        assert [mask.name for mask in masks] == ["scene-0000.png", "scene-0001.png", "scene-0002.png"]
        for mask in masks:
            with Image.open(mask) as png:
                assert (png.mode, png.size) == ("P", (WIDTH, HEIGHT))
        assert evaluation["masks"][name]["images"] == 3


def test_the_masks_score_what_the_models_scored_in_validation(road, evaluation):
    for head in ("bilinear", "subpixel"):
        with open(road[0] / f"model-{head}/history.csv", newline="") as file:
            best = max(float(row["val_jaccard"]) for row in csv.DictReader(file))
        assert evaluation["masks"][head]["miou"] == pytest.approx(best, abs=0.002)


def test_the_table_holds_the_scores_of_the_evaluation(road, evaluation):
    for title, name in zip(("bilinear", "subpixel", "bilinear + CRF", "subpixel + CRF"), NAMES, strict=True):
        (row,) = [line for line in road[2].splitlines() if line.startswith(f"{title:16}")]
        scores = evaluation["masks"][name]
        bands = [scores["trimap"][width] for width in ("1", "2", "4", "8", "16")]
        expected = [scores["miou"], scores["pixel_accuracy"], *bands]
        assert [float(number) for number in row[16:].split()] == pytest.approx(expected, abs=0.0006)


def test_the_report_and_the_sheet_are_where_it_says(road):
    folder, _, output = road
    report = folder / "report/report.html"
    assert str(report) in output and str(folder / "road.png") in output
    page = report.read_text()
    assert all(name in page for name in NAMES)
    with Image.open(folder / "road.png") as sheet:
        assert sheet.width > 5 * WIDTH and sheet.height > 3 * HEIGHT


def test_run_again_it_trains_nothing_and_writes_no_mask(road, evaluation):
    folder = road[0]
    masks = {path: path.stat().st_mtime_ns for path in folder.rglob("masks/*/*.png")}
    status, output = run("--output", str(folder), *SMALL)
    assert status == 0
    assert "epoch 1/1" not in output
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("masks/*/*.png")} == masks
    assert json.loads((folder / "report/evaluation.json").read_text())["masks"] == evaluation["masks"]


def test_a_demo_of_other_options_is_not_overwritten(road):
    with pytest.raises(InputError, match="holds a demo with other options"):
        run("--output", str(road[0]), *SMALL[:-1], "4")


def test_a_demo_of_the_version_that_called_images_pictures_is_recognised(tmp_path):
    (tmp_path / "demo.json").write_text(json.dumps({"pictures": 160, "epochs": 10, "crop": 96, "seed": 1}))
    (tmp_path / "set").mkdir()
    draw(Options(output=str(tmp_path), epochs=10))
    assert not any((tmp_path / "set").iterdir())
    with pytest.raises(InputError, match=r"'images': 160.*now .*'images': 200"):
        draw(Options(output=str(tmp_path), epochs=10, images=200))


def test_a_stage_that_fails_ends_the_demo_with_its_status(road, tmp_path):
    shutil.copytree(road[0], tmp_path / "demo")
    label = next((tmp_path / "demo/set/labels/val").iterdir())
    label.write_bytes(label.read_bytes()[:-20])
    status, output = run("--output", str(tmp_path / "demo"), *SMALL)
    assert status == 1
    assert "$ deeplab prepare" in output and "$ deeplab records verify" not in output


@pytest.mark.parametrize("name", ["road.png", "demo.json"])
def test_a_folder_in_the_place_of_a_file_is_found_before_the_first_stage(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=rf"{name} is a folder, where a file is to be written; move it away"):
        draw(Options(output=str(tmp_path)))


def test_a_demo_json_that_was_cut_off_is_refused_with_the_cure(tmp_path):
    (tmp_path / "demo.json").write_text('{"images": 1')
    with pytest.raises(InputError, match="give another --output, or move it away"):
        draw(Options(output=str(tmp_path)))


def test_a_set_that_is_gone_is_drawn_again(tmp_path):
    options = Options(output=str(tmp_path), images=15)
    draw(options)
    drawn = {path: path.read_bytes() for path in (tmp_path / "set").rglob("*.*")}
    shutil.rmtree(tmp_path / "set")
    draw(options)
    assert {path: path.read_bytes() for path in (tmp_path / "set").rglob("*.*")} == drawn
