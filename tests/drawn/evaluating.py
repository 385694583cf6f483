"""Labels and masks of two classes, and `deeplab evaluate` on them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from pipelines import cli
from pipelines.evaluate import command, job, tally
from pipelines.runner.progress import Heartbeat
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


def evaluate_here(build: Callable, options: object, **progress: object) -> bool:
    """Does what `deeplab evaluate` has Beam do, chunk by chunk: Beam takes longer than a tiny set."""
    given = build.keywords
    sources, output, digest = given["sources"], given["output"], given["digest"]
    empty = tally.EvaluationTally.empty(len(sources.masks), sources.palette.num_classes)
    work = job.EvaluateChunk(Heartbeat(), sources, output, digest)
    total = sum((part for number in range(given["chunks"]) for part in work.process(number)), start=empty)
    tally.write(total, output, digest)
    return True


def run(words: Sequence[str]) -> int:
    """Runs `deeplab evaluate` with these flags; on Beam where they say how."""
    is_for_beam = any(word.startswith("--direct") for word in words)
    here = mock.patch.object(command, "run_job", evaluate_here)
    with contextlib.nullcontext() if is_for_beam else here:
        return cli.run(["evaluate", *words])


def evaluate(folder: Path, *flags: str, **folders: str) -> int:
    """Runs the command on `labels` and `masks` in `folder`, or the folders given; the report goes to `out`."""
    place = {"labels": "labels", "masks": "masks", "output": "out"} | folders
    (folder / "palette.json").write_text(json.dumps(PALETTE.to_json()))
    words = ["--palette", str(folder / "palette.json"), "--gallery", "0"]
    for flag, name in place.items():
        words += [f"--{flag}", str(folder / name)]
    return run([*words, *flags])


def evaluation(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "evaluation.json").read_bytes())


def rejects(folder: Path) -> dict[str, str]:
    """Path -> reason."""
    lines = (folder / "rejects.jsonl").read_bytes().split(b"\n")
    return {reject["path"]: reject["reason"] for reject in map(json.loads, filter(None, lines))}
