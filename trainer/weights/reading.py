"""Reads a whole HDF5 file, as a separate program, since HDF5's library hangs or crashes on some damaged files.

    python -m trainer.weights.reading FILE SECONDS

It is killed by a signal if it takes more CPU-seconds than that, or if the library crashes. It ignores other faults.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from typing import Any

import h5py


def read(path: str | bytes, item: Any) -> None:
    """Reads the attributes of a group or an array, and the array, unless it refers to data in another file."""
    for name in list(item.attrs):
        with contextlib.suppress(Exception):
            item.attrs[name]
    if isinstance(item, h5py.Dataset) and not item.is_virtual and not item.external:
        with contextlib.suppress(Exception):
            item[()]


def main(path: str, seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with h5py.File(path, "r") as file:
        file.visititems(read)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
