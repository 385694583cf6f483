"""How numbers and images are written into pages, and that templates are strict."""

from __future__ import annotations

import base64

import jinja2
import pytest

from pipelines.pages.page import as_difference, as_percent, as_score, data_uri, direction, template


def test_scores_have_three_places_or_are_a_dash() -> None:
    assert [as_score(value) for value in (0.0, 0.12345, 1.0, None)] == ["0.000", "0.123", "1.000", "–"]


def test_differences_have_a_sign_unless_they_are_none_to_three_places() -> None:
    assert [as_difference(value) for value in (0.1, -0.1, 0.0004, -0.0004)] == ["+0.100", "−0.100", "±0.000", "±0.000"]
    assert [direction(value) for value in (0.1, -0.1, 0.0004, -0.0004, None)] == ["up", "down", "", "", ""]


def test_small_shares_are_not_nothing_and_large_ones_not_all() -> None:
    assert [as_percent(share) for share in (0, 0.0001, 0.001, 0.1234, 0.9996, 1)] == [
        *("0 %", "<0.1 %", "0.1 %", "12.3 %", ">99.9 %", "100.0 %"),
    ]


def test_images_are_inside_of_the_page() -> None:
    head, _, body = data_uri(b"bytes", "png").partition(",")
    assert head == "data:image/png;base64" and base64.b64decode(body) == b"bytes"


@pytest.mark.parametrize("name", ["evaluation.html.j2", "tuning.html.j2"])
def test_undefined_variables_of_a_template_are_errors(name: str) -> None:
    with pytest.raises(jinja2.UndefinedError):
        template(name).render()


NAME = "<i>a\x1b[2J\nb\u202ec\udcff\0"
SHOWN = r"&lt;i&gt;a\x1b[2J\nb\u202ec\udcff\x00"


def test_no_name_brings_html_or_control_characters_into_a_page() -> None:
    page = template("gallery.html.j2")
    legend = page.module.class_legend([{"name": NAME, "color": (1, 2, 3)}])
    figure = page.module.figure({"uri": "data:,", "alt": NAME, "caption": NAME, "width": 1, "height": 1})
    assert legend.count(SHOWN) == 1 and figure.count(SHOWN) == 2
    assert (legend + figure).encode().count(b"\x1b") == 0
    assert "\n" in legend, "those of the template stay"
