"""LCPO's EM over a data set: margins from two networks, posteriors per row, reliabilities per annotator, bad rows."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxpo.construct.base import Tools, constructions
from jaxpo.construct.lcpo import LCPO, read_pairs, summary
from jaxpo.data.rows.formats import Row
from jaxpo.errors import ConfigError, DataError


def sig(z):
    return np.exp(-np.logaddexp(0, -np.asarray(z, np.float64)))


class Written:
    """A network whose log-prob of a completion is written in it: "r -12.5" under this network's sign."""

    def __init__(self, scale=1.0):
        self.scale, self.calls = scale, []

    def logps(self, prompts, completions):
        self.calls.append(list(prompts))
        texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
        return np.asarray([self.scale * float(t.split()[1]) for t in texts])

    def token_counts(self, prompts, completions):
        return np.asarray([len(c) for c in completions])


def row(number, p_w, p_l, **more):
    data = {"prompt": f"q{number}", "chosen": f"w {p_w}", "rejected": f"l {p_l}", **more}
    return Row(Path("pairs.jsonl"), number, data)


def simulated(n=3000, truth=(0.95, 0.3), beta=0.1):
    """Rows with calibrated margins, whose labels are right with their annotator's reliability."""
    rng = np.random.default_rng(0)
    s = rng.normal(0, 2.5, n)
    who = rng.integers(0, len(truth), n)
    right = rng.random(n) < np.asarray(truth)[who]
    s = np.where((rng.random(n) < sig(s)) == right, s, -s)
    names = ("ann", "bob")
    return [row(i, f"{x / beta:.4f}", 0.0, annotator=names[k]) for i, (x, k) in enumerate(zip(s, who, strict=True), 1)]


def tools(reference=True):
    networks = {"model": Written(2.0)} | ({"reference": Written()} if reference else {})
    return Tools(networks=networks)


def test_it_is_found_by_its_name():
    assert constructions()["lcpo"] is LCPO


def test_posteriors_and_reliabilities(capsys):
    rows, given = simulated(), tools()
    out = list(LCPO().run(rows, given))
    assert len(out) == len(rows)
    assert [o["prompt"] for o in out] == [r.data["prompt"] for r in rows]
    assert all(r.data.items() <= o.items() for o, r in zip(out, rows, strict=True))
    json.dumps(out, allow_nan=False)
    s = np.array([float(r.data["chosen"].split()[1]) * 0.1 for r in rows])  # P = 2x, R = x
    w = np.array([o["posterior"] for o in out])
    printed = capsys.readouterr().out.splitlines()
    assert "by annotator" in printed[0]
    assert "not converged" not in printed[0]
    first = rows[0].data["annotator"]
    assert printed[1].split()[0] == first  # in the order of appearance, as training numbers annotators
    found = {line.split()[0]: (float(line.split()[1]), int(line.split()[2])) for line in printed[1:]}
    for name, truth in (("ann", 0.95), ("bob", 0.3)):
        mine = np.array([r.data["annotator"] == name for r in rows])
        eta, count = found[name]
        assert count == mine.sum()
        np.testing.assert_allclose(eta, truth, atol=0.05)
        np.testing.assert_allclose(w[mine].mean(), eta, atol=1e-3)  # the fixed point of the M step
        odds = np.log(eta / (1 - eta))
        np.testing.assert_allclose(w[mine], sig(s[mine] + odds), atol=2e-3)
    assert given.counts["labels_probably_wrong"] == np.sum(w < 0.5)


def test_rows_can_be_dropped():
    rows, given = simulated(200), tools()
    kept = list(LCPO(drop_below=0.5).run(rows, given))
    assert 0 < len(kept) < 200
    assert all(o["posterior"] >= 0.5 for o in kept)
    assert given.counts["dropped_below_posterior"] == 200 - len(kept) == given.counts["labels_probably_wrong"]


@pytest.mark.parametrize("base", ["dpo", "ipo", "simpo", "cpo"])
def test_margins_of_the_bases(base):
    records = read_pairs([row(1, -12.0, -20.0), row(2, -7.0, -5.0)])
    got = LCPO(base=base, beta=0.5, simpo_gamma=0.3).margins(records, tools(base in ("dpo", "ipo")))
    p_w, p_l = np.array([-24.0, -14.0]), np.array([-40.0, -10.0])
    delta = (p_w - p_w / 2) - (p_l - p_l / 2)
    d = 0.5 * (p_w / np.array([7, 6]) - p_l / np.array([7, 6]))  # "w -12.0" has 7 characters
    sp = lambda z: np.logaddexp(0, z)  # noqa: E731
    expected = {"dpo": 0.5 * delta, "ipo": 4 * delta, "simpo": sp(d + 0.3) - sp(0.3 - d), "cpo": 1.5 * (p_w - p_l)}
    np.testing.assert_allclose(got, expected[base], rtol=1e-5)


def test_one_annotator_and_messages():
    data = {
        "prompt": [{"role": "user", "content": "q"}],
        "chosen": [{"role": "assistant", "content": "w -1"}],
        "rejected": [{"role": "assistant", "content": "l -2"}],
    }
    (out,) = LCPO().run([Row(Path("chat.jsonl"), 1, data)], tools())
    assert out["chosen"] == data["chosen"]
    assert 0 < out["posterior"] < 1


def test_what_is_missing_is_named():
    with pytest.raises(ConfigError, match="needs a reference; give --reference"):
        list(LCPO().run([row(1, -1, -2)], tools(reference=False)))
    with pytest.raises(ConfigError, match="needs a model; give --model"):
        list(LCPO().run([row(1, -1, -2)], Tools()))
    with pytest.raises(DataError, match=r"row 2.*annotator"):
        list(LCPO().run([row(1, -1, -2, annotator="a"), row(2, -1, -2)], tools()))
    unpaired = Row(Path("x.jsonl"), 1, {"prompt": "q", "completion": "a", "label": True})
    with pytest.raises(DataError, match=r"row 1: type 'unpaired' holds no pair"):
        list(LCPO().run([unpaired], tools()))


@pytest.mark.parametrize(("settings", "flag"), [({"eta": 1.0}, "--eta"), ({"beta": 0.0}, "--beta"),
                                                ({"drop_below": 1.5}, "--drop-below")])  # fmt: skip
def test_options_out_of_range(settings, flag):
    with pytest.raises(ConfigError, match=flag):
        list(LCPO(**settings).run([row(1, -1, -2)], tools()))


def test_a_search_that_did_not_end_says_so():
    (title, line) = summary(["all"], np.zeros(3, int), np.array([0.7]), 10_000)
    assert "not converged after 10000 iterations" in title
    assert line.split() == ["all", "0.700", "3", "pairs"]
