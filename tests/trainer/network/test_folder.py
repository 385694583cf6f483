"""The model folder: what is saved comes back, and what is damaged is refused."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import ops

from tests.drawn.held import held
from tests.drawn.networks import SMALL, random_image, randomise
from trainer.formats import exports
from trainer.formats.cards import ModelCard, load_card, weights_digest
from trainer.formats.palettes import CAMVID, VOC
from trainer.network.deeplab import HEAD, deeplab_v3_plus
from trainer.network.folder import load_model, save_model
from trainer.network.inference import predictor
from trainer.options import InputError


@pytest.fixture(scope="module")
def folder(small_model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model")
    save_model(str(path), small_model, ModelCard({**SMALL}, CAMVID, max_side=64, scores={"miou": 0.5}))
    return path


def test_a_saved_model_is_loaded_bit_for_bit_with_its_card(small_model, folder):
    model, card = load_model(str(folder))
    assert card.palette == CAMVID
    assert card.scores == {"miou": 0.5}
    assert load_card(str(folder)) == card
    image = random_image(33, 47)
    np.testing.assert_array_equal(ops.convert_to_numpy(model(image)), ops.convert_to_numpy(small_model(image)))


def test_a_card_that_names_no_start_of_the_subpixel_head_is_of_one_that_starts_as_nearest(tmp_path):
    """As version 0.3 and before wrote them; the shapes of the weights do not tell the starts apart."""
    model = deeplab_v3_plus(11, alpha=0.1, subpixel_start="nearest")
    randomise(model)
    architecture = {"num_classes": 11, "backbone": "mobilenet_v2", "alpha": 0.1, "output_stride": 16}
    architecture |= {"head": "subpixel", "decoder": None, "aspp_rates": None, "momentum": 0.99}
    save_model(str(tmp_path), model, ModelCard(architecture, CAMVID))
    loaded, _ = load_model(str(tmp_path))
    assert loaded.get_layer(HEAD).start == "nearest"
    image = random_image(33, 47)
    np.testing.assert_array_equal(ops.convert_to_numpy(loaded(image)), ops.convert_to_numpy(model(image)))


def copy_of(folder: Path, target: Path) -> Path:
    """A copy whose weights may be changed: its card does not state them."""
    target.mkdir()
    (target / "model.keras").write_bytes((folder / "model.keras").read_bytes())
    card = json.loads((folder / "model.json").read_text())
    (target / "model.json").write_text(json.dumps(card | {"weights": ""}))
    return target


def test_weights_of_another_training_of_the_same_network_are_refused(folder, small_model, tmp_path):
    save_model(str(tmp_path), deeplab_v3_plus(**SMALL), load_card(str(folder)))
    (tmp_path / "model.json").write_bytes((folder / "model.json").read_bytes())
    with pytest.raises(InputError, match=r"is not the file that model\.json beside it describes"):
        weights_digest(str(tmp_path))
    with pytest.raises(InputError, match="copy both from one folder"):
        load_model(str(tmp_path))
    load_model(str(copy_of(tmp_path, tmp_path / "told")))


def test_a_folder_that_is_replaced_between_its_card_and_its_weights_is_refused(folder, small_model, tmp_path):
    card = load_card(str(folder))
    save_model(str(tmp_path), deeplab_v3_plus(**SMALL), card)
    weights_digest(str(tmp_path))
    for digest in (weights_digest, exports.model_digest):
        with pytest.raises(InputError, match=r"is not the file that model\.json beside it describes"):
            digest(str(tmp_path), card)


def edited(data: bytes, edit: Callable[[h5py.File], None]) -> bytes:
    """An HDF5 file that `edit` has changed."""
    buffer = io.BytesIO(data)
    with h5py.File(buffer, "r+") as file:
        edit(file)
    return buffer.getvalue()


def rewritten(path: Path, change) -> None:
    """Rewrite the archive at `path`, each member through `change(name, bytes)`."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, change(name, data))


