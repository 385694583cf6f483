"""Reads an HDF5 file of weights, as a separate program, since HDF5's library hangs or crashes on some damaged files.

    python -m trainer.weights.probe FILE SECONDS

It is killed by a signal if it takes more CPU-seconds than that, or if the library crashes. It ignores other faults.
"""

from __future__ import annotations

import contextlib
import math
import resource
import sys
from typing import Any

import h5py

MOST = 1 << 30
"""Bound on the bytes of an array; the largest of DeepLab's has some tens of millions."""
RATIO, ROOM = 1032, 1 << 20
"""The most bytes that gzip makes of one; and bytes that any array may have, stored or not."""


def flaw(array: h5py.Dataset) -> str:
    """Why an array must not be read, in words; "" if it may be. Whatever the file's size, it can claim any."""
    # A damaged file may declare chunks far larger than the array, which HDF5 would allocate.
    if array.dtype.kind != "f" or math.prod(array.chunks or ()) > 2 * array.size + 65536:
        return f"is not a plain array of {list(array.shape)} numbers"
    stored = min(array.id.get_storage_size(), array.file.id.get_filesize())
    bound = min(MOST, RATIO * stored + ROOM)
    if array.nbytes > bound:
        return f"claims {array.nbytes:,} bytes, of which the file stores {stored:,}; expected at most {bound:,}"
    return ""


def read(path: str | bytes, item: Any) -> None:
    """Reads the attributes of a group or an array, and the array, unless it refers to data in another file."""
    for name in list(item.attrs):
        with contextlib.suppress(Exception):
            item.attrs[name]
    if isinstance(item, h5py.Dataset) and not item.is_virtual and not item.external:
        with contextlib.suppress(Exception):
            if not flaw(item):
                item[()]


def main(path: str, seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with h5py.File(path, "r") as file:
        file.visititems(read)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
