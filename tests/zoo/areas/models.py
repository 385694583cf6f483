"""Model folders, crf.json, exports and published weights that are damaged, under every command that takes them."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from tests.drawn.records import PALETTE
from tests.drawn.tuning import some_tuning
from tests.zoo.engine import REFUSED, Area, Case
from tests.zoo.worlds import PNG, both, file, gone, whole
from trainer.formats import exports
from trainer.formats.cards import load_card

TAKERS = {
    "segment": "segment --input @/set/images --model @/model --output @/out",
    "evaluate": "evaluate --labels @/set/labels --masks @/masks --model @/model --output @/out",
    "tune-crf": "tune-crf --model @/model --records @/records",
    "export": "export --model @/model --format savedmodel --output @/out",
}


def card(**changes: Any) -> Callable[[Path], object]:
    """model.json with other values; those that are None are taken out."""

    def make(world: Path) -> None:
        path = world / "model/model.json"
        value = {**json.loads(path.read_bytes()), **changes}
        path.write_text(json.dumps({name: one for name, one in value.items() if one is not None}))

    return make


def written(data: bytes) -> Callable[[Path], object]:
    return file("model/model.json", data)


def hdf5(name: bytes) -> Callable[[Path], object]:
    """w.h5 with an array of that name."""

    def make(world: Path) -> None:
        import h5py

        with h5py.File(world / "w.h5", "w") as weights:
            weights[name] = [1.0]

    return make


def endless(world: Path) -> None:
    """w.h5 with an attribute whose text ends within the entry behind it, of no length, at which the library stays."""
    import h5py

    with h5py.File(world / "w.h5", "w", libver="latest") as weights:
        weights.create_group("layers").attrs["name"] = "Conv_BN"
    data = bytearray((world / "w.h5").read_bytes())
    data[data.index(b"GCOL") + 24] = 44
    (world / "w.h5").write_bytes(data)


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    with mock.patch("trainer.weights.hdf5.PATIENCE", 1):
        yield


CARDS = {
    "no model folder": (gone("model"), "is not a model folder: model.json is missing"),
    "a model folder without model.json": (gone("model/model.json"), "is not a model folder: model.json is missing"),
    "an empty model.json": (written(b""), "model.json is not valid JSON"),
    "a model.json of brackets": (written(b"[" * 100_000), "model.json is not valid JSON"),
    "a model.json that is a list": (written(b"[]"), "expected a JSON object with the keys"),
    "a model.json that is an image": (written(PNG), "model.json is not valid JSON"),
    "a model.json without an architecture": (card(architecture=None), "expected a JSON object with the keys"),
    "a model.json with an entry that is not known": (card(more=1), "expected a JSON object with the keys"),
    "an architecture that is a list": (card(architecture=[1]), "architecture must be a JSON object"),
    "an architecture of other classes than the palette's": (
        card(architecture={"num_classes": 7}),
        "the model has 7 classes",
    ),
    "a number of classes that is a fraction": (
        card(architecture={"num_classes": 3.0}),
        "num_classes must be a whole number",
    ),
    "a palette in model.json that is damaged": (card(palette={"classes": []}), "1 to 254 classes"),
    "a bound on sizes in model.json that is a text": (card(max_side="x"), "max_side must be 0 or a number of pixels"),
    "a bound on sizes in model.json below 0": (card(max_side=-1), "max_side must be 0 or a number of pixels"),
    "training options that are a list": (card(training=[1]), "training must be a JSON object"),
    "scores that are a number": (card(scores=3), "scores must be a JSON object"),
    "a fingerprint of the data that is a number": (card(data_fingerprint=3), "data_fingerprint"),
    "a model folder that is a file": (both(gone("model"), file("model", b"x")), "is not a model folder"),
}
NO_WEIGHTS = "is not a model folder: model.keras is missing"


def tuning(**changes: Any) -> Callable[[Path], object]:
    """A crf.json with other values."""
    values = some_tuning(per_class={}).to_json() | changes
    return file("model/crf.json", json.dumps(values))


TUNINGS = {
    "an empty crf.json": (file("model/crf.json", b""), "crf.json is not valid JSON"),
    "a crf.json of another format": (tuning(format=9), "expected the result of tune-crf in format 1 to"),
    "a crf.json that is null": (file("model/crf.json", b"null"), "expected the result of tune-crf"),
    "a crf.json that is a list": (file("model/crf.json", b"[1]"), "expected the result of tune-crf"),
    "a crf.json without a gain": (tuning(gain=None), "is damaged"),
    "a crf.json with a text for a gain": (tuning(gain={"value": "x", "low": 0, "high": 1}), "is damaged"),
    "a crf.json whose gains of classes are a list": (
        tuning(options=None, verdict="off", per_class=[0, 1, 2], classes=[9]),
        "is damaged",
    ),
    "a crf.json whose verdict contradicts it": (tuning(verdict="off"), "does not go with the options"),
    "a crf.json with a width of no pixels": (tuning(options={"sxy": 0}), "sxy is the width of a kernel"),
    "a crf.json with a number of 400 digits": (tuning(options={"sxy": 10**400}), "is damaged"),
    "a crf.json with weights of other classes": (
        tuning(options={"class_weights": {"zzz": 0.5}}),
        "unknown classes (zzz)",
    ),
    "a crf.json made with other weights": (tuning(), "was made with other weights"),
}


def savedmodel(about: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """What a SavedModel says of itself."""

    def make(world: Path) -> None:
        text = json.dumps(exports.about(load_card(str(world / "model")), "0" * 64, {})).encode()
        for name, data in ((exports.SAVED_MODEL, b"program"), (exports.ABOUT, about(text))):
            path = world / "saved" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)

    return make


SAVED = "segment --input @/set/images --model @/saved --output @/out"
ONNX = "segment --input @/set/images --model @/m.onnx --output @/out"
EXPORTS = {
    "a SavedModel of another program": (SAVED, file("saved/saved_model.pb", b"x"), "is no model"),
    "a SavedModel whose description is damaged": (
        SAVED,
        savedmodel(lambda text: text[:-9]),
        "is damaged, or `deeplab export` did not",
    ),
    "a SavedModel whose description is deeper than can be read": (
        SAVED,
        savedmodel(lambda _: b"[" * 100_000),
        "is damaged",
    ),
    "a SavedModel of a later version": (
        SAVED,
        savedmodel(lambda text: text.replace(b'"version": 1', b'"version": 9')),
        "version 9",
    ),
    "an ONNX file that is empty": (ONNX, file("m.onnx", b""), "its metadata has no entry 'deeplab'"),
    "an ONNX file that is text": (ONNX, file("m.onnx", b"this is none"), "is damaged, or `deeplab export` did not"),
    "an ONNX file that is not there": (ONNX, lambda world: None, "m.onnx"),
    "a TFLite file": (SAVED.replace("saved", "m.tflite"), file("m.tflite", b"x"), "takes images of one size"),
}
IMPORT = "import-weights @/w --palette @/set/palette.json --output @/out"


def archive(*names: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = 4
            tar.addfile(info, io.BytesIO(b"data"))
    return buffer.getvalue()


TGZ, H5 = IMPORT.replace("@/w", "@/w.tar.gz"), IMPORT.replace("@/w", "@/w.h5")
WEIGHTS = {
    "published weights that are not there": (IMPORT, lambda world: None, "is not a TensorFlow checkpoint: "),
    "a checkpoint without its data": (IMPORT, file("w.index", b"x"), "cannot be read as a TensorFlow checkpoint"),
    "a checkpoint that is text": (
        IMPORT,
        both(file("w.index", b"x" * 99), file("w.data-00000-of-00001", b"x")),
        "cannot be read as a TensorFlow checkpoint",
    ),
    "an archive that is not there": (TGZ, lambda world: None, "not found; expected a .tar.gz"),
    "an archive that is text": (TGZ, file("w.tar.gz", b"this is none"), "cannot be unpacked"),
    "an archive cut off": (TGZ, file("w.tar.gz", archive("a.ckpt.index")[:60]), "cannot be unpacked"),
    "an archive without a checkpoint": (TGZ, file("w.tar.gz", archive("readme.txt")), "holds 0 checkpoints"),
    "an archive of two checkpoints": (
        TGZ,
        file("w.tar.gz", archive("a.ckpt.index", "b.ckpt.index")),
        "holds 2 checkpoints",
    ),
    "an archive whose names lead elsewhere": (
        TGZ,
        file("w.tar.gz", archive("../../evil.ckpt.index")),
        "cannot be read as a TensorFlow checkpoint",
    ),
    "an HDF5 file that is not there": (H5, lambda world: None, "w.h5 not found"),
    "an HDF5 file that is text": (H5, file("w.h5", b"this is none"), "cannot be read as an HDF5 file"),
    "an empty HDF5 file": (H5, file("w.h5", b""), "cannot be read as an HDF5 file"),
    "an HDF5 file with a name in Latin-1": (H5, hdf5(b"\xfcber"), "the name b'\\xfcber' is not UTF-8"),
    "an HDF5 file that its library never gets through": (H5, endless, "does not get through it: signal "),
    "an HDF5 file that is a folder": (H5, lambda world: (world / "w.h5").mkdir(), "cannot be read as an HDF5 file"),
    "weights from a storage that is not known": (
        IMPORT.replace("@/w", "ftp://x/w.h5"),
        lambda world: None,
        "ftp:// is not supported",
    ),
}
TRAIN = "train --records @/records --output @/out --crop 32 --batch-size 2 --epochs 1 --steps-per-epoch 1"
TRAININGS = {
    "records without validation images": (TRAIN, lambda world: _without(world, "val"), "val"),
    "a model of others in the output": (
        TRAIN,
        file("out/model.keras", b"mine"),
        "holds model.keras, but no training to resume",
    ),
    "a state of a training that is damaged": (
        TRAIN,
        file("out/checkpoints/state.json", b"{}"),
        "is damaged, or not of `deeplab train`",
    ),
    "a state of a training that is a list": (
        TRAIN,
        file("out/checkpoints/state.json", b"[]"),
        "is damaged, or not of `deeplab train`",
    ),
    "initial weights that are not there": (f"{TRAIN} --init-from @/no", lambda world: None, "/no"),
    "initial weights that are a folder": (
        f"{TRAIN} --init-from @/set",
        lambda world: None,
        "is neither a model folder",
    ),
    "a damaged model to begin with": (
        f"{TRAIN} --init-from @/model",
        lambda world: None,
        "is damaged or does not belong to model.json",
    ),
    "the model to begin with is the output": (
        f"{TRAIN.replace('@/out', '@/model')} --init-from @/model --overwrite",
        lambda world: None,
        "is the model of --init-from",
    ),
    "records without a shard that they list": (
        TRAIN,
        gone("records/train-00000-of-00002.tfrecord"),
        "train-00000-of-00002.tfrecord",
    ),
}


def _without(world: Path, split: str) -> None:
    path = world / "records/dataset.json"
    value = json.loads(path.read_bytes())
    value["shards"] = [shard for shard in value["shards"] if shard["split"] != split]
    path.write_text(json.dumps(value))


def cases() -> list[Case]:
    found = []
    for number, (name, (make, says)) in enumerate(CARDS.items()):
        takers = list(TAKERS)
        for command in dict.fromkeys(("segment", takers[number % len(takers)])):
            found.append(Case(f"{name}: {command}", TAKERS[command], REFUSED, (says,), make, writes=("out", "model")))
    for command in ("segment", "tune-crf", "export"):
        found.append(
            Case(
                f"a model without weights: {command}",
                TAKERS[command],
                REFUSED,
                (NO_WEIGHTS,),
                gone("model/model.keras"),
            )
        )
    for name, (make, says) in TUNINGS.items():
        found.append(Case(name, f"{TAKERS['segment']} --crf auto", REFUSED, ("crf.json", says), make))
    found.append(
        Case("no crf.json", f"{TAKERS['segment']} --crf auto", REFUSED, ("crf.json is missing; make it with",))
    )
    found.append(
        Case(
            "a crf.json of others: tune-crf",
            TAKERS["tune-crf"],
            REFUSED,
            ("crf.json was not written by `deeplab tune-crf`",),
            file("model/crf.json", b"{}"),
        )
    )
    found.append(
        Case(
            "too few images to tune on",
            TAKERS["tune-crf"],
            REFUSED,
            ("2 usable images in the split val", "expected 10 or more"),
            writes=("model",),
            stays=False,
        )
    )
    found.append(
        Case(
            "records of other classes: tune-crf",
            TAKERS["tune-crf"],
            REFUSED,
            ("are not those of",),
            card(
                palette=PALETTE.to_json() | {"classes": [{"name": n, "color": [i, i, 1]} for i, n in enumerate("abc")]}
            ),
        )
    )
    for table in (EXPORTS, WEIGHTS, TRAININGS):
        for name, (line, make, says) in table.items():
            # These build a network first.
            around = impatient if "never" in name else contextlib.nullcontext
            found.append(Case(name, line, REFUSED, (says,), make, around=around, slow="--init-from" in line))
    found += [
        Case(
            "an export over files of others",
            TAKERS["export"],
            REFUSED,
            ("holds other files than a SavedModel",),
            file("out/x", b"mine"),
        ),
        Case(
            "an export whose name is of another format",
            "export --model @/model --format onnx --output @/out.txt",
            REFUSED,
            ("must end in .onnx",),
        ),
        Case(
            "an export of a model that is damaged",
            TAKERS["export"],
            REFUSED,
            ("is damaged or does not belong to model.json",),
            writes=("out.check.json",),
            stays=False,
        ),
    ]
    return found


AREA = Area("Models and weights", whole, tuple(cases()))