def test_loading_runs_nothing_from_the_archive(folder, tmp_path, monkeypatch):
    """The layer descriptions are replaced by a call of a shell command; none may be looked at."""
    target, trace = copy_of(folder, tmp_path / "model"), tmp_path / "trace"
    call = {"module": "os", "class_name": "system", "config": f"touch {trace}", "registered_name": "function"}
    evil = {"module": "builtins", "class_name": "function", "config": "system", "registered_name": "function"}
    code = {"class_name": "Lambda", "module": "keras.layers", "config": {"function": evil, "name": "x"}, "build": call}
    rewritten(target / "model.keras", lambda name, data: json.dumps(code).encode() if name == "config.json" else data)

    def refuse(*args, **kwargs):
        raise AssertionError("a layer description was deserialised")

    monkeypatch.setattr("keras.src.saving.saving_lib.deserialize_keras_object", refuse)
    with pytest.raises(AssertionError, match="deserialised"):
        keras.saving.load_model(target / "model.keras")
    load_model(str(target))
    assert not trace.exists()


def test_links_to_other_files_are_not_followed(folder, tmp_path):
    target = copy_of(folder, tmp_path / "model")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.zeros(3)

    def link(name: str, data: bytes) -> bytes:
        if name != "model.weights.h5":
            return data
        weights = tmp_path / "weights.h5"
        weights.write_bytes(data)
        with h5py.File(weights, "r+") as file:
            group = file["layers/conv2d/vars"]
            del group["0"]
            group["0"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")
        return weights.read_bytes()

    rewritten(target / "model.keras", link)
    with pytest.raises(InputError, match="ExternalLink"):
        load_model(str(target))


def test_an_attribute_at_which_the_library_of_hdf5_stays_is_not_read(folder, tmp_path):
    """A text that ends within the entry behind it, of no length; with right checksums, as no damage leaves it."""
    target = copy_of(folder, tmp_path / "model")

    def change(name: str, data: bytes) -> bytes:
        if name != "model.weights.h5":
            return data
        endless = bytearray(edited(data, lambda file: file["layers/conv2d/vars/0"].attrs.update(dtype="float32")))
        endless[endless.rindex(b"GCOL") + 24] = 44
        return bytes(endless)

    rewritten(target / "model.keras", change)
    with pytest.raises(InputError, match=r"model\.keras is damaged .*layers/conv2d/vars/0 has an attribute dtype"):
        load_model(str(target))


def test_a_model_that_is_just_being_trained_is_not_called_missing(tmp_path):
    with (
        held(tmp_path, "train"),
        pytest.raises(InputError, match=r"by `deeplab train` .*model\.json is not there yet"),
    ):
        load_card(str(tmp_path))


def test_a_folder_without_a_model_is_refused(tmp_path, folder):
    with pytest.raises(InputError, match=r"model\.json is missing"):
        load_model(str(tmp_path))
    target = copy_of(folder, tmp_path / "model")
    (target / "model.keras").unlink()
    with pytest.raises(InputError, match=r"model\.keras is missing"):
        load_model(str(target))


@pytest.mark.parametrize("damage", ["text", "truncated", "empty", "no weights"])
def test_damaged_weights_are_refused(damage, folder, tmp_path):
    target = copy_of(folder, tmp_path / "model")
    path = target / "model.keras"
    whole = path.read_bytes()
    if damage == "no weights":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("config.json", "{}")
    else:
        path.write_bytes({"text": b"not a model", "truncated": whole[: len(whole) // 2], "empty": b""}[damage])
    with pytest.raises(InputError, match=r"model\.keras is damaged"):
        load_model(str(target))


def test_weights_that_lack_layers_are_refused_without_the_warnings_of_keras(folder, tmp_path, recwarn):
    target = copy_of(folder, tmp_path / "model")

    def drop(file: h5py.File) -> None:
        for layer in [name for name in file["layers"] if name.startswith("conv2d")][:9]:
            del file["layers"][layer]

    weights = "model.weights.h5"
    rewritten(target / "model.keras", lambda name, data: edited(data, drop) if name == weights else data)
    with pytest.raises(InputError, match=r"model\.keras is damaged or does not belong to model\.json"):
        load_model(str(target))
    assert not [warning for warning in recwarn if "keras" in warning.filename]


def test_flipped_bytes_in_the_weights_are_refused(folder, tmp_path):
    target = copy_of(folder, tmp_path / "model")
    data = bytearray((target / "model.keras").read_bytes())
    data[len(data) // 2] ^= 0xFF
    (target / "model.keras").write_bytes(data)
    with pytest.raises(InputError, match=r"model\.keras is damaged"):
        load_model(str(target))


def change_card(folder: Path, **changes) -> None:
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, **changes}))


def test_another_number_of_classes_is_refused(folder, tmp_path):
    target = copy_of(folder, tmp_path / "model")
    change_card(target, palette=VOC.to_json())
    with pytest.raises(InputError, match="11 classes but the palette voc has 21"):
        load_model(str(target))
    change_card(target, architecture={"num_classes": 21, "alpha": 0.25})
    with pytest.raises(InputError, match=r"does not belong to model\.json"):
        load_model(str(target))


def test_a_damaged_card_is_refused(folder, tmp_path):
    target = copy_of(folder, tmp_path / "model")
    change_card(target, architecture={"num_classes": 11, "layers": "evil"})
    with pytest.raises(InputError, match=r"architecture has layers, which this version does not know.*update"):
        load_model(str(target))
    (target / "model.json").write_text("{")
    with pytest.raises(InputError, match=r"^\S+model\.json is not valid JSON: .*; copy the model folder again"):
        load_model(str(target))
    (target / "model.json").write_text("[1]")
    with pytest.raises(InputError, match="expected a JSON object"):
        load_card(str(target))


JAX_PROGRAM = """
import sys
import keras, numpy as np
from trainer.train.losses import SparseCrossEntropy
from trainer.network.deeplab import HEAD, deeplab_v3_plus
from trainer.network.folder import load_model
from trainer.network.inference import predictor
assert keras.backend.backend() == "jax"
folder, images, probabilities, ids = sys.argv[1:]
model, card = load_model(folder)
images = np.load(images)
np.testing.assert_allclose(predictor(model, "probabilities")(images), np.load(probabilities), atol=1e-3)
before = [np.asarray(weight) for weight in model.trainable_weights]
model.compile(keras.optimizers.Adam(1e-3), SparseCrossEntropy(card.palette.ignore_id))
labels = np.load(ids)
loss = model.train_on_batch(images, labels, np.ones(labels.shape, "float32"))
assert np.isfinite(loss)
moved = [np.abs(np.asarray(now) - then).max() > 0 for now, then in zip(model.trainable_weights, before)]
print("moved", sum(moved), "of", len(moved), "tensorflow" in sys.modules)
"""


@pytest.mark.slow
def test_under_jax_the_same_folder_gives_the_same_probabilities_and_can_be_trained(small_model, folder, tmp_path):
    pytest.importorskip("jax")
    images = random_image(33, 49, batch=2)
    values = {
        "images": images,
        "probabilities": predictor(small_model, "probabilities")(images),
        "ids": predictor(small_model)(images),
    }
    for name, value in values.items():
        np.save(tmp_path / f"{name}.npy", value)
    paths = [str(tmp_path / f"{name}.npy") for name in values]
    done = subprocess.run(
        [sys.executable, "-c", JAX_PROGRAM, str(folder), *paths],
        # What is run once need not be fast.
        env={**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    count = len(small_model.trainable_weights)
    assert done.stdout.split() == ["moved", str(count), "of", str(count), "False"]


def test_the_bytes_of_a_model_tell_neither_when_nor_where_in_memory_it_was_saved(folder):
    """Masks and crf.json know a model by them, and `import-weights` may be run again."""
    with zipfile.ZipFile(folder / "model.keras") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert json.loads(archive.read("metadata.json")).keys() == {"keras_version"}
        numbers = re.findall(rb'"shared_object_id": (\d+)', archive.read("config.json"))
        assert numbers and {int(number) for number in numbers} == set(range(len({*numbers})))
