"""`deeplab segment` as a user runs it: masks, reruns, rejects, CRF; and the pure functions it is made of."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.cli import main
from pipelines.inputs import images as pictures
from pipelines.masks import segmenter as masks
from trainer.formats.palettes import Palette
from trainer.options import InputError

PALETTE = Palette("three", ("left", "right", "rest"), ((200, 0, 0), (0, 200, 0), (0, 0, 200)))
SIZES = {"a": (40, 56), "b": (40, 56), "deep/c": (33, 47), "deep/er/d": (1, 1), "e": (70, 30), "f": (40, 56)}


def draw(height: int, width: int, seed: int) -> np.ndarray:
    """uint8 [height, width, 3]: smooth colour blobs, different for every seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def save(path: Path, image: np.ndarray, **kwargs) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, **kwargs)


def read_mask(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.mode == "P" and picture.format == "PNG"
        assert picture.getpalette()[:9] == [200, 0, 0, 0, 200, 0, 0, 0, 200]
        return np.asarray(picture)


def report_of(folder: Path) -> dict:
    return json.loads((folder / "segment.json").read_text())


def rejects_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]


def segment(*argv: object) -> int:
    return main(["segment", *map(str, argv)])


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """Folder of a tiny network with random weights, but with masks of all three classes."""
    pytest.importorskip("tensorflow")
    import keras

    from trainer.formats.cards import ModelCard
    from trainer.network.deeplab import deeplab_v3_plus, save_model

    keras.utils.set_random_seed(1)
    architecture = {"num_classes": 3, "alpha": 0.35, "head": "bilinear"}
    network = deeplab_v3_plus(**architecture)
    # The last layer is made to answer to features of this very net, so that no class wins everywhere.
    kernel, bias = network.get_layer(
        "logits--semantic" if _has(network, "logits--semantic") else _last(network)
    ).weights
    images = np.stack([draw(40, 56, seed) for seed in range(8)])
    kernel.assign(np.random.default_rng(0).normal(0, 1, kernel.shape))
    logits = np.asarray(network(images, training=False))
    scale = 3 / logits.std()
    kernel.assign(kernel * scale)
    bias.assign(-logits.mean((0, 1, 2)) * scale)
    folder = tmp_path_factory.mktemp("model")
    save_model(str(folder), network, ModelCard(architecture, PALETTE))
    return folder


def _has(network, name: str) -> bool:
    return any(layer.name == name for layer in network.layers)


def _last(network) -> str:
    return [layer.name for layer in network.layers if layer.weights][-1]


@functools.lru_cache(maxsize=1)
def reference(folder: Path):
    """float32 [H, W, C] softmax of one picture alone."""
    from trainer.network.deeplab import load_model, predictor

    predict = predictor(load_model(str(folder))[0], "probabilities")
    return lambda image: predict(image[None])[0]


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for seed, (name, size) in enumerate(SIZES.items()):
        save(folder / f"{name}.png", draw(*size, seed))
    return folder


@pytest.fixture(scope="module")
def segmented(model, photos, tmp_path_factory) -> Path:
    """Masks, overlays and confidence maps of `photos`; tests must not change them."""
    output = tmp_path_factory.mktemp("out") / "masks"
    flags = ("--batch-size", 2, "--overlays", "--confidence", "--direct_num_workers", 2)
    assert segment("--input", photos, "--model", model, "--output", output, *flags) == 0
    return output


def test_masks_are_those_of_each_picture_alone(segmented, photos, model):
    seen = set()
    for seed, (name, size) in enumerate(SIZES.items()):
        mask = read_mask(segmented / f"{name}.png")
        probabilities = reference(model)(draw(*size, seed))
        assert mask.shape == size
        best = np.sort(probabilities, -1)
        clear = best[..., -1] - best[..., -2] > 1e-4
        assert clear.mean() > 0.99 or mask.size == 1
        np.testing.assert_array_equal(mask[clear], probabilities.argmax(-1)[clear])
        confidence = np.asarray(Image.open(segmented / "confidence" / f"{name}.png"))
        np.testing.assert_allclose(confidence, probabilities.max(-1) * 255, atol=0.6)
        seen |= set(np.unique(mask))
    assert seen == {0, 1, 2}, "the picture set must exercise every class"


