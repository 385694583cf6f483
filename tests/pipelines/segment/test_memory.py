"""Images that would take more memory than there is are rejects before any of it is taken."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipelines.segment import memory
from pipelines.segment.mask import SegmentJob
from pipelines.segment.memory import GIB, Memory
from pipelines.segment.options import Options
from tests.drawn.segmenting import draw, outcomes_of, rejects_of, save, segment
from trainer.formats.images import ImageError
from trainer.formats.labels import Palette
from trainer.formats.options import CrfOptions

MANY = Palette("many", tuple(map(str, range(150))), tuple((n, n, n) for n in range(150)))
FEW = Palette("few", MANY.names[:21], MANY.colors[:21])
PHOTO = (3000, 4000)


def job(palette: Palette = MANY, crf: CrfOptions | None = None, max_side: int = 0, **flags: object) -> SegmentJob:
    options = Options(input="i", model="m", output="o", **flags)
    return SegmentJob(options, palette, max_side, "", "", 0, crf)


@pytest.mark.parametrize(
    ("palette", "crf", "max_side", "gib", "fits"),
    [
        (FEW, None, 0, 8, True),
        (MANY, None, 0, 8, True),
        (MANY, None, 0, 4, False),
        (FEW, CrfOptions(), 0, 12, True),
        (MANY, CrfOptions(), 0, 8, False),
        (MANY, CrfOptions(), 1500, 8, True),
        (MANY, None, 3999, 8, False),
    ],
)
def test_the_limit_is_in_bytes_which_grow_with_pixels_and_classes(palette, crf, max_side, gib, fits):
    check = job(palette, crf, max_side, max_memory=gib).budget.check
    if fits:
        assert bool(check(*PHOTO)) == bool(crf)
        return
    with pytest.raises(ImageError, match="GiB of memory"):
        check(*PHOTO)


def test_the_reason_names_size_classes_and_cures():
    with pytest.raises(ImageError) as reject:
        job(crf=CrfOptions(), max_memory=8).budget.check(*PHOTO)
    assert str(reject.value) == (
        "4000x3000 pixels of 150 classes with the CRF take about 43.2 GiB of memory, over the limit of 8.0; raise "
        "--max-memory if there is more, or give another --output and --max-side to shrink it, or no --crf"
    )


def test_views_take_a_softmax_of_their_own_and_the_network_of_the_largest():
    alone, both = job(), job(scales=(1.0, 2.0), max_memory=100)
    assert alone.budget.check(1000, 1000) == 0
    assert both.budget.check(1000, 1000) == 10**6 * (150 * 4 * (2 + 4) + 16)
    with pytest.raises(ImageError, match="or smaller --scales"):
        job(scales=(1.0, 2.0), max_memory=3).budget.check(1000, 1000)


def test_without_the_flag_the_bound_is_the_machines(monkeypatch):
    monkeypatch.setattr(memory, "memory", lambda: 12 * GIB)
    job().budget.check(*PHOTO)
    with pytest.raises(ImageError, match=r"over the limit of 9\.0"):
        job(crf=CrfOptions()).budget.check(*PHOTO)


def test_processes_share_the_memory_as_they_share_the_cores(monkeypatch):
    monkeypatch.setattr(memory, "memory", lambda: 16 * GIB)
    monkeypatch.setattr(memory, "cores", lambda: 8)
    with pytest.raises(ImageError, match=r"over the limit of 3\.0"):
        dataclasses.replace(job(), cores=2).budget.check(*PHOTO)


def test_an_image_that_is_too_large_for_the_memory_is_a_reject(model, tmp_path):
    save(tmp_path / "in/large.png", draw(600, 800, 0))
    save(tmp_path / "in/small.png", draw(20, 30, 0))
    flags = ("--input", tmp_path / "in", "--model", model, "--output", tmp_path / "out", "--max-memory", 0.1)
    assert segment(*flags) == 1
    (reject,) = rejects_of(tmp_path / "out")
    assert reject["key"] == "large" and "--max-memory" in reject["reason"]


@pytest.mark.parametrize(("flag", "low"), [("--max-memory", 0.1), ("--max-pixels", 1000)])
def test_lower_limits_keep_finished_masks_and_reject_only_what_would_have_to_be_made(flag, low, model, tmp_path):
    """The limits are of the machine, and do not change a mask."""
    for seed, name in enumerate("ab"):
        save(tmp_path / f"in/{name}.png", draw(600, 800, seed))
    run = ("--input", tmp_path / "in", "--model", model, "--output", tmp_path / "out")
    assert segment(*run) == 0
    (tmp_path / "out/b.png").unlink()
    assert segment(*run, flag, low) == 1
    assert outcomes_of(tmp_path / "out") == (0, 1, 1)
    assert [reject["key"] for reject in rejects_of(tmp_path / "out")] == ["b"]


def test_large_images_share_the_memory_and_one_is_never_kept_waiting_for_ever():
    shared, inside, most = Memory(), [0], [0]

    def work(needed: int) -> None:
        with shared.reserve(needed, 10):
            inside[0] += needed
            most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            inside[0] -= needed

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [4, 6, 3, 10, 1, 5, 5, 9] * 4))
        assert most[0] <= 10 and inside[0] == 0
        list(pool.map(work, [20, 20]))
    assert most[0] == 20


def test_large_images_get_the_masks_of_small_ones(model, tmp_path, monkeypatch):
    for seed, name in enumerate("abc"):
        save(tmp_path / f"in/{name}.png", draw(24, 32, seed))
    run = ("--input", tmp_path / "in", "--model", model, "--crf", "--batch-size", 1)
    assert segment(*run, "--output", tmp_path / "small") == 0
    monkeypatch.setattr(memory, "LARGE_BYTES", 0)
    assert segment(*run, "--output", tmp_path / "large") == 0
    for name in "abc":
        masks = [(tmp_path / folder / f"{name}.png").read_bytes() for folder in ("small", "large")]
        assert masks[0] == masks[1]
