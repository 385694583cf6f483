"""What it takes to plan a job over very many images: `prepare` and `segment` up to their first image.

    python benchmarks/scale.py                                     # 100,000 and 1,000,000 names
    python benchmarks/scale.py --images 10000000 --commands segment
    python benchmarks/scale.py --source lists                      # Pascal VOC's; a glob with --list

There are no images: the listing of the input is drawn, 100 images to a folder, each with a label, and the job is not
run. Every row is a process of its own. "worker" is another one, which reads what a worker needs for its first chunk or
shard. "passed on" is what Beam gets to hand out, in pickled bytes per image. The digest is that of all plan files: two
versions of this program plan alike where it is the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from unittest import mock

from trainer import processes, storage
from trainer.options import CheckedOptions, option
from trainer.parser import parse
from trainer.storage import File

INPUT = "/scale-input"
STEPS = ("plan", "worker")


@dataclass(frozen=True)
class Options(CheckedOptions):
    images: tuple[int, ...] = option((100_000, 1_000_000), "how many images", low=1)
    commands: tuple[str, ...] = option(("prepare", "segment"), "what is planned", metavar="COMMAND")
    source: str = option("folder", "whether lists name every image of the folder", choices=("folder", "lists"))
    step: str = option("", "only for this program's own processes", choices=("", *STEPS))
    folder: str = option("", "the same", metavar="DIR")


def drawn(images: int, kinds: dict[str, str]) -> Iterator[File]:
    """The files of a raw set, in no order.

    Args:
      kinds: top folder -> suffix of the files in it.
    """
    for kind, suffix in kinds.items():
        for number in range(images):
            place = number * 7919 % images  # 7919 is prime: neighbours lie in different folders
            relative = f"{kind}/{drawn_name(place)}{suffix}"
            yield File(f"{INPUT}/{relative}", relative, 400_000 + place % 1000, 1_700_000_000_000_000_000 + place)


def drawn_name(place: int) -> str:
    return f"{'val' if place % 10 == 0 else 'train'}/scene_{place // 100:06d}/frame_{place:09d}"


def write_list(path: str, images: int) -> None:
    with open(path, "w") as file:
        file.writelines(f"{drawn_name(number * 7919 % images)}\n" for number in range(images))


@contextlib.contextmanager
def listing(images: int, kinds: dict[str, str], files: dict[str, str] | None = None) -> Iterator[None]:
    """Lets storage list the drawn files below INPUT.

    Args:
      files: others that are there, by relative path -> where they are to be read.
    """
    walk, is_dir, reader = storage.walk, storage.is_dir, storage.reader
    files = files or {}

    def walked(root: str, within: Collection[str] | None = None) -> Iterator[File]:
        if root != INPUT:
            return walk(root, within)
        others = (File(f"{INPUT}/{name}", name, os.path.getsize(path), 1) for name, path in files.items())
        return itertools.chain(drawn(images, kinds), others)

    with (
        mock.patch.object(storage, "walk", walked),
        mock.patch.object(storage, "matching", lambda pattern: drawn(images, kinds)),
        mock.patch.object(storage, "is_dir", lambda path: path == INPUT or is_dir(path)),
        mock.patch.object(storage, "reader", lambda path: reader(files.get(path.removeprefix(f"{INPUT}/"), path))),
    ):
        yield


def plan(command: str, images: int, folder: str, has_lists: bool) -> dict[str, object]:
    """Runs the command up to its job; returns what the job would hand out."""
    handed: list[object] = []

    def run_job(build, beam, **rest):
        handed.append(build.keywords)
        return False

    return {"prepare": plan_prepare, "segment": plan_segment}[command](images, folder, has_lists, run_job, handed)


def plan_prepare(images: int, folder: str, has_lists: bool, run_job, handed: list) -> dict[str, object]:
    from pipelines.demo.scenes import PALETTE
    from pipelines.prepare import command
    from pipelines.prepare.options import Options as PrepareOptions

    kinds, files = {"labels": ".png", "images": ".jpg"}, {}
    if has_lists:
        kinds = {"SegmentationClass": ".png", "JPEGImages": ".jpg"}
        files = {"ImageSets/Segmentation/train.txt": f"{folder}.txt"}
        write_list(f"{folder}.txt", images)
    with (
        listing(images, kinds, files),
        mock.patch.object(command, "run_job", run_job),
        mock.patch.object(command, "recognise_labels", lambda raw, options: (PALETTE, "ids", ("", ""), False)),
    ):
        command.run(PrepareOptions(input=INPUT, output=folder), [])
    specs = handed[0]["specs"]
    return {"handed": specs, "first": specs[0]}


def plan_segment(images: int, folder: str, has_lists: bool, run_job, handed: list) -> dict[str, object]:
    from pipelines.demo.scenes import PALETTE
    from pipelines.segment import command
    from pipelines.segment.mask import SegmentJob
    from pipelines.segment.options import Options as SegmentOptions
    from trainer.formats.cards import ModelCard

    options = SegmentOptions(input=INPUT, model="model", output=folder)
    if has_lists:
        write_list(f"{folder}.txt", images)
        options = dataclasses.replace(options, input=f"{INPUT}/**/*.jpg", list=f"{folder}.txt")
    job = SegmentJob(options, PALETTE, 0, "", "fingerprint", 0, None)
    with (
        listing(images, {"images": ".jpg"}),
        mock.patch.object(command, "run_job", run_job),
        mock.patch.object(
            command, "prepare", lambda options, cores: (job, ModelCard({"num_classes": PALETTE.num_classes}, PALETTE))
        ),
    ):
        command.run(options, [])
    chunks = handed[0]["chunks"]
    return {"handed": chunks, "first": (handed[0]["plan"], chunks[0])}


def work(command: str, folder: str) -> None:
    """Reads what a worker needs for its first element."""
    with open(f"{folder}.first", "rb") as file:
        first = pickle.load(file)
    if command == "prepare":
        from pipelines.prepare import workarea

        workarea.read_plan(folder, first.name, first.plan)
    else:
        from pipelines.segment import plan

        plan.read_chunk(folder, *first)


def step(options: Options) -> None:
    (command,), (images,) = options.commands, options.images
    start = time.process_time()
    if options.step == "worker":
        work(command, options.folder)
        figures: dict[str, object] = {}
    else:
        with contextlib.redirect_stdout(io.StringIO()):
            handed = plan(command, images, options.folder, options.source == "lists")
        with open(f"{options.folder}.first", "wb") as file:
            pickle.dump(handed["first"], file)
        figures = {"passed": sum(len(pickle.dumps(one)) for one in handed["handed"]) / images}
    figures |= {"seconds": time.process_time() - start}
    figures |= {"memory": processes.peak_memory()}
    print(json.dumps(figures))


def plan_files(folder: str) -> tuple[int, int, str]:
    """Number, bytes and digest of the plan's files in the output folder; the report there names that folder."""
    digest, size, count = hashlib.sha256(), 0, 0
    for file in storage.files(folder):
        if file.relative == "segment.json":
            continue
        with open(file.path, "rb") as data:
            digest.update(f"{file.relative} {hashlib.file_digest(data, 'sha256').hexdigest()}\n".encode())
        size, count = size + file.size, count + 1
    return count, size, digest.hexdigest()[:12]


