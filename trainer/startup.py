"""Keeps the start-up messages of TensorFlow and absl, and nothing else, off the terminal.

They are written from C++ to file descriptor 2, some before any setting is read. So the descriptor itself is redirected
while the libraries start, and what was written is filtered afterwards.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import BinaryIO

from trainer.limits import cores
from trainer.options import InputError

STDERR = 2
LEVEL = "TF_CPP_MIN_LOG_LEVEL"
THREADS = "TF_NUM_INTRAOP_THREADS"
"""Environment variable that limits TensorFlow's threads, and those of ONNX Runtime that run an export; 0: no limit."""

BACKENDS = ("tensorflow", "jax", "torch")
"""The backends of Keras that the network is written for."""

_KNOWN = re.compile(
    rb"""
    WARNING:\ All\ log\ messages\ before\ absl::InitializeLog
    | I\d{4}\ \d\d:\d\d:[\d.]+\ +\d+\ \S+\]          # information, as absl writes it
    | \d{4}-\d\d-\d\d\ [\d:.]+:\ I\                  # and as TensorFlow 2.20 does
    | To\ enable\ the\ following\ instructions:      # second line of one of these
    | .*Could\ not\ find\ (cuda\ drivers|TensorRT)
    | .*failed\ call\ to\ cuInit:.*(\(303\)|NO_DEVICE)  # no driver, no GPU; other failures are worth reading
    | .*Unable\ to\ register\ cu\w+\ factory:\ Attempting\ to\ register\ factory\ for\ plugin
    | .*computation\ placer\ already\ registered
    | W\d{4}\ .*(tf_tfl_flatbuffer_helpers|flatbuffer_export)\.cc  # of conversions to TFLite, for its developers
    | fully_quantize:\ 0,\ inference_type:
    | INFO:\ Created\ TensorFlow\ Lite\ \S+\ delegate
    | .*oneDNN\ supports\ DT_\w+\ only\ on\ platforms\ with
    """,
    re.VERBOSE,
)

_lock = threading.Lock()
_blocks = 0
_turned: tuple[int, BinaryIO] | None = None


def _turn_away() -> tuple[int, BinaryIO] | None:
    """Redirects descriptor 2 to a file; returns its old destination and the file, or None if it is closed."""
    try:
        old = os.dup(STDERR)
    except OSError:
        return None
    file = tempfile.TemporaryFile()  # noqa: SIM115, closed in `_turn_back`
    os.dup2(file.fileno(), STDERR)
    return old, file


def _turn_back(old: int, file: BinaryIO) -> None:
    """Undoes `_turn_away`, and writes what was written in the meantime except start-up messages."""
    os.dup2(old, STDERR)
    os.close(old)
    with file:
        file.seek(0)
        rest = b"".join(line for line in file if not _KNOWN.match(line))
    # If the reader has closed its end, it does not want more.
    with contextlib.suppress(OSError), open(STDERR, "wb", closefd=False) as stderr:
        stderr.write(rest)


def _flush() -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.flush()


@contextlib.contextmanager
def quiet_startup() -> Iterator[None]:
    """Drops TensorFlow's and absl's start-up lines from standard error while the block runs.

    Everything else that is written there, by Python, C++ or other threads, appears when the block ends, even by an
    exception; if blocks are nested or run in several threads, when the last one ends. Keep blocks short: the output of
    a process that is killed in one is lost; who ends it from within calls `turn_back` first. Start no processes in a
    block, since their standard error would stay redirected. With TF_CPP_MIN_LOG_LEVEL=0 in the environment, nothing is
    dropped.
    """
    global _blocks, _turned
    if os.environ.setdefault(LEVEL, "1") == "0":
        yield
        return
    with _lock:
        if not _blocks:
            _flush()
            _turned = _turn_away()
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks and _turned:
                _flush()
                _turn_back(*_turned)
                _turned = None


def turn_back() -> None:
    """Ends the redirection at once, in a process that is about to end in the middle of a block."""
    global _turned
    if _lock.acquire(timeout=1):  # a signal may have come while this thread held it
        turned, _turned = _turned, None
        _lock.release()
        if turned:
            _flush()
            _turn_back(*turned)


def keras_backend() -> str:
    """The backend that Keras will have, from KERAS_BACKEND or its keras.json, before it is imported."""
    if backend := os.environ.get("KERAS_BACKEND"):
        return backend
    home = os.path.expanduser("~")
    folder = os.environ.get("KERAS_HOME", os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras"))
    try:
        with open(os.path.join(folder, "keras.json"), "rb") as file:
            return str(json.load(file)["backend"])
    except (OSError, ValueError, TypeError, KeyError):
        return "tensorflow"


def check_backend() -> None:
    """Raises InputError if Keras could not be imported with the backend that it is told to have."""
    backend = keras_backend()
    told = "KERAS_BACKEND" if os.environ.get("KERAS_BACKEND") else "backend in Keras's settings, keras.json,"
    if backend not in BACKENDS:
        raise InputError(f"{told} is {backend!r}; expected one of {', '.join(BACKENDS)}")
    if importlib.util.find_spec(backend) is None:
        raise InputError(f"{told} is {backend}, which is not installed; install it, or set KERAS_BACKEND=tensorflow")


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Keeps Python from looking for garbage among the objects that the block's imports make, then and ever after.

    Of TensorFlow these are most of a million, which live as long as the process; each look takes tenths of a second,
    and the last ones, when the process ends, a whole one.
    """
    is_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if is_enabled:
            gc.enable()


def start_tensorflow() -> None:
    """Imports TensorFlow and lets it find its devices, quietly; call it before the first use of either.

    TensorFlow reads its environment variables here, such as the number of its threads. Its own default counts cores of
    which a container may have only a share.
    """
    os.environ.setdefault(THREADS, str(cores()))
    with quiet_startup():
        with importing():
            import tensorflow as tf

        if keras_backend() != "tensorflow":
            # TensorFlow only reads records then, but would allocate all of a GPU's memory.
            tf.config.set_visible_devices([], "GPU")
        tf.config.list_logical_devices("GPU")
        # On the first array of bytes, oneDNN prints once that it does not support bytes.
        with tf.device("CPU"):
            tf.transpose(tf.zeros([1, 1], tf.uint8))
