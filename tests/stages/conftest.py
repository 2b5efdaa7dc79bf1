"""The recipe of the configuration tests serves here too; and runs in this process may take one device."""

from collections.abc import Iterator

import pytest
from recipe.conftest import config_file, recipe, rows
from stages.process import on_devices

__all__ = ["config_file", "recipe", "rows"]


@pytest.fixture(scope="module")
def one_device() -> Iterator[None]:
    """Runs in this process take one of the simulated devices."""
    with pytest.MonkeyPatch.context() as patch:
        on_devices(patch, 1)
        yield
