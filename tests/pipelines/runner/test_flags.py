"""Beam's flags: what is read from them, and what is refused before a job is sent anywhere."""

from __future__ import annotations

import os
import re
import sys

import pytest
from apache_beam.options.pipeline_options import DirectOptions

from pipelines.runner import flags as flags_module
from pipelines.runner.cores import cores
from pipelines.runner.flags import beam_options, check_paths, cores_per_process, is_local, shares_this_machine, workers
from tests.drawn.places import ROOT
from trainer.options import InputError

PYTHON = "python{}.{}".format(*sys.version_info)
DATAFLOW = ["--runner", "DataflowRunner", "--project", "p", "--region", "r", "--temp_location", "gs://b/tmp"]
CLOUD = [*DATAFLOW, "--sdk_container_image", f"image:{PYTHON}"]
PROCESS = ["--environment_type", "PROCESS", "--environment_config", '{"command": "/boot"}']
PORTABLE = ["--runner", "PortableRunner", "--job_endpoint", "h:8099"]


def test_processes_of_one_machine_share_its_cores():
    threads, processes = [], ["--direct_running_mode", "multi_processing", "--direct_num_workers", "2"]
    assert cores_per_process(beam_options(threads)) == 0 and workers(beam_options(threads)) == cores()
    assert cores_per_process(beam_options(processes)) == max(1, cores() // 2) and workers(beam_options(processes)) == 2
    assert workers(beam_options(CLOUD)) > 1


@pytest.mark.parametrize("flags", [[], ["--runner", "DirectRunner"], ["--runner=FnApiRunner"]])
def test_local_runs_use_threads_on_every_core(flags):
    options = beam_options(flags)
    direct = options.view_as(DirectOptions)
    assert is_local(options)
    assert direct.direct_running_mode == "multi_threading"
    assert direct.direct_num_workers == cores()


def test_what_the_user_says_of_local_workers_stands():
    direct = beam_options(["--direct_num_workers=3", "--direct_running_mode", "in_memory"]).view_as(DirectOptions)
    assert (direct.direct_num_workers, direct.direct_running_mode) == (3, "in_memory")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--direct_num_wrokers", "2"], "--direct_num_wrokers (did you mean --direct_num_workers?)"),
        (["--direct-num-workers", "2"], "did you mean --direct_num_workers?"),
        (["--zzqx=1", "--zzqy"], "--zzqx, --zzqy"),
        (["stray"], "unknown arguments: stray"),
        (["--direct_num_workers", "two"], "invalid int value: 'two'"),
        (["--direct_num_workers", "-1"], "must be 0 (all cores) or more, got -1"),
        (["--direct_running_mode", "fast"], "invalid choice: 'fast'"),
        (["--runner", "DaskRunner"], "silently drops outputs"),
    ],
)
def test_flags_that_cannot_be_used_are_named(flags, said):
    with pytest.raises(InputError) as error:
        beam_options(flags)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--runner", "DataflowRunner", "--temp_location", "gs://b/t"], "needs --project and --region"),
        ([*DATAFLOW[:4], "--temp_location", "gs://b/t"], "needs --region"),
        ([*DATAFLOW[:6], "--temp_location", "/tmp"], "needs --temp_location gs://BUCKET/..., got '/tmp'"),
        (DATAFLOW, "give --setup_file ./setup.py, or --sdk_container_image"),
    ],
)
def test_a_dataflow_job_says_what_it_lacks(flags, said):
    with pytest.raises(InputError) as error:
        beam_options(flags)
    assert said in str(error.value)


def test_a_complete_dataflow_job_is_accepted():
    assert not is_local(beam_options(CLOUD))


@pytest.mark.parametrize(
    ("flags", "shares"),
    [
        ([], True),
        (["--runner", "PrismRunner"], True),
        (["--runner", "PrismRunner", *PROCESS], False),
        (["--runner", "FlinkRunner"], True),
        (["--runner", "FlinkRunner", "--flink_master", "h:8081", *PROCESS], False),
        (["--runner", "SparkRunner"], True),
        ([*PORTABLE, "--environment_type", "LOOPBACK"], True),
        ([*PORTABLE, "--environment_type", "EXTERNAL", "--environment_config", "h:9"], False),
        (CLOUD, False),
    ],
)
def test_workers_are_here_or_elsewhere(flags, shares):
    assert shares_this_machine(beam_options(flags)) is shares


