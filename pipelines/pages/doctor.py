"""The findings of `deeplab doctor`, as text for a terminal, and as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.pages.gallery import Panel
from pipelines.pages.page import as_percent, template
from trainer.terminal import printable

GRADES = {"wrong": "trained wrongly", "reject": "rejected", "note": "note"}
"""Grade of a finding -> its name on the page."""

Drawings = Mapping[str, tuple[tuple[Panel, ...], ...]]
"""Kind of a finding -> the panels of each of its examples."""


def render(report: dict[str, Any], drawings: Drawings) -> str:
    """Renders the page.

    Args:
      report: the contents of doctor.json.
      drawings: the drawings of its findings.

    Returns:
      HTML, self-contained.
    """
    rows = []
    for finding in report["findings"]:
        panels = drawings.get(finding["kind"], ())
        examples = [
            {**example, "panels": panels[place] if place < len(panels) else ()}
            for place, example in enumerate(finding["examples"])
        ]
        rows.append({**finding, "examples": examples, "share": _share(finding), "title": GRADES[finding["grade"]]})
    return template("doctor.html.j2").render(report=report, findings=rows, classes=_classes(report))


def text(report: dict[str, Any]) -> str:
    """The findings for a terminal, each with its cure."""
    lines = [printable(line) for line in report["evidence"]]
    for finding in report["findings"]:
        lines.append(printable(f"{GRADES[finding['grade']]}: {_share(finding)}: {finding['text']}"))
        for example in finding["examples"][:2]:
            detail = f": {example['found']}" if example["found"] else ""
            lines.append(printable(f"  {example['path']}{detail}"))
        lines.append(printable(f"  cure: {finding['cure']}"))
    lines.append(printable(f"verdict: {report['verdict']}"))
    if report["mend"]:
        lines.append(printable(f"mend it by: {report['mend']}"))
    if report["prepare"]:
        lines.append(printable(f"prepare it by: {report['prepare']}"))
    return "\n".join(lines)


def _share(finding: dict[str, Any]) -> str:
    count = f"{finding['count']:,}"
    return f"{count} of {finding['of']:,} {finding['unit']}" if finding["of"] else f"{count} {finding['unit']}"


def _classes(report: dict[str, Any]) -> dict[str, Any] | None:
    """The share of every class in every split; a dash if every pixel of the split is ignored."""
    palette, splits = report["palette"], report["pixels"]
    if not palette or not splits:
        return None
    totals = {split: sum(counts) for split, counts in splits.items()}
    rows = [
        {
            "name": entry["name"],
            "color": entry["color"],
            "shares": [
                as_percent(counts[index] / totals[split]) if totals[split] else "–" for split, counts in splits.items()
            ],
        }
        for index, entry in enumerate(palette["classes"])
    ]
    return {"splits": list(splits), "rows": rows}
