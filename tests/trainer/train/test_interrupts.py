"""When Ctrl-C, SIGTERM and SIGHUP end a training."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading

import pytest

from trainer.train.interrupts import ENDINGS, Interrupts, Terminated

pytestmark = pytest.mark.usefixtures("ctrl_c")


@pytest.mark.parametrize(("number", "ending"), ENDINGS.items())
def test_signals_end_the_program_at_once_if_nothing_would_be_lost(number, ending):
    before = signal.getsignal(number)
    with pytest.raises(ending), Interrupts():
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


@pytest.mark.parametrize(("number", "ending"), ENDINGS.items())
def test_signals_wait_until_a_checkpoint_is_written(number, ending):
    with Interrupts() as interrupts:
        interrupts.wait = True
        interrupts.check("nothing")
        signal.raise_signal(number)
        with pytest.raises(ending, match="step 5 is kept; run the same command again"):
            interrupts.check("step 5 is kept")


def test_a_second_ctrl_c_does_not_wait_but_a_second_sigterm_does():
    """Schedulers send SIGTERM to a process and to its group; who presses Ctrl-C again means it."""
    with Interrupts() as interrupts:
        interrupts.wait = True
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            signal.raise_signal(number)
        assert interrupts.waiting is Terminated
        interrupts.waiting = None
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_pending_interrupt_is_raised_at_once_in_a_block_that_allows_it():
    with Interrupts() as interrupts:
        interrupts.wait = True
        with pytest.raises(Terminated), interrupts.at_once():
            signal.raise_signal(signal.SIGTERM)
        assert interrupts.wait
        interrupts.waiting = None
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Terminated), interrupts.at_once():
            pytest.fail("the block has been entered")


@pytest.mark.parametrize(("number", "ending"), ENDINGS.items())
def test_an_interrupt_that_a_library_drops_ends_the_training_later(number, ending):
    """As TensorFlow does, when its C++ calls Python."""

    def drop():
        with contextlib.suppress(BaseException):
            signal.raise_signal(number)

    with Interrupts() as interrupts:
        drop()
        with pytest.raises(ending, match="step 1 is kept"):
            interrupts.check("step 1 is kept")
        interrupts.wait, interrupts.waiting = True, None
        with pytest.raises(ending), interrupts.at_once():
            drop()


@pytest.mark.parametrize(("number", "ending"), ENDINGS.items())
def test_an_interrupt_that_python_drops_is_raised_later_and_nothing_is_printed(number, ending, monkeypatch):
    printed = []
    hook = lambda unraisable: printed.append(unraisable.exc_type)
    monkeypatch.setattr(sys, "unraisablehook", hook)

    class Object:
        def __del__(self):
            signal.raise_signal(number)

    with pytest.raises(ending), Interrupts() as interrupts:
        Object()
        interrupts.check("the epoch is kept")
    assert not printed
    assert sys.unraisablehook is hook


def test_other_errors_that_python_drops_are_printed(monkeypatch):
    printed = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: printed.append(unraisable.exc_type))

    class Object:
        def __del__(self):
            raise ValueError

    with Interrupts():
        Object()
    assert printed == [ValueError]


@pytest.mark.parametrize(("number", "ending"), ENDINGS.items())
def test_an_error_that_an_interrupt_becomes_in_a_library_is_that_interrupt(number, ending):
    def crash():
        try:
            signal.raise_signal(number)
        except BaseException:
            raise SystemError("a function returned a result with an exception set") from None

    with pytest.raises(ending), Interrupts():
        crash()
    with pytest.raises(SystemError), Interrupts() as interrupts:
        interrupts.wait = True
        signal.raise_signal(number)  # waits, and so has not caused the error
        raise SystemError


@pytest.mark.parametrize("number", ENDINGS)
def test_ignored_signals_stay_ignored(number):
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with Interrupts():
            signal.raise_signal(number)
        assert signal.getsignal(number) == signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_another_thread_leaves_signals_alone():
    def enter():
        with Interrupts():
            found.append(signal.getsignal(signal.SIGTERM))

    found = []
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
