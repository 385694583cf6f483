"""Checkpoints, from which a training resumes: weights, optimizer state and history, after an epoch or within one.

`checkpoints/state.json` names the file of arrays it belongs to and is written last, so a kill at any moment leaves
either the previous checkpoint or this one, complete. Arrays are plain NumPy; no pickle is read.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from trainer import storage
from trainer.formats.cards import TRAINING
from trainer.network.backbones import PUBLISHED
from trainer.options import InputError, public, shown
from trainer.train.options import Options

FOLDER, STATE_FILE = TRAINING.split("/")
ARRAYS_FILE = re.compile(r"epoch-\d{4,}(-step-\d{6,})?\.npz")

HOSTS = ("hosts", "host_id", "coordinator")

NOT_COMPARED = ("records", "output", "resume", "overwrite", "recipe", "checkpoint_minutes", *HOSTS)
"""Options that are not compared. They do not affect the result, except the records, which are compared by the
fingerprint of their contents, and the recipe, by the options it sets."""

FREE_TO_CHANGE = ("epochs", "early_stopping", "plateau_patience")
"""Options that affect only the rest of a training, so they may change when it resumes."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a training.

    Attributes:
      options: the options it was started with, as JSON.
      data_fingerprint: the fingerprint of the records.
      history: one row per finished epoch; the best has the highest "val_jaccard".
      step: the number of steps of the next epoch that are done.
      learning_rate: the learning rate at the beginning of that epoch; None if no step of it is done.
      older: the options that had other defaults in the version that began the training.
      classes: the names of the classes, by id; () in trainings of versions up to 0.28.
    """

    options: dict[str, Any]
    data_fingerprint: str
    history: tuple[dict[str, Any], ...] = ()
    step: int = 0
    learning_rate: float | None = None
    older: dict[str, Any] = dataclasses.field(default_factory=dict)
    classes: tuple[str, ...] = ()

    @property
    def epochs(self) -> int:
        """The number of finished epochs."""
        return len(self.history)

    @property
    def best_epoch(self) -> int:
        """The first epoch, counted from 1, with the best validation Jaccard; 0 before the first."""
        if not self.history:
            return 0
        return 1 + int(np.argmax([row["val_jaccard"] for row in self.history]))

    @property
    def stale_epochs(self) -> int:
        """The number of epochs that have finished since the best one."""
        return self.epochs - self.best_epoch

    @property
    def is_new(self) -> bool:
        return not self.history and not self.step

    def after(self, row: dict[str, Any]) -> Progress:
        """The progress with one more epoch finished."""
        return dataclasses.replace(self, history=(*self.history, row), step=0, learning_rate=None)

    def at(self, step: int, learning_rate: float) -> Progress:
        """The progress with `step` steps of the epoch done, which began at `learning_rate`."""
        return dataclasses.replace(self, step=step, learning_rate=learning_rate)


def _path(output: str, name: str) -> str:
    return storage.join(output, FOLDER, name)


def _arrays_name(progress: Progress) -> str:
    """The name of a checkpoint's file of arrays.

    After epoch 3: "epoch-0003.npz"; after 20 steps of epoch 4: "epoch-0004-step-000020.npz".
    """
    if progress.step:
        return f"epoch-{progress.epochs + 1:04d}-step-{progress.step:06d}.npz"
    return f"epoch-{progress.epochs:04d}.npz"


def _variables(model: keras.Model, progress: Progress) -> dict[str, Any]:
    """Everything that training changes: weights, batch statistics, states of random generators, optimizer variables.

    Within an epoch, this includes the running loss.
    """
    groups = {"model": model.variables, "optimizer": model.optimizer.variables}
    if progress.step:
        groups["metrics"] = model.metrics_variables
    return {f"{group}/{i:05d}": v for group, variables in groups.items() for i, v in enumerate(variables)}


def arrays(output: str) -> list[str]:
    """The names of the files below `output` that are arrays of checkpoints, or are named like them."""
    try:
        files = storage.files(storage.join(output, FOLDER))
    except FileNotFoundError:
        return []
    return [f"{FOLDER}/{file.relative}" for file in files if ARRAYS_FILE.fullmatch(file.relative)]


def check_places(output: str) -> None:
    """Raises InputError if a folder, or something else that is no file, has the name of a checkpoint's files."""
    folder = storage.join(output, FOLDER)
    storage.check_folder(folder)
    if not storage.is_remote(folder) and os.path.isdir(folder):
        for name in filter(ARRAYS_FILE.fullmatch, os.listdir(folder)):
            storage.check_file(storage.join(folder, name))
    storage.check_file(storage.join(folder, STATE_FILE))


def copy(output: str, target: str) -> None:
    """Copies the checkpoint of `output`, if there is one, to `target`."""
    if is_there(output):
        for name in (*arrays(output), f"{FOLDER}/{STATE_FILE}"):
            storage.write(storage.join(target, name), storage.read(storage.join(output, name)))


def _remove_arrays(output: str, but: str = "") -> None:
    for name in arrays(output):
        if name != f"{FOLDER}/{but}":
            storage.remove(storage.join(output, name))


