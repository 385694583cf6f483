"""What every case of the zoo must hold, whatever it is about.

The right status; a message that says what the case says it must; no traceback; inputs that are outputs + rejects;
every broken file named with its reason and no other one; the good ones done; nothing that was there before changed,
and nothing new, but below the folders that the command is to write to, and there no file of others.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

import pipelines.masks.segmenter
from pipelines import cli
from pipelines.evaluate import command as evaluate_command
from pipelines.masks import network
from pipelines.masks.softmax import maps
from pipelines.prepare import command as prepare_command
from pipelines.runner.progress import Heartbeat
from pipelines.segment import command as segment_command
from pipelines.segment import job as segment_job
from pipelines.segment import tally as segment_tally
from tests.drawn.evaluating import evaluate_here
from tests.drawn.ill import _look_here, doctor_command
from tests.drawn.prepared import write_here
from tests.drawn.records import PALETTE

REFUSED, TROUBLE, DONE, PASSING = 2, 1, 0, 75
SHOWN = 1500
"""Characters of what a command printed, where a case fails."""
OURS = ("out",)
"""Where cases have their commands write."""


@dataclass(frozen=True)
class Case:
    """Something broken or odd, a command that meets it, and what must come of it.

    Attributes:
      name: what is odd, a row of docs/zoo.md.
      argv: the command line; "@" stands for the folder of the case.
      status: of the command.
      says: words of what it prints, each.
      make: makes it, in a copy of the area's world.
      rejects: of every file that is to be rejected, the end of its path and words of the reason; "" for those of which
        a number tells too few to be named.
      done: files that must be there afterwards.
      writes: where files may be made and changed.
      keeps: files below those that must stay as they are.
      stays: whether nothing at all may be made or changed; None: where the status is REFUSED.
      rows: names of the files of `rejects`, for docs/zoo.md, where one run meets many.
      around: what else happens while the command runs.
      slow: whether `make test-slow` runs it.
    """

    name: str
    argv: str
    status: int = REFUSED
    says: tuple[str, ...] = ()
    make: Callable[[Path], object] = lambda world: None
    rejects: Mapping[str, str] = field(default_factory=dict)
    done: tuple[str, ...] = ()
    writes: tuple[str, ...] = OURS
    keeps: tuple[str, ...] = ()
    stays: bool | None = None
    rows: Mapping[str, str] = field(default_factory=dict)
    around: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
    slow: bool = False

    @property
    def command(self) -> str:
        words = self.argv.split()
        return " ".join(words[:2]) if words[:1] == ["records"] else words[0] if words else ""


@dataclass(frozen=True)
class Area:
    """Cases about one subject.

    Attributes:
      title: a heading of docs/zoo.md.
      world: makes what their commands work on, in an empty folder.
      cases: each gets a copy of it.
      drawn: whether a stand-in is the network of all models.
    """

    title: str
    world: Callable[[Path], object]
    cases: tuple[Case, ...]
    drawn: bool = True


@dataclass(frozen=True)
class Outcome:
    """What a command did: its status, and what it printed."""

    status: int
    out: str
    err: str


def _segment_here(build: Callable, options: object, **progress: object) -> bool:
    given = build.keywords
    job, started = given["job"], given["started"]
    work = segment_job.SegmentChunk(Heartbeat(), job, given["plan"])
    summed = segment_tally.add_up(part for chunk in given["chunks"] for part in work.process(chunk))
    segment_tally.publish(given["unplaced"] + summed, job.options.output, job.palette, started)
    return True


HERE = ((prepare_command, write_here), (doctor_command, _look_here))
HERE += ((evaluate_command, evaluate_here), (segment_command, _segment_here))
"""Commands, and what does for them what Beam would: that takes longer than all else on a tiny set."""


class ByColour:
    """Stands in for a network: every pixel is of the class whose colour is nearest."""

    batch_pixels = 1 << 17

    def __call__(self, images: np.ndarray, what: str, window: int = 4096) -> Any:
        distances = np.abs(images[..., None, :].astype(np.float32) - np.float32(PALETTE.colors)).sum(-1)
        odds = np.exp(-distances / 50)
        probabilities = odds / odds.sum(-1, keepdims=True)
        return {"probabilities": probabilities, "best": maps(probabilities)}[what]


@contextlib.contextmanager
def at_hand(drawn: bool = True) -> Iterator[None]:
    """Jobs run in this thread, and where `drawn` a network stands in that takes colours for classes."""
    with contextlib.ExitStack() as stack:
        for command, work in HERE:
            stack.enter_context(mock.patch.object(command, "run_job", work))
        if drawn:
            stand_in = ByColour()
            stack.enter_context(mock.patch.object(network, "shared_network", lambda *_: stand_in))
            stack.enter_context(mock.patch.object(pipelines.masks.segmenter, "shared_network", lambda *_: stand_in))
        yield


def call(argv: list[str], folder: Path) -> Outcome:
    """Runs a command line in this process, with `folder` as the working directory and its own temporary files."""
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    out, err, before = io.StringIO(), io.StringIO(), os.getcwd()
    os.chdir(folder)
    try:
        with (
            mock.patch.object(tempfile, "tempdir", str(scratch)),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                status = cli.main(argv)
            except SystemExit as end:
                status = end.code
    finally:
        os.chdir(before)
    return Outcome(status, out.getvalue(), err.getvalue())


Seen = dict[str, tuple[object, ...]]


def look(folder: Path) -> Seen:
    """Path -> what it is, with its contents, rights and time, of all below a folder; links are not followed."""
    found: Seen = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            info = os.lstat(path)
            seen: tuple[object, ...] = (stat.S_IFMT(info.st_mode), info.st_mode)
            if stat.S_ISREG(info.st_mode):
                data = Path(path).read_bytes() if os.access(path, os.R_OK) else b""
                seen += (info.st_size, info.st_mtime_ns, hashlib.sha256(data).hexdigest()[:12])
            elif stat.S_ISLNK(info.st_mode):
                seen += (os.readlink(path),)
            found[os.path.relpath(path, folder)] = seen
    return found


def faults(case: Case, world: Path, folder: Path) -> list[str]:
    """All that a case does otherwise than it must, in words; runs it in `folder`, on a copy of `world`."""
    place = folder / "case"
    shutil.copytree(world, place, symlinks=True)
    case.make(place)
    before = look(place)
    argv = [word.replace("@", str(place)) for word in _words(case.argv)]
    with case.around():
        outcome = call(argv, place)
    found = [*_of_output(case, outcome), *_of_files(case, before, look(place)), *_of_accounts(outcome)]
    # TensorFlow keeps the source of what it traced there.
    if left := [name for name in os.listdir(folder / "scratch") if not name.startswith("__autograph")]:
        found.append(f"left in the folder of temporary files: {left}")
    found += [f"{name} is missing" for name in case.done if not (place / name).exists()]
    found += _of_rejects(case, place, outcome)
    shutil.rmtree(place, ignore_errors=True)
    return [*found, f"it printed:\n{(outcome.out + outcome.err)[-SHOWN:]}"] if found else []


def _words(argv: str) -> list[str]:
    """A command line in words; blanks in one are written as "~", see SIGNS."""
    signs = (("~", " "), ("@TILDE", "~"), ("@BREAK", "\n"))
    return [functools.reduce(lambda word, sign: word.replace(*sign), signs, word) for word in argv.split(" ") if word]


def _of_output(case: Case, outcome: Outcome) -> Iterator[str]:
    text = outcome.out + outcome.err
    if outcome.status != case.status:
        yield f"status {outcome.status}, expected {case.status}"
    if "Traceback" in text:
        yield "a traceback"
    if missing := [words for words in case.says if words not in text]:
        yield f"it does not say {missing}"
    errors = [line for line in outcome.err.splitlines() if line.startswith("deeplab")]
    is_refused = case.status == outcome.status == REFUSED and case.stays is not False
    if is_refused and not any(": error: " in line for line in errors):
        yield "no line that begins with the command and says what is wrong"
    if len(errors) > 1:
        yield f"{len(errors)} lines for one problem"
    if control := re.search(r"[\x00-\x08\x0b-\x1f\x7f\x9b]", text.replace("\r", "")):
        yield f"a control character, {control[0]!r}"


def _of_files(case: Case, before: Seen, after: Seen) -> Iterator[str]:
    stays = case.status == REFUSED if case.stays is None else case.stays
    writable = () if stays else case.writes
    for name in sorted(before.keys() | after.keys()):
        inside = any(name == top or name.startswith(f"{top}/") for top in writable)
        if before.get(name) == after.get(name) or (inside and name not in case.keeps):
            continue
        yield f"{name} was {'made' if name not in before else 'removed' if name not in after else 'changed'}"


def _of_accounts(outcome: Outcome) -> Iterator[str]:
    """The equations among the lines: "9 images = 6 written + 2 skipped + 1 rejected"."""
    for line in (outcome.out + outcome.err).splitlines():
        if found := re.match(r"(?:\w+: )?([\d,]+) \w+ = (.+)", line):
            parts = [int(number.replace(",", "")) for number in re.findall(r"(?:^| \+ )([\d,]+) ", found[2])]
            if int(found[1].replace(",", "")) != sum(parts):
                yield f"the accounts do not balance: {line}"


def _of_rejects(case: Case, place: Path, outcome: Outcome) -> Iterator[str]:
    path = next(
        (place / top / "rejects.jsonl" for top in case.writes if (place / top / "rejects.jsonl").is_file()), None
    )
    if not case.rejects:
        if path and path.read_bytes() and not case.stays and case.status != REFUSED:
            yield f"rejected: {path.read_text()}"
        return
    if path is None:
        yield "no rejects.jsonl"
        return
    rejects = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    left = list(rejects)
    for name, words in case.rejects.items():
        hits = [one for one in left if one["path"].endswith(name) or one["key"].endswith(name)]
        left = [one for one in left if one not in hits]
        if not hits:
            yield f"{name} was not rejected"
        elif words not in hits[0]["reason"]:
            yield f"{name} was rejected otherwise: {hits[0]['reason']}"
    for one in left:
        yield f"{one['path']} was rejected: {one['reason']}"
