"""Weights from published DeepLab checkpoints, from HDF5 files of Keras, and from model folders.

Layers are named after the variables of DeepLab's checkpoints (see `trainer.network.layers`), so loading one is a loop
over layers. Other names are translated into these when a file is opened.
"""

from __future__ import annotations

import collections
import dataclasses
import glob
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import keras
import numpy as np
from keras import layers

from trainer import storage
from trainer.formats.cards import CARD
from trainer.network.backbones import PUBLISHED
from trainer.network.deeplab import published_rates
from trainer.network.folder import load_model
from trainer.network.heads import SubpixelKernels
from trainer.network.layers import published_name
from trainer.options import InputError
from trainer.terminal import some, some_and_more
from trainer.weights import archives, matching
from trainer.weights.catalog import locate
from trainer.weights.download import again, unreadable
from trainer.weights.hdf5 import LAST, SUFFIXES, Hdf5

SUFFIX = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
"""The suffixes of a checkpoint's files, since a shell may complete the prefix to a file."""


@dataclasses.dataclass(frozen=True)
class Imported:
    """The result of an import; layers are named by their published variable scope.

    Attributes:
      loaded: layers whose weights were loaded.
      skipped: layers that keep their initial weights: the last one if the classes differ, and those the source lacks.
      unused: variables of the source that the model does not have.
      classes: how the classes of another model were matched; "" if they are the same.
    """

    loaded: list[str]
    skipped: list[str]
    unused: list[str]
    classes: str = ""

    def __str__(self) -> str:
        text = f"{len(self.loaded)} layers loaded ({', '.join(_folded(self.loaded, self.skipped))})"
        kept = ", ".join(_folded(self.skipped, self.loaded))
        text += f", {len(self.skipped)} newly initialised ({kept})" if self.skipped else ", all of the model"
        unused = _folded(list(dict.fromkeys(name.rpartition("/")[0] or name for name in self.unused)), self.loaded)
        text += f"; not used: {some_and_more(unused, 20)}" if unused else ""
        return text + (f"; {self.classes}" if self.classes else "")


def _folded(names: list[str], others: list[str]) -> list[str]:
    """Summarises `names` by scopes: the shortest that contain two or more of `names`, and none of `others`."""
    parts = lambda name: ["/".join(name.split("/")[:count]) for count in range(1, name.count("/") + 2)]
    taken = {prefix for name in others for prefix in parts(name)}
    shared = collections.Counter(prefix for name in names for prefix in parts(name))
    fold = lambda name: next((p for p in parts(name) if p not in taken and shared[p] > 1), name)
    return list(dict.fromkeys(map(fold, names)))


class Source(Protocol):
    """Weights by the names of DeepLab's variables.

    Attributes:
      path: the path of the weights, for messages.
      shapes: the shape of every variable by its name.
    """

    path: str
    shapes: Mapping[str, tuple[int, ...]]

    def read(self, name: str) -> np.ndarray:
        """The values of one variable. Raises InputError if they are damaged."""


