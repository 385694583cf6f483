"""How a mask was made: a fingerprint of model and options, carried by every mask as a PNG text chunk.

A mask thus identifies itself: an interrupted or repeated job can tell its own masks from those of another model,
whatever the files' times are.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import asdict

from pipelines.crf.options import CrfOptions
from trainer.formats.cards import ModelCard


def fingerprint(
    weights: str, card: ModelCard, max_side: int, crf: CrfOptions | None, crf_engine: str = "native"
) -> str:
    """32 hex digits of all that decides a mask; `weights` is the SHA-256 of the model's."""
    parts = {
        "weights": weights,
        "architecture": card.architecture,
        "palette": card.palette.to_json(),
        "max_side": max_side,
        "crf": asdict(crf) if crf else None,
    }
    if crf and crf_engine != "native":
        parts["crf_engine"] = crf_engine
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


_PNG_HEAD = 33  # signature and IHDR chunk


def _stamp(digest: str) -> bytes:
    """The PNG text chunk "deeplab" = `digest`: length, type and content, checksum."""
    body = b"tEXtdeeplab\0" + digest.encode()
    return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))


def stamp(png: bytes, digest: str) -> bytes:
    """The PNG file `png` with the text chunk "deeplab" = `digest` after its header."""
    return png[:_PNG_HEAD] + _stamp(digest) + png[_PNG_HEAD:]


def has_stamp(png: bytes, digest: str) -> bool:
    """Whether the PNG file `png` was stamped with `digest`."""
    return png[_PNG_HEAD:].startswith(_stamp(digest))
