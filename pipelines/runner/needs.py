"""Checks, before a remote job is sent, that its workers will have what they need, and sets suitable defaults."""

from __future__ import annotations

import json
import re
import sys

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)

from pipelines import __version__
from pipelines.runner import accelerators
from trainer.options import InputError

IMAGE_PYTHON = (3, 11)
"""Python version of the worker image that the Dockerfile builds."""
IMAGE_BEAM = "2.77.0"
"""Apache Beam version of that image."""

PYTHON_IN_NAME = re.compile(r"(?<![a-z])py(?:thon)?[-_]?3\.?([6-9]|[1-9]\d)(?!\d)")
"""The minor version of Python in python3.11, py-3.11 and py311; py3000 and happy3.2 say nothing of it."""
BEAM_IN_NAME = re.compile(r"(?:(?<![a-z])beam[-_]?v?|^beam_python[\d.]+_sdk:)(2\.\d+\.\d+)")
"""The version of Beam in beam2.77.0 and in the names of Beam's own images; beam-0.28.0 may be one of this program."""

MACHINE = "n2-standard-4"
"""Decoding, the CRF and the network on a CPU scale with the number of cores, and use less than 4 GB per core."""
GPU_CORES = 8
"""The least cores of the machine that is chosen for GPUs: they decode the images for them."""
THREADS = 8
"""Threads of a worker if the name of its machine type does not say how many cores it has."""
DISK_GB = 50
"""The unpacked image takes about 5 GB, and shards buffered before their upload 128 MB per thread."""
ONE_PROCESS, PROCESSES = "no_use_multiple_sdk_containers", "use_multiple_sdk_containers"
"""Dataflow's experiments for processes. By default it starts one per core, each of which would load the network."""

ACCELERATOR = re.compile(
    r"type:(?P<kind>[\w-]+);count:(?P<number>\d+)(;install-nvidia-driver(:[\w.-]+)?)?(;[\w:.;-]+)?"
)
WHEEL = re.compile(r"deeplab_pipelines-(?P<version>[^-]+)(-\d[^-]*)?-cp3(?P<minor>\d+)-\w+-(?P<platform>[\w.]+)\.whl")


def check_dataflow(options: PipelineOptions, accelerator: str | None) -> None:
    """Checks the options of a Dataflow job and sets suitable defaults. Raises InputError for what cannot work.

    Args:
      options: Beam's options of the job.
      accelerator: GPU of every worker, such as nvidia-tesla-t4, or Dataflow's full specification; None for none.
    """
    cloud, setup = options.view_as(GoogleCloudOptions), options.view_as(SetupOptions)
    missing = [f"--{name}" for name in ("project", "region") if not getattr(cloud, name)]
    if missing:
        raise InputError(f"--runner DataflowRunner needs {' and '.join(missing)}")
    # Beam itself only warns, and then looks for or creates a bucket of its own.
    if not (cloud.temp_location or "").startswith("gs://"):
        raise InputError(f"--runner DataflowRunner needs --temp_location gs://BUCKET/..., got {cloud.temp_location!r}")
    image = options.view_as(WorkerOptions).sdk_container_image
    if setup.setup_file:
        # Beam has the workers install it whatever their image holds.
        cure = "omit it: the image has it installed"
        if not image:
            cure = (
                "build the wheel once (`pip wheel --no-deps --wheel-dir dist .`) and give --extra_package dist/WHEEL, "
                "or --sdk_container_image with an image that has it installed"
            )
        raise InputError(
            f"--setup_file {setup.setup_file} has the CRF's engine compiled by every worker each time it starts; "
            f"{cure}"
        )
    if image:
        check_image("--sdk_container_image", image)
    else:
        check_wheel(setup.extra_packages or ())
    suit(options, accelerator)


def check_wheel(packages: list[str] | tuple[()]) -> None:
    """Raises InputError unless one of the packages is a wheel of this package that Dataflow's workers can install."""
    ours = [path for path in packages if path.replace("\\", "/").rsplit("/", 1)[-1].startswith("deeplab_pipelines-")]
    if not ours:
        raise InputError(
            "--runner DataflowRunner: the workers need this package; give --sdk_container_image with an image that "
            "has it installed, or --extra_package with its wheel (`pip wheel --no-deps --wheel-dir dist .`)"
        )
    name = ours[0].replace("\\", "/").rsplit("/", 1)[-1]
    wheel, minor = WHEEL.fullmatch(name), sys.version_info[1]
    if not wheel:
        raise InputError(
            f"--extra_package {ours[0]}: expected a wheel with the CRF's engine in it, which workers would compile "
            "each time they start; make it with `pip wheel --no-deps --wheel-dir dist .`"
        )
    if "linux" not in wheel["platform"] or int(wheel["minor"]) != minor:
        raise InputError(
            f"--extra_package {ours[0]}: the workers run Linux and, as this process does, Python 3.{minor}; build the "
            "wheel there with that Python"
        )
    if wheel["version"] != __version__:
        raise InputError(f"--extra_package {ours[0]} is not of this version, {__version__}; build it again")