class Checkpoint:
    """The variables of a TensorFlow checkpoint.

    Args:
      path: the prefix of its files, local or gs://: "model.ckpt" of `model.ckpt.index` and
        `model.ckpt.data-00000-of-00001`; or the .tar.gz in which it was published.

    Attributes:
      shapes: the shape of every variable by its name.

    Raises:
      InputError: no checkpoint under that prefix, or a damaged one.
      OSError: a part of it cannot be opened, or is no file.
    """

    def __init__(self, path: str):
        import tensorflow as tf

        self.path = SUFFIX.sub("", path)
        prefix = self.path
        if path.lower().endswith(archives.SUFFIXES):
            self._folder = tempfile.TemporaryDirectory()
            try:
                prefix = archives.unpack(path, self._folder.name)
            except BaseException:
                self._folder.cleanup()  # now, since garbage collection may come too late
                raise
        elif not storage.exists(f"{self.path}.index"):
            if storage.exists(self.path) or storage.is_dir(self.path):
                raise InputError(
                    f"{self.path} is not a supported kind of weights; give an archive "
                    f"({', '.join(archives.SUFFIXES)}), an HDF5 file ({', '.join(SUFFIXES)}), or a TensorFlow "
                    "checkpoint by its path up to `.ckpt`"
                )
            found = storage.absence(self.path, f"is not a TensorFlow checkpoint: {self.path}.index is missing")
            others = [file.path for file in storage.glob(f"{glob.escape(self.path)}-*.index")]
            cure = f"give {some(others, 3)}" if others else "give the path up to `.ckpt`"
            raise InputError(f"{self.path} {found}; {cure}")
        data = [file.path for file in storage.glob(f"{glob.escape(prefix)}.data-*")]
        for part in data if not storage.is_remote(prefix) else ():
            storage.reader(part).close()  # raises OSError for a FIFO, for whose writer TensorFlow would wait for ever
        if storage.is_remote(prefix):
            # TensorFlow's own gs:// access knows neither our credentials nor an emulator.
            self._folder = tempfile.TemporaryDirectory()
            prefix = os.path.join(self._folder.name, "model.ckpt")
            for part in [f"{self.path}.index", *data]:
                storage.write(prefix + part[len(self.path) :], storage.read(part))
        try:
            self._reader = tf.train.load_checkpoint(prefix)
            self.shapes = {name: tuple(shape) for name, shape in self._reader.get_variable_to_shape_map().items()}
        except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
            raise unreadable(self.path, "a TensorFlow checkpoint", error) from None

    def read(self, name: str) -> np.ndarray:
        """The values of one variable. Raises InputError if they are damaged."""
        import tensorflow as tf

        try:
            return self._reader.get_tensor(name)
        except (tf.errors.OpError, ValueError, RuntimeError, LookupError) as error:
            raise unreadable(self.path, "a TensorFlow checkpoint", error) from None


class _Model:
    """The weights of a model folder as a `Source`.

    Attributes:
      matched: how its classes were matched with others, see `matching.described`.

    Args:
      classes: names of the classes in the order that the head is to have; as in the folder if it has another number.
    """

    def __init__(self, path: str, classes: Sequence[str]):
        self.path, self.matched = path, ""
        model, card = load_model(path)
        layers_ = [layer for layer in model.layers if layer.weights]
        if len(classes) == card.palette.num_classes:
            order = matching.class_order(card.palette.names, classes)
            _reorder(next(layer for layer in layers_ if published_name(layer.name) == LAST), order)
            self.matched = matching.described(card.palette.names, classes, order)
        self._weights = {
            name: weight for layer in layers_ for name, weight in zip(_variables(layer), layer.weights, strict=True)
        }
        self.shapes = {name: tuple(weight.shape) for name, weight in self._weights.items()}

    def read(self, name: str) -> np.ndarray:
        return keras.ops.convert_to_numpy(self._weights[name])


def _reorder(head: keras.Layer, order: Sequence[int]) -> None:
    """Puts the classes of the last layer into another order; classes are the innermost part of its channels."""
    # The last two weights of a head of kernels are the same for all classes.
    count = 2 if isinstance(head, SubpixelKernels) else len(head.weights)
    for weight in head.weights[:count]:
        array = keras.ops.convert_to_numpy(weight)
        split = array.reshape(*array.shape[:-1], -1, len(order))
        weight.assign(split[..., [*order]].reshape(array.shape))


def _variables(layer: keras.Layer) -> list[str]:
    """The names of the layer's weights in a published checkpoint, in Keras's order."""
    if isinstance(layer, layers.BatchNormalization):
        kinds = ["gamma", "beta", "moving_mean", "moving_variance"]
    elif isinstance(layer, layers.DepthwiseConv2D):
        kinds = ["depthwise_weights"]
    else:
        # The first two weights of a subpixel head are those of a bilinear one; the others have no published names.
        kinds = ["weights", "biases", "place_weights", "place_biases"][: len(layer.weights)]
    return [f"{published_name(layer.name)}/{kind}" for kind in kinds]


