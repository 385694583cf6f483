"""What the benchmarks share: runs that take turns, and a table of their medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def take_turns(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every run, `rounds` times, in turns: a slow spell of the machine affects all of them alike."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - start)
            print(f"  round {turn + 1} of {rounds}: {name}: {seconds[name][-1]:.2f} s", flush=True)
    return seconds


def table(seconds: dict[str, list[float]], items: int, unit: str, reference: str) -> str:
    """Markdown: a row per run with its median, its rate, and its speed as a multiple of the reference's.

    The ratio is the median over rounds of the ratio of the two runs, which followed each other.
    """
    rows = [f"| run | median | {unit}/s | speed against {reference} |", "|---|---|---|---|"]
    for name, values in seconds.items():
        median = statistics.median(values)
        ratio = statistics.median(base / value for base, value in zip(seconds[reference], values, strict=True))
        rows.append(f"| {name} | {median:.2f} s | {items / median:.1f} | {ratio:.2f} |")
    return "\n".join(rows)
