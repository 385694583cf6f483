"""Runs a command again and again, kills each run at a random moment, and checks the files that it leaves."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import numpy as np

from tests.drawn.outputs import State, contents, states
from tests.kills.processes import PATIENCE, PROMPT, Clock, Watch, end, is_empty, start
from tests.kills.work import Work

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals to kill runs with, each equally likely."""
ANSWERS = {130: b"interrupted", 143: b"terminated", 129: b"terminated"}
"""Exit status of a run that has answered a signal -> the word with which it does."""
LATEST = 1.5
"""Latest moment of a kill, relative to the seconds of an undisturbed run: above 1, so that some runs finish."""
PROBE = re.compile("[a-z0-9_]{8}")
"""Name of the file by which Python checks whether it may write to a folder."""


class Fault(Exception):
    """A run left something that it must not leave, or did not end as it should."""


@dataclass
class Course:
    """A command that is killed until it is done, in a folder of its own.

    Attributes:
      work: the command.
      argv: its command line.
      place: holds the folder `world`, the temporary files and the printed output.
      whole: the files that an undisturbed run leaves in the world.
      kept: the temporary files that it leaves, which later runs may need.
      clock: measures how far the run of a process group is.
      seconds: the time on that clock after an undisturbed run.
      check: called with whether a run finished; raises Fault if something is wrong elsewhere.
      kills: names of the signals sent.
    """

    work: Work
    argv: tuple[str, ...]
    place: Path
    whole: dict[str, bytes]
    kept: frozenset[str]
    clock: type[Watch]
    seconds: float
    check: Callable[[bool], object]
    rng: np.random.Generator
    kills: list[str] = field(default_factory=list)

    @property
    def world(self) -> Path:
        return self.place / "world"

    def run(self, most: int) -> None:
        """Kills at most `most` runs, and lets the last one finish. Raises Fault."""
        before: State = {}
        while True:
            is_last = len(self.kills) == most
            process = start(self.argv, self.world, self.place / "scratch", self.place / "log")
            status = end(process, self.clock(process), inf if is_last else self.rng.uniform(0, LATEST * self.seconds))
            if status is None and is_last:
                self._kill(process, signal.SIGABRT)  # its threads tell where they are
                raise Fault(f"not done after {PATIENCE:.0f} seconds")
            if status is None:
                status = self._kill(process, SIGNALS[self.rng.integers(len(SIGNALS))])
            elif status:
                raise Fault(f"status {status}")
            self.check(status == 0)
            before = self._look(before)
            if status == 0:
                break
        self.compare()

    def _kill(self, process: int, number: signal.Signals) -> int:
        log = self.place / "log"
        said = log.stat().st_size if log.exists() else 0
        os.killpg(process, number)
        status = end(process, patience=PROMPT)
        if status is None:
            os.kill(process, signal.SIGABRT)  # its threads tell where they are
            time.sleep(1)
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise Fault(f"{number.name} did not end it in {PROMPT:.0f} seconds")
        self.kills.append(number.name)
        if status not in (0, -number, *(ANSWERS.keys() & {128 + number})):
            raise Fault(f"{number.name} ended it with status {status}")
        if not is_empty(process):
            os.killpg(process, signal.SIGKILL)
            raise Fault(f"{number.name} left processes of its group")
        if status in ANSWERS:
            if (lines := log.read_bytes()[said:].count(b": %s; " % ANSWERS[status])) != 1:
                raise Fault(f"{number.name} was answered by {lines} lines")
            if any(f"-{process}-" in name for name in self.temporary()):
                raise Fault(f"{number.name} left a temporary folder")
        return status

    def _look(self, before: State) -> State:
        """Checks the finished files. Raises Fault if a file that was finished before was written again."""
        if "Traceback" in (text := (self.place / "log").read_text(errors="replace")):
            raise Fault(f"a traceback that ends in {text.rstrip().rpartition(chr(10))[2]}")
        now = states(self.work.finished(self.world))
        for path, state in before.items():
            if now.get(path) != state:
                raise Fault(f"{path} was finished, and is {'written again' if path in now else 'gone'}")
        for path in now.keys() - before.keys():
            name = os.path.relpath(path, self.world)
            if Path(path).read_bytes() != self.whole.get(name):
                raise Fault(f"{path} counts as finished, and is not what an undisturbed run writes")
        return now

    def compare(self) -> None:
        """Raises Fault if the world differs from that of an undisturbed run, or temporary files are left."""
        now = contents(self.world)
        wrong = [f"{name} differs" for name in now.keys() & self.whole if now[name] != self.whole[name]]
        wrong += [f"{name} is left" for name in now.keys() - self.whole]
        wrong += [f"{name} is missing" for name in self.whole.keys() - now.keys()]
        if wrong:
            raise Fault("; ".join(sorted(wrong)[:5]))
        if left := self.temporary() - self.kept:
            raise Fault(f"temporary files are left: {', '.join(sorted(left)[:5])}")

    def temporary(self) -> frozenset[str]:
        """Paths of the temporary files."""
        scratch = self.place / "scratch"
        found = (str(path.relative_to(scratch)) for path in scratch.rglob("*"))
        return frozenset(name for name in found if not PROBE.fullmatch(name))


class Killer:
    """Kills a command in several courses.

    Args:
      command: the command of `deeplab`.
      work: its flags and files.
      flags: further flags, for Beam.
      folder: the folder for all files.
      seed: the seed of all random numbers.
      check: checks the other place in which the flags make the command work, if any; called after every kill.
    """

    def __init__(
        self,
        command: str,
        work: Work,
        flags: Sequence[str],
        folder: Path,
        seed: int,
        check: Callable[[bool], object] | None = None,
    ) -> None:
        here = (command, *work.flags.split())
        self._work, self._argv, self._folder, self._seed = work, (*here, *flags), folder, seed
        self._clock, self._check = (Watch, check) if check else (Clock, lambda is_done: None)
        self._drawn = folder / "drawn"
        self._drawn.mkdir(parents=True)
        process = os.fork()  # so that no thread of TensorFlow runs in this process, of which all others are copies
        if not process:
            status = 1
            try:
                work.draw(self._drawn)
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        if end(process) != 0:
            raise Fault("the set could not be drawn")
        self.seconds, self._whole, self._kept = 0.0, {}, frozenset()
        whole = self._undisturbed("whole", here if check else self._argv)
        self._whole, self._kept = contents(whole.world), whole.temporary()
        if check:  # the same bytes must be written elsewhere
            self._undisturbed("elsewhere", self._argv).compare()

    def _undisturbed(self, name: str, argv: Sequence[str]) -> Course:
        course = self._course(name, 0)
        process = start(argv, course.world, course.place / "scratch", course.place / "log")
        clock = self._clock(process)
        if status := end(process, clock):
            raise Fault(f"undisturbed, it ended with status {status}; see {course.place / 'log'}")
        self.seconds = clock()
        return course

    def _course(self, name: str, number: int) -> Course:
        place = self._folder / name
        (place / "scratch").mkdir(parents=True)
        shutil.copytree(self._drawn, place / "world")
        rng = np.random.default_rng([self._seed, number])
        files = self._whole, self._kept
        return Course(self._work, self._argv, place, *files, self._clock, self.seconds, self._check, rng)

    def kill(self, number: int, most: int) -> tuple[list[str], str]:
        """Runs a course with at most `most` kills; returns the names of the signals sent, and the fault or ""."""
        course = self._course(f"course-{number}", number)
        try:
            course.run(most)
        except Fault as fault:
            return course.kills, f"{fault} ({course.place} is kept)"
        shutil.rmtree(course.place)
        return course.kills, ""
