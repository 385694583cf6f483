"""`deeplab export` as a user runs it, with a network that tells classes by their colours."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import keras
import pytest

from pipelines import cli
from tests.drawn.records import PALETTE
from tests.drawn.submitting import upload
from trainer import storage
from trainer.export import graph, plan
from trainer.formats import exports
from trainer.formats.cards import weights_digest

OUTPUTS = {"savedmodel": "served", "onnx": "model.onnx", "tflite": "model.tflite"}


def export(model: str, name: str, output: str | Path, *more: str) -> int:
    return cli.main(["export", "--model", model, "--format", name, "--output", str(output), *more])


def report_of(output: str | Path) -> dict:
    return storage.read_json(f"{output}.check.json")


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("float32", "float16")]


@pytest.fixture(scope="module", params=["savedmodel", "onnx", "int8", *SLOW])
def exported(request, model, records, bucket, tmp_path_factory):
    """The name of the format or of its numbers, and its output; checked on records. Two go from gs:// to gs://."""
    name = request.param if request.param in OUTPUTS else "tflite"
    folder = str(tmp_path_factory.mktemp("out"))
    if name != "tflite":
        folder = f"{bucket}/{name}"
        model, records = upload(Path(model), f"{folder}/model"), upload(Path(records), f"{folder}/records")
    output = f"{folder}/{OUTPUTS[name]}"
    flags = ["--size", "64", "64"] if name == "tflite" else []
    flags += ["--quantize", request.param] if request.param in ("float16", "int8") else []
    assert export(model, name, output, "--records", records, *flags) == 0
    return request.param, output


def test_an_export_is_checked_in_its_own_runtime_on_validation_images(exported):
    name, output = exported
    report = report_of(output)
    assert report["status"] == "finished" and report["fault"] == "" and report["images"] == 3
    assert report["pixels"] == (3 * 64 * 64 if report["size"] else 2 * 96 * 96 + 64 * 72)
    assert report["equal"] > 0.98 and report["difference"] < (0.1 if name == "int8" else 0.01)
    assert report["miou"]["model"] > 0.8 and abs(report["miou"]["model"] - report["miou"]["export"]) < 0.01
    assert min(report["seconds"].values()) > 0


def test_an_export_names_its_classes_and_versions_and_no_path_of_the_training(exported, model):
    name, output = exported
    if name == "savedmodel":
        about = storage.read_json(f"{output}/{exports.ABOUT}")
    elif name == "onnx":
        about = json.loads(exports._onnx_metadata(storage.read(output)))
    else:
        with zipfile.ZipFile(output) as archive:
            about = json.loads(archive.read("deeplab.json"))
            assert archive.read("labels.txt").decode().split() == list(PALETTE.names)
    assert [one["name"] for one in about["model"]["palette"]["classes"]] == list(PALETTE.names)
    assert about["weights"] == weights_digest(model) and {"tensorflow", "keras"} <= about["versions"].keys()
    assert about["crf"]["options"] == {"sxy": 40.0}
    assert "someone" not in json.dumps(about) and "/a.png" not in json.dumps(about)


def test_the_status_is_1_where_export_and_model_differ(model, tmp_path, monkeypatch, capsys):
    build = graph.frozen
    monkeypatch.setattr(graph, "frozen", lambda network, max_side, size: build(flipped(network), max_side, size))
    output = tmp_path / "served"
    assert export(model, "savedmodel", output) == 1
    assert "fewer than 99.9% of the pixels have the same class" in capsys.readouterr().out
    assert report_of(output)["fault"] and report_of(output)["checked_on"] == "drawn images"


def flipped(network):
    """The network with another order of its classes."""
    other = keras.models.clone_model(network)
    *rest, kernel, bias, place_kernel, place_bias = network.get_weights()
    other.set_weights([*rest, kernel[..., ::-1], bias, place_kernel, place_bias])
    return other


FAULTS = {
    "format": (["--format", "caffe"], "--format must be one of|invalid choice"),
    "suffix": (["--format", "onnx", "--output", "model"], "must end in .onnx"),
    "size": (["--format", "tflite", "--output", "m.tflite"], "give it as --size HEIGHT WIDTH"),
    "any size": (["--format", "onnx", "--output", "m.onnx", "--size", "64", "64"], "are for --format tflite"),
    "calibration": (
        ["--format", "tflite", "--output", "m.tflite", "--size", "64", "64", "--quantize", "int8"],
        "give the records the model was trained on",
    ),
    "both": (["--format", "savedmodel", "--output", "m", "--records", "r", "--images", "i"], "give one of them"),
    "values": (
        ["--format", "tflite", "--output", "m.tflite", "--size", "40000", "40000"],
        "give a smaller --size, or make a SavedModel or ONNX file",
    ),
    "images": (["--format", "savedmodel", "--output", "m", "--images", "none"], "found no image"),
    "model": (["--format", "savedmodel", "--output", "m", "--model", "none"], "is not a model folder"),
    "tuning": (
        ["--format", "savedmodel", "--output", "m", "--model", "tuned"],
        "was made with other weights",
    ),
    "below a file": (["--format", "savedmodel", "--output", "file/m"], "cannot be written to|cannot write to"),
    "file": (["--format", "savedmodel", "--output", "file"], "is no folder"),
    "taken": (["--format", "onnx", "--output", "taken.onnx"], "--overwrite to replace it"),
    "foreign": (["--format", "savedmodel", "--output", "foreign"], "holds other files than a SavedModel"),
    "no file": (["--format", "onnx", "--output", "folder.onnx"], "is a folder; expected a file ending in .onnx"),
    "below": (["--format", "onnx", "--output", "file/m.onnx"], "cannot write to"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_cannot_be_exported_is_said_in_one_line_before_anything_is_computed(
    case, model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("trainer.startup.start_tensorflow", lambda: pytest.fail("it has begun to compute"))
    (tmp_path / "foreign").mkdir()
    shutil.copytree(model, tmp_path / "tuned")
    (tmp_path / "tuned/crf.json").write_text('{"model_digest": "other"}')
    (tmp_path / "folder.onnx").mkdir()
    for name in ("file", "taken.onnx", "foreign/notes"):
        (tmp_path / name).write_text("mine")
    flags, message = FAULTS[case]
    try:
        status = cli.main(["export", "--model", model, "--output", "m", *flags])
    except SystemExit as exit:
        status = exit.code
    text = capsys.readouterr().err
    assert status == 2 and "Traceback" not in text
    assert any(part in text for part in message.split("|")), text
    assert (tmp_path / "file").read_text() == (tmp_path / "taken.onnx").read_text() == "mine"


def test_packages_that_are_missing_are_named_with_what_installs_them(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(plan.PACKAGES, "onnx", ("onnx", "no_such_module"))
    assert export(model, "onnx", tmp_path / "m.onnx") == 2
    text = capsys.readouterr().err
    assert "needs no_such_module, which is not installed" in text and "deeplab-pipelines[export]" in text


def test_an_export_is_replaced_where_that_is_asked_for(model, tmp_path):
    output = tmp_path / "served"
    for flags in ([], ["--overwrite"]):
        assert export(model, "savedmodel", output, *flags) == 0
    assert export(model, "savedmodel", output) == 2
    assert sorted(path.name for path in output.rglob("*.*") if path.is_file()) == ["deeplab.json", "saved_model.pb"]
