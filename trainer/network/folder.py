"""The model folder: a network's weights in `model.keras`, and `model.json` from whose numbers it is built again.

No layer description is ever read: loading a folder runs nothing that is in it.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import re
import threading
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import keras
import numpy as np
from keras import ops

from trainer import storage
from trainer.files import scratch
from trainer.formats.cards import CARD, WEIGHTS, ModelCard, load_card, save_card
from trainer.network.deeplab import deeplab_v3_plus, split
from trainer.options import InputError

ARRAYS = "model.weights.h5"
"""The member of the weights file that holds them."""
SHARED_ID = re.compile(rb'(?<="shared_object_id": )\d+')


def save_model(folder: str, model: keras.Model, card: ModelCard) -> None:
    """Write `model.keras` and `model.json` into `folder` (local or gs://), each whole or not at all.

    The optimizer's state is left out.
    """
    # A second model over the same layers has their weights but no optimizer.
    bare = keras.Model(model.inputs, model.outputs, name=model.name)
    with scratch.folder("model") as temporary:
        path = os.path.join(temporary, WEIGHTS)
        bare.save(path)
        # First the file by which the other is known to be of this program.
        save_card(folder, card)
        storage.write(storage.join(folder, WEIGHTS), _reproducible(path))
    for file in storage.glob(storage.join(folder, ".*")):
        if storage.unfinished(file.relative) in (WEIGHTS, CARD):
            storage.remove(file.path)


def _reproducible(path: str) -> bytes:
    """A Keras archive without times and addresses in memory: masks and crf.json know a model by its bytes."""
    data, numbers = io.BytesIO(), {}
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(data, "w") as timeless:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "metadata.json":
                metadata = json.loads(content)
                content = json.dumps({key: metadata[key] for key in metadata if key != "date_saved"}).encode()
            if name == "config.json":
                content = SHARED_ID.sub(lambda match: b"%d" % numbers.setdefault(match[0], len(numbers)), content)
            timeless.writestr(zipfile.ZipInfo(name), content)
    return data.getvalue()


def _reason(error: Exception) -> str:
    """The telling line of an error: Keras puts a count of the layers concerned before it."""
    first, *rest = (str(error).strip() or type(error).__name__).split("\n\n")
    return (rest[0] if rest and first.startswith("A total of") else first).splitlines()[0]


def _check_archive(path: str, model: keras.Model) -> None:
    """Raises ValueError or BadZipFile for an archive that is damaged, or claims more than `model` can have."""
    # Names, attributes and layer descriptions come on top of the arrays.
    bound = 2 * sum(math.prod(weight.shape) * 4 for weight in model.weights) + (64 << 20)
    with zipfile.ZipFile(path) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
        if claimed > bound:
            raise ValueError(f"it claims to hold {claimed:,} bytes, more than the {bound:,} of such a network")
        # Keras seeks in the weights, and from Python 3.12 on zipfile gives up a member's checksum at a seek forwards.
        damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} in it is wrong")
        sizes: list[int] = []

        def look(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                # The one attribute that Keras reads, of weights in bfloat16; HDF5's library never comes to the end of
                # some that are damaged.
                if "dtype" in item.attrs:
                    raise ValueError(f"{name} has an attribute dtype, as arrays of numbers of float32 have none")
                sizes.append(item.nbytes)

        with archive.open(ARRAYS) as member, h5py.File(member) as file:
            file.visititems(look)
    # Compressed or left out, arrays can claim any size in a small file.
    if sum(sizes) > bound:
        raise ValueError(f"its arrays claim to hold {sum(sizes):,} bytes, more than the {bound:,} of such a network")


def _copy(path: str, local: str) -> str:
    """Copies the file at `path` (local or gs://); returns its SHA-256 as hex digits."""
    digest = hashlib.sha256()
    with storage.reader(path) as source, open(local, "wb") as target:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()


def load_weights(model: keras.Model, folder: str, digest: str = "") -> None:
    """Read the weights in `folder` into `model`, which must have the same architecture.

    Only arrays are read: Keras opens `model.weights.h5` inside the archive, refuses links to other files, and never
    looks at the layer descriptions beside it.

    Args:
      model: from `deeplab_v3_plus`.
      folder: of a model, local or gs://.
      digest: SHA-256 of the weights file that is wanted, see `trainer.formats.cards.weights_digest`; "" for any.

    Raises:
      InputError: the file is missing, damaged, of another architecture, or not the one that is wanted.
    """
    path = storage.join(folder, WEIGHTS)
    # The file may be replaced at any time: what was digested is what is read.
    with scratch.folder("model") as temporary:
        local = os.path.join(temporary, WEIGHTS)
        try:
            actual = _copy(path, local)
            if digest and actual != digest:
                raise InputError(
                    f"the model in {folder} was replaced while this command was running; its output would be of two "
                    "models. Run the command again, and let no training write into a model's folder meanwhile"
                )
            _check_archive(local, model)
            model.load_weights(local)
        except FileNotFoundError:
            raise InputError(
                f"{folder} is not a model folder: {WEIGHTS} is missing; give the output of `deeplab train` or "
                "`deeplab import-weights`"
            ) from None
        except InputError:
            raise
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} is damaged or does not belong to {CARD} beside it ({_reason(error)}); train or import it "
                "again"
            ) from None


