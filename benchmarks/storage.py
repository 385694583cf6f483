"""Commands on this machine's disk, and with 50 ms for every request to Cloud Storage.

    python benchmarks/storage.py                                # drawn scenes, an untrained network
    python benchmarks/storage.py --data data/camvid --delay 0.1
    python benchmarks/storage.py --command evaluate
    python benchmarks/storage.py --apart --workers 1            # on two cores

The Cloud Storage is a process of its own on this machine. It takes processor time too: from the commands, unless it
has a core of its own (`--apart`). The model is a local folder in either case. Labels are evaluated against copies of
themselves. Records, masks and what is exported are compared to the byte. Removing what the run before has written is
not counted.
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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import objects
from segment import untrained
from timing import table, take_turns

from pipelines import cli
from pipelines.demo import scenes
from pipelines.inputs.coding import detect_palette
from pipelines.inputs.rawset import scan
from trainer import storage
from trainer.options import CheckedOptions, option
from trainer.parser import parse
from trainer.startup import start_tensorflow

BUCKET = "gs://bucket"
COMMANDS = ("prepare", "segment", "doctor", "evaluate", "export")


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
    apart: bool = option(False, "the Cloud Storage has the last core for itself, and the commands have the others")
    rounds: int = option(2, "times every run is repeated", low=1)
    command: str = option("all", "which command is measured", choices=("all", *COMMANDS))


@contextlib.contextmanager
def cloud(delay: float, faults: float, core: int | None) -> Iterator[None]:
    """A Cloud Storage in a process of its own, which this process and its children use; on one core, or on any."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ["STORAGE_EMULATOR_HOST"] = f"http://127.0.0.1:{port}"
    server = subprocess.Popen([sys.executable, objects.__file__, str(port), str(delay), str(faults)])
    if core is not None:
        os.sched_setaffinity(server.pid, [core])
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


def compare(
    name: str, words: Callable[[str], list[str]], folders: Sequence[str], items: int, suffix: str | None, rounds: int
):
    """Runs a command in both places in turns; prints the rates, the requests for an item, and whether bytes differ.

    Args:
      words: folder -> the command that reads and writes below it.
      folders: one on the disk and one in Cloud Storage; the command writes below their `name`.
      suffix: of the files to compare; None for none.
    """
    sent, busy, served = [], {folder: [] for folder in folders}, {folder: [] for folder in folders}

    def work(folder: str) -> None:
        (before, idle), begin = spent(), sum(os.times()[:4])
        run(*words(folder))
        busy[folder].append(sum(os.times()[:4]) - begin)  # with its processes that have ended
        after, seconds = spent()
        sent.append(after - before)
        served[folder].append(seconds - idle)

    work(folders[0])  # imports, and the images into the page cache
    places = dict(zip((f"{name}, disk", f"{name}, Cloud Storage"), folders, strict=True))
    runs = {place: functools.partial(work, folder) for place, folder in places.items()}
    seconds = take_turns(runs, rounds, before=lambda place: clear(f"{places[place]}/{name}"))
    print(f"\n{table(seconds, items, 'images', next(iter(runs)))}")
    print(f"\n{sent[-1] / items:.2f} requests for an image", end="")
    if suffix is not None:
        here, there = (contents(f"{folder}/{name}", suffix) for folder in folders)
        print("; the same bytes" if here == there else "; OTHER BYTES", end="")
    disk, cloud = (min(seconds) for seconds in busy.values())
    print(f"\nprocessor seconds of the command: {disk:.1f} on the disk, {cloud:.1f} in Cloud Storage")
    there = min(served[folders[1]])
    print(f"processor seconds of the server that plays Cloud Storage, on the same cores: {there:.1f}\n")


def main(argv: list[str]) -> int:
    options, _ = parse(Options, argv, prog="storage.py", text="Commands on a disk and in Cloud Storage.")
    chosen = COMMANDS if options.command == "all" else (options.command,)
    core = None
    if options.apart:
        *others, core = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, others)  # before TensorFlow starts its threads, which inherit it
    start_tensorflow()
    workers = ["--direct_num_workers", str(options.workers)]
    with tempfile.TemporaryDirectory() as folder, cloud(options.delay, options.faults, core):
        data = f"{folder}/set"
        if options.data:
            os.symlink(os.path.abspath(options.data), data)
        else:
            scenes.write_set(data, options.images, options.images // 5, (options.height, options.width), seed=0)
        raw = scan(data)
        pairs = raw.pairs
        images, labels = (
            f"set/{os.path.relpath(os.path.dirname(path), data)}" for path in (pairs[0].image, pairs[0].label)
        )
        shutil.copytree(f"{folder}/{labels}", f"{folder}/copies")
        palette = detect_palette(raw)[0]
        with open(f"{folder}/palette.json", "w") as file:
            json.dump(palette.to_json(), file)
        os.makedirs(f"{folder}/records")
        if "export" in chosen:
            run("prepare", "--input", data, "--output", f"{folder}/records", *workers)
        with ThreadPoolExecutor(32) as pool:
            for part in ("set", "copies", "records"):
                send = lambda file, part=part: storage.write(
                    f"{BUCKET}/{part}/{file.relative}", storage.read(file.path)
                )
                list(pool.map(send, storage.files(f"{folder}/{part}")))
        model = untrained(f"{folder}/model") if "segment" in chosen else ""
        some = len(storage.files(f"{folder}/{images}"))
        copies = ["--copies", str(options.copies)]
        to = lambda place, name: ["--output", f"{place}/{name}"]
        commands = {
            "prepare": lambda at: ["--input", f"{at}/set", *to(at, "prepare"), *copies, *workers],
            "segment": lambda at: ["--input", f"{at}/{images}", *to(at, "segment"), "--model", model, *workers],
            "doctor": lambda at: [f"{at}/set", *to(at, "doctor"), *workers],
            "evaluate": lambda at: ["--labels", f"{at}/{labels}", "--masks", f"{at}/copies", *to(at, "evaluate"),
                                    "--palette", f"{folder}/palette.json", *workers],
            "export": lambda at: ["export", f"{at}/records", f"{at}/export"],
        }  # fmt: skip
        counts = {"segment": some, "evaluate": some}
        suffixes = {"prepare": ".tfrecord", "segment": ".png", "export": ""}
        for name in chosen:
            words = lambda at, name=name: ["records" if name == "export" else name, *commands[name](at)]
            compare(name, words, (folder, BUCKET), counts.get(name, len(pairs)), suffixes.get(name), options.rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