def test_overlays_are_the_pictures_painted_over(segmented, photos):
    mask, picture = read_mask(segmented / "a.png"), draw(*SIZES["a"], 0)
    overlay = np.asarray(Image.open(segmented / "overlays" / "a.jpg")).astype(int)
    expected = PALETTE.overlay(picture, mask).astype(int)
    assert overlay.shape == picture.shape
    assert np.abs(overlay - expected).mean() < 6


def test_report_counts_pictures_and_class_areas(segmented, model):
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


def test_rerun_skips_what_is_done_and_mends_what_is_not(model, photos, tmp_path, capsys):
    output = tmp_path / "masks"
    run = ("--input", photos, "--model", model, "--output", output)
    assert segment(*run) == 0
    first = {name: (output / f"{name}.png").read_bytes() for name in SIZES}
    areas = report_of(output)["class_pixels"]
    (output / "a.png").unlink()
    (output / "b.png").write_bytes(first["b"][:60])
    save(output / "e.png", np.zeros(SIZES["e"], np.uint8))  # a mask of somebody else's
    os.utime(output / "f.png", ns=(0, 0))  # older than its picture
    before = (output / "deep/c.png").stat().st_mtime_ns
    capsys.readouterr()
    assert segment(*run) == 0
    assert "6 pictures = 4 written + 2 skipped + 0 rejected" in capsys.readouterr().out
    assert {name: (output / f"{name}.png").read_bytes() for name in SIZES} == first
    assert (output / "deep/c.png").stat().st_mtime_ns == before
    assert report_of(output)["class_pixels"] == areas
    assert segment(*run, "--overlays") == 0
    assert (report_of(output)["written"], len(list((output / "overlays").rglob("*.jpg")))) == (6, 6)


def test_masks_of_other_options_are_neither_mixed_nor_taken_for_done(model, photos, tmp_path, capsys):
    output = tmp_path / "masks"
    run = ("--input", photos, "--model", model, "--output", output)
    assert segment(*run) == 0
    plain = (output / "a.png").read_bytes()
    assert segment(*run, "--max-side", 24) == 2
    assert "--overwrite" in capsys.readouterr().err
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


def test_shrunk_pictures_get_masks_of_their_own_size(model, tmp_path):
    image = draw(60, 90, 3)
    save(tmp_path / "in/x.png", image)
    flags = ("--input", tmp_path / "in", "--model", model, "--output", tmp_path / "out", "--max-side", 45)
    assert segment(*flags) == 0
    expected, _ = masks.choose(reference(model)(masks.shrink(image, 45)), 60, 90)
    assert (read_mask(tmp_path / "out/x.png") == expected).mean() > 0.99


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
    (folder / "text.png").write_text("this is no picture")
    (folder / "notes.txt").write_text("and this does not claim to be one")
    save(folder / "large.png", draw(50, 50, 0))
    save(folder / "overlays/x.png", draw(8, 8, 0))
    run = ("--input", folder, "--model", model, "--output", output, "--max-pixels", 2000)
    assert segment(*run) == 1
    text = capsys.readouterr()
    assert "6 pictures = 1 written + 0 skipped + 5 rejected" in text.out
    assert "Traceback" not in text.err
    reasons = {Path(reject["path"]).name: reject["reason"] for reject in rejects_of(output)}
    assert sorted(reasons) == ["empty.png", "large.png", "text.png", "truncated.jpg", "x.png"]
    assert "truncated" in reasons["truncated.jpg"] and "empty" in reasons["empty.png"]
    assert "--max-side" in reasons["large.png"] and "overlays" in reasons["x.png"]
    assert sorted(path.name for path in output.glob("*.png")) == ["good.png"]
    assert segment(*run, "--max-reject-rate", 0.9) == 0
    assert report_of(output)["skipped"] == 1


