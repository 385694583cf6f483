"""ONNX: one file, for ONNX Runtime and many other runtimes."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from trainer.formats.exports import INPUT, KEY, named_files
from trainer.limits import cores
from trainer.options import InputError

OPSET = 17
"""Version of ONNX's operator set. It is from 2022, so today's runtimes support it."""


def build(function: Any, about: dict[str, Any]) -> bytes:
    """The file of a function from `graph.frozen`."""
    import onnx
    import tf2onnx

    from trainer.export.graph import serving

    # tf2onnx logs each step as a warning, and optional features it does not find as errors.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    serve = serving(function)
    model, _ = tf2onnx.convert.from_function(serve, input_signature=serve.input_signature, opset=OPSET)
    _settle(model.graph, {tensor.name: tensor.name for tensor in (*model.graph.input, *model.graph.output)})
    onnx.helper.set_model_props(model, {KEY: json.dumps(about)})
    model.producer_name, model.producer_version = "deeplab", about["versions"]["deeplab-pipelines"]
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _settle(graph: Any, names: dict[str, str]) -> None:
    """Orders and names the parts of a graph by how its outputs are computed.

    tf2onnx leaves them as they come out of Python's sets, which differ between runs: the same export would have other
    bytes each time, and `segment` would take it for another model.

    Args:
      graph: an onnx.GraphProto, which is changed.
      names: old and new names of the tensors around it, and of those that keep their names; its own are added.
    """
    nodes = _in_order(graph)
    used = dict.fromkeys(name for node in nodes for name in _used(node))
    arrays = {array.name: array for array in graph.initializer}
    kept = [arrays[name] for name in used if name in arrays]
    for array in kept:
        array.name = names.setdefault(array.name, f"array_{len(names)}")
    for node in nodes:
        for branch in _branches(node):
            _settle(branch, names)
        node.input[:] = [name and names[name] for name in node.input]
        node.output[:] = [name and names.setdefault(name, f"{node.op_type}_{len(names)}") for name in node.output]
        node.name, node.domain, node.doc_string = node.output[0], node.domain, ""  # set, if only to ""
        node.attribute.sort(key=lambda attribute: attribute.name)
    for tensor in (*graph.input, *graph.output):
        tensor.name = names[tensor.name]
        for side in tensor.type.tensor_type.shape.dim:
            side.ClearField("dim_param")  # a number, counted up, where the length is not known
    graph.name, graph.doc_string = "deeplab", ""
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)


def _in_order(graph: Any) -> list[Any]:
    """The nodes that the outputs of a graph need, each behind those whose tensors it uses."""
    makers = {name: node for node in graph.node for name in node.output}
    ordered: dict[str, Any] = {}
    waiting = [tensor.name for tensor in reversed(graph.output)]
    while waiting:  # not by recursion: a network is deeper than Python's stack
        node = makers[waiting[-1]]
        needed = (name for name in _used(node) if name in makers and makers[name].output[0] not in ordered)
        if name := next(needed, None):
            waiting.append(name)
        else:
            ordered.setdefault(node.output[0], node)
            waiting.pop()
    return list(ordered.values())


def _used(node: Any) -> list[str]:
    """The tensors that a node uses, itself and in its branches."""
    inner = (one for branch in _branches(node) for one in _in_order(branch))
    return [*node.input, *(name for one in inner for name in _used(one))]


def _branches(node: Any) -> list[Any]:
    """The graphs in a node, such as the two of an If."""
    ordered = sorted(node.attribute, key=lambda attribute: attribute.name)
    return [attribute.g for attribute in ordered if attribute.HasField("g")]


def load(data: bytes, threads: int = 0) -> Callable[..., list[np.ndarray]]:
    """Loads an export as a thread-safe function, run by ONNX Runtime on CPUs.

    ONNX Runtime has ONNX's operations and some of its own, all of which only compute; it refuses files with others.
    Files that refer to other files for their arrays are refused here, as ONNX Runtime 1.23 would read them from
    anywhere on this machine.

    Args:
      data: the contents of the file.
      threads: maximum number of threads for one image; 0 for one per core that this process may use.

    Returns:
      A function from images, uint8 [B, H, W, 3], and names of outputs to these outputs.

    Raises:
      InputError: the file cannot be used.
    """
    # Its telemetry is on by default, and writes an id of the machine below ~/.cache when it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            "ONNX files are run by ONNX Runtime, which is not installed; install it with "
            '`pip install "deeplab-pipelines[onnx]"`'
        ) from None

    options = onnxruntime.SessionOptions()
    # By itself (0), ONNX Runtime has a thread for each core of the machine, and binds them to these.
    options.intra_op_num_threads = threads or (cores() if cores() < (os.cpu_count() or 1) else 0)
    options.log_severity_level = 4  # errors are raised anyway
    try:
        if files := named_files(data):
            raise InputError(f"its arrays are in other files, such as {files[0]!r}; give a file that holds its own")
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except InputError:
        raise
    except Exception as error:  # ONNX Runtime's errors have no common base class
        raise InputError(f"ONNX Runtime cannot use the file: {str(error).splitlines()[0]}") from None

    def run(images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        return session.run(list(outputs), {INPUT: images})

    return run
