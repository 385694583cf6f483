"""One network per process. What it predicts is tested where commands use it."""

from __future__ import annotations

import os

import numpy as np
import pytest

from pipelines.masks import network
from trainer.options import InputError

WEIGHTS = {"m": "d", "n": "d"}
"""Folder -> digest of the weights in it."""


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders that networks are loaded from."""
    folders: list[str] = []

    def load(folder: str, digest: str) -> object:
        folders.append(folder)
        if digest != WEIGHTS[folder]:
            raise InputError(f"the model in {folder} was replaced while this command was running")
        return object()

    monkeypatch.setattr(network, "Network", load)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    network._network.cache_clear()
    yield folders
    network._network.cache_clear()


def test_a_network_is_loaded_once_until_its_folder_holds_another(
    loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = network.shared_network("m", "d", 0)
    assert network.shared_network("m", "d", 0) is first and loads == ["m"]
    monkeypatch.setitem(WEIGHTS, "m", "e")
    assert network.shared_network("m", "e", 0) is not first and loads == ["m", "m"]
    assert "TF_NUM_INTRAOP_THREADS" not in os.environ


def test_threads_are_bounded_unless_the_environment_says_otherwise(
    loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {})
    network.shared_network("m", "d", 2)
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == "2"
    network.shared_network("n", "d", 4)
    assert os.environ["TF_NUM_INTRAOP_THREADS"] == "2"


def test_a_model_that_was_replaced_before_a_worker_read_it_is_refused(loads: list[str]) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match="the model in m was replaced while this command was running"):
            network.shared_network("m", "of the model that the masks are planned with", 0)


def outputs(images: np.ndarray, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """What an export gives that is unsure of everything."""
    shape = images.shape[:3]
    return np.zeros(shape, np.uint8), np.full((*shape, classes), 1 / classes, np.float32)


def test_an_export_that_gives_classes_is_taken() -> None:
    assert network._try(lambda images, _: outputs(images), 3) is None


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda ids, probabilities: (ids / 0, probabilities)[2], "it does not run: tuple index out of range; export"),
        (
            lambda ids, probabilities: (ids.astype(np.int64), probabilities),
            r"it gives int64 \[1, 33, 47\]",
        ),
        (
            lambda ids, probabilities: (ids[:, ::2], probabilities),
            "image of 33x47 and 3 classes it gives uint8",
        ),
        (lambda ids, _: outputs(ids, 4), r"and float32 \[1, 33, 47, 4\]; export the model again"),
        (lambda ids, probabilities: (ids + np.uint8(3), probabilities), "it gives class ids up to 3 for 3 classes"),
        (lambda ids, probabilities: (ids, probabilities * np.nan), "probabilities that do not add up to 1"),
    ],
)
def test_an_export_that_was_edited_is_refused_before_the_first_image(edit, message) -> None:
    with np.errstate(invalid="ignore"), pytest.raises(InputError, match=message):
        network._try(lambda images, _: edit(*outputs(images)), 3)


@pytest.mark.parametrize("kind", ["", "savedmodel"])
def test_a_backend_of_keras_that_does_not_exist_is_refused(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """TensorFlow imports Keras to load a SavedModel."""
    monkeypatch.setenv("KERAS_BACKEND", "tensrflow")
    monkeypatch.setattr(network.exports, "kind", lambda _: kind)
    with pytest.raises(InputError, match="KERAS_BACKEND is 'tensrflow'; expected one of"):
        network.Network("m")
