"""Weights from published DeepLab checkpoints, and from model folders.

Layers are named after the variables of DeepLab's checkpoints (see `trainer.network.layers`), so that loading one is a
loop over layers.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from trainer import storage
from trainer.formats.cards import CARD
from trainer.network.backbones import PUBLISHED
from trainer.network.folder import load_model
from trainer.network.layers import published_name
from trainer.options import InputError

LAST = "logits/semantic"


@dataclasses.dataclass(frozen=True)
class Imported:
    """What an import did; layers go by their published variable scope.

    Attributes:
      loaded: layers whose weights were taken.
      skipped: layers that keep their initial weights: the last where the classes differ, and those the source lacks.
      unused: variables (of a model folder: layers) of the source that the model has no place for.
    """

    loaded: list[str]
    skipped: list[str]
    unused: list[str]

    def __str__(self) -> str:
        def some(names: list[str]) -> str:
            # All layers of the decoder or none come from a source.
            names = list(dict.fromkeys("decoder" if name.startswith("decoder/") else name for name in names))
            return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")

        text = f"{len(self.loaded)} layers loaded"
        text += f", {len(self.skipped)} start afresh ({some(self.skipped)})" if self.skipped else ", none left over"
        return text + (f"; not used: {some(self.unused)}" if self.unused else "")


class Checkpoint:
    """The variables of a TensorFlow checkpoint.

    Args:
      path: its prefix, local or gs://: "model.ckpt" of `model.ckpt.index` and `model.ckpt.data-00000-of-00001`.

    Attributes:
      shapes: the shape of every variable by its name.

    Raises:
      InputError: no checkpoint under that prefix, or a damaged one.
    """

    def __init__(self, path: str):
        import tensorflow as tf

        self.path = path.removesuffix(".index")
        if not storage.exists(f"{self.path}.index"):
            raise InputError(
                f"{self.path} is not a TensorFlow checkpoint: {self.path}.index is missing; "
                "give the path up to `.ckpt`"
            )
        prefix = self.path
        if storage.is_remote(prefix):
            # TensorFlow's own gs:// access knows neither our credentials nor an emulator.
            self._folder = tempfile.TemporaryDirectory()
            prefix = os.path.join(self._folder.name, "model.ckpt")
            data = [file.path for file in storage.glob(f"{self.path}.data-*")]
            for part in [f"{self.path}.index", *data]:
                storage.write(prefix + part[len(self.path) :], storage.read(part))
        try:
            self._reader = tf.train.load_checkpoint(prefix)
            self.shapes = {name: tuple(shape) for name, shape in self._reader.get_variable_to_shape_map().items()}
        except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> InputError:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        return InputError(f"{self.path} cannot be read as a TensorFlow checkpoint ({reason}); fetch it again")

    def read(self, name: str) -> np.ndarray:
        """The values of one variable. Raises InputError when they are damaged."""
        import tensorflow as tf

        try:
            return self._reader.get_tensor(name)
        except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
            raise self._damaged(error) from None


def _variables(layer: keras.Layer) -> list[str]:
    """The names of the layer's weights in a published checkpoint, in Keras's order."""
    if isinstance(layer, layers.BatchNormalization):
        kinds = ["gamma", "beta", "moving_mean", "moving_variance"]
    elif isinstance(layer, layers.DepthwiseConv2D):
        kinds = ["depthwise_weights"]
    else:
        kinds = ["weights", "biases"][: len(layer.weights)]  # a subpixel head begins with the two of a bilinear one
    return [f"{published_name(layer.name)}/{kind}" for kind in kinds]


def _last_weights(layer: keras.Layer, arrays: list[np.ndarray]) -> list[np.ndarray] | None:
    """`arrays` of a last layer made to fit `layer`, or None where classes differ or the heads cannot be converted.

    Args:
      arrays: kernel [1, 1, channels, classes] and bias, followed by the differences of the places for a subpixel head.
    """
    if arrays[0].shape != tuple(layer.kernel.shape) or len(arrays) > len(layer.weights):
        return None
    # Without differences between the places, a subpixel head is the plain enlargement of the other.
    arrays = arrays + [np.zeros(weight.shape, "float32") for weight in layer.weights[len(arrays) :]]
    return arrays if all(a.shape == tuple(w.shape) for a, w in zip(arrays, layer.weights, strict=True)) else None


def _assign(
    model: keras.Model, find: Callable[[keras.Layer], list[np.ndarray] | None], source: str
) -> tuple[list[str], list[str]]:
    """Set the weights of every layer to what `find` gives for it; returns the scopes of loaded and skipped layers."""
    loaded, skipped, pending = [], [], []
    for layer in model.layers:
        if not layer.weights:
            continue
        scope, arrays = published_name(layer.name), find(layer)
        if arrays is not None and scope == LAST:
            arrays = _last_weights(layer, arrays)
        if arrays is None:
            skipped.append(scope)
            continue
        for weight, array in zip(layer.weights, arrays, strict=True):
            if tuple(weight.shape) != array.shape:
                raise InputError(
                    f"{source}: {scope} has {weight.name} of shape {list(array.shape)}, but the model expects "
                    f"{list(weight.shape)}; choose the backbone, alpha, decoder and ASPP rates it was trained with"
                )
        loaded.append(scope)
        pending.append((layer, arrays))
    if not any(scope != LAST for scope in loaded):
        raise InputError(f"{source} has no layer of this model; choose the backbone it was trained with")
    # Only when everything fits is anything changed.
    for layer, arrays in pending:
        layer.set_weights(arrays)
    return loaded, skipped


def load_checkpoint(model: keras.Model, path: str | Checkpoint) -> Imported:
    """Load a published TensorFlow checkpoint into `model`.

    Layers the checkpoint lacks keep their initial weights, as does the last layer where the number of classes differs;
    a subpixel head starts as an enlargement of the checkpoint's last layer, see `trainer.network.layers.Subpixel`.

    Args:
      model: from `trainer.network.deeplab.deeplab_v3_plus`.
      path: the checkpoint's prefix, local or gs://, or the opened checkpoint.

    Raises:
      InputError: no checkpoint, a damaged one, or one of another network; names variable, found and expected shape.
    """
    checkpoint = path if isinstance(path, Checkpoint) else Checkpoint(path)
    used: set[str] = set()

    def find(layer: keras.Layer) -> list[np.ndarray] | None:
        names = _variables(layer)
        missing = [name for name in names if name not in checkpoint.shapes]
        if len(missing) == len(names):
            return None
        if missing:
            raise InputError(f"{checkpoint.path}: variable {missing[0]} is missing beside {names[0]}; fetch it again")
        used.update(names)
        return [checkpoint.read(name) for name in names]

    loaded, skipped = _assign(model, find, checkpoint.path)
    # An optimizer's slots are named below the variable they belong to.
    unused = [
        name
        for name in sorted(checkpoint.shapes)
        if name not in used and name.rpartition("/")[0] not in used and name != "global_step"
    ]
    return Imported(loaded, skipped, unused)


def load_weights_from(model: keras.Model, path: str) -> Imported:
    """Start `model` from `path`: a model folder of ours, or the prefix of a published TensorFlow checkpoint.

    Raises:
      InputError: `path` is neither, damaged, or belongs to another network.
    """
    if not storage.exists(storage.join(path, CARD)):
        if storage.is_dir(path):
            raise InputError(f"{path} is neither a model folder ({CARD} is missing) nor the prefix of a checkpoint")
        return load_checkpoint(model, path)
    source, _ = load_model(path)
    weights = {layer.name: layer.get_weights() for layer in source.layers if layer.weights}
    loaded, skipped = _assign(model, lambda layer: weights.get(layer.name), path)
    ours = {published_name(layer.name) for layer in model.layers}
    return Imported(loaded, skipped, sorted({published_name(name) for name in weights} - ours))


def architecture(checkpoint: Checkpoint) -> dict[str, Any]:
    """Backbone, alpha, decoder and number of classes of a published checkpoint, as `deeplab_v3_plus` takes them.

    Raises:
      InputError: it is not a DeepLab checkpoint, or of a kind that is not built here.
    """
    shapes = checkpoint.shapes
    backbone = next((name for name, published in PUBLISHED.items() if published.last_weights in shapes), None)
    if backbone is None or f"{LAST}/weights" not in shapes:
        expected = " or ".join(published.last_weights for published in PUBLISHED.values())
        raise InputError(
            f"{checkpoint.path} is not a DeepLab checkpoint of a known kind: it has {len(shapes)} variables, "
            f"the first {min(shapes, default='none')}, but not {expected} with {LAST}/weights"
        )
    alpha = shapes[PUBLISHED[backbone].last_weights][-1] / PUBLISHED[backbone].last_channels
    branches = sum(f"aspp{n}_depthwise/depthwise_weights" in shapes for n in range(1, 10))
    if branches not in (0, 3):
        raise InputError(f"{checkpoint.path} has {branches} atrous branches (aspp*_depthwise); expected 0 or 3")
    return {
        "num_classes": int(shapes[f"{LAST}/weights"][-1]),
        "backbone": backbone,
        "alpha": alpha,
        "decoder": "decoder/feature_projection0/weights" in shapes,
        "atrous_branches": branches,
    }
