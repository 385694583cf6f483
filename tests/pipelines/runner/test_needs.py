"""What workers elsewhere need, and what is filled in for them."""

from __future__ import annotations

import re
import sys

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions, WorkerOptions

from pipelines import __version__
from pipelines.runner import needs
from pipelines.runner.flags import beam_options
from tests.drawn.places import ROOT
from trainer.options import InputError

MINOR = sys.version_info[1]
PYTHON = f"python3.{MINOR}"
DATAFLOW = ["--runner", "DataflowRunner", "--project", "p", "--region", "r", "--temp_location", "gs://b/tmp"]
CLOUD = [*DATAFLOW, "--sdk_container_image", f"image:{PYTHON}"]
PORTABLE = ["--runner", "PortableRunner", "--job_endpoint", "h:8099"]
WHEEL = f"dist/deeplab_pipelines-{__version__}-cp3{MINOR}-cp3{MINOR}-linux_x86_64.whl"
OTHER = 12 if MINOR != 12 else 13


def refusal(*flags: str) -> str:
    with pytest.raises(InputError) as error:
        beam_options(list(flags))
    return str(error.value)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--runner", "DataflowRunner", "--temp_location", "gs://b/t"], "needs --project and --region"),
        ([*DATAFLOW[:4], "--temp_location", "gs://b/t"], "needs --region"),
        ([*DATAFLOW[:6], "--temp_location", "/tmp"], "needs --temp_location gs://BUCKET/..., got '/tmp'"),
        (DATAFLOW, "the workers need this package; give --sdk_container_image with an image"),
        ([*DATAFLOW, "--extra_package", "other.whl"], "the workers need this package"),
        (
            [*DATAFLOW, "--setup_file", "./setup.py"],
            "compiled by every worker each time it starts; build the wheel",
        ),
        (
            [*CLOUD, "--setup_file", "./setup.py"],
            "by every worker each time it starts; omit it: the image has it installed",
        ),
        ([*DATAFLOW, "--extra_package", "dist/deeplab_pipelines-1.tar.gz"], "expected a wheel"),
        ([*DATAFLOW, "--extra_package", WHEEL.replace(f"cp3{MINOR}", f"cp3{OTHER}")], f"Python 3.{MINOR}; build the"),
        ([*DATAFLOW, "--extra_package", WHEEL.replace("linux_x86_64", "macosx_14_0_arm64")], "the workers run Linux"),
        ([*DATAFLOW, "--extra_package", WHEEL.replace(__version__, "0.1")], f"not of this version, {__version__}"),
        ([*CLOUD, "--worker_accelerator", "a b"], "expected a GPU's name, such as nvidia-tesla-t4"),
        (
            [*CLOUD, "--worker_accelerator", "nvidia-l4", "--dataflow_service_options=worker_accelerator=type:x"],
            "both",
        ),
        ([*CLOUD, "--worker_accelerator", "L4"], "--worker_accelerator L4: L4 is not in the table of 2026; expected"),
        ([*CLOUD, "--worker_accelerator", "nvidia-l5"], "one of nvidia-tesla-t4, nvidia-tesla-v100, nvidia-l4,"),
        (
            [*CLOUD, "--worker_accelerator", "type:nvidia-l4;count:3"],
            "no machine type has 3 of nvidia-l4; expected 1,",
        ),
        (
            [*CLOUD, "--worker_accelerator", "type:nvidia-l4;count:0"],
            "no machine type has 0 of nvidia-l4; expected 1,",
        ),
        (
            [*CLOUD, "--worker_accelerator", "nvidia-b200"],
            "has 1 of nvidia-b200; expected 8, as in 'type:nvidia-b200;c",
        ),
        (
            [*CLOUD, "--worker_accelerator", "type:nvidia-l4;count:2", "--machine_type", "g2-standard-8"],
            "--machine_type g2-standard-8 has 1 of nvidia-l4, and --worker_accelerator asks for 2 of nvidia-l4; give "
            "g2-standard-24",
        ),
    ],
)
def test_a_dataflow_job_says_what_it_lacks(flags, said):
    assert said in refusal(*flags)


