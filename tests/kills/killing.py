"""Runs a command again and again, kills each run at a random moment, and looks at what is there afterwards."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path

import numpy as np

from pipelines import cli
from tests.drawn.outputs import State, contents, states
from tests.kills.work import Work

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
"""Each as likely as the others."""
ENDINGS = {
    signal.SIGKILL: (-signal.SIGKILL,),
    signal.SIGINT: (130,),
    signal.SIGTERM: (143, -signal.SIGTERM),
    signal.SIGABRT: (-signal.SIGABRT,),
}
"""Statuses that a run may end with."""
LATEST = 1.5
"""Times of an undisturbed run's seconds, until a run is killed: some have to come to their end."""
PATIENCE = 900.0
"""Seconds that a run may take on a busy machine."""
PROBE = re.compile("[a-z0-9_]{8}")
"""Name of the file by which Python looks whether it may write to a folder."""


class Fault(Exception):
    """Something that must not be."""


def start(argv: Sequence[str], folder: Path, scratch: Path, log: Path) -> int:
    """Runs a command line in a process group of its own; returns the process.

    It is forked from this process, which has imported what takes longest, and otherwise as if started by a shell.
    """
    process = os.fork()
    if process:
        with contextlib.suppress(ProcessLookupError):
            while os.getpgid(process) != process:
                time.sleep(0.001)
        return process
    status = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.environ["TMPDIR"], tempfile.tempdir = str(scratch), None
        for descriptor in (1, 2):
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)
        faulthandler.enable(file=2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        status = cli.main(list(argv))
        if not status:
            atexit._run_exitfuncs()
    except KeyboardInterrupt:  # before the command could say anything
        status = 130
    finally:
        os._exit(status)


def end(process: int, clock: Callable[[], float] = lambda: 0.0, moment: float = inf) -> int | None:
    """The status of a process, or minus the signal that ended it.

    None where it is at work when `clock` shows that moment, or PATIENCE is over.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if clock() > moment or time.monotonic() > deadline:
            return None
        time.sleep(0.005)


class Watch:
    """The seconds since it was made."""

    def __init__(self, group: int) -> None:
        self._begin = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self._begin


class Clock(Watch):
    """The seconds of the processor that a process group has taken, where the system tells.

    How far a run is does not depend on what else the machine does.
    """

    def __init__(self, group: int) -> None:
        super().__init__(group)
        self._group, self._last = group, 0.0

    def __call__(self) -> float:
        if not os.path.isdir("/proc/self"):
            return super().__call__()
        ticks = 0
        for process in filter(str.isdecimal, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.getpgid(int(process)) == self._group:
                    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
                    ticks += sum(map(int, fields[11:15]))  # its own, and of its children that have ended
        self._last = max(self._last, ticks / os.sysconf("SC_CLK_TCK"))
        return self._last


def is_empty(group: int) -> bool:
    """Whether a process group has no processes, or soon has none.

    A subprocess that has just been started ends where it would begin its work, which takes a while on a busy machine.
    """
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


@dataclass
class Course:
    """A command that is killed until it is done, in a folder of its own.

    Attributes:
      work: the command.
      argv: its command line.
      place: for the folder `world`, the temporary files and what is printed.
      whole: what an undisturbed run leaves in the world.
      kept: and of temporary files, which later runs may need.
      clock: tells from a process group how far a run is.
      seconds: what it shows after an undisturbed run.
      check: gets whether a run came to its end; raises Fault where something is wrong elsewhere.
      kills: signals sent, by name.
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
        """Kills at most as many runs, and lets the last one end. Raises Fault."""
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
        os.killpg(process, number)
        status = end(process)
        if status is None:
            os.kill(process, signal.SIGABRT)  # its threads tell where they are
            time.sleep(1)
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            raise Fault(f"{number.name} did not end it in {PATIENCE:.0f} seconds")
        self.kills.append(number.name)
        if status not in (0, *ENDINGS[number]):
            raise Fault(f"{number.name} ended it with status {status}")
        if not is_empty(process):
            os.killpg(process, signal.SIGKILL)
            raise Fault(f"{number.name} left processes of its group")
        return status

    def _look(self, before: State) -> State:
        """Looks at what is finished. Raises Fault where something was finished before, and was written again."""
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
        """Raises Fault where the world differs from that of an undisturbed run, or temporary files are left."""
        now = contents(self.world)
        wrong = [f"{name} differs" for name in now.keys() & self.whole if now[name] != self.whole[name]]
        wrong += [f"{name} is left" for name in now.keys() - self.whole]
        wrong += [f"{name} is missing" for name in self.whole.keys() - now.keys()]
        if wrong:
            raise Fault("; ".join(sorted(wrong)[:5]))
        if left := self.temporary() - self.kept:
            raise Fault(f"temporary files are left: {', '.join(sorted(left)[:5])}")

    def temporary(self) -> frozenset[str]:
        """What there is of temporary files."""
        scratch = self.place / "scratch"
        found = (str(path.relative_to(scratch)) for path in scratch.rglob("*"))
        return frozenset(name for name in found if not PROBE.fullmatch(name))


class Killer:
    """Courses of a command.

    Args:
      command: of `deeplab`.
      work: what it does.
      flags: more of them, for Beam.
      folder: for all files.
      seed: of all that is random.
      check: whether all is well elsewhere, where the flags have it work there; called after every kill.
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
        process = os.fork()  # so that nothing of TensorFlow is at work in this one, of which all others are copies
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
        if check:  # what is written elsewhere are the same bytes
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
        """A course with at most as many kills: the signals that were sent, and what was wrong, or ""."""
        course = self._course(f"course-{number}", number)
        try:
            course.run(most)
        except Fault as fault:
            return course.kills, f"{fault} ({course.place} is kept)"
        shutil.rmtree(course.place)
        return course.kills, ""
