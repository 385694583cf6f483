from __future__ import annotations

import pytest

from tests.drawn import faults
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
