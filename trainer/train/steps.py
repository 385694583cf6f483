"""What happens between the steps of an epoch: a progress bar, a look at the loss, checkpoints, and the end by SIGTERM.

Whoever reads the loss of a step waits until it is over, and a GPU that has nothing to do next waits with him. So it is
read now and then, and with it those of the steps since the last time, which are there by then.
"""

from __future__ import annotations

import math
import time
from typing import Any

import keras
from tqdm import tqdm

from trainer.train.diagnosis import is_finite
from trainer.train.interrupts import Interrupts
from trainer.train.resume import Checkpoints, Progress

READ_EVERY = 1.0
"""Seconds from one look at the loss to the next."""


class LossError(ArithmeticError):
    """The loss is no finite number.

    Attributes:
      step: of the epoch, counted from 1, the first with such a loss.
      loss: what it is.
    """

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"the loss became {loss} with step {step}")
        self.step, self.loss = step, loss


class Steps(keras.callbacks.CallbackList):
    """The callbacks of one epoch, all in one: Keras' list of them reads the loss of every step.

    The first step is not timed: in it the graph is traced and the stream starts.

    Attributes:
      total: steps of the epoch.
      done: those of them that are over.
      rate: the learning rate at the beginning of the epoch.
    """

    def __init__(
        self,
        model: keras.Model,
        progress: Progress,
        title: str,
        total: int,
        checkpoints: Checkpoints,
        interrupts: Interrupts,
    ) -> None:
        """`model` is as `progress` left it, the running values of its metrics included."""
        super().__init__(add_history=True, model=model)
        self.progress, self.checkpoints, self.interrupts = progress, checkpoints, interrupts
        self.total, self.done = total, progress.step
        self.rate = progress.learning_rate or float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
        self._running = [keras.ops.convert_to_numpy(v) for v in model.metrics_variables] if progress.step else None
        self._unread: list[Any] = []
        self._timed, self._begun, self._looked = 0, 0.0, 0.0
        # `disable=None`: no bar where standard error is no terminal.
        self.bar = tqdm(total=total, initial=self.done, desc=title, unit="step", leave=False, disable=None)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._running:  # Keras has reset them
            for variable, value in zip(self.model.metrics_variables, self._running, strict=True):
                variable.assign(value)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        pass

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.interrupts.wait = True  # from now on there is something to lose
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
        """Reads the losses since the last time. Raises LossError."""
        first = self.done - len(self._unread) + 1
        losses = [float(keras.ops.convert_to_numpy(loss)) for loss in self._unread]
        for step, loss in enumerate(losses, first):
            if not math.isfinite(loss):
                raise LossError(step, loss)
        now = time.perf_counter()
        if self._begun:
            self._timed += len(losses)
        else:
            self._begun = now
        self._looked = now
        self._unread.clear()
        if losses:
            self.bar.set_postfix_str(f"loss {losses[-1]:.4f}", refresh=False)

    def check(self) -> None:
        """Raises LossError where the next loss would be no number, because weights no longer are."""
        if hasattr(self.model, "jax_state_sync"):  # the variables lag behind the steps
            self.model.jax_state_sync()
        if not is_finite(self.model.variables):
            raise LossError(self.done + 1, math.nan)

    def keep(self) -> None:
        """Writes a checkpoint of what is done. Raises LossError, see `check`, so that the last good one stays."""
        begin = time.perf_counter()
        self.check()
        self.checkpoints.write(self.progress.at(self.done, self.rate))
        self._begun += time.perf_counter() - begin

    @property
    def kept(self) -> str:
        return f"step {self.done} of epoch {self.progress.epochs + 1} is kept"

    @property
    def seconds_per_step(self) -> float | None:
        """Without the time for checkpoints; None with a single step."""
        return (self._looked - self._begun) / self._timed if self._timed else None
