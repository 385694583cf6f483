from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.plan.compute import forward_flops
from pipelines.plan.estimate import GIB, Rate, Trial, Work, estimates, rate, read_prices, wall_rate
from trainer.options import InputError

TRIALS = [Trial(20, 0, 3.0, 4.0, 100, 2000), Trial(100, 0, 11.0, 20.0, 300, 10000)]


def work(**changes) -> Work:
    values = {"items": 36_000, "rounds": 0, "unit": "images", "images": 36_000, "read": 7, "written": GIB}
    return Work(**{**values, "parts": 1000, "reads": 72_000, "writes": 2_000, "listing": 5.0, "flops": 0.0, **changes})


def test_two_trials_tell_the_start_from_what_each_item_takes():
    assert rate(TRIALS, "wall") == Rate(pytest.approx(1.0), pytest.approx(0.1))
    assert rate(TRIALS, "cpu") == Rate(pytest.approx(0.0, abs=1e-9), pytest.approx(0.2))
    assert rate(TRIALS, "written").of(36_000) == pytest.approx(3_600_000)


def test_a_third_trial_tells_the_rounds_apart():
    trials = [
        Trial(10, 1, 10 + 5 + 7, 0, 0, 0),
        Trial(50, 1, 10 + 25 + 7, 0, 0, 0),
        Trial(20, 2, 10 + 10 + 14, 0, 0, 0),
    ]
    found = rate(trials, "wall")
    assert found == Rate(pytest.approx(10), pytest.approx(0.5), pytest.approx(7))
    assert found.of(1000, 4) == pytest.approx(10 + 500 + 28)


def test_no_item_takes_less_than_its_core_seconds_on_all_cores():
    # Another job kept the smaller trial waiting.
    trials = [Trial(20, 0, 9.0, 4.0, 100, 0), Trial(100, 0, 11.0, 20.0, 300, 0)]
    assert wall_rate(trials, 2) == Rate(pytest.approx(1.0), pytest.approx(0.1))
    assert wall_rate(TRIALS, 2) == rate(TRIALS, "wall") and wall_rate(trials, 8) == rate(trials, "wall")
    here, *_ = estimates(work(), trials, 2, 64, read_prices())
    assert here.wall == pytest.approx(5 + 1 + 3600)
    rounds = [Trial(10, 1, 30, 20, 0, 0), Trial(50, 1, 35, 60, 0, 0), Trial(20, 2, 40, 30, 0, 0)]
    found = wall_rate(rounds, 2)
    assert found.each == pytest.approx(0.5) and found.of(50, 1) == pytest.approx(35)


def test_a_larger_trial_that_was_faster_gives_no_negative_times():
    assert rate([Trial(20, 0, 5.0, 0, 0, 0), Trial(100, 0, 4.0, 0, 0, 0)], "wall").each == 0


def test_trials_that_contradict_each_other_give_the_rate_that_fits_best():
    """Not the exact one with what is below 0 left out, which would take longer than any of the trials."""
    trials = [Trial(20, 1, 16.6, 0, 0, 0), Trial(40, 1, 13.5, 0, 0, 0), Trial(20, 2, 22.7, 0, 0, 0)]
    found = rate(trials, "wall")
    assert found.each == 0 and found.of(20, 1) == pytest.approx(found.of(40, 1)) == pytest.approx(15.05)
    assert found.of(20, 2) == pytest.approx(22.7)


def test_this_machine_takes_what_the_trials_took_for_each():
    here, *_ = estimates(work(), TRIALS, 2, 64, read_prices())
    assert here.wall == pytest.approx(5 + 1 + 3600) and here.cores == 2 and here.cost is None
    assert here.core_hours == pytest.approx(2 * 3606 / 3600) and here.memory == 300


def test_cores_that_get_no_part_of_the_work_are_idle():
    (one, *_), (both, *_) = (estimates(work(parts=parts), TRIALS, 2, 64, read_prices()) for parts in (1, 2))
    assert one.wall == pytest.approx(5 + 1 + 7200) and both.wall == pytest.approx(5 + 1 + 3600)


def test_a_cluster_shares_the_core_seconds_and_costs_its_machines():
    prices = read_prices()
    prices["cluster"] |= {"cores": 4, "hour": 0.5, "start_seconds": 0}
    prices["dataflow"] |= {"cores": 4, "gib": 10, "core_hour": 0.1, "gib_hour": 0.01, "disk_gib": 50}
    prices["dataflow"] |= {"disk_gib_hour": 0.001, "start_seconds": 100}
    prices["storage"] |= {"reads_per_1000": 0.01, "writes_per_1000": 0.1}
    _, cluster, dataflow = estimates(work(), TRIALS, 2, 62, prices)
    seconds, requests = 5 + 1 + 36_000 * 0.2 / 62, 0.72 + 0.2
    assert cluster.wall == pytest.approx(seconds) and cluster.cores == 64
    assert cluster.cost == pytest.approx(16 * 0.5 * seconds / 3600 + requests)
    hours = (seconds + 100) / 3600
    assert dataflow.cost == pytest.approx(hours * (64 * 0.1 + 160 * 0.01 + 800 * 0.001) + requests)
    assert dataflow.disk == 800 and dataflow.core_hours == pytest.approx(64 * hours)


