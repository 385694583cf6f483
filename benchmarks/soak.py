"""A long run over very many small images, one in a hundred of them broken: are all of these named, and does it stay
as fast and as small as it began?

    python benchmarks/soak.py                                       # prepare, 100,000 images of 64 x 64 pixels
    python benchmarks/soak.py --commands segment --images 20000     # by a tiny network

Every image and label is one of DISTINCT drawn pairs. The rate is counted in seconds of the processor, and these in
what a fixed piece of work takes beside the run, since others may share the machine and its caches. Rate and memory are
those of all processes, in the first and in the last tenth of the images. Ends with status 1 where they differ by more
than a tenth, or where other files were rejected than were broken.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.demo.scenes import PALETTE
from pipelines.runner.progress import beats
from trainer.accounts import REJECTS_FILE
from trainer.formats import images, label_images
from trainer.options import CheckedOptions, option
from trainer.parser import parse

SIZE, DISTINCT = 64, 500
EVERY = 100
"""One image in so many is broken."""
ALLOWED = 0.1
"""How far the last tenth may be from the first."""
SECONDS = 0.5
"""Between two looks at the processes."""


@dataclass(frozen=True)
class Options(CheckedOptions):
    images: int = option(100_000, "how many images", low=1000)
    commands: tuple[str, ...] = option(("prepare",), "prepare, segment or both", metavar="COMMAND")


def huge(data: bytes) -> bytes:
    """A PNG that claims 60,000 x 60,000 pixels."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def other_size(data: bytes) -> bytes:
    return images.encode_png(label_images.decode_label(data)[:-1])


def other_class(data: bytes) -> bytes:
    ids = label_images.decode_label(data).copy()
    ids[0, 0] = PALETTE.num_classes
    return images.encode_png(ids)