@pytest.mark.parametrize("package", [["--extra_package", WHEEL], CLOUD[-2:]])
def test_dataflow_workers_get_suitable_defaults(package):
    options = beam_options([*DATAFLOW, *package])
    worker, debug = options.view_as(WorkerOptions), options.view_as(DebugOptions)
    assert (worker.machine_type, worker.disk_size_gb) == (needs.MACHINE, needs.DISK_GB)
    assert debug.number_of_worker_harness_threads == 4  # as many as the machine has cores
    assert debug.experiments == ["no_use_multiple_sdk_containers"]  # one process, one network
    assert not options.view_as(GoogleCloudOptions).dataflow_service_options


def test_what_the_user_says_of_workers_on_dataflow_stands():
    said = ["--machine_type=c3-highcpu-22", "--disk_size_gb=9", "--number_of_worker_harness_threads=3"]
    options = beam_options([*CLOUD, *said, "--experiments=use_multiple_sdk_containers"])
    worker, debug = options.view_as(WorkerOptions), options.view_as(DebugOptions)
    assert (worker.machine_type, worker.disk_size_gb) == ("c3-highcpu-22", 9)
    assert debug.number_of_worker_harness_threads == 3
    assert debug.experiments == ["use_multiple_sdk_containers"]
    threads = beam_options([*CLOUD, said[0]]).view_as(DebugOptions).number_of_worker_harness_threads
    assert threads == 22


@pytest.mark.parametrize(
    ("accelerator", "machine", "cores"),
    [
        ("nvidia-tesla-t4", "n1-standard-8", 8),
        ("type:nvidia-tesla-v100;count:8", "n1-standard-8", 8),
        ("nvidia-l4", "g2-standard-8", 8),
        ("type:nvidia-l4;count:2;install-nvidia-driver", "g2-standard-24", 24),
        ("type:nvidia-l4;count:8", "g2-standard-96", 96),
        ("type:nvidia-tesla-a100;count:1;install-nvidia-driver:5xx", "a2-highgpu-1g", 12),
        ("type:nvidia-tesla-a100;count:4", "a2-highgpu-4g", 48),
        ("type:nvidia-tesla-a100;count:16", "a2-megagpu-16g", 96),
        ("type:nvidia-a100-80gb;count:2", "a2-ultragpu-2g", 24),
        ("nvidia-h100-80gb", "a3-highgpu-1g", 26),
        ("type:nvidia-h200-141gb;count:8", "a3-ultragpu-8g", 224),
        ("type:nvidia-rtx-pro-6000;count:2", "g4-standard-96", 96),
    ],
)
def test_a_gpu_becomes_the_services_option_and_has_its_machine(accelerator, machine, cores):
    options = beam_options([*CLOUD, "--worker_accelerator", accelerator, "--dataflow_service_options=x=1"])
    services = options.view_as(GoogleCloudOptions).dataflow_service_options
    whole = accelerator if ":" in accelerator else f"type:{accelerator};count:1;install-nvidia-driver"
    assert services == ["x=1", f"worker_accelerator={whole}"]
    assert options.view_as(WorkerOptions).machine_type == machine
    assert options.view_as(DebugOptions).number_of_worker_harness_threads == cores


@pytest.mark.parametrize(
    ("machine", "cores"),
    [
        ("n2-custom-6-20480-ext", 6),
        ("custom-10-20480", 10),
        ("c3-standard-22-lssd", 22),
        ("a3-highgpu-8g", 208),
        ("zones/europe-west1-b/machineTypes/n1-standard-2", 2),
        ("e2-custom-small-4096", needs.THREADS),
        ("f1-micro", needs.THREADS),
    ],
)
def test_a_worker_has_as_many_threads_as_its_machine_has_cores(machine, cores):
    options = beam_options([*CLOUD, "--machine_type", machine])
    assert options.view_as(DebugOptions).number_of_worker_harness_threads == cores


@pytest.mark.parametrize("machine", ["n1-highmem-2", "custom-10-20480", "g9-standard-8"])
def test_a_gpu_may_be_attached_to_a_machine_that_has_none(machine):
    options = beam_options([*CLOUD, "--worker_accelerator", "nvidia-tesla-t4", "--machine_type", machine])
    assert options.view_as(WorkerOptions).machine_type == machine


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
    assert "the workers need this package; give --environment_type DOCKER" in refusal(*flags)
    beam_options([*flags, "--setup_file", "setup.py"])
    if "DOCKER" not in flags:
        beam_options([*flags, "--environment_type", "DOCKER", "--environment_config", f"image:{PYTHON}"])


