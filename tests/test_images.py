"""The images of the Dockerfile, as far as they can be had without a container engine.

Their pip lines, and the commands that follow these, are run as they stand in a fresh virtual environment of the
images' Python version; only /src and /wheels lie elsewhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from pipelines import __version__
from tests.drawn.places import ROOT

TEXT = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
PYTHON = re.search(r"^FROM python:(\d\.\d+)", TEXT, re.MULTILINE)[1]
ENGINE = "pipelines/crf/engine"
BUILT = f"build/lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
"""Where setuptools looks for what it has compiled before."""


def stage(name: str) -> list[str]:
    """The instructions of a stage."""
    stages = re.split(r"^FROM \S+ AS (\S+)\n", TEXT, flags=re.MULTILINE)
    return stages[stages.index(name) + 1].splitlines()


def commands(name: str) -> list[str]:
    """The pip lines of a stage and what is started after them."""
    runs = [line.removeprefix("RUN ") for line in stage(name) if line.startswith("RUN ")]
    parts = [part.strip() for run in runs for part in re.split(r"\s&&\s", run)]
    return [part for part in parts if part.split()[0] in ("pip", "python", "deeplab")]


def python() -> str:
    """A Python of the images' version on this machine; the test is left out where there is none."""
    for name in (sys.executable, f"python{PYTHON}"):
        program = shutil.which(name)
        if program and PYTHON in subprocess.run([program, "--version"], capture_output=True, text=True).stdout:
            return program
    pytest.skip(f"Python {PYTHON}, which the images have, is not on this machine")


def environment(folder: Path) -> dict[str, str]:
    """A fresh virtual environment in `folder`, as the environment of its processes."""
    subprocess.run([python(), "-m", "venv", str(folder)], check=True)
    return os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(command: str, root: Path, env: dict[str, str]) -> str:
    """Runs a command of the Dockerfile, and returns what it printed."""
    placed = re.sub(r"(?<![\w.])/(src|wheels)\b", rf"{root}/\1", command)
    done = subprocess.run(["bash", "-c", placed], cwd=root, env=env, capture_output=True, text=True)
    assert done.returncode == 0, f"{placed}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def copy(name: str, root: Path) -> None:
    """Does the COPY lines of a stage that come from the checkout."""
    for line in stage(name):
        if line.startswith("COPY") and "--from" not in line:
            *sources, target = line.split()[1:]
            for source in sources:
                place = root / target.strip("/") / ("" if (ROOT / source).is_dir() else source)
                place.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / source, place)


def test_the_lines_that_are_run_are_those_of_the_dockerfile():
    assert [command.split()[:2] for name in ("wheel", "beam", "trainer") for command in commands(name)] == [
        ["pip", "wheel"],
        ["pip", "install"],
        ["python", "-c"],
        ["pip", "install"],
        ["deeplab", "--version"],
    ]


@pytest.mark.slow
def test_the_wheel_is_built_and_its_entry_points_start(tmp_path):
    """With this checkout's packages and compiled engine, so that nothing is fetched and nothing compiled."""
    env = environment(tmp_path / "venv")
    if f"{sys.version_info[0]}.{sys.version_info[1]}" != PYTHON:
        pytest.skip(f"the packages of this environment are not for Python {PYTHON}, which the images have")
    (packages,) = (tmp_path / "venv").glob("lib/*/site-packages")
    (packages / "checkout.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path))
    copy("wheel", tmp_path)
    shutil.copytree(ROOT / ENGINE, tmp_path / "src" / BUILT / ENGINE)
    (wheel,) = commands("wheel")
    run(f"{wheel} --no-build-isolation", tmp_path, env)
    copy("beam", tmp_path)
    for command in commands("beam"):
        run(command, tmp_path, env)
    assert run("deeplab --version", tmp_path, env) == f"deeplab {__version__}\n"
    assert str(packages) in run("python -c 'import pipelines; print(pipelines.__file__)'", tmp_path, env)
    assert "usage: deeplab submit vertex" in run("deeplab submit vertex --help", tmp_path, env)


@pytest.mark.images
def test_both_images_can_be_installed_from_the_registry_and_start(tmp_path):
    """Takes ten minutes and ten gigabytes."""
    builder = environment(tmp_path / "builder")
    copy("wheel", tmp_path)
    for command in commands("wheel"):
        run(command, tmp_path, builder)
    for name in ("beam", "trainer"):
        env = environment(tmp_path / name)
        copy(name, tmp_path)
        for command in commands(name):
            run(command, tmp_path, env)
        assert run("deeplab --version", tmp_path, env) == f"deeplab {__version__}\n"
        assert "No broken requirements" in run("pip check", tmp_path, env)
        shutil.rmtree(tmp_path / name)
