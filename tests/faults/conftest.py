"""Runs of these tests take one of the simulated devices, in this process."""

from collections.abc import Iterator

import pytest
from stages.process import on_devices, without_curves


@pytest.fixture(scope="module")
def one_device() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        on_devices(patch, 1)
        without_curves(patch)
        yield
