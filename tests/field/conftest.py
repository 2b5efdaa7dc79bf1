"""The situations that users reported, as files; they lie beside the checkout here and in CI, not at a user's."""

from pathlib import Path

import pytest

FIELD = Path(__file__).resolve().parents[3] / "shared" / "field"


@pytest.fixture
def field():
    if not FIELD.is_dir():
        pytest.skip("the reported situations are not beside this checkout")
    return FIELD
