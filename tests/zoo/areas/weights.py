"""Exports and published weights that are damaged, and trainings on what cannot be trained on."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

from tests.zoo.worlds import both, file, gone
from trainer.formats import exports
from trainer.formats.cards import load_card


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
    "a SavedModel of another program": (SAVED, file("saved/saved_model.pb", b"x"), "is not a model"),
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
    "an HDF5 file on which its library hangs": (H5, endless, "crashes or hangs: signal "),
    "an HDF5 file that is a folder": (H5, lambda world: (world / "w.h5").mkdir(), "w.h5: Is a directory"),
    "an HDF5 file that is a FIFO": (H5, lambda world: os.mkfifo(world / "w.h5"), "w.h5: a FIFO, not a file"),
    "a checkpoint whose data are a FIFO": (
        IMPORT,
        both(file("w.index", b"x"), lambda world: os.mkfifo(world / "w.data-00000-of-00001")),
        "w.data-00000-of-00001: a FIFO, not a file",
    ),
    "weights from a storage that is not known": (
        IMPORT.replace("@/w", "ftp://x/w.h5"),
        lambda world: None,
        "ftp:// is not supported",
    ),
}
TRAIN = "train --records @/records --output @/out --crop 32 --batch-size 2 --epochs 1 --steps-per-epoch 1"
TRAININGS = {
    "records without validation images": (TRAIN, lambda world: _without(world, "val"), "val"),
    "another program's model in the output": (
        TRAIN,
        file("out/model.keras", b"mine"),
        "holds model.keras, but no training to resume",
    ),
    "a state of a training that is damaged": (
        TRAIN,
        file("out/checkpoints/state.json", b"{}"),
        "is damaged, or `deeplab train` did not write it",
    ),
    "a state of a training that is a list": (
        TRAIN,
        file("out/checkpoints/state.json", b"[]"),
        "is damaged, or `deeplab train` did not write it",
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
