"""A GGUF file compared with the model that it was written from: tensor by tensor, and run by another implementation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxpo.convert.config_json import export_of
from jaxpo.convert.gguf import llama
from jaxpo.convert.gguf.kinds import KINDS, OWN_QUANTISER, Kind
from jaxpo.convert.gguf.read import GGUF, open_gguf
from jaxpo.convert.hf import read_tensors
from jaxpo.convert.shards import Source
from jaxpo.convert.verify import LENGTH, TOLERANCE, compare, log_probs, log_softmax
from jaxpo.errors import CheckpointError
from jaxpo.models.family import limits, param_table

Tree = Any
POSITIONS = (1, 2, 3, 5, 8, 13, 21, 34, LENGTH)
"""Lengths of the prefixes that llama.cpp is asked to go on from."""


def verify_gguf(
    file: Path, sources: Sequence[Source], params: Tree | None, config: Any, kind: str, *, run: bool | None = None
) -> dict[str, Any]:
    """Compare a file with the model.

    Every tensor is read back and compared with its source. With `params` the file is also run: in llama.cpp where
    xllamacpp is installed, else by the family's float64 numpy forward on what the file holds.

    Args:
      sources: what it was written from.
      params: the model's tree; None compares the tensors alone.
      kind: one of `KINDS`, or a mixture of llama.cpp's own quantiser, of which only the divergence is bounded.
      run: in llama.cpp; None = where it is installed.

    Returns:
      `{"weights": largest relative error of a tensor, "by": what verified it}`, and with `params` `max_logprob_error`
      and `kl` (model || file, nats per token).

    Raises:
      CheckpointError: the file holds, or computes, something else.
    """
    opened = open_gguf(file)
    bounds = KINDS.get(kind, OWN_QUANTISER)
    report: dict[str, Any] = {"dtype": kind, "weights": compare_weights(opened, sources, bounds), "by": "read back"}
    if params is None:
        return report
    return report | compare_outputs(opened, params, config, bounds, run=run)


def compare_weights(opened: GGUF, sources: Sequence[Source], kind: Kind) -> float:
    """Largest |W - stored| / |W| of a tensor; CheckpointError where rounding does not explain one."""
    worst, stored = 0.0, {**opened.tensors, **opened.dense}
    for source in sources:
        wanted = np.asarray(source.load(), np.float32)
        found = stored[source.name].read()
        error = float(np.linalg.norm(found - wanted) / max(float(np.linalg.norm(wanted)), 1e-30))
        if not error <= kind.weight_error:
            raise CheckpointError(
                f"{opened.path}: {source.name} is not what the model has: {error:.3g} of it differs "
                f"(rounding to {kind.name} explains {kind.weight_error:.3g})."
            )
        worst = max(worst, error)
    return worst


def compare_outputs(
    opened: GGUF, params: Tree, config: Any, kind: Kind, *, run: bool | None = None, imported: bool = False
) -> dict[str, Any]:
    """Log-probs of fixed tokens: the model's against llama.cpp's, or against those of a float64 forward on the file.

    Args:
      imported: the parameters were read from this file, so that its types explain no difference from the forward on it.
    """
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, LENGTH)
    exact = log_probs(params, config, tokens, None)
    reference = log_softmax(
        export_of(opened.config).logits(lambda name: opened.tensors[name].read(), opened.config, tokens)
    )
    if imported:
        checked(opened.path, {**compare(exact, reference), "by": "float64 numpy"}, TOLERANCE, None)
    # What looks both ways has no next token to be asked for after a prefix.
    version = llama.version() if run is not False and limits(config).causal else None
    if version is None:
        report: dict[str, Any] = {**compare(exact, reference), "by": "float64 numpy"}
        if kind.nats is None:
            # What rounding costs depends on the model; that both forwards agree on the rounded weights does not.
            stored = log_probs(read_tensors(opened.tensors, param_table(config), opened.path), config, tokens, None)
            report["runtime"] = compare(stored, reference)
            checked(opened.path, {**report["runtime"], "by": report["by"]}, TOLERANCE, None)
            return report
        return checked(opened.path, report, TOLERANCE, None)
    at = [length - 1 for length in POSITIONS]
    questions = llama.Questions(prefixes=[tokens[:length].tolist() for length in POSITIONS])
    theirs = llama.ask(opened.path, config.vocab_size, questions).log_probs.astype(np.float64)
    report = {**compare(exact[at], theirs), "by": f"llama.cpp ({llama.PACKAGE} {version})"}
    report["runtime"] = compare(reference[at], theirs)
    return checked(opened.path, report, kind.nats, kind.divergence)


def checked(file: Path, report: dict[str, Any], nats: float | None, divergence: float | None) -> dict[str, Any]:
    """The report, if what it found is explained by rounding."""
    largest, runtime = report["max_logprob_error"], report.get("runtime", report)
    fits = largest <= nats if nats is not None else runtime["kl"] <= (divergence or float("inf"))
    if not fits:
        raise CheckpointError(
            f"{file}: does not compute what the model computes: in {report['by']} log-probs differ by up to "
            f"{largest:.3g} nats, KL {report['kl']:.3g}."
        )
    return report
