"""What the fuzzer reads, and real bytes spoilt at random: bits, values in JSON, and what is behind checksums."""

from __future__ import annotations

import copy
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.drawn.encoded import mutations
from trainer.formats.frames import frame
from trainer.options import InputError

Spoil = Callable[[bytes, np.random.Generator], bytes]
ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 255, 256, 2**31, 2**63, 2**64, 10**400, 0.5, -0.0, 1e308, float("nan")),
    *(float("inf"), "", "x", "0", "../x", "/", "a\0b", "\ud800", "ü", "\u2028", "x" * 5000, [], {}, [[]], [None]),
    *([0, 1, 2], ["a"], {"a": 1}, {"": None}),
)
"""What a value in a JSON file is replaced by."""
DEEP = 100_000
"""Brackets within brackets; more than any parser can go down."""


def bits(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed, cut out, doubled or cut off."""
    return next(mutations(data or b"\0", 1, int(rng.integers(1 << 62))))


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in inside for place in _places(inner, (*path, key)))]


def _spoilt(value: Any, rng: np.random.Generator) -> Any:
    places = _places(value)
    path = places[int(rng.integers(len(places)))]
    odd = copy.deepcopy(ODD[int(rng.integers(len(ODD)))])
    if not path:
        return odd
    parent = value
    for key in path[:-1]:
        parent = parent[key]
    kind, last = int(rng.integers(8)), path[-1]
    if kind == 0:
        del parent[last]
    elif kind == 1 and isinstance(parent, list):
        parent.insert(last, copy.deepcopy(parent[last]))
    elif kind == 1:
        parent[str(odd)[:40]] = parent.pop(last)
    elif kind == 2 and isinstance(parent, dict):
        parent["more"] = odd
    elif kind == 3 and isinstance(parent[last], (int, float)):
        parent[last] = parent[last] * int(rng.integers(-3, 4)) + int(rng.integers(-1, 2))
    else:
        parent[last] = odd
    return value


def json_values(data: bytes, rng: np.random.Generator) -> bytes:
    """A JSON file with one to three of its values changed, or, one time in five, its bytes."""
    chance = rng.random()
    if chance < 0.2:
        return bits(data, rng)
    if chance < 0.21:
        return b"[" * DEEP
    value = json.loads(data)
    for _ in range(int(rng.integers(1, 4))):
        value = _spoilt(value, rng)
    return json.dumps(value).encode()


def json_lines(data: bytes, rng: np.random.Generator) -> bytes:
    lines = data.split(b"\n")
    place = int(rng.integers(len(lines)))
    lines[place] = json_values(lines[place], rng) if lines[place].strip() else bits(data, rng)
    return b"\n".join(lines)


def png_chunks(data: bytes, rng: np.random.Generator) -> bytes:
    """A PNG with the contents of a chunk changed; half the time what is compressed in it, and checksums are right."""
    parts, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        parts.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    place = int(rng.integers(len(parts)))
    kind, content = parts[place]
    if kind == b"IDAT" and rng.random() < 0.5:
        try:
            content = zlib.compress(bits(zlib.decompress(content) or b"\0\0", rng))
        except zlib.error:
            content = bits(content, rng)
    else:
        content = bits(content or b"\0\0", rng)
    chance = rng.random()
    if chance < 0.1:
        parts.insert(int(rng.integers(len(parts))), (kind, content))
    elif chance < 0.2 and len(parts) > 1:
        del parts[place]
    else:
        parts[place] = kind, content
    whole = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in parts)
    return data[:8] + b"".join(whole)


def frames(data: bytes, rng: np.random.Generator) -> bytes:
    """A shard whose records are changed inside, with right lengths and checksums."""
    payloads, at = [], 0
    while at + 16 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        payloads.append(data[at + 12 : at + 12 + length])
        at += 16 + length
    place = int(rng.integers(len(payloads)))
    payloads[place] = bits(payloads[place], rng)
    return b"".join(map(frame, payloads))


def members(inner: Spoil = bits) -> Spoil:
    """A zip archive of which one member is changed, by `inner`, with a right checksum."""

    def spoil(data: bytes, rng: np.random.Generator) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as archive, zipfile.ZipFile(buffer, "w") as changed:
            names = archive.namelist()
            place = int(rng.integers(len(names)))
            for number, name in enumerate(names):
                content = archive.read(name)
                changed.writestr(name, inner(content, rng) if number == place and content else content)
        return buffer.getvalue()

    return spoil


class Target(NamedTuple):
    """What is to be read.

    Attributes:
      seeds: bytes that can be read.
      read: reads such bytes, in a folder that no other target uses.
      known: what it may raise.
      spoil: how the seeds are changed.
    """

    seeds: Callable[[], list[bytes]]
    read: Callable[[bytes, Path], object]
    known: tuple[type[Exception], ...] = (InputError,)
    spoil: Spoil = bits


def either(*spoils: Spoil) -> Spoil:
    """One of several ways, at random."""
    return lambda data, rng: spoils[int(rng.integers(len(spoils)))](data, rng)