def save(output: str, model: keras.Model, progress: Progress) -> None:
    """Writes a checkpoint below `output` (local or gs://), then removes the previous one."""
    name = _arrays_name(progress)
    arrays = {key: keras.ops.convert_to_numpy(v) for key, v in _variables(model, progress).items()}
    with storage.writer(_path(output, name)) as file:
        np.savez(file, **arrays)
    storage.write_json(_path(output, STATE_FILE), dataclasses.asdict(progress) | {"arrays": name})
    _remove_arrays(output, but=name)


class Checkpoints:
    """Writes the checkpoints of one training; the first replaces the previous training in the folder.

    Attributes:
      last: the progress from which the training would resume; before the first checkpoint, that of a new training.
    """

    def __init__(
        self,
        output: str,
        model: keras.Model,
        progress: Progress,
        minutes: float = 0,
        check: Callable[[], object] = lambda: None,
        begun: Callable[[], object] = lambda: None,
    ) -> None:
        """
        Args:
          progress: the progress from which the training resumes, or that of a new training.
          minutes: the time between two checkpoints within an epoch; 0 for no such checkpoints.
          check: called before anything of a step is kept; raises if that would be wrong.
          begun: called when the folder has become that of a new training.
        """
        self.output, self.model, self.minutes, self.check, self.begun = output, model, minutes, check, begun
        self.last = progress
        self._is_new = progress.is_new
        self._written = time.monotonic()

    def due(self) -> bool:
        return 0 < self.minutes * 60 <= time.monotonic() - self._written

    def begin(self, progress: Progress) -> None:
        """Must be called before the first file of this training is written."""
        if self._is_new:
            begin(self.output, dataclasses.replace(progress, history=(), step=0, learning_rate=None))
            self.begun()
            self._is_new = False

    def write(self, progress: Progress) -> None:
        self.check()
        self.begin(progress)
        save(self.output, self.model, progress)
        self.last = progress
        self._written = time.monotonic()


def sweep(output: str, progress: Progress, *files: str) -> None:
    """Removes leftovers of killed trainings below `output`: arrays of earlier epochs, and temporary files.

    Args:
      files: the files that a training writes in addition to those of this module.
    """
    _remove_arrays(output, but=_arrays_name(progress))
    for file in storage.files(output, within=(FOLDER,)):
        whole = storage.unfinished(file.relative)
        folder, _, name = whole.rpartition("/")
        if whole in files or (folder == FOLDER and (name == STATE_FILE or ARRAYS_FILE.fullmatch(name))):
            storage.remove(file.path)


def restore(output: str, model: keras.Model, progress: Progress) -> None:
    """Loads the checkpoint's values into a built model and its built optimizer."""
    path = _path(output, _arrays_name(progress))
    cure = "train from scratch with --no-resume"
    try:
        with np.load(storage.localize(path), allow_pickle=False) as arrays:
            variables = _variables(model, progress)
            if set(arrays.files) != set(variables):
                raise InputError(
                    f"{path} holds {len(arrays.files)} variables, this model has {len(variables)}; {cure}"
                )
            values = {key: arrays[key] for key in variables}
            if odd := [key for key, variable in variables.items() if values[key].shape != tuple(variable.shape)]:
                raise InputError(f"{path} holds {odd[0]} in another shape than this model has; {cure}")
    except (InputError, storage.Unavailable):  # the latter, a RuntimeError too, may pass
        raise
    # The last three: an empty or cut off file, and one that claims a compression or a password.
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:
        raise InputError(f"{path} cannot be read ({error or 'it ends too early'}); {cure}") from None
    for key, variable in variables.items():
        variable.assign(values[key])


def _current_form(options: dict[str, Any]) -> dict[str, Any]:
    """The stored options of a training, in the form of this version.

    Up to version 0.3, the subpixel head had one initialisation, and a decoder was the default for backbones whose
    published network has one; up to version 0.4, the backbone had the learning rate of the rest, and the loss was
    cross-entropy alone; up to version 0.6, there was no dense prediction cell, and up to version 0.7 no subpixel head
    of kernels; up to version 0.29, the whole address of the initial weights was stored.
    """
    if isinstance(options.get("init_from"), str):
        options = options | {"init_from": public(options["init_from"])}
    if options.get("head") == "subpixel":
        options = {"subpixel": "logits", "subpixel_start": "nearest"} | options
    options = {"backbone_rate": 1.0, "lovasz": 0.0, "dense_prediction_cell": False} | options
    if "decoder" in options and options["decoder"] is None:
        options = options | {"decoder": PUBLISHED[options["backbone"]].has_decoder}
    return options


