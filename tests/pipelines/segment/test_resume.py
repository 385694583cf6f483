"""Reruns of `deeplab segment`: which masks are kept, which are made again, and chunks that get lost."""

from __future__ import annotations

import json
import os
import re
import shutil

import pytest

from pipelines.masks.segmenter import Segmented
from pipelines.segment import command, job
from pipelines.segment import plan as planning
from pipelines.segment.job import SegmentChunk
from pipelines.segment.mask import SegmentJob
from pipelines.segment.table import Row
from tests.drawn.segmenting import SIZES, draw, outcomes_of, read_mask, report_of, save, segment
from trainer import storage
from trainer.accounts import UnbalancedError
from trainer.options import InputError


def test_a_rerun_skips_finished_masks_and_makes_the_others(model, photos, tmp_path, capsys):
    output = tmp_path / "masks"
    run = ("--input", photos, "--model", model, "--output", output)
    assert segment(*run) == 0
    first = {name: (output / f"{name}.png").read_bytes() for name in SIZES}
    areas = report_of(output)["class_pixels"]
    (output / "a.png").unlink()
    (output / "b.png").write_bytes(first["b"][:60])
    (output / "e.png").write_bytes(b"")
    os.utime(output / "f.png", ns=(0, 0))  # older than its image
    before = (output / "deep/c.png").stat().st_mtime_ns
    capsys.readouterr()
    assert segment(*run) == 0
    said = capsys.readouterr().out
    assert "6 images = 3 written + 3 skipped + 0 rejected" in said
    shares = re.search(r"^workers' time: (.*)$", said, re.MULTILINE)[1]
    assert sorted(re.findall("[a-z]+", shares)) == ["classes", "decode", "encode", "network", "read", "write"]
    assert {name: (output / f"{name}.png").read_bytes() for name in SIZES} == first
    assert (output / "deep/c.png").stat().st_mtime_ns == before
    assert report_of(output)["class_pixels"] == areas
    assert segment(*run, "--overlays") == 0
    assert (report_of(output)["written"], len(list((output / "overlays").rglob("*.jpg")))) == (6, 6)


@pytest.mark.parametrize("name", ["overlays/a.jpg", "confidence/a.png"])
@pytest.mark.parametrize("has_table", [True, False])
def test_an_overlay_or_confidence_map_that_was_cut_off_is_made_again(model, photos, tmp_path, name, has_table):
    """It still has its stamp, which is at the beginning."""
    run = ("--input", photos, "--model", model, "--output", tmp_path, "--overlays", "--confidence")
    assert segment(*run) == 0
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    if not has_table:
        shutil.rmtree(tmp_path / "images.parquet")
    assert segment(*run) == 0
    assert outcomes_of(tmp_path) == (1, 5, 0)
    assert (tmp_path / name).read_bytes() == whole


def test_a_run_that_came_to_nothing_does_not_bind_the_next_one_to_its_options(model, photos, tmp_path, monkeypatch):
    output = tmp_path / "masks"
    run = ("--input", photos, "--model", model, "--output", output)
    with monkeypatch.context() as patch:
        patch.setattr(SegmentChunk, "process", ended)
        with pytest.raises(Exception, match="the network does not fit"):
            segment(*run, "--max-side", 24)
    assert report_of(output)["status"] == "running"
    assert segment(*run) == 0
    assert report_of(output)["written"] == 6


def ended(*arguments):
    raise InputError("the network does not fit")


