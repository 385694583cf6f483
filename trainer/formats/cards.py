"""The description of a trained model: the file `model.json` of a model folder.

Reads and writes plain JSON and imports neither TensorFlow nor Keras, so that every stage can look into a model folder.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import zipfile
import zlib
from typing import Any

from trainer import leases, storage
from trainer.formats.labels import Palette
from trainer.formats.options import MAX_PIXELS
from trainer.options import InputError

CARD = "model.json"
WEIGHTS = "model.keras"
TUNING_FILE = "crf.json"
"""The CRF's parameters, if `deeplab tune-crf` has tuned them; see `trainer.formats.tuning`."""
TRAINING = "checkpoints/state.json"
"""The state of the training that writes the model, if there is one; see `trainer.train.resume`."""


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """The contents of `model.json`.

    Attributes:
      architecture: the arguments of `trainer.network.deeplab.deeplab_v3_plus`, `num_classes` among them.
      palette: the classes; as many as `architecture["num_classes"]`.
      max_side: the longest side (pixels) that images are shrunk to before the network; 0: they keep their size.
      training: the options the model was trained with, or where its weights came from.
      data_fingerprint: the fingerprint of the records it was trained on; empty for imported weights.
      scores: the scores of the validation, e.g. {"miou": 0.6}.
      weights: SHA-256 of the weights file beside it, as hex digits; empty in folders of version 0.29 and earlier.
    """

    architecture: dict[str, Any]
    palette: Palette
    max_side: int = 0
    training: dict[str, Any] = dataclasses.field(default_factory=dict)
    data_fingerprint: str = ""
    scores: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: str = ""

    def __post_init__(self) -> None:
        classes = self.architecture.get("num_classes")
        if classes != self.palette.num_classes:
            raise InputError(
                f"the model has {classes} classes but the palette {self.palette.name} has "
                f"{self.palette.num_classes}; give the palette the model was trained with"
            )
        if type(self.max_side) is not int or not 0 <= self.max_side <= MAX_PIXELS:
            raise InputError(f"max_side must be 0 to {MAX_PIXELS} pixels, got {self.max_side!r}")
        if type(classes) is not int or not isinstance(self.data_fingerprint, str):
            raise InputError(f"num_classes must be a whole number and data_fingerprint a text, got {classes!r}")
        if not isinstance(self.weights, str):
            raise InputError(f"weights must be the SHA-256 of {WEIGHTS}, got {self.weights!r}")
        for name in ("training", "scores"):
            if not isinstance(getattr(self, name), dict):
                raise InputError(f"{name} must be a JSON object, got {getattr(self, name)!r}")

    def to_json(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**values, "palette": self.palette.to_json()}

    @classmethod
    def from_json(cls, value: Any) -> ModelCard:
        """The inverse of `to_json`. Raises InputError with the reason if that is impossible."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(value, dict) or not {"architecture", "palette"} <= value.keys() <= known:
            content = sorted(value) if isinstance(value, dict) else type(value).__name__
            raise InputError(
                f"expected a JSON object with the keys {sorted(known)}, found {content}; if a later version wrote it, "
                "update this program"
            )
        if not isinstance(value["architecture"], dict):
            raise InputError(f"architecture must be a JSON object, got {value['architecture']!r}")
        return cls(**{**value, "palette": Palette.from_json(value["palette"])})


def load_card(folder: str) -> ModelCard:
    """The card of the model in `folder` (local or gs://). Raises InputError when it is missing or damaged."""
    path = storage.join(folder, CARD)
    if not storage.exists(path):
        if owner := leases.writer(folder):
            raise InputError(f"{owner}, and its {CARD} is not there yet; {leases.ONCE_ENDED}")
        found = storage.absence(folder, f"is not a model folder: {CARD} is missing")
        raise InputError(f"{folder} {found}; give the output of `deeplab train` or `deeplab import-weights`")
    try:
        value = storage.read_json(path)
    except InputError as error:
        raise InputError(f"{error}; copy the model folder again, or train or import the model again") from None
    try:
        return ModelCard.from_json(value)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def weights_digest(folder: str, card: ModelCard | None = None) -> str:
    """SHA-256 of the model's weights file, as hex digits.

    Every command calls this first and builds the network later, so that damage is found early.

    Args:
      folder: the model folder.
      card: what was read of its `model.json`, so that both are of one model if the folder is just being replaced; None
        to read it.

    Raises:
      InputError: the file is missing or damaged, or not the one that the card describes.
    """
    path = storage.join(folder, WEIGHTS)
    try:
        data = storage.read(path)
    except FileNotFoundError:
        raise InputError(f"{folder} is not a model folder: {WEIGHTS} is missing") from None
    if damage := _damage(data):
        raise InputError(f"{path} is damaged ({damage}); train or import it again")
    digest, stated = hashlib.sha256(data).hexdigest(), (card or load_card(folder)).weights
    if stated not in ("", digest):
        raise InputError(
            f"{path} is not the file that {CARD} beside it describes: found SHA-256 {digest[:12]}..., expected "
            f"{stated[:12]}...; copy both from one folder, wait for a training that is just writing them, resume one "
            f'that was killed meanwhile, or, if you changed the weights yourself, set "weights" to "" in {CARD}'
        )
    return digest


def _damage(data: bytes) -> str:
    """The visible damage of a Keras file, which is a ZIP archive; "" if there is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # Keras does not compress. A member larger than its bytes in the file is refused when it is loaded.
            claimed = sum(member.file_size for member in archive.infolist())
            member = archive.testzip() if claimed <= 2 * len(data) else None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        return str(error) or type(error).__name__
    return f"the checksum of {member} in it is wrong" if member else ""


def save_card(folder: str, card: ModelCard) -> None:
    """Writes `model.json` into `folder`."""
    storage.write_json(storage.join(folder, CARD), card.to_json())
