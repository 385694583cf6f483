"""Names of a cluster's things, and versions in the tags of images: the right ones are taken, the others refused."""

from __future__ import annotations

import re

import pytest

from pipelines import __version__
from tests.drawn.submitting import problems, submit, upload_records
from trainer import storage

MINOR = __version__.rpartition(".")[0]
TUNE = "tune-crf --model gs://seg/names/model --records gs://seg/names/records"
TRAIN = "train --records gs://seg/none --output gs://seg/new"


@pytest.fixture(scope="module")
def ready(bucket, tmp_path_factory):
    """What TUNE reads."""
    upload_records(tmp_path_factory.mktemp("records"), f"{bucket}/names/records")
    storage.write(f"{bucket}/names/model/model.json", b"{}")


def refused(flag: str, value: str, verb: str = "kubernetes") -> bool:
    """Whether the value of a flag is refused; other problems of the job do not matter."""
    sentences = problems(verb, flag, value, command=TRAIN)
    return any(sentence.startswith(f"{flag} {value}: expected") for sentence in sentences)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--namespace", "2024-research"),
        ("--namespace", "a" * 63),
        ("--service-account", "trainer.v2"),
        ("--service-account", "1"),
        ("--service-account", "a" * 253),
        ("--node-selector", "foo="),
        ("--node-selector", f"example.org/{'K' * 63}=V_1.x-{'v' * 57}"),
        ("--node-selector", f"{'a' * 253}/key=true"),
        ("--machine-type", "Standard_NC4as_T4_v3"),
        ("--machine-type", "p5.48xlarge"),
    ],
)
def test_a_name_that_kubernetes_accepts_is_taken(bucket, flag, value):
    assert not refused(flag, value)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--namespace", "a" * 80),
        ("--namespace", "team.research"),
        ("--namespace", "research-"),
        ("--service-account", "a" * 254),
        ("--service-account", "trainer..v2"),
        ("--service-account", "trainer.-v2"),
        ("--labels", "deeplab-submission=mine"),
        ("--node-selector", "foo=bar-"),
        ("--node-selector", f"foo={'v' * 80}"),
        ("--node-selector", f"{'k' * 64}=v"),
        ("--node-selector", "Example.org/key=v"),
        ("--node-selector", "a/b/c=v"),
        ("--node-selector", "foo"),
        ("--machine-type", "my machine"),
        ("--machine-type", "p5."),
        ("--machine-type", "m" * 64),
    ],
)
def test_a_name_that_kubernetes_would_not_accept_is_refused(bucket, flag, value):
    assert refused(flag, value)


def said_of_image(tag: str, capsys: pytest.CaptureFixture) -> str:
    """What is said of an image with that tag."""
    image = f"ghcr.io/me/trainer:{tag}"
    submit("kubernetes", "--image", image, "--dry-run", command=TUNE.split())
    return "\n".join(line for line in capsys.readouterr().err.splitlines() if f"--image {image}" in line)


@pytest.mark.parametrize(("flag", "most", "count"), [("--labels", 61, 1), ("--env", 100, 1), ("--env", 99, 2)])
def test_more_words_than_vertex_ai_takes_are_refused(bucket, flag, most, count):
    def said(number: int, verb: str) -> str:
        words = [f"k{i}=v" for i in range(number)]
        return "\n".join(problems(verb, "--count", str(count), flag, *words, command=TRAIN))

    assert f"{flag}: expected at most {most}" not in said(most, "vertex") + said(most + 1, "kubernetes")
    assert f"{flag}: expected at most {most}, which is all that Vertex AI takes, got {most + 1}" in said(
        most + 1, "vertex"
    )


@pytest.mark.parametrize("tag", ["0.27", "v0.27", "gpu-0.27.0", "v0.27.0-cuda", "deeplab-v0.27", "0.27-gpu", "1.0.0"])
def test_a_tag_that_names_another_version_is_refused(tag, ready, capsys):
    version = re.search(r"\d[\d.]*", tag)[0]
    assert f"error: --image ghcr.io/me/trainer:{tag} is of version {version}, and this" in said_of_image(tag, capsys)


@pytest.mark.parametrize("tag", ["{}", "v{}", "gpu-{}", "{}-cuda12.4", "cuda-12.4.1-{}", "{}_1", MINOR])
def test_a_tag_that_names_this_version_is_taken(tag, ready, capsys):
    assert said_of_image(tag.format(__version__), capsys) == ""


@pytest.mark.parametrize("tag", ["latest", "cuda-12.4.1", "tf2.16.1", "2026.11.30", "24.04", "12.4-cudnn", "v1"])
def test_a_tag_that_may_mean_anything_is_a_warning(tag, ready, capsys):
    assert "its tag names no version" in said_of_image(tag, capsys)