@pytest.mark.parametrize(
    "flags",
    [
        PORTABLE,
        [*PORTABLE, "--environment_type", "DOCKER"],
        ["--runner", "FlinkRunner", "--flink_master", "h:8081"],
        ["--runner", "SparkRunner", "--spark_master_url", "spark://h:7077"],
    ],
)
def test_a_cluster_whose_workers_would_lack_the_package_is_refused(flags):
    with pytest.raises(InputError, match="the workers need this package; give --environment_type DOCKER"):
        beam_options(flags)
    beam_options([*flags, "--setup_file", "setup.py"])
    if "DOCKER" not in flags:
        beam_options([*flags, "--environment_type", "DOCKER", "--environment_config", f"image:{PYTHON}"])


OTHER = "3.12" if sys.version_info[:2] != (3, 12) else "3.13"


@pytest.mark.parametrize(
    "flags",
    [
        [*DATAFLOW, "--sdk_container_image", f"apache/beam_python{OTHER}_sdk:2.77.0"],
        [*DATAFLOW, "--sdk_container_image", f"europe-docker.pkg.dev/py311/deeplab:py{OTHER.replace('.', '')}-1"],
        [*PORTABLE, "--environment_type", "DOCKER", "--environment_config", f"image:python{OTHER}"],
        [*PORTABLE, "--environment_options", f"docker_container_image=image:python-{OTHER}"],
    ],
)
def test_an_image_of_another_python_is_refused(flags):
    with pytest.raises(InputError) as error:
        beam_options(flags)
    here = "{}.{}".format(*sys.version_info)
    assert f"by its name the image has Python {OTHER}, and this is Python {here}" in str(error.value)
    assert f"run deeplab with Python {OTHER}, or build the image with this Python" in str(error.value)
    assert f"IMAGE:python{here}" in str(error.value)


def test_an_image_whose_name_says_nothing_has_the_python_of_the_dockerfile(monkeypatch):
    flags = [*DATAFLOW, "--sdk_container_image", "europe-docker.pkg.dev/p/deeplab:latest"]
    monkeypatch.setattr(sys, "version_info", (*flags_module.IMAGE_PYTHON, 7))
    beam_options(flags)
    monkeypatch.setattr(sys, "version_info", (3, 13, 1))
    with pytest.raises(
        InputError, match=r"Dockerfile the image has Python 3\.11, and this is Python 3\.13; run deeplab"
    ):
        beam_options(flags)
    beam_options([*DATAFLOW, "--setup_file", "setup.py"])  # there Beam's image follows this Python


def test_the_python_of_the_dockerfile_is_known():
    bases = re.findall(r"^FROM \S*python:?(\d+)\.(\d+)\S*", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {(int(major), int(minor)) for major, minor in bases} == {flags_module.IMAGE_PYTHON}


@pytest.mark.parametrize(
    ("flags", "path", "said"),
    [
        (CLOUD, "out", "--output out is a path of this machine, which workers on Dataflow cannot see"),
        (CLOUD, "/out", "--output /out is a path of this machine"),
        ([*PORTABLE, *PROCESS], "out", f"of a folder that all workers see there, such as {os.getcwd()}"),
        ([*PORTABLE, *PROCESS], "./../out", "--output ./../out is a relative path"),
    ],
)  # fmt: skip
def test_paths_that_workers_cannot_find_are_refused(flags, path, said):
    with pytest.raises(InputError) as error:
        check_paths(
            beam_options(flags), {"--masks": ("gs://b/in", "gs://b/2"), "--model": None, "--output": ("gs://b", path)}
        )
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("flags", "path"),
    [
        ([], "out"),
        ([], "a:b//c"),
        ([], "gs://b/out"),
        (CLOUD, "gs://b/out"),
        (CLOUD, "images.csv"),
        ([*PORTABLE, *PROCESS], "/out"),
        (["--runner", "PrismRunner"], "out"),
    ],
)
def test_paths_that_workers_find_are_accepted(flags, path):
    check_paths(beam_options(flags), {"--output": path})


def test_cores_are_counted_where_the_system_cannot_bind_processes(monkeypatch):
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert cores() == os.cpu_count()
    assert workers(beam_options([])) == os.cpu_count()
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1
