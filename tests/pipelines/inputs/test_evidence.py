"""What labels show of how they code classes: uses of values, and ids that count from 1."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.inputs.coding import settle_coding
from pipelines.inputs.evidence import Use, gather, one_based
from tests.drawn.encoded import palette_png, saved
from trainer.formats.label_images import read_label
from trainer.formats.labels import Palette
from trainer.formats.palettes import CAMVID

THREE = Palette("three", ("a", "b", "c"), ((9, 0, 0), (0, 9, 0), (0, 0, 9)))
AREA, OUTLINE = Use(900, 800, 400, 1), Use(100, 0, 0, 1)


def block() -> np.ndarray:
    """20x20 ids of 2 with a column of 1s in the middle."""
    ids = np.full((20, 20), 2, np.uint8)
    ids[:, 9] = 1
    return ids


def test_pixels_are_solid_and_deep_by_their_distance_from_other_values_and_from_the_border():
    found = gather([read_label(saved(block()))])
    assert found.ids == {1: Use(20, 0, 0, 1), 2: Use(380, 18 * (7 + 8), 12 * (1 + 2), 1)}
    assert found.ids[1].is_outline and not found.ids[2].is_outline
    coloured = gather([read_label(saved(np.uint8(THREE.colors)[block()]))])
    assert coloured.colors == {THREE.colors[value]: use for value, use in found.ids.items()}


def test_maps_are_shuffled_where_an_index_changes_its_colour():
    labels = [read_label(palette_png(block(), colors)) for colors in ([*THREE.colors], [*THREE.colors[::-1]])]
    assert not gather(labels[:1]).is_shuffled
    found = gather(labels)
    assert found.is_shuffled and found.indices[1] == Use(40, 0, 0, 2)
    assert found.mapped.keys() == {*THREE.colors}


@pytest.mark.parametrize(
    ("ids", "palette", "sources"),
    [
        ({1: AREA, 2: AREA, 3: AREA}, THREE, {1: 0, 2: 1, 3: 2, 0: 255}),
        ({0: OUTLINE, 1: AREA, 2: AREA, 3: AREA}, THREE, {1: 0, 2: 1, 3: 2, 0: 255}),
        ({1: AREA, 2: AREA, 3: AREA, 255: AREA}, THREE, {1: 0, 2: 1, 3: 2, 0: 255}),
        ({1: AREA, 3: AREA, 4: AREA}, replace(THREE, ignore_id=3), {1: 0, 2: 1, 3: 2, 0: 255, 4: 255}),
    ],
)
def test_ids_from_1_are_read_so(ids, palette, sources):
    assert dict(one_based(ids, palette).source_ids) == sources


@pytest.mark.parametrize(
    "ids",
    [
        {0: AREA, 1: AREA, 2: AREA},
        {0: AREA, 1: AREA, 2: AREA, 3: AREA},  # a class or a void too much
        {1: AREA, 2: AREA},
        {1: AREA, 2: AREA, 3: OUTLINE},
        {3: AREA},
        {1: AREA, 2: AREA, 3: AREA, 7: AREA},
    ],
)
def test_other_ids_do_not_count_from_1(ids):
    assert one_based(ids, THREE) is None


def test_camvid_ids_from_1_are_recognised_and_ids_from_0_are_not():
    assert one_based(dict.fromkeys(range(1, 13), AREA), CAMVID)
    assert one_based(dict.fromkeys(range(12), AREA), CAMVID) is None


def test_prepare_and_evaluate_are_told_of_such_labels_and_of_maps_that_change(tmp_path):
    def said(*labels: bytes) -> str:
        paths = []
        for number, data in enumerate(labels):
            paths.append(str(tmp_path / f"{number}.png"))
            (tmp_path / f"{number}.png").write_bytes(data)
        return settle_coding(paths, THREE)[1]

    assert said(saved(block()), saved(block() + 1)).startswith("warning: the sampled labels hold ids 1-3 and none of")
    assert said(saved(block()), saved(block() - 1)) == ""
    maps = ([(90, 1, 40)] * 3, [(2, 1, 2)] * 3)
    assert said(*(palette_png(block(), colors) for colors in maps)).startswith("warning: the sampled palette images")
    assert said(palette_png(block(), maps[1]), palette_png(block(), maps[1])) == ""
