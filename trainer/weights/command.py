"""`deeplab import-weights`: published weights -> model folder."""

from __future__ import annotations

import contextlib
from typing import Any

from trainer import leases, startup, storage
from trainer.formats import palettes
from trainer.formats.cards import CARD, TRAINING, WEIGHTS, ModelCard, load_card
from trainer.formats.dataset import DATASET_FILE
from trainer.network.deeplab import deeplab_v3_plus, published_rates
from trainer.network.folder import save_model
from trainer.options import InputError, public, to_json
from trainer.weights.checkpoints import Imported, Source, architecture, load, open_published
from trainer.weights.options import Options


def run(options: Options, flags: list[str]) -> int:
    """Runs `deeplab import-weights`. Raises InputError if the checkpoint or the palette cannot be used."""
    leases.acquire(options.output, "import-weights")
    startup.start_tensorflow()
    imported = import_weights(options)
    print(f"{public(options.checkpoint)}: {imported}")
    print(f"model folder: {options.output}")
    return 0


def check_output(output: str, imported_with: dict[str, Any], overwrite: bool) -> None:
    """Raises InputError if `output` holds a training, or without `overwrite` a model of another import."""
    if storage.exists(state := storage.join(output, TRAINING)):
        raise InputError(
            f"{output} holds a training ({TRAINING}), with which `deeplab train` would replace the imported weights; "
            f"give another --output, or delete {state} first"
        )
    if storage.exists(storage.join(output, DATASET_FILE)):
        raise InputError(f"--output {output} is a folder of records; give the model a folder of its own")
    for name in (WEIGHTS, CARD):
        storage.check_file(storage.join(output, name))
    if overwrite:
        return
    names = [name for name in (WEIGHTS, CARD) if storage.exists(storage.join(output, name))]
    found = " and ".join(names)
    if CARD in names:
        with contextlib.suppress(InputError, LookupError, TypeError):
            stored = load_card(output).training["imported"]
            # Up to version 0.29 the whole address was stored, and up to 0.34 the folder, whose path may have changed.
            stored |= {"checkpoint": public(stored["checkpoint"])}
            stored.pop("output", None)
            if stored == imported_with:
                return
            if changes := Options.changes(stored, imported_with):
                found += f", imported with other options: {'; '.join(changes.values())}"
    if names:
        raise InputError(
            f"{output} holds another model ({found}); give another --output, or --overwrite to replace it"
        )


def network(source: Source, options: Options) -> dict[str, Any]:
    """The architecture: that of the published network, changed as the options say.

    Raises:
      InputError: the weights do not fit the options.
    """
    numbers = architecture(source)
    stride, head = options.output_stride or numbers["output_stride"], options.head or numbers["head"]
    if numbers["head"] == "subpixel" and (head != "subpixel" or (not numbers["decoder"] and stride != source.factor)):
        raise InputError(
            f"{source.path} has a subpixel head of factor {source.factor}, which no other head or output stride can "
            "take; omit --head and --output-stride"
        )
    if numbers["aspp_rates"]:
        numbers["aspp_rates"] = published_rates(stride)
    return numbers | {"head": head, "output_stride": stride, "subpixel_start": "bilinear"}


def import_weights(options: Options) -> Imported:
    """Writes published weights as a model folder.

    Raises:
      InputError: the palette has another number of classes, the checkpoint does not fit, or the output folder holds
        another model.
    """
    palette = palettes.resolve(options.palette)
    source = open_published(options.checkpoint)
    numbers = network(source, options)
    if numbers["num_classes"] != palette.num_classes:
        raise InputError(
            f"{source.path} has {numbers['num_classes']} classes but palette {palette.name} has "
            f"{palette.num_classes}; give the palette the checkpoint was trained with"
        )
    imported_with = {name: value for name, value in to_json(options).items() if name not in ("output", "overwrite")}
    imported_with |= {name: numbers[name] for name in ("head", "output_stride")}
    check_output(options.output, imported_with, options.overwrite)
    model = deeplab_v3_plus(**numbers)
    imported = load(model, source)
    if imported.skipped:
        raise InputError(f"{source.path} lacks layers of the model: {', '.join(imported.skipped[:6])}")
    card = ModelCard(numbers, palette, options.max_side, training={"imported": imported_with})
    save_model(options.output, model, card)
    return imported
