"""`deeplab segment` with an export in place of the model folder it was made from."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines import cli
from pipelines.masks.network import Network
from pipelines.segment.options import Options
from pipelines.segment.refinement import DEFAULT_NOTE, crf_in_force
from tests.drawn.places import ROOT
from tests.drawn.segmenting import PALETTE, SIZES, outcomes_of, read_mask, report_of, segment
from tests.drawn.tuning import some_tuning
from trainer import storage
from trainer.formats import exports
from trainer.formats.cards import ModelCard
from trainer.formats.options import CrfOptions
from trainer.formats.tuning import Tuning
from trainer.options import InputError


@pytest.fixture(scope="module", params=["onnx", pytest.param("savedmodel", marks=pytest.mark.slow)])
def export(request, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / {"savedmodel": "served", "onnx": "model.onnx"}[request.param]
    assert cli.run(["export", "--model", str(model), "--format", request.param, "--output", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def masks(export: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / "masks"
    assert segment("--input", photos, "--model", export, "--output", output, "--confidence") == 0
    return output


def test_masks_are_those_of_the_model_folder(masks: Path, segmented: Path) -> None:
    for name in SIZES:
        found, expected = (read_mask(folder / f"{name}.png") for folder in (masks, segmented))
        assert found.shape == expected.shape and (found == expected).mean() > 0.99
        confidence = [np.float32(Image.open(folder / "confidence" / f"{name}.png")) for folder in (masks, segmented)]
        assert np.abs(confidence[0] - confidence[1]).max() <= 1
    assert outcomes_of(masks) == (len(SIZES), 0, 0)
    assert report_of(masks)["palette"] == report_of(segmented)["palette"]


def test_a_rerun_keeps_the_masks_and_another_model_is_told_apart(
    masks: Path, model: Path, export: Path, photos: Path, tmp_path: Path
) -> None:
    output = tmp_path / "masks"
    shutil.copytree(masks, output)
    (output / "a.png").unlink()
    assert segment("--input", photos, "--model", export, "--output", output, "--confidence") == 0
    assert outcomes_of(output) == (1, len(SIZES) - 1, 0)
    with pytest.raises(InputError, match="masks made with another model"):
        segment("--input", photos, "--model", model, "--output", output, "--confidence")


def test_an_export_that_was_replaced_is_refused(export: Path) -> None:
    with pytest.raises(InputError, match="was replaced while this command was running"):
        Network(str(export), "0" * 64)


def test_what_is_no_export_is_said_in_one_line(export: Path, photos: Path, tmp_path: Path) -> None:
    def run(path: Path, *flags: str) -> int:
        return segment("--input", photos, "--model", path, "--output", tmp_path / "out", *flags)

    (tmp_path / "model.tflite").write_bytes(b"")
    with pytest.raises(InputError, match="takes images of one size"):
        run(tmp_path / "model.tflite")
    copy = tmp_path / export.name
    shutil.copytree(export, copy) if export.is_dir() else copy.write_bytes(export.read_bytes()[:-9])
    if copy.is_dir():
        (copy / "assets.extra/deeplab.json").write_text(json.dumps({"version": 2}))
        with pytest.raises(InputError, match=r"/[^:]* is of version 2, this program reads 1; update the program"):
            run(copy)
        (copy / "assets.extra/deeplab.json").unlink()
    with pytest.raises(InputError, match=r"is missing; give what|is damaged, or `deeplab export` did not write it"):
        run(copy)
    with pytest.raises(InputError, match=r"is missing; give what|is not a model folder"):
        run(tmp_path / f"none{export.suffix}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite"])
def test_a_folder_is_a_model_folder_or_a_saved_model_whatever_its_name(name, model, tmp_path) -> None:
    (tmp_path / name).symlink_to(model)
    assert exports.kind(str(tmp_path / name)) == ""
    (tmp_path / "served" / name).mkdir(parents=True)
    assert exports.kind(tuned(tmp_path / "served" / name, None)) == "savedmodel"


def test_an_onnx_file_is_taken_from_who_may_not_list_its_folder(tmp_path, monkeypatch) -> None:
    def refuse(path: str) -> bool:
        raise PermissionError(f"{path} may not be listed")

    (tmp_path / "model.onnx").write_bytes(b"network")
    monkeypatch.setattr(storage, "is_dir", refuse)
    assert exports.kind(str(tmp_path / "model.onnx")) == "onnx"


def tuned(folder: Path, tuning: Tuning | None) -> str:
    """An export that knows what its model was tuned to, and cannot be run."""
    card = ModelCard({"num_classes": 3}, PALETTE)
    about = exports.about(card, "weights", {}, tuning and json.loads(json.dumps(tuning.to_json())))
    storage.write(str(folder / exports.SAVED_MODEL), b"network")
    storage.write_json(str(folder / exports.ABOUT), about)
    return str(folder)


def test_an_export_brings_the_crf_that_its_model_was_tuned_to(tmp_path: Path) -> None:
    def in_force(tuning: Tuning | None, **flags: object) -> tuple[CrfOptions | None, str]:
        path = tuned(tmp_path / "served", tuning)
        return crf_in_force(Options(input="photos", model=path, output="masks", **flags), exports.model_digest(path))

    found = some_tuning()
    assert in_force(found) == in_force(None) == (None, "")
    assert in_force(found, crf="on")[0] == in_force(found, crf="auto")[0] == found.options
    assert in_force(found, crf="auto", crf_sxy=7.0)[0] == dataclasses.replace(found.options, sxy=7)
    against = dataclasses.replace(found, options=None)
    assert in_force(against, crf="auto") == (None, f"no CRF: {tmp_path / 'served'} advises against it")
    assert in_force(None, crf="on") == (CrfOptions(), DEFAULT_NOTE)
    with pytest.raises(
        InputError, match=r"served was exported from a model without crf\.json; run `deeplab tune-crf`"
    ):
        in_force(None, crf="auto")
    in_force(found)
    assert '"p"' not in (tmp_path / "served" / exports.ABOUT).read_text(), "a path of the records"
    broken = json.loads(json.dumps(found.to_json())) | {"gain": None}
    path = tmp_path / "served" / exports.ABOUT
    path.write_text(json.dumps(json.loads(path.read_text()) | {"crf": broken}))
    with pytest.raises(InputError, match=r"served: is damaged .*, or export the model again"):
        crf_in_force(Options(input="photos", model=str(tmp_path / "served"), output="m", crf="on"), "")


def test_an_onnx_file_is_looked_into_without_tensorflow_and_onnx() -> None:
    program = "import sys, pipelines.masks.network, trainer.export.onnx, trainer.formats.exports\n"
    program += "print({'tensorflow', 'keras', 'onnx', 'onnxruntime', 'tf2onnx'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
