"""The model folder: a network's weights in `model.keras`, and `model.json` from whose numbers it is built again.

No layer description is ever read: loading a folder runs nothing that is in it.
"""

from __future__ import annotations

import os
import tempfile
import threading
import zipfile
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from trainer import storage
from trainer.formats.cards import CARD, WEIGHTS, ModelCard, load_card, save_card
from trainer.network.deeplab import deeplab_v3_plus
from trainer.options import InputError


def save_model(folder: str, model: keras.Model, card: ModelCard) -> None:
    """Write `model.keras` and `model.json` into `folder` (local or gs://), each whole or not at all.

    The optimizer's state is left out.
    """
    # A second model over the same layers has their weights but no optimizer.
    bare = keras.Model(model.inputs, model.outputs, name=model.name)
    with tempfile.TemporaryDirectory() as temporary:
        path = os.path.join(temporary, WEIGHTS)
        bare.save(path)
        with open(path, "rb") as file:
            storage.write(storage.join(folder, WEIGHTS), file.read())
    save_card(folder, card)


def _reason(error: Exception) -> str:
    """The telling line of an error: Keras puts a count of the layers concerned before it."""
    first, *rest = (str(error).strip() or type(error).__name__).split("\n\n")
    return (rest[0] if rest and first.startswith("A total of") else first).splitlines()[0]


def _check_archive(path: str) -> None:
    # Keras seeks in the weights, and from Python 3.12 on zipfile gives up a member's checksum at a seek forwards.
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"the checksum of {damaged} in it is wrong")


def load_weights(model: keras.Model, folder: str) -> None:
    """Read the weights in `folder` into `model`, which must have the same architecture.

    Only arrays are read: Keras opens `model.weights.h5` inside the archive, refuses links to other files, and never
    looks at the layer descriptions beside it.

    Raises:
      InputError: the file is missing, damaged, or of another architecture.
    """
    path = storage.join(folder, WEIGHTS)
    try:
        local = storage.localize(path)
        _check_archive(local)
        model.load_weights(local)
    except FileNotFoundError:
        raise InputError(
            f"{folder} is not a model folder: {WEIGHTS} is missing; give the output of `deeplab train` or "
            "`deeplab import-weights`"
        ) from None
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} is damaged or does not belong to {CARD} beside it ({_reason(error)}); train or import it again"
        ) from None


def load_model(folder: str) -> tuple[keras.Model, ModelCard]:
    """The model and card in `folder` (local or gs://): rebuilt from `model.json`'s numbers, then its weights read.

    Raises:
      InputError: the folder holds no model, or a damaged one.
    """
    card = load_card(folder)
    try:
        model = deeplab_v3_plus(**card.architecture)
    except (TypeError, InputError) as error:
        raise InputError(f"{storage.join(folder, CARD)}: {error}") from None
    load_weights(model, folder)
    return model, card


def predictor(model: keras.Model, what: str = "ids") -> Callable[[np.ndarray], np.ndarray]:
    """A thread-safe function from images to predictions; under TensorFlow one trace serves all sizes.

    Args:
      model: from `deeplab_v3_plus`.
      what: "ids" or "probabilities".

    Returns:
      uint8 [B, H, W, 3] -> "ids": uint8 [B, H, W], the class of the greatest logit; "probabilities": float32
      [B, H, W, num_classes], the softmax.
    """
    if what not in ("ids", "probabilities"):
        raise ValueError(f"what must be 'ids' or 'probabilities', got {what!r}")
    logits = model.output
    output = ops.cast(ops.argmax(logits, axis=-1), "uint8") if what == "ids" else ops.softmax(logits, axis=-1)
    network = keras.Model(model.input, output)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        signature = [tf.TensorSpec([None, None, None, 3], tf.uint8)]
        run = tf.function(
            lambda images: network(images, training=False), input_signature=signature
        ).get_concrete_function()
        return lambda images: run(tf.convert_to_tensor(images, tf.uint8)).numpy()
    lock = threading.Lock()

    def predict(images: np.ndarray) -> np.ndarray:
        with lock:
            return network.predict_on_batch(images)

    return predict
