"""What docs/jobs.md says is so, and what is loaded is what is needed."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys

import pytest

from pipelines import cli
from pipelines.runner import accelerators
from pipelines.submit import kubernetes
from tests.drawn.places import ROOT
from tests.drawn.submitting import submit

PAGE = (ROOT / "docs" / "jobs.md").read_text()
SHELL = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)).replace("\\\n", " ")


def test_commands_of_the_page_are_understood():
    lines = re.findall(r"^deeplab (submit .+)$", SHELL, re.MULTILINE)
    assert len(lines) == 2
    for line in lines:
        assert cli.read(shlex.split(line))[0] == "submit"


@pytest.mark.parametrize("name", accelerators.REGIONS)
def test_the_page_has_every_gpu_with_its_regions(name):
    regions = accelerators.REGIONS[name].split()
    (row,) = (line for line in PAGE.splitlines() if f"| `{name}` |" in line)
    *_, last, _ = row.split("|")
    assert last.strip().startswith(str(len(regions))) or re.findall("`(.+?)`", last) == regions


def test_the_page_names_every_family_of_machines():
    table = PAGE[PAGE.index("## Machines") : PAGE.index("## Following")]
    assert {machine.split("-")[0] for machine in accelerators.MACHINES} <= set(re.findall(r"`([a-z]\d)-", table))


def test_the_grace_and_the_retries_of_the_page_are_those_of_the_manifest():
    assert f"other pods {kubernetes.GRACE}." in PAGE and kubernetes.RETRIES == 6
    assert f"status {kubernetes.TERMINATED}; started again" in PAGE


def test_neither_beam_nor_a_client_is_loaded_before_it_is_used():
    program = "import sys, pipelines.submit.command\nprint([name for name in sys.argv[1:] if name in sys.modules])"
    names = ["apache_beam", "tensorflow", "kubernetes", "google.cloud.aiplatform_v1", "yaml"]
    done = subprocess.run(
        [sys.executable, "-c", program, *names], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ast.literal_eval(done.stdout) == []


@pytest.mark.parametrize("verb", ["kubernetes", "vertex"])
def test_a_client_that_is_not_installed_is_named_with_its_extra(verb, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert submit(verb, command=["train", "--records", "gs://b/r"]) == 2
    first = capsys.readouterr().err.splitlines()[0]
    assert first.endswith(f'is not installed; install it with `pip install "deeplab-pipelines[{verb}]"`')
    follow = "projects/p/locations/r/customJobs/1" if verb == "vertex" else "fit"
    assert cli.main(["submit", verb, "--follow", follow]) == 2
    assert f"deeplab-pipelines[{verb}]" in capsys.readouterr().err
