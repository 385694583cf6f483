"""Keeps what TensorFlow and absl write about their own start off the terminal, and nothing else.

They write it from C++ to file descriptor 2, part of it before any setting of theirs is looked at. So the descriptor
itself is turned away for as long as they start, and what came is looked through afterwards.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import BinaryIO

STDERR = 2
LEVEL = "TF_CPP_MIN_LOG_LEVEL"

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
    """Sends descriptor 2 into a file; returns its old destination and the file, or None where it is closed."""
    try:
        old = os.dup(STDERR)
    except OSError:
        return None
    file = tempfile.TemporaryFile()  # noqa: SIM115, closed in `_turn_back`
    os.dup2(file.fileno(), STDERR)
    return old, file


def _turn_back(old: int, file: BinaryIO) -> None:
    """Undoes `_turn_away`, and writes what came in the meantime and is no start-up line."""
    os.dup2(old, STDERR)
    os.close(old)
    with file:
        file.seek(0)
        rest = b"".join(line for line in file if not _KNOWN.match(line))
    # Whoever closed the other end of it wants no more.
    with contextlib.suppress(OSError), open(STDERR, "wb", closefd=False) as stderr:
        stderr.write(rest)


def _flush() -> None:
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.flush()


@contextlib.contextmanager
def quiet_startup() -> Iterator[None]:
    """Drops TensorFlow's and absl's start-up lines from standard error while the block runs.

    Everything else that is written there, by Python, C++ or other threads, appears when the block ends, also when it
    raises; of blocks inside one another or in several threads, when the last one ends. Keep blocks short: a process
    that is killed in one takes its last words with it. Start no process in a block, whose standard error would stay
    turned away. With TF_CPP_MIN_LOG_LEVEL=0 in the environment, nothing is dropped.
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


def start_tensorflow() -> None:
    """Imports TensorFlow and lets it find its devices, quietly; call it before the first use of either.

    TensorFlow reads its environment variables here, such as the number of its threads.
    """
    with quiet_startup():
        import tensorflow as tf

        if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
            # TensorFlow only reads records then, but would take all of a GPU's memory.
            tf.config.set_visible_devices([], "GPU")
        tf.config.list_logical_devices("GPU")
        # The first array of bytes that oneDNN sees makes it say, once, that it leaves bytes to others.
        with tf.device("CPU"):
            tf.transpose(tf.zeros([1, 1], tf.uint8))
