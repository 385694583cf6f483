"""What the benchmarks share: runs that take turns, and a table of their medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping


def take_turns(
    runs: dict[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    before: Callable[[str], object] = lambda name: None,
) -> dict[str, list[float]]:
    """Seconds of every run, `rounds` times, in turns: a slow spell of the machine affects all of them alike.

    Args:
      clock: `time.process_time` for those of the processor alone, where others share it.
      before: called with the name of every run before it; not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name, run in runs.items():
            before(name)
            start = clock()
            run()
            seconds[name].append(clock() - start)
            print(f"  round {turn + 1} of {rounds}: {name}: {seconds[name][-1]:.2f} s", flush=True)
    return seconds


def table(
    seconds: dict[str, list[float]],
    items: int,
    unit: str,
    reference: str,
    columns: Mapping[str, Callable[[str, float], str]] | None = None,
) -> str:
    """Markdown: a row per run with its median, its rate, and its speed as a multiple of the reference's.

    The ratio is the median over rounds of the ratio of the two runs, which followed each other.

    Args:
      columns: more of them: from a heading to what gives a run's cell for its name and its median.
    """
    columns = columns or {}
    rows = [" | ".join(["| run", "median", f"{unit}/s", f"speed against {reference}", *columns]) + " |"]
    rows.append("|---" * (4 + len(columns)) + "|")
    for name, values in seconds.items():
        median = statistics.median(values)
        ratio = statistics.median(base / value for base, value in zip(seconds[reference], values, strict=True))
        more = "".join(f" {cell(name, median)} |" for cell in columns.values())
        rows.append(f"| {name} | {median:.2f} s | {items / median:.1f} | {ratio:.2f} |{more}")
    return "\n".join(rows)
