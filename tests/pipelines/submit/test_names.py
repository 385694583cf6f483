"""Names of a cluster's things, and versions in the tags of images: the right ones are taken, the others refused."""

from __future__ import annotations

import pytest

from tests.drawn.submitting import problems

TRAIN = "train --records gs://seg/none --output gs://seg/new"


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
        ("--node-selector", "foo=bar-"),
        ("--node-selector", f"foo={'v' * 80}"),
        ("--node-selector", f"{'k' * 64}=v"),
        ("--node-selector", "Example.org/key=v"),
        ("--node-selector", "a/b/c=v"),
        ("--node-selector", "foo"),
    ],
)
def test_a_name_that_kubernetes_would_not_accept_is_refused(bucket, flag, value):
    assert refused(flag, value)
