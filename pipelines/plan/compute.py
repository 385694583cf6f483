"""The number of operations of a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainer import startup


def forward_flops(architecture: Mapping[str, Any], height: int, width: int) -> float:
    """Floating-point operations of one image of that size: a multiplication and an addition are two.

    Args:
      architecture: arguments of `deeplab_v3_plus`.
      height, width: in pixels.
    """
    # Both load TensorFlow, which plans for jobs without a network do not need.
    startup.start_tensorflow()
    import tensorflow as tf

    from trainer.network.deeplab import deeplab_v3_plus

    model = deeplab_v3_plus(**architecture)
    tf.get_logger().setLevel("ERROR")  # the profiler warns that it belongs to TensorFlow 1
    shape = tf.TensorSpec([1, height, width, 3], tf.float32)
    graph = tf.function(lambda image: model(image, training=False)).get_concrete_function(shape).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    counted = tf.compat.v1.profiler.profile(graph, options={**options, "output": "none"})
    return float(counted.total_float_ops)
