"""Weights from HDF5 files of Keras: those of two ports of DeepLab, and of Keras Applications.

A file is read as a published checkpoint with other names: `Hdf5` is a `trainer.weights.checkpoints.Source`, with the
names of DeepLab's variables. Only arrays are read. A description of the model in the file, with its Lambda layers, is
never used.

Layer names are those in the source code of github.com/bonlime/keras-deeplab-v3-plus, of
github.com/Golbstein/Keras-segmentation-deeplab-v3.1, and of Keras Applications.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from typing import Any

import h5py
import numpy as np

from trainer import storage
from trainer.options import InputError
from trainer.weights.download import again, unreadable
from trainer.weights.probe import flaw

SUFFIXES = (".h5", ".hdf5")
LAST = "logits/semantic"
"""The published variable scope of the last layer."""
PATIENCE = 60
"""The most CPU-seconds that reading a file may take."""

_SCOPES = (
    # Xception-65, of the ports.
    (r"entry_flow_(conv1_[12])", r"xception_65/entry_flow/\1"),
    (r"(entry|exit)_flow_(block\d)_(\w+)", r"xception_65/\1_flow/\2/unit_1/xception_module/\3"),
    (r"middle_flow_unit_(\d+)_(\w+)", r"xception_65/middle_flow/block1/unit_\1/xception_module/\2"),
    # MobileNetV2, of the ports and of Keras Applications.
    (r"Conv1?", "MobilenetV2/Conv"),
    (r"(?:expanded_conv|block)_0_(\w+)", r"MobilenetV2/expanded_conv/\1"),
    (r"(?:expanded_conv|block)_(\d+)_(expand|depthwise|project)", r"MobilenetV2/expanded_conv_\1/\2"),
    (r"expanded_conv_(depthwise|project)", r"MobilenetV2/expanded_conv/\1"),
    # The layers after the backbone.
    (r"aspp0|aspp[1-9]_(?:depth|point)wise|image_pooling|concat_projection", r"\g<0>"),
    (r"feature_projection0|decoder_conv[01]_(?:depth|point)wise", r"decoder/\g<0>"),
    (r"logits_semantic|custom_logits_semantic|conv_upsample", LAST),
    (r"subpixel(?:_\d+)?", f"{LAST}/subpixel"),
)
"""Pattern of layer names -> variable scope of the published network.

The name of a batch norm is that of the layer before it, with the suffix "_BN" or the prefix "bn_".
"""
_KINDS = ("kernel", "bias", "depthwise_kernel", "gamma", "beta", "moving_mean", "moving_variance")
_NORM_KINDS = _KINDS[3:]


def _scope(layer: str) -> str:
    """The published variable scope of a layer; "" if it is not a layer of DeepLab."""
    # Until 2018 Keras Applications named block_3_expand and its batch norm mobl3_conv_3_expand and
    # bn3_conv_3_bn_expand.
    layer = re.sub(r"mobl(\d+)_conv_\1_", r"block_\1_", layer)
    layer = re.sub(r"bn(\d+)_conv_\1_(?:bn_)?", r"bn_block_\1_", layer)
    plain = re.fullmatch(r"bn_(\w+)|(\w+?)(?:_BN)?", layer)
    name = plain and (plain[1] or plain[2])
    for pattern, scope in _SCOPES if name else ():
        if match := re.fullmatch(pattern, name):
            return match.expand(scope) + ("/BatchNorm" if name != layer else "")
    return ""


_V3_PARTS = {"conv": "Conv", "squeeze_excite_conv": "squeeze_excite/Conv"}
_V3_NAME = re.compile(rf"(?:(expanded_conv(?:_\d+)?)_)?({'|'.join(_V3_PARTS)}|expand|depthwise|project)(_1)?(_bn)?")
_V3_PATH = re.compile(
    r"(?:^|/)((?:expanded_conv(?:_\d+)?/(?:expand|depthwise|project|squeeze_excite/Conv(?:_1)?)|Conv(?:_1)?)"
    r"(?:/BatchNorm)?)$"
)


def _v3_scope(layers: list[str]) -> str:
    """Like `_scope`, for MobileNetV3 of Keras Applications: DeepLab's names, in newer files with "_" for "/".

    Args:
      layers: the names of the groups around a dataset, innermost first.
    """
    if match := _V3_PATH.search("/".join(layers[::-1])):
        return f"MobilenetV3/{match[1]}"
    if match := _V3_NAME.fullmatch(layers[0]):
        block, part, second, norm = match.groups(default="")
        name = f"{_V3_PARTS.get(part, part)}{second}" + ("/BatchNorm" if norm else "")
        return f"MobilenetV3/{block}/{name}" if block else f"MobilenetV3/{name}"
    return ""


def _variable(scope: str, kind: str) -> str:
    if scope == f"{LAST}/subpixel":
        return f"{LAST}/place_{ {'kernel': 'weights', 'bias': 'biases'}[kind] }"
    if kind == "bias":
        return f"{scope}/biases"
    if kind.endswith("kernel"):
        return f"{scope}/depthwise_weights" if scope.endswith("depthwise") else f"{scope}/weights"
    return f"{scope}/{kind}"


def _layer_and_kind(path: str, dataset: h5py.Dataset) -> tuple[list[str], str]:
    """The candidates for the layer's name, most likely first, and the kind of the dataset: one of _KINDS."""
    *folders, last = path.split("/")
    if folders[-1:] == ["vars"] and last.isdecimal():
        # A file of Keras 3: weights are numbered, and their group has the name of the layer as an attribute.
        count, number = len(dataset.parent), int(last)
        kinds = _NORM_KINDS if count == 4 else ("kernel", "bias")
        return [str(dataset.parent.attrs.get("name", ""))], kinds[number] if number < len(kinds) else ""
    return folders[::-1], last.partition(":")[0]


