"""Kills commands at random moments until they are done: `python -m tests.kills --command prepare --times 50`.

Every run is a process group, which SIGKILL, SIGINT or SIGTERM ends at some moment of the time that an undisturbed run
takes; the same command is run again, until it comes to its end. Then all files are those of the undisturbed run, what
was finished once was never written again, and no temporary file, lease, note or process is left. Flags behind -- go to
Beam.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from pipelines.cli import COMMANDS
from tests.kills.killing import Killer
from tests.kills.work import WORK


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--command", nargs="+", choices=WORK, default=list(WORK))
    parser.add_argument("--times", type=int, default=50, help="kills of each command (default: 50)")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("flags", nargs="*", help="for Beam, such as -- --direct_running_mode multi_processing")
    arguments = parser.parse_args()
    folder, faults = Path(tempfile.mkdtemp(prefix="kills-")), 0
    for command in arguments.command:
        importlib.import_module(f"{COMMANDS[command]}.command")
        if command in ("segment", "tune-crf"):
            importlib.import_module("trainer.network.folder")
        faults += kill(command, folder / command, arguments)
    if not faults:
        shutil.rmtree(folder)
    return 1 if faults else 0


def kill(command: str, folder: Path, arguments: argparse.Namespace) -> int:
    """How many courses went wrong."""
    begin = time.monotonic()
    killer = Killer(command, WORK[command], arguments.flags, folder, arguments.seed)
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
