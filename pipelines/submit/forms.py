"""The form of what a job is called and where it runs: its name, labels and variables, places and machines."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.submit.options import JobOptions, Kubernetes, Vertex
from pipelines.submit.plan import LONGEST_NAME
from trainer.options import CheckedOptions

NAME = re.compile(r"[a-z]([a-z0-9-]*[a-z0-9])?")
LABEL = re.compile(r"(?!deeplab-)[a-z]([a-z0-9_-]{0,61}[a-z0-9])?=([a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?)?")
"""Labels that both Google Cloud and Kubernetes accept, other than those that a job has anyway."""
MOST_LABELS, OUR_LABELS, MOST_VARIABLES = 64, 3, 100
"""Labels and environment variables that a job of Vertex AI may have, and the labels that it has anyway."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=.*", re.DOTALL)
PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]*")
REGION = re.compile(r"[a-z]+-[a-z]+[0-9]+")
MACHINE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)+")
ACCOUNT = re.compile(r"[^@\s]+@[^@\s]+")
ACCOUNTS = {
    Vertex: "the address of an account of Google Cloud, such as trainer@my-project.iam.gserviceaccount.com",
    Kubernetes: "the name of an account in the namespace, such as trainer: at most 253 lower-case letters, digits, "
    "hyphens and dots, a letter or digit before and after each dot, first and last",
}
_PART = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_WORD = "(?=[^/=]{1,63}(?:=|$))[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_DOMAIN = rf"(?=[^/=]{{1,253}}(?:/|$)){_PART}(?:[.]{_PART})*"
NAMESPACE = re.compile(rf"(?=.{{1,63}}$){_PART}")
"""A label of RFC 1123, as the documentation of Kubernetes calls it under "Object Names and IDs"."""
SERVICE_ACCOUNT = re.compile(_DOMAIN)
"""A subdomain of RFC 1123, as it calls that."""
SELECTOR = re.compile(rf"(?:{_DOMAIN}/)?{_WORD}=(?:{_WORD})?")
"""A label of a node, as in "Labels and Selectors" there."""
MACHINE_LABEL = re.compile(_WORD)


def malformed(options: JobOptions) -> Iterator[str]:
    """Values of flags that the cloud would not take, and keys that several of them give a value."""
    if options.name and not (NAME.fullmatch(options.name) and len(options.name) <= LONGEST_NAME):
        yield (
            f"--name {options.name}: expected at most {LONGEST_NAME} lower-case letters, digits and hyphens, a letter "
            "first and no hyphen last"
        )
    patterns = {
        "namespace": (NAMESPACE, "at most 63 lower-case letters, digits and hyphens, no hyphen first or last"),
        "service_account": (ACCOUNT if isinstance(options, Vertex) else SERVICE_ACCOUNT, ACCOUNTS[type(options)]),
        "project": (PROJECT, "the ID of a project of Google Cloud, as in `gcloud projects list`"),
        "labels": (
            LABEL,
            "KEY=VALUE of lower-case letters, digits, _ and -, a letter first, each at most 63 long; "
            "deeplab-... is taken",
        ),
        "env": (VARIABLE, "NAME=VALUE"),
        "node_selector": (
            SELECTOR,
            "KEY=VALUE of letters, digits, ., _ and -, each at most 63 long, a letter or digit first and last; "
            "DOMAIN/ may stand before KEY",
        ),
        "region": (REGION, "the name of a region, such as europe-west4"),
        # Nodes of other clouds may be called anything that can be the value of a label.
        "machine_type": (MACHINE, "a machine type of Google Cloud, such as g2-standard-8")
        if isinstance(options, Vertex)
        else (MACHINE_LABEL, "at most 63 letters, digits, ., _ and -, a letter or digit first and last"),
    }
    for field, (pattern, shape) in patterns.items():
        values = getattr(options, field, ())
        flag, shown = CheckedOptions.flag(field), _names_only if field == "env" else lambda text: text
        for text in [values] * bool(values) if isinstance(values, str) else values:
            if not pattern.fullmatch(text):
                yield f"{flag} {shown(text)}: expected {shape}"
        if not isinstance(values, str):
            yield from _repeated(flag, values)


def too_many(options: JobOptions) -> Iterator[str]:
    """More labels or variables than Vertex AI takes, by its documentation of labels and of ContainerSpec."""
    for flag, given, most, ours in (
        ("--labels", options.labels, MOST_LABELS, OUR_LABELS),
        ("--env", options.env, MOST_VARIABLES, int(options.count > 1)),
    ):
        if isinstance(options, Vertex) and len(given) + ours > most:
            yield f"{flag}: expected at most {most - ours}, which is all that Vertex AI takes, got {len(given)}"


def _names_only(variable: str) -> str:
    """A variable without its value, which may be a secret, as may be all of a word that names none."""
    name, equals, _ = variable.partition("=")
    return f"{name}=..." if equals else "with a word that has no ="


def _repeated(flag: str, words: tuple[str, ...]) -> Iterator[str]:
    """Keys that several KEY=VALUE words give a value: only the last one would count."""
    keys = [word.partition("=")[0] for word in words if "=" in word]
    yield from (f"{flag} gives {key} twice; give it once" for key in dict.fromkeys(keys) if keys.count(key) > 1)
