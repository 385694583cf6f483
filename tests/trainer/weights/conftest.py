from __future__ import annotations

import io
import tarfile

import pytest

from tests.drawn import faults
from tests.drawn.checkpoints import mobilenet_variables, write_checkpoint
from tests.drawn.web import CONTENT, served
from trainer.weights import download


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server with the file CONTENT, and an empty cache."""
    monkeypatch.setenv("DEEPLAB_CACHE", str(tmp_path / "cache"))
    faults.impatient(monkeypatch, 2)
    monkeypatch.setattr(download, "REFUSED_WAITS", ())
    with served(CONTENT) as server:
        yield server


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """A published archive: its bytes, and the values in it."""
    folder = tmp_path_factory.mktemp("archive")
    values = write_checkpoint(folder / "model.ckpt-30000", mobilenet_variables(3))
    with tarfile.open(folder / "weights.tar.gz", "w:gz") as file:
        for path in sorted(folder.glob("model.ckpt*")):
            file.add(path, f"deeplabv3/{path.name}")
        file.addfile(tarfile.TarInfo("../frozen_inference_graph.pb"), io.BytesIO())
    return (folder / "weights.tar.gz").read_bytes(), values
