"""What to run: the command behind `--`, parsed as that command does it, and its machines."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import io
import re
import secrets

from pipelines import cli
from pipelines.runner import accelerators
from pipelines.submit.options import COMMANDS, JobOptions
from trainer import storage
from trainer.options import CheckedOptions, InputError

BACKEND = {"KERAS_BACKEND": "jax"}
"""The backend that several hosts need, see `trainer.train.hosts`."""
LONGEST_NAME = 40
"""Kubernetes appends to the names of jobs, and host names have at most 63 characters."""
BEAM_FLAGS = {
    "--direct_num_workers": ("[0-9]+", "a number"),
    "--direct_running_mode": (
        "in_memory|multi_threading|multi_processing",
        "in_memory, multi_threading or multi_processing",
    ),
}
"""Beam's flags for a job on one machine -> their values, as a pattern and in words."""
EXTRAS = {"vertex": "google.cloud.aiplatform_v1", "kubernetes": "kubernetes"}
"""Verb, which is also the name of its extra -> the module that it needs."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A command, and where to run it.

    Attributes:
      name: the name of the job.
      image: the image of the container, whose entry point is `deeplab`.
      words: the arguments: the command and its flags.
      options: the parsed options of the command; None if they are invalid.
      machine_type: "" for any.
      accelerator: name of the GPUs as GKE spells it, "" for none.
      gpus: number per host.
      hosts: number of machines that run the command together.
    """

    name: str
    image: str
    words: tuple[str, ...]
    options: CheckedOptions | None
    machine_type: str
    accelerator: str
    gpus: int
    hosts: int

    @property
    def command(self) -> str:
        return self.words[0]


def missing_extra(options: JobOptions) -> list[str]:
    """A sentence if the client of the service is not installed; else none."""
    verb = type(options).__name__.lower()
    try:
        spec = importlib.util.find_spec(EXTRAS[verb])
    except ModuleNotFoundError:  # not even the packages around it
        spec = None
    cure = f'install it with `pip install "deeplab-pipelines[{verb}]"`'
    return [] if spec else [f"the client of {verb} is not installed; {cure}"]


def pairs(words: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE words as a mapping."""
    return {key: value for key, _, value in (word.partition("=") for word in words)}


def own_flags(hosts: int, host_id: int | str, coordinator: str) -> tuple[str, ...]:
    """Flags of `train` for one of several hosts: their number, its own, and the address of the first one."""
    return "--hosts", str(hosts), "--host-id", str(host_id), "--coordinator", coordinator


def environment(options: JobOptions) -> dict[str, str]:
    """Environment variables of the command: the user's, and those that several hosts need."""
    return (BACKEND if options.count > 1 else {}) | pairs(options.env)


def read_command(words: tuple[str, ...]) -> tuple[CheckedOptions, list[str]]:
    """The options of the command behind `--`, and the flags that it would pass on to Beam.

    Raises:
      InputError: the command is invalid.
      SystemExit: it has --help, which is printed.
    """
    if words[0] not in COMMANDS:
        raise InputError(f"{words[0]} is not a command for machines with GPUs; expected {', '.join(COMMANDS)}")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            _, options, flags = cli.read([*words])
    except SystemExit as stop:
        if not stop.code:
            raise
        last = complaint.getvalue().strip().rpartition("\n")[2]
        raise InputError(last.replace(": error:", ":", 1)) from None
    except InputError as error:
        raise InputError(f"deeplab {words[0]}: {error}") from None
    return options, flags


def _read(words: tuple[str, ...]) -> tuple[CheckedOptions, list[str]]:
    """`read_command` for the user's command, which must not have flags of hosts."""
    own = own_flags(0, 0, "")[::2]
    if given := [flag for flag in own if any(word == flag or word.startswith(f"{flag}=") for word in words)]:
        raise InputError(f"{' and '.join(given)}: these are set for each host; give --count before the -- instead")
    return read_command(words)


def machines(options: JobOptions) -> tuple[str, int]:
    """Name and number of the GPUs of every host: those of --accelerator, else those of the machine type."""
    if not options.accelerator:
        return accelerators.of_machine(options.machine_type)
    try:
        name, number = accelerators.parse(options.accelerator)
    except ValueError:
        raise InputError(
            f"--accelerator {options.accelerator}: expected NAME or NAME:N, such as nvidia-l4:2"
        ) from None
    has, as_many = accelerators.of_machine(options.machine_type)
    return name, number or (as_many if has == name else 1)


def job_name(options: JobOptions, command: CheckedOptions | None) -> str:
    """--name, or a unique name made from command and output: "train-model-1a2b3c"."""
    if options.name:
        return options.name
    place = getattr(command, "output", None) or getattr(command, "model", "")
    last = storage.real(place).rpartition("/")[2].removesuffix(".json")
    words = re.sub(r"[^a-z0-9]+", "-", f"{options.command[0]}-{last}".lower())
    return f"{words[: LONGEST_NAME - 7].strip('-')}-{secrets.token_hex(3)}"


def plan(options: JobOptions) -> tuple[Job, list[str], list[str]]:
    """The job, those flags of its command that are Beam's, and sentences on what could not be parsed."""
    command, flags, problems = None, [], []
    accelerator, gpus = "", 0
    try:
        command, flags = _read(options.command)
    except InputError as error:
        problems.append(str(error))
    try:
        accelerator, gpus = machines(options)
    except InputError as error:
        problems.append(str(error))
    job = Job(
        name=job_name(options, command),
        image=options.image,
        words=options.command,
        options=command,
        machine_type=options.machine_type,
        accelerator=accelerator,
        gpus=gpus,
        hosts=options.count,
    )
    return job, flags, problems
