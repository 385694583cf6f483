"""SavedModel: a folder for TensorFlow and TensorFlow Serving, with the whole network in its `saved_model.pb`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf.meta_graph_pb2 import MetaGraphDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from trainer.formats.exports import INPUT, OUTPUTS, SAVED_MODEL
from trainer.options import InputError

SIGNATURE = "serving_default"

_PURE = """
    Abs Add AddN AddV2 ArgMax AvgPool BatchMatMul BatchMatMulV2 BatchMatMulV3 BatchToSpaceND BiasAdd Cast Ceil
    ConcatV2 Const Conv2D DepthToSpace DepthwiseConv2dNative Div Elu EnsureShape Equal Erf Exp ExpandDims Fill Floor
    FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 GatherV2 Greater GreaterEqual Identity IdentityN
    LeakyRelu Less LessEqual Log LogicalAnd LogicalNot LogicalOr MatMul Max MaxPool Maximum Mean Merge Min Minimum
    MirrorPad Mul Neg NoOp NotEqual OnesLike Pack Pad PadV2 Placeholder Pow Prod Range RealDiv
    Reciprocal Relu Relu6 Reshape ResizeBilinear ResizeNearestNeighbor Round Rsqrt Select SelectV2 Selu Shape Sigmoid
    Size Slice Softmax Softplus SpaceToBatchND SpaceToDepth Split SplitV Sqrt Square Squeeze
    StopGradient StridedSlice Sub Sum Switch Tanh Tile Transpose Unpack ZerosLike
"""
PURE = frozenset(_PURE.split())
"""TensorFlow's operations that only compute; others may read and write files, or run Python."""


def build(function: Any) -> bytes:
    """The contents of `saved_model.pb` for a function from `graph.frozen`, which needs no other file."""
    graph = function.graph
    meta = MetaGraphDef(graph_def=graph.as_graph_def())
    meta.meta_info_def.tags.append(tf.saved_model.SERVING)
    meta.meta_info_def.tensorflow_version = tf.__version__
    signature = meta.signature_def[SIGNATURE]
    signature.method_name = tf.saved_model.PREDICT_METHOD_NAME
    for name, infos in {INPUT: signature.inputs, **dict.fromkeys(OUTPUTS, signature.outputs)}.items():
        tensor = graph.get_tensor_by_name(f"{name}:0")
        infos[name].name, infos[name].dtype = tensor.name, tensor.dtype.as_datatype_enum
        infos[name].tensor_shape.CopyFrom(tensor.shape.as_proto())
    return SavedModel(saved_model_schema_version=1, meta_graphs=[meta]).SerializeToString(deterministic=True)


def served(folder: str) -> Callable[..., list[np.ndarray]]:
    """Like `load`, but for a local folder and by TensorFlow's own loader; only for exports of this program."""
    signature = tf.saved_model.load(folder).signatures[SIGNATURE]

    def run(images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        results = signature(**{INPUT: tf.constant(images)})
        return [results[name].numpy() for name in outputs]

    return run


def load(data: bytes) -> Callable[..., list[np.ndarray]]:
    """Loads an export as a thread-safe function, from the contents of its `saved_model.pb`.

    Files with functions, or with operations that do more than compute, are refused, regardless of their purpose.

    Returns:
      A function from images, uint8 [B, H, W, 3], and names of outputs to these outputs.

    Raises:
      InputError: the file is not a SavedModel with such a signature, or it has other operations.
    """
    try:
        meta = SavedModel.FromString(data).meta_graphs[0]
        signature = meta.signature_def[SIGNATURE]
        source = signature.inputs[INPUT].name
        targets = {name: info.name for name, info in signature.outputs.items()}
        for name in OUTPUTS:
            if name not in targets:
                raise ValueError(f"it has no output {name}, only {', '.join(sorted(targets)) or 'none'}")
        foreign = sorted({node.op for node in meta.graph_def.node} - PURE)
        foreign += [function.signature.name for function in meta.graph_def.library.function]
        if foreign:
            raise ValueError(f"it has operations that no export has: {', '.join(foreign[:6])}")
        imported = tf.compat.v1.wrap_function(lambda: tf.import_graph_def(meta.graph_def, name=""), [])
        functions = {(name,): imported.prune(source, [targets[name]]) for name in OUTPUTS}
        functions[OUTPUTS] = imported.prune(source, [targets[name] for name in OUTPUTS])
    except (DecodeError, IndexError, KeyError, ValueError) as error:
        raise InputError(f"{SAVED_MODEL} is damaged, or `deeplab export` did not write it: {error}") from None

    def run(images: np.ndarray, outputs: Sequence[str]) -> list[np.ndarray]:
        return [result.numpy() for result in functions[tuple(outputs)](tf.constant(images))]

    return run
