"""What the fuzzer reads by TensorFlow and Keras: `python -m tests.zoo.fuzz --module tests.zoo.heavy`."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from tests.drawn.training import colour_network
from tests.zoo import mutation
from tests.zoo.mutation import Target
from trainer.network import folder as folders
from trainer.weights.checkpoints import Checkpoint


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


TARGETS: dict[str, Target] = {
    ".keras archive": Target(archives, read_archive, spoil=mutation.either(mutation.bits, mutation.members())),
    "checkpoint": Target(checkpoints, read_checkpoint),
}