def _present(layer: keras.Layer, source: Source) -> list[str]:
    """The layer's variables that `source` has: all or none; of a subpixel head, also the first half.

    Raises:
      InputError: some are missing, or have other shapes than the layer's.
    """
    names, scope = _variables(layer), published_name(layer.name)
    present = [name for name in names if name in source.shapes]
    if scope == LAST:
        # A head with other classes, factor or kind keeps its initial weights. But one of kernels takes the weights
        # that all places of a head of logits share.
        fit = {name for name, weight in _pairs(layer) if source.shapes.get(name) == tuple(weight.shape)}
        fits = fit >= set(present)
        if isinstance(layer, SubpixelKernels) and not fits:
            return names[:2] if fit >= set(names[:2]) else []
        if not fits or f"{LAST}/place_weights" in set(source.shapes) - set(names):
            return []
        names = [name for half in (names[:2], names[2:]) if set(half) & set(present) for name in half]
    missing = [name for name in names if name not in present]
    if present and missing:
        raise InputError(f"{source.path}: variable {missing[0]} is missing beside {present[0]}; {again(source.path)}")
    if scope.startswith("MobilenetV3/") and f"{LAST}/weights" not in source.shapes:
        # The last blocks of a classifier are twice as wide.
        fits = all(source.shapes[name] == tuple(weight.shape) for name, weight in _pairs(layer) if name in present)
        return present if fits else []
    for name, weight in _pairs(layer):
        if name in present and source.shapes[name] != tuple(weight.shape):
            raise InputError(
                f"{source.path}: {scope} has {weight.name} of shape {list(source.shapes[name])}, but the model "
                f"expects {list(weight.shape)}; choose the backbone, alpha, decoder and ASPP rates it was trained with"
            )
    return present


def _pairs(layer: keras.Layer) -> Iterator[tuple[str, Any]]:
    return zip(_variables(layer), layer.weights, strict=True)


def load(model: keras.Model, source: Source) -> Imported:
    """Loads published weights into `model`.

    Layers that the source lacks keep their initial weights, as does the last layer if the number of classes differs.
    A subpixel head starts as the upsampling of a bilinear one, see `trainer.network.heads.Subpixel`.

    Args:
      model: a network from `trainer.network.deeplab.deeplab_v3_plus`.
      source: the weights.

    Raises:
      InputError: the weights are damaged, or belong to another network: the message states a variable with its shape
        and the expected one. The model is then unchanged.
    """
    present = {layer: _present(layer, source) for layer in model.layers if layer.weights}
    scopes = {layer: published_name(layer.name) for layer in present}
    loaded = [layer for layer in present if present[layer]]
    if not any(scopes[layer] != LAST for layer in loaded):
        raise InputError(f"{source.path} has no layer of this model; choose the backbone it was trained with")
    arrays = {name: source.read(name) for layer in loaded for name in present[layer]}
    for name, array in arrays.items():
        if not np.isfinite(array).all() or (name.endswith("/moving_variance") and (array < 0).any()):
            kind = "variances below 0" if np.isfinite(array).all() else "values that are not numbers"
            raise InputError(f"{source.path}: {name} holds {kind}, which cannot be used; give other weights")
    for layer in loaded:
        zeros = (np.zeros(weight.shape, "float32") for weight in layer.weights)
        layer.set_weights([arrays.get(name, zero) for name, zero in zip(_variables(layer), zeros, strict=True)])
    # The slots of an optimizer are named after the variables they belong to, with a suffix.
    slots = [name for name in source.shapes if name.rpartition("/")[0] in source.shapes]
    unused = sorted(set(source.shapes) - set(arrays) - set(slots) - {"global_step"})
    kept = [scopes[layer] for layer in present if not present[layer]]
    return Imported([scopes[layer] for layer in loaded], kept, unused)


class _OneHead:
    """MobileNetV3's weights with a single last layer.

    The published network has two, for features and low-level features, and adds up their results. That equals one
    layer on the concatenation of both.
    """

    PARTS = ("decoder/decoder_conv0", "decoder/feature_projection0")

    def __init__(self, source: Source):
        self.path, self._source = source.path, source
        kernels = [f"{part}/weights" for part in self.PARTS]
        self._parts = {f"{LAST}/weights": kernels, f"{LAST}/biases": [f"{part}/biases" for part in self.PARTS]}
        merged = {name for names in self._parts.values() for name in names}
        if missing := sorted(merged - set(source.shapes)):
            raise InputError(f"{self.path}: variable {missing[0]} is missing beside {kernels[0]}; {again(self.path)}")
        self.shapes = {name: shape for name, shape in source.shapes.items() if name not in merged}
        one, other = (source.shapes[name] for name in kernels)
        self.shapes[f"{LAST}/weights"] = (1, 1, one[-2] + other[-2], one[-1])
        self.shapes[f"{LAST}/biases"] = source.shapes[f"{self.PARTS[0]}/biases"]

    def read(self, name: str) -> np.ndarray:
        if name not in self._parts:
            return self._source.read(name)
        one, other = (self._source.read(part) for part in self._parts[name])
        return np.concatenate([one, other], axis=-2) if name.endswith("/weights") else one + other