def _older_defaults(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `_current_form` that were defaults of the version which stored `options`."""
    today, names = _current_form(options), []
    if "recipe" not in options and options.get("epochs") == 30:
        names.append("epochs")
    names += [name for name in ("subpixel", "subpixel_start") if name not in options and name in today]
    if "decoder" in options and options["decoder"] is None:
        names.append("decoder")
    if "checkpoint_minutes" not in options:  # up to version 0.5 no recipe set these
        names += [name for name, value in (("max_ratio", 10.0), ("lovasz", 0.0)) if today.get(name) == value]
    return {name: today[name] for name in names}


def with_original_defaults(options: Options, progress: Progress) -> Options:
    """`options`, with the defaults of the version that began the training in place of today's."""
    today = {field.name: field.default for field in dataclasses.fields(options)}
    today |= options.preset(dataclasses.asdict(options))
    # One that this version does not know is from a later version, which `changes` refuses.
    known = progress.older.keys() & today.keys()
    older = {name: progress.older[name] for name in known if getattr(options, name) == today[name]}
    return dataclasses.replace(options, **older)


def is_there(output: str) -> bool:
    """Whether there is a training in `output`, whatever its state."""
    return storage.exists(_path(output, STATE_FILE))


def load(output: str) -> Progress | None:
    """The progress of the training in `output`; None without one. Raises InputError if its state cannot be used."""
    path = _path(output, STATE_FILE)
    if not is_there(output):
        return None
    data = storage.read(path)
    try:
        value = json.loads(data)
        options, history = dict(value["options"]), tuple(value["history"])
        # Up to version 0.5 there were no checkpoints within an epoch.
        step, rate = int(value.get("step", 0)), value.get("learning_rate")
        older, classes = dict(value.get("older") or _older_defaults(options)), tuple(value.get("classes", ()))
        if not all(isinstance(row, dict) and isinstance(row.get("val_jaccard"), int | float) for row in history):
            raise TypeError("its history")
        if not all(isinstance(text, str) for text in (value["data_fingerprint"], *classes)):
            raise TypeError("its data_fingerprint or its classes")
        return Progress(_current_form(options), value["data_fingerprint"], history, step, rate, older, classes)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{path} is damaged, or `deeplab train` did not write it ({error!r}); choose another --output, or "
            "--no-resume with --overwrite to train there from scratch"
        ) from None


def begin(output: str, progress: Progress) -> None:
    """Makes `output` the folder of a training without finished epochs, in place of a previous one."""
    storage.write_json(_path(output, STATE_FILE), dataclasses.asdict(progress))
    _remove_arrays(output)


def _changed(before: Sequence[str], now: Sequence[str]) -> str:
    """The classes that differ, by their ids."""
    pairs = enumerate(itertools.zip_longest(before, now, fillvalue="none"))
    return "; ".join(f"class {number} was {was}, is {name}" for number, (was, name) in pairs if was != name)


def changes(output: str, stored: Progress, fresh: Progress) -> list[str]:
    """The options in which `fresh` differs from `stored`: "--early-stopping was 0, is 5".

    Raises:
      InputError: they differ in records, classes or options that are not FREE_TO_CHANGE, so `fresh` is another
        training.
    """
    # The stored options went through JSON, so tuples became lists.
    options = json.loads(json.dumps(fresh.options))
    unknown = sorted(stored.options.keys() - options.keys())
    # No version that stores classes has had an option which this one lacks.
    if unknown and stored.classes:
        raise InputError(_unknown(output, stored, unknown[0]))
    # An option that only one of the two has is from another version of this program.
    different = Options.changes(stored.options, options)
    different = {name: line for name, line in different.items() if name not in NOT_COMPARED}
    forbidden = [line for name, line in different.items() if name not in FREE_TO_CHANGE]
    if stored.data_fingerprint != fresh.data_fingerprint:
        forbidden.append("the records differ")
    if stored.classes and stored.classes != fresh.classes:
        forbidden.append(f"of the records, {_changed(stored.classes, fresh.classes)}")
    if forbidden:
        raise InputError(_other(output, stored, forbidden))
    if "epochs" in different and options.get("schedule") == "poly":
        raise InputError(_jump(output, stored, different["epochs"]))
    return list(different.values())


def _weights(output: str, stored: Progress) -> str:
    """The flag that starts from the weights of a training; "" before its first epoch, when there is no model."""
    return f"--init-from {output}" if stored.epochs else ""


def _unknown(output: str, stored: Progress, name: str) -> str:
    return (
        f"{output} holds a training that a later version of this program began, with {Options.flag(name)} "
        f"{shown(stored.options[name])}, which this version does not know; update this program, choose another "
        "--output, or give --no-resume to train there from scratch"
    )


def _other(output: str, stored: Progress, differences: Sequence[str]) -> str:
    weights = _weights(output, stored)
    start = f" ({weights} starts from the weights found so far)" if weights else ""
    return (
        f"{output} holds a training with other options: {'; '.join(differences)}. They determine the course of a "
        f"training that has finished {stored.epochs} of its epochs. Give the former options to resume it; or choose "
        f"another --output{start}, or --no-resume to train there from scratch"
    )


def _jump(output: str, stored: Progress, difference: str) -> str:
    weights = _weights(output, stored)
    start = f"start another from its weights: {weights} and another --output" if weights else "choose another --output"
    return (
        f"{output} holds a training in which {difference}; under --schedule poly the learning rate falls to 0 over "
        f"all epochs, so it would jump after epoch {stored.epochs}. Give --epochs {stored.options['epochs']} to "
        f"finish or to see that training, or {start}. With --schedule constant or plateau epochs can be added"
    )
