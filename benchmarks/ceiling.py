"""What a device can do at most, what a network asks of it, and the memory that it took."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from trainer import processes


def _is(backend: str) -> bool:
    return keras.backend.backend() == backend


def accelerator() -> str:
    """The first device that is not a CPU, as the backend names it; "" without one."""
    if _is("tensorflow"):
        import tensorflow as tf

        return next((device.name for device in tf.config.list_logical_devices("GPU")), "")
    if _is("torch"):
        import torch

        return torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    import jax

    return "" if jax.default_backend() == "cpu" else str(jax.devices()[0])


def compiled(function: Any) -> Any:
    """`function` of arrays, as one graph of the backend; PyTorch, as Keras uses it, has none."""
    if _is("tensorflow"):
        import tensorflow as tf

        return tf.function(function, jit_compile=bool(accelerator()))
    if _is("torch"):
        return function
    import jax

    return jax.jit(function)


def matrix_products(dtype: str, side: int, clock: Callable[[], float]) -> float:
    """Operations per second of products of square matrices, the median of ten rounds of four products.

    Args:
      dtype: of the matrices, "float32" or "bfloat16".
      side: of the matrices.
      clock: in seconds, see `timing.take_turns`.
    """
    rng = np.random.default_rng(0)
    matrix = ops.cast(ops.convert_to_tensor(rng.normal(0, side**-0.5, (side, side)).astype("float32")), dtype)

    def four(x: Any) -> Any:
        for _ in range(4):
            x = ops.matmul(x, matrix)
        return x[:1, :1]

    run = compiled(four)
    seconds = []
    for _ in range(11):
        start = clock()
        np.asarray(ops.convert_to_numpy(ops.cast(run(matrix), "float32")))
        seconds.append(clock() - start)
    return 4 * 2 * side**3 / statistics.median(seconds[1:])


def operations(network: keras.Model, shape: tuple[int, ...]) -> float:
    """Floating-point operations of a pass over images of `shape` [B, H, W, 3], as the backend counts them."""
    if _is("tensorflow"):
        import tensorflow as tf

        tf.get_logger().setLevel("ERROR")  # the profiler is said to be of version 1
        run = tf.function(lambda x: network(x, training=False))
        graph = run.get_concrete_function(tf.TensorSpec(shape, "uint8")).graph
        builder = tf.compat.v1.profiler.ProfileOptionBuilder
        options = builder(builder.float_operation()).with_empty_output().build()
        return float(tf.compat.v1.profiler.profile(graph, options=options).total_float_ops)
    if _is("torch"):
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(np.zeros(shape, "uint8"), training=False)
        return float(counter.get_total_flops())
    import jax

    groups = (network.trainable_variables, network.non_trainable_variables)
    state = [[variable.value for variable in group] for group in groups]
    run = jax.jit(lambda x: network.stateless_call(*state, x, training=False)[0])
    return float(run.lower(np.zeros(shape, "uint8")).compile().cost_analysis()["flops"])


def peak_memory() -> float:
    """GiB: of the accelerator, the most that arrays took; without one, the most that this process ever held."""
    if not accelerator():
        return processes.peak_memory() / 2**30
    if _is("tensorflow"):
        import tensorflow as tf

        return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**30
    if _is("torch"):
        import torch

        return torch.cuda.max_memory_allocated() / 2**30
    import jax

    return jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**30


def memory_alone(argv: list[str], name: str) -> str:
    """What `peak_memory` gives in a process of its own: that of the running script, `argv` and `--only name`."""
    command = [sys.executable, sys.argv[0], *argv, "--only", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    return f"{float(done.stdout.split()[-1]):.2f} GiB" if done.returncode == 0 else "failed"
