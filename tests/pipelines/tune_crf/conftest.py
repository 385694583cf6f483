from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

import pipelines.masks.segmenter  # noqa: F401 (before the network is replaced, or it keeps the one that stands in)
from pipelines.crf import refine as crf
from pipelines.masks import network as masks
from tests.drawn.tuning import Colours, Smoothing, write_model, write_records


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Colours:
    network = Colours(noise=2.5)
    monkeypatch.setattr(masks, "shared_network", lambda folder, digest, threads: network)
    return network


@pytest.fixture
def smoothing(monkeypatch: pytest.MonkeyPatch) -> Smoothing:
    smoothing = Smoothing()
    monkeypatch.setattr(crf, "refine", smoothing)
    return smoothing


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The machine's folder of temporary files, for this test alone."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """A model folder and a folder of records with twelve images."""
    write_records(tmp_path / "records")
    return write_model(tmp_path / "model"), tmp_path / "records"