def test_a_damaged_model_is_found_before_anything_is_written(model, photos, tmp_path):
    damaged = shutil.copytree(model, tmp_path / "damaged")
    data = bytearray((damaged / "model.keras").read_bytes())
    data[len(data) // 2] ^= 255
    (damaged / "model.keras").write_bytes(data)
    with pytest.raises(InputError, match=r"damaged/model\.keras is damaged \(.*train or import it again"):
        segment("--input", photos, "--model", damaged, "--output", tmp_path / "masks")
    assert not (tmp_path / "masks").exists()


def test_masks_of_other_options_are_neither_mixed_nor_taken_for_finished(model, photos, tmp_path):
    output = tmp_path / "masks"
    run = ("--input", photos, "--model", model, "--output", output)
    assert segment(*run) == 0
    plain = (output / "a.png").read_bytes()
    with pytest.raises(InputError, match="--overwrite to write them again"):
        segment(*run, "--max-side", 24)
    assert (output / "a.png").read_bytes() == plain
    assert segment(*run, "--max-side", 24, "--overwrite") == 0
    report = report_of(output)
    assert (report["written"], report["skipped"], report["max_side"]) == (6, 0, 24)
    assert read_mask(output / "a.png").shape == SIZES["a"]
    assert (output / "a.png").read_bytes() != plain
    # As if the overwriting run had been killed before it came to this mask.
    (output / "a.png").write_bytes(plain)
    assert segment(*run, "--max-side", 24) == 0
    assert (report_of(output)["written"], report_of(output)["skipped"]) == (1, 5)


def test_what_a_killed_run_was_writing_is_removed_and_nothing_of_others(model, photos, tmp_path):
    ours = [".a.png", "deep/er/.d.png", "overlays/deep/.c.jpg", "confidence/.e.png", ".segment.json"]
    ours += [".images-0123456789abcdef.jsonl", "in-flight/.0123456789abcdef01234567.started"]
    theirs = [".notes.txt", ".g.png", "deep/.a.png"]
    for name in (*ours, *theirs):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.0123abcd.tmp").write_bytes(b"half")
    (tmp_path / ".progress").mkdir()
    assert segment("--input", photos, "--model", model, "--output", tmp_path) == 0
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.tmp")}
    assert left == {f"{name}.0123abcd.tmp" for name in theirs}
    assert not (tmp_path / "in-flight").exists() and not (tmp_path / ".progress").exists()


def test_a_model_that_is_replaced_during_the_work_ends_it(model, photos, tmp_path, monkeypatch):
    """The same weights in a network of another stride."""
    shutil.copytree(model, tmp_path / "model")
    card = json.loads((model / "model.json").read_text())
    card["architecture"]["output_stride"] = 8
    write = planning.write

    def replaced(folder: str, plan: planning.Plan) -> None:
        write(folder, plan)
        (tmp_path / "model/model.json").write_text(json.dumps(card))

    monkeypatch.setattr(planning, "write", replaced)
    with pytest.raises(InputError, match=r"model\.json in .* was replaced while this command was running"):
        segment("--input", photos, "--model", tmp_path / "model", "--output", tmp_path / "masks")
    assert not list((tmp_path / "masks").glob("*.png"))


@pytest.mark.parametrize("other", [{"fingerprint": "of another model"}, {"plan": "images-0.jsonl"}])
@pytest.mark.parametrize("seconds", [0, 1000])
def test_a_run_ends_where_another_one_has_begun_in_its_folder(other, seconds, model, photos, tmp_path, monkeypatch):
    """Before its next chunk at the latest, and within one before what it writes a while later."""
    monkeypatch.setattr(job, "CHECK_SECONDS", seconds)
    write = SegmentJob.write
    written = []

    def begun(self: SegmentJob, result: Segmented) -> Row:
        row = write(self, result)
        written.append(result)
        storage.write_json(str(tmp_path / "segment.json"), report_of(tmp_path) | other)
        return row

    monkeypatch.setattr(SegmentJob, "write", begun)
    flags = ("--batch-size", 2, "--direct_num_workers", 1)
    with pytest.raises(InputError, match="another `deeplab segment` has begun to write to"):
        segment("--input", photos, "--model", model, "--output", tmp_path, *flags)
    # A chunk is as long as the hashes of its names say, and no chunk holds them all.
    assert 1 <= len(written) < (len(SIZES) if seconds else 2) and report_of(tmp_path).items() >= other.items()


def withhold(monkeypatch: pytest.MonkeyPatch, names: set[str]) -> None:
    """Lets the job lose the chunks that begin with these images."""
    process = SegmentChunk.process

    def some(self: SegmentChunk, chunk: planning.Chunk) -> list:
        first, *_ = planning.read_chunk(self.job.options.output, self.plan, chunk)
        return [] if first.source.name in names else list(process(self, chunk))

    monkeypatch.setattr(SegmentChunk, "process", some)


def test_a_chunk_that_is_tried_again_is_kept(model, photos, tmp_path, monkeypatch):
    """With its part of the table, and from masks alone where a process ended in it; a mask that is gone is made."""
    process, write, made = SegmentChunk.process, SegmentJob.write, []

    def tried_again(self: SegmentChunk, chunk: planning.Chunk) -> list:
        list(process(self, chunk))
        list(process(self, chunk))
        part = planning.part(planning.read_chunk(self.job.options.output, self.plan, chunk))
        planning.in_flight(self.job.options.output).start(part)
        (tmp_path / part).unlink()
        (tmp_path / "e.png").unlink(missing_ok=True)
        return list(process(self, chunk))

    monkeypatch.setattr(SegmentChunk, "process", tried_again)
    monkeypatch.setattr(
        SegmentJob, "write", lambda self, result: made.append(result.key.source.name) or write(self, result)
    )
    assert segment("--input", photos, "--model", model, "--output", tmp_path, "--direct_num_workers", 1) == 0
    assert sorted(made) == sorted([*SIZES, "e"])
    assert outcomes_of(tmp_path) == (1, 5, 0)


def test_what_a_worker_was_writing_when_it_was_killed_is_removed_when_its_chunk_is_tried_again(
    model, photos, tmp_path, monkeypatch
):
    """As where a cluster loses a machine: the command itself goes on."""
    process, ours = SegmentChunk.process, ("a.png", "deep/c.png", "confidence/deep/c.png")

    def killed(self: SegmentChunk, chunk: planning.Chunk) -> list:
        part = planning.part(planning.read_chunk(self.job.options.output, self.plan, chunk))
        for name in (*ours, part, "deep/other.png"):
            folder, _, file = name.rpartition("/")
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / f".{file}.0123abcd.tmp").touch()
        planning.in_flight(self.job.options.output).start(part)
        return list(process(self, chunk))

    monkeypatch.setattr(SegmentChunk, "process", killed)
    assert segment("--input", photos, "--model", model, "--output", tmp_path, "--direct_num_workers", 1) == 0
    assert [path.name for path in tmp_path.rglob("*.tmp")] == [".other.png.0123abcd.tmp"]


