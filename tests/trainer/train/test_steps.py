"""What happens between steps: when the loss is read, and what is measured."""

from __future__ import annotations

import types

import numpy as np
import pytest

from trainer.train import steps
from trainer.train.interrupts import Interrupts, Terminated
from trainer.train.resume import Checkpoints, Progress
from trainer.train.steps import LossError, Pace, Steps


class Loss:
    """A number on a device, which notes that it has been read."""

    def __init__(self, value: float, read: list[float]) -> None:
        self.value, self.read = value, read

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        self.read.append(self.value)
        return np.asarray(self.value, np.float32)


@pytest.fixture
def clock(monkeypatch):
    """Seconds, in a list of one."""
    clock = [100.0]
    monkeypatch.setattr(steps.time, "perf_counter", lambda: clock[0])
    return clock


@pytest.fixture
def epoch():
    """The events of an epoch of nine steps, whose batches are waited for half of the time; reads `waited`."""
    optimizer = types.SimpleNamespace(learning_rate=np.float32(0.5))
    model = types.SimpleNamespace(optimizer=optimizer, metrics_variables=[], variables=[np.float32([1])])
    progress, waited = Progress({}, ""), [7.0]
    events = Steps(progress, "", 9, Checkpoints("", model, progress), Interrupts(), lambda: waited[0])
    events.waited = waited
    return events


def test_the_loss_is_read_after_the_first_step_and_then_once_a_second(epoch, clock):
    read = []
    for step in range(9):
        epoch.on_train_batch_end(step, {"loss": Loss(step, read)})
        assert read == ([0] if step < 5 else [0, 1, 2, 3, 4, 5])
        clock[0] += 0.21
    epoch.on_epoch_end(0)
    assert read == list(range(9))


def test_the_first_step_with_a_non_finite_loss_is_named_although_losses_are_read_later(epoch, clock):
    losses = [1.0, 1.0, 1.0, float("inf"), float("nan")]
    for step, loss in enumerate(losses):
        epoch.on_train_batch_end(step, {"loss": Loss(loss, [])})
    with pytest.raises(LossError, match="the loss became inf in step 4") as error:
        epoch.on_epoch_end(0)
    assert error.value.step == 4


def test_a_signal_between_checkpoints_waits_for_the_end_of_the_next_step(epoch, clock):
    class Signalled(Loss):
        def __array__(self, *args, **more) -> np.ndarray:
            epoch.interrupts.waiting = Terminated
            return super().__array__(*args, **more)

    kept = []
    epoch.keep = lambda: kept.append(epoch.done)
    epoch.on_train_batch_end(0, {"loss": Signalled(1, [])})
    with pytest.raises(Terminated, match="step 2 of epoch 1 is kept"):
        epoch.on_train_batch_end(1, {"loss": Loss(1, [])})
    assert kept == [2]


def test_non_finite_weights_are_an_error_before_the_loss_is_affected(epoch):
    epoch.check()
    epoch.model.variables.append(np.float32([0, np.nan]))
    epoch.done = 4
    with pytest.raises(LossError, match="step 5"):
        epoch.check()


def test_the_pace_leaves_out_the_first_step(epoch, clock):
    for step in range(9):
        clock[0] += 100 if step == 0 else 0.5
        epoch.waited[0] += 50 if step == 0 else 0.125
        epoch.on_train_batch_end(step, {"loss": Loss(1, [])})
    epoch.on_epoch_end(0)
    assert epoch.pace == Pace(8, 4.0, 1.0) and epoch.pace.seconds_per_step == 0.5


def test_the_bottleneck_is_named_with_its_share_of_the_time():
    assert str(Pace(10, 10.0, 0.1) + Pace(10, 10.0, 0.1)).startswith("the device was the limit: 1.0% of a step's time")
    assert str(Pace(10, 10.0, 3.0)).startswith("the input was the limit: 30% of a step's time")
    assert Pace().seconds_per_step is None and str(Pace()).startswith("the device was the limit: 0.0%")
