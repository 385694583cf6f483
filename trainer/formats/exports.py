"""The metadata of an export of `deeplab export`, and where in the file it is.

Neither TensorFlow nor ONNX's libraries are needed to read it, so every stage can look into an export.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

from trainer import storage
from trainer.formats import cards
from trainer.formats.cards import ModelCard
from trainer.options import InputError

INPUT = "images"
OUTPUTS = IDS, PROBABILITIES = ("ids", "probabilities")
"""The names of input and outputs, in every format."""

CLASS_BYTES = 16
"""Bytes of memory per pixel and class in inference: unlike a model folder, an export computes all logits at once."""

VERSION = 1
SAVED_MODEL = "saved_model.pb"
"""The file of a SavedModel's folder with its graph and its arrays."""
ABOUT = "assets.extra/deeplab.json"
"""The file of a SavedModel's folder with the metadata; TensorFlow leaves assets.extra to other programs."""
KEY = "deeplab"
"""The entry of an ONNX file's metadata properties with the same."""


def kind(path: str) -> str:
    """The format of the model at `path` (local or gs://): "onnx", "savedmodel", or "" for a model folder.

    Raises InputError for a TFLite file, which takes only images of one size.
    """
    # In this order, since who may read objects need not be allowed to list them.
    is_file = path.endswith((".tflite", ".onnx")) and (storage.exists(path) or not storage.is_dir(path))
    if is_file and path.endswith(".tflite"):
        raise InputError(
            f"{path}: a TFLite model takes images of one size; give a model folder, a SavedModel or an ONNX file"
        )
    if is_file:
        return "onnx"
    return "savedmodel" if storage.exists(storage.join(path, SAVED_MODEL)) else ""


def about(
    card: ModelCard, weights: str, versions: Mapping[str, str], crf: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The JSON object that goes into an export.

    Args:
      card: the model's card; its training options, which include paths, are omitted.
      weights: SHA-256 of the model's weights.
      versions: the versions of the libraries it was made with.
      crf: the contents of the model's crf.json; the trials, and images that could not be used, are left out.
    """
    model = dataclasses.replace(card, training={}).to_json()
    tuning = None if crf is None else crf | {"grid": [], "rejects": []}
    return {"version": VERSION, "model": model, "weights": weights, "crf": tuning, "versions": dict(versions)}


def load_card(path: str, program: bytes = b"") -> ModelCard:
    """The card of the model folder or export at `path`. Raises InputError when it is missing or damaged.

    Args:
      program: the result of `read` for an export, so that an ONNX file is not read again.
    """
    return _load(path, program)[0] if kind(path) else cards.load_card(path)


def load_tuning(path: str) -> Any:
    """The tuned CRF parameters in the export at `path`, from its model's crf.json; None if that had none.

    Raises InputError if the export is missing or damaged.
    """
    return _load(path)[1]


def _load(path: str, program: bytes = b"") -> tuple[ModelCard, Any]:
    """The card and the tuned CRF parameters of an export."""
    try:
        is_onnx = kind(path) == "onnx"
        text = _onnx_metadata(program or storage.read(path)) if is_onnx else storage.read(storage.join(path, ABOUT))
        value = json.loads(text)
        if (version := value["version"]) == VERSION:
            return ModelCard.from_json(value["model"]), value.get("crf")  # exports of version 0.6 have none
    except FileNotFoundError as error:
        missing = f"{error.filename or ABOUT} is missing"
        raise InputError(
            f"{path} is not a model: {missing}; give what `deeplab export` wrote, or a model folder"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError, message.DecodeError) as error:
        raise InputError(f"{path} is damaged, or `deeplab export` did not write it: {error}") from None
    raise InputError(f"{path} is of version {version}, this program reads {VERSION}; update the program")


def model_digest(path: str, card: ModelCard | None = None) -> str:
    """SHA-256, as hex digits, of the part of the model folder or export at `path` that determines masks: its weights.

    Args:
      card: see `cards.weights_digest`.

    Raises:
      InputError: they are missing, or of a model folder not those that the card describes.
    """
    return hashlib.sha256(_program(path)).hexdigest() if kind(path) else cards.weights_digest(path, card)


def read(path: str, digest: str) -> bytes:
    """The bytes of the file with the graph and the weights of the export at `path`.

    Raises InputError if it is missing, or `digest` is not its digest; "" skips that check.
    """
    data = _program(path)
    if digest and hashlib.sha256(data).hexdigest() != digest:
        raise InputError(
            f"the model in {path} was replaced while this command was running, so its output would mix two models; "
            "run the command again, and do not export to that path meanwhile"
        )
    return data


def _program(path: str) -> bytes:
    try:
        return storage.read(path if kind(path) == "onnx" else storage.join(path, SAVED_MODEL))
    except FileNotFoundError:
        raise InputError(f"{path} is missing; give what `deeplab export` wrote, or a model folder") from None


_ONNX = {
    "Model": {"graph": (7, "Graph"), "metadata_props": (14, "Entry"), "training": (20, "Training")}
    | {"functions": (25, "Function")},
    "Entry": {"key": (1, ""), "value": (2, "")},
    "Training": {"initialization": (1, "Graph"), "algorithm": (2, "Graph")},
    "Function": {"node": (7, "Node"), "attribute_proto": (11, "Attribute")},
    "Graph": {"node": (1, "Node"), "initializer": (5, "Tensor"), "sparse_initializer": (15, "Sparse")},
    "Node": {"attribute": (5, "Attribute")},
    "Attribute": {"t": (5, "Tensor"), "g": (6, "Graph"), "tensors": (10, "Tensor"), "graphs": (11, "Graph")}
    | {"sparse_tensor": (22, "Sparse"), "sparse_tensors": (23, "Sparse")},
    "Sparse": {"values": (1, "Tensor"), "indices": (2, "Tensor")},
    "Tensor": {"external_data": (13, "Entry")},
}
"""ONNX's messages -> the fields read here, with their numbers in onnx.proto and their messages ("" for a string)."""


@functools.cache
def _onnx_model_class() -> type:
    """ONNX's ModelProto, restricted to `_ONNX`, in a private descriptor pool."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="onnx_parts.proto", package="exports", syntax="proto3")
    for name, fields in _ONNX.items():
        message_type = file.message_type.add(name=name)
        for field_name, (number, kind) in fields.items():
            # A singular field may be read as a repeated one, except for strings.
            if kind:
                types = {"label": field.LABEL_REPEATED, "type": field.TYPE_MESSAGE, "type_name": f".exports.{kind}"}
            else:
                types = {"label": field.LABEL_OPTIONAL, "type": field.TYPE_STRING}
            message_type.field.add(name=field_name, number=number, **types)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("exports.Model"))


def named_files(data: bytes) -> list[str]:
    """The external files in which an ONNX file stores arrays; those of this program have none.

    Raises DecodeError if it is not an ONNX file.
    """
    return [entry.value for entry in _external_data(_onnx_model_class().FromString(data)) if entry.key == "location"]


def _external_data(value: message.Message) -> Iterator[Any]:
    for field, parts in value.ListFields():
        if field.name == "external_data":
            yield from parts
        elif field.type == field.TYPE_MESSAGE:
            for part in parts:
                yield from _external_data(part)


def _onnx_metadata(data: bytes) -> str:
    for entry in _onnx_model_class().FromString(data).metadata_props:
        if entry.key == KEY:
            return entry.value
    raise ValueError(f"its metadata has no entry {KEY!r}")