def load_model(folder: str, digest: str = "") -> tuple[keras.Model, ModelCard]:
    """The model and card in `folder` (local or gs://): rebuilt from `model.json`'s numbers, then its weights read.

    Args:
      folder: of a model.
      digest: SHA-256 of the weights that are wanted, "" for any.

    Raises:
      InputError: the folder holds no model, a damaged one, or one with other weights.
    """
    card = load_card(folder)
    try:
        model = deeplab_v3_plus(**card.architecture)
    except (TypeError, ValueError, InputError) as error:
        raise InputError(f"{storage.join(folder, CARD)}: {error}") from None
    load_weights(model, folder, digest)
    return model, card


WHAT = ("ids", "best", "probabilities")

TILE_BYTES = {"CPU": 32 << 20, "GPU": 256 << 20}
"""Logits that are there at once, of all images of a batch: on a CPU those of one image of usual size, on a GPU what
keeps all of it busy."""
TILE_SIDE = 640
"""Pixels. The work of interpolating a pixel grows with the length of what is interpolated."""


def _even(length: int, most: int) -> int:
    """The length of as few parts as possible of `length`, all but the last equal, of at most `most` or 1."""
    return math.ceil(length / math.ceil(length / max(1, most)))


def _tiles(rows: int, columns: int, area: int, side: int) -> Iterator[tuple[slice, slice]]:
    """Tiles that cover [rows, columns], of at most `area` and `side` where these are 1 or more."""
    width = _even(columns, min(side, area))
    height = _even(rows, min(side, area // width))
    for top in range(0, rows, height):
        for left in range(0, columns, width):
            yield slice(top, top + height), slice(left, left + width)


def _outputs(logits: Any, what: str) -> Any:
    if what == "ids":
        return ops.cast(ops.argmax(logits, axis=-1), "uint8")
    if what == "probabilities":
        return ops.softmax(logits, axis=-1)
    shifted = logits - ops.max(logits, axis=-1, keepdims=True)
    powers = ops.exp(shifted)
    total = ops.sum(powers, axis=-1)
    # Of p = powers / total: its greatest value, and -sum(p log p).
    entropy = ops.log(total) - ops.sum(powers * shifted, axis=-1) / total
    return [ops.cast(ops.argmax(logits, axis=-1), "uint8"), 1 / total, entropy]


def _compiled(network: keras.Model, *dtypes: str) -> Callable[..., Any]:
    """The network in inference as a function of arrays, or of parts of what another one returned."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        specs = [tf.TensorSpec(x.shape, dtype) for x, dtype in zip(network.inputs, dtypes, strict=True)]

        def traced(*inputs: Any) -> Any:
            return network(inputs if inputs[1:] else inputs[0], training=False)

        return tf.function(traced, input_signature=specs, autograph=False).get_concrete_function()
    lock = threading.Lock()
    if keras.backend.backend() == "jax":
        import jax

        @jax.jit
        def apply(trained: list[Any], others: list[Any], *inputs: Any) -> Any:
            return network.stateless_call(trained, others, inputs if inputs[1:] else inputs[0], training=False)[0]

        def call(*inputs: Any) -> Any:
            groups = (network.trainable_variables, network.non_trainable_variables)
            with lock:
                # What one network returns stays on the device for the next.
                return apply(*([variable.value for variable in group] for group in groups), *inputs)

        return call

    def run(*inputs: np.ndarray) -> Any:
        with lock:
            return network.predict_on_batch(inputs if inputs[1:] else inputs[0])

    return run


def _tile_bytes() -> int:
    if keras.backend.backend() != "tensorflow":
        return TILE_BYTES["GPU"]  # others compile every size of a tile anew
    import tensorflow as tf

    return TILE_BYTES["GPU" if tf.config.list_logical_devices("GPU") else "CPU"]


def predictor(model: keras.Model, what: str = "ids") -> Callable[[np.ndarray], Any]:
    """A thread-safe function from images to predictions; under TensorFlow one trace serves all sizes.

    Logits are made tile by tile: only features, and what is returned, are in memory for whole images.

    Args:
      model: from `deeplab_v3_plus`.
      what: one of WHAT.

    Returns:
      A function of images, uint8 [B, H, W, 3]. "ids": uint8 [B, H, W], the class of the greatest logit; "best": the
      same, its probability, float32 [B, H, W], and the entropy of all classes' probabilities in nats, float32
      [B, H, W]; "probabilities": float32 [B, H, W, num_classes], the softmax.
    """
    if what not in WHAT:
        raise ValueError(f"what must be one of {', '.join(WHAT)}, got {what!r}")
    parts = split(model)
    network = _compiled(parts.features, "uint8")
    head = keras.Model(parts.head.inputs, _outputs(parts.head.output, what))
    decide = _compiled(head, parts.features.output.dtype, "uint8")
    stride, tile_bytes = parts.stride, _tile_bytes()

    def predict(images: np.ndarray) -> Any:
        features = network(images)
        batch, height, width, _ = images.shape
        cells = tile_bytes // (batch * stride**2 * parts.values * 4)
        results: list[np.ndarray] = []
        for rows, columns in _tiles(math.ceil(height / stride), math.ceil(width / stride), cells, TILE_SIDE // stride):
            seen = (slice(rows.start, rows.stop + parts.overlap), slice(columns.start, columns.stop + parts.overlap))
            place = tuple(slice(part.start * stride, part.stop * stride) for part in (rows, columns))
            values = decide(features[(slice(None), *seen)], images[(slice(None), *place)])
            values = [np.asarray(value) for value in (values if what == "best" else [values])]
            if values[0].shape[1:3] == (height, width):
                results = values
                break
            if not results:
                results = [np.empty((batch, height, width, *value.shape[3:]), value.dtype) for value in values]
            for result, value in zip(results, values, strict=True):
                result[(slice(None), *place)] = value
        return results[0] if len(results) == 1 else tuple(results)

    return predict
