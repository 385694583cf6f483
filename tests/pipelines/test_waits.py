"""In Cloud Storage, commands read images ahead and write files behind, instead of waiting for one after another."""

from __future__ import annotations

import pytest
from PIL import Image

from benchmarks.objects import one_after_another
from pipelines import cli
from pipelines.doctor.verdict import SHOWN
from pipelines.runner import handover
from tests.drawn.prepared import prepare_here
from tests.drawn.rawset import write_rawset
from trainer import storage
from trainer.formats.images import encode_jpeg
from trainer.formats.label_images import decode_label
from trainer.formats.labels import Palette

IMAGES = 64
CHUNKS = 8
FEW = 60
"""Requests of a command that do not depend on the number of images and chunks, and come one after another."""


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Sixty-four images, of which each is nearly the same as another one."""
    folder = write_rawset(tmp_path_factory.mktemp("many"), {"train": IMAGES - 1, "val": 1}, size=64)
    images = folder / "images/train"
    for number in range(0, IMAGES - 2, 2):
        Image.open(images / f"a{number}.jpg").save(images / f"a{number + 1}.jpg", quality=70)
    return folder


@pytest.fixture
def remote(server, raw):
    """A Cloud Storage that takes its time, with the raw set, and with masks that equal its labels."""
    for file in storage.files(str(raw)):
        data = storage.read(file.path)
        storage.write(f"gs://b/raw/{file.relative}", data)
        storage.write(f"gs://b/masks/{file.relative}", data)
    server.delay = 0.05  # longer than what is done between two answers
    return server


ALONE = ("--direct_num_workers", "1")


def waits(server, status: int, *argv: str) -> int:
    """The number of requests of a command that came one after the other."""
    server.requests.clear()
    server.spans.clear()
    assert cli.main([*argv, *(() if argv[0] == "records" else ALONE)]) == status
    return one_after_another(server.spans)


def test_evaluate_reads_labels_and_masks_ahead(remote):
    folders = ["--labels", "gs://b/raw/labels", "--masks", "gs://b/masks/labels"]
    argv = ["evaluate", *folders, "--output", "gs://b/out", "--palette", "gs://b/raw/palette.json"]
    assert waits(remote, 0, *argv) <= FEW + 3 * CHUNKS
    # Whether a label of the sample has crashed a process is asked once, not for every chunk.
    note = handover.in_flight("gs://b/out").path(handover.LABELS).rpartition("/")[2]
    assert sum(note in address and method == "GET" for method, address in remote.requests) == 1


def test_doctor_reads_pairs_ahead_and_those_that_it_compares(remote):
    assert waits(remote, 0, "doctor", "gs://b/raw", "--output", "gs://b/out") <= FEW + 3 * CHUNKS
    found = {one["kind"]: one["count"] for one in storage.read_json("gs://b/out/doctor.json")["findings"]}
    assert found["near-duplicates"] == IMAGES - 2


def test_doctor_reads_pairs_ahead_that_it_mends_and_writes_their_labels_behind(remote):
    remote.delay, delay = 0, remote.delay
    palette = Palette.from_json(storage.read_json("gs://b/raw/palette.json"))
    for file in storage.files("gs://b/raw/labels"):
        ids = decode_label(storage.read(file.path))
        storage.remove(file.path)
        storage.write(file.path.replace(".png", ".jpg"), encode_jpeg(palette.colorize(ids), 95))
    remote.delay = delay
    flags = ("--output", "gs://b/out", "--mend", "--palette", "gs://b/raw/palette.json")
    assert waits(remote, 1, "doctor", "gs://b/raw", *flags) <= FEW + 3 * CHUNKS + 4 * SHOWN
    assert len(storage.files("gs://b/out/labels")) == IMAGES


def test_export_writes_files_behind(remote):
    remote.delay, delay = 0, remote.delay
    assert prepare_here("gs://b/raw", "gs://b/records") == 0
    remote.delay = delay
    assert waits(remote, 0, "records", "export", "gs://b/records", "gs://b/out") <= FEW
    assert len(storage.files("gs://b/out/images")) == len(storage.files("gs://b/out/labels")) == IMAGES
