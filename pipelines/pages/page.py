"""Shared by all pages: the template environment, the formatting of numbers, and images inside a page.

Pages have no scripts and load nothing, which a content security policy enforces. The same input gives the same bytes.
"""

from __future__ import annotations

import base64
import functools
from typing import Any

import jinja2

from trainer.accounts import percent
from trainer.terminal import printable


@functools.cache
def template(name: str) -> jinja2.Template:
    """A template of this package; an undefined variable is an error.

    Strings are escaped: HTML, and also everything that `printable` escapes, such as bytes of names that are not UTF-8.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipelines.pages", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = as_score
    environment.filters["difference"] = as_difference
    environment.filters["count"] = "{:,}".format
    environment.filters["css_color"] = lambda color: "rgb({}, {}, {})".format(*color)
    return environment.get_template(name)


def _shown(value: Any) -> Any:
    return printable(value) if type(value) is str else value  # Markup is the result of a macro


def as_score(value: float | None) -> str:
    """A score to three decimals; a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def signed(value: float) -> str:
    """A difference of scores for a terminal: with its sign, to three decimals."""
    text = f"{value:+.3f}"
    return "±0.000" if text in ("+0.000", "-0.000") else text


def as_difference(value: float) -> str:
    """The same for a page, with a typographic minus sign."""
    return typographic(signed(value))


def typographic(text: str) -> str:
    """A number as text, with a minus sign in place of a hyphen."""
    return text.replace("-", "−")


def direction(change: float | None) -> str:
    """CSS class of a difference of scores: "up", "down", or "" if `as_difference` would show none."""
    if change is None or abs(change) < 0.0005:
        return ""
    return "up" if change > 0 else "down"


def as_percent(share: float) -> str:
    """A share from 0 to 1 as a percentage: "0 %", "<0.1 %", "12.3 %", ">99.9 %", "100.0 %"."""
    return f"{percent(share, 1)} %" if share else "0 %"


def data_uri(data: bytes, kind: str) -> str:
    """The data: URI of an image inside the page; `kind` is "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
