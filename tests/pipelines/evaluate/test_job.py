"""Chunks to tallies, without a pipeline, and their sum."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from pipelines.evaluate.job import EvaluateChunk
from pipelines.evaluate.plan import Plan
from pipelines.evaluate.sources import Comparison, Sources
from pipelines.evaluate.tally import EvaluationTally
from pipelines.runner import handover
from pipelines.runner.progress import Heartbeat, beats
from trainer.formats import images
from trainer.formats.labels import Palette

PALETTE = Palette("two", ("left", "right"), ((200, 0, 0), (0, 200, 0)))
LABEL, MASK = np.uint8([[0, 0, 1]]), np.uint8([[0, 1, 1]])


def test_a_chunk_gives_the_tally_of_its_labels_and_a_heartbeat_for_each(tmp_path: Path) -> None:
    for folder, ids in (("labels", LABEL), ("masks", MASK), ("beats", None)):
        (tmp_path / folder).mkdir()
        for name in ("a", "b", "c") if ids is not None else ():
            (tmp_path / folder / f"{name}.png").write_bytes(images.encode_png(ids))
    (tmp_path / "masks/b.png").write_bytes(b"")
    sources = Sources(str(tmp_path / "labels"), (str(tmp_path / "masks"),), PALETTE)
    plan = Plan(sources, tuple(Comparison(name, f"{name}.png", (f"{name}.png",)) for name in "abc"))
    handover.write_plan(str(tmp_path / "out"), plan.lines)
    tallies = EvaluateChunk(Heartbeat(str(tmp_path / "beats")), sources, str(tmp_path / "out"), plan.digest)
    tally = add(tally for number in range(plan.chunks) for tally in tallies.process(number))
    assert tally.numbers.tolist() == [0, 2]
    np.testing.assert_array_equal(tally.confusion.sum((0, 1)), [[2, 2], [0, 2]])
    np.testing.assert_allclose(tally.mious, [[0.5], [0.5]])
    assert [(reject.key, reject.path) for reject in tally.rejects] == [("b", str(tmp_path / "masks/b.png"))]
    assert beats(str(tmp_path / "beats")) == 3


def add(parts: Iterable[EvaluationTally]) -> EvaluationTally:
    return sum(parts, start=EvaluationTally.empty(1, 2))


def test_tallies_are_summed_in_any_order_and_none_is_the_empty_one() -> None:
    parts = [EvaluationTally.of(number, np.full((1, 6, 2, 2), number + 1)) for number in range(4)]
    total = add([add([parts[3], parts[1]]), add([]), add([parts[0], parts[2]])])
    assert sorted(total.numbers.tolist()) == [0, 1, 2, 3] and (total.confusion == 10).all()
    nothing = add([])
    assert not nothing.confusion.any() and len(nothing.numbers) == 0
