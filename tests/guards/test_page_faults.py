"""A step takes its memory in huge pages: a fault per 2 MiB and a few beside, where it would be one per 4 KiB."""

import json
import os
import subprocess
import sys

import pytest

from jaxpo.cli.allocator import OFF, TUNABLES, reason_against, tunables

PLAIN = {name: value for name, value in os.environ.items() if name not in (TUNABLES, OFF)}
STEPS = 4
# Forward and backward of a head whose logits are 64 MiB: a program that is all temporary memory, in few instructions.
SCRIPT = f"""
import json, resource
import jax, jax.numpy as jnp
def loss(w, x):
    return jnp.mean(jax.nn.logsumexp(x @ w, axis=-1) ** 2)
w, x = jnp.ones((8, 8192)), jnp.ones((2048, 8))
step = jax.jit(lambda w, x: w - jax.grad(loss)(w, x), donate_argnums=0).lower(w, x).compile()
w = jax.block_until_ready(step(w, x))
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({STEPS}):
    w = jax.block_until_ready(step(w, x))
after = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(json.dumps([after - before, step.memory_analysis().temp_size_in_bytes]))
"""


@pytest.mark.skipif(reason_against(PLAIN) is not None, reason=f"no huge pages here: {reason_against(PLAIN)}")
def test_a_step_takes_its_memory_in_huge_pages():
    environment = PLAIN | {TUNABLES: tunables({}), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    out = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    faults, temporary = json.loads(out.stdout.splitlines()[-1])
    assert temporary >= 2**26
    # Measured: 16,560 per step without the setting, 145 to 320 with it, where a huge page each would be 32.
    assert faults / STEPS < temporary / 4096 / 20
