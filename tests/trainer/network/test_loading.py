"""What is checked of a model folder before its arrays are read."""

from __future__ import annotations

import errno
import io
import os
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from trainer import storage
from trainer.files import scratch
from trainer.formats.cards import ModelCard, weights_digest
from trainer.formats.palettes import Palette
from trainer.network import folder as models
from trainer.network.folder import load_model, load_weights
from trainer.options import InputError

PALETTE = Palette("two", ("ground", "thing"), ((0, 200, 0), (200, 0, 0)))
CARD = ModelCard({"num_classes": 2, "alpha": 0.1}, PALETTE)


def network() -> keras.Model:
    return keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(2, 1)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    models.save_model(str(tmp_path), network(), CARD)
    return tmp_path


def test_only_the_weights_that_a_job_began_with_are_read(folder: Path) -> None:
    digest = weights_digest(str(folder))
    load_weights(network(), str(folder), digest)
    models.save_model(str(folder), network(), CARD)
    with pytest.raises(InputError, match="was replaced while this command was running"):
        load_weights(network(), str(folder), digest)


def test_weights_that_are_replaced_while_they_are_loaded_do_not_matter(folder: Path, monkeypatch) -> None:
    """What was digested is what is read."""
    digest, wanted, check = weights_digest(str(folder)), network(), models._check_archive
    load_weights(wanted, str(folder))

    def replace(*arguments) -> None:
        models.save_model(str(folder), network(), CARD)
        check(*arguments)

    monkeypatch.setattr(models, "_check_archive", replace)
    loaded = network()
    load_weights(loaded, str(folder), digest)
    np.testing.assert_array_equal(loaded.get_weights()[0], wanted.get_weights()[0])


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_for_temporary_files_is_no_fault_of_the_model(number: int, folder: Path, monkeypatch) -> None:
    def fail(*_, **__) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(models, "open", fail, raising=False)
    monkeypatch.setattr(keras.Model, "save", fail)
    for work in (
        lambda: load_weights(network(), str(folder)),
        lambda: models.save_model(str(folder), network(), CARD),
    ):
        with pytest.raises(storage.Unavailable, match=rf"{scratch.place()}: .*; .+ and run the same command again"):
            work()


def rewrite(path: Path, change) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in change(members).items():
            archive.writestr(name, data)


def test_an_archive_that_would_unpack_to_far_more_than_the_network_is_refused(folder: Path) -> None:
    rewrite(folder / "model.keras", lambda members: members | {"metadata.json": bytes(200 << 20)})
    assert (folder / "model.keras").stat().st_size < 1 << 20
    with pytest.raises(InputError, match="claims to hold 209,"):
        load_weights(network(), str(folder))


def test_arrays_that_claim_a_size_which_is_not_there_are_refused(folder: Path) -> None:
    def change(members):
        buffer = io.BytesIO(members["model.weights.h5"])
        with h5py.File(buffer, "r+") as file:
            group = file["layers/conv2d/vars"]
            del group["0"]
            group.create_dataset("0", (1 << 20, 1 << 20), "float32", chunks=(1024, 1024))
        return members | {"model.weights.h5": buffer.getvalue()}

    rewrite(folder / "model.keras", change)
    with pytest.raises(InputError, match="its arrays claim"):
        load_weights(network(), str(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 1e300}, "alpha must be"),
        ({"alpha": float("nan")}, "alpha must be"),
        ({"aspp_rates": [10**18]}, "aspp_rates must be at most 16 whole numbers from 1 to 1000"),
        ({"aspp_rates": [1] * 10**6}, "aspp_rates must be"),
        ({"aspp_rates": 6}, "aspp_rates|int"),
        ({"dropout": 7}, "dropout|rate"),
        ({"momentum": "much"}, "momentum|much"),
    ],
)
def test_numbers_that_no_network_is_built_from_are_refused(change, message, folder: Path) -> None:
    models.save_card(str(folder), ModelCard({**CARD.architecture, **change}, PALETTE))
    with pytest.raises(InputError, match=rf"model\.json: .*({message})"):
        load_model(str(folder))