def test_cores_that_share_the_parts_of_the_work_are_all_busy_here():
    (one, *_), (both, *_) = (
        estimates(work(parts=parts, is_shared=parts == 1), TRIALS, 2, 64, read_prices()) for parts in (1, 2)
    )
    assert one.wall == both.wall


def test_no_more_cores_are_busy_than_there_are_parts():
    _, cluster, _ = estimates(work(parts=10), TRIALS, 2, 64, read_prices())
    assert cluster.wall == pytest.approx(5 + 1 + 36_000 * 0.2 / 10)


def test_a_gpu_computes_at_a_share_of_its_peak():
    prices = read_prices()
    prices["gpu"] |= {"tflops": {"float32": 10, "mixed_bfloat16": 40}, "share_of_peak": 0.25, "start_seconds": 60}
    *_, gpu = estimates(work(flops=5e9), TRIALS, 2, 64, prices)
    assert gpu.wall == pytest.approx(60 + 5 + 1 + 36_000 * 5e9 / 2.5e12)
    trials = [Trial(10, 1, 22, 0, 0, 0), Trial(50, 1, 42, 0, 0, 0), Trial(20, 2, 34, 0, 0, 0)]
    training = work(items=1000, rounds=10, flops=1e12, listing=0.0)
    found = estimates(training, trials, 2, 64, prices, "mixed_bfloat16")
    assert len(found) == 2  # Beam does not train
    # Validation takes as much of the steps there as here: 10 rounds of 7 s beside 1000 steps of 0.5 s.
    assert found[1].wall == pytest.approx(60 + 10 + 1000 * 1e12 / 10e12 * (1 + 70 / 500))
    assert found[1].gpu_hours == pytest.approx(found[1].wall / 3600)
    noisy = [Trial(10, 1, 22, 0, 0, 0), Trial(50, 1, 21, 0, 0, 0), Trial(20, 2, 34, 0, 0, 0)]
    _, gpu = estimates(training, noisy, 2, 64, prices, "mixed_bfloat16")
    assert 60 + 100 < gpu.wall < 60 + 300, "validation takes no longer there than here, 10 rounds of some 13 s"


def test_prices_that_were_edited_are_used(tmp_path: Path):
    prices = read_prices()
    prices["dataflow"]["core_hour"] = 1
    (tmp_path / "prices.json").write_text(json.dumps(prices))
    assert read_prices(str(tmp_path / "prices.json")) == prices


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda prices: prices.pop("gpu"), "it lacks gpu; `deeplab plan ... --save-prices FILE` writes"),
        (lambda prices: prices["dataflow"].pop("gib"), "dataflow lacks gib"),
        (lambda prices: prices["cluster"].update(cores=0), "cluster.cores must be a whole number, 1 or more, got 0"),
        (lambda prices: prices["gpu"].update(cores=2.5), "gpu.cores must be a whole number, 1 or more, got 2.5"),
        (lambda prices: prices["dataflow"].update(cores=float("inf")), "dataflow.cores must be a whole number"),
        (
            lambda prices: prices["cluster"].update(hour=float("inf")),
            "cluster.hour must be a number, 0 or more, got inf",
        ),
        (lambda prices: prices["gpu"].update(share_of_peak=0), "gpu.share_of_peak must be a number, above 0, got 0"),
        (lambda prices: prices["gpu"]["tflops"].update(float32=0.0), "gpu.tflops.float32 must be a number, above 0"),
        (lambda prices: prices["cluster"].update(hour="1"), "cluster.hour must be a number, 0 or more, got '1'"),
        (lambda prices: prices["cluster"].update(hour=float("nan")), "cluster.hour must be a number"),
        (lambda prices: prices.update(storage=[]), "storage lacks an object"),
        (lambda prices: prices.update(currency=5), "currency must be text without"),
        (lambda prices: prices.update(source="a\rb"), "source must be text without control characters, got 'a\\rb'"),
    ],
)
def test_prices_that_cannot_be_used_are_refused(tmp_path: Path, change, expected: str):
    prices = read_prices()
    change(prices)
    (tmp_path / "prices.json").write_text(json.dumps(prices))
    with pytest.raises(InputError) as error:
        read_prices(str(tmp_path / "prices.json"))
    assert expected in str(error.value) and "prices.json" in str(error.value)


@pytest.mark.slow
def test_operations_are_counted_under_any_backend_and_nothing_is_left(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    architecture = {"num_classes": 3, "alpha": 0.35, "aspp_rates": (6, 12), "backbone": "mobilenet_v2"}
    assert 1e7 < forward_flops(architecture, 64, 64) < 1e9
    with pytest.raises(InputError, match=r"operations of the network cannot be counted: .*backbone"):
        forward_flops({**architecture, "backbone": "none"}, 64, 64)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_json_or_missing_is_refused(tmp_path: Path):
    (tmp_path / "prices.json").write_text("{")
    with pytest.raises(InputError, match=r"prices\.json"):
        read_prices(str(tmp_path / "prices.json"))
    with pytest.raises(InputError, match=r"none\.json is missing"):
        read_prices(str(tmp_path / "none.json"))