def suit(options: PipelineOptions, accelerator: str | None) -> None:
    """Sets the machine type, disk, threads and processes of Dataflow's workers where the user did not."""
    worker, debug = options.view_as(WorkerOptions), options.view_as(DebugOptions)
    cloud = options.view_as(GoogleCloudOptions)
    machine = MACHINE
    if accelerator:
        services = list(cloud.dataflow_service_options or ())
        if any(service.startswith("worker_accelerator") for service in services):
            raise InputError(
                "give --worker_accelerator or --dataflow_service_options=worker_accelerator=..., not both"
            )
        whole = accelerator if ":" in accelerator else f"type:{accelerator};count:1;install-nvidia-driver"
        request = ACCELERATOR.fullmatch(whole)
        if not request:
            raise InputError(
                f"--worker_accelerator {accelerator}: expected a GPU's name, such as nvidia-tesla-t4, or "
                "'type:NAME;count:N;install-nvidia-driver'"
            )
        machine = machine_for(request["kind"], int(request["number"]), accelerator, worker.machine_type)
        cloud.dataflow_service_options = [*services, f"worker_accelerator={whole}"]
    worker.machine_type = worker.machine_type or machine
    if not worker.disk_size_gb:
        worker.disk_size_gb = DISK_GB
    if not debug.number_of_worker_harness_threads:
        debug.number_of_worker_harness_threads = accelerators.cores(worker.machine_type) or THREADS
    if not {ONE_PROCESS, PROCESSES} & {*(debug.experiments or ())}:
        debug.add_experiment(ONE_PROCESS)


def machine_for(kind: str, number: int, accelerator: str, given: str | None) -> str:
    """The machine type for `number` GPUs of that kind: that which the user gave, or the smallest that suits.

    Args:
      accelerator: the value of --worker_accelerator, for messages.
      given: the value of --machine_type.

    Raises:
      InputError: there are no such GPUs, or not so many in a machine.
    """
    others = "(for others give --machine_type and --dataflow_service_options=worker_accelerator=...)"
    if kind not in accelerators.REGIONS:
        raise InputError(
            f"--worker_accelerator {accelerator}: {kind} is not in the table of {accelerators.AS_OF}; expected one of "
            f"{', '.join(accelerators.REGIONS)} {others}"
        )
    machine = accelerators.machine_with(kind, number, GPU_CORES)
    if not machine:
        numbers = accelerators.numbers(kind)
        raise InputError(
            f"--worker_accelerator {accelerator}: no machine type has {number} of {kind}; expected "
            f"{', '.join(map(str, numbers))}, as in 'type:{kind};count:{numbers[0]};install-nvidia-driver' {others}"
        )
    has, as_many = accelerators.of_machine(given or "")
    if has and (has, as_many) != (kind, number):
        raise InputError(
            f"--machine_type {given} has {as_many} of {has}, and --worker_accelerator asks for {number} of {kind}; "
            f"give {machine}, or omit --machine_type"
        )
    return given or machine


def check_cluster(options: PipelineOptions) -> None:
    """Raises InputError if the workers of a cluster would lack this package, or have another version or Python."""
    portable, setup = options.view_as(PortableOptions), options.view_as(SetupOptions)
    kind, config = portable.environment_type, portable.environment_config
    if kind == "PROCESS":
        check_process(config)
    elif kind == "EXTERNAL":
        if not re.fullmatch(r"(https?://)?[^\s/]+:\d+", config or ""):
            raise InputError(
                f"--environment_type EXTERNAL needs --environment_config HOST:PORT, of a worker pool, got {config!r}"
            )
    elif kind in (None, "DOCKER"):
        image = portable.lookup_environment_option("docker_container_image") or config
        if not (image or setup.setup_file or setup.extra_packages):
            raise InputError(
                f"--runner {options.view_as(StandardOptions).runner}: the workers need this package; give "
                "--environment_type DOCKER --environment_config IMAGE with an image that has it installed, or PROCESS "
                "or EXTERNAL for workers of your own"
            )
        if image:
            check_image("--environment_config", image)


def check_process(config: str | None) -> None:
    """Raises InputError unless the configuration names the command that starts a worker, as Beam can send it."""
    try:
        read = json.loads(config or "")
        env = read.get("env") or {}
        is_fit = read.get("command") and all(isinstance(read.get(key, ""), str) for key in ("command", "os", "arch"))
        is_fit = is_fit and all(isinstance(value, str) for value in env.values())
    except (ValueError, AttributeError):
        is_fit = False
    if not is_fit:
        raise InputError(
            '--environment_type PROCESS needs --environment_config \'{"command": "/PATH/boot"}\', with "env": '
            f'{{"NAME": "TEXT"}} if you like, got {config!r}'
        )


def check_image(flag: str, image: str) -> None:
    """Raises InputError for an image with another Python or Beam: its workers could not read the job or would hang."""
    name = image.rsplit("/", 1)[-1]
    named = PYTHON_IN_NAME.search(name)
    python, here = (3, int(named.group(1))) if named else IMAGE_PYTHON, sys.version_info[:2]
    if python != here:
        (major, minor), (here_major, here_minor) = python, here
        known = "by its name" if named else "if it was built from this package's Dockerfile"
        raise InputError(
            f"{flag} {image}: {known} the image has Python {major}.{minor}, and this is Python "
            f"{here_major}.{here_minor}; run deeplab with Python {major}.{minor}, or build the image with this Python "
            f"and say so in its tag, as in IMAGE:python{here_major}.{here_minor}"
        )
    tagged = BEAM_IN_NAME.search(name)
    theirs, ours = tagged.group(1) if tagged else IMAGE_BEAM, beam.__version__
    if theirs != ours:
        known = "by its name" if tagged else "if it was built from this package's Dockerfile"
        raise InputError(
            f"{flag} {image}: {known} the image has Apache Beam {theirs}, and here is {ours}; run `pip install "
            f"apache-beam=={theirs}`, or build the image with this Beam and say so in its tag, as in IMAGE:beam{ours}"
        )
