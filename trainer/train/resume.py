"""What a training resumes from: weights, optimizer state and history after an epoch, or a step within one.

`checkpoints/state.json` names the file of arrays it belongs to and is written last, so that a kill at any moment
leaves either the previous checkpoint or this one, whole. Arrays are plain NumPy; no pickle is read.
"""

from __future__ import annotations

import dataclasses
import json
import re
import time
import zipfile
from typing import Any

import keras
import numpy as np

from trainer import storage
from trainer.network.backbones import PUBLISHED
from trainer.options import InputError
from trainer.train.options import Options

FOLDER = "checkpoints"
STATE_FILE = "state.json"
ARRAYS_FILE = re.compile(r"epoch-\d{4,}(-step-\d{6,})?\.npz")

HOSTS = ("hosts", "host_id", "coordinator")

NOT_COMPARED = ("records", "output", "resume", "overwrite", "recipe", "checkpoint_minutes", *HOSTS)
"""Options that say nothing of the training; records are compared by the fingerprint of their contents, recipes by what
they set."""

FREE_TO_CHANGE = ("epochs", "early_stopping", "plateau_patience")
"""Options that only decide how a training goes on, so that a resumed one may have others."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a training has come.

    Attributes:
      options: the options it was started with, as JSON.
      data_fingerprint: of the records.
      history: one row per finished epoch; "val_jaccard" is what decides which was best.
      step: how many steps of the epoch after these are done.
      learning_rate: at the beginning of that epoch; None where no step of it is done.
      older: those of the options that were defaults of the version that began it, which are others today.
    """

    options: dict[str, Any]
    data_fingerprint: str
    history: tuple[dict[str, Any], ...] = ()
    step: int = 0
    learning_rate: float | None = None
    older: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """Finished epochs."""
        return len(self.history)

    @property
    def best_epoch(self) -> int:
        """The first epoch, counted from 1, of the best validation Jaccard; 0 before the first."""
        if not self.history:
            return 0
        return 1 + int(np.argmax([row["val_jaccard"] for row in self.history]))

    @property
    def stale_epochs(self) -> int:
        """Epochs since the best one."""
        return self.epochs - self.best_epoch

    @property
    def is_new(self) -> bool:
        return not self.history and not self.step

    def after(self, row: dict[str, Any]) -> Progress:
        """With one more epoch finished."""
        return dataclasses.replace(self, history=(*self.history, row), step=0, learning_rate=None)

    def at(self, step: int, learning_rate: float) -> Progress:
        """With that many steps done of the epoch, which began at that rate."""
        return dataclasses.replace(self, step=step, learning_rate=learning_rate)


def _path(output: str, name: str) -> str:
    return storage.join(output, FOLDER, name)


def _arrays_name(progress: Progress) -> str:
    """After epoch 3 "epoch-0003.npz", after 20 steps of epoch 4 "epoch-0004-step-000020.npz"."""
    if progress.step:
        return f"epoch-{progress.epochs + 1:04d}-step-{progress.step:06d}.npz"
    return f"epoch-{progress.epochs:04d}.npz"


def _variables(model: keras.Model, progress: Progress) -> dict[str, Any]:
    """All that training changes: weights, batch statistics, states of random generators, the optimizer's variables.

    Within an epoch its running loss as well.
    """
    groups = {"model": model.variables, "optimizer": model.optimizer.variables}
    if progress.step:
        groups["metrics"] = model.metrics_variables
    return {f"{group}/{i:05d}": v for group, variables in groups.items() for i, v in enumerate(variables)}


def arrays(output: str) -> list[str]:
    """Names of the files below `output` that are arrays of checkpoints, or would be taken for them."""
    try:
        files = storage.files(storage.join(output, FOLDER))
    except FileNotFoundError:
        return []
    return [f"{FOLDER}/{file.relative}" for file in files if ARRAYS_FILE.fullmatch(file.relative)]


