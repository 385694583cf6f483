from __future__ import annotations

import signal

import pytest

from tests.drawn.training import colour_network, draw_records


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    """A folder of records of eight training images, one copy of each, and four validation images."""
    return draw_records(tmp_path_factory.mktemp("drawn") / "records")


@pytest.fixture
def tiny_network(monkeypatch):
    """Makes trainings take a network of one layer."""
    from trainer.train import model

    monkeypatch.setattr(model, "deeplab_v3_plus", colour_network)


@pytest.fixture
def ctrl_c():
    """Lets Ctrl-C interrupt: a shell lets what it runs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
