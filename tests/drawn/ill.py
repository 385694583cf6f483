"""Drawn raw sets whose truth is known, spoilt in one way, examined by `deeplab doctor`, prepared as it proposes."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from pipelines import cli
from pipelines.doctor import command as doctor_command
from pipelines.doctor import job as doctor_job
from pipelines.doctor import tally
from pipelines.prepare import command as prepare_command
from pipelines.runner.progress import Heartbeat
from tests.drawn.encoded import saved
from tests.drawn.prepared import read_records, write_here
from tests.drawn.records import PALETTE
from trainer.formats import images, label_images
from trainer.formats.dataset import load_dataset
from trainer.formats.labels import Palette

SIZE = 64
Truth = dict[str, np.ndarray]
"""Key -> uint8 [H, W] class ids, 255 for void."""


def scene(index: int, height: int = SIZE, width: int = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """A disc and a bar on ground, which is shaded anew in every scene; void around the disc.

    Returns image [H, W, 3] uint8 and label [H, W] uint8.
    """
    rng = np.random.default_rng([3, index])
    y, x = np.mgrid[:height, :width]
    label = np.zeros((height, width), np.uint8)
    top, left = int(rng.integers(3, 12)), int(rng.integers(4, width - 24))
    label[top : height - 2 * top, left : left + 20] = 2
    cy, cx, radius = rng.integers(16, height - 16), rng.integers(16, width - 16), rng.integers(8, 13)
    distance = np.hypot(y - cy, x - cx)
    label[distance < radius] = 1
    shade = 25 * np.sin(x * rng.uniform(0.05, 0.4) + y * rng.uniform(0.05, 0.4) + rng.uniform(0, 6))
    image = np.float32(PALETTE.colors)[label] + shade[..., None] + rng.normal(0, 3, (height, width, 3))
    label[np.abs(distance - radius) < 1] = 255
    return np.clip(image, 0, 255).astype(np.uint8), label


def draw_set(
    folder: Path,
    encode: Callable[[np.ndarray, str], bytes] = lambda label, key: images.encode_png(label),
    splits: Mapping[str, int] = {"train": 6, "val": 3},
    palette: Palette | None = PALETTE,
    suffix: str = ".png",
) -> Truth:
    """Draws a set in CamVid's layout; `encode` makes the label file of a label and its key. Returns its truth."""
    truth = {}
    for split, count in splits.items():
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            key = f"{split}/a{index}"
            image, truth[key] = scene(index + 100 * len(split))
            (folder / "images" / f"{key}.png").write_bytes(saved(image))
            (folder / "labels" / f"{key}{suffix}").write_bytes(encode(truth[key], key))
    if palette:
        (folder / "palette.json").write_text(json.dumps(palette.to_json()))
    return truth


@dataclass(frozen=True)
class Examined:
    """What came of an examination: status, doctor.json, and the output folder."""

    status: int
    report: dict[str, Any]
    output: Path

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of a finding -> its grade."""
        return {finding["kind"]: finding["grade"] for finding in self.report["findings"]}

    def finding(self, kind: str) -> dict[str, Any]:
        return next(finding for finding in self.report["findings"] if finding["kind"] == kind)


def _look_here(build: Callable, options: object, **progress: object) -> bool:
    """Does what `deeplab doctor` has Beam do, chunk by chunk: Beam takes longer than a tiny set."""
    given = dict(build.keywords)
    chunks = given.pop("chunks")
    look = doctor_job.LookAtChunk(Heartbeat(), **given)
    summed = tally.total(part for number in range(chunks) for part in look.process(number))
    tally.write(summed, given["output"], given["digest"])
    return True


def examine(source: Path, output: Path, *flags: str, beam: bool = False) -> Examined:
    """Runs `deeplab doctor`, on Beam where `beam` is set."""
    with contextlib.ExitStack() as stack:
        if not beam:
            stack.enter_context(mock.patch.object(doctor_command, "run_job", _look_here))
        status = cli.run(["doctor", str(source), "--output", str(output), *flags])
    return Examined(status, json.loads((output / "doctor.json").read_text()), output)


def prepare_as_proposed(found: Examined, records: Path) -> Truth:
    """Runs the proposed `deeplab prepare`, which must accept all; its masks by the last two parts of their keys."""
    words = shlex.split(found.report["prepare"])
    assert words[0] == "deeplab"
    words[words.index("out/records")] = str(records)
    with mock.patch.object(prepare_command, "run_job", write_here):
        assert cli.run([*words[1:], "--max-reject-rate", "0"]) == 0
    assert load_dataset(str(records)).rejected == 0
    made = read_records(records)
    return {"/".join(one.key.split("/")[-2:]): label_images.decode_label(one.label) for one in made}
