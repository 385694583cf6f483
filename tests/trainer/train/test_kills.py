"""Trainings that are killed, and go on as if they had not been, to the bit."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.drawn.checkpoints import conv, write_checkpoint
from tests.drawn.places import ROOT
from tests.drawn.training import assert_same_checkpoint, history, train_flags
from tests.drawn.web import served

pytestmark = pytest.mark.slow

TAKEN = 400
"""Bytes of a download after which it is killed."""

FORKS = f"""
import functools, json, os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from pipelines import cli
from tests.drawn.training import colour_network, pooled_network
from trainer.network import folder
from trainer.train import command, model as models, resume, steps  # once for all: it takes longer than a training
from trainer.weights import download

for module in (models, folder):
    module.deeplab_v3_plus = functools.partial(pooled_network, dropout=0.1)

PLACES = {{
    "download": (download, "_copy"),
    "build": (models, "build"),
    "step": (steps.Steps, "on_train_batch_end"),
    "checkpoint": (resume.np, "savez"),
    "validation": (command, "validate"),
    "model": (command, "history_csv"),
    "epoch": (command, "keep_epoch"),
}}

def kill(place, count, number, is_after):
    owner, name = PLACES[place]
    before, calls = getattr(owner, name), []

    def called(*arguments, **more):
        calls.append(place)
        result = before(*arguments, **more) if is_after else None
        if len(calls) == count:
            if place == "checkpoint":
                arguments[0].write(b"PK half of it")
            if place == "download":
                arguments[1].write(arguments[0].read({TAKEN}))
                arguments[1].flush()
            os.kill(os.getpid(), number)
        return result if is_after else before(*arguments, **more)

    setattr(owner, name, called)

