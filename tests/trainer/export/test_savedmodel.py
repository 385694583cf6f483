"""What is read of a SavedModel that may be anybody's."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from tests.drawn.networks import random_image
from tests.trainer.export.conftest import drawn_network
from trainer.export import savedmodel
from trainer.export.graph import frozen
from trainer.formats.exports import OUTPUTS
from trainer.options import InputError


@pytest.fixture(scope="module")
def network() -> keras.Model:
    return drawn_network(3)


@pytest.fixture(scope="module")
def data(network: keras.Model) -> bytes:
    return savedmodel.build(frozen(network, 0))


def with_node(data: bytes, operation: str) -> bytes:
    """The SavedModel with one operation more, which nothing needs."""
    model = SavedModel.FromString(data)
    model.meta_graphs[0].graph_def.node.add(name="more", op=operation)
    return model.SerializeToString()


def test_the_same_model_gives_the_same_bytes(network, data):
    assert savedmodel.build(frozen(network, 0)) == data


def test_it_computes_what_tensorflow_serves(data, tmp_path):
    (tmp_path / "saved_model.pb").write_bytes(data)
    images = random_image(33, 47, batch=2)
    ids, probabilities = savedmodel.load(data)(images, OUTPUTS)
    assert ids.dtype == np.uint8 and ids.shape == (2, 33, 47) and probabilities.shape == (2, 33, 47, 3)
    np.testing.assert_allclose(savedmodel.served(str(tmp_path))(images, OUTPUTS)[1], probabilities, atol=1e-6)
    np.testing.assert_array_equal(savedmodel.load(data)(images, ["ids"])[0], ids)


@pytest.mark.parametrize(
    "operation", ["ReadFile", "WriteFile", "PyFunc", "EagerPyFunc", "RestoreV2", "NoSuchOperation"]
)
def test_operations_that_do_more_than_compute_are_refused(data, operation):
    with pytest.raises(InputError, match=f"operations that no export has: {operation}"):
        savedmodel.load(with_node(data, operation))


def test_a_savedmodel_of_others_is_refused(tmp_path):
    module = tf.Module()
    module.call = tf.function(lambda x: x + 1, input_signature=[tf.TensorSpec([None], tf.float32)])
    tf.saved_model.save(module, str(tmp_path))
    with pytest.raises(InputError, match="`deeplab export` did not write it"):
        savedmodel.load((tmp_path / "saved_model.pb").read_bytes())


def test_an_output_that_is_missing_is_named(data):
    model = SavedModel.FromString(data)
    del model.meta_graphs[0].signature_def["serving_default"].outputs["ids"]
    with pytest.raises(InputError, match=r"did not write it: it has no output ids, only probabilities$"):
        savedmodel.load(model.SerializeToString())


@pytest.mark.parametrize("data", [b"", b"no protobuf", b"\x08\x01"])
def test_damaged_files_are_refused(data):
    with pytest.raises(InputError, match="is damaged"):
        savedmodel.load(data)
