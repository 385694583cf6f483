"""Which GPUs fit which machines and regions, by Google Cloud's documentation."""

from __future__ import annotations

import pytest

from pipelines.runner import accelerators


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nvidia-l4", ("nvidia-l4", 0)),
        ("NVIDIA_L4:2", ("nvidia-l4", 2)),
        ("nvidia-h100-80gb:8", ("nvidia-h100-80gb", 8)),
    ],
)
def test_both_clouds_spellings_are_read(text, expected):
    assert accelerators.parse(text) == expected


@pytest.mark.parametrize(
    "text", ["", ":2", "nvidia-l4:", "nvidia-l4:two", "nvidia-l4:0", "nvidia-l4:-1", "an l4", "l4,t4:2", "-l4"]
)
def test_what_is_no_accelerator_is_refused(text):
    with pytest.raises(ValueError):
        accelerators.parse(text)


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        ("g2-standard-24", ("nvidia-l4", 2)),
        ("a2-ultragpu-4g", ("nvidia-a100-80gb", 4)),
        ("g4-standard-384", ("nvidia-rtx-pro-6000", 8)),
        ("n1-standard-8", ("", 0)),
        ("e2-standard-4", ("", 0)),
    ],
)
def test_machines_that_come_with_gpus_name_them(machine, expected):
    assert accelerators.of_machine(machine) == expected


@pytest.mark.parametrize(
    ("machine", "name", "number", "said"),
    [
        ("g2-standard-8", "nvidia-l4", 2, "takes 1 of nvidia-l4, got 2; 2 of nvidia-l4 fit g2-standard-24"),
        ("g2-standard-8", "nvidia-tesla-t4", 1, "takes nvidia-l4, not nvidia-tesla-t4; 1 of nvidia-tesla-t4 fit n1-"),
        ("n1-standard-32", "nvidia-tesla-t4", 1, "takes 2 or 4 of nvidia-tesla-t4, got 1"),
        ("n1-standard-4", "nvidia-tesla-t4", 3, "takes 1 or 2 or 4 of nvidia-tesla-t4, got 3"),
        (
            "e2-standard-4",
            "nvidia-l4",
            1,
            "takes no GPUs according to the table of 2026; 1 of nvidia-l4 fit g2-standard-4",
        ),
        ("g2-standard-8", "nvidia-l5", 1, "nvidia-l5 is not in the table of 2026; expected one of nvidia-tesla-t4"),
    ],
)
def test_a_misfit_is_reported_with_what_fits(machine, name, number, said):
    (sentence,) = accelerators.misfits(machine, name, number)
    assert said in sentence


def test_a_fitting_accelerator_is_no_misfit():
    for machine, gpus in accelerators.MACHINES.items():
        for name, numbers in gpus.items():
            assert all(accelerators.misfits(machine, name, number) == [] for number in numbers)
    assert accelerators.misfits("", "nvidia-l4", 3) == []


def test_a_region_without_the_gpu_is_said_with_those_that_have_it():
    (sentence,) = accelerators.missing_in("europe-west1", "nvidia-l4")
    assert "europe-west1 has no nvidia-l4" in sentence and "europe-west4" in sentence
    assert accelerators.missing_in("europe-west4", "nvidia-l4") == []
    assert accelerators.missing_in("europe-west4", "of another table") == []


def test_every_gpu_of_the_table_has_machines_and_regions():
    assert {name for gpus in accelerators.MACHINES.values() for name in gpus} == set(accelerators.REGIONS)
