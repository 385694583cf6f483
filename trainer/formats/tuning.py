"""The file crf.json of a model folder, and its counterpart in exports: the CRF's parameters that suit the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from trainer import leases, storage
from trainer.accounts import Reject
from trainer.formats import exports
from trainer.formats.cards import TUNING_FILE
from trainer.formats.options import CrfOptions
from trainer.metrics import Gain
from trainer.options import InputError

WORK = ".tuning"
"""Suffix, in place of .json, of the folder of what a tuning needs to resume."""

FORMAT = 4
READ_FORMATS = (1, 2, 3, 4)
"""Formats of crf.json that can be read. Format 1 has "pictures" for "images"; classes have weights and intervals since
format 3; the sizes at which the network saw the images are included since format 4."""


@dataclass(frozen=True)
class Change:
    """The effect of the CRF on a class: its IoU without and with it, and the gain.

    All are None if the class is in neither label nor mask; the gain is also None in files of formats 1 and 2.
    """

    before: float | None
    after: float | None
    gain: Gain | None = None


@dataclass(frozen=True)
class Tuning:
    """The result of `deeplab tune-crf`; the contents of crf.json.

    Attributes:
      options: the best parameters; None if no gain of the CRF is certain, so that it is better left off.
      metric: "miou", or "trimap": the mIoU of pixels up to `trimap_width` from a boundary of the label.
      trimap_width: pixels; None for "miou".
      before, after: the score without CRF, and with parameters chosen on other images (cross-fitted).
      gain: the gain from before to after.
      per_class: class name -> its IoU before and after, in the order of the class ids.
      grid: {"compat", "sxy", "srgb", "compat_gaussian", "score"} for each point, with the score on all images, in the
        order in which they were tried; points with class weights also have {"class_weights": {name: weight}}. Files of
        version 0.8 and earlier lack "compat_gaussian", which was 3.
      split: the split of the records.
      images: number of images examined.
      rejects: the images that could not be used, each {"key", "path", "stage", "reason", "records"}.
      model_digest: SHA-256 of the weights of the model folder.
      records_fingerprint: the fingerprint of the records.
      scales, flip: the views that the network saw of every image, see `pipelines.masks.options.Views`.
      own_losses: class name -> change of IoU by the best parameters on all images, which chose them, of the classes
        that clearly lose there; None in older files.
    """

    options: CrfOptions | None
    metric: str
    trimap_width: int | None
    before: float
    after: float
    gain: Gain
    per_class: dict[str, Change]
    grid: tuple[dict[str, Any], ...]
    split: str
    images: int
    rejects: tuple[dict[str, Any], ...]
    model_digest: str
    records_fingerprint: str
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    own_losses: dict[str, float] | None = None

    @property
    def losers(self) -> dict[str, Gain]:
        """The classes that clearly lose by the CRF, cross-fitted: the whole interval of their gain is below 0."""
        gains = {name: change.gain for name, change in self.per_class.items()}
        return {name: gain for name, gain in gains.items() if gain is not None and gain.high < 0}

    @property
    def scored(self) -> int:
        """The number of images that were scored."""
        return self.images - sum(reject["records"] for reject in self.rejects)

    def to_json(self) -> dict[str, Any]:
        classes = list(self.per_class)
        # The order of the classes is stored separately: a JSON file need not keep that of an object's names.
        head = {
            "format": FORMAT,
            "verdict": "on" if self.options else "off",
            "scored": self.scored,
            "classes": classes,
        }
        return head | asdict(self) | {"options": self.options.to_json(classes) if self.options else None}

    @classmethod
    def from_json(cls, value: Any) -> Tuning:
        """The inverse of `to_json`, also for older formats. Raises InputError with a message that names the fault."""
        content = value if isinstance(value, dict) else {"format": type(value).__name__}
        if content.get("format") not in READ_FORMATS:
            known = f"{READ_FORMATS[0]} to {FORMAT}"
            raise InputError(f"expected the result of tune-crf in format {known}, found {content.get('format')!r}")
        if content["format"] == 1 and "pictures" in content:
            content = {**content, "images": content["pictures"]}
        if content["format"] < 4:
            content = {**content, "scales": (1.0,), "flip": False}
        content = {"own_losses": None, **content}
        try:
            values = {field.name: content[field.name] for field in fields(cls)}
            options = values["options"]
            classes = content["classes"] if content["format"] > 2 else list(values["per_class"])
            if options is not None:
                options = CrfOptions.from_json(options, classes)
            if content["verdict"] != ("on" if options else "off"):
                raise InputError(
                    f"the verdict {content['verdict']!r} does not go with the options {values['options']}"
                )
            per_class = {name: _change(values["per_class"][name], content["format"]) for name in classes}
            typed = {"options": options, "gain": _gain(values["gain"]), "per_class": per_class}
            typed |= {name: _number(values[name]) for name in ("before", "after")}
            typed["scales"] = tuple(float(_number(scale)) for scale in values["scales"])
            if values["own_losses"] is not None:
                typed["own_losses"] = {name: float(_number(change)) for name, change in values["own_losses"].items()}
            typed["rejects"] = tuple(Reject(**reject).to_json() for reject in values["rejects"])
            tuning = cls(**values | typed | {"grid": tuple(values["grid"])})
            if type(tuning.scored) is not int or type(tuning.flip) is not bool:
                raise TypeError(f"{tuning.scored!r} images scored, flip {tuning.flip!r}")
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"is damaged ({error!r})") from None
        texts = (tuning.model_digest, tuning.records_fingerprint, tuning.split, tuning.metric)
        if not all(isinstance(text, str) for text in texts) or type(tuning.images) is not int:
            raise InputError(f"is damaged (found {(*texts, tuning.images)}; expected four texts and a number)")
        return tuning


def _change(value: Any, format: int) -> Change:
    gain = None
    if format < 3:
        before, after = value
    else:
        before, after, gain = value["before"], value["after"], value["gain"]
    scores = (None if score is None else _number(score) for score in (before, after))
    return Change(*scores, None if gain is None else _gain(gain))


def _gain(value: Any) -> Gain:
    gain = Gain(**value)
    for number in (gain.value, gain.low, gain.high, gain.level):
        _number(number)
    return gain


def _number(value: Any) -> Any:
    """`value`, unless it is no number. `float` would also take a text, which other programs then may not."""
    if type(value) not in (int, float):
        raise TypeError(f"{value!r}, where a number is expected")
    return value


def path_of(model: str) -> str:
    """The path of the tuning of a model folder or an export."""
    return model if exports.kind(model) else storage.join(model, TUNING_FILE)


def load(model: str, weights: str = "") -> Tuning | None:
    """The tuning of a model folder or export (local or gs://); None if it has none.

    Args:
      weights: the digest of the model's weights; "" skips the check that the tuning is of these.

    Raises:
      InputError: the tuning is damaged, or of other weights.
    """
    path, is_export = path_of(model), bool(exports.kind(model))
    if not is_export and not storage.exists(path):
        return None
    place = ""
    try:
        value = exports.load_tuning(model) if is_export else storage.read_json(path)
        if is_export and value is None:
            return None
        place = f"{path}: "  # which errors of reading name themselves
        tuning = Tuning.from_json(value)
    except InputError as error:
        again = "export the model again" if is_export else "delete it; `deeplab tune-crf` then makes it again"
        cure = f"update this program if a later version wrote the file, or {again}"
        raise InputError(f"{place}{error}; {cure}") from None
    # What is in an export belongs to its weights: `deeplab export` has checked that.
    if weights and tuning.model_digest != weights and not is_export:
        raise InputError(f"{path} was made with other weights; run `deeplab tune-crf` again, or delete the file")
    return tuning


def how_to_make(model: str) -> str:
    """The error message, with the cure, for a model folder or an export without a tuning."""
    if exports.kind(model):
        return (
            f"{model} was exported from a model without {TUNING_FILE}; run `deeplab tune-crf` on that and "
            "export it again"
        )
    path = path_of(model)
    if owner := leases.writer_of_file(path):
        return f"{owner}, and is not there yet; {leases.ONCE_ENDED}"
    return f"{path} is missing; make it with `deeplab tune-crf --model {model} --records DIR`"
