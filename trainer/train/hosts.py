"""Training of one model on several hosts, under JAX: each host runs the same command, with its own `--host-id`.

All execute the same program, each on its own part of every batch. Host 0 writes the output; the others write to a
temporary folder that is then deleted. Values that control the program must be the same on all hosts: options, records
and the step from which the training resumes, which are compared, and the scores of the validation, which are those of
host 0.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from trainer import storage
from trainer.options import InputError
from trainer.train import resume
from trainer.train.interrupts import HungUp, Terminated, restore_handlers
from trainer.train.options import Options

EXCHANGES = ("Gloo", "NCCL", "coordination service")
"""Names of the transports between hosts in error messages: on CPUs, on GPUs, and JAX's own service."""

ENDED = "deeplab/ended"
"""Key in JAX's coordination service, which host 0 runs, under which it announces that it ends, and why."""
PACKAGES = {"Keras": "keras", "JAX": "jax"}
"""What must have the same version on all hosts, since another may train otherwise: name in messages -> package."""
RESUME = "run the same command again on every host to resume"
PARTING, PAUSE = 5.0, 0.5
"""Seconds that host 0 waits for the others to read its announcement, and seconds between two of their polls."""

STATUS = {InputError: 2, storage.Unavailable: 75, KeyboardInterrupt: 130}
STATUS |= {kind: kind.status for kind in (HungUp, Terminated)}  # in this order: one is a kind of the other
"""Exit statuses after these errors; 1 after any other."""


@contextlib.contextmanager
def joined(options: Options) -> Iterator[Options]:
    """This host's options, once all hosts are connected.

    Raises:
      InputError: there are several hosts, but the backend is not JAX, or the coordinator cannot be reached.
      Unavailable: another host was lost.
    """
    if options.hosts == 1:
        yield options
        return
    if keras.backend.backend() != "jax":
        raise InputError(
            f"--hosts {options.hosts} needs JAX, found {keras.backend.backend()}; set KERAS_BACKEND=jax on every host "
            "(pip install '.[jax]')"
        )
    with _exiting_alone(), contextlib.ExitStack() as own:
        try:
            keras.distribution.initialize(options.coordinator, options.hosts, options.host_id)
        except RuntimeError as error:
            raise InputError(
                f"--coordinator {options.coordinator}: the hosts cannot connect to each other ({_first_line(error)})"
            ) from None
        restore_handlers()  # JAX's handler would only record SIGTERM
        if options.host_id:
            folder = own.enter_context(tempfile.TemporaryDirectory())
            nowhere = own.enter_context(open(os.devnull, "w"))
            own.enter_context(contextlib.redirect_stdout(nowhere))
            resume.copy(options.output, folder)
            options = dataclasses.replace(options, output=folder)
            own.enter_context(_listening(options))
        try:
            yield options
        except BaseException as error:
            if isinstance(error, RuntimeError) and any(name in str(error) for name in EXCHANGES):
                raise storage.Unavailable(
                    f"host {options.host_id} of {options.hosts} waited for another, which has gone "
                    f"({_first_line(error)}); {RESUME}"
                ) from None
            if not options.host_id:
                _announce(error, options.hosts)
            raise


def _announce(error: BaseException, hosts: int) -> None:
    """Makes the other hosts end before this one.

    Without host 0 and its service, JAX would abort them from C++, unless they are within a step.
    """
    with contextlib.suppress(Exception):  # JAX's errors, if the others have already ended
        _service().key_value_set(ENDED, _first_line(error) or type(error).__name__)
        for host in range(1, hosts):
            _service().blocking_key_value_get(f"{ENDED}/{host}", round(1000 * PARTING))


@contextlib.contextmanager
def _listening(options: Options) -> Iterator[None]:
    """While the block runs, this host ends as soon as host 0 has announced its end."""
    over = threading.Event()
    thread = threading.Thread(target=_poll, args=(options, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(PARTING)


def _poll(options: Options, over: threading.Event) -> None:
    # Polls, since JAX aborts if a blocking call is still pending when the hosts disconnect.
    while not over.wait(PAUSE):
        with contextlib.suppress(Exception):  # JAX's errors: nothing announced, or the service has ended
            reason = _service().key_value_try_get(ENDED)
            sys.stderr.write(f"deeplab train: error: host 0 ended ({reason}); {RESUME}\n")
            shutil.rmtree(options.output, ignore_errors=True)
            _service().key_value_set(f"{ENDED}/{options.host_id}", "")
            _end(STATUS[storage.Unavailable])


def _service() -> Any:
    """The client of JAX's key-value store, shared by all hosts; JAX has no public name for it."""
    from jax._src import distributed

    return distributed.global_state.client


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


@contextlib.contextmanager
def _exiting_alone() -> Iterator[None]:
    """If the block fails, the program exits without waiting for the other hosts.

    JAX would wait for minutes at exit and then abort, since the others may have ended or wait for this host in a step.
    """
    try:
        yield
    except BaseException as error:
        atexit.register(_end, next((status for kind, status in STATUS.items() if isinstance(error, kind)), 1))
        raise


def _end(status: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, AttributeError, ValueError):
            stream.flush()
    os._exit(status)


def of_first(array: np.ndarray, hosts: int) -> np.ndarray:
    """Host 0's array on every host. All hosts must call this, with arrays of the same shape and type."""
    if hosts == 1:
        return array
    from jax.experimental import multihost_utils

    # As bytes: without its 64-bit mode, JAX would truncate integers to 32 bits.
    whole = np.frombuffer(array.tobytes(), np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(whole)).view(array.dtype).reshape(array.shape)


def check_same(progress: Any, options: Options) -> None:
    """Raises InputError if this host would go on from another state than host 0, or train otherwise."""
    text = json.dumps(_course(progress)).encode()
    size = of_first(np.array([len(text)]), options.hosts)
    first = of_first(np.resize(np.frombuffer(text, np.uint8), size), options.hosts)
    here, there = json.loads(text), json.loads(first.tobytes())
    # One that only host 0 has is of a later version.
    names = [name for name in here | there if here.get(name, "unknown") != there.get(name, "unknown")]
    if names:
        found, expected = (
            ", ".join(f"{name} {course.get(name, 'unknown')}" for name in names) for course in (here, there)
        )
        raise InputError(
            f"host {options.host_id} has {found}, but host 0 has {expected}; give all hosts the same flags, "
            "versions and records, and as --output the same folder, on gs:// or on a disk that they share"
        )


def _course(progress: Any) -> dict[str, Any]:
    """What determines the rest of a training, by names for messages."""
    may_differ = {*resume.NOT_COMPARED} - {"hosts"}
    flags = {Options.flag(name): value for name, value in progress.options.items() if name not in may_differ}
    records = {"records": progress.data_fingerprint, "classes": progress.classes}
    state = {"finished epochs": progress.epochs, "finished steps": progress.step}
    return flags | records | state | {name: _version(package) for name, package in PACKAGES.items()}


def _version(package: str) -> str:
    """The version of an installed package; "none" if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"
