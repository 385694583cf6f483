"""A model folder that is exported in no time, and records of its classes."""

from __future__ import annotations

from pathlib import Path

import keras
import pytest

from tests.drawn.records import PALETTE, record, write_records
from tests.drawn.training import colour_network
from tests.drawn.tuning import some_tuning
from trainer import storage
from trainer.formats.cards import TUNING_FILE, ModelCard, weights_digest
from trainer.network import folder
from trainer.network.folder import save_model

MAX_SIDE = 80
"""Under the 96 pixels of the records' images, which are therefore shrunk."""


def drawn_network(num_classes: int, **_: object) -> keras.Model:
    """`colour_network` with the weights that tell the drawn classes from their colours."""
    network = colour_network(num_classes)
    kernel, bias, place_kernel, place_bias = network.layers[-1].get_weights()
    for label, color in enumerate(PALETTE.colors[:num_classes]):
        kernel[0, 0, :, label] = [value / 127.5 - 1 for value in color]
    network.layers[-1].set_weights([kernel * 4, bias, place_kernel, place_bias])
    return network


@pytest.fixture(scope="module", autouse=True)
def small_networks():
    """A fixture of the session would keep the network replaced for every test that comes after in the process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder, "deeplab_v3_plus", drawn_network)
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model")
    card = ModelCard({"num_classes": 3}, PALETTE, MAX_SIDE, training={"records": "/home/someone/records"})
    save_model(str(path), drawn_network(3), card)
    storage.write_json(str(path / TUNING_FILE), some_tuning(model_digest=weights_digest(str(path))).to_json())
    return str(path)


@pytest.fixture(scope="session")
def records(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Six training images in two shards, each with a copy, and three for validation, of two sizes."""
    path = tmp_path_factory.mktemp("data") / "records"
    train = [[record(i) for i in range(6)], [record(i) for i in range(6, 12)]]
    val = [record(20), record(21), record(22, (64, 72), "png")]
    write_records(Path(path), {"train": train, "val": [val]}, copies=1)
    return str(path)
