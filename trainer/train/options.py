"""Train DeepLabV3+ on records that `deeplab prepare` wrote.

examples:
  deeplab train --records out/records --output out/model --init-from mobilenetv2_coco_voc_trainaug --epochs 10
  deeplab train --records out/records --output out/small --alpha 0.5 --epochs 60
  deeplab train --records out/records --output out/finished --init-from out/model --recipe finish
  deeplab train --records gs://bucket/records --output gs://bucket/model --init-from gs://bucket/voc

The classes come from the records. The output folder gets model.keras and model.json (the best epoch), history.csv,
checkpoints/ (the last one) and logs/ (TensorBoard). Stop it at any moment and run it again: a killed run resumes from
its last checkpoint, with the same result as an uninterrupted one. On SIGTERM, Ctrl-C or SIGHUP it finishes the current
step and writes a checkpoint before it ends, with status 143, 130 or 129.

All GPUs of a machine share each batch. With KERAS_BACKEND=jax in the environment it trains under JAX, and the GPUs of
several machines can share a batch, see --hosts.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from trainer.network.options import NetworkOptions
from trainer.options import CheckedOptions, InputError, as_flags, option

RECIPES: dict[str, dict[str, Any]] = {
    "fine-tune": {"epochs": 40, "max_ratio": 5.0, "lovasz": 1.0},
    "from-scratch": {"epochs": 120, "max_ratio": 10.0, "lovasz": 0.0},
    "quick": {"epochs": 10, "max_ratio": 5.0, "lovasz": 1.0},
    "finish": {
        **{"epochs": 3, "max_ratio": 5.0, "lovasz": 1.0},
        **{"learning_rate": 2e-4, "freeze_bn": True, "output_stride": 8},
    },
}
"""Sets of flags that go together; any flag on the command line overrides them."""

EFFECTIVE_WITH = (
    ("plateau_patience", "schedule", "plateau"),
    ("subpixel", "head", "subpixel"),
    ("subpixel_start", "head", "subpixel"),
    ("subpixel_start", "subpixel", "logits"),
    ("max_ratio", "pixel_weights", "adaptive"),
    ("batch_norm_momentum", "freeze_bn", False),
)
"""Options that have an effect only if another one has this value."""

MAX_SEED = 2**32 - 1
"""NumPy's global generator, which Keras seeds too, takes no larger seeds."""

MAX_BATCH_PIXELS = 2**31 - 1
"""TensorFlow counts the elements of some shapes in 32 bits."""


def least_batch(devices: int, parts: int, backend: str) -> int:
    """The fewest images per step of which batch norms can learn a variance: two wherever these see a batch.

    Under JAX they see the images of all devices as one batch. That of the image pooling has one value per image and
    channel, so no variance with a single image.
    """
    return 2 * (parts if backend == "jax" else devices * parts)


