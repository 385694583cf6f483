"""Kills commands at random moments until they are done: `python -m tests.kills --command prepare --times 50`.

Every run is a process group, which SIGKILL, SIGINT, SIGTERM or SIGHUP ends at some moment of the time that an
undisturbed run takes; the same command is run again, until it comes to its end. Then all files are those of the
undisturbed run, what was finished once was never written again, and no temporary file, lease, note or process is left.
Flags behind -- go to Beam.

With --flink a cluster is started, from what `make test-engines` has fetched to DEEPLAB_ENGINES. The command is killed
there, and its job goes on: no second one is ever sent beside it, and the files are those of a run on this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from pipelines.cli import COMMANDS
from tests.engines.cluster import SHORT_LIVED, Flink, fetched, write_boot, write_jar
from tests.kills.killing import Fault, Killer
from tests.kills.work import WORK


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--command", nargs="+", choices=WORK, help="default: all; with flags for Beam, all but train")
    parser.add_argument("--times", type=int, default=50, help="kills of each command (default: 50)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--flink", action="store_true", help="on a Flink cluster, which goes on when commands end")
    parser.add_argument("flags", nargs="*", help="for Beam, such as -- --direct_running_mode multi_processing")
    arguments = parser.parse_args()
    for_beam = arguments.flink or arguments.flags
    commands = arguments.command or [command for command in WORK if not (for_beam and command == "train")]
    folder = Path(tempfile.mkdtemp(prefix="kills-"))
    with contextlib.ExitStack() as stack:
        flink = start_flink(stack, folder) if arguments.flink else None
        faults = sum(kill(command, folder / command, arguments, flink) for command in commands)
    if not faults:
        shutil.rmtree(folder)
    return 1 if faults else 0


def start_flink(stack: contextlib.ExitStack, folder: Path) -> Flink:
    """A cluster in `folder`."""
    engines = fetched()
    os.environ |= SHORT_LIVED
    return Flink(stack, write_jar(engines, folder, "flink"), write_boot(engines, folder), folder)


def check(flink: Flink, is_done: bool) -> None:
    """Raises Fault where two jobs are at work, one is when the command `is_done`, or one has failed."""
    active = [state for state in flink.states() if state not in ("FINISHED", "CANCELED")]
    if len(active) > (not is_done) or "FAILED" in active:
        raise Fault(f"jobs on the cluster: {', '.join(active)}")


def kill(command: str, folder: Path, arguments: argparse.Namespace, flink: Flink | None) -> int:
    """How many courses went wrong."""
    importlib.import_module(f"{COMMANDS[command]}.command")
    if command in ("segment", "train", "tune-crf"):
        importlib.import_module("trainer.network.folder")
    begin = time.monotonic()
    flags = [*(flink.flags if flink else ()), *arguments.flags]
    checked = functools.partial(check, flink) if flink else None
    killer = Killer(command, WORK[command], flags, folder, arguments.seed, checked)
    sent: Counter[str] = Counter()
    courses = faults = 0
    while sent.total() < arguments.times:
        kills, fault = killer.kill(courses, arguments.times - sent.total())
        sent.update(kills)
        courses += 1
        faults += bool(fault)
        if fault:
            print(f"{command}: course {courses - 1} of seed {arguments.seed}, {len(kills)} kills: {fault}", flush=True)
            if not kills:
                break
    signals = ", ".join(f"{count} {name}" for name, count in sorted(sent.items()))
    print(
        f"{command}: {sent.total()} kills ({signals}) in {courses} courses of {killer.seconds:.1f} s undisturbed, "
        f"{faults} wrong, {time.monotonic() - begin:.0f} s",
        flush=True,
    )
    return faults


if __name__ == "__main__":
    sys.exit(main())
