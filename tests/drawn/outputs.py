"""What commands have written, without what differs from run to run: the folder's name, times, who did how much."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow.parquet

from pipelines.segment.plan import PLAN_FILE, REPORT_FILE
from trainer.formats.dataset import DATASET_FILE

LEFT_OUT = re.compile(rf"{PLAN_FILE.pattern}|events\.out\.tfevents\..*")
"""Names of files that no two runs leave alike, see `contents`."""
State = dict[str, tuple[int, int]]
"""Path -> inode and time of change of the file."""


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`: relative path -> contents.

    The plan of `segment` is left out: where its chunks end follows from the number of workers. So are the logs for
    TensorBoard, which every run of a training adds to.
    """
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not LEFT_OUT.fullmatch(path.name)]
    return {str(path.relative_to(folder)): _common(path, folder) for path in files}


def as_it_is(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, to the byte: relative path -> contents."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _common(path: Path, folder: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".parquet":
        rows = pyarrow.parquet.read_table(path, partitioning=None).to_pylist()
        data = repr([row | {"seconds": 0} for row in rows]).encode()
    elif path.suffix == ".npz" and path.parent.name == "checkpoints":
        with np.load(path) as arrays:
            data = b"".join(f"{name} {arrays[name].shape}".encode() + arrays[name].tobytes() for name in arrays.files)
    elif path.name == "history.csv":
        rows = csv.DictReader(data.decode().splitlines())
        data = repr([row | {"seconds_per_step": ""} for row in rows]).encode()
    elif path.name == "state.json" and path.parent.name == "checkpoints":
        data = re.sub(rb'"seconds_per_step": [^,\n]+', b"", data)
    elif path.parent.name == "shards":
        data = json.dumps(json.loads(data) | {"modified": 0}).encode()
    elif path.name == REPORT_FILE:
        report = json.loads(data)
        made = report.pop("written") + report.pop("skipped")
        data = json.dumps(report | {"plan": "", "made": made, "seconds": {}, "processor_seconds": {}}).encode()
    elif path.name == DATASET_FILE:
        described = json.loads(data)
        described.pop("digest")  # of the folder's name, too
        data = json.dumps(described).encode()
    elif path.suffix not in (".json", ".jsonl", ".html"):
        return data
    return data.replace(str(folder).encode(), b"FOLDER")


def finished_shards(records: Path) -> list[Path]:
    """The shards that have a sidecar, which no later run may write again."""
    return [records / sidecar.stem for sidecar in (records / "shards").glob("*.tfrecord.json")]


def states(paths: Iterable[Path]) -> State:
    """What tells whether a file was written again."""
    found = {str(path): path.stat() for path in paths}
    return {path: (state.st_ino, state.st_mtime_ns) for path, state in found.items()}
