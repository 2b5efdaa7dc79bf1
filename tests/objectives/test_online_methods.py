"""Online DPO, XPO, Nash-MD and MiniLLM as objectives: against float64 numpy on small arrays, and in their limits."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxpo.objectives.families.features import Side, Tokens
from jaxpo.objectives.families.pairs import Pair
from jaxpo.objectives.families.rollouts import Rollouts
from jaxpo.objectives.methods.dpo import DPO
from jaxpo.objectives.methods.grpo import GRPO
from jaxpo.objectives.methods.minillm import MiniLLM
from jaxpo.objectives.methods.nash_md import NashMD
from jaxpo.objectives.methods.online_pairs import XPO, OnlineDPO

N, T = 4, 5
RNG = np.random.default_rng(0)
PRESENT = np.asarray([True, True, True, False])
OWN = np.asarray([1.0, 0.0, 1.0, 1.0])
SUMS = {name: -RNG.gamma(4.0, 2.0, N) for name in ("w", "l", "rw", "rl")}


def side(logps, ref):
    zero = jnp.zeros(N)
    return Side(jnp.asarray(logps), jnp.asarray(ref), zero + 3, zero, zero)


def pair():
    columns = {
        "chosen_score": jnp.asarray([2.0, 1.0, 0.5, 0.0]),
        "rejected_score": jnp.asarray([1.0, -1.0, 0.0, 0.0]),
        "chosen_finished": jnp.ones(N),
        "rejected_finished": jnp.asarray([0.0, 1.0, 1.0, 1.0]),
        "own_chosen": jnp.asarray(OWN),
    }
    return Pair(side(SUMS["w"], SUMS["rw"]), side(SUMS["l"], SUMS["rl"]), jnp.asarray(PRESENT), columns)


def softplus(x):
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def test_online_dpo_is_dpo_on_the_ordered_pair():
    np.testing.assert_allclose(OnlineDPO(beta=0.3).loss(pair()), DPO(beta=0.3).loss(pair()), rtol=1e-6)
    margin = SUMS["w"] - SUMS["rw"] - SUMS["l"] + SUMS["rl"]
    ipo = np.where(PRESENT, (margin - 1 / 0.6) ** 2, 0)
    np.testing.assert_allclose(OnlineDPO(beta=0.3, loss_type="ipo").loss(pair()), ipo, rtol=1e-5)


def test_xpo_adds_the_bonus_of_the_references_answer():
    got = XPO(alpha=0.01).loss(pair())
    margin = SUMS["w"] - SUMS["rw"] - SUMS["l"] + SUMS["rl"]
    other = np.where(OWN > 0, SUMS["l"], SUMS["w"])
    np.testing.assert_allclose(got, np.where(PRESENT, softplus(-0.1 * margin) + 0.01 * other, 0), rtol=1e-5)
    np.testing.assert_allclose(XPO(alpha=0.0).loss(pair()), OnlineDPO().loss(pair()), rtol=1e-6)


def test_metrics_of_pairs_are_trls():
    found = {name: float(m.value()) for name, m in XPO(alpha=0.01).metrics(pair()).items()}
    kl = np.concatenate([(SUMS["w"] - SUMS["rw"])[:3], (SUMS["l"] - SUMS["rl"])[:3]])
    scores = np.asarray([2.0, 1.0, 0.5, 1.0, -1.0, 0.0])
    assert found["objective/kl"] == pytest.approx(kl.mean(), rel=1e-5)
    assert found["objective/non_score_reward"] == pytest.approx(-0.1 * kl.mean(), rel=1e-5)
    assert found["objective/rlhf_reward"] == pytest.approx((scores - 0.1 * kl).mean(), rel=1e-5)
    assert found["objective/scores_margin"] == pytest.approx((1 + 2 + 0.5) / 3)
    assert found["objective/model_scores"] == pytest.approx((2 - 1 + 0.5) / 3)
    assert found["objective/ref_scores"] == pytest.approx((1 + 1 + 0) / 3)
    assert found["val/contain_eos_token"] == pytest.approx(5 / 6)
    assert found["loss/dpo"] + found["loss/xpo"] == pytest.approx(
        float(XPO(alpha=0.01).loss(pair())[:3].mean()), rel=1e-5
    )


LENGTHS = np.asarray([5, 3, 1, 4])
MASK = np.arange(T)[None, :] < LENGTHS[:, None]
LOGPS, REF, TEACHER, STUDENT = (-RNG.gamma(2.0, 1.0, (N, T)) for _ in range(4))
GAIN = np.asarray([0.3, -0.2, 0.5, 0.1])
KL = RNG.gamma(1.0, 1.0, (N, T))


def answers(advantages):
    spread = {"advantages": jnp.asarray(np.where(MASK, advantages, np.nan)), "sampling_logps": jnp.asarray(LOGPS)}
    tokens = Tokens(jnp.asarray(LOGPS), jnp.asarray(REF), jnp.asarray(MASK), jnp.zeros((N, T), bool), spread)
    zero = jnp.zeros(N)
    extra = {"student_logps": STUDENT, "teacher_logps": TEACHER, "reverse_kl": KL}
    extra = {name: jnp.asarray(x) for name, x in extra.items()}
    answer = Side(zero, zero, jnp.asarray(LENGTHS, jnp.float32), zero, zero, rows=tokens)
    return Rollouts(answer, jnp.asarray(LOGPS), jnp.zeros((N, T)), jnp.asarray(PRESENT), {}, extra)


def test_nash_md_weighs_every_token_with_its_log_ratio_and_the_gain():
    x = answers(np.broadcast_to(GAIN[:, None], (N, T)))
    weight = 0.2 * (LOGPS - REF) - GAIN[:, None]
    expected = np.where(PRESENT, np.sum(np.where(MASK, weight * LOGPS, 0), axis=1), 0)
    np.testing.assert_allclose(NashMD(beta=0.2).terms(x, T)["answers"], expected, rtol=1e-5)
    found = {name: float(m.value()) for name, m in NashMD(beta=0.2).metrics(x).items()}
    assert found["rewards/probabilities"] == pytest.approx(GAIN[:3].mean() + 0.5, rel=1e-5)
    assert found["rewards/accuracies"] == pytest.approx(2 / 3)
    assert 0.2 * found["loss/kl"] + found["loss/score"] == pytest.approx(expected[:3].mean(), rel=1e-5)


def returns(gamma):
    """`[N, T]` by sums over what follows, divided by the discounts."""
    gain, found = TEACHER - STUDENT, np.zeros((N, T))
    for n in range(N):
        for t in range(LENGTHS[n]):
            discounts = gamma ** np.arange(LENGTHS[n] - t)
            found[n, t] = np.sum(discounts * gain[n, t : LENGTHS[n]]) / discounts.sum()
    return found


@pytest.mark.parametrize("gamma", [0.0, 0.7])
def test_minillm_is_grpo_on_the_teachers_log_ratios_with_the_whole_divergence(gamma):
    x = answers(np.broadcast_to(GAIN[:, None], (N, T)))
    method = MiniLLM(gamma=gamma, loss_type="dapo", importance_sampling_correction="none")
    on = MASK & PRESENT[:, None]
    # At a ratio of 1 a term is the advantage, less.
    expected = np.sum(np.where(on, KL - GAIN[:, None] - returns(gamma), 0), axis=1)
    np.testing.assert_allclose(method.terms(x, T)["tokens"], expected, rtol=1e-4, atol=1e-5)
    alone = MiniLLM(rkl_advantage=False, loss_type="dapo").terms(x, T)["tokens"]
    plain = GRPO(loss_type="dapo").terms(x, T)["tokens"] + np.sum(np.where(on, KL, 0), axis=1)
    np.testing.assert_allclose(alone, plain, rtol=1e-5)
    apart = MiniLLM(loss_type="grpo").terms(x, T)  # answers and tokens have counts of their own
    assert set(apart) == {"answers", "tokens"}
