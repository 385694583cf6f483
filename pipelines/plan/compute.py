"""The number of operations of a network.

    python -m pipelines.plan.compute PROCESS NETWORK

prints it for the arguments of `operations` as a JSON list; it ends with the process that started it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from trainer import ending, startup
from trainer.options import InputError
from trainer.terminal import printable


def forward_flops(architecture: Mapping[str, Any], height: int, width: int) -> float:
    """Floating-point operations of one image of that size: a multiplication and an addition are two.

    They are counted in a process of its own, since only TensorFlow counts them, whatever backend Keras has here.

    Args:
      architecture: arguments of `deeplab_v3_plus`.
      height, width: in pixels.

    Raises:
      InputError: that process failed.
    """
    network = json.dumps([dict(architecture), height, width])
    program = [sys.executable, "-m", "pipelines.plan.compute", str(os.getpid()), network]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}  # nothing is computed
    done = subprocess.run(program, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        cause = done.stderr.strip().rpartition("\n")[2] or f"status {done.returncode}"
        raise InputError(f"the operations of the network cannot be counted: {printable(cause)}")
    return float(done.stdout)


def operations(architecture: Mapping[str, Any], height: int, width: int) -> float:
    """What `forward_flops` returns, in this process."""
    # Both load TensorFlow, which plans for jobs without a network do not need.
    startup.start_tensorflow()
    import tensorflow as tf

    from trainer.network.deeplab import deeplab_v3_plus

    model = deeplab_v3_plus(**architecture)
    tf.get_logger().setLevel("ERROR")  # the profiler warns that it belongs to TensorFlow 1
    shape = tf.TensorSpec([1, height, width, 3], tf.float32)
    # AutoGraph would leave a file in the folder for temporary files.
    graph = tf.function(lambda image: model(image, training=False), autograph=False).get_concrete_function(shape).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    counted = tf.compat.v1.profiler.profile(graph, options={**options, "output": "none"})
    return float(counted.total_float_ops)


if __name__ == "__main__":
    ending.watch_parent(int(sys.argv[1]))
    sys.stdout.write(f"{operations(*json.loads(sys.argv[2]))}\n")
