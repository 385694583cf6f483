from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.drawn.segmenting import PALETTE, SIZES, draw, save, segment


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny network with random weights, but with masks of all three classes."""
    pytest.importorskip("tensorflow")
    import keras

    from trainer.formats.cards import ModelCard
    from trainer.network.deeplab import deeplab_v3_plus
    from trainer.network.folder import save_model

    keras.utils.set_random_seed(1)
    architecture = {"num_classes": 3, "alpha": 0.35, "head": "bilinear"}
    network = deeplab_v3_plus(**architecture)
    # The last layer is fitted to features of this very net, so that no class wins everywhere.
    kernel, bias = [layer for layer in network.layers if layer.weights][-1].weights
    images = np.stack([draw(40, 56, seed) for seed in range(8)])
    kernel.assign(np.random.default_rng(0).normal(0, 1, kernel.shape))
    logits = np.asarray(network(images, training=False))
    scale = 3 / logits.std()
    kernel.assign(kernel * scale)
    bias.assign(-logits.mean((0, 1, 2)) * scale)
    folder = tmp_path_factory.mktemp("model")
    save_model(str(folder), network, ModelCard(architecture, PALETTE))
    return folder


@pytest.fixture(scope="session")
def softmax(model: Path) -> Callable[[np.ndarray], np.ndarray]:
    """From one image, uint8 [H, W, 3], alone to what the network makes of it, float32 [H, W, C]."""
    from trainer.network.folder import load_model
    from trainer.network.inference import predictor

    predict = predictor(load_model(str(model))[0], "probabilities")
    return lambda image: predict(image[None])[0]


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the images of SIZES."""
    folder = tmp_path_factory.mktemp("photos")
    for seed, (name, size) in enumerate(SIZES.items()):
        save(folder / f"{name}.png", draw(*size, seed))
    return folder


@pytest.fixture(scope="session")
def segmented(model: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks, overlays and confidence maps of `photos`; tests must not change them."""
    output = tmp_path_factory.mktemp("out") / "masks"
    flags = ("--batch-size", 2, "--overlays", "--confidence", "--direct_num_workers", 2)
    assert segment("--input", photos, "--model", model, "--output", output, *flags) == 0
    return output
