"""Every paper's claim on its smallest experiment: reproduced as registered, or pinned with the reason why not."""

import math

import pytest
from evidence.harness import discover, run

CLAIMS = discover()


@pytest.mark.slow
@pytest.mark.evidence
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", CLAIMS)
def test_claim(name):
    result = run(name, CLAIMS[name], print)
    effect, claim = result.mean("effect"), result.claim
    assert math.isfinite(effect)
    if claim.not_reproduced is None:
        assert effect >= claim.threshold, f"{claim.claim} effect {effect:.4g} < {claim.threshold}"
        assert result.share >= claim.min_share, f"{claim.claim} only {result.share:.0%} of the seeds"
        return
    low, high = claim.not_reproduced.observed
    assert not result.reproduced, f"{name} reproduces after all: remove not_reproduced"
    assert low <= effect <= high, f"{name}: effect {effect:.4g} outside {claim.not_reproduced.observed}"


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_are_complete(name):
    claim = CLAIMS[name].CLAIM
    assert claim.paper.startswith("arXiv:")
    assert claim.seeds
    assert len(set(claim.seeds)) == len(claim.seeds)
    assert 0 < claim.min_share <= 1
    for text in (claim.method, claim.claim, claim.baseline, claim.measure):
        assert text.strip()
