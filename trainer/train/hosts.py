"""Several hosts that train one model, under JAX: every one runs the same command, with a `--host-id` of its own.

All take the same way, each on its own part of every batch. Host 0 writes the output; what the others would write goes
into a folder of theirs, and away. What decides the way has to be the same everywhere: where the training resumes, and
the scores of the validation, which are those of host 0.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from trainer.options import InputError
from trainer.train import resume
from trainer.train.options import Options


@contextlib.contextmanager
def joined(options: Options) -> Iterator[Options]:
    """The options as this host goes by them, once all hosts are there.

    Raises:
      InputError: there are several hosts, but the backend is not JAX, or the coordinator cannot be reached.
    """
    if options.hosts == 1:
        yield options
        return
    if keras.backend.backend() != "jax":
        raise InputError(
            f"--hosts {options.hosts} needs JAX, found {keras.backend.backend()}; set KERAS_BACKEND=jax on every host "
            "(pip install '.[jax]')"
        )
    try:
        keras.distribution.initialize(options.coordinator, options.hosts, options.host_id)
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"--coordinator {options.coordinator}: the hosts do not come together ({reason})") from None
    if options.host_id == 0:
        yield options
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        open(os.devnull, "w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        resume.copy(options.output, folder)
        yield dataclasses.replace(options, output=folder)


def of_first(array: np.ndarray, hosts: int) -> np.ndarray:
    """The array of host 0, which all hosts call for; of one shape and type on all of them."""
    if hosts == 1:
        return array
    from jax.experimental import multihost_utils

    # As bytes: without its 64-bit mode JAX would cut integers in half.
    whole = np.frombuffer(array.tobytes(), np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(whole)).view(array.dtype).reshape(array.shape)


def check_same(progress: Any, options: Options) -> None:
    """Raises InputError where this host would resume elsewhere than host 0."""
    here = np.array([progress.epochs, progress.step], np.int64)
    first = of_first(here, options.hosts)
    if (here != first).any():
        raise InputError(
            f"host {options.host_id} finds {here[0]} epochs and {here[1]} steps in --output, host 0 {first[0]} and "
            f"{first[1]}; give all hosts the same folder, on gs:// or on a disk that they share"
        )
