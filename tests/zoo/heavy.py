"""What the fuzzer reads by TensorFlow, Keras and processes: `python -m tests.zoo.fuzz --module tests.zoo.heavy`."""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.drawn.training import colour_network
from tests.zoo import mutation
from tests.zoo.mutation import Target
from trainer.formats.cards import weights_digest
from trainer.network import folder as folders
from trainer.options import InputError
from trainer.weights.checkpoints import Checkpoint
from trainer.weights.hdf5 import Hdf5


@functools.cache
def network() -> Any:
    return colour_network(3)


@functools.cache
def archives() -> list[bytes]:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "model.keras"
        network().save(path)
        return [path.read_bytes()]


def read_archive(data: bytes, folder: Path) -> None:
    (folder / "model.keras").write_bytes(data)
    with contextlib.suppress(InputError):
        weights_digest(str(folder))
    folders.load_weights(network(), str(folder))


@functools.cache
def checkpoints() -> list[bytes]:
    """The index of a checkpoint and its data, one behind the other, with the length of the first before both."""
    import tensorflow as tf

    with tempfile.TemporaryDirectory() as place:
        prefix = tf.train.Checkpoint(a=tf.Variable(tf.ones([3, 4])), b=tf.Variable(tf.ones([2]))).write(f"{place}/m")
        index = Path(f"{prefix}.index").read_bytes()
        return [len(index).to_bytes(4, "big") + index + Path(f"{prefix}.data-00000-of-00001").read_bytes()]


def read_checkpoint(data: bytes, folder: Path) -> None:
    size = int.from_bytes(data[:4], "big")
    (folder / "m.index").write_bytes(data[4 : 4 + size])
    (folder / "m.data-00000-of-00001").write_bytes(data[4 + size :])
    found = Checkpoint(str(folder / "m"))
    for name in found.shapes:
        if not name.startswith("_"):
            found.read(name)


def hdf5_files() -> list[bytes]:
    import h5py

    def file(**options) -> bytes:
        buffer = io.BytesIO()
        with h5py.File(buffer, "w", **options) as content:
            for name, shape in (("aspp0/aspp0/kernel:0", (1, 1, 8, 4)), ("Conv/Conv/kernel:0", (3, 3, 3, 4))):
                content[name] = np.zeros(shape, "float32")
            content.create_dataset(
                "logits_semantic/logits_semantic/kernel:0", data=np.ones((4, 3), "f4"), compression=1
            )
            group = content.create_group("layers/conv2d/vars")
            group["0"] = np.ones((3, 3), "f4")
            content["layers/conv2d"].attrs["name"] = "Conv_BN"
        return buffer.getvalue()

    return [file(), file(libver="latest")]


def read_hdf5(data: bytes, folder: Path) -> None:
    (folder / "w.h5").write_bytes(data)
    file = Hdf5(str(folder / "w.h5"))
    for name in file.shapes:
        file.read(name)


TARGETS: dict[str, Target] = {
    ".keras archive": Target(archives, read_archive, spoil=mutation.either(mutation.bits, mutation.members())),
    "checkpoint": Target(checkpoints, read_checkpoint),
    "HDF5": Target(hdf5_files, read_hdf5),
}
