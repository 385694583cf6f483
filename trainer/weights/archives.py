"""Unpacks the checkpoint in an archive, in bounded memory and to a bounded size, whatever the archive claims."""

from __future__ import annotations

import gzip
import io
import os
import posixpath
import re
import shutil
import tarfile
import zlib

from trainer import storage
from trainer.options import InputError
from trainer.weights.download import again

SUFFIXES = (".tar.gz", ".tgz")
MAX_UNPACKED = 4 << 30
"""Bound on the bytes of an archive that is unpacked; the largest published checkpoint has half a gigabyte."""
MAX_HEADERS, MAX_HEADER = 1 << 20, 1 << 15
"""Bounds on the bytes of all headers of an archive, and of one. Published archives have some kilobytes of them."""

_PART = re.compile(r"(?P<prefix>[\w.-]+)\.(index|data-\d{5}-of-\d{5})")


class _Unpacked(gzip.GzipFile):
    """An archive without its compression, as `tarfile` reads it: forwards, and only so many bytes.

    `tarfile` reads a header at once, of whatever size it claims, takes a time that grows with the square of it for
    some, and keeps all of them.

    Attributes:
      left: how many more bytes may be read.
    """

    left = MAX_HEADERS

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= min(self.left, MAX_HEADER):
            raise tarfile.ReadError(f"its headers take over {MAX_HEADERS:,} bytes, or one of them over {MAX_HEADER:,}")
        self.left -= size
        return super().read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_SET and offset < self.tell():  # a member of negative size, which would be read for ever
            raise tarfile.StreamError("its members overlap")
        return super().seek(offset, whence)


def unpack(archive: str, folder: str) -> str:
    """Unpacks the checkpoint in `archive` (local or gs://), and nothing else, into `folder`; returns its prefix.

    Raises:
      InputError: a damaged archive, or one without a checkpoint, with several, or that is too large.
    """
    prefixes, size = {}, 0
    try:
        with (
            storage.reader(archive) as file,
            _Unpacked(fileobj=file) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r:") as members,
        ):
            for member in members:
                size += member.size
                if size > MAX_UNPACKED:
                    raise InputError(f"{archive} takes over {MAX_UNPACKED:,} bytes when unpacked; unpack it first")
                inner, name = posixpath.split(posixpath.normpath(member.name))
                part = _PART.fullmatch(name)
                # macOS puts the attributes of FILE beside it, into ._FILE.
                if not part or not member.isfile() or name.startswith("._"):
                    continue
                prefixes[posixpath.join(inner, part["prefix"])] = os.path.join(folder, part["prefix"])
                left, unpacked.left = unpacked.left, member.size
                with storage.writer(os.path.join(folder, name)) as target:
                    shutil.copyfileobj(members.extractfile(member), target, MAX_HEADER)
                unpacked.left = left
    except FileNotFoundError:
        raise InputError(f"{archive} not found; expected a .tar.gz with a TensorFlow checkpoint") from None
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{archive} cannot be unpacked ({error}); {again(archive)}") from None
    if not prefixes:
        raise InputError(f"{archive} holds 0 checkpoints (*.ckpt.index); expected one")
    if len(prefixes) > 1:
        raise InputError(
            f"{archive} holds {len(prefixes)} checkpoints: {', '.join(sorted(prefixes)[:3])}; expected one; unpack it "
            "and give the path of one up to `.ckpt`"
        )
    return next(iter(prefixes.values()))
