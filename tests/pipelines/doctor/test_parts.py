"""The parts of an examination: the sample, tallies that add up, measures, and labels that are mended."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from pipelines.doctor import tally
from pipelines.doctor.findings import of_classes, of_values
from pipelines.doctor.look import look
from pipelines.doctor.measures import BLENDED, between, blended_share, fit, likeness, perceptual_hash
from pipelines.doctor.mend import encoded, mended
from pipelines.doctor.plan import DECODED, MAX_ALIGNED, Subject, make_plan, read_chunk
from pipelines.doctor.reading import Reading
from pipelines.doctor.tally import REACH, Alignment, DoctorTally, of_colors, seen_of, with_print
from pipelines.doctor.verdict import sentence
from pipelines.inputs.pairs import Pair
from pipelines.runner import handover
from tests.drawn.encoded import palette_png, saved
from tests.drawn.ill import scene
from tests.drawn.records import PALETTE
from trainer.formats import codings

PAIRS = [Pair(f"{n:04d}", f"i/{n}", f"l/{n}", "train", 1, 1) for n in range(1001)]


def test_a_sample_is_of_neighbours_and_the_same_for_a_seed():
    plan = make_plan(PAIRS, full=False, sampled=100, seed=3)
    chosen = [subject.number for subject in plan.subjects if subject.effort >= DECODED]
    assert len(chosen) == 100 and plan.total == 1001
    assert all(one + 1 == other and one % 2 == 0 for one, other in zip(chosen[::2], chosen[1::2], strict=True))
    assert plan == make_plan(PAIRS, full=False, sampled=100, seed=3) != make_plan(PAIRS, False, 100, seed=4)
    for pairs, full in ((PAIRS, True), (PAIRS[:90], False)):
        assert all(subject.effort >= DECODED for subject in make_plan(pairs, full, sampled=100, seed=3).subjects)
    aligned = [subject for subject in make_plan(PAIRS, True, 100, 0).subjects if subject.effort > DECODED]
    assert len(aligned) == MAX_ALIGNED


def test_chunks_of_a_plan_are_read_back(tmp_path):
    plan = make_plan(PAIRS, full=False, sampled=10, seed=0)
    handover.write_plan(str(tmp_path), plan.lines)
    chunks = [read_chunk(str(tmp_path), plan.digest, number) for number in range(len(plan.lines))]
    assert [subject for chunk in chunks for subject in chunk] == list(plan.subjects)


def some(number: int) -> DoctorTally:
    found = seen_of(number, f"{number}.png", "sizes" if number % 2 else "blended-ids", f"found {number}")
    votes = np.zeros((2 * REACH + 1,) * 2, np.int64)
    votes[REACH, number % 5] = 1
    found += DoctorTally(
        decoded=1,
        pixels={"val" if number % 3 else "train": np.arange(256) * number},
        labels={"train": np.ones(256, np.int64)},
        unknown_ids={number % 4: 10},
        alignment=Alignment(votes * 0.5, votes),
    )
    found += of_colors({(number, 1, 2): number})
    return with_print(found, number, image=number + 1, label=7, hash=number)


def test_tallies_add_up_to_the_same_in_any_order_and_come_back_from_their_file(tmp_path):
    parts = [some(number) for number in range(20)]
    one, other = tally.total(parts), tally.total([tally.total(parts[13:]), *parts[:13][::-1]])
    for name, summed in (("one", one), ("other", other)):
        tally.write(summed, str(tmp_path), name)
    assert one.kinds == other.kinds
    found = tally.read(str(tmp_path), "other")
    assert found.looked == found.decoded == 20
    assert found.kinds == one.kinds and found.seen("sizes").count == 10
    assert [example.number for example in found.seen("sizes").examples] == [1, 3, 5, 7, 9, 11]
    assert found.unknown_ids == {0: 50, 1: 50, 2: 50, 3: 50} and found.unknown_colors[19, 1, 2] == 19
    np.testing.assert_array_equal(found.prints, one.prints)
    assert [tally.FAULTS[row["fault"] - 1] for row in found.prints[:2] if row["fault"]] == ["sizes"]
    np.testing.assert_array_equal(found.pixels["train"], np.arange(256) * sum(range(0, 20, 3)))
    assert found.alignment.votes.sum() == 20 and found.alignment.score.sum() == 10


def test_of_a_million_unknown_colours_few_are_kept_and_all_pixels_counted(tmp_path):
    parts = [of_colors({(n, m, 0): 1 + n for m in range(256)}) for n in range(20)]
    summed = tally.total(parts)
    assert len(summed.unknown_colors) == tally.MAX_COLORS and min(summed.unknown_colors.values()) == 17
    tally.write(summed, str(tmp_path), "colors")
    assert tally.read(str(tmp_path), "colors").unknown_color_pixels == 256 * sum(range(1, 21))


def test_a_label_that_can_be_read_in_two_ways_counts_as_decoded():
    ids = np.where(np.arange(64) < 32, 0, 1).astype(np.uint8)[None].repeat(64, axis=0)
    files = {"image": saved(scene(0)[0]), "label": palette_png(ids, np.array(PALETTE.colors)[[1, 0, 2]])}
    found = look(Subject(0, "a", "image", "label", "train", DECODED), PALETTE, read=files.__getitem__)
    assert found.seen("two-readings").count == 1 and found.decoded == 1


def test_tiny_numbers_are_neither_rounded_to_none_nor_plural():
    pixels = {"train": np.array([250_000, 1, 30] + [0] * 253)}
    found = DoctorTally(1, 1, pixels=pixels, labels={"train": (pixels["train"] > 0).astype(np.int64)})
    (tiny,) = of_classes(found, make_plan(PAIRS[:1], full=True, sampled=1, seed=0), PALETTE)
    assert f"{PALETTE.names[1]} (<0.001 %, 1 pixel a label), {PALETTE.names[2]} (0.012 %, 30 pixels" in tiny.text
    assert "(1 pair, 1 decoded)" in sentence([tiny], 1, 1)
    plan, unknown = make_plan(PAIRS[:1], full=True, sampled=1, seed=0), seen_of(0, "0.png", "unknown-ids", "id 77")
    _, (other,) = of_values(DoctorTally(1, 1, kinds=unknown.kinds, unknown_ids={77: 1}), plan, Reading(PALETTE))
    assert other.text == "labels hold ids 77, which the palette does not know: 1 pixel"


def test_ids_are_blended_where_steps_lead_through_others():
    ids = np.zeros((12, 12), np.uint8)
    ids[:, 6:] = 9
    assert blended_share(ids) == 0
    ids[:, 6] = 4
    assert blended_share(ids) == 0.5
    ids[:, 6] = 10  # an outline
    assert blended_share(ids) == 0


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (9, 30, 90, 200), (200, 90, 30, 9), (0, 1, 80, 255)])
def test_thin_classes_are_not_taken_for_blended_ids(order):
    ground, line, wall, sky = order
    ids = np.full((96, 96), ground, np.uint8)
    ids[:40], ids[20:70, 50:80] = sky, wall
    across = (np.diff(ids.astype(int), axis=1) != 0).nonzero()
    ids[across] = line  # poles, or lines between lanes, along every upright boundary
    down = (np.diff(ids.astype(int), axis=0) != 0)[:, :48].nonzero()
    ids[down] = line
    cv2.polylines(ids, [np.int32([[0, 10], [40, 25], [95, 12]])], False, line)  # a wire
    assert between(ids).sum() + between(ids.T).sum() > 50
    assert blended_share(ids) < BLENDED
    assert blended_share(cv2.resize(cv2.resize(ids, (36, 36)), (96, 96))) > BLENDED


def test_likeness_and_hash_outlive_scaling_and_light_but_not_another_scene():
    image, other = scene(1)[0], scene(2)[0]
    changed = cv2.convertScaleAbs(cv2.resize(image, (40, 40), interpolation=cv2.INTER_AREA), alpha=0.8, beta=10)
    assert likeness(image, changed) > 0.98 > 0.9 > likeness(image, other)
    distance = [(perceptual_hash(image) ^ perceptual_hash(one)).bit_count() for one in (changed, other)]
    assert distance[0] <= 4 < 12 < distance[1]


@pytest.mark.parametrize("shift", [(0, 0), (2, 5), (-7, 3)])
def test_a_label_fits_best_where_it_was_drawn(shift):
    total = sum(fit(*(image, np.roll(label, shift, (0, 1)))) for image, label in map(scene, range(6)))
    place = np.unravel_index(total.argmax(), total.shape)
    assert tuple(int(at) - REACH for at in place) == (-shift[0], -shift[1])
    assert fit(*(array[:31] for array in scene(0))) is None
    assert fit(scene(0)[0], np.zeros((64, 64), np.uint8)) is None


@pytest.mark.parametrize("coding", ["auto", "ids"])
def test_mended_labels_are_written_as_their_palette_reads_them(coding):
    palette = replace(PALETTE, source_ids=((10, 0), (20, 1), (30, 2), (40, 255)))
    ids = scene(0)[1]
    np.testing.assert_array_equal(codings.decode_ids(encoded(ids, palette, coding), palette, coding=coding), ids)


def test_blurred_masks_of_0_and_255_are_sharpened_and_ids_of_a_jpeg_are_lost():
    image, label = scene(0)
    encoded_image = saved(image)
    two = replace(PALETTE, names=("a", "b"), colors=PALETTE.colors[:2], source_ids=((0, 0), (255, 1)))
    truth = (label == 2).astype(np.uint8)
    sharp = mended("lossy-labels", saved(truth * 255, "JPEG", quality=80), encoded_image, two, "auto")
    assert (sharp == truth)[sharp != 255].all() and (sharp != 255).mean() > 0.8
    assert mended("lossy-labels", saved(label % 255, "JPEG", quality=95), encoded_image, PALETTE, "auto") is None
    assert mended("damaged-labels", saved(label), encoded_image, PALETTE, "auto") is None
    assert mended("sizes", saved(label[:, :40]), encoded_image, PALETTE, "auto") is None


@pytest.mark.parametrize(("kind", "size"), [("sizes", (32, 32)), ("exif", (64, 64))])
@pytest.mark.parametrize("paint", [PALETTE.colorize, np.asarray])
def test_blends_in_labels_whose_size_is_at_fault_are_ignored(paint, kind, size):
    image, truth = scene(10)
    smooth = saved(cv2.resize(cv2.resize(paint(truth % 255), (24, 24)), size))
    ids = mended(kind, smooth, saved(image), PALETTE, "auto")
    assert 0.5 < (ids != 255).mean() < 1 and (ids == truth % 255)[ids != 255].mean() > 0.95
    unknown = saved(np.full((32, 32), 77, np.uint8))
    assert mended(kind, unknown, saved(image), PALETTE, "auto") is None
