"""GPUs of Google Cloud: how many of them each machine type takes, and in which regions Vertex AI has them.

Jobs on Vertex AI, on GKE and on Dataflow are checked against the same table.

Source: the pages "Configure compute resources" and "Locations" of Google Cloud's documentation of Vertex AI's training
(now Gemini Enterprise Agent Platform), docs.cloud.google.com/gemini-enterprise-agent-platform/machine-learning/
training/configure-compute and general/locations, as of 2026. P100, whose support ended in September 2026, P4, and
GB200, whose machines have Arm processors, are left out.
"""

from __future__ import annotations

import re

AS_OF = "2026"

T4, V100, L4, A100 = "nvidia-tesla-t4", "nvidia-tesla-v100", "nvidia-l4", "nvidia-tesla-a100"
A100_80, H100, H100_MEGA = "nvidia-a100-80gb", "nvidia-h100-80gb", "nvidia-h100-mega-80gb"
H200, B200, RTX_PRO = "nvidia-h200-141gb", "nvidia-b200", "nvidia-rtx-pro-6000"


def _n1(t4: tuple[int, ...], v100: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {T4: t4, V100: v100}


_ANY, _EVEN, _MANY = _n1((1, 2, 4), (1, 2, 4, 8)), _n1((1, 2, 4), (2, 4, 8)), _n1((2, 4), (4, 8))
_MOST = _n1((4,), (8,))

MACHINES: dict[str, dict[str, tuple[int, ...]]] = {
    **{f"n1-standard-{cores}": _ANY for cores in (4, 8)},
    **{f"n1-highmem-{cores}": _ANY for cores in (2, 4, 8)},
    **{f"n1-{kind}-16": _EVEN for kind in ("standard", "highmem", "highcpu")},
    **{f"n1-{kind}-32": _MANY for kind in ("standard", "highmem", "highcpu")},
    **{f"n1-{kind}-{cores}": _MOST for kind in ("standard", "highmem", "highcpu") for cores in (64, 96)},
    **{f"g2-standard-{cores}": {L4: (1,)} for cores in (4, 8, 12, 16, 32)},
    **{f"g2-standard-{cores}": {L4: (gpus,)} for cores, gpus in ((24, 2), (48, 4), (96, 8))},
    **{f"g4-standard-{48 * gpus}": {RTX_PRO: (gpus,)} for gpus in (1, 2, 4, 8)},
    **{f"a2-highgpu-{gpus}g": {A100: (gpus,)} for gpus in (1, 2, 4, 8)},
    "a2-megagpu-16g": {A100: (16,)},
    **{f"a2-ultragpu-{gpus}g": {A100_80: (gpus,)} for gpus in (1, 2, 4, 8)},
    **{f"a3-highgpu-{gpus}g": {H100: (gpus,)} for gpus in (1, 2, 4, 8)},
    "a3-megagpu-8g": {H100_MEGA: (8,)},
    "a3-ultragpu-8g": {H200: (8,)},
    "a4-highgpu-8g": {B200: (8,)},
}
"""Machine type -> the GPUs it takes, and how many of them."""

NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
"""GPUs, in lower case and with hyphens."""
CORES_PER_GPU = {
    **{"a2-highgpu": 12, "a2-megagpu": 6, "a2-ultragpu": 12},
    **{"a3-highgpu": 26, "a3-megagpu": 26, "a3-ultragpu": 28, "a4-highgpu": 28},
}
"""The families whose machine types are named by the number of their GPUs, a2-highgpu-1g -> cores for each of these."""
CORES = re.compile(r"(?:[a-z]\w*-)?(?:(?!micro|small|medium)[a-z]+-)*(\d+)(?:-.*)?")
"""Machine types whose names have the number of cores: n1-standard-8, n2-custom-6-20480-ext, c3-standard-22-lssd."""

REGIONS: dict[str, str] = {
    T4: "asia-east1 asia-east2 asia-northeast1 asia-northeast3 asia-south1 asia-southeast1 asia-southeast2 "
    "australia-southeast1 europe-central2 europe-west1 europe-west2 europe-west3 europe-west4 "
    "northamerica-northeast1 southamerica-east1 us-central1 us-east1 us-east4 us-west1 us-west2 us-west4",
    V100: "asia-east1 europe-west4 us-central1 us-east1 us-west1",
    L4: "asia-northeast3 asia-south1 asia-southeast1 europe-west2 europe-west4 me-central2 northamerica-northeast2 "
    "us-central1 us-east1 us-east4 us-west1",
    A100: "asia-northeast3 asia-southeast1 europe-west4 me-west1 us-central1 us-east1 us-west3 us-west4",
    A100_80: "asia-southeast1 europe-west4 us-central1 us-east4 us-east5",
    H100: "asia-northeast1 asia-northeast3 asia-south1 asia-southeast1 europe-west1 europe-west2 europe-west3 "
    "europe-west4 northamerica-northeast2 us-central1 us-east4 us-east5 us-west1 us-west4",
    H100_MEGA: "asia-east1 asia-northeast1 asia-southeast1 australia-southeast1 europe-north1 europe-west1 "
    "europe-west3 europe-west4 us-central1 us-east4 us-east5 us-west1 us-west4",
    H200: "asia-south1 asia-south2 europe-west1 europe-west4 us-central1 us-east4 us-east5 us-south1 us-west1",
    B200: "asia-northeast1 asia-southeast1 europe-west4 us-central1 us-east1 us-east4 us-south1 us-west2 us-west3",
    RTX_PRO: "asia-south2 asia-southeast1 europe-west4 us-central1 us-east1 us-east4",
}
"""GPU -> regions where jobs of Vertex AI train on it."""


def parse(text: str) -> tuple[str, int]:
    """Name and number in "nvidia-l4:2", or in "NVIDIA_L4:2" as Vertex AI spells it; 0 if no number is given.

    Raises:
      ValueError: it has neither form.
    """
    name, colon, number = text.partition(":")
    name = name.lower().replace("_", "-")
    if not NAME.fullmatch(name) or (colon and not (number.isascii() and number.isdigit() and int(number))):
        raise ValueError(text)
    return name, int(number or 0)


def of_machine(machine_type: str) -> tuple[str, int]:
    """The GPUs, name and number, that every machine of a type has; ("", 0) if that varies."""
    choices = [(name, number) for name, numbers in MACHINES.get(machine_type, {}).items() for number in numbers]
    return choices[0] if len(choices) == 1 else ("", 0)


def cores(machine_type: str) -> int:
    """The number of cores of a machine type; 0 if its name does not say."""
    named = machine_type.rpartition("/")[2]  # of an address
    family, _, gpus = named.rpartition("-")
    if family in CORES_PER_GPU and re.fullmatch(r"\d+g", gpus):
        return CORES_PER_GPU[family] * int(gpus[:-1])
    known = CORES.fullmatch(named)
    return int(known[1]) if known else 0


def machine_with(name: str, number: int, least: int) -> str:
    """The smallest machine type, of at least that many cores, which takes `number` GPUs called `name`; "" for none."""
    return min((machine for machine in _takers(name, number) if cores(machine) >= least), key=cores, default="")


def _takers(name: str, number: int) -> list[str]:
    """The machine types that take `number` GPUs called `name`."""
    return [machine for machine, gpus in MACHINES.items() if number in gpus.get(name, ())]


def numbers(name: str) -> list[int]:
    """How many GPUs called `name` a machine may have."""
    return sorted({number for gpus in MACHINES.values() for number in gpus.get(name, ())})


def unknown(machine_type: str) -> list[str]:
    """Sentences on what is wrong with a machine type whose family has built-in GPUs."""
    family = machine_type.partition("-")[0]
    relatives = [machine for machine in MACHINES if machine.startswith(f"{family}-")]
    if machine_type in MACHINES or family == "n1" or not relatives:
        return []
    return [f"--machine-type {machine_type} is not in the table of {AS_OF}, of whose family {_few(relatives)} are"]


def misfits(machine_type: str, name: str, number: int) -> list[str]:
    """Sentences on what is wrong with `number` GPUs called `name` in a machine of that type."""
    if name not in REGIONS:
        return [f"--accelerator {name} is not in the table of {AS_OF}; expected one of {', '.join(REGIONS)}"]
    if not machine_type:
        return []
    takers = _takers(name, number)
    if machine_type not in MACHINES:
        return [
            f"--machine-type {machine_type} takes no GPUs according to the table of {AS_OF}; {number} of {name} fit "
            f"{_few(takers)}"
        ]
    numbers = MACHINES[machine_type].get(name)
    if not numbers:
        fitting = " or ".join(MACHINES[machine_type])
        return [f"--machine-type {machine_type} takes {fitting}, not {name}; {number} of {name} fit {_few(takers)}"]
    if number not in numbers:
        counts = " or ".join(map(str, numbers))
        instead = f"; {number} of {name} fit {_few(takers)}" if takers else ""
        return [f"--machine-type {machine_type} takes {counts} of {name}, got {number}{instead}"]
    return []


def missing_in(region: str, name: str) -> list[str]:
    """Sentences on what is wrong with a GPU in a region; GPUs that the table lacks are left to `misfits`."""
    regions = REGIONS.get(name, region).split()
    if region in regions:
        return []
    return [
        f"--region {region} has no {name} for Vertex AI jobs according to the table of {AS_OF}; "
        f"{', '.join(regions)} have"
    ]


def _few(machines: list[str]) -> str:
    return ", ".join(machines[:3]) + (" and others" if len(machines) > 3 else "") if machines else "no machine type"