@dataclass(frozen=True)
class StreamOptions(CheckedOptions):
    """Options that determine the batches of a training."""

    batch_size: int = option(8, "images per step, over all GPUs together; at least 2 per GPU", low=1, group="stream")
    accumulate: int = option(
        1,
        "compute each batch in this many parts, one after the other, to save memory; it is still one step, but batch "
        "norms and the Lovász loss see one part at a time",
        low=1,
        group="stream",
    )
    crop: int = option(512, "side of the square training crops, in pixels", low=32, group="stream")
    scale_min: float = option(0.75, "smallest random scale of a training image", above=0, group="stream")
    scale_max: float = option(1.75, "largest random scale of a training image", above=0, group="stream")
    flip: bool = option(True, "mirror half of the training images", group="stream")
    pixel_weights: str = option(
        "adaptive",
        "weights of pixels in the loss: adaptive raises those of rare classes, image by image",
        choices=("adaptive", "none"),
        group="stream",
    )
    max_ratio: float = option(
        10.0,
        "how many times more one class may weigh than another",
        low=1,
        group="stream",
        default_by="--recipe",
    )
    seed: int = option(0, "seed of initial weights, order of records, crops and dropout", low=0, high=MAX_SEED)
    hosts: int = option(
        1,
        "machines that train together, each running this command; needs KERAS_BACKEND=jax",
        low=1,
        group="hosts",
    )
    host_id: int = option(0, "number of this machine, from 0; machine 0 writes the output", low=0, group="hosts")
    coordinator: str = option(
        "", "address of host 0 and a free port there, the same on all hosts", metavar="HOST:PORT", group="hosts"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scale_min > self.scale_max:
            raise InputError(f"--scale-min must not exceed --scale-max, got {self.scale_min} and {self.scale_max}")
        if self.host_id >= self.hosts:
            raise InputError(f"--host-id must be below --hosts, got {self.host_id} and {self.hosts}")
        if self.hosts > 1 and not self.coordinator:
            raise InputError("--hosts needs --coordinator HOST:PORT, the address of host 0 and a free port there")
        if self.coordinator and self.hosts == 1:
            raise InputError(
                f"--coordinator {self.coordinator} is for several hosts, got --hosts 1; give their number in "
                "--hosts, or omit --coordinator"
            )
        port = re.fullmatch(r"(?:[\w.-]+|\[[\da-fA-F:.]+\]):(\d{1,5})", self.coordinator)
        if self.coordinator and not (port and 0 < int(port[1]) < 2**16):
            raise InputError(
                f"--coordinator {self.coordinator}: expected HOST:PORT, the address of host 0 and a free port there "
                "from 1 to 65535, such as 10.0.0.2:8476"
            )
        if self.batch_size % self.hosts:
            raise InputError(
                "--batch-size is over all hosts together and must be a multiple of --hosts, got "
                f"{self.batch_size} and {self.hosts}"
            )
        size = self.batch_size // self.hosts
        pixels = size * self.crop**2
        if pixels > MAX_BATCH_PIXELS:
            raise InputError(
                f"{size} crops of {self.crop} x {self.crop} pixels are {pixels} pixels per host and step, "
                f"expected at most {MAX_BATCH_PIXELS}; give a smaller --crop or --batch-size"
            )


@dataclass(frozen=True)
class Options(StreamOptions, NetworkOptions):
    """Options of `deeplab train`."""

    records: str = option(help="folder of records, local or gs://", metavar="DIR")
    output: str = option(help="model folder to write, local or gs://", metavar="DIR")
    init_from: str = option(
        "",
        "initial weights: a model folder; published ones by path, http(s):// address or name; or imagenet, for the "
        "backbone alone",
        metavar="PATH|NAME",
        web=True,
    )
    recipe: str | None = option(
        None,
        "a set of defaults, each of which a flag overrides; "
        + "; ".join(f"{name}: {as_flags(flags)}" for name, flags in RECIPES.items())
        + " (default: fine-tune with --init-from, from-scratch without; finish continues from a trained model)",
        choices=tuple(RECIPES),
    )
    epochs: int = option(40, "epochs to train", low=1, high=1_000_000, default_by="--recipe")
    steps_per_epoch: int = option(
        0,
        "batches per epoch; 0: as many as the source images fill, not counting augmented copies",
        low=0,
        high=1_000_000_000,
    )
    optimizer: str = option(
        "adam",
        "adam, or stochastic gradient descent with momentum",
        choices=("adam", "momentum"),
        group="optimizer",
    )
    learning_rate: float = option(1e-3, "learning rate at the beginning", above=0, group="optimizer")
    backbone_rate: float = option(
        1.0,
        "learning rate of the backbone, relative to that of the other layers; below 1 preserves pretrained features",
        above=0,
        high=1,
        group="optimizer",
    )
    lovasz: float = option(
        0.0,
        "weight of the Lovász loss, a smooth 1 - mIoU, relative to the cross-entropy",
        low=0,
        group="optimizer",
        default_by="--recipe",
    )
    schedule: str = option(
        "poly",
        "poly: decay to 0 over all epochs, which cannot be changed later; plateau: halve when the validation Jaccard "
        "stops rising",
        choices=("poly", "plateau", "constant"),
        group="optimizer",
    )
    plateau_patience: int = option(
        3, "epochs without a better validation Jaccard before plateau halves the rate", low=1, group="optimizer"
    )
    weight_decay: float = option(0.0, "decoupled weight decay of the convolution kernels", low=0, group="optimizer")
    early_stopping: int = option(
        0, "stop after this many epochs without a better validation Jaccard; 0: never", low=0, group="optimizer"
    )
    freeze_until: str = option(
        "", "freeze the layers up to and including this one", metavar="LAYER", group="optimizer"
    )
    freeze_bn: bool = option(False, "freeze the batch norms; for very small batches", group="optimizer")
    precision: str = option(
        "float32", "arithmetic of the layers", choices=("float32", "mixed_bfloat16", "mixed_float16")
    )
    checkpoint_minutes: float = option(
        10.0,
        "minutes between checkpoints within an epoch; 0: only after each epoch, and on signals such as Ctrl-C",
        low=0,
    )
    resume: bool = option(True, "resume the training in the output folder, if there is one")
    overwrite: bool = option(False, "replace a model in the output folder that `deeplab train` did not write")

    @classmethod
    def preset(cls, given: dict[str, Any]) -> dict[str, Any]:
        """The recipe that is given, or goes with the initial weights, and its flags."""
        recipe = given["recipe"] or ("fine-tune" if given["init_from"] else "from-scratch")
        if recipe == "finish" and not given["init_from"]:
            raise InputError("--recipe finish continues from a trained model; give its folder with --init-from")
        return {"recipe": recipe, **RECIPES[recipe]}

    def without_effect(self) -> list[str]:
        """Sentences on options that were changed to no effect, or keep layers as they are at random."""
        values = dataclasses.asdict(self)
        defaults = {field.name: field.default for field in dataclasses.fields(self)} | self.preset(values)
        sentences = [
            f"{as_flags({name: values[name]})} has no effect with {as_flags({other: values[other]})}"
            for name, other, needed in EFFECTIVE_WITH
            if values[name] != defaults[name] and values[other] != needed
        ]
        frozen = [name for name in ("freeze_bn", "freeze_until") if values[name] and not self.init_from]
        return sentences + [
            f"{as_flags({name: values[name]})} without --init-from keeps layers as they are at random"
            for name in frozen
        ]
