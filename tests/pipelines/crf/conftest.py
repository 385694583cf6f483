from __future__ import annotations

import pytest

from tests.drawn.crf_inputs import BUILDS, running


@pytest.fixture(params=list(BUILDS))
def build(request):
    with running(request.param):
        yield request.param
