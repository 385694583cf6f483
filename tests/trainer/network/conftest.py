from __future__ import annotations

import keras
import pytest

from tests.drawn.networks import small_network


@pytest.fixture(scope="module")
def small_model() -> keras.Model:
    return small_network()
