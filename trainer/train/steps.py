"""The work between the steps of an epoch: the progress bar, reading the loss, checkpoints, and signals.

Reading the loss of a step blocks until the step is over, and leaves the GPU idle until the next step starts. Losses
are therefore read once per second, together with those of the steps since the last time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from tqdm import tqdm

from trainer.train.diagnosis import is_finite
from trainer.train.interrupts import Interrupts
from trainer.train.resume import Checkpoints, Progress

READ_EVERY = 1.0
"""Seconds between two reads of the loss."""

LIMIT = 0.05
"""Share of the time from which waiting for batches counts as the bottleneck."""


class LossError(ArithmeticError):
    """The loss is NaN or infinite.

    Attributes:
      step: the first step of the epoch, counted from 1, with such a loss.
      loss: the value of that loss.
    """

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"the loss became {loss} in step {step}")
        self.step, self.loss = step, loss


@dataclass(frozen=True)
class Pace:
    """The time that steps took, in seconds, and the part of it spent waiting for their batches."""

    steps: int = 0
    seconds: float = 0.0
    waited: float = 0.0

    def __add__(self, other: Pace) -> Pace:
        return Pace(self.steps + other.steps, self.seconds + other.seconds, self.waited + other.waited)

    @property
    def seconds_per_step(self) -> float | None:
        """The mean time of a step; None without steps."""
        return self.seconds / self.steps if self.steps else None

    def __str__(self) -> str:
        """A sentence on whether the input or the device was the bottleneck, and by how much."""
        share = self.waited / self.seconds if self.seconds else 0.0
        if share < LIMIT:
            return f"the device was the limit: {share:.1%} of a step's time was spent waiting for its batch"
        return (
            f"the input was the limit: {share:.0%} of a step's time was spent waiting for its batch; more CPU cores, "
            "or smaller images (`deeplab prepare --max-side`), would shorten it"
        )


class Steps(keras.callbacks.CallbackList):
    """All callbacks of one epoch, in place of Keras's list, which would read the loss after every step.

    The first step is not timed: it includes tracing the graph and starting the stream.

    Attributes:
      total: the number of steps of the epoch.
      done: the number of steps done.
      rate: the learning rate at the beginning of the epoch.
      pace: the speed, without the first step and the time for checkpoints; known at the end.
    """

    def __init__(
        self,
        progress: Progress,
        title: str,
        total: int,
        checkpoints: Checkpoints,
        interrupts: Interrupts,
        waited: Callable[[], float],
    ) -> None:
        """
        Args:
          progress: the state of the checkpoints' model, including the running values of its metrics.
          title: the title of the progress bar.
          waited: returns the seconds spent waiting for batches so far.
        """
        model = checkpoints.model
        super().__init__(add_history=True, model=model)
        self.progress, self.checkpoints, self.interrupts = progress, checkpoints, interrupts
        self.total, self.done = total, progress.step
        rate = model.optimizer.learning_rate if progress.learning_rate is None else progress.learning_rate
        self.rate = float(keras.ops.convert_to_numpy(rate))
        self._running = [keras.ops.convert_to_numpy(v) for v in model.metrics_variables] if progress.step else None
        self._unread: list[Any] = []
        self._waited, self._looked = waited, 0.0
        self._begun: tuple[float, float] | None = None
        self.pace = Pace()
        # `disable=None`: no bar if standard error is not a terminal.
        self.bar = tqdm(total=total, initial=self.done, desc=title, unit="step", leave=False, disable=None)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._running:  # Keras has just reset them
            for variable, value in zip(self.model.metrics_variables, self._running, strict=True):
                variable.assign(value)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        pass

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.interrupts.wait = True  # from now on, interrupting would lose steps
        self.done += 1
        self._unread.append(logs["loss"])
        self.bar.update()
        is_kept = self.checkpoints.due() or self.interrupts.waiting
        if is_kept or batch == 0 or time.perf_counter() - self._looked >= READ_EVERY:
            self._look()
        if is_kept:
            self.keep()
            self.interrupts.check(self.kept)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self._look()

    def _look(self) -> None:
        """Reads the losses since the last time. Raises LossError if one is NaN or infinite."""
        first = self.done - len(self._unread) + 1
        losses = [float(keras.ops.convert_to_numpy(loss)) for loss in self._unread]
        for step, loss in enumerate(losses, first):
            if not math.isfinite(loss):
                raise LossError(step, loss)
        self._looked, waited = time.perf_counter(), self._waited()
        if self._begun is None:
            self._begun = self._looked, waited
        else:
            steps = self.pace.steps + len(losses)
            self.pace = Pace(steps, self._looked - self._begun[0], waited - self._begun[1])
        self._unread.clear()
        if losses:
            self.bar.set_postfix_str(f"loss {losses[-1]:.4f}", refresh=False)

    def check(self) -> None:
        """Raises LossError if weights are NaN or infinite, in which case the next loss would be, too."""
        if hasattr(self.model, "jax_state_sync"):  # under JAX, the variables lag behind the steps
            self.model.jax_state_sync()
        if not is_finite(self.model.variables):
            raise LossError(self.done + 1, math.nan)

    def keep(self) -> None:
        """Writes a checkpoint, unless `check` raises LossError: then the last good one is kept."""
        begin = time.perf_counter()
        self.check()
        self.checkpoints.write(self.progress.at(self.done, self.rate))
        if self._begun:
            self._begun = self._begun[0] + time.perf_counter() - begin, self._begun[1]

    @property
    def kept(self) -> str:
        return f"step {self.done} of epoch {self.progress.epochs + 1} is kept"
