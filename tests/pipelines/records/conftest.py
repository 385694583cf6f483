from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.drawn.prepared import prepare_here
from tests.drawn.rawset import write_rawset


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """Six images for training and two for validation."""
    return write_rawset(tmp_path_factory.mktemp("raw"), {"train": 6, "val": 2})


@pytest.fixture(scope="session")
def prepared(source, tmp_path_factory):
    """The records of `source`, with a copy, in two shards for training; tests must not change them."""
    folder = tmp_path_factory.mktemp("prepared") / "records"
    assert prepare_here(source, folder, "--copies", "1", "--shards", "2") == 0
    return folder


@pytest.fixture
def folder(prepared, tmp_path):
    """A copy to be spoilt."""
    return Path(shutil.copytree(prepared, tmp_path / "records"))
