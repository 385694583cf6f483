"""Runs `deeplab prepare` and `deeplab records`, and reads or spoils what they wrote."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest import mock

from pipelines import cli
from pipelines.prepare import command, job
from pipelines.runner.progress import Heartbeat
from trainer.formats.dataset import load_dataset
from trainer.formats.examples import Record, decode
from trainer.formats.frames import Frame, read_frames


def prepare(source: Path | str, output: Path | str, *flags: str) -> int:
    return cli.run(["prepare", "--input", str(source), "--output", str(output), *flags])


def write_here(build: Callable, options: object, **progress: object) -> bool:
    """Does what `deeplab prepare` has Beam do, shard by shard: Beam takes longer than a tiny set."""
    given = build.keywords
    write = job.WriteShard(Heartbeat(), given["folder"], given["palette"], given["options"])
    write.start_bundle()
    for spec in given["specs"]:
        write.process(spec)
    write.finish_bundle()
    return True


def prepare_here(source: Path | str, output: Path | str, *flags: str) -> int:
    """`prepare` without Beam."""
    with mock.patch.object(command, "run_job", write_here):
        return prepare(source, output, *flags)


def records(verb: str, folder: Path | str, *arguments: object) -> int:
    return cli.run(["records", verb, *map(str, (folder, *arguments))])


def describe(folder: Path, change: Callable[[dict], object]) -> None:
    """Changes what dataset.json says, as if written so by a version up to 0.7: without a digest."""
    path = folder / "dataset.json"
    value = json.loads(path.read_text())
    del value["digest"]
    change(value)
    path.write_text(json.dumps(value))


def flip_bit(path: Path, offset: int) -> None:
    """Flips a bit of the byte at `offset`."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def read_shard(path: Path) -> list[Frame]:
    with open(path, "rb") as file:
        return list(read_frames(file))


def read_records(output: Path, split: str = "") -> list[Record]:
    """All records of a split, or of all, in the order of the shards."""
    shards = [shard for shard in load_dataset(str(output)).shards if split in ("", shard.split)]
    return [decode(frame.data) for shard in shards for frame in read_shard(output / shard.name)]


def shard_bytes(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(output.glob("*.tfrecord"))}


def read_rejects(output: Path) -> dict[str, dict]:
    """The objects in rejects.jsonl by their keys."""
    rejects = map(json.loads, (output / "rejects.jsonl").read_text().splitlines())
    return {reject["key"]: reject for reject in rejects}
