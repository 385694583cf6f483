"""Every engine writes what the local run writes, byte for byte, from paths relative to the user's folder."""

from __future__ import annotations

import pytest

from tests.engines.road import COMMANDS, ROAD, deeplab, differences, walk

pytestmark = pytest.mark.engines


def assert_same(road, output, commands=ROAD):
    for command in commands:
        assert differences(road, output, command) == []


def test_prism(road, engines):
    walk(road, "prism", ["--runner", "PrismRunner", "--prism_location", f"{engines}/bin/prism"], COMMANDS)
    assert_same(road, "prism", COMMANDS)


def test_a_worker_pool_behind_a_job_server(road, pool):
    walk(road, "pool", pool)
    assert_same(road, "pool")


def test_a_flink_cluster(road, flink):
    walk(road, "flink", flink.flags)
    assert_same(road, "flink")
    assert flink.states() == ["FINISHED"] * len(ROAD)


def test_flinks_own_small_cluster_and_a_flag_of_its_job_server(road, jar):
    flags = ["--runner", "FlinkRunner", "--flink_job_server_jar", jar, "--object_reuse", "--max_bundle_size", "2"]
    deeplab(road, "prepare", *flags, "--output", "small/prepare")
    assert differences(road, "small", "prepare") == []
