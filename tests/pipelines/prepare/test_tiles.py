"""`deeplab prepare --tile`: large images of train become records of their tiles, and nothing else changes."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from pipelines.inputs import selection, tiling
from pipelines.records import repair
from tests.drawn.outputs import as_it_is
from tests.drawn.prepared import (
    flip_bit,
    prepare,
    prepare_here,
    read_records,
    read_rejects,
    read_shard,
    records,
    shard_bytes,
)
from tests.drawn.rawset import write_pair, write_rawset
from tests.drawn.records import draw_image
from trainer import storage
from trainer.formats import images, label_images
from trainer.formats.dataset import load_dataset
from trainer.formats.examples import decode
from trainer.formats.runs import pixels_of_ids
from trainer.options import InputError

LARGE, SMALL = (150, 200), (90, 100)
TILES = [f"train/large@r{row}c{column}of2x2" for row in range(2) for column in range(2)]


@pytest.fixture
def raw(tmp_path):
    """A large and a small image of train, and a large one of val."""
    source = write_rawset(tmp_path / "raw", {})
    for number, (split, name, size) in enumerate(
        [("train", "large.png", LARGE), ("train", "small.jpg", SMALL), ("val", "large.jpg", LARGE)]
    ):
        write_pair(source, split, name, *draw_image(number, *size))
    return source


def by_key(folder) -> dict:
    return {(record.key, record.copy): record for record in read_records(folder)}


def pixels_of(record) -> tuple[np.ndarray, np.ndarray]:
    return images.decode_image(record.image), label_images.read_label(record.label).codes


def joined(parts, columns: int) -> np.ndarray:
    lines = [np.concatenate(parts[first : first + columns], 1) for first in range(0, len(parts), columns)]
    return np.concatenate(lines)


def test_tiles_put_together_are_the_image(raw, tmp_path):
    assert prepare_here(raw, tmp_path / "out", "--tile", "100", "--image-format", "png") == 0
    made = by_key(tmp_path / "out")
    assert sorted(made) == sorted((key, 0) for key in (*TILES, "train/small", "val/large"))
    tiles = [made[key, 0] for key in TILES]
    image, label = (joined(parts, 2) for parts in zip(*map(pixels_of, tiles), strict=True))
    np.testing.assert_array_equal(image, np.asarray(Image.open(raw / "images/train/large.png")))
    np.testing.assert_array_equal(label, np.asarray(Image.open(raw / "labels/train/large.png")))
    assert {(tile.height, tile.width, tile.filename) for tile in tiles} == {(75, 100, "images/train/large.png")}


def test_images_that_fit_and_those_of_other_splits_go_in_untouched(raw, tmp_path):
    prepare_here(raw, tmp_path / "out", "--tile", "100")
    made = by_key(tmp_path / "out")
    for key in ("train/small", "val/large"):
        assert made[key, 0].image == (raw / f"images/{key}.jpg").read_bytes()


def test_accounts_and_statistics_are_those_of_the_tiles(raw, tmp_path, capsys):
    prepare_here(raw, tmp_path / "out", "--tile", "100", "--copies", "2")
    assert capsys.readouterr().out.splitlines()[2:] == [
        "16 records = 16 written + 0 rejected",
        "  train: 5 tiles + 10 copies = 15 records in 1 shard",
        "  val: 1 image + 0 copies = 1 record in 1 shard",
        f"6 images and tiles + 10 copies = 16 records in 2 shards, written to {tmp_path}/out",
    ]
    dataset = load_dataset(str(tmp_path / "out"))
    assert (dataset.count("train"), dataset.images("train")) == (15, 5)
    (shard,) = dataset.of_split("train")
    assert (shard.min_size, shard.max_size) == ((75, 100), (90, 100))
    counted = sum(pixels_of_ids(pixels_of(one)[1]) for one in read_records(tmp_path / "out") if "train" in one.key)
    assert shard.class_pixels == tuple(counted[:3].tolist())
    assert records("verify", tmp_path / "out") == 0


def test_copies_of_tiles_differ_and_are_of_their_size(raw, tmp_path):
    prepare_here(raw, tmp_path / "out", "--tile", "100", "--copies", "1", "--rotate", "0", "--scale", "1", "1")
    made = by_key(tmp_path / "out")
    copies = [made[key, 1] for key in TILES]
    assert {(one.height, one.width) for one in copies} == {(75, 100)}
    assert len({one.image for one in copies} | {made[key, 0].image for key in TILES}) == 8


def test_images_are_shrunk_before_they_are_cut(raw, tmp_path):
    prepare_here(raw, tmp_path / "out", "--tile", "64", "--max-side", "100", "--image-format", "png")
    made = by_key(tmp_path / "out")
    tiles = [made[key, 0] for key in TILES]
    assert {(tile.height, tile.width) for tile in tiles} == {(37, 50), (38, 50)}
    expected = images.shrink(np.asarray(Image.open(raw / "images/train/large.png")), 100)
    np.testing.assert_array_equal(joined([pixels_of(tile)[0] for tile in tiles], 2), expected)


def test_turned_images_are_cut_upright(tmp_path):
    source = write_rawset(tmp_path / "raw", {"val": 1})
    image, label = draw_image(1, 90, 200)
    write_pair(source, "train", "turned.jpg", image, np.rot90(label, -1))
    exif = Image.Exif()
    exif[0x112] = 6  # turn by 90 degrees clockwise
    Image.fromarray(image).save(source / "images/train/turned.jpg", exif=exif)
    assert prepare_here(source, tmp_path / "out", "--tile", "100") == 0
    sizes = {key: (one.height, one.width) for (key, _), one in by_key(tmp_path / "out").items() if "turned" in key}
    assert sizes == {"train/turned@r0c0of2x1": (100, 90), "train/turned@r1c0of2x1": (100, 90)}


@pytest.mark.parametrize("form", ["TIFF", "TIFF with its directory last", "PNG", "WEBP", "BMP", "progressive JPEG"])
def test_sizes_are_read_of_every_format(tmp_path, form):
    source = write_rawset(tmp_path / "raw", {"val": 1})
    noise = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    buffer = io.BytesIO()
    options = {
        "TIFF with its directory last": {"compression": "tiff_lzw"},
        "progressive JPEG": {"progressive": True},
        "WEBP": {"lossless": True},
    }
    Image.fromarray(noise).save(
        buffer, form.split()[-1] if "JPEG" in form else form.split()[0], **options.get(form, {})
    )
    assert len(buffer.getvalue()) > tiling.BEGINNING
    write_pair(source, "train", "a.png", noise, np.zeros((300, 500), np.uint8))
    (source / "images/train/a.png").unlink()
    (source / f"images/train/a.{form.split()[-1 if 'JPEG' in form else 0].lower()}").write_bytes(buffer.getvalue())
    assert prepare_here(source, tmp_path / "out", "--tile", "256") == 0
    assert load_dataset(str(tmp_path / "out")).images("train") == 4


def test_a_webp_is_cut_upright_though_its_orientation_is_at_its_end(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 310, 3), np.uint8)
    source, exif = write_rawset(tmp_path / "raw", {}), Image.Exif()
    exif[0x0112] = 6
    write_pair(source, "train", "a.png", noise, np.zeros((310, 200), np.uint8))
    (source / "images/train/a.png").unlink()
    Image.fromarray(noise).save(source / "images/train/a.webp", lossless=True, exif=exif.tobytes())
    assert (source / "images/train/a.webp").stat().st_size > tiling.BEGINNING
    assert prepare_here(source, tmp_path / "out", "--tile", "128") == 0
    sizes = {(record.height, record.width) for record in read_records(tmp_path / "out")}
    assert sizes == {(103, 100), (104, 100)}


def test_all_records_of_a_bad_image_are_one_reject(raw, tmp_path):
    (raw / "labels/train/large.png").write_bytes(b"no label")
    assert prepare_here(raw, tmp_path / "out", "--tile", "100", "--max-reject-rate", "1") == 0
    (reject,) = read_rejects(tmp_path / "out").values()
    assert (reject["key"], reject["records"]) == ("train/large", 4)
    assert set(by_key(tmp_path / "out")) == {("train/small", 0), ("val/large", 0)}


def test_an_image_that_is_none_is_a_reject(raw, tmp_path):
    (raw / "images/train/large.png").write_bytes(b"no image")
    assert prepare_here(raw, tmp_path / "out", "--tile", "100", "--max-reject-rate", "1") == 0
    (reject,) = read_rejects(tmp_path / "out").values()
    assert (reject["key"], reject["records"]) == ("train/large", 1)


def test_an_image_whose_size_could_not_be_read_is_cut_by_the_rerun(raw, tmp_path, monkeypatch):
    def forbidden(path: str, offset: int, size: int) -> bytes:
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as change:
        change.setattr(storage, "read_part", forbidden)
        assert prepare_here(raw, tmp_path / "out", "--tile", "100", "--max-reject-rate", "1") == 0
    rejects = read_rejects(tmp_path / "out")
    assert rejects.keys() == {"train/large", "train/small"}
    assert all("run the same command again" in reject["reason"] for reject in rejects.values())
    assert prepare_here(raw, tmp_path / "out", "--tile", "100") == 0
    prepare_here(raw, tmp_path / "other", "--tile", "100")
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "other")


def test_shards_without_large_images_are_kept_when_tiles_come(raw, tmp_path, capsys):
    for number in range(6):
        write_pair(raw, "train", f"s{number}.jpg", *draw_image(number, *SMALL))
    prepare_here(raw, tmp_path / "out", "--shards", "4")
    capsys.readouterr()
    prepare_here(raw, tmp_path / "out", "--shards", "4", "--tile", "100")
    shards = len(load_dataset(str(tmp_path / "out")).shards)
    assert f"{shards - 1} of {shards} shards are finished already and kept" in capsys.readouterr().out
    prepare_here(raw, tmp_path / "new", "--shards", "4", "--tile", "100")
    assert shard_bytes(tmp_path / "out") == shard_bytes(tmp_path / "new")


def test_beam_and_partners_write_the_same_bytes(raw, tmp_path):
    flags = ["--tile", "64", "--copies", "20"]
    prepare_here(raw, tmp_path / "here", *flags)
    assert prepare(raw, tmp_path / "beam", *flags, "--direct_num_workers", "2") == 0
    assert shard_bytes(tmp_path / "here") == shard_bytes(tmp_path / "beam")


def test_from_bucket_to_bucket_gives_the_local_bytes(raw, tmp_path, bucket):
    for file in storage.files(str(raw)):
        storage.write(storage.join(bucket, "raw", *file.relative.split("/")), storage.read(file.path))
    prepare_here(raw, tmp_path / "out", "--tile", "100")
    prepare_here(f"{bucket}/raw", f"{bucket}/out", "--tile", "100")
    for name, data in shard_bytes(tmp_path / "out").items():
        assert storage.read(storage.join(bucket, "out", name)) == data


def test_a_damaged_tile_is_made_again_to_the_bit(raw, tmp_path):
    prepare_here(raw, tmp_path / "out", "--tile", "100", "--copies", "1")
    whole = as_it_is(tmp_path / "out")
    shard = tmp_path / "out" / load_dataset(str(tmp_path / "out")).of_split("train")[0].name
    frames = [(frame, decode(frame.data)) for frame in read_shard(shard)]
    for copy in (0, 1):
        frame, tile = next((frame, one) for frame, one in frames if "@" in one.key and one.copy == copy)
        flip_bit(shard, frame.offset + 12 + frame.data.index(tile.image) + 99)
    assert records("repair", tmp_path / "out") == 0
    assert as_it_is(tmp_path / "out") == whole
    assert not (tmp_path / "out" / repair.FOLDER).exists()


def test_reshard_writes_the_shards_of_prepare(raw, tmp_path):
    for number in range(6):
        write_pair(raw, "train", f"more{number}.jpg", *draw_image(number, *LARGE))
    for folder, shards in (("few", 1), ("many", 4)):
        prepare_here(raw, tmp_path / folder, "--tile", "100", "--shards", str(shards))
    assert records("reshard", tmp_path / "few", tmp_path / "new", "--shards", 4) == 0
    assert shard_bytes(tmp_path / "new") == shard_bytes(tmp_path / "many")


def test_the_images_of_tiles_are_selected_once(raw, tmp_path):
    prepare_here(raw, tmp_path / "out", "--tile", "100", "--copies", "1")
    chosen = selection.load(str(tmp_path / "out"), "train", "").choose(
        [str(raw / f"images/{name}") for name in ("train/large.png", "train/small.jpg", "val/large.jpg")]
    )
    assert list(chosen.taken) == [1, 1, 0]


def test_exported_tiles_are_images_of_their_own(raw, tmp_path):
    prepare_here(raw, tmp_path / "out", "--tile", "100")
    assert records("export", tmp_path / "out", tmp_path / "raw again") == 0
    assert prepare_here(tmp_path / "raw again", tmp_path / "again", "--tile", "100") == 0
    ours, theirs = by_key(tmp_path / "out"), by_key(tmp_path / "again")
    assert ours.keys() == theirs.keys()
    assert all(ours[name].image == theirs[name].image for name in ours)


def test_an_image_named_like_a_tile_of_another_is_refused(raw, tmp_path):
    write_pair(raw, "train", "large@r1c0of2x2.png", *draw_image(3, *SMALL))
    with pytest.raises(InputError, match=r"large@r1c0of2x2\.png has the name of a tile of the image train/large;"):
        prepare(raw, tmp_path / "out", "--tile", "128")
    assert prepare_here(raw, tmp_path / "whole", "--tile", "200") == 0


def test_tiles_too_small_are_refused(raw, tmp_path):
    with pytest.raises(InputError, match="--tile 63: expected at least 64 pixels, or 0 for no tiles"):
        prepare(raw, tmp_path / "out", "--tile", "63")


@pytest.mark.parametrize(("size", "is_large"), [((2048, 2048), False), ((2048, 2080), True)])
def test_large_records_bring_a_note_on_tiles(tmp_path, capsys, size, is_large):
    source = write_rawset(tmp_path / "raw", {"val": 1})
    flat = np.zeros((*size, 3), np.uint8)
    write_pair(source, "train", "a.jpg", flat, flat[..., 0])
    for flags, expected in (([], is_large), (["--tile", "1024"], False)):
        prepare_here(source, tmp_path / "out", *flags)
        assert ("--tile 1024 makes a record of every tile" in capsys.readouterr().out) == expected
