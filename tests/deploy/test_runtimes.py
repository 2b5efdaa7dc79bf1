"""The runtimes themselves; each needs an environment of its own, which `scripts/deploy_check` makes."""

import os
from pathlib import Path

import pytest
from deploy.check import CLOSE, check, table

PYTHONS = dict(given.split("=", 1) for given in os.environ.get("JAXPO_RUNTIMES", "").split() if "=" in given)


@pytest.mark.slow
@pytest.mark.runtimes
@pytest.mark.skipif(not PYTHONS, reason="needs the environments of scripts/deploy_check in JAXPO_RUNTIMES")
def test_every_runtime_gives_the_same_log_probs_and_text(tmp_path: Path) -> None:
    rows, texts = check(tmp_path, PYTHONS)
    print("\n".join(table(rows)))
    assert len(set(texts.values())) == 1
    for by, model, dtype, largest, kl in rows:
        if isinstance(largest, float):
            assert largest < (CLOSE if dtype == "float32" else 6), (by, model, dtype)
            assert kl < 0.3
