"""Targets that do what none must, for the fuzzer's own test."""

from __future__ import annotations

import os
import signal
import time

from tests.zoo.mutation import Target


def good(data: bytes, folder: object) -> None:
    if len(data) % 2:
        raise KeyError("known")


def broken(data: bytes, folder: object) -> None:
    raise IndexError("nobody expects this")


def slow(data: bytes, folder: object) -> None:
    end = time.process_time() + 1.1
    while time.process_time() < end:
        pass


def deadly(data: bytes, folder: object) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def greedy(data: bytes, folder: object) -> None:
    bytearray(3 << 30)


def hanging(data: bytes, folder: object) -> None:
    time.sleep(60)


TARGETS = {
    read.__name__: Target(lambda: [b"0123456789"], read, (KeyError,))
    for read in (good, broken, slow, deadly, greedy, hanging)
}
