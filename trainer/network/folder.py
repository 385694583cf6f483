"""The model folder: a network's weights in `model.keras`, and `model.json`, from whose numbers it is rebuilt.

The layer descriptions in the Keras archive are never read, so loading a folder cannot run code in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import io
import json
import math
import os
import re
import warnings
import zipfile
from typing import Any

import h5py
import keras

from trainer import storage
from trainer.files import scratch
from trainer.formats.cards import CARD, WEIGHTS, ModelCard, load_card, save_card, weights_digest
from trainer.network.deeplab import deeplab_v3_plus
from trainer.options import InputError

ARRAYS = "model.weights.h5"
"""The member of the Keras archive that holds the weights."""
NUMBERS = inspect.signature(deeplab_v3_plus).parameters.keys()
"""The names of the numbers that a network is built from."""
SHARED_ID = re.compile(rb'(?<="shared_object_id": )\d+')


def save_model(folder: str, model: keras.Model, card: ModelCard) -> None:
    """Writes `model.keras` and `model.json` into `folder` (local or gs://), each atomically.

    The optimizer's state is not saved.
    """
    # A second model of the same layers has their weights, but no optimizer.
    bare = keras.Model(model.inputs, model.outputs, name=model.name)
    with scratch.folder("model") as temporary:
        path = os.path.join(temporary, WEIGHTS)
        with scratch.filled():
            bare.save(path)
        weights = _reproducible(path)
        # model.json first: by it the weights are recognised as written by this program.
        save_card(folder, dataclasses.replace(card, weights=hashlib.sha256(weights).hexdigest()))
        storage.write(storage.join(folder, WEIGHTS), weights)
    storage.sweep(folder, (WEIGHTS, CARD))


def _reproducible(path: str) -> bytes:
    """A Keras archive without times and memory addresses: masks and crf.json identify a model by its bytes."""
    data, numbers = io.BytesIO(), {}
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(data, "w") as copy:
        for name in archive.namelist():
            content = archive.read(name)
            if name == "metadata.json":
                metadata = json.loads(content)
                content = json.dumps({key: metadata[key] for key in metadata if key != "date_saved"}).encode()
            if name == "config.json":
                content = SHARED_ID.sub(lambda match: b"%d" % numbers.setdefault(match[0], len(numbers)), content)
            copy.writestr(zipfile.ZipInfo(name), content)
    return data.getvalue()


def _reason(error: Exception) -> str:
    """The line of an error that states its cause; Keras puts a count of the layers concerned before it."""
    first, *rest = (str(error).strip() or type(error).__name__).split("\n\n")
    return (rest[0] if rest and first.startswith("A total of") else first).splitlines()[0]


def _check_archive(path: str, model: keras.Model) -> None:
    """Raises ValueError or BadZipFile if an archive is damaged, or claims to be larger than `model`'s can be."""
    # Twice the arrays, and room for names, attributes and layer descriptions.
    bound = 2 * sum(math.prod(weight.shape) * 4 for weight in model.weights) + (64 << 20)
    with zipfile.ZipFile(path) as archive:
        claimed = sum(member.file_size for member in archive.infolist())
        if claimed > bound:
            raise ValueError(f"it claims to hold {claimed:,} bytes, more than the {bound:,} of such a network")
        # Keras seeks in the weights, and from Python 3.12 on zipfile skips a member's checksum after a seek forwards.
        damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(f"the checksum of {damaged} in it is wrong")
        sizes: list[int] = []

        def check(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                # The only attribute that Keras reads, for weights in bfloat16. Reading a damaged one can hang in the
                # HDF5 library.
                if "dtype" in item.attrs:
                    raise ValueError(f"{name} has an attribute dtype, which float32 arrays do not have")
                sizes.append(item.nbytes)

        with archive.open(ARRAYS) as member, h5py.File(member) as file:
            file.visititems(check)
    # Arrays that are compressed, or not stored at all, can claim any size in a small file.
    if sum(sizes) > bound:
        raise ValueError(f"its arrays claim to hold {sum(sizes):,} bytes, more than the {bound:,} of such a network")


def _copy(path: str, local: str) -> str:
    """Copies the file at `path` (local or gs://) to `local`, a temporary file; returns its SHA-256 as hex digits."""
    digest = hashlib.sha256()
    with storage.reader(path) as source, scratch.filled(), open(local, "wb") as target:
        while chunk := source.read(1 << 20):
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()


def load_weights(model: keras.Model, folder: str, digest: str = "") -> None:
    """Reads the weights in `folder` into `model`, which must have the same architecture.

    Only arrays are read: Keras opens `model.weights.h5` inside the archive, refuses links to other files, and ignores
    the layer descriptions beside it.

    Args:
      model: a network from `deeplab_v3_plus`.
      folder: a model folder, local or gs://.
      digest: the expected SHA-256 of the weights file, see `trainer.formats.cards.weights_digest`; "" for any.

    Raises:
      InputError: the file is missing or damaged, has another architecture, or another digest.
      storage.Unavailable: storage does not answer, or there is no room for the copy.
    """
    path = storage.join(folder, WEIGHTS)
    # The file may be replaced at any time, so the digest and the weights are read from one copy.
    with scratch.folder("model") as temporary:
        local = os.path.join(temporary, WEIGHTS)
        try:
            actual = _copy(path, local)
            if digest and actual != digest:
                raise InputError(
                    f"the model in {folder} was replaced while this command was running, so its output would mix two "
                    "models; run the command again, and do not train into that folder meanwhile"
                )
            _check_archive(local, model)
            with warnings.catch_warnings():
                # Keras warns of everything that a file of another architecture lacks, and then raises.
                warnings.simplefilter("ignore", UserWarning)
                model.load_weights(local)
        except FileNotFoundError:
            raise InputError(
                f"{folder} is not a model folder: {WEIGHTS} is missing; give the output of `deeplab train` or "
                "`deeplab import-weights`"
            ) from None
        except (InputError, storage.Unavailable):
            raise
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} is damaged or does not belong to {CARD} beside it ({_reason(error)}); train or import it "
                "again"
            ) from None


def load_model(folder: str, digest: str = "") -> tuple[keras.Model, ModelCard]:
    """Rebuilds the model in `folder` from the numbers in its `model.json`, and reads its weights.

    Args:
      folder: a model folder, local or gs://.
      digest: the expected SHA-256 of the weights file; "" for that in `model.json`, if it has one.

    Returns:
      The model and its card.

    Raises:
      InputError: the folder holds no model, a damaged one, one with another digest, or files of two models.
    """
    card = load_card(folder)
    if unknown := sorted(card.architecture.keys() - NUMBERS):
        raise InputError(
            f"{storage.join(folder, CARD)}: the architecture has {', '.join(unknown)}, which this version does not "
            "know; if a later version wrote it, update this program, else train or import the model again"
        )
    try:
        model = deeplab_v3_plus(**card.architecture)
    except (TypeError, ValueError) as error:
        raise InputError(f"{storage.join(folder, CARD)}: {error}") from None
    load_weights(model, folder, digest or weights_digest(folder, card))
    return model, card
