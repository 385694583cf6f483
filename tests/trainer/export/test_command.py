"""`deeplab export` as a user runs it, with a network that tells classes by their colours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import keras
import pytest

from pipelines import cli
from tests.drawn.networks import write_model
from tests.drawn.places import ROOT
from tests.drawn.records import PALETTE
from tests.drawn.submitting import upload
from tests.drawn.tuning import some_tuning
from trainer import leases, storage
from trainer.export import graph, plan, tally
from trainer.formats import exports
from trainer.formats.cards import weights_digest
from trainer.formats.dataset import load_dataset, save_dataset

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
        data = Path(output).read_bytes()
        directory = int.from_bytes(data[-6:-2], "little")
        assert data[directory : directory + 4] == b"PK\1\2", "as all readers count, from the start of the file"
    assert [one["name"] for one in about["model"]["palette"]["classes"]] == list(PALETTE.names)
    assert about["weights"] == weights_digest(model) and {"tensorflow", "keras"} <= about["versions"].keys()
    tuned = json.loads(json.dumps(some_tuning(model_digest=weights_digest(model)).to_json()))
    assert about["crf"] == tuned | {"grid": [], "rejects": []}
    assert "someone" not in json.dumps(about)


def test_the_status_is_1_where_export_and_model_differ_and_the_export_replaced_where_that_is_asked_for(
    model, tmp_path, monkeypatch, capsys
):
    build, output = graph.frozen, tmp_path / "served"
    with monkeypatch.context() as patch:
        patch.setattr(graph, "frozen", lambda network, max_side, size: build(flipped(network), max_side, size))
        assert export(model, "savedmodel", output) == 1
    assert "fewer than 99.9% of the pixels have the same class" in capsys.readouterr().out
    assert report_of(output)["fault"] and report_of(output)["checked_on"] == "drawn images"
    assert export(model, "savedmodel", output) == 2 and report_of(output)["fault"]
    assert export(model, "savedmodel", output, "--overwrite") == 0 and not report_of(output)["fault"]
    assert sorted(path.name for path in output.rglob("*.*") if path.is_file()) == ["deeplab.json", "saved_model.pb"]


@pytest.mark.parametrize("name", ["savedmodel", "onnx"])
def test_a_run_that_was_ended_before_its_check_is_resumed_by_the_same_command(name, model, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    output = tmp_path / OUTPUTS[name]
    with monkeypatch.context() as patch:
        patch.setattr(tally, "compare", interrupt)
        assert export(model, name, output) == 130
    written = output / exports.SAVED_MODEL if name == "savedmodel" else output
    whole = written.read_bytes()
    written.write_bytes(b"of another program")
    assert export(model, name, output) == 2 and written.read_bytes() == b"of another program"
    written.write_bytes(whole)
    assert export(model, name, output) == 0 and report_of(output)["status"] == "finished"
    assert export(model, name, output) == 2


@pytest.mark.parametrize("name", ["savedmodel", "onnx"])
def test_what_killed_exports_were_writing_is_removed_and_nothing_of_others(name, model, tmp_path):
    output = tmp_path / OUTPUTS[name]
    ours = [
        output.with_name(f".{output.name}.check.json.0123abcd.tmp"),
        output.with_name(f".{output.name}.0123abcd.tmp"),
    ]
    if name == "savedmodel":
        ours[1:] = [output / ".saved_model.pb.0123abcd.tmp", output / "assets.extra/.deeplab.json.0123abcd.tmp"]
    theirs = tmp_path / ".other.onnx.0123abcd.tmp"
    for path in (*ours, theirs):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert export(model, name, output) == 0
    assert list(tmp_path.rglob("*.tmp")) == [theirs]


def test_records_that_are_changed_during_the_check_end_it(model, records, tmp_path, monkeypatch, capsys):
    folder, compare = Path(shutil.copytree(records, tmp_path / "records")), tally.compare

    def overtaken(*arguments):
        (folder / "dataset.json").unlink()  # as `prepare` does before it writes shards
        return compare(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(tally, "compare", overtaken)
        assert export(model, "savedmodel", tmp_path / "served", "--records", str(folder)) == 2
    assert "were changed by another command since this one began" in capsys.readouterr().err
    assert export(model, "savedmodel", tmp_path / "served") == 0


def test_of_two_exports_into_one_file_the_second_is_refused(model, tmp_path, capsys):
    output = tmp_path / "m.onnx"
    with leases.scope(print, print):
        leases.acquire_file(str(output), "export")
        assert export(model, "onnx", output) == 2
        assert "m.onnx is being written by `deeplab export` of " in capsys.readouterr().err
        assert export(model, "onnx", tmp_path / "n.onnx") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["n.onnx", "n.onnx.check.json"]


def flipped(network):
    """The network with another order of its classes."""
    other = keras.models.clone_model(network)
    *rest, kernel, bias, place_kernel, place_bias = network.get_weights()
    other.set_weights([*rest, kernel[..., ::-1], bias, place_kernel, place_bias])
    return other


ONNX = ["--format", "onnx", "--output"]
SAVED = ["--format", "savedmodel", "--output"]
TFLITE = ["--format", "tflite", "--output", "m.tflite", "--size"]
INT8 = [*TFLITE, "64", "64", "--quantize", "int8"]
FAULTS = {
    "format": (["--format", "caffe"], "--format must be one of|invalid choice"),
    "suffix": ([*ONNX, "model"], "must end in .onnx"),
    "size": (TFLITE[:-1], "give it as --size HEIGHT WIDTH"),
    "any size": ([*ONNX, "m.onnx", "--size", "64", "64"], "are for --format tflite"),
    "calibration": (INT8, "give the records the model was trained on"),
    "both": ([*SAVED, "m", "--records", "r", "--images", "i"], "give one of them"),
    "values": ([*TFLITE, "40000", "40000"], "give a smaller --size, or make a SavedModel or ONNX file"),
    "memory": ([*TFLITE, "20000", "30000"], "GB; give a smaller --size, or a larger machine"),
    "images": ([*SAVED, "m", "--images", "none"], "found no image"),
    "no image": ([*SAVED, "m", "--images", "foreign/notes"], "no image of it can be read, such as foreign/notes"),
    "model": ([*SAVED, "m", "--model", "none"], "is not a model folder"),
    "tuning": ([*SAVED, "m", "--model", "tuned"], "was made with other weights"),
    "later tuning": ([*SAVED, "m", "--model", "later"], "found 9; update this program if a later version"),
    "below a file": ([*SAVED, "file/m"], "cannot be written to"),
    "file": ([*SAVED, "file"], "is not a folder"),
    "taken": ([*ONNX, "taken.onnx"], "--overwrite to replace it"),
    "link": ([*ONNX, "link.onnx"], "--overwrite to replace it"),
    "link in a SavedModel": ([*SAVED, "linked"], "--overwrite to replace it"),
    "foreign": ([*SAVED, "foreign", "--overwrite"], "foreign holds notes, which is not part of an export"),
    "around": ([*SAVED, "foreign/new/..", "--overwrite"], "foreign holds notes, which is not part of an export"),
    "no file": ([*ONNX, "folder.onnx"], "is a folder; expected a file ending in .onnx"),
    "below": ([*ONNX, "file/m.onnx"], "file cannot be written to"),
    "report": ([*ONNX, "new.onnx"], "new.onnx.check.json, where the figures of the check are to be written"),
    "folder for the report": ([*ONNX, "full.onnx"], "full.onnx.check.json is a folder, where a file is to be written"),
    "status": ([*ONNX, "other.onnx"], "other.onnx.check.json, where the figures of the check are to be written"),
    "classes": ([*SAVED, "m", "--records", "zebra"], "has the classes zebra, "),
    "ignored": ([*SAVED, "m", "--records", "ignoring"], "ignores pixels of id 99, the model those of 255"),
    "shards": ([*SAVED, "m", "--records", "cut"], "1 of 3 shards are missing or of another size"),
}


@pytest.fixture(scope="module")
def faulty(model, records, tmp_path_factory):
    """A folder with files of others, a model whose tuning is another's, and records that are not the model's."""
    place = tmp_path_factory.mktemp("faulty")
    (place / "foreign").mkdir()
    shutil.copytree(model, place / "tuned")
    (place / "tuned/crf.json").write_text(json.dumps(some_tuning(model_digest="other").to_json()))
    shutil.copytree(model, place / "later")
    (place / "later/crf.json").write_text('{"format": 9}')
    for name in ("folder.onnx", "full.onnx.check.json"):
        (place / name).mkdir()
    for name in ("file", "taken.onnx", "foreign/notes", "new.onnx.check.json"):
        (place / name).write_text("mine")
    (place / "other.onnx.check.json").write_text('{"status": "mine"}')
    (place / "linked").mkdir()
    for name in ("link.onnx", "linked/saved_model.pb"):
        (place / name).symlink_to("nowhere")
    dataset = load_dataset(records)
    changes = {
        "zebra": {"palette": replace(dataset.palette, names=("zebra", *dataset.palette.names[1:]))},
        "ignoring": {"palette": replace(dataset.palette, ignore_id=99)},
    }
    for name, change in changes.items():
        (place / name).mkdir()
        save_dataset(str(place / name), replace(dataset, **change))
    shutil.copytree(records, place / "cut")
    next((place / "cut").glob("val-*")).write_bytes(b"short")
    return place


@pytest.mark.parametrize("case", FAULTS)
def test_what_cannot_be_exported_is_said_in_one_line_before_anything_is_computed(
    case, model, faulty, monkeypatch, capsys
):
    monkeypatch.chdir(faulty)
    monkeypatch.setattr("trainer.startup.start_tensorflow", lambda: pytest.fail("it has begun to compute"))
    monkeypatch.setattr(plan, "memory", lambda: 1 << 34)
    before = contents(faulty)
    flags, message = FAULTS[case]
    try:
        status = cli.main(["export", "--model", model, "--output", "m", *flags])
    except SystemExit as exit:
        status = exit.code
    text = capsys.readouterr().err
    assert status == 2 and "Traceback" not in text
    assert any(part in text for part in message.split("|")), text
    assert contents(faulty) == before


def contents(folder: Path) -> dict[Path, bytes]:
    """What is in each file, and where links lead."""
    return {
        path: os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if not path.is_dir()
    }


def test_packages_that_are_missing_are_named_with_what_installs_them(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(plan.LIBRARIES, "onnx", ("onnx", "no-such-module"))
    assert export(model, "onnx", tmp_path / "m.onnx") == 2
    text = capsys.readouterr().err
    assert "needs no-such-module, which is not installed" in text and "deeplab-pipelines[export]" in text


@pytest.mark.slow
def test_the_backend_that_keras_is_to_have_makes_no_difference(tmp_path):
    """Every format is made from a graph of TensorFlow."""
    write_model(tmp_path / "model", PALETTE)
    flags = ["--model", "model", "--format", "savedmodel", "--output", "served"]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "export", *flags],
        env=os.environ | {"KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert report_of(tmp_path / "served")["difference"] < 1e-5