def copy(output: str, target: str) -> None:
    """Copies the checkpoint below `output`, if there is one, to below `target`."""
    if storage.exists(_path(output, STATE_FILE)):
        for name in (*arrays(output), f"{FOLDER}/{STATE_FILE}"):
            storage.write(storage.join(target, name), storage.read(storage.join(output, name)))


def _remove_arrays(output: str, but: str = "") -> None:
    for name in arrays(output):
        if name != f"{FOLDER}/{but}":
            storage.remove(storage.join(output, name))


def save(output: str, model: keras.Model, progress: Progress) -> None:
    """Write a checkpoint below `output` (local or gs://), then remove the one before."""
    name = _arrays_name(progress)
    arrays = {key: keras.ops.convert_to_numpy(v) for key, v in _variables(model, progress).items()}
    with storage.writer(_path(output, name)) as file:
        np.savez(file, **arrays)
    storage.write_json(_path(output, STATE_FILE), dataclasses.asdict(progress) | {"arrays": name})
    _remove_arrays(output, but=name)


class Checkpoints:
    """Writes the checkpoints of one training, the first of which replaces the training that was there.

    Attributes:
      last: what the training would resume from; a new one before the first is written.
    """

    def __init__(self, output: str, model: keras.Model, progress: Progress, minutes: float = 0) -> None:
        """
        Args:
          progress: where the training resumes, or a new one.
          minutes: from one checkpoint to the next within an epoch; 0: none is ever due.
        """
        self.output, self.model, self.minutes = output, model, minutes
        self.last = progress
        self._is_new = progress.is_new
        self._written = time.monotonic()

    def due(self) -> bool:
        return 0 < self.minutes * 60 <= time.monotonic() - self._written

    def begin(self, progress: Progress) -> None:
        """Called before the first of this training's files is written."""
        if self._is_new:
            begin(self.output, dataclasses.replace(progress, history=(), step=0, learning_rate=None))
            self._is_new = False

    def write(self, progress: Progress) -> None:
        self.begin(progress)
        save(self.output, self.model, progress)
        self.last = progress
        self._written = time.monotonic()


def sweep(output: str, progress: Progress, *files: str) -> None:
    """Removes what killed trainings left below `output`: arrays of epochs before, and what they were writing.

    Args:
      files: that a training writes besides those of this module.
    """
    _remove_arrays(output, but=_arrays_name(progress))
    for file in storage.files(output, within=(FOLDER,)):
        whole = storage.unfinished(file.relative)
        folder, _, name = whole.rpartition("/")
        if whole in files or (folder == FOLDER and (name == STATE_FILE or ARRAYS_FILE.fullmatch(name))):
            storage.remove(file.path)


def restore(output: str, model: keras.Model, progress: Progress) -> None:
    """Put the checkpoint's values into a built model and its built optimizer."""
    path = _path(output, _arrays_name(progress))
    cure = "train from scratch with --no-resume"
    try:
        with np.load(storage.localize(path), allow_pickle=False) as arrays:
            variables = _variables(model, progress)
            if set(arrays.files) != set(variables):
                raise InputError(
                    f"{path} holds {len(arrays.files)} variables, this model has {len(variables)}; {cure}"
                )
            for key, variable in variables.items():
                variable.assign(arrays[key])
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read ({error}); {cure}") from None


def _said_today(options: dict[str, Any]) -> dict[str, Any]:
    """The options of a training as this version says them.

    Up to version 0.3 the subpixel head had one start, and there was a decoder where it was published, unless said
    otherwise; up to version 0.4 the backbone learnt at the rate of the rest, from the cross-entropy alone; up to
    version 0.6 there was no dense prediction cell, and up to version 0.7 no subpixel head of kernels.
    """
    if options.get("head") == "subpixel":
        options = {"subpixel": "logits", "subpixel_start": "nearest"} | options
    options = {"backbone_rate": 1.0, "lovasz": 0.0, "dense_prediction_cell": False} | options
    if "decoder" in options and options["decoder"] is None:
        options = options | {"decoder": PUBLISHED[options["backbone"]].has_decoder}
    return options


