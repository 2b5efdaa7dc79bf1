"""One process of several that generate together: `engine_peer.py OUT`; the first one writes what all of them got."""

import dataclasses
import json
import sys

from jaxpo.sharding.liveness import together
from jaxpo.sharding.multihost import start_processes

line = start_processes()

import jax  # noqa: E402
import numpy as np  # noqa: E402
from sampling.conftest import CONFIG, randomised  # noqa: E402

from jaxpo.sampling.engine import Engine  # noqa: E402
from jaxpo.sampling.request import Request  # noqa: E402
from jaxpo.sampling.sampler import GREEDY, Sampler  # noqa: E402
from jaxpo.sharding import make_mesh  # noqa: E402

CONFIG = dataclasses.replace(CONFIG, vocab_size=64)


def requests():
    rng = np.random.default_rng(0)
    return [
        Request(rng.integers(1, 61, int(n)).tolist(), n=2, sampler=s, max_new_tokens=8, stop_ids=(60,), number=i)
        for i, (n, s) in enumerate(
            zip(rng.integers(1, 40, 6), [GREEDY, Sampler(), Sampler(top_p=0.9)] * 2, strict=True)
        )
    ]


def work():
    params = jax.tree.map(np.asarray, randomised(CONFIG))
    engine = Engine(
        params, CONFIG, slots=4, context=64, page=8, together=32, mesh=make_mesh({"fsdp": jax.device_count()})
    )
    found = engine.generate(requests()[:3])
    assert engine.update(jax.tree.map(np.asarray, randomised(CONFIG, seed=5))) == 1
    found += engine.generate(requests()[3:])
    if jax.process_index() == 0:
        with open(sys.argv[1], "w") as f:
            json.dump([[g.tokens, g.logps.tolist(), g.versions.tolist()] for g in found], f)
    return 0


sys.exit(together(line, work))
