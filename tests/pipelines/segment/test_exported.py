"""`deeplab segment` with an export in place of the model folder it was made from."""

from __future__ import annotations

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
from tests.drawn.places import ROOT
from tests.drawn.segmenting import SIZES, outcomes_of, read_mask, report_of, segment
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
        with pytest.raises(InputError, match="of version 2, this program reads 1; update the program"):
            run(copy)
        (copy / "assets.extra/deeplab.json").unlink()
    with pytest.raises(InputError, match=r"is missing; give what|is damaged, or `deeplab export` did not write it"):
        run(copy)
    with pytest.raises(InputError, match=r"is missing; give what|is not a model folder"):
        run(tmp_path / f"none{export.suffix}")
    assert not (tmp_path / "out").exists()


def test_an_onnx_file_is_looked_into_without_tensorflow_and_onnx() -> None:
    program = "import sys, pipelines.masks.network, trainer.export.onnx, trainer.formats.exports\n"
    program += "print({'tensorflow', 'keras', 'onnx', 'onnxruntime', 'tf2onnx'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
