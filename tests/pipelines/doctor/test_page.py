"""docs/doctor.md names the findings that there are."""

from __future__ import annotations

import re

from tests.drawn.places import ROOT


def test_every_kind_is_explained_and_none_is_made_up():
    source = "\n".join(path.read_text() for path in (ROOT / "pipelines/doctor").glob("*.py"))
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/doctor.md").read_text(), re.MULTILINE)
    documented = {kind for row in rows for kind in re.findall(r"`([\w-]+)`", row)}
    assert {kind for kind in documented if f'"{kind}"' not in source} == set()
    made = set(re.findall(r'(?:Finding|_finding)\(\s*"([\w-]+)"', source)) | set(
        re.findall(r'^    "([\w-]+)": \(', source, re.MULTILINE)
    )
    assert len(made) > 20 and made - documented == set()
