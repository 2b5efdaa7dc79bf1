"""Whatever joins, leaves and is swapped meanwhile: who is left gets what it gets alone."""

import numpy as np
import pytest

from jaxpo.sampling.engine import Engine
from jaxpo.sampling.request import Request
from jaxpo.sampling.sampler import GREEDY, Sampler

SMALL = {"slots": 4, "context": 96, "page": 8, "together": 32, "rounds": 4, "one_shape": True}


@pytest.fixture(scope="module")
def asked():
    rng = np.random.default_rng(1)
    base = rng.integers(1, 61, 60).tolist()
    return [
        Request(
            base[: int(rng.integers(1, 60))] + rng.integers(1, 61, int(rng.integers(0, 9))).tolist(),
            n=int(rng.choice([1, 1, 2, 5])),
            sampler=GREEDY if i % 3 == 0 else Sampler(temperature=0.8, top_p=0.9),
            max_new_tokens=0 if i % 5 == 4 else int(rng.integers(1, 20)),
            prompt_logps=i % 5 == 4 or i % 4 == 1,
            top_logps=2,
            stop_ids=(7, 8),
            min_new_tokens=0,
            number=i,
        )
        for i in range(14)
    ]


@pytest.fixture(scope="module")
def alone(model, asked):
    found = Engine(model.params, model.config, prefix_pages=300, **SMALL).generate(asked)
    return {(g.request, g.sample): g for g in found}


@pytest.mark.parametrize(
    ("cache", "pages"), [("dense", 1), pytest.param("pages", 1, marks=pytest.mark.slow), ("pages", 20)]
)
def test_joining_leaving_and_swapping_change_nothing(model, asked, alone, cache, pages):
    rng = np.random.default_rng(pages)
    busy = Engine(model.params, model.config, cache=cache, prefix_pages=pages, **SMALL)
    numbers, gone, ended, left = {}, set(), [], list(rng.permutation(len(asked)))
    while left or busy.busy:
        for _ in range(int(rng.integers(0, 4))):
            if left:
                i = left.pop()
                numbers[busy.submit(asked[i])] = i
        if numbers and rng.random() < 0.1:
            number = int(rng.choice(list(numbers)))
            busy.cancel(number)
            gone.add(number)
        if rng.random() < 0.2:
            busy.update(model.params)
        ended += busy.step()
    assert len(ended) == sum(r.n for r in asked)
    for found in ended:
        want = alone[numbers[found.request], found.sample]
        assert found.reason == want.reason or found.request in gone
        assert found.tokens == want.tokens[: len(found.tokens)]
        np.testing.assert_allclose(found.logps, want.logps[: len(found.tokens)], atol=1e-4)
        if found.prompt_logps is not None:
            np.testing.assert_allclose(found.prompt_logps, want.prompt_logps, atol=1e-4)
    prefixes = busy._flight.prefixes
    assert busy.load.running == busy.load.waiting == 0
    assert prefixes.free + prefixes.nodes == prefixes.pages
    assert not busy._flight.pages._hits
