from __future__ import annotations

import pytest

from tests.drawn import chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if chromium.executable() is None:
        pytest.skip("Chromium not found: how a browser shows the page is not tested")
    with chromium.browse(tmp_path_factory.mktemp("profile")) as page:
        yield page
