"""FSPO as an objective: the loss of a step, its mean over users, and what it asks for."""

import numpy as np
import pytest
from objectives.feature_checks import ArrayScorer, Runner, lay_out, segments

from jaxpo import losses
from jaxpo.objectives.methods import METHODS

USERS = np.int32([0, 1, 0, 0, 0])


def batch_of():
    flat = segments(8, seed=2)
    batch, params, reference = lay_out(
        [tuple(flat[2 * i : 2 * i + 2]) for i in range(4)] + [None], {"chosen": 0, "rejected": 1}, {"user": USERS}
    )
    return batch, params, reference


def sums(name):
    found = [data[name][q:].sum(dtype=np.float64) for q, data in segments(8, seed=2)]
    return np.float32(found[::2]), np.float32(found[1::2])


@pytest.mark.parametrize("form", ["ipo", "dpo"])
def test_the_step_is_the_mean_over_pairs_or_over_users(form):
    terms = np.asarray(losses.fspo(*sums("logps"), *sums("ref_logps"), form=form, beta=0.1), np.float64)
    for balance, mean in ((False, terms.mean()), (True, (terms[[0, 2, 3]].mean() + terms[1]) / 2)):
        method = METHODS["fspo"](form=form, beta=0.1, balance_users=balance)
        out, _ = Runner(method.build(ArrayScorer()))(*batch_of())
        np.testing.assert_allclose(out.loss, mean, rtol=1e-5)


def test_balance_couples_the_step_and_reads_users_old_and_new():
    plain, balanced = METHODS["fspo"](), METHODS["fspo"](balance_users=True)
    assert (plain.build(ArrayScorer()).coupled, balanced.build(ArrayScorer()).coupled) == (False, True)
    assert (plain.NEEDS.columns, balanced.NEEDS.columns, balanced.NEEDS.new_names) == ((), ("user",), ("user",))
    assert "ipo has none" in METHODS["fspo"](label_smoothing=0.1).problems()[0]
