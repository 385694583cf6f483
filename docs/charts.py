"""Draws the charts of docs/measured from the tables of its pages; `make docs` writes them beside these."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

FOLDER = Path(__file__).parent / "measured"
COLOURS = ("#2b6cb0", "#dd6b20", "#718096", "#2f855a", "#805ad5")
WIDTH, HEIGHT = 860, 340
LEFT, RIGHT, TOP, BOTTOM = 64, 840, 76, 300
"""The frame of the values in a chart, in pixels."""
BAR = 40
"""Width of a bar, in pixels."""


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading of a page, line by line, its own headings first."""
    text = (FOLDER / page).read_text(encoding="utf-8").split(f"# {heading}\n")[1]
    lines = re.search(r"(?:^\|.*\n)+", text, re.MULTILINE).group().splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [cells[0], *cells[2:]]


def numbers(cell: str) -> list[float]:
    return [float(number) for number in re.findall(r"[+-]?\d+\.\d+", cell)]


def words(x: float, y: float, text: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{text}</text>'


def line(start: tuple[float, float], end: tuple[float, float], colour: str, width: int = 1) -> str:
    (x1, y1), (x2, y2) = start, end
    return f'<path d="M{x1:.1f} {y1:.1f} {x2:.1f} {y2:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def dot(x: float, y: float, colour: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{colour}"/>'


class Chart:
    """An axis of values, and columns side by side that hold a mark for each series."""

    def __init__(self, title: str, series: Sequence[str], columns: Sequence[str], ticks: Sequence[float], form: str):
        """`ticks` have a line across, the first and the last at the axis's ends; `form` is how they are written."""
        self.title, self.series, self.ticks = title, series, ticks
        self.step = (RIGHT - LEFT) / len(columns)
        self.parts = [words(24, 32, title, more=' font-size="18" font-weight="bold"')]
        for tick in ticks:
            y = self.y(tick)
            self.parts.append(line((LEFT, y), (RIGHT, y), "#1a202c" if tick == 0 else "#cbd5e0"))
            self.parts.append(words(LEFT - 8, y + 5, format(tick, form), "end"))
        for place, name in enumerate(series):
            self.parts.append(dot(LEFT + 6 + 190 * place, 54, COLOURS[place]))
            self.parts.append(words(LEFT + 18 + 190 * place, 59, name))
        for place, name in enumerate(columns):
            self.parts.append(words(self.x(place), BOTTOM + 22, name, "middle"))

    def x(self, column: int) -> float:
        """The middle of a column."""
        return LEFT + self.step * (column + 0.5)

    def beside(self, column: int, place: int) -> float:
        """Where a column has the mark of the series at `place`, if the marks stand side by side."""
        return self.x(column) + (place - (len(self.series) - 1) / 2) * (BAR + 6)

    def y(self, value: float) -> float:
        return BOTTOM - (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0]) * (BOTTOM - TOP)

    def svg(self) -> str:
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
            f'height="{HEIGHT}" font-family="Helvetica, Arial, sans-serif" font-size="14" fill="#1a202c">'
        )
        paper = f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#ffffff"/>'
        return "\n".join([head, f"<title>{self.title}</title>", paper, *self.parts, "</svg>\n"])


def heads() -> str:
    """The gain over the bilinear head with its intervals, from the tables of heads.md."""
    rows = [row for row in table("heads.md", "CamVid") if row[1] == "all 101" and row[0] != "all three"]
    series = {f"CamVid, seed {row[0]}": row[3:] for row in rows}
    scenes = next(row for row in table("heads.md", "Paired gains") if row[0] == "bilinear")
    series["demo's scenes, three seeds"] = scenes[1:]
    columns = ("whole images", "within 1 px", "within 2 px", "within 4 px")
    title = "Gain in mIoU of the subpixel head over the bilinear one, with 95 % intervals"
    chart = Chart(title, list(series), columns, (-0.02, 0, 0.02, 0.04, 0.06, 0.08), "+.2f")
    for place, cells in enumerate(series.values()):
        for column, cell in enumerate(cells):
            gain, low, high = numbers(cell)
            x = chart.beside(column, place)
            chart.parts.append(line((x, chart.y(low)), (x, chart.y(high)), COLOURS[place], 3))
            chart.parts.append(dot(x, chart.y(gain), COLOURS[place]))
    return chart.svg()


def boundaries() -> str:
    """mIoU by the distance from boundaries, from the scores in camvid.md."""
    rows = {row[0]: [*row[3:], row[1]] for row in table("camvid.md", "Both heads")}
    series = {
        "bilinear head": rows["bilinear head"],
        "subpixel head": rows["subpixel head"],
        "the same with views": rows["subpixel head, `--scales 1 1.5 --flip`"],
    }
    columns = ("1 px", "2 px", "4 px", "8 px", "16 px", "whole images")
    title = "mIoU on CamVid of pixels within a distance of boundaries"
    chart = Chart(title, list(series), columns, (0.3, 0.4, 0.5, 0.6, 0.7, 0.8), ".1f")
    for place, cells in enumerate(series.values()):
        points = [(chart.x(column), chart.y(float(cell))) for column, cell in enumerate(cells)]
        chart.parts += [line(start, end, COLOURS[place], 2) for start, end in pairwise(points)]
        chart.parts += [dot(*point, COLOURS[place]) for point in points]
    return chart.svg()


def speed() -> str:
    """Images per second beside other networks, from the table of speed.md."""
    headings, *rows = table("speed.md", "Training and inference against other DeepLabV3+")
    series = ("ours", "keras-hub", "Keras port")
    columns = ("TensorFlow, training", "TensorFlow, inference", "JAX, training", "JAX, inference")
    chart = Chart("Images per second on one core, MobileNetV2", series, columns, (0, 5, 10, 15, 20), "g")
    for column, row in enumerate(row for row in rows if row[0] == "images per second"):
        for place, name in enumerate(series):
            rate = row[headings.index(name)]
            x, y = chart.beside(column, place), chart.y(float(rate))
            shape = f'x="{x - BAR / 2:.1f}" y="{y:.1f}" width="{BAR}" height="{BOTTOM - y:.1f}"'
            chart.parts += [f'<rect {shape} fill="{COLOURS[place]}"/>', words(x, y - 5, rate, "middle")]
    return chart.svg()


def drawings() -> dict[str, str]:
    """The text of each file of docs/measured that is drawn."""
    return {"heads.svg": heads(), "boundaries.svg": boundaries(), "speed.svg": speed()}


if __name__ == "__main__":
    for name, drawing in drawings().items():
        (FOLDER / name).write_text(drawing, encoding="utf-8")
