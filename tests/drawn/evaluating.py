"""Labels and masks of two classes, and `deeplab evaluate` on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import cli
from trainer.formats import images
from trainer.formats.labels import Palette

PALETTE = Palette("two", ("left", "right"), ((200, 0, 0), (0, 200, 0)))
LABEL = np.repeat(np.uint8([[0, 0, 1, 1]]), 4, axis=0)
PNG = images.encode_png(LABEL)


def put(folder: Path, *names: str, data: bytes = PNG) -> None:
    """Files of these names, all of the same contents."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def evaluate(folder: Path, *flags: str, **folders: str) -> int:
    """Runs the command on `labels` and `masks` in `folder`, or the folders given; the report goes to `out`."""
    place = {"labels": "labels", "masks": "masks", "output": "out"} | folders
    (folder / "palette.json").write_text(json.dumps(PALETTE.to_json()))
    command = ["evaluate", "--palette", str(folder / "palette.json"), "--gallery", "0"]
    for flag, name in place.items():
        command += [f"--{flag}", str(folder / name)]
    return cli.run([*command, *flags])


def evaluation(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_bytes())


def rejects(folder: Path) -> dict[str, str]:
    """Path -> reason."""
    lines = (folder / "rejects.jsonl").read_bytes().split(b"\n")
    return {reject["path"]: reject["reason"] for reject in map(json.loads, filter(None, lines))}
