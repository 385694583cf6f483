"""The reports of a training: history.csv, TensorBoard logs, and a summary in words."""

from __future__ import annotations

import csv
import functools
import io
import re
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer import processes, storage
from trainer.train.resume import Progress

COLUMNS = ("epoch", "loss", "learning_rate", "seconds_per_step", "val_jaccard", "val_pixel_accuracy")
HISTORY = "history.csv"
LOGS = "logs"
EVENTS = re.compile(r"events\.out\.tfevents\..+")
"""Names of TensorBoard's event files."""
CLASS = "iou/"
"""Prefix of the columns of the classes, which follow COLUMNS."""


def history_row(fitted: dict[str, Any], scores: dict[str, Any]) -> dict[str, Any]:
    """An epoch's row of the history: the values of `fitted` and the scores, one column per class.

    Args:
      fitted: "epoch", "loss", "learning_rate" and "seconds_per_step".
      scores: the scores of the validation, from `trainer.metrics.scores`.
    """
    classes = {f"{CLASS}{name}": iou for name, iou in scores["per_class"].items()}
    return {**fitted, "val_jaccard": scores["miou"], "val_pixel_accuracy": scores["pixel_accuracy"], **classes}


def in_order(row: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A stored row, whose columns are sorted by name, in the order of `history_row`; `names` are the classes."""
    order = [*COLUMNS, *(f"{CLASS}{name}" for name in names)]
    return {**{name: row[name] for name in order if name in row}, **row}


def history_csv(history: tuple[dict[str, Any], ...]) -> bytes:
    """The history as CSV, one row per epoch; fields of classes absent from truth and prediction are empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(history[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(history)
    return text.getvalue().encode()


class Logs:
    """TensorBoard's event files below `output`/logs; for gs:// they are written locally and uploaded.

    Those of an earlier training, whose curves TensorBoard would mix with the new ones, are removed by `begin`, when
    the state of a new training has replaced that of the earlier one. No file is written before that: without the state
    of a training, they would be those of another program.
    """

    def __init__(self, output: str, replaces: bool) -> None:
        """
        Args:
          output: the model folder.
          replaces: whether this is a new training in the place of another.
        """
        self.output = self.folder = storage.join(output, LOGS)
        self._earlier = _events(self.output) if replaces else []
        if storage.is_remote(output):
            # Removed together with this object.
            self._temporary = tempfile.TemporaryDirectory()
            self.folder = self._temporary.name

    @functools.cached_property
    def _writer(self) -> tf.summary.SummaryWriter:
        return tf.summary.create_file_writer(self.folder)

    def begin(self) -> None:
        """Removes the event files of an earlier training."""
        while self._earlier:
            storage.remove(self._earlier.pop())

    def add(self, row: dict[str, Any], overlays: np.ndarray) -> None:
        with self._writer.as_default(step=row["epoch"]):
            for name, value in row.items():
                if name != "epoch" and value is not None:
                    tf.summary.scalar(name, value)
            tf.summary.image("validation", overlays, max_outputs=len(overlays))
        self._writer.flush()
        if storage.is_remote(self.output):
            for file in storage.files(self.folder):
                storage.write(storage.join(self.output, file.relative), storage.read(file.path))


def _events(folder: str) -> list[str]:
    """The paths of the event files in a folder, which need not exist."""
    try:
        return [file.path for file in storage.files(folder, within=()) if EVENTS.fullmatch(file.relative)]
    except FileNotFoundError:
        return []


def _seconds(rows: Sequence[dict[str, Any]]) -> str:
    seconds = [row["seconds_per_step"] for row in rows if row["seconds_per_step"] is not None]
    return f"{np.median(seconds):.3f} s per step" if seconds else "too few steps to time one"


def epoch_line(progress: Progress, epochs: int) -> str:
    """The last epoch in one line."""
    row = progress.history[-1]
    return (
        f"epoch {row['epoch']}/{epochs}: loss {row['loss']:.4f}, validation Jaccard {row['val_jaccard']:.4f}"
        f"{' (best)' if progress.stale_epochs == 0 else ''}, pixel accuracy {row['val_pixel_accuracy']:.4f}, "
        f"{_seconds([row])}"
    )


def summary(progress: Progress) -> str:
    """The best epoch with its score of every class, the time per step and the memory, in a few lines."""
    best = progress.history[progress.best_epoch - 1]
    rows = [(name.removeprefix(CLASS), value) for name, value in best.items() if name.startswith(CLASS)]
    width = max(len(name) for name, _ in rows)
    return "\n".join(
        [
            f"best epoch {progress.best_epoch} of {progress.epochs}: validation Jaccard {best['val_jaccard']:.4f}, "
            f"pixel accuracy {best['val_pixel_accuracy']:.4f}",
            *(f"  {name:<{width}}  {'absent' if value is None else f'{value:.4f}'}" for name, value in rows),
            f"{_seconds(progress.history)}, peak memory {processes.peak_memory() / 2**30:.2f} GiB",
        ]
    )