def _excites(path: str, item: Any) -> bool | None:
    return "squeeze_excite" in f"{path} {item.attrs.get('name', '')}" or None


def _try(path: str, local: str) -> None:
    """Reads the file in a subprocess, see `trainer.weights.probe`. Raises InputError if that is killed.

    It ignores other errors, which occur again in this process.
    """
    command = [sys.executable, "-m", "trainer.weights.probe", local, str(PATIENCE)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    if done.returncode < 0:
        raise InputError(
            f"{path} cannot be read as an HDF5 file of Keras (the library that reads it crashes or hangs: "
            f"signal {-done.returncode}); {again(local)}"
        )


class Hdf5:
    """The weights in an HDF5 file, by the names of DeepLab's variables.

    Args:
      path: the file, local or gs://.

    Attributes:
      path: the file.
      shapes: the shape of every variable by its published name; variables that are not DeepLab's have the names that
        they have in the file.

    Raises:
      InputError: the file is missing, damaged or not HDF5, or it refers to data in other files.
      OSError: it cannot be opened, or is no file.
    """

    def __init__(self, path: str):
        self.path = path
        self._datasets: dict[str, h5py.Dataset] = {}
        try:
            local = storage.localize(path)
            storage.reader(local).close()  # raises OSError for a FIFO, for whose writer HDF5 would wait for ever
        except FileNotFoundError:
            raise InputError(
                f"{self.path} not found; give an HDF5 file of Keras, or the prefix of a checkpoint"
            ) from None
        try:
            _try(path, local)
            self._file = h5py.File(local, "r")
            # MobileNetV2 and V3 share names; only the latter has squeeze-and-excitation.
            self._is_v3 = bool(self._file.visititems(_excites))
            # `visititems` does not follow links, so nothing outside of the file is read.
            self._file.visititems(self._add)
        except InputError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise unreadable(self.path, "an HDF5 file of Keras", error) from None
        self.shapes = {name: tuple(dataset.shape) for name, dataset in self._datasets.items()}

    def _add(self, path: str | bytes, item: Any) -> None:
        if isinstance(path, bytes):
            raise ValueError(f"the name {path!r} is not UTF-8")
        # An empty dataset has neither shape nor values.
        if not isinstance(item, h5py.Dataset) or path.startswith("optimizer") or item.shape is None:
            return
        if item.is_virtual or item.external:
            raise InputError(f"{self.path}: {path} refers to data in another file; expected all data in this file")
        layers, kind = _layer_and_kind(path, item)
        if self._is_v3:
            scope = _v3_scope(layers) if layers else ""
        else:
            scope = next((scope for layer in layers if (scope := _scope(layer))), "")
        is_known = scope and kind in _KINDS
        name = _variable(scope, kind) if is_known else re.sub(r".*/vars(?=/\d+$)", lambda _: layers[0], path)
        if name in self._datasets:
            raise InputError(f"{self.path} has {name} twice, as {self._datasets[name].name} and /{path}")
        self._datasets[name] = item

    def read(self, name: str) -> np.ndarray:
        """The values of a variable, float32. Raises InputError for damaged ones, and see `trainer.weights.probe`."""
        dataset = self._datasets[name]
        try:
            if reason := flaw(dataset):
                raise InputError(f"{self.path}: {dataset.name} {reason}; {again(self.path)}")
            array = np.asarray(dataset[()], "float32")
        except InputError:
            raise
        except (OSError, RuntimeError, KeyError, ValueError) as error:
            raise unreadable(self.path, "an HDF5 file of Keras", error) from None
        return _ordered(array, self.factor**2) if name.startswith(f"{LAST}/place_") else array

    @property
    def factor(self) -> int:
        """The factor of the subpixel head. No array states it: it is the stride of the features before the head."""
        return 4 if "decoder/decoder_conv0_depthwise/depthwise_weights" in self.shapes else 8


def _ordered(array: np.ndarray, places: int) -> np.ndarray:
    """Reorders the channels of Golbstein's port, (class, column, row), to (row, column, class).

    The latter is the order of `trainer.network.heads.pixel_shuffle`.

    Args:
      array: [..., C], the kernel or the bias of a subpixel head.
      places: pixels per block, a square.
    """
    side = math.isqrt(places)
    array = array.reshape(*array.shape[:-1], -1, side, side)
    return np.ascontiguousarray(array.swapaxes(-1, -3)).reshape(*array.shape[:-3], -1)
