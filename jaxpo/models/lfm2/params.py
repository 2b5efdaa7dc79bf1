"""The two kinds of parameters that most of LFM2 is made of."""

from __future__ import annotations

from jaxpo.models.lfm2.config import LFM2Config
from jaxpo.models.spec import TRANSPOSE, Param, Table, normal, ones

_MATRIX = ((0,), (1,))


def norm(size: int, hf: str) -> Table:
    """The weight of an RMS norm, `[size]`."""
    return {"weight": Param((size,), ("norm",), ones, hf, decay=False)}


def matrix(config: LFM2Config, n_in: int, n_out: int, axes: tuple[str | None, ...], hf: str) -> Table:
    """A projection `[n_in, n_out]`."""
    return {"weight": Param((n_in, n_out), axes, normal(config.initializer_range), hf, TRANSPOSE, muon=_MATRIX)}
