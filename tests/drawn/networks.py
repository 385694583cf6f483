"""Networks small enough for tests, and images for them."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from keras import layers

from trainer.formats.cards import ModelCard
from trainer.formats.labels import Palette
from trainer.network.deeplab import deeplab_v3_plus
from trainer.network.folder import save_model

SMALL = {"num_classes": 11, "alpha": 0.25, "subpixel_start": "bilinear"}


def random_image(height: int, width: int, batch: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3)).astype("uint8")


def randomise(model: keras.Model) -> None:
    """Weights and statistics away from their initial values, so that every one of them shows in the output."""
    rng = np.random.default_rng(1)
    for layer in model.layers:
        values = layer.get_weights()
        if isinstance(layer, layers.BatchNormalization):
            values = [rng.uniform(0.5, 1.5, value.shape) for value in values]
        else:
            values = [value + rng.normal(0, 0.02, value.shape) for value in values]
        layer.set_weights(values)


def small_network() -> keras.Model:
    """The architecture of SMALL with weights that all show in the output."""
    model = deeplab_v3_plus(**SMALL)
    randomise(model)
    return model


def write_model(folder: Path, palette: Palette) -> None:
    """A model folder of the smallest network, with random weights that are the same every time."""
    keras.utils.set_random_seed(1)
    architecture = {"num_classes": palette.num_classes, "alpha": 0.35, "head": "bilinear"}
    save_model(str(folder), deeplab_v3_plus(**architecture), ModelCard(architecture, palette))


def assert_greatest(ids: np.ndarray, values: np.ndarray) -> None:
    """Asserts that each id is of a greatest value [..., classes].

    Kernels chosen for another size or machine round differently, which decides between values equal up to that.
    """
    chosen = np.take_along_axis(values, ids[..., None].astype(np.int64), axis=-1)[..., 0]
    np.testing.assert_allclose(chosen, values.max(-1), rtol=0, atol=1e-5 * np.abs(values).max())
