"""Runs the targets on bytes spoilt at random: `python -m tests.zoo.fuzz --minutes 60 --keep out/fuzz`.

Each case must give a value or what its target may raise, within a second and LIMIT bytes of memory. They run in a
process of their own, so that a crash or a hang in a C library is a finding as well, and are known by seed, target and
number.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import resource
import sys
import tempfile
import time
import traceback
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tests.zoo.mutation import Target

SECONDS = 1.0
"""Of processor time that a case has."""
PATIENCE = 300.0
"""Seconds without an answer after which a case hangs; on a busy machine one of processor time takes many."""
LIMIT = 2 << 30
"""Bytes of memory that all cases of a process may take, on top of what it has when the targets are loaded."""


class Finding(NamedTuple):
    """A case that did what it must not."""

    target: str
    number: int
    what: str
    data: bytes


def case(name: str, target: Target, seeds: Sequence[bytes], seed: int, number: int) -> bytes:
    """The bytes of a case."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode()), number])
    return target.spoil(seeds[int(rng.integers(len(seeds)))], rng)


def fault(target: Target, data: bytes, folder: Path) -> str:
    """What a case did that it must not, in words; "" for nothing."""
    start = time.process_time()
    try:
        target.read(data, folder)
    except target.known:
        pass
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} ({Path(where.filename).name}:{where.lineno})"
    took = time.process_time() - start
    return f"took {took:.1f} s" if took > SECONDS else ""


def _serve(pipe: Any, module: str, seed: int) -> None:
    """The process in which cases run: gets the name of a target and numbers, and tells each number before its case."""
    targets = importlib.import_module(module).TARGETS
    if sys.platform == "linux":
        # Where the targets load TensorFlow, that alone takes 2 GiB of addresses.
        size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + LIMIT,) * 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libpng and LibTIFF say there what they find
    pipe.send(None)
    seeds: dict[str, list[bytes]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        while True:
            name, numbers = pipe.recv()
            target, folder = targets[name], Path(scratch) / str(list(targets).index(name))
            folder.mkdir(exist_ok=True)
            seeds[name] = seeds.get(name) or target.seeds()
            for number in numbers:
                pipe.send((number, ""))
                if found := fault(target, case(name, target, seeds[name], seed, number), folder):
                    pipe.send((number, found))
            pipe.send(None)


class Runner:
    """Runs cases in a process that may die.

    Args:
      seed: of all cases.
      module: with the TARGETS.
    """

    def __init__(self, seed: int, module: str = "tests.zoo.targets") -> None:
        self.seed, self.targets = seed, importlib.import_module(module).TARGETS
        self._module = module
        self._process: Any = None
        self._pipe: Any = None

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def run(self, name: str, numbers: range) -> list[Finding]:
        """What was found in the cases of these numbers."""
        found: list[Finding] = []
        while numbers:
            at, end = self._answers(name, numbers, found)
            if end:
                found.append(self._finding(name, at, end))
            numbers = range(at + 1, numbers.stop)
        return found

    def _answers(self, name: str, numbers: range, found: list[Finding]) -> tuple[int, str]:
        """Runs cases until all are done, or one ends the process: the last one's number, and how it did, or ""."""
        if self._process is None:
            self._start()
        self._pipe.send((name, numbers))
        at = numbers[0]
        while True:
            try:
                answer = self._pipe.recv() if self._pipe.poll(PATIENCE) else ()
            except (EOFError, ConnectionError):
                return at, f"ended the process with {self.close()}"
            if answer is None:
                return numbers[-1], ""
            if not answer:
                self.close()
                return at, f"no answer in {PATIENCE:.0f} s"
            at, what = answer
            if what:
                found.append(self._finding(name, at, what))

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._module, self.seed), daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    def _finding(self, name: str, number: int, what: str) -> Finding:
        target = self.targets[name]
        return Finding(name, number, what, case(name, target, target.seeds(), self.seed, number))

    def close(self) -> int:
        """Ends the process, if there is one; returns its exit status, or minus the signal that ended it."""
        if self._process is None:
            return 0
        self._pipe.close()
        self._process.join(1)
        self._process.kill()
        self._process.join()
        status, self._process = self._process.exitcode, None
        return status


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--module", default="tests.zoo.targets", help="where the targets are")
    parser.add_argument("--only", nargs="+", help="names of targets", metavar="NAME")
    parser.add_argument("--keep", type=Path, help="folder for the bytes of every finding")
    arguments = parser.parse_args()
    runner, kinds, first = Runner(arguments.seed, arguments.module), set(), 0
    end = time.monotonic() + 60 * arguments.minutes
    names = arguments.only or list(runner.targets)
    while time.monotonic() < end:
        for name in names:
            for found in runner.run(name, range(first, first + 200)):
                kind = (name, found.what.partition(":")[0], found.what.rpartition("(")[2])
                if kind in kinds:
                    continue
                kinds.add(kind)
                print(f"{name}: {found.what}; seed {arguments.seed}, number {found.number}", flush=True)
                if arguments.keep:
                    arguments.keep.mkdir(parents=True, exist_ok=True)
                    (arguments.keep / f"{len(kinds):03d}").write_bytes(found.data)
        first += 200
    runner.close()
    print(f"{first * len(names):,} cases with seed {arguments.seed}: {len(kinds)} kinds of findings")
    return 1 if kinds else 0


if __name__ == "__main__":
    sys.exit(main())