def test_chunks_that_get_lost_are_an_error_and_the_next_run_makes_them(model, photos, tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("".join(f"{photos}/{name}.png\n" for name in (*SIZES, "gone")))
    run = ("--input", tmp_path / "list.txt", "--model", model, "--output", tmp_path / "masks", "--batch-size", 1)
    flags = ("--direct_num_workers", 2, "--max-reject-rate", 1)
    with monkeypatch.context() as patch:
        withhold(patch, {"a", "deep/c"})
        with pytest.raises(UnbalancedError, match=r"7 images != 4 written \+ 0 skipped \+ 1 rejected; 2 lost"):
            segment(*run, *flags)
    assert report_of(tmp_path / "masks")["status"] == "incomplete"
    assert segment(*run, *flags) == 0
    assert outcomes_of(tmp_path / "masks") == (2, 4, 1)
    assert report_of(tmp_path / "masks")["status"] == "done"


def test_a_job_that_loses_everything_is_an_error(model, photos, tmp_path, monkeypatch):
    withhold(monkeypatch, {*SIZES})
    with pytest.raises(UnbalancedError, match=r"6 images != 0 written \+ 0 skipped \+ 0 rejected; 6 lost"):
        segment("--input", photos, "--model", model, "--output", tmp_path)


def test_a_job_that_publishes_nothing_is_an_error(model, photos, tmp_path, monkeypatch):
    run = ("--input", photos, "--model", model, "--output", tmp_path)
    assert segment(*run) == 0
    monkeypatch.setattr(job, "publish", lambda *arguments: None)
    with pytest.raises(UnbalancedError, match=r"6 images != 0 written \+ 0 skipped \+ 0 rejected; 6 lost"):
        segment(*run)


@pytest.mark.parametrize("overwrite", [(), ("--overwrite",)])
def test_a_job_that_was_sent_and_has_ended_is_finished_and_not_sent_again(
    model, tmp_path, monkeypatch, capsys, overwrite
):
    """As behind --no_wait, or where the command that sent it was killed."""
    for seed, name in enumerate("ab"):
        save(tmp_path / f"in/{name}.png", draw(24, 32, seed))
    run = ("--input", tmp_path / "in", "--model", model, "--output", tmp_path / "out", *overwrite)
    send = command.run_job
    monkeypatch.setattr(command, "is_local", lambda beam: False)
    with monkeypatch.context() as patch:
        patch.setattr(command, "run_job", lambda *some, **named: send(*some, **named) and False)
        assert segment(*run) == 0
    assert report_of(tmp_path / "out")["unread"] and "written" not in capsys.readouterr().out
    save(tmp_path / "in/c.png", draw(24, 32, 3))
    with monkeypatch.context() as patch:
        patch.setattr(command, "run_job", None)
        assert segment(*run) == 0
    said = capsys.readouterr().out
    assert "2 images = 2 written + 0 skipped + 0 rejected" in said and "area %" in said
    assert "changed since the job was sent, 2 then, 3 now: run the same command again" in said
    assert "unread" not in report_of(tmp_path / "out")
    assert segment(*run) == 0
    assert outcomes_of(tmp_path / "out") == ((3, 0, 0) if overwrite else (1, 2, 0))


def test_results_of_a_job_are_kept_although_its_images_have_changed_since(model, tmp_path, monkeypatch, capsys):
    """One has gone and one has come, and one whose mask had no place has gone with its folder."""
    names = [f"a{number}" for number in range(6)]
    for seed, name in enumerate(names):
        save(tmp_path / f"in/{name}.png", draw(24, 32, seed))
    save(tmp_path / "in/images.parquet/b.png", draw(24, 32, 9))
    run = ("--input", tmp_path / "in", "--model", model, "--output", tmp_path / "out", "--max-reject-rate", 0.5)
    run = (*run, "--batch-size", 1)
    send = command.run_job
    monkeypatch.setattr(command, "is_local", lambda beam: False)
    with monkeypatch.context() as patch:
        patch.setattr(command, "run_job", lambda *some, **named: send(*some, **named) and False)
        assert segment(*run) == 0
    parts = {path.name for path in (tmp_path / "out/images.parquet").iterdir()}
    shutil.rmtree(tmp_path / "in/images.parquet")
    (tmp_path / "in/a3.png").rename(tmp_path / "in/a0a.png")
    save(tmp_path / "in/c.png", draw(24, 32, 7))
    capsys.readouterr()
    assert segment(*run) == 0
    said = capsys.readouterr().out
    assert "7 images = 6 written + 0 skipped + 1 rejected" in said
    assert "changed since the job was sent, 7 then, 7 now: run the same command again" in said
    assert {path.name for path in (tmp_path / "out/images.parquet").iterdir()} == parts
    assert segment(*run) == 0
    assert outcomes_of(tmp_path / "out") == (2, 5, 0)