def test_input_that_cannot_work_is_an_error_of_one_line(model, photos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/model.json").write_text((model / "model.json").read_text())
    (tmp_path / "broken/model.keras").write_bytes(b"no weights")
    bad_list = tmp_path / "list.csv"
    bad_list.write_text("picture\na.png\n")
    wrong = {
        "does not exist": (tmp_path / "nowhere", model, "o"),
        "no pictures": (tmp_path / "empty", model, "o"),
        "expected a column": (bad_list, model, "o"),
        "not a model folder": (photos, tmp_path / "empty", "o"),
        "damaged": (photos, tmp_path / "broken", "o"),
        "is a file": (photos, model, "file"),
        "same folder": (photos, model, photos),
    }
    for message, (source, folder, output) in wrong.items():
        assert segment("--input", source, "--model", folder, "--output", tmp_path / output) == 2, message
        error = capsys.readouterr().err
        assert message in error and "Traceback" not in error, error
    assert segment("--input", photos, "--model", model, "--output", tmp_path / "o", "--batch-size", 0) == 2
    assert segment("--input", photos, "--model", model, "--output", tmp_path / "o", "--no-such-flag", 1) == 2


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
    assert (reject["path"], reject["reason"]) == (str(missing), "there is no such file")


def test_crf_masks_are_the_networks_refined(model, photos, tmp_path):
    from pipelines.crf.refine import CrfOptions, refine

    flags = ("--input", photos, "--model", model, "--output", tmp_path, "--crf", "--crf-sxy", 20, "--crf-compat", 7)
    assert segment(*flags, "--crf-workers", 2) == 0
    options = CrfOptions(sxy=20, compat=7)
    assert report_of(tmp_path)["crf"] == {**options.__dict__}
    changed = 0
    for seed, (name, size) in enumerate(SIZES.items()):
        image = draw(*size, seed)
        probabilities = reference(model)(image)
        expected = refine(image, probabilities, options).argmax(-1)
        assert (read_mask(tmp_path / f"{name}.png") == expected).mean() > 0.99
        changed += (probabilities.argmax(-1) != expected).sum()
    assert changed > 20


def test_a_tuned_model_brings_its_own_crf(model, photos, tmp_path, capsys):
    from pipelines.crf.refine import CrfOptions
    from pipelines.tune_crf.search import Gain, Tuning
    from trainer.formats.cards import weights_digest

    tuned, options = tmp_path / "model", CrfOptions(sxy=20, srgb=9, compat=6)
    shutil.copytree(model, tuned)
    found = Tuning(
        options=options, metric="miou", trimap_width=None, before=0.5, after=0.6, gain=Gain(0.1, 0.05, 0.15),
        per_class={}, grid=(), split="val", pictures=10, rejects=(), model_digest=weights_digest(str(model)),
        records_fingerprint="",
    )  # fmt: skip
    run = ("--input", photos, "--model", tuned)
    assert segment(*run, "--output", tmp_path / "without", "--crf", "auto") == 2
    assert "crf.json is missing" in capsys.readouterr().err
    (tuned / "crf.json").write_text(json.dumps(found.to_json()))
    assert segment(*run, "--output", tmp_path / "auto", "--crf", "auto", "--crf-iterations", 2) == 0
    assert report_of(tmp_path / "auto")["crf"] == {**options.__dict__, "iterations": 2}
    assert segment(*run, "--crf", "--crf-iterations", 2, "--output", tmp_path / "flags") == 0
    flags = (
        "--crf-sxy",
        20,
        "--crf-srgb",
        9,
        "--crf-compat",
        6,
        "--crf-iterations",
        2,
        "--output",
        tmp_path / "plain",
    )
    assert segment("--input", photos, "--model", model, "--crf", *flags) == 0
    for name in SIZES:
        masks = [(tmp_path / folder / f"{name}.png").read_bytes() for folder in ("auto", "flags", "plain")]
        assert masks[0] == masks[1] == masks[2]
    # What was advised against is not done: these are the masks of no CRF, also by their fingerprint.
    (tuned / "crf.json").write_text(json.dumps(dataclasses.replace(found, options=None).to_json()))
    assert segment(*run, "--output", tmp_path / "off", "--crf", "auto") == 0
    assert report_of(tmp_path / "off")["crf"] is None
    assert segment(*run, "--output", tmp_path / "off") == 0
    assert report_of(tmp_path / "off")["skipped"] == 6


def test_processes_instead_of_threads(model, photos, segmented, tmp_path):
    flags = ("--direct_running_mode", "multi_processing", "--direct_num_workers", 2)
    assert segment("--input", photos, "--model", model, "--output", tmp_path, *flags) == 0
    assert report_of(tmp_path)["class_pictures"] == report_of(segmented)["class_pictures"]
    assert all((tmp_path / f"{name}.png").exists() for name in SIZES)


def test_killed_run_leaves_whole_masks_and_the_next_goes_on(model, tmp_path):
    for number in range(40):
        save(tmp_path / f"in/{number:02d}.png", draw(64, 64, number))
    output = tmp_path / "out"
    command = ["segment", "--input", tmp_path / "in", "--model", model, "--output", output, "--batch-size", 1]
    with subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        while len(list(output.glob("*.png"))) < 3:
            assert process.poll() is None, "the job ended before it could be killed"
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    done = list(output.glob("[0-9]*.png"))
    assert report_of(output)["status"] == "running"
    for path in done:
        Image.open(path).load()
    assert main(list(map(str, command))) == 0
    report = report_of(output)
    assert (report["status"], report["skipped"], report["written"]) == ("done", len(done), 40 - len(done))


@pytest.fixture
def item():
    def make(key, height, width):
        image = np.zeros((height, width, 3), np.uint8)
        return masks.Item(key, image, image)

    return make


def test_batches_have_one_size_and_lose_nothing(item):
    items = [item(n, *size) for n, size in enumerate([(4, 5), (5, 4), (4, 5), (4, 5), (5, 4), (9, 9)])]
    groups = [[i.key for i in batch] for batch in masks.batches(items, 2, 10**6)]
    assert groups == [[0, 2], [1, 4], [3], [5]]


def test_large_pictures_go_alone_and_batches_stay_below_the_bound(item):
    items = [item(n, *size) for n, size in enumerate([(11, 10), (5, 10), (5, 10), (5, 10), (3, 10), (11, 10)])]
    groups = [[i.key for i in batch] for batch in masks.batches(items, 8, 100)]
    assert groups == [[0], [1, 2], [5], [3], [4]]


def test_few_pictures_are_kept_waiting(item, monkeypatch):
    monkeypatch.setattr(masks, "HELD_BYTES", 3 * 100)
    items = [item(n, 5, 5 + n) for n in range(9)]
    waiting = 0
    fed = []

    def feed():
        for one in items:
            fed.append(one.key)
            yield one

    for batch in masks.batches(feed(), 8, 10**6):
        waiting = max(waiting, len(fed) - len(batch))
        fed = fed[len(batch) :]
    assert waiting <= 3


class Halves:
    """Stands in for a network: the left half of a picture is class 0, the right half class 1."""

    batch_pixels = 10**6

    def __call__(self, images: np.ndarray, what: str) -> np.ndarray:
        right = np.zeros(images.shape[:3], np.float32)
        right[:, :, images.shape[2] // 2 :] = 1
        return right.astype(np.uint8) if what == "ids" else np.stack([1 - right, right], -1) * 0.8 + 0.1


def segmenter(**options) -> masks.Segmenter:
    defaults = {
        "batch_size": 4,
        "max_side": 0,
        "crf": None,
        "crf_engine": "native",
        "crf_workers": 1,
        "confidence": False,
    }
    return masks.Segmenter(Halves(), **defaults | options)


def test_killed_crf_process_is_an_error_that_says_what_to_do():
    pytest.importorskip("pydensecrf.densecrf")
    from pipelines.crf.refine import CrfOptions

    refining = segmenter(crf=CrfOptions(), crf_engine="pydensecrf")
    blank = np.zeros((16, 16, 3), np.uint8)
    try:
        (first,) = refining([("a", blank)])
        assert (first.ids == Halves()(blank[None], "ids")[0]).all()
        for pid in refining._refiner._pool._processes:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(InputError, match="--crf-workers"):
            for _ in range(100):
                list(refining([("b", blank)]))
    finally:
        refining.close()


def test_confidence_is_the_probability_of_the_chosen_class():
    (result,) = segmenter(confidence=True)([("a", np.zeros((6, 6, 3), np.uint8))])
    assert set(result.confidence.ravel().tolist()) == {round(0.9 * 255)}


@pytest.mark.parametrize(
    ("size", "max_side", "expected"),
    [((100, 200), 0, (100, 200)), ((100, 200), 200, (100, 200)), ((100, 200), 50, (25, 50)), ((1000, 1), 10, (10, 1))],
)
def test_network_size(size, max_side, expected):
    assert masks.network_size(*size, max_side) == expected
    assert masks.shrink(np.zeros((*size, 3), np.uint8), max_side).shape == (*expected, 3)


def test_choose_takes_the_first_of_equals_and_interpolates():
    equal = np.full((2, 2, 3), 1 / 3, np.float32)
    assert masks.choose(equal, 2, 2)[0].tolist() == [[0, 0], [0, 0]]
    probabilities = np.zeros((1, 2, 2), np.float32)
    probabilities[0, 0] = (0.9, 0.1)
    probabilities[0, 1] = (0.2, 0.8)
    ids, best = masks.choose(probabilities, 1, 4)
    # Columns lie at 0, 0.25, 0.75 and 1 of the way from the left pixel to the right.
    np.testing.assert_allclose(best[0], [0.9, 0.725, 0.625, 0.8], atol=1e-6)
    assert ids.tolist() == [[0, 0, 1, 1]]


def test_names_of_masks(tmp_path):
    for name in ("a.jpg", "a.png", "b.tar.jpg", "sub/c.JPG", ".hidden.jpg", "masks/a.png", "readme.md"):
        save_path = tmp_path / name
        save_path.parent.mkdir(exist_ok=True)
        save_path.write_bytes(b"")
    listing = pictures.find(str(tmp_path), str(tmp_path / "masks"))
    assert [p.name for p in listing.pictures] == ["a.jpg", "a.png", "b.tar", "sub/c"]
    assert len(listing.notes) == 2


def test_names_from_a_list_cannot_leave_the_output(tmp_path):
    for name in ("x/a.jpg", "y/a.jpg", "lists/l.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    listed = tmp_path / "lists/l.txt"
    listed.write_text(f"# pictures\n../x/a.jpg\n{tmp_path}/y/../y/a.jpg\n\n")
    listing = pictures.find(str(listed))
    assert [p.name for p in listing.pictures] == ["x/a", "y/a"]
    assert [p.path for p in listing.pictures] == [str(tmp_path / "x/a.jpg"), str(tmp_path / "y/a.jpg")]
    listed.write_text("../x/back\\slash.jpg\n../y/a.jpg\n")
    listing = pictures.find(str(listed))
    assert [p.name for p in listing.pictures] == ["y/a"]
    assert "leave the output" in listing.unusable[0][1]


def test_lists_of_objects_in_the_cloud(tmp_path):
    listed = tmp_path / "l.csv"
    listed.write_text("image,label\ngs://bucket/set/x/a.jpg,l\ngs://bucket/set/b.jpg,l\n")
    listing = pictures.find(str(listed))
    assert [(p.path, p.name) for p in listing.pictures] == [
        ("gs://bucket/set/b.jpg", "b"),
        ("gs://bucket/set/x/a.jpg", "x/a"),
    ]


def test_stamps_survive_in_a_png_and_are_told_apart():
    from pipelines.masks.stamps import has_stamp, stamp

    ids = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    png = stamp(PALETTE.encode_mask(ids), "abc")
    assert has_stamp(png, "abc") and not has_stamp(png, "abd") and not has_stamp(b"", "abc")
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.text == {"deeplab": "abc"}
        np.testing.assert_array_equal(np.asarray(picture), ids)


def test_tallies_add_up_and_accounts_are_checked(tmp_path):
    from pipelines.segment.command import publish
    from pipelines.segment.job import Job, SegmentOptions, Tally, add_up

    ids = np.uint8([[0, 0, 2]])
    whole = add_up([Tally.of(ids, written=1), Tally.of(ids, skipped=1)])
    assert (whole.written, whole.skipped, whole.class_pixels[:3].tolist()) == (1, 1, [4, 0, 2])
    assert whole.class_pictures[:3].tolist() == [2, 0, 2]
    job = Job(SegmentOptions(input="i", model="m", output=str(tmp_path)), PALETTE, 0, "d", "f", 1, None)
    with pytest.raises(RuntimeError, match="3 pictures went in but 2"):
        publish(whole, job, {"images": 3})


def test_options_refuse_nonsense():
    from pipelines.segment.command import SegmentOptions

    for wrong in ({"batch_size": 0}, {"max_side": -1}, {"max_reject_rate": 2.0}, {"crf_iterations": 0}):
        with pytest.raises(InputError):
            SegmentOptions(input="i", model="m", output="o", **wrong)
