"""Every shape of need: packed == unpacked, resumed == uninterrupted, cut up and spread == in one go, whatever couples.

Methods that ask the same of the networks share their `encode`, so one of each is run here; the losses of all of them
are in tests/objectives/test_every_method.py. Two programs each: one segment per row in one go, and packed rows in four
microbatches (of which one is empty, and so not computed) on two devices.
"""

import functools

import jax
import numpy as np
import pytest
from contracts.batches import make_examples, packed, unpacked
from contracts.harness import (
    DESCENT,
    SCHEDULE,
    SCORER,
    STEPS,
    assert_learned,
    assert_same,
    drive,
    initial,
    placed,
    run,
    steps,
)
from contracts.needs import configured, kind_of, representatives

from jaxpo.checkpoint.store import CheckpointStore
from jaxpo.objectives.families.tokens import next_token
from jaxpo.train.step import make_step

# The largest programs to compile, and those that others contain (a rollout's, PPO's; a reward model's, Bradley and
# Terry's); what is special about them is tested on small features, packing included (test_reward_methods.py and
# test_plural_methods.py in tests/objectives).
LARGE = (
    "sparsepo", "rrpo", "spo_degree", "tpo_tree", "lddpo", "apo_zero_unpaired", "forward_kl", "mapl", "mapl_reward",
    "secrets_rm", "meta_rm", "rloo", "reinforce_plus_plus", "aot", "dove", "davidson", "rao_kupper", "plackett_luce",
    "outcome_reward", "minillm", "dler", "hapo", "orion", "nash_md", "themis", "pro_orchestrator", "gpm",
    "micro", "micro_router", "rating", "token_classification", "maxmin_rlhf", "embedding_reward",
)  # fmt: skip
CASES = [
    pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in ("next_token", *representatives())
]


@functools.cache
def case(name):
    method = None if name == "next_token" else configured(name)
    objective = method.build(SCORER) if method else next_token(SCORER)
    examples = [make_examples(kind_of(method) if method else "text", 16, seed) for seed in (0, 1)]
    baseline = run(objective, [unpacked(e) for e in examples], method)
    return objective, method, examples, baseline, initial(objective, method)[0]


def whole_or(parts, objective):
    """So many microbatches, or one where the objective needs the whole step."""
    return 1 if objective.needs.whole_step else parts


@pytest.mark.parametrize("name", CASES)
def test_packed_in_microbatches_on_two_devices_equals_unpacked_in_one_and_resumes_bit_for_bit(name, tmp_path):
    """Of the four microbatches one is empty; a state is kept and restored as it lies on the devices."""
    objective, method, examples, baseline, start = case(name)
    assert_learned(baseline, start)
    with placed(objective, method, [packed(e, filled=6) for e in examples], devices=2) as (
        where,
        state,
        frozen,
        batches,
    ):
        step = jax.jit(
            make_step(objective, DESCENT, SCHEDULE, microbatches=whole_or(4, objective)), out_shardings=where
        )
        whole = drive(step, state, frozen, batches)
        assert_same(whole, baseline, start)

        halfway, first = steps(step, state, frozen, batches, 0, 1)
        store = CheckpointStore(tmp_path / "checkpoints")
        store.save(1, halfway, {})
        restored, _ = store.restore(
            None, jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), halfway)
        )
        resumed, rest = steps(step, restored, frozen, batches, 1, STEPS)
    assert first + rest == whole[1]
    for a, b in zip(
        jax.tree.leaves((resumed.params, resumed.carry)),
        jax.tree.leaves((whole[0].params, whole[0].carry)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


@pytest.mark.slow  # above in four, on two devices at once
@pytest.mark.parametrize("name", CASES)
def test_packed_in_eight_microbatches_equals_unpacked_in_one(name):
    objective, method, examples, baseline, start = case(name)
    batches = [packed(e, filled=6) for e in examples]
    assert_same(run(objective, batches, method, microbatches=whole_or(8, objective)), baseline, start)


@pytest.mark.slow  # above on two, in microbatches at once
@pytest.mark.parametrize("name", CASES)
def test_eight_devices_equal_one(name):
    objective, method, examples, baseline, start = case(name)
    assert_same(run(objective, [packed(e) for e in examples], method, devices=8), baseline, start)