def flipped(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


BROKEN: tuple[tuple[str, Callable[[bytes], bytes | None]], ...] = (
    ("images", lambda data: b""),
    ("images", lambda data: data[: len(data) // 2]),
    ("images", lambda data: data[:20]),
    ("images", lambda data: b"<html>404 not found</html>"),
    ("images", lambda data: np.random.default_rng(len(data)).bytes(len(data))),
    ("images", huge),
    ("labels", lambda data: b""),
    ("labels", lambda data: data[: len(data) // 2]),
    ("labels", lambda data: None),
    ("labels", other_size),
    ("labels", other_class),
    ("labels", flipped),
)
"""What is broken of a pair, and how: from the file's bytes to others, None for no file."""


def pair(number: int) -> dict[str, bytes]:
    """Folder -> bytes of a drawn image and its label."""
    rng = np.random.default_rng([11, number])
    label = np.zeros((SIZE, SIZE), np.uint8)
    for ids in range(1, PALETTE.num_classes):
        top, left = rng.integers(0, SIZE - 16, 2)
        label[top : top + rng.integers(8, 32), left : left + rng.integers(8, 32)] = ids
    image = np.float32(PALETTE.colors)[label] + rng.normal(0, 10, (SIZE, SIZE, 3))
    return {
        "images": images.encode_jpeg(np.clip(image, 0, 255).astype(np.uint8)),
        "labels": images.encode_png(label),
    }


def draw(folder: Path, count: int, of: str) -> set[str]:
    """Writes a raw set in CamVid's layout, with what is broken of images alone where `of` is "segment"; its names."""
    ways = [way for way in BROKEN if of == "prepare" or way[0] == "images"]
    pairs = [pair(number) for number in range(DISTINCT)]
    (folder / "palette.json").write_text(json.dumps(PALETTE.to_json()))
    broken = set()
    for number in range(count):
        name = f"train/{number // 1000:05d}/{number:08d}"
        kind, spoil = ways[number // EVERY % len(ways)] if number % EVERY == EVERY // 2 else ("", None)
        broken.update([name] if spoil else [])
        for what, suffix in (("images", ".jpg"), ("labels", ".png")):
            path, data = folder / what / (name + suffix), pairs[number % DISTINCT][what]
            if number % 1000 == 0:
                path.parent.mkdir(parents=True)
            if (data := spoil(data) if what == kind else data) is not None:
                path.write_bytes(data)
    return broken


@dataclass(frozen=True)
class Sample:
    """How far a run is.

    Attributes:
      done: images.
      seconds: of the processor.
      memory: bytes.
      yardstick: seconds of the processor that a fixed piece of work takes now.
    """

    done: int
    seconds: float
    memory: int
    yardstick: float


def yardstick() -> float:
    """Seconds of the processor that some JPEGs take, the least of five: one varies by half."""
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    seconds = []
    for _ in range(5):
        start = time.thread_time()
        for _ in range(20):
            images.decode_image(images.encode_jpeg(image))
        seconds.append(time.thread_time() - start)
    return min(seconds)


def look(session: int, scratch: Path) -> Sample:
    """A sample of the processes of a session, whose command counts what is done below `scratch`."""
    seconds = memory = 0.0
    for process in os.listdir("/proc"):
        try:
            fields = (
                Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split() if process.isdecimal() else []
            )
        except OSError:
            continue
        if fields and int(fields[3]) == session:
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            memory += int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
    done = sum(beats(str(place)) for place in scratch.glob("deeplab-run-*/beats"))
    return Sample(done, seconds, int(memory), yardstick())


def watched(argv: list[str], scratch: Path) -> tuple[list[Sample], int, float]:
    """Runs a command; returns samples of it, its status, and how many seconds it took."""
    samples: list[Sample] = []
    start = time.monotonic()
    environment = os.environ | {"TMPDIR": str(scratch), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", *argv], env=environment, start_new_session=True, stdout=sys.stderr
    )
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(SECONDS):
            samples.append(look(process.pid, scratch))

    watcher = threading.Thread(target=watch)
    watcher.start()
    status = process.wait()
    ended.set()
    watcher.join()
    return [sample for sample in samples if sample.done], status, time.monotonic() - start


def tenth(samples: list[Sample], total: int, number: int) -> tuple[float, float]:
    """Images per second of the processor as fast as it was at its fastest, and memory, in a tenth of the images."""
    part = [sample for sample in samples if number * total <= 10 * sample.done <= (number + 1) * total]
    if len(part) < 2:
        sys.exit("the job was over too soon to compare its tenths; give more --images")
    best = min(sample.yardstick for sample in samples)
    steps = itertools.pairwise(part)
    seconds = sum((after.seconds - before.seconds) * best / after.yardstick for before, after in steps)
    return (part[-1].done - part[0].done) / seconds, statistics.median(sample.memory for sample in part)


def save_network(folder: Path) -> None:
    from trainer.formats.cards import ModelCard
    from trainer.network.deeplab import deeplab_v3_plus
    from trainer.network.folder import save_model

    architecture = {"num_classes": PALETTE.num_classes, "alpha": 0.35, "head": "bilinear"}
    save_model(str(folder), deeplab_v3_plus(**architecture), ModelCard(architecture, PALETTE))


def soak(command: str, count: int, folder: Path) -> list[str]:
    """Prints a row of the table; returns what was wrong."""
    raw, output, scratch = folder / "raw", folder / "out", folder / "scratch"
    raw.mkdir(parents=True)
    scratch.mkdir()
    broken = draw(raw, count, command)
    argv = ["prepare", "--input", str(raw)]
    if command == "segment":
        save_network(folder / "model")
        argv = ["segment", "--input", str(raw / "images"), "--model", str(folder / "model")]
    samples, status, seconds = watched([*argv, "--output", str(output), "--max-reject-rate", "0.02"], scratch)
    if status:
        return [f"{command} ended with status {status}"]
    rejects = [json.loads(line) for line in (output / REJECTS_FILE).read_text().splitlines()]
    named = Counter(str(Path(one["path"]).relative_to(raw).with_suffix("")).partition("/")[2] for one in rejects)
    wrong = [f"{name} is rejected, and is whole" for name in sorted(named.keys() - broken)]
    wrong += [f"{name} is broken, and no reject" for name in sorted(broken - named.keys())]
    wrong += [f"{one['path']}: no reason" for one in rejects if not one["reason"]]
    (first_rate, first), (last_rate, last) = (tenth(samples, count, number) for number in (0, 9))
    for what, ratio in (("rate", last_rate / first_rate), ("memory", last / first)):
        wrong += [f"{what}: the last tenth is {ratio:.2f} of the first"] if abs(ratio - 1) > ALLOWED else []
    cells = [command, f"{count:,}", f"{len(broken):,}", f"{len(named.keys() & broken):,}", f"{seconds:.0f} s"]
    cells += [f"{first_rate:.0f}/s", f"{last_rate:.0f}/s", f"{last_rate / first_rate:.2f}"]
    cells += [f"{first / 2**20:.0f} MiB", f"{last / 2**20:.0f} MiB", f"{last / first:.2f}"]
    print(f"| {' | '.join(cells)} |", flush=True)
    return [f"{command}: {fault}" for fault in wrong]


def main(argv: list[str]) -> int:
    options, _ = parse(Options, argv, prog="benchmarks/soak.py", text=__doc__)
    head = "| command | images | broken | named | wall | first tenth | last | ratio | first tenth | last | ratio |"
    print(head)
    print("|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    wrong: list[str] = []
    for command in options.commands:
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            wrong += soak(command, options.images, Path(folder))
    print("\n".join(wrong[:20]) if wrong else "nothing was wrong", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
