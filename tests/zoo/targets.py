"""The targets of the fuzzer: everything that parses bytes, each with valid bytes to start from.

A target takes bytes and a folder of its own, and returns or raises a known error. It includes the command's next steps
with the result, so that an invalid number is not found only later.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipelines.evaluate.sources import segment_notes
from pipelines.inputs import collection, rawset, selection
from pipelines.prepare import workarea
from pipelines.records.verify import check_record
from tests.drawn import encoded
from tests.drawn.records import PALETTE, record, write_records
from tests.drawn.tuning import some_tuning
from tests.zoo import mutation
from tests.zoo.image_targets import jpegs, others, pngs, read_header, read_image, read_label
from tests.zoo.mutation import Target
from trainer.accounts import Reject
from trainer.formats import (
    cards,
    codings,
    containers,
    dataset,
    examples,
    exports,
    frames,
    images,
    palettes,
    tuning,
)
from trainer.formats.dataset import load_dataset
from trainer.formats.images import ImageError
from trainer.formats.labels import LabelError
from trainer.formats.palettes import CAMVID
from trainer.network.options import bytes_per_pixel
from trainer.options import InputError


def shards() -> list[bytes]:
    return [
        b"".join(frames.frame(examples.encode(record(n, (56, 56), kind))) for n in (1, 2)) for kind in ("jpeg", "png")
    ]


def read_shard(data: bytes, folder: Path) -> None:
    for found in frames.scan_frames(io.BytesIO(data)):
        if isinstance(found, frames.Frame):
            try:
                check_record(examples.decode(found.data), PALETTE)
            except ValueError as error:
                assert type(error) in (ValueError, ImageError, LabelError), repr(error)


def card() -> bytes:
    architecture = {"num_classes": 3, "alpha": 0.35, "head": "bilinear", "aspp_rates": [6, 12, 18]}
    training = {"records": "r", "epoch": 3}
    return json.dumps(cards.ModelCard(architecture, PALETTE, 513, training, "f", {"miou": 0.5}).to_json()).encode()


def read_card(data: bytes, folder: Path) -> None:
    (folder / "model.json").write_bytes(data)
    found = exports.load_card(str(folder))
    bytes_per_pixel(found.architecture)
    found.training.get("records")
    paint(found.palette)
    json.dumps(found.to_json()).encode()


def paint(palette) -> None:
    """Does everything that commands do with a palette."""
    ids = np.zeros((2, 2), np.uint8)
    palette.encode_mask(ids), palette.overlay(np.zeros((2, 2, 3), np.uint8), ids), palette.known_colors()
    codings.decode_ids(images.encode_png(ids + palette.ignore_id), palette)
    " ".join((palette.name, *palette.names)).encode()
    assert palettes.Palette.from_json(json.loads(json.dumps(palette.to_json()))) == palette


def some_dataset(folder: Path) -> bytes:
    write_records(folder, {"train": [[record(n, (56, 56)) for n in range(3)]], "val": [[record(3, (56, 56))]]})
    return (folder / "dataset.json").read_bytes()


def datasets() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return [some_dataset(Path(folder))]


def read_dataset(data: bytes, folder: Path) -> None:
    (folder / "dataset.json").write_bytes(data)
    found = load_dataset(str(folder))
    for split in found.splits:
        assert found.count(split) >= found.images(split) >= 0
        found.pixels(split), found.doubts(split), found.shard_paths("x", split), split.encode()
        np.array(found.pixels(split)[0], np.int64)
    for shard in found.shards:
        f"{shard.name:<9}{shard.records:,}{shard.bytes:,}{shard.crc32c:#010x}{shard.max_size[1]:,}{shard.min_size[0]:,}"
    dataset.fingerprint_of(found.shards), found.options.get("input"), found.max_side > 0, f"{found.rejected:,}"
    paint(found.palette)


def palette_files() -> list[bytes]:
    rich = dataclasses.replace(PALETTE, source_ids=((7, 0), (11, 1), (3, 255)), aliases=(((1, 2, 3), 1),))
    return [json.dumps(palette.to_json()).encode() for palette in (PALETTE, CAMVID, rich)]


def read_palette(data: bytes, folder: Path) -> None:
    (folder / "palette.json").write_bytes(data)
    paint(palettes.resolve(str(folder / "palette.json")))


def a_set(folder: Path) -> None:
    if not (folder / "JPEGImages").exists():
        for kind in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (folder / kind).mkdir(parents=True)
        for name in ("a", "b c", "d#1", "ü", "e.2"):
            (folder / f"JPEGImages/{name}.jpg").touch()
            (folder / f"SegmentationClass/{name}.png").touch()


def manifests() -> list[bytes]:
    rows = [("a", "train"), ("b c", "val"), ("d#1", ""), ("ü", "test"), ("e.2", "train")]
    line = "JPEGImages/{0}.jpg,SegmentationClass/{0}.png,{1}\n"
    csv = "image,label,split\n" + "".join(line.format(*row) for row in rows)
    quoted = csv.replace("JPEGImages/b c.jpg", '"JPEGImages/b c.jpg"').replace("\n", "\r\n")
    return [csv.encode(), quoted.encode("utf-8-sig"), quoted.encode("utf-16")]


def read_manifest(data: bytes, folder: Path) -> None:
    a_set(folder)
    (folder / "manifest.csv").write_bytes(data)
    check_set(rawset.scan(str(folder / "manifest.csv")))


def check_set(raw: rawset.RawSet) -> None:
    for pair in raw.pairs:
        pair.key.encode(), pair.split.encode()
    json.dumps([reject.to_json() for reject in raw.rejects]).encode()


def json_rows() -> list[bytes]:
    rows = [{"image": f"JPEGImages/{n}.jpg", "label": f"SegmentationClass/{n}.png", "split": "val"} for n in "aü"]
    return ["\n".join(json.dumps(row, ensure_ascii=False) for row in rows).encode()]


def read_json_rows(data: bytes, folder: Path) -> None:
    a_set(folder)
    (folder / "manifest.jsonl").write_bytes(data)
    check_set(rawset.scan(str(folder / "manifest.jsonl")))


def lists() -> list[bytes]:
    return [
        b"a\nb c\nd#1\n\xc3\xbc\n",
        b"a 1\nb -1\n",
        b"/JPEGImages/a.jpg /SegmentationClass/a.png\n",
        b"# x\r\n\r\na.jpg\r\n",
    ]


def read_voc_list(data: bytes, folder: Path) -> None:
    a_set(folder)
    (folder / "ImageSets/Segmentation/train.txt").write_bytes(data)
    check_set(rawset.scan(str(folder), "voc"))


def read_list(suffix: str) -> Callable[[bytes, Path], None]:
    def read(data: bytes, folder: Path) -> None:
        path = folder / f"list{suffix}"
        path.write_bytes(data)
        try:
            listing = collection.find(str(path), str(folder / "out"))
            json.dumps([(image.path, image.name) for image in listing.images])
        except InputError:
            pass
        chosen = selection.load("", "", str(path))
        chosen.choose([str(folder / f"{name}.jpg") for name in ("a", "b c", "ü")])

    return read


def tunings() -> list[bytes]:
    return [json.dumps(some_tuning().to_json()).encode(), json.dumps(some_tuning(options=None).to_json()).encode()]


def read_tuning(data: bytes, folder: Path) -> None:
    (folder / "crf.json").write_bytes(data)
    found = tuning.load(str(folder))
    f"{found.losers} {found.scored} {len(found.model_digest)}"
    if found.options:
        found.options.words(list(found.per_class)), found.options.to_json(list(found.per_class))
    json.dumps(found.to_json()).encode()


def notes() -> list[bytes]:
    return [
        json.dumps({"palette": PALETTE.to_json(), "status": "running", "input": "x", "head": "", "crf": None}).encode()
    ]


def read_notes(data: bytes, folder: Path) -> None:
    (folder / "segment.json").write_bytes(data)
    found = segment_notes(str(folder), PALETTE)
    found.get("status"), found.get("input")


def sidecars() -> list[bytes]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        some_dataset(Path(folder))
        shard = load_dataset(folder).shards[0]
        outcome = workarea.Outcome(shard, (Reject("k", "p", "prepare", "r"),), 2, 17, ("x",))
        workarea.write_sidecar(folder, outcome)
        return [(Path(folder) / workarea.sidecar_name(shard.name)).read_bytes()]


def read_sidecar(data: bytes, folder: Path) -> None:
    name = dataset.shard_name("train", 0, 1)
    (folder / "shards").mkdir(exist_ok=True)
    (folder / f"shards/{name}.json").write_bytes(data)
    (folder / name).write_bytes(b"shard")
    area = workarea.survey(str(folder))
    for found in area.outcomes:
        area.is_whole(found)
        outcome = area.outcomes[found]
        outcome.format < 2, bool(outcome.failed), [len(path) for path in outcome.unread]
        sum(reject.records for reject in outcome.rejects)


def onnx_files() -> list[bytes]:
    about = exports.about(cards.ModelCard.from_json(json.loads(card())), "0" * 64, {"keras": "3"})
    model = exports._onnx_model_class()()
    model.metadata_props.add(key=exports.KEY, value=json.dumps(about))
    return [model.SerializeToString()]


def read_onnx(data: bytes, folder: Path) -> None:
    (folder / "m.onnx").write_bytes(data)
    paint(exports.load_card(str(folder / "m.onnx")).palette)


def abouts() -> list[bytes]:
    about = exports.about(cards.ModelCard.from_json(json.loads(card())), "0" * 64, {"keras": "3"})
    return [json.dumps(about).encode()]


def read_about(data: bytes, folder: Path) -> None:
    (folder / "assets.extra").mkdir(exist_ok=True)
    (folder / exports.SAVED_MODEL).write_bytes(b"x")
    (folder / exports.ABOUT).write_bytes(data)
    paint(exports.load_card(str(folder)).palette)


PNG = mutation.either(mutation.bits, mutation.png_chunks)
TARGETS: dict[str, Target] = {
    "JPEG": Target(jpegs, read_image, (ImageError,)),
    "PNG": Target(pngs, read_image, (ImageError,), PNG),
    "TIFF, WebP, BMP, GIF": Target(others, read_image, (ImageError,)),
    "label": Target(lambda: [*pngs(), *others()], read_label, (ImageError, LabelError)),
    "label PNG": Target(pngs, read_label, (ImageError, LabelError), mutation.png_chunks),
    "headers": Target(lambda: [*jpegs(), *pngs(), *others()], read_header, (ImageError,)),
    "EXIF": Target(
        lambda: [encoded.exif_block(6, order) for order in "<>"], lambda data, _: containers.exif_orientation(data), ()
    ),
    "shard": Target(shards, read_shard, ()),
    "record": Target(shards, read_shard, (), mutation.frames),
    "model.json": Target(lambda: [card()], read_card, spoil=mutation.json_values),
    "dataset.json": Target(datasets, read_dataset, spoil=mutation.json_values),
    "palette": Target(palette_files, read_palette, spoil=mutation.json_values),
    "manifest.csv": Target(manifests, read_manifest),
    "manifest.jsonl": Target(json_rows, read_json_rows, spoil=mutation.json_lines),
    "VOC list": Target(lists, read_voc_list),
    "list.txt": Target(lists, read_list(".txt")),
    "list.csv": Target(manifests, read_list(".csv")),
    "list.jsonl": Target(json_rows, read_list(".jsonl"), spoil=mutation.json_lines),
    "crf.json": Target(tunings, read_tuning, spoil=mutation.json_values),
    "segment.json": Target(notes, read_notes, spoil=mutation.json_values),
    "sidecar": Target(sidecars, read_sidecar, (), spoil=mutation.json_values),
    "ONNX": Target(onnx_files, read_onnx),
    "SavedModel": Target(abouts, read_about, spoil=mutation.json_values),
}
