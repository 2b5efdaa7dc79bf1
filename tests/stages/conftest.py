"""The recipe of the configuration tests serves here too; runs in this process may take one device, without curves."""

from collections.abc import Iterator

import pytest
from recipe.conftest import config_file, recipe, rows
from stages.process import on_devices, without_curves

__all__ = ["config_file", "recipe", "rows"]


@pytest.fixture(scope="module")
def one_device() -> Iterator[None]:
    """Runs in this process take one of the simulated devices, and draw no curves."""
    with pytest.MonkeyPatch.context() as patch:
        on_devices(patch, 1)
        without_curves(patch)
        yield