def row(command: str, images: int, source: str) -> str:
    with tempfile.TemporaryDirectory() as place:
        folder = os.path.join(place, "out")
        steps = {}
        for name in STEPS:
            argv = [sys.executable, __file__, "--images", str(images), "--commands", command, "--step", name]
            start = time.perf_counter()
            done = subprocess.run([*argv, "--folder", folder, "--source", source], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            steps[name] = json.loads(done.stdout) | {"wall": time.perf_counter() - start}
        count, size, digest = plan_files(folder)
    first, worker = steps["plan"], steps["worker"]
    cells = [command, f"{images:,}", f"{first['wall']:.0f} s", f"{first['seconds']:.0f} s"]
    cells += [f"{first['memory'] / 2**20:.0f} MiB", f"{size / images:.0f} in {count:,}", f"{first['passed']:.1f}"]
    cells += [f"{worker['seconds']:.1f} s, {worker['memory'] / 2**20:.0f} MiB", digest]
    return f"| {' | '.join(cells)} |"


def main(argv: list[str]) -> None:
    options, _ = parse(Options, argv, prog="benchmarks/scale.py", text=__doc__)
    if options.step:
        step(options)
        return
    print("| command | images | wall | CPU | most memory | bytes per image, files | passed on | worker | digest |")
    print("|---|---|---|---|---|---|---|---|---|")
    for command in options.commands:
        for images in options.images:
            print(row(command, images, options.source), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
