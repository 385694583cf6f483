"""`deeplab segment` as a user runs it: masks, what lies beside them, and what is refused."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.crf.refine import refine
from pipelines.masks.options import Views
from pipelines.masks.softmax import most_probable
from pipelines.masks.views import mean_softmax
from tests.drawn.places import ROOT
from tests.drawn.segmenting import (
    PALETTE,
    SIZES,
    draw,
    read_mask,
    rejects_of,
    report_of,
    save,
    segment,
)
from trainer.formats.images import shrink
from trainer.formats.labels import Palette
from trainer.formats.options import CrfOptions
from trainer.options import InputError

VIEWS = Views((1.0, 1.5), flip=True)


def test_masks_are_those_of_each_image_alone(segmented, softmax):
    seen = set()
    for seed, (name, size) in enumerate(SIZES.items()):
        mask = read_mask(segmented / f"{name}.png")
        probabilities = softmax(draw(*size, seed))
        assert mask.shape == size
        best = np.sort(probabilities, -1)
        clear = best[..., -1] - best[..., -2] > 1e-4
        assert clear.mean() > 0.99 or mask.size == 1
        np.testing.assert_array_equal(mask[clear], probabilities.argmax(-1)[clear])
        confidence = np.asarray(Image.open(segmented / "confidence" / f"{name}.png"))
        np.testing.assert_allclose(confidence, probabilities.max(-1) * 255, atol=0.6)
        seen |= set(np.unique(mask))
    assert seen == {0, 1, 2}, "the images must exercise every class"


def test_overlays_are_the_images_painted_over(segmented):
    mask, image = read_mask(segmented / "a.png"), draw(*SIZES["a"], 0)
    overlay = np.asarray(Image.open(segmented / "overlays" / "a.jpg")).astype(int)
    expected = PALETTE.overlay(image, mask).astype(int)
    assert overlay.shape == image.shape
    assert np.abs(overlay - expected).mean() < 6


def test_report_counts_images_and_class_areas(segmented, model):
    report = report_of(segmented)
    ids = np.concatenate([read_mask(segmented / f"{name}.png").ravel() for name in SIZES])
    assert report["status"] == "done"
    assert (report["images"], report["written"], report["skipped"], report["rejected"]) == (6, 6, 0, 0)
    assert list(report["class_pixels"].values()) != [0, 0, 0]
    assert [report["class_pixels"][name] for name in PALETTE.names] == np.bincount(ids, minlength=3).tolist()
    assert Palette.from_json(report["palette"]) == PALETTE
    assert report["crf"] is None and report["head"] == "bilinear" and report["model"] == str(model)
    assert rejects_of(segmented) == []


def test_masks_depend_neither_on_workers_nor_on_batches_nor_on_extras(segmented, model, photos, tmp_path):
    flags = ("--batch-size", 5, "--direct_num_workers", 1)
    assert segment("--input", photos, "--model", model, "--output", tmp_path / "m", *flags) == 0
    for name in SIZES:
        once, again = read_mask(segmented / f"{name}.png"), read_mask(tmp_path / "m" / f"{name}.png")
        assert (once != again).mean() < 0.01
    assert not (tmp_path / "m" / "overlays").exists() and not (tmp_path / "m" / "confidence").exists()


def test_shrunk_images_get_masks_of_their_own_size(model, softmax, tmp_path):
    image = draw(60, 90, 3)
    save(tmp_path / "in/x.png", image)
    flags = ("--input", tmp_path / "in", "--model", model, "--output", tmp_path / "out", "--max-side", 45)
    assert segment(*flags) == 0
    expected, _ = most_probable(softmax(shrink(image, 45)), 60, 90)
    assert (read_mask(tmp_path / "out/x.png") == expected).mean() > 0.99


def test_masks_of_several_views_are_of_the_mean_of_their_softmax_and_no_others_are_kept(model, softmax, tmp_path):
    image = draw(60, 90, 3)
    save(tmp_path / "in/x.png", image)
    run = ("--input", tmp_path / "in", "--model", model, "--output", tmp_path / "out")
    assert segment(*run, "--scales", 1.5, 1, "--flip", "--confidence") == 0
    expected = mean_softmax(lambda images, _: np.stack([softmax(one) for one in images]), image[None], VIEWS)[0]
    mask = read_mask(tmp_path / "out/x.png")
    assert (mask == expected.argmax(-1)).mean() > 0.99
    assert (mask != softmax(image).argmax(-1)).any()
    confidence = np.asarray(Image.open(tmp_path / "out/confidence/x.png"))
    np.testing.assert_allclose(confidence, expected.max(-1) * 255, atol=0.6)
    with pytest.raises(InputError, match="other options"):
        segment(*run, "--scales", 1, 1.5, "--confidence")
    assert segment(*run, "--scales", 1, 1.5, "--flip", "--confidence") == 0
    assert report_of(tmp_path / "out")["skipped"] == 1


def test_exif_orientation_is_applied(model, tmp_path):
    image = draw(40, 56, 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "in/turned.png", np.rot90(image).copy(), exif=exif)
    save(tmp_path / "in/upright.png", image)
    assert segment("--input", tmp_path / "in", "--model", model, "--output", tmp_path / "out") == 0
    turned, upright = read_mask(tmp_path / "out/turned.png"), read_mask(tmp_path / "out/upright.png")
    assert turned.shape == (40, 56)
    assert (turned == upright).mean() > 0.99


def test_what_cannot_be_used_is_rejected_with_its_reason(model, tmp_path, capsys):
    folder, output = tmp_path / "in", tmp_path / "out"
    save(folder / "good.jpg", draw(30, 60, 0), quality=98)
    whole = (folder / "good.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[:-200])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.png").write_text("this is no image")
    (folder / "notes.txt").write_text("and this does not claim to be one")
    save(folder / "large.png", draw(50, 50, 0))
    save(folder / "overlays/x.png", draw(8, 8, 0))
    run = ("--input", folder, "--model", model, "--output", output, "--max-pixels", 2000)
    assert segment(*run) == 1
    text = capsys.readouterr()
    assert "6 images = 1 written + 0 skipped + 5 rejected" in text.out
    assert "Traceback" not in text.err
    reasons = {Path(reject["path"]).name: reject["reason"] for reject in rejects_of(output)}
    assert sorted(reasons) == ["empty.png", "large.png", "text.png", "truncated.jpg", "x.png"]
    assert "truncated" in reasons["truncated.jpg"] and "empty" in reasons["empty.png"]
    assert "--max-side" in reasons["large.png"] and "overlays" in reasons["x.png"]
    assert sorted(path.name for path in output.glob("*.png")) == ["good.png"]
    assert segment(*run, "--max-reject-rate", 0.9) == 0
    assert report_of(output)["skipped"] == 1


def test_input_that_cannot_work_is_refused(model, photos, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/model.json").write_text((model / "model.json").read_text())
    (tmp_path / "broken/model.keras").write_bytes(b"no weights")
    bad_list = tmp_path / "list.csv"
    bad_list.write_text("photo\na.png\n")
    wrong = {
        "does not exist": (tmp_path / "nowhere", model, "o"),
        "no images": (tmp_path / "empty", model, "o"),
        "expected a column": (bad_list, model, "o"),
        "not a model folder": (photos, tmp_path / "empty", "o"),
        "damaged": (photos, tmp_path / "broken", "o"),
        "is not a folder": (photos, model, "file"),
        "same folder": (photos, model, photos),
        "--batch-size must be 1 or more, got 0": (photos, model, "o", "--batch-size", 0),
        "--no-such-flag": (photos, model, "o", "--no-such-flag", 1),
        "cannot be written to": (photos, model, "file/o"),
    }
    for message, (source, folder, output, *flags) in wrong.items():
        with pytest.raises(InputError) as refusal:
            segment("--input", source, "--model", folder, "--output", tmp_path / output, *flags)
        assert message in str(refusal.value)


def test_globs_and_lists(model, photos, tmp_path):
    output = tmp_path / "glob"
    assert segment("--input", f"{photos}/**/[cd].png", "--model", model, "--output", output) == 0
    assert {p.relative_to(output).as_posix() for p in output.rglob("*.png")} == {"deep/c.png", "deep/er/d.png"}
    listed = tmp_path / "list.jsonl"
    missing = photos / "deep" / "gone.png"
    lines = [photos / "a.png", photos / "deep" / "c.png", photos / "a.png", missing]
    listed.write_text("".join(json.dumps({"image": str(path)}) + "\n" for path in lines))
    output = tmp_path / "list"
    assert segment("--input", listed, "--model", model, "--output", output) == 1
    assert {p.relative_to(output).as_posix() for p in output.rglob("*.png")} == {"a.png", "deep/c.png"}
    (reject,) = rejects_of(output)
    assert (reject["path"], reject["reason"]) == (str(missing), "file not found")


def test_crf_masks_are_the_networks_refined(model, softmax, photos, tmp_path, capsys):
    flags = ("--input", photos, "--model", model, "--output", tmp_path, "--crf", "--crf-sxy", 20, "--crf-compat", 7)
    assert segment(*flags, "--crf-workers", 2) == 0
    options = CrfOptions(sxy=20, compat=7)
    assert report_of(tmp_path)["crf"] == options.to_json(())
    shares = re.search(
        r"^CPU time: CRF [<>]?(\d+) %, network and the rest [<>]?(\d+) %$", capsys.readouterr().out, re.M
    )
    assert sum(map(int, shares.groups())) in (99, 100, 101)
    changed = 0
    for seed, (name, size) in enumerate(SIZES.items()):
        image = draw(*size, seed)
        probabilities = softmax(image)
        expected = refine(image, probabilities, options).argmax(-1)
        assert (read_mask(tmp_path / f"{name}.png") == expected).mean() > 0.99
        changed += (probabilities.argmax(-1) != expected).sum()
    assert changed > 20


def test_processes_instead_of_threads(model, photos, segmented, tmp_path):
    flags = ("--direct_running_mode", "multi_processing", "--direct_num_workers", 2)
    assert segment("--input", photos, "--model", model, "--output", tmp_path, *flags) == 0
    assert report_of(tmp_path)["class_images"] == report_of(segmented)["class_images"]
    assert all((tmp_path / f"{name}.png").exists() for name in SIZES)


def test_the_terminal_shows_images_and_progress_and_nothing_of_tensorflow(model, photos, tmp_path):
    command = ["segment", "--input", photos, "--model", model, "--output", tmp_path]
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", *map(str, command)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.splitlines()[:2] == [
        f"segment: 6 images in {photos} with {model} -> {tmp_path}",
        "6 images = 6 written + 0 skipped + 0 rejected",
    ]
    assert all(re.match(r"segment: \d/6 images, ", line) for line in done.stderr.splitlines()), done.stderr
