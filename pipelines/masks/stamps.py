"""The stamp that every mask contains: a fingerprint of model and options, and the identity of the image.

By it, an interrupted or repeated job distinguishes its own masks from those of another model or of another image with
the same name, and from files that this program did not write, regardless of the files' times. Overlays and confidence
maps contain the same stamp. It also stores the certainty of the network, which cannot be derived from a mask.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import dataclass, field

from pipelines.masks.certainty import CHANGED_DIGITS, DIGITS, Certainty
from pipelines.masks.options import SINGLE, Views
from trainer.formats.cards import ModelCard
from trainer.formats.containers import PNG_HEAD, png_with_text
from trainer.formats.options import CrfOptions
from trainer.network.options import WINDOW


@dataclass(frozen=True)
class Stamp:
    """The stamp of a mask; its texts are "" if it is damaged.

    Attributes:
      fingerprint: the fingerprint of model and options, see `fingerprint`.
      identity: `storage.identity` of the image file; "" in masks of version 0.2 and earlier.
      certainty: the certainty of the network; None in files of version 0.5 and earlier. It is ignored when stamps are
        compared.
    """

    fingerprint: str = ""
    identity: str = ""
    certainty: Certainty | None = field(default=None, compare=False)


def fingerprint(
    weights: str,
    card: ModelCard,
    max_side: int,
    crf: CrfOptions | None,
    crf_engine: str = "native",
    views: Views = SINGLE,
    window: int = WINDOW,
) -> str:
    """A digest, 32 hex digits, of everything that a mask depends on except the image.

    Args:
      weights: SHA-256 of the model's weights.
    """
    parts = {
        "weights": weights,
        "architecture": card.architecture,
        "palette": card.palette.to_json(),
        "max_side": max_side,
        "crf": crf.to_json(card.palette.names) if crf else None,
    }
    if crf and crf_engine != "native":
        parts["crf_engine"] = crf_engine
    if not views.is_single:
        parts["views"] = views.to_json()
    if window != WINDOW:
        parts["window"] = window
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


_NAME = b"deeplab\0"
_JPEG_HEAD = 20  # start of image and JFIF segment
_TEXT = PNG_HEAD + 8 + len(_NAME)
_COMMENT = _JPEG_HEAD + 4 + len(_NAME)


def stamp_png(png: bytes, content: Stamp) -> bytes:
    """The PNG file `png` with `content` as the text chunk "deeplab" after its header."""
    return png_with_text(png, _NAME + _text(content))


def stamp_jpeg(jpeg: bytes, content: Stamp) -> bytes:
    """The JPEG file `jpeg` with `content` as a comment after its header."""
    body = _NAME + _text(content)
    return jpeg[:_JPEG_HEAD] + b"\xff\xfe" + struct.pack(">H", len(body) + 2) + body + jpeg[_JPEG_HEAD:]


def read_stamp(file: bytes) -> Stamp | None:
    """The stamp of a PNG or JPEG file; None if this program did not write it."""
    if file[PNG_HEAD + 4 : _TEXT] == b"tEXt" + _NAME:
        end = PNG_HEAD + 8 + int.from_bytes(file[PNG_HEAD : PNG_HEAD + 4], "big")
        is_whole = file[end : end + 4] == struct.pack(">I", zlib.crc32(file[PNG_HEAD + 4 : end]))
        return _stamp(file[_TEXT:end]) if is_whole else Stamp()
    if file[_COMMENT - len(_NAME) : _COMMENT] == _NAME and file[_JPEG_HEAD : _JPEG_HEAD + 2] == b"\xff\xfe":
        end = _JPEG_HEAD + 2 + int.from_bytes(file[_JPEG_HEAD + 2 : _JPEG_HEAD + 4], "big")
        return _stamp(file[_COMMENT:end])
    return None


def _text(content: Stamp) -> bytes:
    words = [content.fingerprint, content.identity]
    if sure := content.certainty:
        words += [f"{sure.confidence:.{DIGITS}f}", f"{sure.entropy:.{DIGITS}f}"]
        words += [] if sure.changed is None else [f"{sure.changed:.{CHANGED_DIGITS}f}"]
    return " ".join(words).encode()


def _stamp(text: bytes) -> Stamp:
    words = text.decode("latin-1").split(" ")
    fingerprint, identity, *numbers = words if words[1:] else (*words, "")
    try:
        return Stamp(fingerprint, identity, Certainty(*map(float, numbers)) if numbers else None)
    except (ValueError, TypeError):
        return Stamp()
