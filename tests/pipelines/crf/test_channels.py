"""Improbable labels share a channel of the CRF, which must move no marginal by more than a rounding error would."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.crf import refine as crf
from tests.drawn.crf_inputs import DEFAULT, WHITE, draw_image, draw_rare_labels
from trainer.formats.options import CrfOptions


@pytest.mark.parametrize("labels", [6, 21, 90])
@pytest.mark.parametrize("kind", ["scene", "noise", WHITE])
def test_labels_that_share_a_channel_lose_nothing(build, kind, labels, monkeypatch):
    image, probabilities = draw_image(kind, 61, 67), draw_rare_labels(61, 67, labels)
    shared = crf.refine(image, probabilities, DEFAULT)
    monkeypatch.setattr(crf, "IMPROBABLE", 0.0)
    apart = crf.refine(image, probabilities, DEFAULT)
    assert 0 < np.abs(shared - apart).max() < 3e-5  # they were shared, and
    np.testing.assert_allclose(shared[..., 3:], apart[..., 3:], rtol=0.02)


@pytest.mark.parametrize("weights", [(3, 4), (0.5, 0.5), (3, 10), (0, 40)])
@pytest.mark.parametrize("rare", [(1, 1), (3, 1), (1, 1, 1), (8, 1, 1, 1, 1), (1,) * 8])
@pytest.mark.parametrize("likely", [(1.0,), (0.6, 0.4), (0.7, 0.1, 0.1, 0.1), range(30, 60)])
@pytest.mark.parametrize("widths", [(3, 49, 5), (0.5, 0.5, 0.5)])
def test_sharing_a_channel_stays_within_its_bound_where_it_costs_most(widths, likely, rare, weights, monkeypatch):
    """Improbable labels at their largest where the others of their channel are not."""
    sides = np.where(np.arange(48) < 24, 60, 200).astype(np.uint8)[None, :, None].repeat(32, 0).repeat(3, 2)
    options = CrfOptions(5, widths[0], weights[0], widths[1], widths[2], weights[1])
    moved = []
    for total in crf.IMPROBABLE * np.geomspace(0.01, 1, 15):
        few = np.zeros((32, 48, len(rare)))
        few[:, :24, 0], few[:, 24:, 1:] = total * rare[0] / sum(rare), total * np.array(rare[1:]) / sum(rare)
        rest = (1 - few.sum(-1, keepdims=True)) * np.array(likely) / sum(likely)
        probabilities = np.concatenate([rest, few], -1).astype(np.float32)
        shared = crf.refine(sides, probabilities, options)
        with monkeypatch.context() as patch:
            patch.setattr(crf, "IMPROBABLE", 0.0)
            moved.append(np.abs(shared - crf.refine(sides, probabilities, options)).max())
    assert 0 < max(moved) < 1e-4
