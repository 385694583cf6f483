"""What a training validates is what `segment` computes, whatever the precision it is trained in."""

from __future__ import annotations

import numpy as np

from pipelines.masks.network import Network
from tests.drawn.networks import random_image, randomise
from tests.drawn.records import PALETTE
from tests.drawn.training import pooled_network
from trainer import metrics
from trainer.formats.cards import ModelCard
from trainer.network import folder
from trainer.network.folder import save_model
from trainer.network.inference import predictor
from trainer.train import model as models
from trainer.train.options import Options

OPTIONS = Options(records="records", output="model", alpha=0.25, precision="mixed_bfloat16")


def test_under_mixed_precision_validation_counts_what_the_masks_of_segment_are(tmp_path, monkeypatch):
    for module in (models, folder):
        monkeypatch.setattr(module, "deeplab_v3_plus", pooled_network)
    with models.precision(OPTIONS.precision):
        model = models.build(OPTIONS, PALETTE)
        randomise(model)
        network = models.for_validation(model, OPTIONS, PALETTE)
    models.copy_weights(model, network)
    save_model(str(tmp_path), model, ModelCard(models.architecture(OPTIONS, PALETTE), PALETTE))
    images = random_image(48, 64, batch=2)
    labels = np.random.default_rng(1).integers(0, PALETTE.num_classes, images.shape[:3]).astype(np.uint8)
    found = [predictor(network, "ids")(images), Network(str(tmp_path))(images, "ids")]
    validation, segmentation = (
        metrics.confusion(labels, ids, PALETTE.num_classes, PALETTE.ignore_id) for ids in found
    )
    np.testing.assert_array_equal(validation, segmentation)
    assert np.count_nonzero(validation.sum(0)) > 1
    # What is trained says otherwise.
    assert (predictor(model, "ids")(images) != found[0]).any()


def test_in_float32_the_model_itself_is_validated():
    options = Options(records="records", output="model")
    model = object()
    assert models.for_validation(model, options, PALETTE) is model