for line in sys.stdin:
    job = json.loads(line)
    if not (child := os.fork()):
        os.dup2(os.open(job["said"], os.O_CREAT | os.O_APPEND | os.O_WRONLY), 1)
        os.dup2(1, 2)
        if job["kill"]:
            kill(*job["kill"])
        os._exit(cli.main(job["flags"]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Starts the training of every line it reads, and writes the process and how it ended."""


class Forks:
    """Trainings that begin with all that `FORKS` imports."""

    def __init__(self, backend: str, said: Path) -> None:
        # Sums depend on how many threads share them, of which there are as many as cores at the start of a process.
        environment = {"TF_NUM_INTRAOP_THREADS": "2", "KERAS_BACKEND": backend, "JAX_PLATFORMS": "cpu"}
        environment |= {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # what is run a few times need not be fast
        pipe = subprocess.PIPE
        self.said = said
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKS], env=os.environ | environment, stdin=pipe, stdout=pipe, text=True
        )

    def start(self, flags: list[str], kill: tuple = ()) -> int:
        """Starts a training; returns its process."""
        print(json.dumps({"flags": flags, "kill": kill, "said": str(self.said)}), file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())

    def ended(self) -> int:
        """The exit status of the last one, or less than 0 for the signal that ended it."""
        return int(self._process.stdout.readline())

    def close(self) -> None:
        self._process.communicate()


@contextlib.contextmanager
def forks(backend: str, folder: Path) -> Iterator[Forks]:
    opened = Forks(backend, folder / "said.txt")
    try:
        yield opened
    finally:
        opened.close()


def assert_same(output: Path, whole: Path, epochs: int) -> None:
    """The trainings have the same losses and weights, to the bit."""
    for row, expected in zip(history(output), history(whole), strict=True):
        assert row | {"seconds_per_step": 0} == expected | {"seconds_per_step": 0}
    name = f"checkpoints/epoch-{epochs:04d}.npz"
    assert_same_checkpoint(output / name, whole / name)
    assert not list(output.rglob("*.tmp"))


LENGTH = ["--epochs", "3", "--steps-per-epoch", "4", "--scale-min", "0.3"]

KILLS = [
    ("build", 1, signal.SIGTERM, False),
    ("step", 2, signal.SIGHUP, False),
    ("checkpoint", 1, signal.SIGKILL, False),
    ("validation", 1, signal.SIGKILL, False),
    ("validation", 1, signal.SIGHUP, False),
    ("model", 1, signal.SIGKILL, False),
    ("step", 1, signal.SIGKILL, True),
    ("checkpoint", 2, signal.SIGTERM, True),
    ("epoch", 1, signal.SIGTERM, True),
    ("step", 3, signal.SIGKILL, False),
]
"""Where each of the runs is killed: place, at which call, by which signal, and whether behind it."""

CASES = {
    "default": "",
    "frozen": "--freeze-bn --pixel-weights none --precision mixed_bfloat16 --schedule constant",
    "all": "--optimizer adam --schedule plateau --plateau-patience 1 --weight-decay 0.01 --lovasz 1 "
    "--backbone-rate 0.1 --accumulate 2 --precision mixed_float16",
}


@pytest.mark.parametrize(
    ("backend", "case", "kills"),
    [
        ("tensorflow", "default", KILLS),
        ("jax", "frozen", KILLS[::2]),
        ("tensorflow", "all", KILLS[1::2]),
        ("jax", "all", KILLS[1::2]),
    ],
    ids=lambda value: value if isinstance(value, str) else len(value),
)
def test_a_training_killed_anywhere_gives_the_same_result(backend, case, kills, records, tmp_path):
    pytest.importorskip(backend)
    whole, output = tmp_path / "whole", tmp_path / "killed"
    flags = [*LENGTH, *CASES[case].split()]
    with forks(backend, tmp_path) as trainings:
        trainings.start(train_flags(records, whole, *flags, "--checkpoint-minutes", "0"))
        assert trainings.ended() == 0, trainings.said.read_text()[-3000:]
        for kill in kills:
            trainings.start(train_flags(records, output, *flags, "--checkpoint-minutes", "1e-9"), kill)
            expected = -signal.SIGKILL if kill[2] == signal.SIGKILL else 128 + kill[2]
            assert trainings.ended() == expected, (kill, trainings.said.read_text()[-3000:])
        trainings.start(train_flags(records, output, *flags))
        assert trainings.ended() == 0, trainings.said.read_text()[-3000:]
    assert_same(output, whole, 3)


@pytest.fixture
def archive(tmp_path) -> bytes:
    """Published weights that fit the network, as they are fetched."""
    folder = tmp_path / "published"
    folder.mkdir()
    write_checkpoint(folder / "model.ckpt", conv("entry", 3, 3, 8) | conv("image_pooling", 1, 8, 8))
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as file:
        for path in sorted(folder.glob("model.ckpt*")):
            file.add(path, path.name)
    return packed.getvalue()


def test_a_training_killed_while_downloading_weights_resumes_the_download(archive, records, tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
    output, whole = tmp_path / "killed", tmp_path / "whole"
    with served(archive) as server, forks("tensorflow", tmp_path) as trainings:
        url = server.url.replace("weights.bin", "weights.tar.gz")
        flags = [*LENGTH, "--epochs", "1", "--init-from", url]
        for number, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
            trainings.start(train_flags(records, output, *flags), ("download", 1, number, False))
            assert trainings.ended() == status, trainings.said.read_text()[-3000:]
        assert not output.exists() or not list(output.rglob("*.npz"))
        trainings.start(train_flags(records, output, *flags))
        assert trainings.ended() == 0, trainings.said.read_text()[-3000:]
        assert server.ranges == ["", f"bytes={TAKEN}-", f"bytes={2 * TAKEN}-"]
        server.shutdown()  # the cache has it
        trainings.start(train_flags(records, whole, *flags))
        assert trainings.ended() == 0, trainings.said.read_text()[-3000:]
    assert trainings.said.read_text().count("4 layers loaded (entry, image_pooling)") == 2
    assert_same(output, whole, 1)