def open_published(path: str, backbone: str = "") -> Source:
    """Opens the weights that `trainer.weights.catalog.locate` finds: an HDF5 file (one of SUFFIXES) or a checkpoint.

    Raises:
      InputError: there is neither, or it is damaged.
    """
    place = locate(path, backbone)
    source = Hdf5(place) if place.lower().endswith(SUFFIXES) else Checkpoint(place)
    return _OneHead(source) if f"{_OneHead.PARTS[0]}/weights" in source.shapes else source


def load_weights_from(model: keras.Model, path: str, classes: Sequence[str] = ()) -> Imported:
    """Loads weights from `path` into `model`: from a model folder of ours, or from what `open_published` accepts.

    Args:
      classes: names of the model's classes, by which those of a model folder are matched; none: by their places.

    Raises:
      InputError: `path` is none of these, or it is damaged, or belongs to another network.
    """
    if storage.exists(storage.join(path, CARD)):
        source = _Model(path, classes)
        imported = load(model, source)
        # A new last layer has no classes of the source.
        return imported if LAST in imported.skipped else dataclasses.replace(imported, classes=source.matched)
    if storage.is_dir(path):
        raise InputError(f"{path} is neither a model folder ({CARD} is missing) nor the prefix of a checkpoint")
    shapes = {name: tuple(w.shape) for layer in model.layers if layer.weights for name, w in _pairs(layer)}
    return load(model, open_published(path, _backbone(shapes) or ""))


def _backbone(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The backbone whose last convolution is among `shapes`."""
    for name, published in PUBLISHED.items():
        channels = shapes.get(published.last_weights, [0])[-1]
        if channels == published.last_channels or (channels and published.has_alpha):
            return name
    return None


def architecture(source: Source) -> dict[str, Any]:
    """The architecture that published weights belong to, as arguments of `deeplab_v3_plus`.

    Returns:
      Everything that follows from the arrays; "output_stride" and the atrous rates are as published.

    Raises:
      InputError: the weights are not DeepLab's, or of a kind that is not supported.
    """
    shapes = source.shapes
    backbone = _backbone(shapes)
    is_subpixel = f"{LAST}/place_weights" in shapes
    last = shapes.get(f"{LAST}/place_weights" if is_subpixel else f"{LAST}/weights")
    if backbone and not last:
        raise InputError(
            f"{source.path} holds ImageNet weights of a backbone, {backbone}, without a head; give it to "
            f"`deeplab train --backbone {backbone} --init-from`"
        )
    if not backbone:
        expected = " or ".join(published.last_weights for published in PUBLISHED.values())
        raise InputError(
            f"{source.path} is not a DeepLab checkpoint of a known kind: it has {len(shapes)} variables, "
            f"the first {min(shapes, default='none')}, but not {expected} with {LAST}/weights"
        )
    branches = sum(f"aspp{n}_depthwise/depthwise_weights" in shapes for n in range(1, 10))
    if branches not in (0, 3):
        raise InputError(f"{source.path} has {branches} atrous branches (aspp*_depthwise); expected 0 or 3")
    numbers = {
        "num_classes": int(last[-1]),
        "backbone": backbone,
        "alpha": shapes[PUBLISHED[backbone].last_weights][-1] / PUBLISHED[backbone].last_channels,
        "output_stride": PUBLISHED[backbone].output_stride,
        "decoder": "decoder/feature_projection0/weights" in shapes or PUBLISHED[backbone].is_light,
        "head": "bilinear",
    }
    if is_subpixel:
        numbers |= {"head": "subpixel", "num_classes": int(last[-1]) // source.factor**2}
        # As Keras pads even sizes. The port of Xception pads evenly after its first convolution.
        numbers |= {"block_strides": [2] if numbers["decoder"] else [2, 4, 8]}
        numbers |= {} if numbers["decoder"] else {"output_stride": source.factor}
    if "meta_architecture/concat_projection/weights" in shapes:
        numbers["dense_prediction_cell"] = True
    return numbers | {"aspp_rates": published_rates(numbers["output_stride"]) if branches else []}