def _older_defaults(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a training as an older version said them -> those of `_said_today` that nobody need have given."""
    today, names = _said_today(options), []
    if "recipe" not in options and options.get("epochs") == 30:
        names.append("epochs")
    names += [name for name in ("subpixel", "subpixel_start") if name not in options and name in today]
    if "decoder" in options and options["decoder"] is None:
        names.append("decoder")
    if "checkpoint_minutes" not in options:  # up to version 0.5 no recipe set these
        names += [name for name, value in (("max_ratio", 10.0), ("lovasz", 0.0)) if today.get(name) == value]
    return {name: today[name] for name in names}


def as_begun(options: Options, progress: Progress) -> Options:
    """`options`, with the defaults of the version that began the training in place of today's."""
    today = {field.name: field.default for field in dataclasses.fields(options)}
    today |= options.preset(dataclasses.asdict(options))
    older = {name: value for name, value in progress.older.items() if getattr(options, name) == today[name]}
    return dataclasses.replace(options, **older)


def load(output: str) -> Progress | None:
    """The progress of the training in `output`; None without one. Raises InputError for what is no such state."""
    path = _path(output, STATE_FILE)
    if not storage.exists(path):
        return None
    value = storage.read_json(path)
    try:
        options, history = dict(value["options"]), tuple(value["history"])
        # Up to version 0.5 there were no checkpoints within an epoch.
        step, rate = int(value.get("step", 0)), value.get("learning_rate")
        older = value.get("older") or _older_defaults(options)
        return Progress(_said_today(options), value["data_fingerprint"], history, step, rate, older)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is damaged, or `deeplab train` did not write it ({error!r}); choose another --output, or "
            "--no-resume with --overwrite to train there from scratch"
        ) from None


def begin(output: str, progress: Progress) -> None:
    """Makes `output` the folder of a training without finished epochs; one that was there is forgotten."""
    storage.write_json(_path(output, STATE_FILE), dataclasses.asdict(progress))
    _remove_arrays(output)


def changes(output: str, stored: Progress, fresh: Progress) -> list[str]:
    """How `fresh` goes on otherwise than `stored` was started: "--early-stopping was 0, is 5".

    Raises:
      InputError: `fresh` is another training than `stored`.
    """
    # What was stored went through JSON, so tuples became lists.
    options = json.loads(json.dumps(fresh.options))
    # An option that one of the two does not know is of another version of this program.
    names = [name for name in sorted(options.keys() & stored.options.keys()) if name not in NOT_COMPARED]
    different = {
        name: f"--{name.replace('_', '-')} was {stored.options[name]}, is {options[name]}"
        for name in names
        if stored.options[name] != options[name]
    }
    forbidden = [line for name, line in different.items() if name not in FREE_TO_CHANGE]
    if stored.data_fingerprint != fresh.data_fingerprint:
        forbidden.append("the records differ")
    if forbidden:
        raise InputError(
            f"{output} holds a training with other options: {'; '.join(forbidden)}. They determine the course of "
            f"a training, of which {stored.epochs} epochs are done. Give the former options to resume it; or choose "
            f"another --output (--init-from {output} starts from the weights found so far), or --no-resume to train "
            "there from scratch"
        )
    if "epochs" in different and options.get("schedule") == "poly":
        raise InputError(
            f"{output} holds a training in which {different['epochs']}; under --schedule poly the learning rate falls "
            f"to 0 over all epochs, so it would jump after epoch {stored.epochs}. Give --epochs "
            f"{stored.options['epochs']} to finish or to see that training, or start another from its weights: "
            f"--init-from {output} and another --output. With --schedule constant or plateau epochs can be added"
        )
    return list(different.values())
