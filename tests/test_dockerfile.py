"""The Dockerfile cannot be built by a test; that it agrees with the package can be told."""

import re

from pipelines.submit.vertex import HOST
from tests.drawn.places import ROOT

LINES = (ROOT / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
STAGES = [re.fullmatch(r"FROM (\S+) AS (\S+)", line).groups() for line in LINES if line.startswith("FROM")]


def pinned(package):
    return re.search(rf"^{package}==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE).group(1)


def test_both_images_are_there_and_every_stage_has_a_pinned_base():
    assert [name for _, name in STAGES] == ["wheel", "beam", "trainer"]
    assert all(":" in base and not base.endswith(":latest") for base, _ in STAGES)


def test_the_workers_run_the_beam_that_starts_them():
    """A worker refuses jobs of another Beam version."""
    versions = {base.rpartition(":")[2] for base, _ in STAGES if base.startswith("apache/beam")}
    assert versions == {pinned("apache-beam")}


def test_all_stages_have_one_python_so_that_the_compiled_wheel_fits():
    assert {re.search(r"python:?(\d\.\d+)", base).group(1) for base, _ in STAGES} == {"3.11"}


def test_every_install_keeps_to_the_constraints():
    installs = [line for line in LINES if re.search(r"\bpip (install|wheel)\b", line)]
    built, *installed = installs
    assert len(installed) == 2 and "--no-deps" in built
    assert all("--constraint" in line and "constraints.txt" in line for line in installed)


def test_copied_files_exist_and_are_not_ignored():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source for line in LINES if line.startswith("COPY") and "--from" not in line for source in line.split()[1:-1]
    }
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)


def test_the_beam_image_keeps_its_entry_point_and_the_trainer_runs_the_command_as_a_plain_user():
    start = {name: LINES.index(f"FROM {base} AS {name}") for base, name in STAGES}
    beam = LINES[start["beam"] : start["trainer"]]
    trainer = LINES[start["trainer"] :]
    assert not any(line.startswith("ENTRYPOINT") for line in beam)
    assert 'ENTRYPOINT ["tini", "--", "deeplab"]' in trainer and "USER 1000" in trainer
    assert HOST[:2] == ("tini", "--"), "one of several hosts has the same first process"
