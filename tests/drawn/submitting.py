"""A bucket with what jobs read, and command lines of `deeplab submit`."""

from __future__ import annotations

from pathlib import Path

from pipelines import __version__, cli
from pipelines.submit import checks
from pipelines.submit.plan import plan
from tests.drawn.records import record, write_records
from trainer import storage

IMAGE = f"europe-docker.pkg.dev/project/images/deeplab-trainer:{__version__}"


def upload(folder: Path, address: str) -> str:
    """Copies a folder to gs://."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            storage.write(storage.join(address, path.relative_to(folder).as_posix()), path.read_bytes())
    return address


def upload_records(folder: Path, address: str, size: int = 32) -> str:
    """Four training images in two shards, and two for validation."""
    shards = [[record(i, (96, 96)) for i in pair] for pair in ((0, 1), (2, 3), (4, 5))]
    write_records(folder, {"train": shards[:2], "val": shards[2:]})
    return upload(folder, address)


def submit(verb: str, *flags: str, command: list[str]) -> int:
    """Runs `deeplab submit`, with the trainer image unless `flags` name another."""
    image = [] if "--image" in flags else ["--image", IMAGE]
    return cli.main(["submit", verb, *image, *flags, "--", *command])


def problems(verb: str, *flags: str, command: str) -> list[str]:
    """What is wrong with a job of the trainer image, unless `flags` name another."""
    _, options, _ = cli.read(["submit", verb, "--image", IMAGE, *flags, "--", *command.split()])
    job, beam, unread = plan(options)
    return unread + checks.problems(options, job, beam)
