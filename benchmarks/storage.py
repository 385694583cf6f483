"""`deeplab prepare` and `deeplab segment` on this machine's disk, and with 50 ms for every request to Cloud Storage.

    python benchmarks/storage.py                                # drawn scenes, an untrained network
    python benchmarks/storage.py --data data/camvid --delay 0.1

The Cloud Storage is a process of its own on this machine, which takes processor time too. The model is a local folder
in either case. Records and masks are compared to the byte. Removing what the run before has written is not counted.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import objects
from segment import untrained
from timing import table, take_turns

from pipelines import cli
from pipelines.demo import scenes
from pipelines.inputs.rawset import scan
from trainer import storage
from trainer.options import CheckedOptions, option
from trainer.parser import parse
from trainer.startup import start_tensorflow

BUCKET = "gs://bucket"


@dataclass(frozen=True)
class Options(CheckedOptions):
    data: str = option("", "raw set; drawn scenes when empty", metavar="DIR")
    images: int = option(300, "how many scenes are drawn for training, and a fifth of it for validation", low=5)
    height: int = option(360, "of the scenes, in pixels", low=32)
    width: int = option(480, "of the scenes, in pixels", low=32)
    copies: int = option(0, "augmented copies of every image that prepare makes", low=0)
    delay: float = option(0.05, "seconds for every request", low=0.0)
    faults: float = option(0.0, "share of the requests that fail", low=0.0, below=0.5)
    workers: int = option(2, "threads that work", low=1)
    rounds: int = option(2, "times every run is repeated", low=1)
    segment: bool = option(True, "measure segment as well")


@contextlib.contextmanager
def cloud(delay: float, faults: float) -> Iterator[None]:
    """A Cloud Storage in a process of its own, which this process and its children use."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, objects.__file__, str(port), str(delay), str(faults)])
    try:
        while True:
            with contextlib.suppress(OSError):
                spent()
                break
            time.sleep(0.05)
        yield
    finally:
        server.kill()
        server.wait()


def spent() -> tuple[int, float]:
    """The requests so far, and the processor seconds that Cloud Storage has taken for them."""
    with urllib.request.urlopen(os.environ["STORAGE_EMULATOR_HOST"] + objects.COUNT) as answer:
        told = json.load(answer)
        return told["requests"], told["seconds"]


def clear(folder: str) -> None:
    if not storage.is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        for file in storage.files(folder):
            storage.remove(file.path)


def contents(folder: str, suffix: str) -> dict[str, bytes]:
    return {file.relative: storage.read(file.path) for file in storage.files(folder) if file.path.endswith(suffix)}


def run(*argv: str) -> None:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        status = cli.main(list(argv))
    if status:
        sys.exit(f"{argv[0]} ended with status {status}\n{text.getvalue()}")


def compare(command: list[str], here: tuple[str, str], there: tuple[str, str], items: int, suffix: str, rounds: int):
    """Runs a command in both places in turns; prints the rates, the requests for an item, and whether bytes differ.

    Args:
      here, there: input and output.
      suffix: of the files to compare.
    """
    sent, busy, served = [], {here: [], there: []}, {here: [], there: []}

    def work(source: str, output: str) -> None:
        (before, idle), begin = spent(), sum(os.times()[:4])
        run(*command, "--input", source, "--output", output)
        busy[source, output].append(sum(os.times()[:4]) - begin)  # with its processes that have ended
        after, seconds = spent()
        sent.append(after - before)
        served[source, output].append(seconds - idle)

    work(*here)  # imports, and the images into the page cache
    places = {f"{command[0]}, disk": here, f"{command[0]}, Cloud Storage": there}
    runs = {name: functools.partial(work, *place) for name, place in places.items()}
    seconds = take_turns(runs, rounds, before=lambda name: clear(places[name][1]))
    is_same = contents(here[1], suffix) == contents(there[1], suffix)
    print(f"\n{table(seconds, items, 'images', next(iter(runs)))}")
    disk, cloud = (min(seconds) for seconds in busy.values())
    print(f"\n{sent[-1] / items:.2f} requests for an image; {'the same bytes' if is_same else 'OTHER BYTES'}")
    print(f"processor seconds of the command: {disk:.1f} on the disk, {cloud:.1f} in Cloud Storage")
    print(f"processor seconds of the server that plays Cloud Storage, on the same cores: {min(served[there]):.1f}\n")


def main(argv: list[str]) -> int:
    options, _ = parse(Options, argv, prog="storage.py", text="prepare and segment on a disk and in Cloud Storage.")
    start_tensorflow()
    workers = ["--direct_num_workers", str(options.workers)]
    with tempfile.TemporaryDirectory() as folder, cloud(options.delay, options.faults):
        data = options.data or os.path.join(folder, "set")
        if not options.data:
            scenes.write_set(data, options.images, options.images // 5, (options.height, options.width), seed=0)
        with ThreadPoolExecutor(32) as pool:
            send = lambda file: storage.write(f"{BUCKET}/set/{file.relative}", storage.read(file.path))
            list(pool.map(send, storage.files(data)))
        pairs = scan(data).pairs
        places = (data, f"{folder}/records"), (f"{BUCKET}/set", f"{BUCKET}/records")
        compare(
            ["prepare", "--copies", str(options.copies), *workers], *places, len(pairs), ".tfrecord", options.rounds
        )
        if options.segment:
            model = untrained(os.path.join(folder, "model"))
            below = os.path.relpath(os.path.dirname(pairs[0].image), data)
            count = len(storage.files(f"{data}/{below}"))
            places = (f"{data}/{below}", f"{folder}/masks"), (f"{BUCKET}/set/{below}", f"{BUCKET}/masks")
            compare(["segment", "--model", model, *workers], *places, count, ".png", options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
