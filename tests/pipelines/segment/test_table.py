"""The table of images: its columns, what is in them, and that a rerun goes by it without reading masks."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest

from pipelines.masks import certainty
from pipelines.masks.certainty import Certainty
from pipelines.masks.softmax import maps
from pipelines.masks.stamps import Stamp, read_stamp, stamp_png
from pipelines.segment import mask, table
from pipelines.segment.table import Row
from tests.drawn.places import ROOT
from tests.drawn.segmenting import PALETTE, SIZES, draw, outcomes_of, read_mask, rejects_of, save, segment
from trainer import storage
from trainer.formats.images import encode_png
from trainer.formats.label_images import encode_label
from trainer.formats.labels import Palette

ROWS = [
    Row("a", "in/a.png", "e3069283-9", 3, 2, (4, 0, 2), Certainty(0.9, 0.2, 0.25), 1.5, {"image": "i", "masks": "m"}),
    Row("ä/b", "gs://b/ä/b.png", "00000000-1", 1, 1, (0, 0, 1), None, None, {"image": ""}),
]


def rows_of(folder: Path) -> dict[str, dict]:
    """In order of key: readers take the parts in that of their names."""
    rows = parquet.read_table(folder / "images.parquet").sort_by("key").to_pylist()
    return {row["key"]: row for row in rows}


def parts_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "images.parquet").iterdir()}


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    part = table.part_of(["a", "ä/b"])
    assert table.PART.fullmatch(part)
    table.write(str(tmp_path), part, ROWS, "f", PALETTE)
    data = (tmp_path / part).read_bytes()
    assert [*table.read(str(tmp_path), part, "f", PALETTE).values()] == ROWS
    assert table.is_ours(data) and not table.is_ours(data[:-9]) and not table.is_ours(b"")
    table.write(str(tmp_path), part, ROWS, "f", PALETTE)
    assert (tmp_path / part).read_bytes() == data


def test_a_part_of_another_job_is_ignored(tmp_path: Path) -> None:
    part = table.part_of(["a", "ä/b"])
    read = lambda fingerprint="f", palette=PALETTE: table.read(str(tmp_path), part, fingerprint, palette)
    assert read() == {}
    table.write(str(tmp_path), part, ROWS, "f", PALETTE)
    assert read("of another model") == {}
    assert read(palette=Palette("other", ("left", "right", "other"), PALETTE.colors)) == {}
    data = (tmp_path / part).read_bytes()
    for damaged in (b"", data[:-1], data[: len(data) // 2], data.replace(b'"files"', b'"fills"')):
        (tmp_path / part).write_bytes(damaged)
        assert read() == {}


@pytest.mark.parametrize("fault", ["metadata", "schema", "rows"])
def test_no_row_of_a_part_is_read_that_is_not_ours(fault, tmp_path: Path, monkeypatch) -> None:
    """A small part can hold more rows than fit into memory."""
    part = table.part_of(["a", "ä/b"])
    table.write(str(tmp_path), part, ROWS, "f", PALETTE)
    ours = parquet.ParquetFile(tmp_path / part)
    rows, about = ours.read(), ours.metadata.metadata[table.KEY]
    rows = {"metadata": rows, "schema": rows.select(["width"]), "rows": pyarrow.concat_tables([rows, rows])}[fault]
    with parquet.ParquetWriter(tmp_path / part, rows.schema, store_schema=False) as writer:
        writer.write_table(rows)
        writer.add_key_value_metadata({} if fault == "metadata" else {table.KEY: about})
    monkeypatch.setattr(parquet.ParquetFile, "read", lambda _: pytest.fail("its rows were read"))
    assert table.read(str(tmp_path), part, "f", PALETTE) == {}


def test_the_page_describes_the_columns() -> None:
    described = re.findall(r"^\| `(\w+)` \| (\w+) \|", (ROOT / "docs/table.md").read_text(), re.MULTILINE)
    columns = [(name, str(kind)) for name, kind in table.COLUMNS.items()]
    assert described == [*columns, ("pixels_CLASS", "int64")]
    classes = [(f"pixels_{name}", "int64") for name in PALETTE.names]
    assert [(field.name, str(field.type)) for field in table.schema(PALETTE)] == [*columns, *classes]


def test_paths_that_are_not_utf_8_are_legible() -> None:
    assert table.text("in/ä\udcff.png") == "in/ä\\xff.png"


def test_a_row_tells_of_an_image_what_there_is_to_tell(segmented, photos, softmax) -> None:
    rows = rows_of(segmented)
    assert list(rows) == sorted(SIZES) and len(parts_of(segmented)) > 1
    for seed, (name, size) in enumerate(SIZES.items()):
        row, ids = rows[name], read_mask(segmented / f"{name}.png")
        assert (row["height"], row["width"]) == size and row["path"] == f"{photos}/{name}.png"
        assert row["identity"] == storage.identity((photos / f"{name}.png").read_bytes())
        assert [row[f"pixels_{one}"] for one in PALETTE.names] == np.bincount(ids.ravel(), minlength=3).tolist()
        expected = certainty.of_maps(*maps(softmax(draw(*size, seed)))[1:], None)
        assert (row["confidence"], row["entropy"]) == pytest.approx((expected.confidence, expected.entropy), abs=2e-4)
        assert row["changed"] is None and 0 < row["seconds"] < 600
        sure = read_stamp((segmented / f"{name}.png").read_bytes()).certainty
        assert sure == Certainty(row["confidence"], row["entropy"], None)


def test_pandas_reads_the_table(segmented) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_parquet(segmented / "images.parquet")
    assert sorted(frame.key) == sorted(SIZES) and frame.pixels_left.sum() > 0


def test_the_crf_tells_how_much_it_changed_and_is_no_part_of_the_networks_numbers(model, photos, segmented, tmp_path):
    flags = ("--input", photos, "--model", model, "--output", tmp_path, "--crf", "--crf-sxy", 20, "--crf-compat", 7)
    assert segment(*flags) == 0
    rows, plain = rows_of(tmp_path), rows_of(segmented)
    for name, row in rows.items():
        different = (read_mask(tmp_path / f"{name}.png") != read_mask(segmented / f"{name}.png")).mean()
        assert row["changed"] == pytest.approx(different, abs=0.003)
        assert row["entropy"] == pytest.approx(plain[name]["entropy"], abs=2e-4)
    assert max(row["changed"] for row in rows.values()) > 0


@pytest.fixture
def finished(segmented, tmp_path) -> Path:
    """A copy of `segmented`, of which files keep their times."""
    shutil.copytree(segmented, tmp_path / "masks")
    return tmp_path / "masks"


FLAGS = ("--batch-size", 2, "--overlays", "--confidence")


def test_a_rerun_reads_neither_masks_nor_images_and_changes_no_byte(model, photos, finished, monkeypatch):
    made = (".png", ".jpg", ".parquet")
    files = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file() and path.suffix in made}
    run = ("--input", photos, "--model", model, "--output", finished, *FLAGS)
    read, seen = storage.read, []
    with monkeypatch.context() as patch:
        patch.setattr(storage, "read", lambda path: seen.append(os.path.relpath(path, finished)) or read(path))
        assert segment(*run) == 0
    assert outcomes_of(finished) == (0, 6, 0)
    is_sample = lambda path: path.endswith((".png", ".jpg")) and not path.startswith("..")
    # The few that are looked at before, to see whose folder it is.
    assert sum(map(is_sample, seen)) <= 8 and not any(path.startswith("..") and "photos" in path for path in seen)
    assert {path: path.read_bytes() for path in files} == files


@pytest.mark.parametrize("lost", ["images.parquet", "a part"])
def test_after_a_kill_the_table_is_what_it_was_but_for_the_times(lost, model, photos, finished):
    before, parts = rows_of(finished), sorted((finished / "images.parquet").iterdir())
    shutil.rmtree(finished / "images.parquet") if lost != "a part" else parts[0].unlink()
    (finished / "deep/c.png").unlink()
    assert segment("--input", photos, "--model", model, "--output", finished, *FLAGS) == 0
    assert outcomes_of(finished) == (1, 5, 0)
    after = rows_of(finished)
    assert None in [row["seconds"] for row in after.values()] and after["deep/c"]["seconds"] is not None
    assert [{**row, "seconds": 0} for row in after.values()] == [{**row, "seconds": 0} for row in before.values()]


def test_the_row_of_a_mask_that_was_corrected_counts_what_it_holds_now(model, photos, finished):
    """Some editors keep the stamp."""
    before = rows_of(finished)["a"]
    ids = np.zeros_like(read_mask(finished / "a.png"))
    stamp = read_stamp((finished / "a.png").read_bytes())
    (finished / "a.png").write_bytes(stamp_png(PALETTE.encode_mask(ids), stamp))
    assert segment("--input", photos, "--model", model, "--output", finished, *FLAGS) == 0
    assert outcomes_of(finished) == (0, 6, 0)
    counts = dict(zip([f"pixels_{name}" for name in PALETTE.names], (ids.size, 0, 0), strict=True))
    assert before | counts != before and rows_of(finished)["a"] == before | counts
    assert not read_mask(finished / "a.png").any()


@pytest.mark.parametrize("change", ["colours", "an unknown id", "another size"])
def test_a_mask_that_was_made_into_something_else_is_a_reject_and_kept(change, model, photos, finished):
    path = finished / "a.png"
    ids, stamp = read_mask(path), read_stamp(path.read_bytes())
    changed = {
        "colours": encode_png(PALETTE.colorize(ids)),
        "an unknown id": encode_label(np.full_like(ids, 77)),
        "another size": PALETTE.encode_mask(ids[:20]),
    }[change]
    path.write_bytes(stamp_png(changed, stamp))
    run = ("--input", photos, "--model", model, "--output", finished, "--max-reject-rate", "1", *FLAGS)
    for table_is_there in (True, False) if change != "another size" else (True,):
        if not table_is_there:
            shutil.rmtree(finished / "images.parquet")
        assert segment(*run) == 0
        assert outcomes_of(finished) == (0, 5, 1)
        (reject,) = rejects_of(finished)
        assert "it was changed since this program wrote it" in reject["reason"]
        assert path.read_bytes() == stamp_png(changed, stamp)


def test_a_mask_of_a_new_image_of_another_size_is_kept_where_the_run_was_killed_before_its_row(model, tmp_path):
    path, run = tmp_path / "in/a.png", ("--input", tmp_path / "in", "--model", model, "--output", tmp_path / "out")
    save(path, draw(40, 56, 1))
    assert segment(*run) == 0
    parts = {part: part.read_bytes() for part in (tmp_path / "out/images.parquet").iterdir()}
    save(path, draw(24, 56, 2))
    assert segment(*run) == 0 and outcomes_of(tmp_path / "out") == (1, 0, 0)
    for part, data in parts.items():
        part.write_bytes(data)
    assert segment(*run) == 0 and outcomes_of(tmp_path / "out") == (0, 1, 0)
    assert rows_of(tmp_path / "out")["a"]["height"] == 24


def test_masks_of_version_0_5_are_kept_and_what_they_do_not_tell_is_null(model, photos, finished):
    shutil.rmtree(finished / "images.parquet")
    file = (finished / "a.png").read_bytes()
    stamp, plain = read_stamp(file), PALETTE.encode_mask(read_mask(finished / "a.png"))
    (finished / "a.png").write_bytes(stamp_png(plain, Stamp(stamp.fingerprint, stamp.identity)))
    assert segment("--input", photos, "--model", model, "--output", finished, *FLAGS) == 0
    assert outcomes_of(finished) == (0, 6, 0)
    rows = rows_of(finished)
    assert (rows["a"]["confidence"], rows["a"]["entropy"], rows["a"]["height"]) == (None, None, 40)
    assert rows["b"]["confidence"] > 0


def test_without_masks_the_table_is_all_and_a_rerun_knows_what_is_done(
    model, photos, segmented, tmp_path, monkeypatch
):
    run = ("--input", photos, "--model", model, "--output", tmp_path, "--batch-size", 2, "--no-masks")
    assert segment(*run) == 0
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".png", ".jpg")]
    alike = lambda folder: [{**row, "seconds": 0} for row in rows_of(folder).values()]
    assert alike(tmp_path) == alike(segmented)
    parts = parts_of(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(mask.SegmentJob, "segmenter", None)  # the network is not needed
        assert segment(*run) == 0
    assert outcomes_of(tmp_path) == (0, 6, 0) and parts_of(tmp_path) == parts
    # With masks after all: none of them is there.
    assert segment(*run[:-1]) == 0
    assert outcomes_of(tmp_path) == (6, 0, 0) and (tmp_path / "a.png").exists()


def test_without_masks_another_image_of_equal_size_and_time_is_seen(model, tmp_path):
    for seed, name in enumerate("ab"):
        save(tmp_path / f"in/{name}.bmp", draw(24, 32, seed))
        os.utime(tmp_path / f"in/{name}.bmp", ns=(10**18, 10**18))
    run = ("--input", tmp_path / "in", "--model", model, "--output", tmp_path / "out", "--no-masks")
    assert segment(*run) == 0
    before = rows_of(tmp_path / "out")
    save(tmp_path / "in/a.bmp", draw(24, 32, 5))
    os.utime(tmp_path / "in/a.bmp", ns=(10**18, 10**18))
    (tmp_path / "in/b.bmp").touch()
    assert segment(*run) == 0
    assert outcomes_of(tmp_path / "out") == (1, 1, 0)
    after = rows_of(tmp_path / "out")
    assert after["a"]["identity"] != before["a"]["identity"] and after["b"] == before["b"]


def test_masks_and_overlays_that_a_rerun_does_not_make_again_are_warned_of(model, tmp_path, capsys):
    save(tmp_path / "in/a.png", draw(24, 32, 0))
    run = ("--input", tmp_path / "in", "--model", model, "--output", tmp_path / "out")
    assert segment(*run, "--overlays") == 0
    assert segment(*run, "--no-masks") == 0
    assert "warning" not in capsys.readouterr().out
    save(tmp_path / "in/a.png", draw(24, 32, 1))
    assert segment(*run, "--no-masks") == 0
    said = capsys.readouterr().out
    assert said.count("warning: masks in ") == said.count("warning: overlays in ") == 1


def test_images_that_are_rejected_or_gone_have_no_row(model, tmp_path):
    for seed, name in enumerate("abc"):
        save(tmp_path / f"in/{name}.png", draw(24, 32, seed))
    run = ("--input", tmp_path / "in", "--model", model, "--output", tmp_path / "out", "--max-reject-rate", 1)
    assert segment(*run) == 0
    (tmp_path / "in/a.png").write_bytes(b"")
    (tmp_path / "in/b.png").unlink()
    assert segment(*run) == 0
    assert list(rows_of(tmp_path / "out")) == ["c"]
    assert [reject["key"] for reject in rejects_of(tmp_path / "out")] == ["a"]