@pytest.mark.parametrize(
    ("kind", "config", "said"),
    [
        ("PROCESS", "/boot", 'needs --environment_config \'{"command": "/PATH/boot"}\', with'),
        ("PROCESS", "[]", "--environment_type PROCESS needs"),
        ("PROCESS", '{"command": ["boot"]}', 'got \'{"command": ["boot"]}\''),
        ("PROCESS", '{"command": "boot", "env": "A=1"}', "--environment_type PROCESS needs"),
        ("PROCESS", '{"command": "boot", "env": {"A": 1}}', '"env": {"NAME": "TEXT"} if you like'),
        ("EXTERNAL", "worker", "--environment_type EXTERNAL needs --environment_config HOST:PORT"),
    ],
)
def test_an_environment_that_names_no_worker_is_refused(kind, config, said):
    assert said in refusal(*PORTABLE, "--environment_type", kind, "--environment_config", config)


@pytest.mark.parametrize(
    "flags",
    [
        [*DATAFLOW, "--sdk_container_image", f"apache/beam_python3.{OTHER}_sdk:{beam.__version__}"],
        [*DATAFLOW, "--sdk_container_image", f"europe-docker.pkg.dev/py311/deeplab:py3{OTHER}-1"],
        [*PORTABLE, "--environment_type", "DOCKER", "--environment_config", f"image:python3.{OTHER}"],
        [*PORTABLE, "--environment_options", f"docker_container_image=image:python-3.{OTHER}"],
    ],
)
def test_an_image_of_another_python_is_refused(flags):
    said = refusal(*flags)
    assert f"by its name the image has Python 3.{OTHER}, and this is Python 3.{MINOR}" in said
    assert f"run deeplab with Python 3.{OTHER}, or build the image with this Python" in said
    assert f"IMAGE:python3.{MINOR}" in said


def test_an_image_whose_name_says_nothing_has_the_python_of_the_dockerfile(monkeypatch):
    flags = [*DATAFLOW, "--sdk_container_image", "europe-docker.pkg.dev/p/deeplab:latest"]
    monkeypatch.setattr(sys, "version_info", (*needs.IMAGE_PYTHON, 7))
    beam_options(flags)
    monkeypatch.setattr(sys, "version_info", (3, 13, 1))
    assert "Dockerfile the image has Python 3.11, and this is Python 3.13; run deeplab" in refusal(*flags)


@pytest.mark.parametrize("name", ["apache/beam_python3.{}_sdk:2.50.0", "deeplab:python3.{}-beam2.50.0"])
def test_an_image_of_another_beam_is_refused(name):
    said = refusal(*DATAFLOW, "--sdk_container_image", name.format(MINOR))
    assert f"by its name the image has Apache Beam 2.50.0, and here is {beam.__version__}" in said
    assert f"IMAGE:beam{beam.__version__}" in said
    beam_options([*DATAFLOW, "--sdk_container_image", name.format(MINOR).replace("2.50.0", beam.__version__)])


def test_an_image_whose_name_says_nothing_has_the_beam_of_the_dockerfile(monkeypatch):
    monkeypatch.setattr(beam, "__version__", "2.79.0")
    assert f"Dockerfile the image has Apache Beam {needs.IMAGE_BEAM}, and here is 2.79.0; run `pip" in refusal(*CLOUD)


@pytest.mark.parametrize("name", ["deeplab:beam-0.28.0", "x:happy3000", "x:happy3.2", "moonbeam2.1.0:py3", "x:py30"])
def test_what_resembles_a_version_in_the_name_of_an_image_is_not_read(name, monkeypatch):
    monkeypatch.setattr(sys, "version_info", (*needs.IMAGE_PYTHON, 7))
    beam_options([*DATAFLOW, "--sdk_container_image", f"europe-docker.pkg.dev/p/{name}"])


def test_the_versions_of_the_dockerfile_are_known():
    dockerfile = (ROOT / "Dockerfile").read_text()
    bases = re.findall(r"^FROM \S*python:?(\d+)\.(\d+)\S*", dockerfile, re.MULTILINE)
    assert {(int(major), int(minor)) for major, minor in bases} == {needs.IMAGE_PYTHON}
    assert re.findall(r"^FROM apache/beam_\S+:(\S+)", dockerfile, re.MULTILINE) == [needs.IMAGE_BEAM]
